"""Made-up routes over the free floor of a scan: from object to object in straight legs, with the turns between them.

Source: the form of VSI-Bench's route planning (arXiv 2412.14171), whose routes people wrote; how a route is found is
ours, so rows made from it carry `extra.synthetic_route`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vsgrpo.spatial.question import Asking, Question, RouteSettings, drawn_options, names_overlap
from vsgrpo.spatial.scene import Box, FreeFloor, SceneObject

# The benchmark's own sentences differ in small things (written by hand); this is their commonest form.
ROUTE = (
    "You are a robot beginning at the {start} and facing the {facing}. You want to navigate to the {destination}. "
    "You will perform the following actions (Note: for each [please fill in], choose either 'turn back,' "
    "'turn left,' or 'turn right.'): {steps}. You have reached the final destination."
)
ROUTE_FORWARD = "Go forward until the {stop}"
ROUTE_BLANK = "[please fill in]"
TURNS = ("Turn Left", "Turn Right", "Turn Back")
_TRIES_PER_ROUTE = 50
_ARRIVED = 0.2
"""Metres: so near to an object one has reached it."""


def make_route_planning(ask: Asking) -> list[Question]:
    """Ask for the turns of a made-up route over the free floor, between objects whose categories occur once."""
    if ask.scene.floor is None:
        return []
    items: list[SceneObject] = []
    for item in ask.nameable_objects():
        if not any(names_overlap(item.category, other.category) for other in items):
            items.append(item)
    names = [o.category for o in items]
    assert ask.cap is not None  # routes are found by trying: the type has a cap
    routes = plan_routes(ask.scene.floor, [o.box for o in items], ask.cap, ask.rng, ask.settings.route)
    questions = []
    for route in routes:
        places = {"start": route.start, "facing": route.facing, "destination": route.stops[-1]}
        text = ROUTE.format(steps=route.steps(names), **{key: names[k] for key, k in places.items()})
        objects = [items[k] for k in dict.fromkeys((route.start, route.facing, *route.stops))]
        question = ask.choice(text, *route_options(route.answer, ask.rng), objects)
        question.extra["synthetic_route"] = True
        questions.append(question)
    return questions


def route_options(answer: str, rng: np.random.Generator) -> tuple[tuple[str, ...], int]:
    """Return three (one turn) or four different turn sequences of the same length, and the place of the right one."""
    length = len(answer.split(", "))

    def draw() -> str:
        return ", ".join(TURNS[k] for k in rng.integers(len(TURNS), size=length))

    return drawn_options(answer, draw, 2 if length == 1 else 3, rng)


@dataclass(frozen=True)
class Route:
    """A route by object numbers.

    Attributes:
        start, facing: where it begins and what one looks at there.
        stops: the objects at the end of each leg.
        turns: one of `TURNS` before each leg; None before the first where one already faces the right way.
    """

    start: int
    facing: int
    stops: tuple[int, ...]
    turns: tuple[str | None, ...]

    @property
    def answer(self) -> str:
        """The turns to fill in, as options write them."""
        return ", ".join(turn for turn in self.turns if turn)

    def steps(self, names: Sequence[str]) -> str:
        """Return the numbered actions with blanks for the turns; `names` by object number."""
        actions = []
        for stop, turn in zip(self.stops, self.turns, strict=True):
            actions += [ROUTE_BLANK] if turn else []
            actions.append(ROUTE_FORWARD.format(stop=names[stop]))
        return " ".join(f"{number}. {action}" for number, action in enumerate(actions, start=1))


def turn_word(degrees: float) -> str | None:
    """Return the turn for a change of heading, counter-clockwise positive; None where it is no clear one.

    Left is 45 to 135 degrees, right the same to the other side, back 150 and more.
    """
    signed = (degrees + 180.0) % 360.0 - 180.0
    if abs(signed) >= 150:
        return "Turn Back"
    if 45 <= abs(signed) <= 135:
        return "Turn Left" if signed > 0 else "Turn Right"
    return None


def plan_routes(
    floor: FreeFloor, boxes: Sequence[Box], limit: int, rng: np.random.Generator, settings: RouteSettings
) -> list[Route]:
    """Return up to `limit` different routes between the objects, found by random walks.

    A leg goes from where one stands straight towards the middle of the next object until one stands before it, over
    free cells only. Every turn is the same word measured between where one stands and between the objects' middles.
    """
    outlines = [_Outline(box) for box in boxes]
    routes: list[Route] = []
    if len(boxes) < settings.legs[0] + 1 or not floor.free.any():
        return routes
    for _ in range(_TRIES_PER_ROUTE * limit):
        walk = _Walk(floor, outlines, settings, int(rng.integers(len(boxes))))
        for _ in range(int(rng.integers(settings.legs[0], settings.legs[1] + 1))):
            if not any(walk.go_to(int(number)) for number in rng.permutation(len(boxes))):
                break
        route = walk.route(rng) if len(walk.path) > settings.legs[0] else None
        if route is not None and all((route.start, route.stops) != (r.start, r.stops) for r in routes):
            routes.append(route)
        if len(routes) == limit:
            break
    return routes


class _Outline:
    """A box seen from above: its two axes that lie flattest span a rectangle."""

    def __init__(self, box: Box) -> None:
        upright = int(np.abs(box.axes[:, 2]).argmax())
        flat = [axis for axis in range(3) if axis != upright]
        self.center = np.asarray(box.centroid[:2], dtype=np.float64)
        lengths = np.hypot(box.axes[flat, 0], box.axes[flat, 1])
        self._axes = box.axes[flat, :2] / np.maximum(lengths, 1e-9)[:, None]
        self._halves = box.axes_lengths[flat] * lengths / 2

    def distance(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the metres from points (N, 2) to the rectangle, 0 inside."""
        outside = np.maximum(np.abs((xy - self.center) @ self._axes.T) - self._halves, 0.0)
        return np.hypot(outside[:, 0], outside[:, 1])


