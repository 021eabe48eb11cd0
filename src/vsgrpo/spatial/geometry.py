"""Boxes, distances between boxes and bearings (floor area: `floor`): metres, z up, exact and vectorised.

Source of the definitions: VSI-Bench's generator (closest point between oriented boxes) and arXiv 2504.00883 section 3
(centroid distance).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vsgrpo.spatial.scene import Box, SceneObject

Floats = NDArray[np.float64]

_PAIRS_PER_CHUNK = 4096
_FRAMES_PER_CHUNK = 512


# --- fitting boxes ---


def fit_box(points: NDArray[np.floating], kind: str = "upright_min") -> Box:
    """Return the box of `points` (N, 3) in metres.

    Args:
        points: vertices of one instance in the axis-aligned frame.
        kind: "upright_min" the smallest rectangle of the floor plan times the height; "aabb" axis-aligned;
            "min_obb" the smallest box with one side on a face of the convex hull and one edge along an edge of it.

    Raises:
        ValueError: no points, a coordinate that is not finite, or an unknown kind.
    """
    cloud = np.asarray(points, dtype=np.float64)
    if cloud.ndim != 2 or cloud.shape[1] != 3 or len(cloud) == 0 or not np.isfinite(cloud).all():
        raise ValueError(f"points of shape {cloud.shape}: finite (N, 3) with N >= 1 is needed")
    if kind not in _FITTERS:
        raise ValueError(f"kind={kind!r}: one of {sorted(_FITTERS)}")
    return _FITTERS[kind](cloud)


def _fit_min_obb(points: Floats) -> Box:
    """Try the frame (edge, normal x edge, normal) of every hull face and edge, keep the smallest volume.

    Deviation: Open3D (<= 0.18) tries one edge per face; three edges never give a larger box.
    """
    hull = _hull(points)
    if hull is None:
        return _fit_flat(points)
    corners = points[hull.vertices]
    triangles = points[hull.simplices]
    edges = np.concatenate([triangles[:, i] - triangles[:, i - 1] for i in range(3)])
    normals = np.tile(hull.equations[:, :3], (3, 1))
    edges = edges - (edges * normals).sum(axis=1, keepdims=True) * normals
    length = np.linalg.norm(edges, axis=1)
    usable = length > 1e-9
    edges, normals = edges[usable] / length[usable, None], normals[usable]
    frames = np.stack([edges, np.cross(normals, edges), normals], axis=1)
    volumes = np.empty(len(frames))
    for start in range(0, len(frames), _FRAMES_PER_CHUNK):
        projected = frames[start : start + _FRAMES_PER_CHUNK] @ corners.T
        volumes[start : start + _FRAMES_PER_CHUNK] = np.ptp(projected, axis=2).prod(axis=1)
    return _box_in_frame(points, frames[_first_smallest(volumes)])


def _fit_flat(points: Floats) -> Box:
    """Return the smallest rectangle, in its own plane, of points that span no volume."""
    triangle = np.linalg.qr(points - points.mean(axis=0), mode="r")  # at most 3 x 3, with the cloud's right vectors
    _, _, basis = np.linalg.svd(triangle, full_matrices=True)
    basis = basis * np.sign(np.linalg.det(basis))
    return _box_in_frame(points, _upright_axes(points @ basis[:2].T) @ basis)


_FITTERS: dict[str, Callable[[Floats], Box]] = {
    "upright_min": lambda points: _box_in_frame(points, _upright_axes(points[:, :2])),
    "aabb": lambda points: _box_in_frame(points, np.eye(3)),
    "min_obb": _fit_min_obb,
}


def _box_in_frame(points: Floats, axes: Floats) -> Box:
    low, high = (points @ axes.T).min(axis=0), (points @ axes.T).max(axis=0)
    return Box(centroid=(low + high) / 2 @ axes, axes_lengths=high - low, axes=axes)


def _upright_axes(xy: Floats) -> Floats:
    """Return the axes, one per row, of the upright box over the smallest rectangle round `xy` (N, 2).

    The rectangle is found by rotating calipers; its first axis is at [0, pi/2) to x.
    """
    hull = _hull(xy)
    if hull is not None:
        ring = xy[hull.vertices]
    else:  # fewer than three points, or all on a line: the rectangle lies along the line
        along = xy[:, np.ptp(xy, axis=0).argmax()]
        ring = xy[[along.argmin(), along.argmax()]]
    edges = np.roll(ring, -1, axis=0) - ring
    edges = edges[np.hypot(edges[:, 0], edges[:, 1]) > 1e-12]
    if len(edges) == 0:
        return np.eye(3)
    angles = np.sort(np.arctan2(edges[:, 1], edges[:, 0]) % (np.pi / 2))
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    areas = np.ptp(cos * ring[:, 0] + sin * ring[:, 1], axis=1) * np.ptp(cos * ring[:, 1] - sin * ring[:, 0], axis=1)
    angle = angles[_first_smallest(areas)]
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])


def _hull(points: Floats) -> Any:
    """Return scipy's convex hull of points (N, 2) or (N, 3), None where they span no area or volume."""
    from scipy.spatial import ConvexHull, QhullError  # here: a third of a second that config errors do not need

    try:
        return ConvexHull(points)
    except QhullError:
        return None


