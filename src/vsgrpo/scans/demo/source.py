"""The embedded source: procedural furnished rooms written as complete ScanNet-format scan folders.

They are read back by the same reader as real scans: mesh, segments, aggregation, `.txt` with an axis alignment that is
not the identity, and a `.sens` whose pictures come from a ray caster. Nothing is downloaded and everything follows from
(seed, index, preset). Scan ids start with "demo", so that lists of real scans never meet them.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vsgrpo.errors import DataError
from vsgrpo.rules import Count, Seed, at_least, choice
from vsgrpo.scans.demo.furniture import CATALOGUE
from vsgrpo.scans.demo.mesh import room_mesh
from vsgrpo.scans.demo.plan import room_truth
from vsgrpo.scans.demo.rooms import PRESETS, Room, room_index, scan_id_of
from vsgrpo.scans.labels import LABEL_FILE
from vsgrpo.scans.scannet import ScannetScan, labels_of, read_scan
from vsgrpo.scans.scannet_writer import write_labels, write_scan
from vsgrpo.scans.source import ScanSource, SourceOptions
from vsgrpo.scans.walk.raycast import camera_matrix, camera_poses, render

_VERSION = 2
"""Raise when the same arguments give other files, so that rooms already on disk are written anew."""


@dataclass(frozen=True)
class DemoOptions(SourceOptions):
    """Rooms to draw; root null: OUT/scans_root."""

    num_scenes: Count
    preset: Annotated[str, choice(*PRESETS)]
    seed: Seed
    num_frames: Count
    frame_size: Annotated[int, at_least(28)]


def write_rooms(
    root: Path,
    num_scenes: int,
    preset: str = "easy",
    seed: int = 0,
    *,
    num_frames: int = 8,
    height: int = 56,
    width: int = 56,
) -> list[str]:
    """Write rooms 0 to `num_scenes` - 1 of `seed` under `root/scans` with their label table; return the scan ids.

    Scan ids are `demo<number>_00`, number = seed * 10000 + index in at least six digits, so no two pairs share one.
    Rooms that are complete on disk are left as they are; half-written or otherwise made ones are written anew.

    Raises:
        ConfigError: unknown preset, negative seed or more than 10000 rooms.
        DataError: `root` holds a label table that is not ours.
    """
    write_demo_labels(root)
    size = {"num_frames": num_frames, "height": height, "width": width}
    return [write_room(root, index, preset, seed, **size) for index in range(num_scenes)]


def write_demo_labels(root: Path) -> None:
    """Write the label table of the demo categories to `root`, which must be new or ours.

    Raises:
        DataError: `root` holds another label table, as a folder of real scans does.
    """
    path = Path(root) / LABEL_FILE
    if path.exists():
        with path.open(encoding="utf-8") as file:
            known = {line.split("\t")[1] for line in file.readlines()[1:] if "\t" in line}
        if not known <= _labels().keys():
            raise DataError(
                f"{path}: is the label table of other scans, demo rooms would replace it",
                hint="give demo rooms a folder of their own (source.root)",
            )
    write_labels(Path(root), _labels())


def write_room(
    root: Path,
    index: int,
    preset: str = "easy",
    seed: int = 0,
    *,
    num_frames: int = 8,
    height: int = 56,
    width: int = 56,
) -> str:
    """Write one room to `root/scans/<scan id>` unless it is there; return the scan id. Safe to call from a pool."""
    room = room_truth(seed, index, preset)
    folder = Path(root) / "scans" / room.scan_id
    recipe = f"{preset} seed={seed} index={index} frames={num_frames} size={width}x{height} version={_VERSION}"
    info = folder / f"{room.scan_id}.txt"
    if info.exists():
        if f"demoRecipe = {recipe}\n" in info.read_text(encoding="utf-8"):
            return room.scan_id
        info.unlink()  # the writer's sign of a complete folder, which this one stops being
    mesh = room_mesh(room)
    write_scan(
        folder,
        vertices=_to_raw(room, mesh.vertices).astype(np.float32),
        colors=mesh.colors,
        faces=mesh.faces,
        instances=mesh.instances,
        axis_alignment=room.alignment,
        info={"demoRecipe": recipe},
        sens_frames=_sens_frames(room, num_frames, height, width),
        color_size=(width, height),
        intrinsic_color=camera_matrix(height, width, room.preset.hfov_degrees),
    )
    return room.scan_id


def _labels() -> dict[str, int]:
    return {"wall": 1, "floor": 2} | {name: piece.nyu40id for name, piece in CATALOGUE.items()}


def _to_raw(room: Room, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Undo the alignment q = R p + t of points (N, 3): p = R^T (q - t)."""
    return (points - room.alignment[:3, 3]) @ room.alignment[:3, :3]


def _sens_frames(room: Room, num_frames: int, height: int, width: int) -> Iterator[tuple[bytes, NDArray[np.float64]]]:
    """Yield (JPEG, camera -> raw pose) per frame; few large frames are rendered at a time to bound memory."""
    poses = camera_poses(room, num_frames)
    to_raw = np.linalg.inv(room.alignment)
    batch = max(1, 200_000 // (height * width))
    for first in range(0, num_frames, batch):
        chunk = poses[first : first + batch]
        for picture, pose in zip(render(room, chunk, height, width).rgb, chunk, strict=True):
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, "JPEG", quality=95, subsampling=0)
            yield buffer.getvalue(), to_raw @ pose


def _list(options: DemoOptions, root: Path) -> list[str]:
    write_demo_labels(root)
    return [scan_id_of(options.seed, index) for index in range(options.num_scenes)]


def _read(options: DemoOptions, root: Path, scan_id: str) -> ScannetScan:
    size = {"num_frames": options.num_frames, "height": options.frame_size, "width": options.frame_size}
    write_room(root, room_index(scan_id), options.preset, options.seed, **size)
    return read_scan(root, scan_id, labels_of(root), dataset="demo")


DEMO = ScanSource(name="demo", options=DemoOptions, list_scans=_list, read=_read, files=lambda root, scan_id: ())
