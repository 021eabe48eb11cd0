"""Answer a VSI-Bench question from a Scene's boxes: the check of our formulas against the benchmark's own answers.

One function per question type, all of one signature (`question.Resolver`): scene, question in the benchmark's wording
without options, options such as "A. chair". Each returns number text or a letter, None if an object is absent or its
name not unique, and raises ValueError for a question in other words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from vsgrpo.spatial import wording
from vsgrpo.spatial.directions import direction_word
from vsgrpo.spatial.geometry import bearing_degrees
from vsgrpo.spatial.questions import object_distances, one_decimal
from vsgrpo.spatial.scene import Scene, SceneObject

_COUNTING = wording.pattern(wording.COUNTING["vsibench"])
_SIZE = wording.pattern(wording.SIZE["vsibench"])
_ABS_DISTANCE = wording.pattern(wording.with_distance(wording.ABS_DISTANCE, "closest_point"))
_REL_DISTANCE = wording.pattern(wording.with_distance(wording.REL_DISTANCE["vsibench"], "closest_point"))
_DIRECTION = {name: wording.pattern(template) for name, template in wording.DIRECTION.items()}

OTHER_NAMES = {"coat rack": "coat hanger"}
"""Names in the benchmark's questions whose boxes are filed under another name (13 rows of one ScanNet++ scene)."""


def resolve_count(scene: Scene, question: str, options: Sequence[str]) -> str | None:
    """Return how many objects of the category the scene counts."""
    category = _fields(_COUNTING, question)["category"]
    count = scene.object_counts.get(category, scene.object_counts.get(OTHER_NAMES.get(category, "")))
    return None if count is None else str(count)


def resolve_object_size(scene: Scene, question: str, options: Sequence[str]) -> str | None:
    """Return the longest edge in whole centimetres."""
    item = _only(scene, _fields(_SIZE, question)["category"])
    return None if item is None else str(round(100 * float(item.size_box.axes_lengths.max())))


def resolve_room_size(scene: Scene, question: str, options: Sequence[str]) -> str | None:
    """Return the floor area in square metres."""
    return None if scene.room_size is None else one_decimal(scene.room_size)


def resolve_abs_distance(scene: Scene, question: str, options: Sequence[str]) -> str | None:
    """Return the distance between closest points in metres."""
    names = _fields(_ABS_DISTANCE, question)
    first, second = _only(scene, names["first"]), _only(scene, names["second"])
    if first is None or second is None:
        return None
    return one_decimal(float(object_distances([first], [second], "closest_point")[0, 0]))


def resolve_rel_distance(scene: Scene, question: str, options: Sequence[str]) -> str | None:
    """Return the letter of the category whose nearest instance is nearest."""
    target = _only(scene, _fields(_REL_DISTANCE, question)["category"])
    candidates = [_objects(scene, _option_word(option)) for option in options]
    if target is None or not candidates or not all(candidates):
        return None
    nearest = [object_distances([target], items, "closest_point").min() for items in candidates]
    return options[int(np.argmin(nearest))][0]


def resolve_rel_direction(difficulty: str, scene: Scene, question: str, options: Sequence[str]) -> str | None:
    """Return the letter of the direction in which the target lies."""
    names = _fields(_DIRECTION[difficulty], question)
    standing, facing, target = (_only(scene, names[key]) for key in ("standing", "facing", "target"))
    if standing is None or facing is None or target is None:
        return None
    bearing = bearing_degrees(standing.box.centroid, facing.box.centroid, target.box.centroid)
    word = direction_word(bearing, difficulty)
    return next((option[0] for option in options if _option_word(option) == word), None)


def _fields(pattern: re.Pattern[str], question: str) -> dict[str, str]:
    match = pattern.fullmatch(question)
    if match is None:
        raise ValueError(f"question {question!r} is not in the benchmark's wording")
    return match.groupdict()


def _only(scene: Scene, category: str) -> SceneObject | None:
    items = _objects(scene, category)
    return items[0] if len(items) == 1 else None


def _objects(scene: Scene, category: str) -> tuple[SceneObject, ...]:
    return scene.of_category(category) or scene.of_category(OTHER_NAMES.get(category, ""))


def _option_word(option: str) -> str:
    return option.split(". ", 1)[-1]
