"""Write scans in ScanNet++'s format whose every answer is known, for tests and for bench_build_data.py.

`write_scan` is the format: both releases of segments, boxes whose second row points up, depth.bin in its forms.
`write_full_scene` makes a room of real size: a million vertices, 60 objects.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from full_scan import Truth, full_room
from vsgrpo.scans.ply import ply_bytes
from vsgrpo.scans.source import Mesh
from vsgrpo.spatial.scene import Box

TOP_UP = [[1, 2, 0], [0, 1, 2]]
"""Order of the axes of an upright box (width, depth, height): row 1 up, as most of the real ones are, and row 2 up."""


def write_scan(
    root: Path,
    scan_id: str,
    mesh: Mesh,
    groups: Sequence[tuple[str, NDArray[np.integer], Box | None]],
    *,
    split: str = "nvs_sem_train",
    segments: str = "vertices",
) -> Path:
    """Write `root/data/<scan_id>/scans` and add the scan to a list; return the folder of the scan.

    Args:
        groups: (label, vertices, box or None) in file order; a vertex may be in several.
        segments: "vertices" (segIndices is 0..V-1), "real" (over-segments of the older release) or "none" (no file).
    """
    folder = Path(root) / "data" / scan_id
    (folder / "scans").mkdir(parents=True)
    (folder / "scans/mesh_aligned_0.05.ply").write_bytes(ply_bytes(mesh))
    number = len(mesh.vertices)
    ids = np.arange(number) if segments != "real" else _over_segments(number, [vertices for _, vertices, _ in groups])
    if segments != "none":
        document = {"params": {}, "sceneId": scan_id, "segIndices": ids.tolist()}
        (folder / "scans/segments.json").write_text(json.dumps(document))
    entries = [
        {
            "id": place,
            "objectId": place + 1,
            "label": label,
            "segments": np.unique(ids[vertices]).tolist(),
            **({} if box is None else {"obb": obb(box, TOP_UP[place % 5 == 4])}),
        }
        for place, (label, vertices, box) in enumerate(groups)
    ]
    document = {"sceneId": "scannetpp.2023-01-01", "appId": "stk.v1", "annId": "0", "segGroups": entries}
    (folder / "scans/segments_anno.json").write_text(json.dumps(document))
    list_scan(root, scan_id, split)
    return folder


def list_scan(root: Path, scan_id: str, split: str = "nvs_sem_train") -> None:
    """Add a scan to ROOT/splits/<split>.txt."""
    path = Path(root) / "splits" / f"{split}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(scan_id + "\n")


def obb(box: Box, order: Sequence[int] = (1, 2, 0)) -> dict[str, Any]:
    """Return a box as segments_anno.json has it: its axes are the rows of normalizedAxes, in another order."""
    axes, lengths = box.axes[list(order)], box.axes_lengths[list(order)]
    numbers = {"centroid": box.centroid, "axesLengths": lengths, "normalizedAxes": axes, "min": box.min, "max": box.max}
    return {name: value.ravel().tolist() for name, value in numbers.items()}


def _over_segments(number: int, groups: Sequence[NDArray[np.integer]]) -> NDArray[np.int64]:
    """Return sparse ids of runs of 20 vertices that no border of a group cuts."""
    kind = np.zeros(number, dtype=np.int64)
    for place, vertices in enumerate(groups, start=1):
        kind[vertices] = kind[vertices] * 1009 + place
    starts = np.concatenate([[True], kind[1:] != kind[:-1]])
    run = np.cumsum(starts) - 1
    within = np.arange(number) - np.flatnonzero(starts)[run]
    _, segment = np.unique(np.stack([run, within // 20], axis=1), axis=0, return_inverse=True)
    return 7 * segment.ravel() + 3


# --- iphone/ ---


def write_poses(folder: Path, poses: Sequence[NDArray[np.floating] | None], intrinsic: NDArray[np.floating]) -> None:
    """Write iphone/pose_intrinsic_imu.json: an entry per frame, without aligned_pose where the pose is None.

    Args:
        folder: of the scan.
        intrinsic: (3, 3) for pictures of 1920 x 1440.
    """
    raw = np.diag([1.0, 1.0, 1.0, 1.0])  # the phone's own frame: not the mesh's
    entries = {
        f"frame_{number:06d}": {
            "pose": raw.tolist(),
            **({} if pose is None else {"aligned_pose": np.asarray(pose).tolist()}),
            "intrinsic": np.asarray(intrinsic).tolist(),
            "timestamp": number / 60,
        }
        for number, pose in enumerate(poses)
    }
    path = folder / "iphone/pose_intrinsic_imu.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(entries))


def depth_bin(depths: Sequence[NDArray[np.floating]], form: str) -> bytes:
    """Return depth.bin of images (192, 256) in metres, in one of its forms: "stream", "deflate" or "lz4"."""
    if form == "stream":
        return _deflated(b"".join(image.astype("<f4").tobytes() for image in depths))
    payloads = [
        _deflated(image.astype("<f4").tobytes()) if form == "deflate" else lz4_literals(_millimetres(image))
        for image in depths
    ]
    return b"".join(struct.pack("<I", len(payload)) + payload for payload in payloads)


def _millimetres(image: NDArray[np.floating]) -> bytes:
    return np.rint(1000 * image).astype("<u2").tobytes()


def _deflated(content: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(content) + packer.flush()


def lz4_literals(content: bytes) -> bytes:
    """Return an LZ4 block that repeats nothing: one sequence of literals. Source: lz4 block format description."""
    rest = len(content) - 15
    return b"\xf0" + b"\xff" * (rest // 255) + bytes([rest % 255]) + content


# --- a room of real size ---


def write_full_scene(root: Path, scan_id: str, num_vertices: int = 1_000_000, num_objects: int = 60) -> Truth:
    """Write a room like those of full_scan.py, floor and walls without obb; the same id gives the same files."""
    rng = np.random.default_rng([int(scan_id, 16), num_vertices, num_objects])
    vertices, faces, instances, objects, size = full_room(rng, num_vertices, num_objects, 0.002, 3)
    boxes = [None] * (len(instances) - len(objects)) + [box for _, box in objects]
    groups = [(label, own, box) for (label, own), box in zip(instances, boxes, strict=True)]
    colors = rng.integers(60, 200, (len(vertices), 3)).astype(np.uint8)
    write_scan(root, scan_id, Mesh(vertices.astype(np.float32), colors, faces), groups)
    return Truth(scan_id, float(size.prod()), tuple(objects), 0.002)
