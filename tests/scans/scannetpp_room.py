"""A made-up ScanNet++ scan of known geometry with a phone's video, poses and depth; depth and owners by a ray test."""

import importlib
import sys
from functools import cache
from pathlib import Path

import av
import numpy as np
from furnished_room import FURNITURE, SIZE, MeshArrays, furnished_room

from vsgrpo.spatial.scene import Box

SCRIPTS = str(Path(__file__).parents[2] / "scripts")
SCAN_ID = "0a1b2c3d4e"
NATIVE = np.array([[1500.0, 0, 960], [0, 1500, 720], [0, 0, 1]])
"""Of pictures of 1920 x 1440; depth images of 256 x 192 have a 7.5th: 200, 128, 96."""
LABELS = {"bed": "bed", "table": "table", "cabinet": "bookshelf", "bin": "trash can", "chair": "office chair"}
NUM_FRAMES = 24


def load_writer():
    """Import scripts/scannetpp_scene.py."""
    if SCRIPTS not in sys.path:
        sys.path.append(SCRIPTS)
    return importlib.import_module("scannetpp_scene")


writer = load_writer()


def box_of(name: str) -> Box:
    """Return the box of a piece of furniture."""
    (x0, y0, x1, y1, height), _ = FURNITURE[name]
    return Box(np.array([(x0 + x1) / 2, (y0 + y1) / 2, height / 2]), np.array([x1 - x0, y1 - y0, height]), np.eye(3))


def groups_of(mesh: MeshArrays) -> list[tuple[str, np.ndarray, Box | None]]:
    """Return the furniture with its boxes, then floor and walls without."""
    groups: list[tuple[str, np.ndarray, Box | None]] = [
        (LABELS[name], np.flatnonzero(mesh.instances == 10 + number), box_of(name))
        for number, name in enumerate(FURNITURE)
    ]
    return [*groups, ("floor", np.flatnonzero((mesh.instances < 0) & (mesh.vertices[:, 2] == 0)), None)]


def write_room(root: Path, scan_id: str = SCAN_ID, step: float = 0.05, **options) -> Path:
    """Write the room without a video, its mesh in squares of `step` metres; return the folder of the scan."""
    mesh = furnished_room(step)
    return writer.write_scan(root, scan_id, mesh, groups_of(mesh), **options)


def camera_poses(number: int = NUM_FRAMES) -> list[np.ndarray]:
    """Return camera -> mesh (4, 4): a turn in the middle of the room at 1.5 m, looking a little down."""
    poses = []
    for yaw in np.linspace(0, 2 * np.pi, number, endpoint=False):
        forward = np.array([np.cos(yaw) * np.cos(0.3), np.sin(yaw) * np.cos(0.3), -np.sin(0.3)])
        right = np.array([np.sin(yaw), -np.cos(yaw), 0])
        pose = np.eye(4)
        pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
        pose[:3, 3] = [2.4, 1.9, 1.5]
        poses.append(pose)
    return poses


@cache
def seen_by_rays() -> tuple[np.ndarray, np.ndarray]:
    """Return what `ray_test` says of all frames: depth (24, 192, 256) and owners."""
    depths, owners = zip(*map(ray_test, camera_poses()), strict=True)
    return np.array(depths, np.float32), np.array(owners)


@cache
def packed_depth(form: str) -> bytes:
    """Return depth.bin of all frames in a form."""
    return writer.depth_bin(seen_by_rays()[0], form)


def ray_test(pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return depth (192, 256) and the place in FURNITURE that each pixel shows, -1 for the room itself.

    The slab test, once for each box; a ray leaves the room where it leaves its walls.
    """
    v, u = np.mgrid[0:192, 0:256]
    rays = np.stack([(u - 128) / 200, (v - 96) / 200, np.ones((192, 256))], axis=-1) @ pose[:3, :3].T
    rays[np.abs(rays) < 1e-12] = 1e-12
    eye = pose[:3, 3]
    walls = np.maximum((0 - eye) / rays, (np.array(SIZE) - eye) / rays).min(axis=-1)
    depth, owner = walls, np.full((192, 256), -1)
    for number, ((x0, y0, x1, y1, height), _) in enumerate(FURNITURE.values()):
        ends = np.stack([(np.array([x0, y0, 0]) - eye) / rays, (np.array([x1, y1, height]) - eye) / rays])
        enter, leave = ends.min(axis=0).max(axis=-1), ends.max(axis=0).min(axis=-1)
        hit = (enter < leave) & (enter > 0) & (enter < depth)
        depth, owner = np.where(hit, enter, depth), np.where(hit, number, owner)
    return depth, owner


def picture(number: int) -> np.ndarray:
    """Return frame `number` of the video, (144, 192, 3): its grey value tells which it is."""
    return np.full((144, 192, 3), 10 * number + 5, np.uint8)


def write_video(path: Path, number: int = NUM_FRAMES, rate: int = 60) -> None:
    """Write a video of `picture`s."""
    path.parent.mkdir(exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 192, 144, "yuv420p"
        for k in range(number):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(k), format="rgb24")))
        container.mux(stream.encode(None))


def write_phone(folder: Path, form: str = "stream", **changes) -> None:
    """Write iphone/ of a scan: a video of 24 frames, poses, and depth.bin in a form, or none.

    Args:
        changes: poses, name of the video.
    """
    poses = changes.get("poses", camera_poses())
    write_video(folder / "iphone" / changes.get("name", "rgb.mkv"))
    writer.write_poses(folder, poses, NATIVE)
    if form != "none":
        (folder / "iphone/depth.bin").write_bytes(packed_depth(form))
