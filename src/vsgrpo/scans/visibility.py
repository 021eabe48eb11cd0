"""Which objects a recorded video shows, and how large: pixels per object and frame.

From 2-D instance masks where a scan has them (`Masks`), else by projecting the annotated mesh through the poses and
comparing with the depth images (`Projection`).
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vsgrpo.scans.source import Mesh, VisibilitySettings, broken
from vsgrpo.spatial.scene import Footage
from vsgrpo.spatial.sight import reach_of
from vsgrpo.terminal import counted
from vsgrpo.video.budget import frame_indices

_REPLACE = "copy or download this file again, or remove it: it is optional"
_MAX_UNJUDGED = 0.2
_NEAREST = 0.1
"""Metres: nothing nearer than this to the camera is seen."""
MASKS = "_2d-instance-filt.zip"
"""Behind the scan id: the name of the archive of masks."""


@dataclass(frozen=True)
class View:
    """Place of a depth camera in one frame, and what it measured.

    Attributes:
        pose: (4, 4) camera (x right, y down, z forward) -> frame of the mesh.
        depth: (H, W) metres, 0 where unknown.
        matrix: (3, 3) or (4, 4) pinhole matrix of the depth image.
    """

    pose: NDArray[np.float64]
    depth: NDArray[np.float32]
    matrix: NDArray[np.floating]


class PixelCounter(Protocol):
    """What `watch` asks of a frame.

    Attributes:
        frame_pixels: of a whole frame, once one was counted.
    """

    frame_pixels: int

    def count(self, frame: int) -> NDArray | None:
        """Return the pixels of each object in a frame, (K,), None where it cannot be judged."""
        ...


def watch(
    num_frames: int,
    counter: PixelCounter,
    instance_ids: Sequence[int],
    settings: VisibilitySettings,
    pose_of: Callable[[int], NDArray[np.floating] | None] | None = None,
    view: Callable[[int], View | None] | None = None,
) -> Footage | str:
    """Count the pixels of objects in frames of a recording; where that cannot be done, return why.

    Frames that the counter cannot judge are left out, and the budgets that show one; with more than a fifth of them the
    scan is not judged.

    Args:
        pose_of: frame -> (4, 4) camera (x right, y down, z forward) -> frame of the scene's boxes, None where it has no
            usable one; without it nothing is asked about the camera.
        view: frame -> what the depth camera measured, its pose as that of `pose_of`, None where that is not known;
            without it nothing is said about how much of the floor is shown.
    """
    by_loader = set(frame_indices(num_frames, settings.num_frames))
    by_budget = {budget: set(frame_indices(num_frames, budget)) for budget in settings.budgets if budget <= num_frames}
    every = num_frames if settings.stride_s is None else max(1, int(settings.stride_s * settings.fps))
    looked = sorted(by_loader.union(range(0, num_frames, every), *by_budget.values()))
    of_budgets = set[int]().union(*by_budget.values())
    counts, reach = {}, []
    for frame in looked:
        if (row := counter.count(frame)) is None:
            continue
        counts[frame] = row
        seen = view(frame) if view is not None and frame in of_budgets else None
        reach.append(None if seen is None else reach_of(seen.depth, seen.matrix, seen.pose))
    unjudged = len(looked) - len(counts)
    if unjudged > _MAX_UNJUDGED * len(looked) or not by_loader & set(counts):
        return (
            f"{unjudged} of {counted(len(looked), 'frame has', 'frames have')} no usable pose or depth: what "
            "the video shows was not counted"
        )
    table = np.rint(np.array(list(counts.values()))).astype(np.int64).T
    place = {frame: position for position, frame in enumerate(counts)}
    whole = {budget: frames for budget, frames in by_budget.items() if frames <= place.keys()}
    frames_shown, numbers = numbered_frames(num_frames, settings.num_frames, list(counts))
    return Footage(
        times=tuple(frame / settings.fps for frame in counts),
        shown=tuple(position for position, frame in enumerate(counts) if frame in by_loader),
        frame_pixels=counter.frame_pixels,
        pixels={int(i): tuple(row.tolist()) for i, row in zip(instance_ids, table, strict=True)},
        budgets={budget: tuple(sorted(place[frame] for frame in frames)) for budget, frames in whole.items()},
        reach=tuple(reach) if any(found is not None for found in reach) else (),
        poses=None if pose_of is None else stacked_poses([pose_of(frame) for frame in counts]),
        frames_shown=frames_shown,
        numbers=numbers,
        has_clock=True,
    )


def numbered_frames(num_frames: int, asked: int, frames: Sequence[int]) -> tuple[int, tuple[int, ...]]:
    """Return how many frames of a video are shown without repeats, and the number of each of `frames` among them.

    As many as asked for; of a video with fewer frames, as many pairs as it has. Numbers begin at 1; 0: not shown.
    """
    shown = asked if asked <= num_frames else num_frames - num_frames % 2
    number = {frame: place for place, frame in enumerate(frame_indices(num_frames, shown), start=1)} if shown else {}
    return shown, tuple(number.get(frame, 0) for frame in frames)


def stacked_poses(poses: Iterable[NDArray[np.floating] | None]) -> NDArray[np.float64]:
    """Return poses as (F, 4, 4), nan for None."""
    unknown = np.full((4, 4), np.nan)
    return np.array([unknown if pose is None else pose for pose in poses], dtype=np.float64).reshape(-1, 4, 4)


class Projection:
    """Vertices of the mesh seen by a depth camera, each weighed with the pixels its share of the surface covers.

    Args:
        view: pose and depth of a frame by its index, None where it has no usable ones (as `sens.SensReader.view`).
        mesh: in the frame that the poses lead to.
        owner: (V,) the instance id of each vertex, -1 where none.
        tolerance: see `VisibilitySettings.depth_tolerance`.
    """

    def __init__(
        self,
        view: Callable[[int], View | None],
        mesh: Mesh,
        owner: NDArray[np.int32],
        instance_ids: Sequence[int],
        tolerance: float,
    ) -> None:
        ids = np.asarray(instance_ids, dtype=np.int64)
        chosen = np.flatnonzero(np.isin(owner, ids))
        order = np.argsort(ids)
        self._number = order[np.searchsorted(ids, owner[chosen], sorter=order)] if len(ids) else chosen
        self._num_objects = len(ids)
        self._points = mesh.vertices[chosen].astype(np.float32)
        self._areas = vertex_areas(mesh.vertices, mesh.faces)[chosen].astype(np.float32)
        self._view, self._tolerance = view, tolerance
        self.frame_pixels = 0

    def count(self, frame: int) -> NDArray | None:
        """Return the pixels of each object in a frame, (K,), None where pose or depth are not usable."""
        view = self._view(frame)
        if view is None:
            return None
        self.frame_pixels = view.depth.size
        seen, pixels = self._footprints(view)
        counts = np.bincount(self._number[seen], weights=pixels, minlength=self._num_objects)
        return counts.astype(np.float64)

    def _footprints(self, view: View) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Return the points seen and the pixels of each: fx fy |A.p| / z^3 of vector area A at p, camera frame."""
        seen, points = seen_points(self._points, view.pose, view.matrix, view.depth, self._tolerance)
        facing = np.abs(((self._areas[seen] @ view.pose[:3, :3].astype(np.float32)) * points).sum(axis=1))
        return seen, view.matrix[0, 0] * view.matrix[1, 1] * facing / points[:, 2] ** 3


