"""Made-up ARKitScenes scans of known geometry, in the layouts of its downloader.

A room of 5 x 4 x 2.6 m, its floor at -1.3, with box-shaped things; pictures and depth are drawn from its mesh.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from furnished_room import SIZE, box_sides, intrinsics_of, pose_of

from vsgrpo.scans.source import Mesh
from vsgrpo.scans.walk.rasterizer import Camera, Surface
from vsgrpo.spatial.scene import Box

SCRIPTS = str(Path(__file__).parents[2] / "scripts")
if SCRIPTS not in sys.path:
    sys.path.append(SCRIPTS)
writer = importlib.import_module("arkitscenes_scene")
FLOOR = writer.FLOOR
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
    """Return the annotation of things."""
    return writer.annotation([(label, item) for label, item, _ in things], **changes)


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
        named = [(label, item) for label, item, _ in things]
        given = {"layout": self.layout, "fold": fold, **(notes or {})}
        return writer.write_scan(self.root, video, room_mesh(things, step), named, **given)

    def record(self, folder: Path, film: Recorded, kind: str = "lowres_wide", poses=None) -> Path:
        """Write pictures, depth, matrices and poses of a video (`poses`: (times, poses) other than its own)."""
        for time, camera, (color, depth) in zip(film.times, film.cameras, film.stored(), strict=True):
            # Square pixels, the middle of the picture: the same focal length for the device as for the upright picture.
            matrix, (height, width) = intrinsics_of(camera), depth.shape
            matrix[:2, 2] = width / 2 - 0.5, height / 2 - 0.5
            writer.write_picture(folder, time, color, depth, matrix, kind)
        place = writer.frames_folder(folder)
        own = film.times, [film.stored_pose(number) for number in range(len(film.times))]
        writer.write_traj(place / "lowres_wide.traj", *(own if poses is None else poses))
        return place

    def metadata(self, **columns: dict[str, str]) -> None:
        """Write metadata.csv: video -> {column: value}."""
        writer.write_metadata(self.root / self.layout, columns)
