"""Questions of VSI-100k's types in anybody's wording: what they name, and their answers under a choice of geometry.

The paper (arXiv 2504.00883) prints an example of each type with odd spaces; other files have the benchmark's words.
What a sentence names is the same in all of them, so that two files can be joined by it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from vsgrpo.spatial.directions import WORDS, direction_word
from vsgrpo.spatial.geometry import bearing_degrees, object_distances
from vsgrpo.spatial.questions import objects_called, only_object
from vsgrpo.spatial.scene import Scene

_MEASURE = re.compile(r"^measuring from the [^,]*,\s*", re.IGNORECASE)
_DIRECTION = r"standing (?:by|at|next to|beside) the (?P<standing>.+?) and facing the (?P<facing>.+?),? is the "
_DIRECTION += r"(?P<target>.+?) to (?:my|the) (?:front-)?left"
_SENTENCES = {
    "object_counting": r"how many (?P<category>.+?)(?:\(s\)|s?) ?(?:are )?(?:there )?in (?:the|this) (?:room|scene)",
    "object_size_estimation": r"longest dimension ?(?:\(.*?\))? ?of the (?P<category>.+?),? ?(?:measured )?\(?in ",
    "room_size_estimation": r"size of (?:this|the)(?: entire| main)? room",
    "object_abs_distance": r"distance between the (?P<first>.+?) and the (?P<second>.+?) ?\(in ",
    "object_rel_distance": r"which of these objects ?\((?P<options>.+?)\) ?is the closest to the (?P<category>.+?) ?\?",
    **{f"object_rel_direction_{difficulty}": _DIRECTION for difficulty in WORDS},
}
_PATTERNS = {name: re.compile(text, re.IGNORECASE | re.DOTALL) for name, text in _SENTENCES.items()}
GEOMETRY = {
    "object_size_estimation": ("box", "size_box"),
    "room_size_estimation": ("alpha_points", "alpha", "alpha_holes"),
    "object_abs_distance": ("box", "distance"),
    "object_rel_distance": ("box", "distance"),
    **{f"object_rel_direction_{difficulty}": ("box",) for difficulty in WORDS},
    "object_counting": (),
}
"""Question type -> settings of geometry (`spatial.*`) that its answers depend on."""


def measure_of(question: str) -> str:
    """Return how a sentence says to measure ("measuring from the closest point of each object"), "" if it does not."""
    found = _MEASURE.match(question)
    return found[0].strip(" ,").casefold() if found else ""


def names_in(question_type: str, question: str) -> dict[str, str] | None:
    """Return what a question names, by part of the sentence; None for another type or sentence."""
    pattern = _PATTERNS.get(question_type)
    found = pattern.search(" ".join(question.split())) if pattern is not None else None
    return None if found is None else {part: text.strip().casefold() for part, text in found.groupdict().items()}


def question_key(question_type: str, question: str) -> tuple[str, ...]:
    """Return what two files of one scene have in common where they ask the same, in whatever words.

    The two objects of a distance and the candidates of a choice are in no order; how to measure is left out. Of other
    sentences the letters and digits count.
    """
    names = names_in(question_type, question)
    if names is None:
        return (question_type, re.sub(r"[\W_]+", "", _MEASURE.sub("", question)).casefold())
    if question_type == "object_abs_distance":
        return (question_type, *sorted(names.values()))
    if question_type == "object_rel_distance":
        return (question_type, names["category"], *sorted(_words(names["options"])))
    return (question_type, *names.values())


def _words(listed: str) -> list[str]:
    return [word.strip() for word in listed.split(",")]


def answer_from_scene(scene: Scene, question_type: str, names: Mapping[str, str], distance: str) -> float | str | None:
    """Return the answer by a scene's boxes: a number in the type's unit, not rounded, or a word.

    None where an object is not there, its name is not unique, or no word is right (behind, of an easy direction).

    Args:
        names: as `names_in` returns them.
        distance: "centroid" or "closest_point".
    """
    if question_type == "room_size_estimation":
        return scene.room_size
    if question_type == "object_counting":
        return scene.object_counts.get(names["category"])
    if question_type == "object_rel_distance":
        return _nearest(scene, names, distance)
    parts = [only_object(scene, name) for name in names.values()]
    items = [item for item in parts if item is not None]
    if len(items) < len(parts):
        return None
    if question_type == "object_size_estimation":
        return 100 * float(np.max(items[0].size_box.axes_lengths))
    if question_type == "object_abs_distance":
        return float(object_distances(items[:1], items[1:], distance)[0, 0])
    bearing = float(bearing_degrees(*(item.box.centroid for item in items)))
    return direction_word(bearing, question_type.rpartition("_")[2])


def _nearest(scene: Scene, names: Mapping[str, str], distance: str) -> str | None:
    target, words = only_object(scene, names["category"]), _words(names["options"])
    candidates = [objects_called(scene, word) for word in words]
    if target is None or not all(candidates):
        return None
    return words[int(np.argmin([object_distances([target], items, distance).min() for items in candidates]))]
