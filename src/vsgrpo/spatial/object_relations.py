"""Questions that compare objects by their boxes: sizes, heights, counts, and the angle between two of them.

Training types of other sets (VSI-590K's relative sizes, angles and counts, VSTI-Bench's up and down), none of which
VSI-Bench asks. Wordings and margins are ours, the latter so that no answer is too close to call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from vsgrpo.spatial.geometry import bearing_degrees
from vsgrpo.spatial.question import Asking, Question, names_overlap, one_decimal
from vsgrpo.spatial.questions import fields_of, only_object, option_word, pattern_of
from vsgrpo.spatial.scene import Box, Scene, SceneObject

MIN_EDGE_RATIO = 1.3
MIN_VOLUME_RATIO = 1.5
MIN_HEIGHT_GAP_M = 0.10
"""Between the top of the lower object and the bottom of the higher one."""
MIN_ARM_M = 0.5
ANGLE_RANGE = (20.0, 170.0)
ANGLE_STEP = 5
MIN_COUNT_GAP = 2
MAX_COUNT = 20

LONGER = "Which has the longer longest edge, the {first} or the {second}?"
BIGGER = "Which takes up more space, the {first} or the {second}?"
HIGHER = "In the room, is the {first} higher up than the {second}, or lower?"
HIGHER_WORDS = ("higher", "lower")
ANGLE = (
    "If I stand by the {standing} facing the {facing}, by how many degrees (0-180) must I turn to face the {target}?"
)
MORE = "Which are there more of in the room, {first}(s) or {second}(s)?"
_READ = {text: pattern_of(text) for text in (LONGER, BIGGER, HIGHER, ANGLE, MORE)}


# --- two objects compared ---


def _pairs(ask: Asking) -> Iterator[tuple[SceneObject, SceneObject]]:
    """Yield all pairs of nameable objects that words tell apart, in random order, the two of a pair too."""
    items = ask.nameable_objects()
    both = [(a, b) for a, b in combinations(items, 2) if not names_overlap(a.category, b.category)]
    for place in ask.rng.permutation(len(both)):
        yield both[place] if ask.rng.integers(2) else both[place][::-1]


def _ask_larger(ask: Asking, sentence: str, sizes: dict[int, float], ratio: float) -> list[Question]:
    """Ask which of two objects is larger, where one is at least `ratio` times the other."""
    questions = []
    for pair in _pairs(ask):
        first, second = (sizes[item.instance_id] for item in pair)
        if min(first, second) > 0 and max(first, second) >= ratio * min(first, second):
            words = (pair[0].category, pair[1].category)
            order = [int(k) for k in ask.rng.permutation(2)]
            options = (words[order[0]], words[order[1]])
            right = order.index(0 if first > second else 1)
            text = sentence.format(first=words[0], second=words[1])
            questions.append(ask.choice(text, options, right, [pair[k] for k in order]))
    return questions[: ask.cap]


def make_rel_size(ask: Asking) -> list[Question]:
    """Ask which of two objects has the longer longest edge."""
    edges = {item.instance_id: longest_edge(item) for item in ask.scene.objects}
    return _ask_larger(ask, LONGER, edges, MIN_EDGE_RATIO)


def make_rel_volume(ask: Asking) -> list[Question]:
    """Ask which of two objects takes up more space: the one whose box has the larger volume."""
    volumes = {item.instance_id: volume_m3(item.size_box) for item in ask.scene.objects}
    return _ask_larger(ask, BIGGER, volumes, MIN_VOLUME_RATIO)


def longest_edge(item: SceneObject) -> float:
    """Return the longest edge of the box of its size, metres."""
    return float(np.max(item.size_box.axes_lengths))


def volume_m3(box: Box) -> float:
    """Return the volume of a box, cubic metres."""
    return float(np.prod(box.axes_lengths))


def _larger_letter(sentence: str, scene: Scene, question: str, options: Sequence[str], volume: bool) -> str | None:
    names = fields_of(_READ[sentence], question)
    first, second = (only_object(scene, names[key]) for key in ("first", "second"))
    if first is None or second is None:
        return None
    size = (lambda item: volume_m3(item.size_box)) if volume else longest_edge
    right = first.category if size(first) > size(second) else second.category
    return next((option[0] for option in options if option_word(option) == right), None)


def resolve_rel_size(scene: Scene, question: str, options: Sequence[str]) -> str | None:
    """Return the letter of the object with the longer longest edge."""
    return _larger_letter(LONGER, scene, question, options, volume=False)


def resolve_rel_volume(scene: Scene, question: str, options: Sequence[str]) -> str | None:
    """Return the letter of the object with the larger volume."""
    return _larger_letter(BIGGER, scene, question, options, volume=True)


def observe_rel_size(scene: Scene, question: Question, objects: Sequence[SceneObject], distance: str) -> str:
    """Name both longest edges."""
    return _both(objects, [f"{round(100 * longest_edge(item))} cm long" for item in objects])


def observe_rel_volume(scene: Scene, question: Question, objects: Sequence[SceneObject], distance: str) -> str:
    """Name both boxes."""
    return _both(objects, [edges_text(item.size_box) for item in objects])


def _both(objects: Sequence[SceneObject], texts: Sequence[str]) -> str:
    parts = [f"the {item.category} is {text}" for item, text in zip(objects[:2], texts, strict=False)]
    return f"I see that {parts[0]} and {parts[1]}."


def edges_text(box: Box) -> str:
    edges = sorted((round(100 * float(edge)) for edge in box.axes_lengths), reverse=True)
    return f"{edges[0]} by {edges[1]} by {edges[2]} cm"


def make_above_below(ask: Asking) -> list[Question]:
    """Ask whether an object is higher up than another: in the room, not in a picture, whose y tilts with the camera."""
    questions = []
    for pair in _pairs(ask):
        gap = height_gap(pair[0].box, pair[1].box)
        if abs(gap) > MIN_HEIGHT_GAP_M:
            words = HIGHER_WORDS if ask.rng.integers(2) else HIGHER_WORDS[::-1]
            right = words.index("higher" if gap > 0 else "lower")
            text = HIGHER.format(first=pair[0].category, second=pair[1].category)
            questions.append(ask.choice(text, words, right, pair))
    return questions[: ask.cap]


def height_gap(first: Box, second: Box) -> float:
    """Return by how much the first box lies above the second, negative below, 0 where their heights overlap; metres."""
    above, below = float(first.min[2] - second.max[2]), float(second.min[2] - first.max[2])
    return above if above > 0 else -below if below > 0 else 0.0


def resolve_above_below(scene: Scene, question: str, options: Sequence[str]) -> str | None:
    """Return the letter of "higher" or "lower", None where the heights overlap."""
    names = fields_of(_READ[HIGHER], question)
    first, second = (only_object(scene, names[key]) for key in ("first", "second"))
    if first is None or second is None or not (gap := height_gap(first.box, second.box)):
        return None
    word = "higher" if gap > 0 else "lower"
    return next((option[0] for option in options if option_word(option) == word), None)


def observe_above_below(scene: Scene, question: Question, objects: Sequence[SceneObject], distance: str) -> str:
    """Name how far up both centres are."""
    low = min(float(item.box.min[2]) for item in scene.objects)
    return _both(objects, [f"about {round(100 * (float(item.box.centroid[2]) - low))} cm up" for item in objects])


def make_rel_count(ask: Asking) -> list[Question]:
    """Ask of which of two categories there are more, where the counts differ by two or more."""
    usable = ask.usable_ids()
    counted = []
    for category, count in sorted(ask.scene.object_counts.items()):
        items = ask.scene.of_category(category)
        if 1 <= count <= MAX_COUNT and items and all(item.instance_id in usable and item.is_sound for item in items):
            counted.append((category, count, items))
    both = [(a, b) for a, b in combinations(counted, 2) if not names_overlap(a[0], b[0])]
    questions = []
    for place in ask.rng.permutation(len(both)):
        pair = both[place] if ask.rng.integers(2) else both[place][::-1]
        if abs(pair[0][1] - pair[1][1]) >= MIN_COUNT_GAP:
            order = [int(k) for k in ask.rng.permutation(2)]
            right = order.index(0 if pair[0][1] > pair[1][1] else 1)
            text = MORE.format(first=pair[0][0], second=pair[1][0])
            options = (pair[order[0]][0], pair[order[1]][0])
            questions.append(ask.choice(text, options, right, [*pair[0][2], *pair[1][2]]))
    return questions[: ask.cap]


def resolve_rel_count(scene: Scene, question: str, options: Sequence[str]) -> str | None:
    """Return the letter of the category with the higher count, None where they are equal or one is not there."""
    names = fields_of(_READ[MORE], question)
    first, second = (scene.object_counts.get(names[key], 0) for key in ("first", "second"))
    if not (first and second) or first == second:
        return None
    right = names["first"] if first > second else names["second"]
    return next((option[0] for option in options if option_word(option) == right), None)


def observe_rel_count(scene: Scene, question: Question, objects: Sequence[SceneObject], distance: str) -> str:
    """Name both counts."""
    counts = [(word, scene.object_counts[word]) for word in question.options or ()]
    return "I count " + " and ".join(f"{count} {word}(s)" for word, count in counts) + "."


# --- an angle between three objects ---


def make_abs_direction(ask: Asking) -> list[Question]:
    """Ask by how many degrees one turns from one object to another, standing by a third, to 5 degrees."""
    items = ask.nameable_objects()
    centers = np.array([item.box.centroid for item in items], dtype=np.float64).reshape(-1, 3)
    arms = np.linalg.norm(centers[:, None, :2] - centers[None, :, :2], axis=2)
    apart = np.array([[not names_overlap(a.category, b.category) for b in items] for a in items], dtype=bool)
    apart = apart.reshape(arms.shape)
    clear = apart & (arms >= MIN_ARM_M)
    triples = clear[:, :, None] & clear[:, None, :] & apart[None, :, :]
    standing, facing, target = np.nonzero(triples)
    angles = turn_degrees(centers[standing], centers[facing], centers[target])
    kept = np.flatnonzero((angles >= ANGLE_RANGE[0]) & (angles <= ANGLE_RANGE[1]))
    questions = []
    for k in ask.rng.permutation(kept)[: ask.cap]:
        objects = [items[index[k]] for index in (standing, facing, target)]
        names = dict(zip(("standing", "facing", "target"), (item.category for item in objects), strict=True))
        questions.append(ask.number(ANGLE.format(**names), _to_step(float(angles[k])), objects))
    return questions


def turn_degrees(
    standing: NDArray[np.float64], facing: NDArray[np.float64], target: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return by how much one turns from `facing` to `target`, seen from above: degrees in [0, 180]."""
    bearing = bearing_degrees(standing, facing, target)
    return np.minimum(bearing, 360.0 - bearing)


def _to_step(degrees: float) -> str:
    return str(ANGLE_STEP * round(degrees / ANGLE_STEP))


def resolve_abs_direction(scene: Scene, question: str, options: Sequence[str]) -> str | None:
    """Return the angle to turn by, to 5 degrees."""
    names = fields_of(_READ[ANGLE], question)
    standing, facing, target = (only_object(scene, names[key]) for key in ("standing", "facing", "target"))
    if standing is None or facing is None or target is None:
        return None
    return _to_step(float(turn_degrees(standing.box.centroid, facing.box.centroid, target.box.centroid)))


def observe_abs_direction(scene: Scene, question: Question, objects: Sequence[SceneObject], distance: str) -> str:
    """Name the three sides of the triangle, from which the angle follows."""
    centers = [item.box.centroid[:2] for item in objects[:3]]
    sides = [one_decimal(float(np.linalg.norm(centers[i] - centers[j]))) for i, j in ((0, 1), (0, 2), (1, 2))]
    at, facing, target = (item.category for item in objects[:3])
    return f"The {at} is {sides[0]} m from the {facing}, {sides[1]} m from the {target}; these are {sides[2]} m apart."
