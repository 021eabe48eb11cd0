"""Where a camera may stand in a scan: floor height and a map of free floor cells.

Legend: V vertices, F faces, N points, R C rows (x) and columns (y) of the map.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from vsgrpo.errors import DataError

CELL = 0.05
"""Metres, edge of a map cell: about the median edge of a ScanNet mesh."""
CLEARANCES = (0.3, 0.25, 0.2, 0.15)
"""Metres to the nearest obstacle that a camera keeps; the first that leaves room to stand is used."""
_MARGIN = 10
_MOST_POINTS = 8_000_000
_MIN_STAND = 0.3
"""Square metres: smaller islands of standing room are mostly gaps between furniture."""


@dataclass(frozen=True)
class FloorMap:
    """Free floor of a scan.

    Attributes:
        floor: height of the floor, metres.
        origin: (2,) world x, y of the lower corner of cell (0, 0).
        free: (R, C) bool, floor is there and nothing stands on it.
        stand: (R, C) bool, free cells that keep `clearance` to every obstacle.
        room: (R, C) float64, metres from each cell to the nearest cell that is not free.
        clearance: metres.
        notes: what was missing and how it was made up for.
        is_level: horizontal faces say where the floor is; else `floor` is a guess.
    """

    floor: float
    origin: NDArray[np.float64]
    free: NDArray[np.bool_]
    stand: NDArray[np.bool_]
    room: NDArray[np.float64]
    clearance: float
    notes: tuple[str, ...]
    is_level: bool = True

    def centers(self, cells: NDArray) -> NDArray[np.float64]:
        """Return world x, y (N, 2) of the middles of cells (N, 2)."""
        return self.origin + (cells + 0.5) * CELL

    def cell_of(self, xy: NDArray) -> NDArray[np.int64]:
        """Return the cells (N, 2) that hold world points (N, 2); points off the map get the nearest border cell."""
        cells = np.floor((np.asarray(xy) - self.origin) / CELL).astype(np.int64)
        return np.clip(cells, 0, np.array(self.free.shape) - 1)

    def nearest_stand(self, xy: NDArray) -> NDArray[np.float64]:
        """Return for world points (N, 2) the middle of the nearest cell a camera may stand on."""
        nearest = np.asarray(ndimage.distance_transform_edt(~self.stand, return_distances=False, return_indices=True))
        cells = self.cell_of(xy)
        return self.centers(np.stack([nearest[axis][cells[:, 0], cells[:, 1]] for axis in range(2)], axis=1))


def floor_height(vertices: NDArray, faces: NDArray) -> float | None:
    """Return the height of the floor in metres, None where no face looks up or down.

    The lowest level that carries at least a quarter of the area of the strongest level of horizontal faces; tables and
    beds are higher, a ceiling is higher still. z = 0 is not the floor in real scans.
    """
    corner = [vertices[faces[:, k]].astype(np.float64) for k in range(3)]
    normal = np.cross(corner[1] - corner[0], corner[2] - corner[0])
    area = np.linalg.norm(normal, axis=1) / 2
    level = (np.abs(normal[:, 2]) > 1.8 * area) & (area > 0)
    if not level.any():
        return None
    height = (corner[0] + corner[1] + corner[2])[level, 2] / 3
    weight = area[level]
    bins = np.floor((height - height.min()) / 0.05).astype(np.int64)
    # 65,536 bins are 3 km: a stray face far away must not cost memory.
    histogram = np.bincount(np.minimum(bins, 65535), weights=weight)
    smooth = np.convolve(histogram, np.ones(3), mode="same")
    lowest = height.min() + 0.05 * np.flatnonzero(smooth >= 0.25 * smooth.max())[0]
    near = (height > lowest - 0.05) & (height < lowest + 0.15)
    order = np.argsort(height[near], kind="stable")
    share = np.cumsum(weight[near][order])
    return float(height[near][order][np.searchsorted(share, share[-1] / 2)])


def surface_points(vertices: NDArray, faces: NDArray, spacing: float = CELL) -> NDArray[np.float32]:
    """Return points (N, 3) that cover every face with gaps of at most about `spacing` metres.

    Faces are sampled on barycentric lattices whose order is a power of two, at most 256, chosen by their longest edge.
    """
    corner = [vertices[faces[:, k]] for k in range(3)]
    edges = [np.square(corner[k] - corner[(k + 1) % 3]).sum(1) for k in range(3)]
    longest = np.sqrt(np.max(edges, axis=0))
    order = np.minimum(np.ceil(np.log2(np.maximum(longest / spacing, 1))), 8).astype(np.int64)
    # A garbled mesh, faces across the whole scan, is sampled coarser rather than filling the memory.
    while order.max(initial=0) and ((2.0**order + 1) * (2.0**order + 2) / 2).sum() > _MOST_POINTS:
        order = np.minimum(order, order.max() - 1)
    used = np.zeros(len(vertices), bool)
    used[faces] = True
    parts = [vertices[used].astype(np.float32)]
    for level in range(1, int(order.max(initial=0)) + 1):
        chosen = np.flatnonzero(order == level)
        steps = 2**level
        weights = [(i / steps, j / steps) for i in range(steps + 1) for j in range(steps + 1 - i)]
        # The lattice is walked point by point: one point of all faces of the level at a time.
        for u, v in weights if len(chosen) else ():
            parts.append(u * corner[0][chosen] + v * corner[1][chosen] + (1 - u - v) * corner[2][chosen])
    return np.concatenate(parts).astype(np.float32, copy=False)


def map_floor(vertices: NDArray, faces: NDArray) -> FloorMap:
    """Find the floor and the cells on which a camera can stand.

    Raises:
        DataError: nowhere in the scan is there room to stand.
    """
    notes = []
    floor = floor_height(vertices, faces)
    is_level = floor is not None
    if floor is None:
        floor = float(np.quantile(vertices[:, 2], 0.01))
        notes.append("no horizontal faces: the lowest percentile of heights was taken as floor")
    # Stray points far outside, seen through a window, must not stretch the map.
    low, high = (np.quantile(vertices[:, :2].astype(np.float64), q, axis=0) for q in (0.001, 0.999))
    low, high = np.maximum(low - 0.5, vertices[:, :2].min(0)), np.minimum(high + 0.5, vertices[:, :2].max(0))
    origin = low - _MARGIN * CELL
    shape = np.floor((high - origin) / CELL).astype(np.int64) + 1 + _MARGIN
    if np.prod(shape.astype(np.float64)) > 16e6:
        raise DataError(
            f"scan spans {high[0] - low[0]:.0f} x {high[1] - low[1]:.0f} m: too large to walk through",
            hint="check that the mesh is in metres, or use video.source=recorded",
        )
    points = surface_points(vertices, faces)
    near = np.all((points[:, :2] >= low) & (points[:, :2] <= high), axis=1)
    cell = np.floor((points[near, :2] - origin) / CELL).astype(np.int64)
    height = points[near, 2] - np.float32(floor)
    flat = cell[:, 0] * shape[1] + cell[:, 1]

    def occupied(chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return (np.bincount(flat[chosen], minlength=shape.prod()) > 0).reshape(shape)

    ground = occupied(np.abs(height) < 0.1)
    blocked = occupied((height > 0.15) & (height < 1.8))
    # A lone cell is noise of the scan, not a thing.
    blocked &= ndimage.convolve(blocked.astype(np.uint8), np.ones((3, 3), np.uint8), mode="constant") >= 3
    footprint = np.asarray(ndimage.binary_fill_holes(ndimage.binary_closing(ground | blocked, iterations=4)))
    if not ground.any():
        ground = footprint & ~blocked
        notes.append("no floor faces: the footprint of the scan was taken as floor")
    ground = ndimage.binary_closing(ground, iterations=3)
    free = _fill_holes_of_operator(ground, blocked, footprint) & ~blocked
    room = np.asarray(ndimage.distance_transform_edt(free)) * CELL
    for clearance in CLEARANCES:
        stand = _large_islands(room >= clearance - 1e-9)
        if stand.any():
            if clearance < CLEARANCES[0]:
                notes.append(f"narrow scan: the camera keeps {clearance:g} m to obstacles")
            return FloorMap(floor, origin, free, stand, room, clearance, tuple(notes), is_level)
    raise DataError(
        f"no free floor of {_MIN_STAND:g} m2 with {CLEARANCES[-1]:g} m of clearance: nowhere for a camera to stand",
        hint="use video.source=recorded or video.source=folder for this scan",
    )


def _fill_holes_of_operator(ground: NDArray, blocked: NDArray, footprint: NDArray) -> NDArray[np.bool_]:
    """Count a hole in the floor as floor where more than 60 % of its rim is floor.

    Scans have no floor where the operator stood; holes under beds are ringed by obstacles and stay closed.
    """
    labels, number = _islands(footprint & ~ground & ~blocked)
    filled = ground.copy()
    for label, window in enumerate(ndimage.find_objects(labels, number), start=1):
        if window is None:
            continue
        window = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in window)
        hole = labels[window] == label
        rim = ndimage.binary_dilation(hole) & ~hole
        if ground[window][rim].sum() > 0.6 * rim.sum():
            filled[window] |= hole
    return filled


def _islands(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Number the connected areas of a mask from 1 on; return their map and how many there are."""
    labels = np.zeros(mask.shape, np.int32)
    ndimage.label(mask, output=labels)
    return labels, int(labels.max(initial=0))


