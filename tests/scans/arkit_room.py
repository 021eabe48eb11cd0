"""Made-up ARKitScenes scans of known geometry, in the layouts of its downloader.

A room of 5 x 4 x 2.6 m, its floor at -1.3, with box-shaped things; pictures and depth are drawn from its mesh.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from furnished_room import SIZE, box_sides, intrinsics_of, pose_of
from PIL import Image

from vsgrpo.scans.ply import ply_bytes
from vsgrpo.scans.source import Mesh
from vsgrpo.scans.walk.rasterizer import Camera, Surface
from vsgrpo.spatial.scene import Box

FLOOR = -1.3
ROOM_ID = "40958767"
"""A Training video of visit 379876, of which the benchmark shows nothing."""
WIDTH, HEIGHT = 128, 96
"""Of the pictures as a device stores them."""


def rotation(yaw: float, tilt: float = 0.0) -> np.ndarray:
    """Return (3, 3) whose ROWS are the axes of a thing: tilted about x, then turned about z, in degrees."""
    (cy, sy), (ct, st) = ((np.cos(np.radians(a)), np.sin(np.radians(a))) for a in (yaw, tilt))
    turn = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    lean = np.array([[1, 0, 0], [0, ct, -st], [0, st, ct]])
    return (turn @ lean).T


def box(center, edges, yaw: float = 0.0, tilt: float = 0.0) -> Box:
    """Return a box whose centre is given above the floor."""
    return Box(np.add(center, (0, 0, FLOOR)), np.array(edges, float), rotation(yaw, tilt))


THINGS: list[tuple[str, Box, tuple[int, int, int]]] = [
    ("bed", box((1.2, 1.0, 0.25), (2.0, 1.4, 0.5), yaw=0), (40, 40, 160)),
    ("chair", box((3.2, 2.8, 0.45), (0.5, 0.5, 0.9), yaw=30), (220, 200, 40)),
    ("chair", box((4.3, 1.2, 0.45), (0.5, 0.5, 0.9), yaw=0), (200, 180, 40)),
    ("cabinet", box((0.6, 3.6, 0.45), (1.0, 0.6, 0.9)), (200, 60, 60)),
    ("tv monitor", box((0.6, 3.6, 1.2), (0.9, 0.08, 0.5), yaw=5), (20, 20, 20)),
    ("sofa", box((3.4, 0.6, 0.45), (1.2, 0.6, 0.5), yaw=10, tilt=8), (30, 140, 60)),
]
"""(label, box, colour); the sofa is tilted, and the monitor stands on the cabinet."""


def annotation(things=THINGS, **changes) -> dict:
    """Return the annotation of things; `normalizedAxes` are rows, `obb` is another box that nobody must read."""
    data = [
        {
            "uid": f"uid-{number}",
            "label": label,
            "objectId": number + 1,
            "modelId": "",
            "children": [],
            "segments": {
                "obb": {"centroid": [9, 9, 9], "axesLengths": [9, 9, 9], "normalizedAxes": np.eye(3).ravel().tolist()},
                "obbAligned": {
                    "centroid": item.centroid.tolist(),
                    "axesLengths": item.axes_lengths.tolist(),
                    "normalizedAxes": item.axes.ravel().tolist(),
                },
            },
            "hierarchy": [],
            "isInGroup": False,
            "labelType": "object",
            "attributes": {},
        }
        for number, (label, item, _) in enumerate(things)
    ]
    return {"data": data, "skipped": False, "stats": {}, "comment": "", **changes}


def room_mesh(things=THINGS, step: float = 0.1) -> Mesh:
    """Return the mesh of floor, ceiling, walls and things."""
    low = np.array([0, 0, FLOOR])
    parts = [(*side, (180, 170, 150)) for side in box_sides(tuple(low), tuple(low + SIZE), step)]
    for _, item, color in things:
        half = item.axes_lengths / 2
        for points, faces in box_sides(tuple(-half), tuple(half), step):
            parts.append((points @ item.axes + item.centroid, faces, color))
    sizes = np.array([len(points) for points, *_ in parts])
    starts = np.cumsum(sizes) - sizes
    return Mesh(
        np.concatenate([points for points, *_ in parts]).astype(np.float32),
        np.concatenate([np.tile(np.uint8([color]), (len(points), 1)) for points, _, color in parts]),
        np.concatenate([faces + start for (_, faces, _), start in zip(parts, starts, strict=True)]).astype(np.int32),
    )


def walk_cameras(number: int, turns: int = 0) -> list[Camera]:
    """Return upright cameras on a circle round the middle of the room; a device turned by 90 degrees stands upright."""
    width, height = (WIDTH, HEIGHT) if turns % 2 == 0 else (HEIGHT, WIDTH)
    angles = np.linspace(0, 300, number)
    eyes = [(2.5 + 0.5 * np.cos(a), 2.0 + 0.4 * np.sin(a), FLOOR + 1.5) for a in np.radians(angles)]
    return [Camera(eye, a, -20.0, width, height, 75.0) for eye, a in zip(eyes, angles, strict=True)]


@dataclass
class Recorded:
    """Pictures that a device took: as it stores them, which is turned by `turns` quarters against upright ones.

    Attributes:
        cameras: upright, one per picture.
        times: seconds.
        turns: quarters, clockwise, that make the stored pictures upright.
    """

    cameras: list[Camera]
    times: list[float]
    turns: int = 0
    mesh: Mesh = field(default_factory=room_mesh)

    def stored(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return (colour, depth in metres) of each picture as stored."""
        surface = Surface(self.mesh.vertices, self.mesh.colors, self.mesh.faces)
        found = []
        for camera in self.cameras:
            raster = surface.draw(camera)
            depth = np.where(np.isfinite(raster.depth), raster.depth, 0)
            found.append((np.rot90(surface.shade(raster, camera), self.turns), np.rot90(depth, self.turns)))
        return found

    def stored_pose(self, number: int) -> np.ndarray:
        """Return the pose camera -> world of the device: its axes are those of the stored picture.

        A picture turned back by one quarter (counter-clockwise): its x axis points down the upright picture, its y axis
        against the upright x axis.
        """
        pose = pose_of(self.cameras[number])
        for _ in range(self.turns % 4):
            x, y = pose[:, 0].copy(), pose[:, 1].copy()
            pose[:, 0], pose[:, 1] = y, -x
        return pose


