"""Points of a scan's surface that frames may show or not: its vertices, and a grid on the faces that are large.

A face of a fine mesh is as good as its corners. One of a coarse mesh (the top of a bed, two faces) is seen in part, and
its corners are far apart: points of a grid on it are looked for one by one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GRAIN_M = 0.1
"""Faces with a longer edge get points at most this far apart along their edges; alpha shapes of the floor close gaps
of 0.2 m."""
_MAX_SAMPLES = 500_000
"""Of a mesh: larger ones (a scan in other units) get a coarser grid."""
_NEAREST = 0.1
"""Metres: nothing nearer than this to the camera is seen."""


def is_fine(vertices: NDArray[np.floating], faces: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return (F,): whether all edges of a face are at most `GRAIN_M` long."""
    return _longest_edge(vertices, faces) <= GRAIN_M


def surface_samples(vertices: NDArray[np.floating], faces: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return (S, 3) the points of a grid on each face with an edge longer than `GRAIN_M`, its corners left out.

    Faces that name no vertex, or one that is not finite, have none.
    """
    faces = np.asarray(faces, np.int64)
    faces = faces[np.all((faces >= 0) & (faces < len(vertices)), axis=1)]
    longest = _longest_edge(vertices, faces)
    longest = np.where(np.isfinite(longest), longest, 0.0)
    steps = np.ceil(longest / GRAIN_M)
    if (total := ((steps + 1) * (steps + 2) / 2)[steps > 1].sum()) > _MAX_SAMPLES:
        steps = np.ceil(longest / GRAIN_M / np.sqrt(total / _MAX_SAMPLES))
    steps = steps.astype(np.int64)
    found = [np.zeros((0, 3))]
    for number in np.unique(steps[steps > 1]).tolist():
        i, j = (axis.ravel() for axis in np.mgrid[: number + 1, : number + 1])
        kept = (i + j <= number) & ~np.isin(np.stack([i, j, number - i - j]).max(axis=0), number)
        weights = np.stack([i, j, number - i - j], axis=1)[kept] / number
        corners = np.asarray(vertices, np.float64)[faces[steps == number]]
        found.append(np.einsum("pc,fcx->fpx", weights, corners).reshape(-1, 3))
    rounded = np.unique(np.concatenate(found).round(3), axis=0)  # edges are shared by two faces
    return rounded.astype(np.float32)


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


def _longest_edge(vertices: NDArray[np.floating], faces: NDArray[np.integer]) -> NDArray[np.float64]:
    corners = np.asarray(vertices, np.float64)[faces]
    with np.errstate(invalid="ignore"):
        return np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(axis=1, initial=0.0)
