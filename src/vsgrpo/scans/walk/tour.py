"""Put chosen views in an order that can be walked, and add half-way views.

Distances are walked ones: round the bed, not through it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from vsgrpo.scans.walk.camera_plan import View
from vsgrpo.scans.walk.floor_map import CELL, FloorMap

_WALKABLE = 0.1
"""Metres of clearance on the way between two standing places; a doorway is often narrower than a standing place."""
_DETOUR = 3.0
"""Metres added to the straight line where no way is known (a closed door, another room)."""


def num_key_views(num_frames: int) -> int:
    """Return how many key views a walk of `num_frames` has: those at even indices, and the last frame."""
    return num_frames // 2 + 1


def film_order(views: list[View], floor_map: FloorMap, num_frames: int, cost_of: Callable[[View], float]) -> list[View]:
    """Return `num_frames` views: the key views in walking order at even indices, half-way views between them.

    With an odd number, linspace over the frames with (num_frames + 1) / 2 picks exactly the key views. With an even
    number the last two frames are both key views.

    Args:
        cost_of: how unpleasant a view is (0 is good); a half-way view into a wall is turned or moved along the way.
    """
    paths = _walking_paths(views, floor_map)
    turn = np.abs(_turns(views))
    order = order_tour(paths.metres + turn / 60)
    walk = [views[order[0]]]
    for a, b in pairwise(order):
        walk += [_between(paths, a, b, views, cost_of), views[b]]
    if num_frames % 2 == 0:
        del walk[-2]
    return walk


def _between(paths: _Paths, a: int, b: int, views: list[View], cost_of: Callable[[View], float]) -> View:
    """Return the half-way view, or where that is unpleasant the best of its neighbours in place and heading."""
    half = ((views[b].yaw_degrees - views[a].yaw_degrees + 180) % 360 - 180) / 2
    best, least = views[a], math.inf
    for share, turn in [(0.5, 0), *((s, t) for s in (0.5, 0.3, 0.7) for t in (-25, 25, -50, 50))]:
        x, y = paths.along(a, b, share)
        view = View(x, y, (views[a].yaw_degrees + half + turn) % 360)
        cost = cost_of(view) + 0.5 * abs(share - 0.5) + 0.002 * abs(turn)
        if cost < least:
            best, least = view, cost
        if least < 0.05:
            break
    return best


def _turns(views: list[View]) -> NDArray[np.float64]:
    """Return the turn in degrees from each view's heading to each other's, -180..180, shape (K, K)."""
    yaw = np.array([v.yaw_degrees for v in views])
    return (yaw - yaw[:, None] + 180) % 360 - 180


class _Paths(NamedTuple):
    """Shortest ways over free floor between K places.

    Attributes:
        metres: (K, K) walked distance.
        linked: (K, K) bool, a way is known.
        before: (K, nodes) the node before each node on the way from place k.
        nodes: (K,) node of each place.
        length: (K, nodes) walked metres from place k.
        cells: (nodes, 2) map cell of each node.
        floor_map: the map.
    """

    metres: NDArray[np.float64]
    linked: NDArray[np.bool_]
    before: NDArray[np.int32]
    nodes: NDArray[np.int64]
    length: NDArray[np.float64]
    cells: NDArray[np.int64]
    floor_map: FloorMap

    def along(self, start: int, end: int, share: float) -> tuple[float, float]:
        """Return world x, y of the standing place nearest to `share` of the way from place `start` to place `end`."""
        ends = self.floor_map.centers(self.cells[self.nodes[[start, end]]])
        point = ends[0] + share * (ends[1] - ends[0])
        if self.linked[start, end]:
            node = self.nodes[end]
            while self.length[start, node] > self.metres[start, end] * share:
                node = self.before[start, node]
            point = self.floor_map.centers(self.cells[node])
        x, y = self.floor_map.nearest_stand(point[None])[0]
        return float(x), float(y)


def _walking_paths(views: list[View], floor_map: FloorMap) -> _Paths:
    """Return shortest ways between the places of `views`, steps to the 8 neighbour cells."""
    walkable = floor_map.room >= _WALKABLE
    cells = np.argwhere(walkable)
    number = np.full(walkable.shape, -1)
    number[walkable] = np.arange(len(cells))
    starts, ends, steps = [], [], []
    for across, along in ((0, 1), (1, 0), (1, 1), (1, -1)):
        # The map has an empty margin, so neighbours never leave it.
        neighbour = number[cells[:, 0] + across, cells[:, 1] + along]
        linked = np.flatnonzero(neighbour >= 0)
        starts.append(linked)
        ends.append(neighbour[linked])
        steps.append(np.full(len(linked), CELL * math.hypot(across, along)))
    pairs = (np.concatenate(starts), np.concatenate(ends))
    graph = sparse.csr_matrix((np.concatenate(steps), pairs), shape=(len(cells), len(cells)))
    place = np.array([(v.x, v.y) for v in views])
    at = floor_map.cell_of(place)
    nodes = number[at[:, 0], at[:, 1]]
    length, before = csgraph.dijkstra(graph, directed=False, indices=nodes, return_predecessors=True)
    metres = length[:, nodes]
    linked = np.isfinite(metres)
    straight = np.linalg.norm(place[:, None] - place, axis=2)
    return _Paths(np.where(linked, metres, straight + _DETOUR), linked, before, nodes, length, cells, floor_map)


def order_tour(step: NDArray[np.float64]) -> list[int]:
    """Return the order of an open tour: nearest neighbour from every start, best of all by 2-opt.

    Args:
        step: (K, K) cost of each step, symmetric.
    """
    tours = [_two_opt(_nearest_neighbour(step, start), step) for start in range(len(step))]
    return min(tours, key=lambda tour: round(sum(step[a, b] for a, b in pairwise(tour)), 9))


def _nearest_neighbour(step: NDArray[np.float64], start: int) -> list[int]:
    """Return a tour that always goes on to the nearest place left."""
    tour, left = [start], set(range(len(step))) - {start}
    while left:
        tour.append(min(left, key=lambda n: (step[tour[-1], n], n)))
        left.remove(tour[-1])
    return tour


def _two_opt(tour: list[int], step: NDArray[np.float64]) -> list[int]:
    """Reverse stretches of an open tour while that shortens it."""
    number = len(tour)
    # Row and column `number` are a place off the tour that costs nothing to reach: both ends of the tour touch it.
    cost = np.pad(step, (0, 1)).tolist()
    tour = [number, *tour, number]
    improved = True
    while improved:
        improved = False
        for i in range(1, number):
            for j in range(i + 1, number + 1):
                a, b, c, d = tour[i - 1], tour[i], tour[j], tour[j + 1]
                if cost[a][c] + cost[b][d] < cost[a][b] + cost[c][d] - 1e-9:
                    tour[i : j + 1] = tour[i : j + 1][::-1]
                    improved = True
    return tour[1:-1]
