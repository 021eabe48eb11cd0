"""The floor of a scan: alpha shape of its vertices seen from above, its area and its outline. Metres, z up.

Source of the definition: VSI-Bench's generator (alpha shape with alpha = 5 on 10,000 points), arXiv 2504.00883
section 3.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import Delaunay, QhullError

Floats = NDArray[np.float64]

NUM_ALPHA_POINTS = 10_000
VOXEL_M = 0.05
Shape = tuple[Floats, NDArray[np.integer], NDArray[np.bool_]]
"""Points (P, 2), triangles (T, 3), and which triangles count."""


def alpha_shape(xy: NDArray[np.floating], alpha: float = 5.0, holes: str = "fill") -> Shape | None:
    """Return the alpha shape of `xy` (N, 2); None for fewer than three points or points on one line.

    A Delaunay triangle belongs to the shape if its circumradius is below 1 / alpha. With `holes="fill"` triangles
    that no chain of empty triangles joins to the outside count too, which equals polygonising the outline and
    uniting the parts as the `alphashape` package does; with `holes="keep"` they do not.

    Raises:
        ValueError: alpha <= 0 or an unknown `holes`.
    """
    if alpha <= 0 or holes not in ("fill", "keep"):
        raise ValueError(f"alpha={alpha}, holes={holes!r}: alpha > 0 and holes fill|keep are needed")
    points = np.unique(np.asarray(xy, dtype=np.float64), axis=0)
    if len(points) < 3:
        return None
    try:
        triangulation = Delaunay(points - points.mean(axis=0))
    except QhullError:
        return None
    corners = points[triangulation.simplices]
    product = np.prod([np.hypot(*(corners[:, i] - corners[:, i - 1]).T) for i in range(3)], axis=0)
    # circumradius = abc / (4 area) < 1 / alpha, written without a division by a vanishing area
    kept = product * alpha < 4 * _triangle_areas(corners)
    if holes == "fill":
        kept |= ~_open_to_outside(~kept, np.asarray(triangulation.neighbors))
    return points, triangulation.simplices, kept


def _triangle_areas(corners: Floats) -> Floats:
    first, second = corners[:, 0] - corners[:, 2], corners[:, 1] - corners[:, 0]
    return np.abs(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]) / 2


def shape_area(shape: Shape | None) -> float:
    """Return the area in square metres."""
    return 0.0 if shape is None else float(_triangle_areas(shape[0][shape[1]])[shape[2]].sum())


def shape_outlines(shape: Shape | None) -> list[Floats]:
    """Return the closed outlines (K, 2), largest first; a last point equal to the first is left out.

    The area inside them (less that of kept holes) is `shape_area`.
    """
    if shape is None:
        return []
    points, triangles, kept = shape
    edges = np.sort(triangles[kept][:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    border, uses = np.unique(edges, axis=0, return_counts=True)
    ends: dict[int, list[int]] = {}
    for a, b in border[uses == 1].tolist():
        ends.setdefault(a, []).append(b)
        ends.setdefault(b, []).append(a)
    loops = []
    while ends:
        start = at = next(iter(ends))
        loop = []
        while at in ends:
            loop.append(at)
            step = ends[at].pop()
            ends[step].remove(at)
            for done in (at, step):
                if not ends[done]:
                    del ends[done]
            at = step
            if at == start:
                break
        loops.append(points[loop])
    return sorted(loops, key=lambda loop: -abs(_signed_area(loop)))


def _signed_area(loop: Floats) -> float:
    x, y = loop.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2


def _open_to_outside(empty: NDArray[np.bool_], neighbors: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Say which triangles are empty and joined, edge by edge through empty ones, to the outside; -1 = outside."""
    outside = len(empty)
    linked = np.append(empty, True)
    start = np.repeat(np.arange(outside), 3)
    end = np.where(neighbors.ravel() < 0, outside, neighbors.ravel())
    open_edge = linked[start] & linked[end]
    graph = coo_matrix((np.ones(open_edge.sum()), (start[open_edge], end[open_edge])), shape=(outside + 1,) * 2)
    component = np.asarray(connected_components(graph, directed=False)[1])
    return empty & np.equal(component[:-1], component[-1])