def _large_islands(stand: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Drop connected areas under 0.3 m2; where all are smaller keep the largest of at least 0.04 m2."""
    labels, number = _islands(stand)
    if not number:
        return stand
    area = np.bincount(labels.ravel(), minlength=number + 1) * CELL**2
    area[0] = 0
    least = _MIN_STAND if area.max() >= _MIN_STAND else max(area.max(), 0.04)
    return (area >= least)[labels]


def eye_height(vertices: NDArray, floor: float, wanted: float) -> tuple[float, float]:
    """Return the eye's height above the floor, lowered for scans that end low, and the scan's top above the floor.

    The top is the 99.5th percentile of heights.
    """
    top = float(np.quantile(vertices[:, 2], 0.995)) - floor
    return min(max(top - 0.1, 1.2), wanted), top


def walk_pitch_degrees(eye: float, top: float, vfov_degrees: float) -> float:
    """Return the pitch that puts the scan's top, seen from 2.5 m away, at the upper edge of the frame.

    Held between -30 and -15: steeper loses the far objects, flatter measured worse coverage.
    """
    return min(max(math.degrees(math.atan((top - eye) / 2.5)) - vfov_degrees / 2, -30.0), -15.0)


def vertical_fov_degrees(hfov_degrees: float, width: int, height: int) -> float:
    """Return the vertical field of view of square pixels."""
    return math.degrees(2 * math.atan(math.tan(math.radians(hfov_degrees) / 2) * height / width))