class _Walk:
    """A walk in the making: the objects passed and where one stands at each."""

    def __init__(self, floor: FreeFloor, outlines: Sequence[_Outline], settings: RouteSettings, start: int) -> None:
        self._floor = floor
        self._outlines = outlines
        self._settings = settings
        self.path = [start]
        self._places: list[NDArray[np.float64]] = []
        self._heading_of_last_leg = 0.0
        self._turns: list[str | None] = []

    def go_to(self, number: int) -> bool:
        """Add a leg to an object if it is clear and the turn before it is; say whether it was."""
        if number in self.path:
            return False
        start = self._places[-1] if self._places else self._leave(number)
        end = None if start is None else self._arrive(start, number)
        if start is None or end is None:
            return False
        if self._places:
            turn = _agreed(
                _heading(self._places[-1], self._outlines[number].center) - self._heading_of_last_leg,
                _heading(self._center(-1), self._outlines[number].center)
                - _heading(self._center(-2), self._center(-1)),
            )
            if turn is None:
                return False
            self._turns.append(turn)
        else:
            self._places.append(start)
        self._heading_of_last_leg = _heading(start, self._outlines[number].center)
        self.path.append(number)
        self._places.append(end)
        return True

    def route(self, rng: np.random.Generator) -> Route | None:
        """Choose what one faces at the start: the first stop, or an object from which the first turn is clear."""
        start, first, place = self.path[0], self.path[1], self._places[0]
        to_first = _heading(place, self._center(1)), _heading(self._center(0), self._center(1))
        turned: list[tuple[int, str]] = []
        for number, outline in enumerate(self._outlines):
            if number in (start, first):
                continue
            word = _agreed(
                to_first[0] - _heading(place, outline.center), to_first[1] - _heading(self._center(0), outline.center)
            )
            if word is not None:
                turned.append((number, word))
        facing, opening = first, None
        # As often straight ahead as not, however many objects stand around; one turn at least.
        if turned and (not self._turns or rng.random() < 0.5):
            facing, opening = turned[int(rng.integers(len(turned)))]
        if opening is None and not self._turns:
            return None
        return Route(start, facing, tuple(self.path[1:]), (opening, *self._turns))

    def _center(self, position: int) -> NDArray[np.float64]:
        return self._outlines[self.path[position]].center

    def _leave(self, towards: int) -> NDArray[np.float64] | None:
        """Return the first free place on the way from the middle of the first object to another one."""
        line = self._line(self._center(0), self._outlines[towards].center)
        free = np.flatnonzero(self._is_free(line))
        if len(free) == 0:
            return None
        near = self._outlines[self.path[0]].distance(line[free[:1]])[0] <= self._settings.max_reach
        return line[free[0]] if near else None

    def _arrive(self, start: NDArray[np.float64], number: int) -> NDArray[np.float64] | None:
        """Return where one stands after walking straight to an object, None if something else is in the way."""
        outline = self._outlines[number]
        line = self._line(start, outline.center)
        distance = outline.distance(line)
        blocked = ~self._is_free(line)
        ends = np.flatnonzero(blocked | (distance <= _ARRIVED))
        last = len(line) - 1 if len(ends) == 0 else int(ends[0]) - int(blocked[ends[0]])
        if last < 0 or distance[last] > self._settings.max_reach:
            return None
        low, high = self._settings.leg_range
        return line[last] if low <= float(np.hypot(*(line[last] - start))) <= high else None

    def _line(self, start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return points (N, 2) from start to end, two to a cell."""
        steps = int(np.ceil(2 * float(np.hypot(*(end - start))) / self._floor.cell)) + 1
        return start + np.linspace(0, 1, max(steps, 2))[:, None] * (end - start)

    def _is_free(self, xy: NDArray[np.float64]) -> NDArray[np.bool_]:
        cells = np.floor((xy - self._floor.origin) / self._floor.cell).astype(np.int64)
        inside = ((cells >= 0) & (cells < self._floor.free.shape)).all(axis=1)
        cells[~inside] = 0
        return inside & self._floor.free[cells[:, 0], cells[:, 1]]


def _agreed(*degrees: float) -> str | None:
    """Return the turn that all changes of heading mean, None if they differ or one is no clear turn."""
    words = {turn_word(value) for value in degrees}
    return words.pop() if len(words) == 1 else None


def _heading(start: NDArray[np.float64], end: NDArray[np.float64]) -> float:
    return float(np.degrees(np.arctan2(end[1] - start[1], end[0] - start[0])))
