"""The question types that the paper holds out for evaluation: order of first appearance, and route planning.

Order of appearance: when a video first shows each category, and which sets of four are clear enough to ask.
Source: VSI-Bench (arXiv 2412.14171): a category appears when its pixels first pass a threshold, too close times are
ambiguous. The benchmark's threshold and gap are not published.
Deviation: thresholds are ours, and an order must hold twice: in all frames looked at (every 0.25 s of a recorded
video) and in the few frames a model is shown, else the answer would depend on how many frames were sampled.

Routes: made up over the free floor of a scan, from object to object in straight legs, with the turns between them.
Source: the form of VSI-Bench's route planning, whose routes people wrote; how a route is found is ours, so rows made
from it carry `extra.synthetic_route`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vsgrpo.spatial.question import Asking, Question, drawn_options, names_overlap
from vsgrpo.spatial.question_settings import AppearanceSettings, RouteSettings
from vsgrpo.spatial.scene import Box, Footage, FreeFloor, SceneObject

ORDER = "What will be the first-time appearance order of the following categories in the video: {categories}?"
_NUM_CATEGORIES = 4
_MOST_SETS = 20_000


def make_appearance_order(ask: Asking) -> list[Question]:
    """Ask in which order the video first shows four categories; none where the frames were not looked at."""
    if ask.scene.footage is None:
        return []
    members = {item.category: ask.scene.of_category(item.category) for item in ask.scene.objects}
    ids = {category: [o.instance_id for o in items] for category, items in members.items()}
    sights = first_sights(ask.scene.footage, ids, ask.settings.appearance)
    questions = []
    for order in clear_orders(sights, ask.settings.appearance.min_gap_s, ask.cap, ask.rng):
        listed = [order[k] for k in ask.rng.permutation(len(order))]
        text = ORDER.format(categories=", ".join(listed))
        objects = [members[category][0] for category in listed]
        questions.append(ask.choice(text, *order_options(order, ask.rng), objects))
    return questions


def order_options(order: Sequence[str], rng: np.random.Generator) -> tuple[tuple[str, ...], int]:
    """Return four different orders of the same categories joined by ", ", and the place of the right one."""
    return drawn_options(", ".join(order), order, lambda: rng.permutation(len(order)), 3, rng)


class FirstSight(NamedTuple):
    """When a category is first seen, in seconds: among all frames looked at, and among those a model is shown."""

    looked: float
    shown: float


def first_sights(
    footage: Footage, members: Mapping[str, Sequence[int]], settings: AppearanceSettings
) -> dict[str, FirstSight]:
    """Return when each category is first seen; categories seen too briefly, or in no frame shown, are left out.

    So is one that an earlier frame glimpses, among those looked at or among those shown: at every threshold between
    the glimpse and the one it is seen from, each category returned first appears in the same frame.

    Args:
        members: category -> its instance ids; their pixels in a frame add up.
    """
    least = max(settings.min_pixels, settings.min_share * footage.frame_pixels)
    times = np.array(footage.times, dtype=np.float64)
    shown = np.zeros(len(times), dtype=bool)
    shown[list(footage.shown)] = True
    none = np.zeros(len(times), dtype=np.int64)
    glimpse = max(1.0, min(least, settings.glimpse_share * footage.frame_pixels))
    sights = {}
    for category in sorted(members):
        counts = sum((np.array(footage.pixels[i]) for i in members[category] if i in footage.pixels), none)
        seen = counts >= least
        steady = in_runs(seen, settings.min_run)
        if seen.sum() < settings.min_frames or not (steady & shown).any():
            continue
        first, first_shown = int(steady.argmax()), int((steady & shown).argmax())
        glimpsed = counts >= glimpse
        if not glimpsed[:first].any() and not (glimpsed & shown)[:first_shown].any():
            sights[category] = FirstSight(float(times[first]), float(times[first_shown]))
    return sights


def in_runs(seen: NDArray[np.bool_], min_run: int) -> NDArray[np.bool_]:
    """Return which of (F,) frames belong to at least `min_run` consecutive true ones."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], seen, [False]])))
    steady = np.zeros(len(seen), dtype=bool)
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        steady[start:end] = end - start >= min_run
    return steady