def _first_smallest(values: Floats) -> int:
    """Return the first index whose value equals the minimum up to rounding, so that ties do not depend on noise."""
    return int(np.flatnonzero(values <= values.min() * (1 + 1e-9) + 1e-15)[0])


# --- distances ---


def box_distances(rows: Sequence[Box], columns: Sequence[Box]) -> Floats:
    """Return the exact distances between two lists of boxes in metres, shape (len(rows), len(columns)).

    Two boxes overlap exactly when an edge of one meets the solid of the other (a box inside the other included).
    Otherwise the closest points lie on a corner and a box, or on two edges, so the least of the 16 corner-box and
    the 144 edge-edge distances is the answer: no iteration, no tolerance.

    Source: C. Ericson, Real-Time Collision Detection (2005), sections 5.1.9 (segments) and 5.3.3 (slabs).
    """
    pairs = list(product(rows, columns))
    out = np.empty(len(pairs))
    for start in range(0, len(pairs), _PAIRS_PER_CHUNK):
        part = slice(start, start + _PAIRS_PER_CHUNK)
        out[part] = _pair_distances(*(_Boxes(side) for side in zip(*pairs[part], strict=True)))
    return out.reshape(len(rows), len(columns))


def object_distances(rows: Sequence[SceneObject], columns: Sequence[SceneObject], distance: str) -> NDArray[np.float64]:
    """Return the distances between two lists of objects in metres, by centre or by closest point."""
    if distance == "closest_point":
        return box_distances([o.box for o in rows], [o.box for o in columns])
    centers = [np.array([o.box.centroid for o in items], dtype=np.float64).reshape(-1, 3) for items in (rows, columns)]
    return np.linalg.norm(centers[0][:, None] - centers[1][None], axis=2)


_SIGNS = np.array([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])
# Edge k runs along axis _EDGE_AXIS[k]; _EDGE_SIGNS[k] holds its middle in half lengths (0 along the edge itself).
_EDGE_AXIS = np.repeat(np.arange(3), 4)
_EDGE_SIGNS = np.array([np.insert([s, t], axis, 0.0) for axis in range(3) for s in (-1.0, 1.0) for t in (-1.0, 1.0)])


class _Boxes:
    """M boxes as arrays: centres (M, 3), half lengths (M, 3), axes as rows (M, 3, 3), edge middles less centre."""

    def __init__(self, boxes: Sequence[Box]) -> None:
        self.centers = np.array([b.centroid for b in boxes], dtype=np.float64)
        self.halves = np.array([b.axes_lengths for b in boxes], dtype=np.float64) / 2
        self.axes = np.array([b.axes for b in boxes], dtype=np.float64)
        self.middles = (_EDGE_SIGNS * self.halves[:, None]) @ self.axes
        self.corners = (_SIGNS * self.halves[:, None]) @ self.axes + self.centers[:, None]
        self.edge_dirs = self.axes[:, _EDGE_AXIS]
        self.edge_halves = self.halves[:, _EDGE_AXIS]


def _pair_distances(a: _Boxes, b: _Boxes) -> Floats:
    distance = np.minimum(_corner_distances(a, b), _corner_distances(b, a))
    distance = np.minimum(distance, _edge_distances(a, b))
    distance[_edge_meets_box(a, b) | _edge_meets_box(b, a)] = 0.0
    return distance


def _corner_distances(a: _Boxes, b: _Boxes) -> Floats:
    """Return the least distance of the corners of `a` to the solid `b`, (M,)."""
    local = np.abs((a.corners - b.centers[:, None]) @ b.axes.transpose(0, 2, 1))
    outside = np.maximum(local - b.halves[:, None], 0.0)
    return np.sqrt((outside**2).sum(axis=2).min(axis=1))


