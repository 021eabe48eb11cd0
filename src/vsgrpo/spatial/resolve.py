"""Answer a VSI-Bench question from a Scene's boxes: the check of our formulas against the benchmark's own answers."""

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


def resolve(scene: Scene, question_type: str, question: str, options: Sequence[str] | None = None) -> str | None:
    """Return the answer by our formulas: number text or letter; None if an object is absent or its name not unique.

    Args:
        scene: the scene the question is about.
        question_type: VSI-Bench's name.
        question: in the benchmark's wording, without the options.
        options: "A. chair", ... of choice types.

    Raises:
        ValueError: a type that boxes cannot answer, or a question in other words.
    """
    if question_type == "room_size_estimation":
        return None if scene.room_size is None else one_decimal(scene.room_size)
    if question_type == "object_counting":
        category = _fields(_COUNTING, question)["category"]
        count = scene.object_counts.get(category, scene.object_counts.get(OTHER_NAMES.get(category, "")))
        return None if count is None else str(count)
    if question_type == "object_size_estimation":
        item = _only(scene, _fields(_SIZE, question)["category"])
        return None if item is None else str(round(100 * float(item.size_box.axes_lengths.max())))
    if question_type == "object_abs_distance":
        names = _fields(_ABS_DISTANCE, question)
        first, second = _only(scene, names["first"]), _only(scene, names["second"])
        if first is None or second is None:
            return None
        return one_decimal(float(object_distances([first], [second], "closest_point")[0, 0]))
    if question_type == "object_rel_distance":
        return _nearest_option(scene, _fields(_REL_DISTANCE, question)["category"], options or ())
    difficulty = question_type.removeprefix("object_rel_direction_")
    if difficulty in _DIRECTION:
        names = _fields(_DIRECTION[difficulty], question)
        standing, facing, target = (_only(scene, names[key]) for key in ("standing", "facing", "target"))
        if standing is None or facing is None or target is None:
            return None
        bearing = bearing_degrees(standing.box.centroid, facing.box.centroid, target.box.centroid)
        word = direction_word(bearing, difficulty)
        return next((option[0] for option in options or () if _option_word(option) == word), None)
    raise ValueError(f"question_type={question_type!r}: boxes alone do not answer it")


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


def _nearest_option(scene: Scene, category: str, options: Sequence[str]) -> str | None:
    target = _only(scene, category)
    candidates = [_objects(scene, _option_word(option)) for option in options]
    if target is None or not candidates or not all(candidates):
        return None
    nearest = [object_distances([target], items, "closest_point").min() for items in candidates]
    return options[int(np.argmin(nearest))][0]
