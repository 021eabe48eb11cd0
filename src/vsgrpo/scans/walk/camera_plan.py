"""Plan a walk: few views that together show every object of a scan, at least twice, in an order that can be walked.

Candidates are standing places x headings; each is drawn once at low resolution with object numbers, and a greedy set
cover picks the key views. No video is needed to know what a video would show. Distances of the tour are walked ones:
round the bed, not through it.

A view is a `Camera`; those of a walk differ in place and yaw alone.
Legend: K views, N objects.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from vsgrpo.scans.walk.floor_map import CELL, FloorMap
from vsgrpo.scans.walk.rasterizer import Camera, Raster, Surface

LOW_WIDTH = 96
"""Pixels, width of the candidate views; the height follows the aspect of the frames."""
NUM_YAWS = 8
MAX_PLACES = 24
"""Standing places tried: 24 x 8 views of a 150k-face scan are about 2 CPU seconds."""
_STEPS = (0.8, 0.6, 0.45, 0.3)
_MARGIN = 1.6
"""Aim at 1.6 times the pixels that count as seen: the low-resolution count of small things is that uncertain."""
_SWEEPS = 6
_PIECES_SHARE = 0.2
"""Weight of all pieces of surface together against all objects: walls and corners should be seen too, but later."""

_WALKABLE = 0.1
"""Metres of clearance on the way between two standing places; a doorway is often narrower than a standing place."""
_DETOUR = 3.0
"""Metres added to the straight line where no way is known (a closed door, another room)."""


@dataclass(frozen=True)
class Targets:
    """What the walk should show: the annotated objects, and the surface in pieces.

    Attributes:
        object_of_face: (F,) int, 0..num_objects-1, -1 for none.
        piece_of_face: (F,) int, num_objects..N-1.
        num_objects: annotated objects; 0 in a scan without annotation.
        weights: (N,) float32.
    """

    object_of_face: NDArray[np.int64]
    piece_of_face: NDArray[np.int64]
    num_objects: int
    weights: NDArray[np.float32]


@dataclass(frozen=True)
class Sightings:
    """What the candidate views show.

    Attributes:
        pixels: (K, N) float32, pixels of each target, scaled to the full frame.
        cost: (K,) float64 >= 0, how unpleasant the view is: void, close-ups, one thing filling the frame.
    """

    pixels: NDArray[np.float32]
    cost: NDArray[np.float64]


def make_targets(object_of_face: NDArray, num_objects: int, piece_of_face: NDArray) -> Targets:
    """Weigh objects and pieces of surface; without objects the pieces alone lead the walk."""
    num_pieces = int(piece_of_face.max()) + 1
    piece = _PIECES_SHARE * num_objects / num_pieces if num_objects else 1.0
    weights = np.concatenate([np.ones(num_objects), np.full(num_pieces, piece)]).astype(np.float32)
    return Targets(object_of_face, piece_of_face + num_objects, num_objects, weights)


def candidate_views(floor_map: FloorMap, camera: Camera) -> list[Camera]:
    """Return `camera` at standing places on a grid x 8 headings.

    Per grid square the roomiest cell is taken. Small scans get a finer grid, so that there are at least 8 places where
    that is possible, large ones a coarser grid.
    """
    step = _STEPS[0]
    places = _places(floor_map, step)
    for finer in _STEPS[1:]:
        if len(places) >= 8:
            break
        step, places = finer, _places(floor_map, finer)
    while len(places) > MAX_PLACES:
        step *= 1.15
        places = _places(floor_map, step)
    return [camera.at(float(x), float(y), 360.0 * k / NUM_YAWS) for x, y in places for k in range(NUM_YAWS)]


def _places(floor_map: FloorMap, step: float) -> NDArray[np.float64]:
    """Return world x, y of the roomiest standing cell of every square of `step` metres, shape (places, 2)."""
    cells = np.argwhere(floor_map.stand)
    size = max(round(step / CELL), 1)
    square = (cells[:, 0] // size) * (floor_map.stand.shape[1] // size + 1) + cells[:, 1] // size
    room = floor_map.room[cells[:, 0], cells[:, 1]]
    order = np.lexsort((np.arange(len(cells)), -room, square))
    _, first = np.unique(square[order], return_index=True)
    return floor_map.centers(cells[order[first]])


def look(surface: Surface, targets: Targets, views: list[Camera]) -> Sightings:
    """Draw every candidate view at low resolution and count pixels per target."""
    num_targets = len(targets.weights)
    pixels = np.zeros((len(views), num_targets), np.float32)
    cost = np.zeros(len(views))
    for number, view in enumerate(views):
        raster = surface.draw(view.with_width(LOW_WIDTH))
        faces = raster.face[raster.face >= 0]
        objects, pieces = targets.object_of_face[faces], targets.piece_of_face[faces]
        count = np.bincount(objects[objects >= 0], minlength=num_targets) + np.bincount(pieces, minlength=num_targets)
        pixels[number] = count * (view.width / LOW_WIDTH) ** 2
        cost[number] = _unpleasantness(raster, targets)
    return Sightings(pixels, cost)


def view_cost(surface: Surface, targets: Targets, view: Camera) -> float:
    """Return how unpleasant a view is: 0 for a normal one, about 1 for a useless one."""
    return _unpleasantness(surface.draw(view.with_width(LOW_WIDTH)), targets)


def _unpleasantness(raster: Raster, targets: Targets) -> float:
    """Return 0 for a normal view, about 1 for a useless one.

    Thresholds by eye on frames of real scans: past them a frame is a blur of one surface or mostly filled-in shell.
    """
    objects = targets.object_of_face[raster.face[raster.face >= 0]]
    largest = np.bincount(objects[objects >= 0], minlength=1).max() / raster.face.size
    void = np.isinf(raster.depth).mean()
    near, close = (raster.depth < 0.45).mean(), (raster.depth < 1.0).mean()
    over = (4 * (near - 0.05), 2 * (close - 0.35), 4 * (void - 0.35), 2 * (largest - 0.45))
    return float(sum(max(part, 0.0) for part in over))


def choose_views(sightings: Sightings, weights: NDArray, num_views: int, min_pixels: int) -> list[int]:
    """Return the numbers of `num_views` views: greedy set cover, then swaps of one view while that helps.

    The value of a set is the weighted sum over targets of best + second-best sighting, each min(1, px / aim), plus a
    small bonus for all pixels, less the views' costs. Swaps matter: greedy alone left 5 of 45 objects of a real scan
    unseen, with swaps none. A view is taken twice only when views run out.
    """
    aim = np.float32(_MARGIN * min_pixels)
    chosen: list[int] = []
    for _ in range(num_views):
        chosen.append(int(np.argmax(_values(sightings, weights, aim, chosen))))
    for _ in range(_SWEEPS):
        before = list(chosen)
        for place in range(num_views):
            rest = chosen[:place] + chosen[place + 1 :]
            value = _values(sightings, weights, aim, rest)
            pick = int(np.argmax(value))
            if value[pick] > value[chosen[place]] + 1e-6:
                chosen[place] = pick
        if chosen == before:
            break
    return chosen


def _values(sightings: Sightings, weights: NDArray, aim: np.float32, chosen: list[int]) -> NDArray[np.float64]:
    """Return for every candidate the value of the set `chosen` + that candidate, up to a constant."""
    seen = np.minimum(sightings.pixels / aim, 1)
    ranked = np.sort(np.concatenate([seen[chosen], np.zeros((2, seen.shape[1]), np.float32)]), axis=0)
    second, best = ranked[-2:]
    total = sightings.pixels + sightings.pixels[chosen].sum(0)
    gain = np.maximum(best, seen) + np.maximum(second, np.minimum(best, seen)) + 0.02 * np.log1p(total / aim)
    value = (gain * weights).sum(1) - 2 * sightings.cost
    np.subtract.at(value, chosen, 1e6)
    return value


# --- the tour ---


def num_key_views(num_frames: int) -> int:
    """Return how many key views a walk of `num_frames` has: those at even indices, and the last frame."""
    return num_frames // 2 + 1


def film_order(
    views: list[Camera], floor_map: FloorMap, num_frames: int, cost_of: Callable[[Camera], float]
) -> list[Camera]:
    """Return `num_frames` views: the key views in walking order at even indices, half-way views between them.

    With an odd number, linspace over the frames with (num_frames + 1) / 2 picks exactly the key views. With an even
    number the last two frames are both key views.

    Args:
        cost_of: how unpleasant a view is (0 is good); a half-way view into a wall is turned or moved along the way.
    """
    paths = _walking_paths(views, floor_map)
    yaw = np.array([view.yaw_degrees for view in views])
    turn = np.abs((yaw - yaw[:, None] + 180) % 360 - 180)
    order = order_tour(paths.metres + turn / 60)
    walk = [views[order[0]]]
    for a, b in pairwise(order):
        walk += [_between(paths, a, b, views, cost_of), views[b]]
    if num_frames % 2 == 0:
        del walk[-2]
    return walk


def _between(paths: _Paths, a: int, b: int, views: list[Camera], cost_of: Callable[[Camera], float]) -> Camera:
    """Return the half-way view, or where that is unpleasant the best of its neighbours in place and heading."""
    half = ((views[b].yaw_degrees - views[a].yaw_degrees + 180) % 360 - 180) / 2
    best, least = views[a], math.inf
    for share, turn in [(0.5, 0), *((s, t) for s in (0.5, 0.3, 0.7) for t in (-25, 25, -50, 50))]:
        x, y = paths.along(a, b, share)
        view = views[a].at(x, y, (views[a].yaw_degrees + half + turn) % 360)
        cost = cost_of(view) + 0.5 * abs(share - 0.5) + 0.002 * abs(turn)
        if cost < least:
            best, least = view, cost
        if least < 0.05:
            break
    return best


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


def _walking_paths(views: list[Camera], floor_map: FloorMap) -> _Paths:
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
    place = np.array([view.eye[:2] for view in views])
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