def _edge_meets_box(a: _Boxes, b: _Boxes) -> NDArray[np.bool_]:
    """Say whether an edge of `a` meets the solid `b`, (M,): slab test in the frame of `b`."""
    to_local = b.axes.transpose(0, 2, 1)
    middle = (a.middles + (a.centers - b.centers)[:, None]) @ to_local
    step = a.edge_dirs @ to_local
    half = b.halves[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        near, far = (-half - middle) / step, (half - middle) / step
    parallel = step == 0
    inside = np.abs(middle) <= half
    low = np.where(parallel, np.where(inside, -np.inf, np.inf), np.minimum(near, far)).max(axis=2)
    high = np.where(parallel, np.where(inside, np.inf, -np.inf), np.maximum(near, far)).min(axis=2)
    meets = np.maximum(low, -a.edge_halves) <= np.minimum(high, a.edge_halves)
    return np.asarray(meets.any(axis=1))


def _edge_distances(a: _Boxes, b: _Boxes) -> Floats:
    """Return the least distance of an edge of `a` to an edge of `b`, (M,).

    Points a(s) = r + s u and b(t) = t v with unit u, v, r = the edge middles' difference. The middle of an edge,
    seen from its centre, is perpendicular to the edge, which makes r.u and r.v cheap.
    """
    offset = a.centers - b.centers
    dot = (a.axes @ b.axes.transpose(0, 2, 1))[:, _EDGE_AXIS][:, :, _EDGE_AXIS]
    r_u = (
        np.einsum("mi,mki->mk", offset, a.axes)[:, _EDGE_AXIS, None]
        - (a.axes @ b.middles.transpose(0, 2, 1))[:, _EDGE_AXIS]
    )
    r_v = (
        np.einsum("mi,mki->mk", offset, b.axes)[:, None, _EDGE_AXIS]
        + (a.middles @ b.axes.transpose(0, 2, 1))[:, :, _EDGE_AXIS]
    )
    limit_s, limit_t = a.edge_halves[:, :, None], b.edge_halves[:, None]
    sine2 = 1.0 - dot * dot
    with np.errstate(divide="ignore", invalid="ignore"):
        s = np.where(sine2 > 1e-12, (dot * r_v - r_u) / sine2, 0.0)
    s = np.clip(s, -limit_s, limit_s)
    t = np.clip(dot * s + r_v, -limit_t, limit_t)
    s = np.clip(dot * t - r_u, -limit_s, limit_s)
    near = offset[:, None] + a.middles
    r_r = (near**2).sum(axis=2)[:, :, None] + (b.middles**2).sum(axis=2)[:, None]
    r_r -= 2 * (near @ b.middles.transpose(0, 2, 1))
    squared = r_r + s * (s + 2 * r_u) + t * (t - 2 * r_v - 2 * s * dot)
    # The sum above loses digits; it only picks the pair of edges, whose distance is then taken from the points.
    pick = squared.reshape(len(offset), -1).argmin(axis=1)
    row, i, j = np.arange(len(offset)), pick // 12, pick % 12
    gap = near[row, i] - b.middles[row, j]
    gap += s[row, i, j, None] * a.edge_dirs[row, i] - t[row, i, j, None] * b.edge_dirs[row, j]
    return np.sqrt((gap**2).sum(axis=1))


# --- bearings ---


def bearing_degrees(standing: Floats, facing: Floats, target: Floats) -> Floats:
    """Return where `target` lies when one stands at `standing` and faces `facing`: degrees in [0, 360).

    Seen from above, 0 straight ahead, counter-clockwise positive: 90 is left, 180 behind, 270 right. Heights are
    ignored. Source: theta = atan2(cross(f, q), dot(f, q)) with f = facing - standing, q = target - standing.

    Args:
        standing, facing, target: points (..., 2 or 3) that broadcast.
    """
    f = (facing - standing)[..., :2]
    q = (target - standing)[..., :2]
    cross = f[..., 0] * q[..., 1] - f[..., 1] * q[..., 0]
    degrees = np.degrees(np.arctan2(cross, (f * q).sum(axis=-1))) % 360.0
    return np.where(degrees >= 360.0, 0.0, degrees)  # a tiny negative angle rounds to 360
