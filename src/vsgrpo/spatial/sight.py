"""How much of a room's floor frames show: what lies under the lines of sight, seen from above. Metres, z up.

A line of sight runs through free space from the camera to the surface that a pixel shows. The floor below it is inside
the room, whether a sofa hides it or not; what is behind the surface is not shown. So a viewer who measures by what the
frames show finds the area that is counted here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

CELL_M = 0.1
"""Edge of the cells that the floor is counted in."""
_MAX_DIRECTIONS = 720

Floats = NDArray[np.float64]


def reach_of(
    depth: NDArray[np.floating], matrix: NDArray[np.floating], pose: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Return how far a frame sees over the floor plan in each of B equal directions round the camera, (B,) metres.

    Direction k holds the angles from k to k + 1 of 2 pi / B, from x to y; 0 where no pixel looks. A direction is
    about as wide as a pixel, half a degree at least.

    Args:
        depth: (H, W) metres along the optical axis, 0 where unknown.
        matrix: (3, 3) or (4, 4) pinhole matrix of the image; pixel centres are integers.
        pose: (4, 4) camera (x right, y down, z forward) -> frame of the scene.
    """
    fx, fy, cx, cy = (float(matrix[place]) for place in ((0, 0), (1, 1), (0, 2), (1, 2)))
    widest = 2 * math.pi * min(fx, fy)
    count = max(1, min(_MAX_DIRECTIONS, int(widest)))
    step = max(1, int(widest / count))
    row, column = np.mgrid[: depth.shape[0] : step, : depth.shape[1] : step]
    away = depth[::step, ::step].astype(np.float32)
    known = away > 0
    away = away[known]
    x, y = (column[known] - cx) / fx * away, (row[known] - cy) / fy * away
    east, north = (pose[k, 0] * x + pose[k, 1] * y + pose[k, 2] * away for k in (0, 1))
    reach = np.zeros(count, dtype=np.float32)
    np.maximum.at(reach, _direction(east, north, count), np.hypot(east, north))
    return reach


def floor_cells(outlines: Sequence[NDArray[np.floating]]) -> Floats:
    """Return the centres (N, 2) of the cells of a grid that lie inside closed outlines (K, 2), by the even-odd rule."""
    loops = [np.asarray(loop, dtype=np.float64) for loop in outlines if len(loop) > 2]
    if not loops:
        return np.zeros((0, 2))
    start, end = np.concatenate(loops), np.concatenate([np.roll(loop, -1, axis=0) for loop in loops])
    low = start.min(axis=0)
    size = np.ceil((start.max(axis=0) - low) / CELL_M).astype(np.int64) + 1
    (x0, y0), (x1, y1) = ((start - low) / CELL_M - 0.5).T, ((end - low) / CELL_M - 0.5).T
    # Each edge crosses lines x = 0, 1, ... of cell centres between its ends: beyond, inside and outside change places.
    first, last = np.ceil(np.minimum(x0, x1)).astype(np.int64), np.ceil(np.maximum(x0, x1)).astype(np.int64)
    number = last - first
    edge = np.repeat(np.arange(len(start)), number)
    line = np.arange(len(edge)) - np.repeat(np.cumsum(number) - number, number) + first[edge]
    at = y0[edge] + (y1 - y0)[edge] * (line - x0[edge]) / (x1 - x0)[edge]
    flips = np.zeros(size + 1, dtype=np.int64)
    np.add.at(flips, (line, np.ceil(at).astype(np.int64)), 1)
    cells = np.argwhere(np.cumsum(flips, axis=1) % 2 == 1)
    return low + (cells + 0.5) * CELL_M


def share_in_sight(
    cells: Floats, eyes: Iterable[NDArray[np.floating]], reaches: Iterable[NDArray[np.float32]]
) -> float:
    """Return the share of floor cells (N, 2) under a line of sight of some frame; 0 where there are none.

    Args:
        eyes: (2,) or (3,) where the camera of each frame is.
        reaches: of each frame, see `reach_of`.
    """
    found = np.zeros(len(cells), dtype=bool)
    for eye, reach in zip(eyes, reaches, strict=True):
        east, north = (cells - eye[:2]).T
        found |= np.hypot(east, north) <= reach[_direction(east, north, len(reach))]
    return float(found.mean()) if len(cells) else 0.0


def _direction(east: NDArray[np.floating], north: NDArray[np.floating], count: int) -> NDArray[np.int64]:
    turn = np.arctan2(north, east) / (2 * math.pi) % 1
    return np.minimum((turn * count).astype(np.int64), count - 1)