def clear_orders(
    sights: Mapping[str, FirstSight], min_gap_s: float, limit: int | None, rng: np.random.Generator
) -> list[tuple[str, ...]]:
    """Return sets of four categories, each in order of appearance, at most `limit` of them in random order.

    Any two first appearances are `min_gap_s` apart, in the frames looked at and in those shown, in the same order;
    no name is part of another.
    """
    names = sorted(sights)
    times = np.array([sights[name] for name in names], dtype=np.float64).reshape(-1, 2).T
    gaps, shown = times[:, None] - times[:, :, None], times[1]
    # Not by a rounding error: 1.0 s apart is enough where 1.0 is asked.
    clear = (np.abs(gaps) > min_gap_s - 1e-9).all(axis=0) & (np.sign(gaps[0]) == np.sign(gaps[1]))
    for i, j in combinations(range(len(names)), 2):
        if names_overlap(names[i], names[j]):
            clear[i, j] = clear[j, i] = False
    found: list[tuple[int, ...]] = []
    for number in rng.permutation(len(names)):
        if len(found) >= _MOST_SETS:
            break
        mates = [k for k in np.flatnonzero(clear[number]).tolist() if shown[k] > shown[number]]
        found += [
            (int(number), *rest)
            for rest in combinations(sorted(mates, key=lambda k: shown[k]), _NUM_CATEGORIES - 1)
            if all(clear[a, b] for a, b in combinations(rest, 2))
        ]
    picked = [found[k] for k in rng.permutation(len(found))[:limit]]
    return [tuple(names[k] for k in chosen) for chosen in picked]


# --- routes ---

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
    questions = []
    for route in plan_routes(ask.scene.floor, [o.box for o in items], ask.cap, ask.rng, ask.settings.route):
        places = {"start": route.start, "facing": route.facing, "destination": route.stops[-1]}
        text = ROUTE.format(steps=route.steps(names), **{key: names[k] for key, k in places.items()})
        objects = [items[k] for k in dict.fromkeys((route.start, route.facing, *route.stops))]
        question = ask.choice(text, *route_options(route.answer, ask.rng), objects)
        question.extra["synthetic_route"] = True
        questions.append(question)
    return questions


def route_options(answer: str, rng: np.random.Generator) -> tuple[tuple[str, ...], int]:
    """Return three (one turn) or four different turn sequences of the same length, and the place of the right one."""
    length = answer.count(",") + 1
    num_wrong = 2 if length == 1 else 3
    return drawn_options(answer, TURNS, lambda: rng.integers(len(TURNS), size=length), num_wrong, rng)


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
    """Return the turn for a change of heading, counter-clockwise positive: left at 45 to 135 degrees, back from 150 on.

    None where it is no clear turn.
    """
    signed = (degrees + 180.0) % 360.0 - 180.0
    if abs(signed) >= 150:
        return "Turn Back"
    turn = "Turn Left" if signed > 0 else "Turn Right"
    return turn if 45 <= abs(signed) <= 135 else None


def plan_routes(
    floor: FreeFloor, boxes: Sequence[Box], limit: int, rng: np.random.Generator, settings: RouteSettings
) -> list[Route]:
    """Return up to `limit` different routes between the objects, found by random walks.

    A leg goes from where one stands straight towards the middle of the next object until one stands before it, over
    free cells only. Every turn is the same word measured between where one stands and between the objects' middles.
    """
    outlines = [_Outline(box) for box in boxes]
    routes: list[Route] = []
    if len(boxes) <= settings.legs[0] or not floor.free.any():
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
        flat = np.delete(np.arange(3), np.abs(box.axes[:, 2]).argmax())
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
        self._floor, self._outlines, self._settings = floor, outlines, settings
        self.path = [start]
        self._places: list[NDArray[np.float64]] = []
        self._heading_of_last_leg = 0.0
        self._turns: list[str | None] = []

    def go_to(self, number: int) -> bool:
        """Add a leg to an object if it is clear and the turn before it is; say whether it was."""
        if number in self.path:
            return False
        center = self._outlines[number].center
        start = self._places[-1] if self._places else self._leave(center)
        end = None if start is None else self._arrive(start, number)
        if start is None or end is None:
            return False
        if self._places:
            turn = _agreed(
                _heading(start, center) - self._heading_of_last_leg,
                _heading(self._center(-1), center) - _heading(self._center(-2), self._center(-1)),
            )
            if turn is None:
                return False
            self._turns.append(turn)
        else:
            self._places.append(start)
        self._heading_of_last_leg = _heading(start, center)
        self.path.append(number)
        self._places.append(end)
        return True

    def route(self, rng: np.random.Generator) -> Route | None:
        """Choose what one faces at the start: the first stop, or an object from which the first turn is clear."""
        start, first, *_ = self.path
        spots = (self._places[0], self._center(0))
        turned: list[tuple[int, str]] = []
        for number, outline in enumerate(self._outlines):
            word = _agreed(*(_heading(spot, self._center(1)) - _heading(spot, outline.center) for spot in spots))
            if word is not None and number not in (start, first):
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

    def _leave(self, towards: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Return the first free place on the way from the middle of the first object, None if it is too far away."""
        line = self._line(self._center(0), towards)
        place = line[self._is_free(line)][:1]
        is_near = (self._outlines[self.path[0]].distance(place) <= self._settings.max_reach).any()
        return place[0] if is_near else None

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