def room_floor(
    vertices: NDArray[np.floating],
    alpha_points: str = "random10k",
    seed_name: str = "",
    *,
    alpha: float = 5.0,
    holes: str = "fill",
) -> tuple[float | None, list[Floats]]:
    """Return the floor area of a scan in square metres, None if its vertices span no area, and the floor's outlines.

    Args:
        vertices: all mesh vertices (N, 3) in metres, z up.
        alpha_points: "random10k" 10,000 points drawn with replacement, as VSI-Bench does (20 m2 come out as 19.7);
            "voxel5cm" one point per occupied 5 cm cell, and at the border the corners of what the cell holds.
        seed_name: the draw depends on this name alone (the scan id).
        alpha, holes: see `alpha_shape`.

    Returns:
        The area, and outlines (K, 2) in metres, largest first.

    Raises:
        ValueError: unknown `alpha_points` or `holes`, or alpha <= 0.
    """
    shape = alpha_shape(_floor_points(vertices, alpha_points, seed_name), alpha, holes)
    return shape_area(shape) or None, shape_outlines(shape)


def surface_sample(
    vertices: NDArray[np.floating], faces: NDArray[np.integer], seed_name: str = "", number: int = 100_000
) -> Floats:
    """Return points (number, 3) drawn evenly over the surface of a mesh, for meshes whose vertices lie unevenly.

    A face is drawn by its area, the point in it uniformly (barycentric coordinates of two uniform numbers, folded).
    Without a face of any area the vertices themselves are returned.

    Args:
        vertices: (V, 3) metres, all finite.
        faces: (F, 3) vertex numbers.
        seed_name: the draw depends on this name alone (the scan id).
    """
    # Axis by axis and in float32: two million faces take a fifth of a second, and areas need no more digits.
    axes = np.ascontiguousarray((vertices - vertices.mean(axis=0)).T, dtype=np.float32)
    first, second, third = (np.ascontiguousarray(faces[:, k]) for k in range(3))
    ax, ay, az = (axis[second] - axis[first] for axis in axes)
    bx, by, bz = (axis[third] - axis[first] for axis in axes)
    squares = (ay * bz - az * by) ** 2 + (az * bx - ax * bz) ** 2 + (ax * by - ay * bx) ** 2
    upto = np.cumsum(np.sqrt(squares), dtype=np.float64)
    if not len(upto) or not upto[-1] > 0:
        return np.asarray(vertices, dtype=np.float64)
    rng = np.random.default_rng(_seed_of(f"surface {seed_name}"))
    drawn = np.minimum(np.searchsorted(upto, rng.random(number) * upto[-1], side="right"), len(upto) - 1)
    u, v = rng.random((2, number, 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    a, b, c = (np.asarray(vertices[corner[drawn]], dtype=np.float64) for corner in (first, second, third))
    return a + u * (b - a) + v * (c - a)


def _floor_points(vertices: NDArray[np.floating], alpha_points: str, seed_name: str) -> Floats:
    xy = np.asarray(vertices, dtype=np.float64)[:, :2]
    xy = xy[np.isfinite(xy).all(axis=1)]
    if len(xy) < 3:
        return xy
    if alpha_points == "random10k":
        return xy[np.random.default_rng(_seed_of(seed_name)).integers(0, len(xy), NUM_ALPHA_POINTS)]
    if alpha_points == "voxel5cm":
        return _voxel_points(xy)
    raise ValueError(f"alpha_points={alpha_points!r}: random10k or voxel5cm")


def _seed_of(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def _voxel_points(xy: Floats) -> Floats:
    """Thin `xy` to one mean per inner 5 cm cell; a cell with an empty neighbour keeps the corners of its points.

    Means alone would pull the outline in by half a cell (2.5 % of a 4 x 4 m room); the corners keep it in place.
    """
    cells = np.floor(xy / VOXEL_M).astype(np.int64)
    cells -= cells.min(axis=0) - 1
    width = int(cells[:, 1].max()) + 2
    keys, inverse, counts = np.unique(cells[:, 0] * width + cells[:, 1], return_inverse=True, return_counts=True)
    order = np.argsort(inverse, kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    low = np.minimum.reduceat(xy[order], starts)
    high = np.maximum.reduceat(xy[order], starts)
    mean = np.add.reduceat(xy[order], starts) / counts[:, None]
    steps = np.array([i * width + j for i in (-1, 0, 1) for j in (-1, 0, 1)])
    inner = np.isin(keys[:, None] + steps, keys).all(axis=1)
    border_low, border_high = low[~inner], high[~inner]
    corners = [
        np.stack([x[:, 0], y[:, 1]], axis=1) for x in (border_low, border_high) for y in (border_low, border_high)
    ]
    return np.concatenate([mean[inner], *corners])