def seen_points(
    points: NDArray[np.float32],
    pose: NDArray[np.floating],
    matrix: NDArray[np.floating],
    depth: NDArray[np.float32],
    tolerance: float,
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return which of the points (N, 3) a depth camera sees, and where these are in its frame (M, 3).

    Args:
        pose: (4, 4) camera (x right, y down, z forward) -> frame of the points.
        matrix: (3, 3) or (4, 4) pinhole matrix of the depth image.
        depth: (H, W) metres, 0 where unknown.
        tolerance: a point is seen if its depth differs from the image's by at most this share of it.
    """
    pose = pose.astype(np.float32)
    height, width = depth.shape
    fx, fy, cx, cy = matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]
    camera = (points - pose[:3, 3]) @ pose[:3, :3]
    front = np.flatnonzero(camera[:, 2] > _NEAREST)
    x, y, z = camera[front].T
    u, v = np.rint(fx * x / z + cx), np.rint(fy * y / z + cy)
    inside = np.flatnonzero((u >= 0) & (u < width) & (v >= 0) & (v < height))
    measured = depth[v[inside].astype(np.intp), u[inside].astype(np.intp)]
    near = np.abs(measured - z[inside]) <= tolerance * measured
    seen = front[inside[near & (measured > 0)]]
    return seen, camera[seen].astype(np.float32, copy=False)


def vertex_areas(vertices: NDArray[np.floating], faces: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return (V, 3) the vector area of each vertex in square metres: a third of that of each face it belongs to."""
    corner = [vertices[faces[:, k]].astype(np.float64) for k in range(3)]
    third = np.cross(corner[1] - corner[0], corner[2] - corner[0]) / 6
    where = faces.T.ravel()
    sums = [np.bincount(where, weights=np.tile(third[:, axis], 3), minlength=len(vertices)) for axis in range(3)]
    return np.stack(sums, axis=1).astype(np.float64)


class Masks:
    """ScanNet's `<scan>_2d-instance-filt.zip`: per frame an 8-bit PNG whose values are objectId + 1, 0 for none."""

    def __init__(self, path: Path, instance_ids: Sequence[int]) -> None:
        self._path = path
        self._values = np.asarray(instance_ids, dtype=np.int64) + 1
        self.frame_pixels = 0
        try:
            self._archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise broken(path, f"not a readable zip archive ({error})", _REPLACE) from None
        self._members = {Path(name).stem: name for name in self._archive.namelist() if name.endswith(".png")}

    def __enter__(self) -> Masks:
        return self

    def __exit__(self, *error: object) -> None:
        self._archive.close()

    def count(self, frame: int) -> NDArray | None:
        """Return the pixels of each object in a frame, (K,), None where the archive lacks it."""
        member = self._members.get(str(frame))
        if member is None:
            return None
        try:
            picture = _decode_png(self._archive.read(member))
        except (zipfile.BadZipFile, OSError, ValueError, zlib.error) as error:
            raise broken(self._path, f"{member} is broken ({error})", _REPLACE) from None
        self.frame_pixels = picture.size
        found = np.bincount(picture.ravel(), minlength=257).astype(np.float64)
        return found[np.minimum(self._values, 256)]


def _decode_png(content: bytes) -> NDArray[np.uint8]:
    import av
    from av.error import FFmpegError

    try:
        codec = av.CodecContext.create("png", "r")
        frames = [*codec.decode(av.Packet(content)), *codec.decode(None)]
    except FFmpegError as error:
        raise ValueError(str(error)) from None
    if len(frames) != 1 or frames[0].format.name != "gray":
        raise ValueError("no 8-bit grey PNG")
    return np.asarray(frames[0].to_ndarray(), dtype=np.uint8)