def write_traj(path: Path, times, poses) -> None:
    """Write poses camera -> world as ARKitScenes does: their inverse, axis-angle by its own series."""
    lines = []
    for time, pose in zip(times, poses, strict=True):
        inverse = np.linalg.inv(pose)
        turn = inverse[:3, :3]
        values, vectors = np.linalg.eig(turn)  # the axis is the eigenvector of eigenvalue 1
        axis = np.real(vectors[:, np.argmin(np.abs(values - 1))])
        helper = np.cross(axis, [1, 0, 0] if abs(axis[0]) < 0.9 else [0, 1, 0])
        helper /= np.linalg.norm(helper)
        moved = turn @ helper
        angle = np.arctan2(np.dot(np.cross(helper, moved), axis), np.dot(helper, moved))
        numbers = [*(axis * angle), *inverse[:3, 3]]
        lines.append(" ".join([f"{time:.7f}", *(f"{number:.12f}" for number in numbers)]))
    path.write_text("\n".join(lines) + "\n")


def png(values: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(values)).save(content, "PNG", compress_level=1)
    return content.getvalue()


@dataclass
class ArkitRoot:
    """A folder of scans; `layout` is 3dod or raw."""

    root: Path
    layout: str = "3dod"

    def write(
        self,
        video: str = ROOM_ID,
        fold: str = "Training",
        things=THINGS,
        notes: dict | None = None,
        step: float = 0.1,
    ) -> Path:
        """Write mesh and annotation of a video; return its folder. `notes` replace keys of the annotation."""
        folder = self.root / self.layout / fold / video
        folder.mkdir(parents=True)
        (folder / f"{video}_3dod_mesh.ply").write_bytes(ply_bytes(room_mesh(things, step)))
        (folder / f"{video}_3dod_annotation.json").write_text(json.dumps(annotation(things, **(notes or {}))))
        return folder

    def record(self, folder: Path, film: Recorded, kind: str = "lowres_wide", poses=None) -> Path:
        """Write pictures, depth, matrices and poses of a video (`poses`: (times, poses) other than its own)."""
        place = folder if self.layout == "raw" else folder / f"{folder.name}_frames"
        for name in (kind, f"{kind}_intrinsics", "lowres_depth"):
            (place / name).mkdir(parents=True, exist_ok=True)
        for time, camera, (color, depth) in zip(film.times, film.cameras, film.stored(), strict=True):
            name = f"{folder.name}_{time:.3f}"
            (place / kind / f"{name}.png").write_bytes(png(color))
            (place / "lowres_depth" / f"{name}.png").write_bytes(png(np.rint(1000 * depth).astype(np.uint16)))
            # Square pixels, the middle of the picture: the same numbers for the device as for the upright picture.
            matrix, (height, width) = intrinsics_of(camera), depth.shape
            numbers = [width, height, matrix[0, 0], matrix[1, 1], width / 2 - 0.5, height / 2 - 0.5]
            (place / f"{kind}_intrinsics" / f"{name}.pincam").write_text(" ".join(f"{n:.6f}" for n in numbers))
        own = film.times, [film.stored_pose(number) for number in range(len(film.times))]
        write_traj(place / "lowres_wide.traj", *(own if poses is None else poses))
        return place

    def metadata(self, **columns: dict[str, str]) -> None:
        """Write metadata.csv: video -> {column: value}."""
        names = ["video_id", "visit_id", "sky_direction", "fold"]
        rows = [",".join([video, *(values.get(name, "") for name in names[1:])]) for video, values in columns.items()]
        (self.root / self.layout).mkdir(parents=True, exist_ok=True)
        (self.root / self.layout / "metadata.csv").write_text("\n".join([",".join(names), *rows]) + "\n")
