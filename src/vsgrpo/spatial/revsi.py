"""Questions by the rules of ReVSI (data.mode=revsi): what is not asked, and the types that it adds.

ReVSI looks again at VSI-Bench. Not asked are distances below a metre, directions from large objects or between near
ones, sizes that everybody knows, and names that mean many things; asked are also counts of one, sums of two categories,
the farthest object, directions with one's back to an object, and sizes in metres. The list of ambiguous names is ours
(ReVSI prints none). Left out: the "main room" of its room sizes, which needs the outlines of rooms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from vsgrpo.spatial.directions import WORDS, clear_triples, direction_word
from vsgrpo.spatial.geometry import bearing_degrees, object_distances
from vsgrpo.spatial.question import Asking, Question, QuestionType, names_overlap
from vsgrpo.spatial.questions import draw_candidates, fields_of, only_object, option_word, pattern_of, with_distance
from vsgrpo.spatial.scene import Box, Scene, SceneObject

MODE = "revsi"
AMBIGUOUS = frozenset(
    ("shoe", "shoes", "clothes", "clothing", "paper", "papers", "bag", "bags", "box", "boxes", "stuff")
)
AMBIGUOUS |= {"object", "objects", "item", "items", "decoration", "board", "structure", "material", "cloth"}
KNOWN_SIZES = frozenset(("bed", "toilet"))
DIRECTION_TASK = "object_rel_direction"
MIN_DISTANCE_M = 1.0
MAX_FOOTPRINT_M2 = 1.0
MAX_SUM = 20
_MAX_SPREAD_M = 0.3
_SETS = 12
SUM = "How many {first}(s) and {second}(s) are in the scene in total?"
SIZE_M = "What is the length of the longest dimension (length, width, or height) of the {category}, measured in meters?"
FARTHEST = "Which of these objects ({options}) is the farthest from the {category}?"
BEHIND = (
    "If I am standing by the {standing} with the {facing} behind me, is the {target} to my left, right, or back?\n"
    "An object is to my back if I would have to turn at least 135 degrees in order to face it."
)
_BEHIND, _SIZE_M = pattern_of(BEHIND), pattern_of(SIZE_M)


@dataclass(frozen=True)
class Asked:
    """What the rules look at, of a question of ours or of a row of any benchmark.

    Attributes:
        kind: type of the question.
        names: categories it speaks of; None: not known.
        answer: number text, or the word of a choice.
        boxes: of its objects in their order; None: not known.
    """

    kind: QuestionType
    names: frozenset[str] | None
    answer: str
    boxes: tuple[Box, ...] | None


@dataclass(frozen=True)
class Rule:
    """One rule of ReVSI.

    Attributes:
        name: what a question does that breaks it.
        about: whether it is about a type of question.
        is_broken: whether a question breaks it; None: what it needs is not known.
    """

    name: str
    about: Callable[[QuestionType], bool]
    is_broken: Callable[[Asked], bool | None]


def _is_direction(kind: QuestionType) -> bool:
    return kind.task == DIRECTION_TASK


def _stands_by_large(asked: Asked) -> bool | None:
    return None if asked.boxes is None else footprint_m2(asked.boxes[0]) > MAX_FOOTPRINT_M2


def _is_near(asked: Asked) -> bool | None:
    if asked.boxes is None:
        return None
    pairs = combinations([box.centroid for box in asked.boxes], 2)
    return any(bool(np.linalg.norm(first - second) < MIN_DISTANCE_M) for first, second in pairs)


RULES = (
    Rule(
        "a name that means many things",
        lambda kind: kind.picture != "floor",
        lambda asked: None if asked.names is None else not AMBIGUOUS.isdisjoint(asked.names),
    ),
    Rule(
        "a distance below 1 m",
        lambda kind: kind.picture == "segment",
        lambda asked: float(asked.answer) < MIN_DISTANCE_M,
    ),
    Rule(
        "a size that everybody knows",
        lambda kind: kind.balance == "category",
        lambda asked: None if asked.names is None else not KNOWN_SIZES.isdisjoint(asked.names),
    ),
    Rule("standing by an object of more than 1 m2", _is_direction, _stands_by_large),
    Rule("centres less than 1 m apart", _is_direction, _is_near),
)
"""What ReVSI does not ask. That counts are right, and that a size is the main room's, no row and no box tells."""


def fault_of(scene: Scene, question: Question) -> str | None:
    """Return the first rule of ReVSI that a question breaks, None where it may be asked."""
    names = frozenset(ref.category for ref in question.objects)
    asked = Asked(question.type, names, question.answer, boxes_of(scene, [ref.instance_id for ref in question.objects]))
    return next((rule.name for rule in RULES if rule.about(question.type) and rule.is_broken(asked)), None)


def boxes_of(scene: Scene, instance_ids: Sequence[int]) -> tuple[Box, ...] | None:
    """Return the boxes of some instances in their order, None where one is not in the scene, or none is asked for."""
    by_id = {item.instance_id: item.box for item in scene.objects}
    found = [by_id[number] for number in instance_ids if number in by_id]
    return tuple(found) if found and len(found) == len(instance_ids) else None


def footprint_m2(box: Box) -> float:
    """Return the floor that a box covers: the area of its outline seen from above, square metres."""
    from scipy.spatial import ConvexHull, QhullError

    try:
        return float(ConvexHull(box.corners()[:, :2]).volume)
    except QhullError:  # a flat box
        return 0.0


