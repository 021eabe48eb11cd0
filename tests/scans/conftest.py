"""A made-up scan of known geometry, written in ScanNet's format."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from vsgrpo.scans.annotation import write_labels
from vsgrpo.scans.demo.source import write_scan
from vsgrpo.scans.source import Mesh

SCAN_ID = "scene9000_00"
LABELS = {"wall": 1, "floor": 2, "bed": 4, "chair": 5, "office chair": 5, "table": 7, "lamp": 35, "stove": 38}


def yaw_matrix(degrees: float, shift=(0.0, 0.0, 0.0)) -> np.ndarray:
    """Return (4, 4): turn about z, then shift."""
    angle = np.deg2rad(degrees)
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:3, 3] = shift
    return matrix


def cuboid(center, size, degrees: float = 0.0, step: float = 0.05) -> np.ndarray:
    """Return points (N, 3) on the surface of a box, corners included."""
    axes = [np.linspace(-0.5, 0.5, max(2, int(np.ceil(edge / step)) + 1)) for edge in size]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    grid = grid[(np.abs(grid) == 0.5).any(axis=1)]
    return (grid * size) @ yaw_matrix(degrees)[:3, :3].T + center


def l_shaped_floor(step: float = 0.04) -> np.ndarray:
    """Return a floor grid (N, 3) of 5 x 4 m less a 2 x 2 m corner: 16 square metres."""
    xy = np.stack(np.meshgrid(np.arange(0, 5 + 1e-9, step), np.arange(0, 4 + 1e-9, step)), axis=-1).reshape(-1, 2)
    xy = xy[(xy[:, 0] <= 3) | (xy[:, 1] <= 2)]
    return np.column_stack([xy, np.zeros(len(xy))])


@dataclass
class Room:
    """Points per labelled object in the ALIGNED frame; `write` turns them back by the alignment."""

    root: Path
    objects: list[tuple[str, np.ndarray]] = field(default_factory=list)
    alignment: np.ndarray | None = field(default_factory=lambda: yaw_matrix(30.0, (-1.0, 2.0, 0.1)))

    def write(self, scan_id: str = SCAN_ID, **options) -> Path:
        """Write the scan under `root` and return its folder."""
        points = np.concatenate([points for _, points in self.objects])
        to_raw = np.eye(4) if self.alignment is None else np.linalg.inv(self.alignment)
        ends = np.cumsum([len(points) for _, points in self.objects])
        spans = zip(ends - [len(points) for _, points in self.objects], ends, strict=True)
        instances = [(label, np.arange(*span)) for (label, _), span in zip(self.objects, spans, strict=True)]
        folder = self.root / "scans" / scan_id
        mesh = Mesh(
            vertices=(points @ to_raw[:3, :3].T + to_raw[:3, 3]).astype(np.float32),
            colors=np.full((len(points), 3), 90, dtype=np.uint8),
            faces=np.arange(len(points) // 3 * 3, dtype=np.int32).reshape(-1, 3),
        )
        write_scan(folder, mesh, instances, axis_alignment=self.alignment, **options)
        write_labels(self.root, LABELS)
        return folder


@pytest.fixture
def room(tmp_path) -> Room:
    """An L-shaped room of 16 m2 with a bed (2.0 x 1.5 x 0.5, turned by 20 degrees) and two chairs."""
    objects = [
        ("floor", l_shaped_floor()),
        ("bed", cuboid((1.5, 1.5, 0.25), (2.0, 1.5, 0.5), degrees=20.0)),
        ("chair", cuboid((4.0, 1.0, 0.45), (0.5, 0.5, 0.9))),
        ("chair ", cuboid((1.0, 3.5, 0.45), (0.5, 0.5, 0.9), degrees=45.0)),
    ]
    return Room(tmp_path / "root", objects)


def small_jpeg(number: int) -> bytes:
    """Return bytes that start and end as a JPEG does."""
    return b"\xff\xd8" + bytes([number]) * (20 + number) + b"\xff\xd9"


@pytest.fixture
def sens_frames():
    """Three frames: two good poses and one that tracking lost."""
    return [(small_jpeg(0), yaw_matrix(10.0, (1.0, 1.0, 1.5))), (small_jpeg(1), None), (small_jpeg(2), np.eye(4))]
