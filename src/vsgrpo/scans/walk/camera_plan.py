"""Choose the views of a walk: few views that together show every object of a scan, at least twice.

Candidates are standing places x headings; each is drawn once at low resolution with object numbers, and a greedy set
cover picks the key views. No video is needed to know what a video would show.

Legend: K views, N objects.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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


@dataclass(frozen=True)
class View:
    """A camera's place and heading: world x, y in metres and yaw in degrees (see `Camera`)."""

    x: float
    y: float
    yaw_degrees: float


@dataclass(frozen=True)
class Lens:
    """What all views of a walk share: eye height above z = 0 in metres, pitch, field of view, frame size in pixels."""

    eye_z: float
    pitch_degrees: float
    hfov_degrees: float
    width: int
    height: int

    def camera(self, view: View, width: int | None = None) -> Camera:
        """Return the camera of a view, at another width if given (same aspect)."""
        width = width or self.width
        height = max(round(self.height * width / self.width), 1)
        eye = (view.x, view.y, self.eye_z)
        return Camera(eye, view.yaw_degrees, self.pitch_degrees, width, height, self.hfov_degrees)


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


def candidate_views(floor_map: FloorMap) -> list[View]:
    """Return standing places on a grid x 8 headings.

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
    return [View(float(x), float(y), 360.0 * k / NUM_YAWS) for x, y in places for k in range(NUM_YAWS)]


def _places(floor_map: FloorMap, step: float) -> NDArray[np.float64]:
    """Return world x, y of the roomiest standing cell of every square of `step` metres, shape (places, 2)."""
    cells = np.argwhere(floor_map.stand)
    size = max(round(step / CELL), 1)
    square = (cells[:, 0] // size) * (floor_map.stand.shape[1] // size + 1) + cells[:, 1] // size
    room = floor_map.room[cells[:, 0], cells[:, 1]]
    order = np.lexsort((np.arange(len(cells)), -room, square))
    _, first = np.unique(square[order], return_index=True)
    return floor_map.centers(cells[order[first]])


def look(surface: Surface, targets: Targets, views: list[View], lens: Lens) -> Sightings:
    """Draw every candidate view at low resolution and count pixels per target."""
    num_targets = len(targets.weights)
    pixels = np.zeros((len(views), num_targets), np.float32)
    cost = np.zeros(len(views))
    scale = (lens.width / LOW_WIDTH) ** 2
    for number, view in enumerate(views):
        raster = surface.draw(lens.camera(view, LOW_WIDTH))
        faces = raster.face[raster.face >= 0]
        objects, pieces = targets.object_of_face[faces], targets.piece_of_face[faces]
        count = np.bincount(objects[objects >= 0], minlength=num_targets) + np.bincount(pieces, minlength=num_targets)
        pixels[number] = count * scale
        cost[number] = _unpleasantness(raster, targets)
    return Sightings(pixels, cost)


def view_cost(surface: Surface, targets: Targets, view: View, lens: Lens) -> float:
    """Return how unpleasant a view is: 0 for a normal one, about 1 for a useless one."""
    return _unpleasantness(surface.draw(lens.camera(view, LOW_WIDTH)), targets)


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


def vertical_fov_degrees(hfov_degrees: float, width: int, height: int) -> float:
    """Return the vertical field of view of square pixels."""
    return math.degrees(2 * math.atan(math.tan(math.radians(hfov_degrees) / 2) * height / width))