def make_sum(ask: Asking) -> list[Question]:
    """Ask how many objects of two categories there are together."""
    usable = ask.usable_ids()
    counted = []
    for category, count in sorted(ask.scene.object_counts.items()):
        items = ask.scene.of_category(category)
        if count >= 1 and items and all(item.instance_id in usable and item.is_sound for item in items):
            counted.append((category, count, items))
    questions = []
    for i in ask.rng.permutation(len(counted)):
        for j in ask.rng.permutation(len(counted)):
            (first, one, items), (second, two, others) = counted[i], counted[j]
            if i < j and one + two <= MAX_SUM and not names_overlap(first, second):
                text = SUM.format(first=first, second=second)
                questions.append(ask.number(text, str(one + two), [*items, *others]))
    return questions[: ask.cap]


def make_size_in_metres(ask: Asking) -> list[Question]:
    """Ask for the longest edge, in metres with two decimals, of each object whose category occurs once."""
    questions = []
    for item in ask.nameable_objects():
        longest = float(np.max(item.size_box.axes_lengths))
        if np.isfinite(longest) and round(longest, 2) > 0:
            questions.append(ask.number(SIZE_M.format(category=item.category), f"{longest:.2f}", [item]))
    return ask.capped(questions)


def resolve_size_in_metres(scene: Scene, question: str, options: Sequence[str]) -> str | None:
    """Return the longest edge in metres."""
    item = only_object(scene, fields_of(_SIZE_M, question)["category"])
    return None if item is None else f"{float(item.size_box.axes_lengths.max()):.2f}"


def make_farthest(ask: Asking) -> list[Question]:
    """Ask which of four categories is farthest from an object; a category counts by its nearest instance.

    Categories whose instances are more than 0.3 m apart in distance are not shown: which of them is meant would decide.
    """
    targets = ask.nameable_objects()
    usable = ask.usable_ids()
    others = [item for item in ask.scene.objects if item.is_sound and item.instance_id in usable]
    distances = object_distances(targets, others, str(ask.settings.distance))
    is_large = ask.scene.room_size is not None and ask.scene.room_size > ask.settings.large_room_m2
    gap = ask.settings.min_gap_large if is_large else ask.settings.min_gap
    sentence = with_distance(FARTHEST, str(ask.settings.distance))
    asked, questions = set(), []
    for _ in range(_SETS):
        for index in ask.rng.permutation(len(targets)):
            target = targets[index]
            near = _one_distance(target, others, distances[index].tolist())
            shown = draw_candidates(target.category, near, gap, ask.rng, farthest=True)
            key = (target.instance_id, frozenset(item.category for _, item in shown))
            if shown and key not in asked:
                asked.add(key)
                words = tuple(item.category for _, item in shown)
                right = max(range(len(shown)), key=lambda k: shown[k][0])
                text = sentence.format(options=", ".join(words), category=target.category)
                questions.append(ask.choice(text, words, right, [target, *(item for _, item in shown)]))
    return questions[: ask.cap]


def _one_distance(
    target: SceneObject, others: Sequence[SceneObject], row: Sequence[float]
) -> list[tuple[float, SceneObject]]:
    """Return (nearest distance, object) of the categories whose instances are about as far from the target."""
    groups: dict[str, list[tuple[float, SceneObject]]] = {}
    for distance, item in zip(row, others, strict=True):
        if item.category != target.category:
            groups.setdefault(item.category, []).append((distance, item))
    found = []
    for _, group in sorted(groups.items()):
        near, far = min(group, key=lambda pair: pair[0]), max(distance for distance, _ in group)
        if far - near[0] <= _MAX_SPREAD_M:
            found.append(near)
    return found


def make_behind(ask: Asking) -> list[Question]:
    """Ask where an object lies for one with a second at the back: the facing arm is mirrored; else as medium."""
    items = ask.nameable_objects()
    distances = object_distances(items, items, "closest_point")
    for i, j in zip(*np.triu_indices(len(items), 1), strict=True):
        if names_overlap(items[i].category, items[j].category):
            distances[i, j] = distances[j, i] = np.nan
    boxes = [item.box for item in items]
    questions = []
    for standing, facing, target, word in clear_triples(boxes, distances, "medium", ask.settings, ask.rng, turn=180.0)[
        : ask.cap
    ]:
        objects = [items[standing], items[facing], items[target]]
        names = dict(zip(("standing", "facing", "target"), (o.category for o in objects), strict=True))
        words = tuple(str(w) for w in ask.rng.permutation(WORDS["medium"]))
        questions.append(ask.choice(BEHIND.format(**names), words, words.index(word), objects))
    return questions


def resolve_behind(scene: Scene, question: str, options: Sequence[str]) -> str | None:
    """Return the letter of the direction in which the target lies for one with the second object at the back."""
    names = fields_of(_BEHIND, question)
    standing, facing, target = (only_object(scene, names[key]) for key in ("standing", "facing", "target"))
    if standing is None or facing is None or target is None:
        return None
    bearing = float(bearing_degrees(standing.box.centroid, facing.box.centroid, target.box.centroid))
    word = direction_word((bearing + 180.0) % 360.0, "medium")
    return next((option[0] for option in options if option_word(option) == word), None)
