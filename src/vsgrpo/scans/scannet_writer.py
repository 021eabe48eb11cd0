"""Write a scan the way ScanNet v2 lays it out, so that made-up rooms take the same way in as real ones.

Files of `<folder>/<id>...`: `_vh_clean_2.ply`, `_vh_clean_2.0.010000.segs.json`, `.aggregation.json`, `.sens` (where
frames are given) and `.txt`, the last to appear: a folder that has its `.txt` is complete.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from vsgrpo.scans.ply import ply_bytes
from vsgrpo.scans.sens import FRAME, INVALID_POSE, SIZES, VERSION
from vsgrpo.scans.source import Mesh

LABEL_COLUMNS = [
    "id",
    "raw_category",
    "category",
    "count",
    "nyu40id",
    "eigen13id",
    "nyuClass",
    "nyu40class",
    "eigen13class",
    "ModelNet40",
    "ModelNet10",
    "ShapeNetCore55",
    "synsetoffset",
    "wnsynsetid",
    "wnsynsetkey",
    "mpcat40",
    "mpcat40index",
]


def write_scan(
    folder: Path,
    *,
    vertices: NDArray[np.float32],
    colors: NDArray[np.uint8],
    faces: NDArray[np.int32],
    instances: Sequence[tuple[str, NDArray[np.integer]]],
    axis_alignment: NDArray[np.floating] | None = None,
    info: dict[str, str] | None = None,
    sens_frames: Iterable[tuple[bytes, NDArray[np.floating] | None]] | None = None,
    color_size: tuple[int, int] = (640, 480),
    intrinsic_color: NDArray[np.floating] | None = None,
) -> None:
    """Write one scan folder; its name is the scan id. Each file is written aside and renamed.

    Args:
        vertices: (V, 3) metres, the RAW frame (before `axis_alignment`), z up.
        colors: (V, 3).
        faces: (F, 3) vertex indices.
        instances: (label, vertex indices) pairs in objectId order; disjoint. An empty one is written as a group
            whose segment no vertex has.
        axis_alignment: (4, 4) raw -> aligned; None leaves the line out, as the old annotation does.
        info: further lines of the `.txt`.
        sens_frames: (JPEG bytes, (4, 4) pose camera -> RAW world or None where tracking failed).
        color_size: (width, height) of the JPEGs.
        intrinsic_color: (4, 4) pinhole matrix; needed with `sens_frames`.

    Raises:
        ValueError: two instances share a vertex, or frames come without `intrinsic_color`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / folder.name
    lines = {"sceneType": "Demo", **(info or {})}
    _write_bytes(f"{stem}_vh_clean_2.ply", ply_bytes(Mesh(vertices, colors, faces)))
    segments, groups = _segment(len(vertices), instances)
    _write_bytes(f"{stem}_vh_clean_2.0.010000.segs.json", _segs_json(folder.name, segments))
    _write_bytes(f"{stem}.aggregation.json", _aggregation_json(folder.name, instances, groups))
    if sens_frames is not None:
        if intrinsic_color is None:
            raise ValueError("sens_frames need intrinsic_color")
        with SensWriter(Path(f"{stem}.sens"), color_size, intrinsic_color) as writer:
            for jpeg, pose in sens_frames:
                writer.add(jpeg, pose)
        lines |= _camera_lines(color_size, intrinsic_color, writer.num_frames)
    if axis_alignment is not None:
        numbers = np.asarray(axis_alignment, dtype=np.float64).reshape(16).tolist()
        lines["axisAlignment"] = " ".join(repr(number) for number in numbers)
    _write_bytes(f"{stem}.txt", "".join(f"{key} = {value}\n" for key, value in sorted(lines.items())).encode())


def write_labels(root: Path, categories: dict[str, int]) -> None:
    """Write `root/scannetv2-labels.combined.tsv` with one row per raw category -> nyu40 id, other columns empty."""
    rows = [LABEL_COLUMNS]
    for number, (name, nyu40id) in enumerate(categories.items(), start=1):
        cells = dict.fromkeys(LABEL_COLUMNS, "")
        cells |= {"id": str(number), "raw_category": name, "category": name, "nyu40id": str(nyu40id)}
        rows.append(list(cells.values()))
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    text = "".join("\t".join(row) + "\n" for row in rows)
    _write_bytes(str(root / "scannetv2-labels.combined.tsv"), text.encode())


