"""Write scans in ARKitScenes' format whose every answer is known, for tests and for bench_arkitscenes.py.

`write_scan` and `write_picture` are the format: boxes by rows, poses world -> camera as axis and angle, depth in
millimetres, times in file names. `write_full_scene` makes a room of real size and films it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from full_scan import Truth, full_room
from vsgrpo.scans.ply import ply_bytes
from vsgrpo.scans.source import Mesh
from vsgrpo.scans.walk.rasterizer import Camera, Surface
from vsgrpo.spatial.scene import Box
from vsgrpo.tables import arkitscenes_classes

FLOOR = -1.3
"""Metres: where the floor of made-up rooms is; the origin is where a device was switched on."""


def annotation(things: Iterable[tuple[str, Box]], **changes: object) -> dict:
    """Return the annotation of (label, box); `normalizedAxes` are rows, and `obb` is another box nobody must read."""
    other = {"centroid": [9, 9, 9], "axesLengths": [9, 9, 9], "normalizedAxes": np.eye(3).ravel().tolist()}
    data = [
        {
            "uid": f"uid-{number}",
            "label": label,
            "objectId": number + 1,
            "modelId": "",
            "children": [],
            "segments": {
                "obb": other,
                "obbAligned": {
                    "centroid": box.centroid.tolist(),
                    "axesLengths": box.axes_lengths.tolist(),
                    "normalizedAxes": box.axes.ravel().tolist(),
                },
            },
            "hierarchy": [],
            "isInGroup": False,
            "labelType": "object",
            "attributes": {},
        }
        for number, (label, box) in enumerate(things)
    ]
    return {"data": data, "skipped": False, "stats": {}, "comment": "", **changes}


def write_scan(
    root: Path,
    video: str,
    mesh: Mesh,
    things: Iterable[tuple[str, Box]],
    *,
    layout: str = "3dod",
    fold: str = "Training",
    **changes: object,
) -> Path:
    """Write mesh and annotation of a video; return its folder. `changes` replace keys of the annotation."""
    folder = Path(root) / layout / fold / video
    folder.mkdir(parents=True)
    (folder / f"{video}_3dod_mesh.ply").write_bytes(ply_bytes(mesh))
    (folder / f"{video}_3dod_annotation.json").write_text(json.dumps(annotation(things, **changes)))
    return folder


def frames_folder(folder: Path) -> Path:
    """Return where the pictures of a video lie: its own folder in `raw`, one inside in `3dod`."""
    return folder if folder.parents[1].name == "raw" else folder / f"{folder.name}_frames"


def write_picture(
    folder: Path,
    time: float,
    color: NDArray[np.uint8],
    depth: NDArray[np.floating],
    matrix: NDArray[np.floating],
    kind: str = "lowres_wide",
) -> None:
    """Write one picture of a video as its device stores it: colour, depth in metres, pinhole matrix (3, 3)."""
    place, name = frames_folder(folder), f"{folder.name}_{time:.3f}"
    for part in (kind, f"{kind}_intrinsics", "lowres_depth"):
        (place / part).mkdir(parents=True, exist_ok=True)
    (place / kind / f"{name}.png").write_bytes(png(color))
    (place / "lowres_depth" / f"{name}.png").write_bytes(png(np.rint(1000 * depth).astype(np.uint16)))
    height, width = depth.shape
    numbers = [width, height, matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]]
    (place / f"{kind}_intrinsics" / f"{name}.pincam").write_text(" ".join(f"{number:.6f}" for number in numbers))


def write_traj(path: Path, times: Sequence[float], poses: Iterable[NDArray[np.floating]]) -> None:
    """Write poses (4, 4) camera -> world as ARKitScenes does: their inverse, as axis times angle and translation."""
    lines = []
    for time, pose in zip(times, poses, strict=True):
        inverse = np.linalg.inv(pose)
        turn = inverse[:3, :3]
        values, vectors = np.linalg.eig(turn)  # the axis is the eigenvector of eigenvalue 1
        axis = np.real(vectors[:, np.argmin(np.abs(values - 1))])
        across = np.cross(axis, [1, 0, 0] if abs(axis[0]) < 0.9 else [0, 1, 0])
        across /= np.linalg.norm(across)
        moved = turn @ across
        angle = np.arctan2(np.dot(np.cross(across, moved), axis), np.dot(across, moved))
        numbers = [*(axis * angle), *inverse[:3, 3]]
        lines.append(" ".join([f"{time:.7f}", *(f"{number:.12f}" for number in numbers)]))
    path.write_text("\n".join(lines) + "\n")


def write_metadata(folder: Path, rows: Mapping[str, Mapping[str, str]]) -> None:
    """Write metadata.csv of a layout: video -> {column: value}."""
    names = ["video_id", "visit_id", "sky_direction", "fold"]
    lines = [",".join([video, *(values.get(name, "") for name in names[1:])]) for video, values in rows.items()]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.csv").write_text("\n".join([",".join(names), *lines]) + "\n")


def png(values: NDArray) -> bytes:
    """Return a picture as PNG: (H, W, 3) uint8, or (H, W) uint8 or uint16."""
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(values)).save(content, "PNG", compress_level=1)
    return content.getvalue()


# --- a room of real size ---


def write_full_scene(
    root: Path, video: str, num_vertices: int = 250_000, num_objects: int = 20, num_frames: int = 64
) -> Truth:
    """Write a room like those of full_scan.py with ten pictures a second; the same id gives the same files."""
    rng = np.random.default_rng([int(video), num_vertices, num_objects])
    vertices, faces, _, boxes, size = full_room(rng, num_vertices, num_objects, 0.002, 1)
    classes = list(arkitscenes_classes())
    down = np.array([0, 0, FLOOR])
    things = [
        (classes[number % len(classes)], Box(box.centroid + down, box.axes_lengths, box.axes))
        for number, (_, box) in enumerate(boxes)
    ]
    colors = rng.integers(60, 200, (len(vertices), 3)).astype(np.uint8)
    mesh = Mesh((vertices + down).astype(np.float32), colors, faces)
    folder = write_scan(root, video, mesh, things)
    surface, poses = Surface(mesh.vertices, mesh.colors, mesh.faces), []
    times = [round(1000 + 0.1 * number, 3) for number in range(num_frames)]
    for number, time in enumerate(times):
        camera = Camera((*(size / 2), FLOOR + 1.5), 360 * number / num_frames, -20.0, 256, 192, 60.0)
        raster = surface.draw(camera)
        matrix = np.array([[camera.focal, 0, 127.5], [0, camera.focal, 95.5], [0, 0, 1]])
        depth = np.where(np.isfinite(raster.depth), raster.depth, 0)
        write_picture(folder, time, surface.shade(raster, camera), depth, matrix)
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = camera.axes().T, camera.eye
        poses.append(pose)
    write_traj(frames_folder(folder) / "lowres_wide.traj", times, poses)
    return Truth(video, float(size.prod()), tuple(things), 0.002)