def _segment(
    num_vertices: int, instances: Sequence[tuple[str, NDArray[np.integer]]]
) -> tuple[NDArray[np.int64], list[list[int]]]:
    """Cut vertices into over-segments: two per instance, the rest in runs of 200; ids are sparse, as in ScanNet."""
    segments = np.full(num_vertices, -1, dtype=np.int64)
    groups: list[list[int]] = []
    next_id = 3
    for label, indices in instances:
        if (segments[indices] >= 0).any():
            raise ValueError(f"instance {len(groups)} ({label}) shares a vertex with an earlier one")
        half = (len(indices) + 1) // 2
        segments[indices[:half]] = next_id
        segments[indices[half:]] = next_id + 5
        groups.append([next_id, next_id + 5] if len(indices) > 1 else [next_id])
        next_id += 11
    rest = np.flatnonzero(segments < 0)
    segments[rest] = next_id + 7 * (np.arange(len(rest)) // 200)
    return segments, groups


def _segs_json(scan_id: str, segments: NDArray[np.int64]) -> bytes:
    document = {
        "params": {"kThresh": "0.0001", "segMinVerts": "20", "minPoints": "750", "maxPoints": "30000"},
        "sceneId": scan_id,
        "segIndices": segments.tolist(),
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _aggregation_json(
    scan_id: str, instances: Sequence[tuple[str, NDArray[np.integer]]], groups: list[list[int]]
) -> bytes:
    entries = [
        {"id": number, "objectId": number, "segments": ids, "label": label}
        for number, ((label, _), ids) in enumerate(zip(instances, groups, strict=True))
    ]
    document = {
        "sceneId": f"scannet.{scan_id}",
        "appId": "Aggregator.v2",
        "segGroups": entries,
        "segmentsFile": f"scannet.{scan_id}_vh_clean_2.0.010000.segs.json",
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _camera_lines(
    color_size: tuple[int, int], intrinsic_color: NDArray[np.floating], num_frames: int
) -> dict[str, str]:
    matrix = np.asarray(intrinsic_color, dtype=np.float64)
    numbers = {
        "colorWidth": color_size[0],
        "colorHeight": color_size[1],
        "numColorFrames": num_frames,
        "fx_color": float(matrix[0, 0]),
        "fy_color": float(matrix[1, 1]),
        "mx_color": float(matrix[0, 2]),
        "my_color": float(matrix[1, 2]),
    }
    return {key: str(value) for key, value in numbers.items()}


def _write_bytes(path: str, content: bytes) -> None:
    part = path + ".part"
    with open(part, "wb") as file:
        file.write(content)
    os.replace(part, path)


class SensWriter:
    """Write a `.sens` v4 frame by frame; the file appears under its name only when complete.

    Args:
        path: file to write.
        color_size: (width, height) of the JPEGs.
        intrinsic_color: (4, 4) pinhole matrix of the colour camera.
        depth_size: (width, height) of depth images, (0, 0) where frames carry none.
    """

    def __init__(
        self,
        path: Path,
        color_size: tuple[int, int],
        intrinsic_color: NDArray[np.floating],
        depth_size: tuple[int, int] = (0, 0),
        intrinsic_depth: NDArray[np.floating] | None = None,
        sensor: str = "StructureSensor",
        depth_shift: float = 1000.0,
    ) -> None:
        self.path = Path(path)
        self.num_frames = 0
        self._part = self.path.with_name(self.path.name + ".part")
        self._file = self._part.open("wb")
        identity = np.eye(4)
        name = sensor.encode()
        self._file.write(struct.pack("<IQ", VERSION, len(name)) + name)
        for matrix in (intrinsic_color, identity, identity if intrinsic_depth is None else intrinsic_depth, identity):
            self._file.write(np.asarray(matrix, dtype="<f4").reshape(4, 4).tobytes())
        self._count_offset = self._file.tell() + SIZES.size - 8
        self._file.write(SIZES.pack(2, 1, *color_size, *depth_size, depth_shift, 0))

    def add(
        self,
        jpeg: bytes,
        pose: NDArray[np.floating] | None,
        depth: NDArray[np.uint16] | None = None,
        time_us: int = 0,
    ) -> None:
        """Append one frame: JPEG bytes, pose (4, 4) camera -> world (None where tracking failed), depth (H, W)."""
        pose_bytes = np.asarray(INVALID_POSE if pose is None else pose, dtype="<f4").reshape(4, 4).tobytes()
        depth_bytes = b"" if depth is None else zlib.compress(np.asarray(depth, dtype="<u2").tobytes())
        self._file.write(FRAME.pack(pose_bytes, time_us, time_us, len(jpeg), len(depth_bytes)) + jpeg + depth_bytes)
        self.num_frames += 1

    def close(self) -> None:
        """Write the empty IMU block and the frame count, then give the file its name."""
        self._file.write(struct.pack("<Q", 0))
        self._file.seek(self._count_offset)
        self._file.write(struct.pack("<Q", self.num_frames))
        self._file.close()
        os.replace(self._part, self.path)

    def __enter__(self) -> SensWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
            return
        self._file.close()
        self._part.unlink(missing_ok=True)
