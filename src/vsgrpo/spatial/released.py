"""Questions of VSI-100k's types in anybody's wording: what they name, and their answers under a choice of geometry.

The paper (arXiv 2504.00883) prints an example of each type with odd spaces; other files have the benchmark's words.
What a sentence names is the same in all of them, so that two files can be joined by it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from vsgrpo.spatial.directions import direction_word
from vsgrpo.spatial.geometry import bearing_degrees, object_distances
from vsgrpo.spatial.question import Reading, wording
from vsgrpo.spatial.questions import objects_called, only_object
from vsgrpo.spatial.scene import Scene, SceneObject

_MEASURE = re.compile(r"^measuring from the [^,]*,\s*", re.IGNORECASE)


def measure_of(question: str) -> str:
    """Return how a sentence says to measure ("measuring from the closest point of each object"), "" if it does not."""
    found = _MEASURE.match(question)
    return found[0].strip(" ,").casefold() if found else ""


def without_measure(question: str) -> str:
    """Return a sentence without the words that say how to measure."""
    return _MEASURE.sub("", question)


def _words(listed: str) -> list[str]:
    return [word.strip() for word in listed.split(",")]


def _objects(scene: Scene, names: Mapping[str, str]) -> list[SceneObject] | None:
    """Return the objects named, None where one is not there or its name is not unique."""
    found = [only_object(scene, name) for name in names.values()]
    items = [item for item in found if item is not None]
    return items if len(items) == len(found) else None


def _count(scene: Scene, names: Mapping[str, str], distance: str) -> float | None:
    return scene.object_counts.get(names["category"])


def _size(scene: Scene, names: Mapping[str, str], distance: str) -> float | None:
    items = _objects(scene, names)
    return None if items is None else 100 * float(np.max(items[0].size_box.axes_lengths))


def _room(scene: Scene, names: Mapping[str, str], distance: str) -> float | None:
    return scene.room_size


def _far(scene: Scene, names: Mapping[str, str], distance: str) -> float | None:
    items = _objects(scene, names)
    return None if items is None else float(object_distances(items[:1], items[1:], distance)[0, 0])


def _nearest(scene: Scene, names: Mapping[str, str], distance: str) -> str | None:
    target, words = only_object(scene, names["category"]), _words(names["options"])
    candidates = [objects_called(scene, word) for word in words]
    if target is None or not all(candidates):
        return None
    return words[int(np.argmin([object_distances([target], items, distance).min() for items in candidates]))]


def direction(difficulty: str) -> Reading:
    """Return the reading of relative directions; None is the answer where no word is right (behind, of an easy one)."""

    def answer(scene: Scene, names: Mapping[str, str], distance: str) -> str | None:
        items = _objects(scene, names)
        if items is None:
            return None
        return direction_word(float(bearing_degrees(*(item.box.centroid for item in items))), difficulty)

    sentence = r"standing (?:by|at|next to|beside) the (?P<standing>.+?) and facing the (?P<facing>.+?),? is the "
    return Reading(wording(sentence + r"(?P<target>.+?) to (?:my|the) (?:front-)?left"), answer, ("box",))


COUNT = Reading(
    wording(r"how many (?P<category>.+?)(?:\(s\)|s?) ?(?:are )?(?:there )?in (?:the|this) (?:room|scene)"), _count
)
SIZE = Reading(
    wording(r"longest dimension ?(?:\(.*?\))? ?of the (?P<category>.+?),? ?(?:measured )?\(?in "),
    _size,
    ("box", "size_box"),
)
ROOM = Reading(wording("size of (?:this|the)(?: entire| main)? room"), _room, ("alpha_points", "alpha", "alpha_holes"))
DISTANCE = Reading(
    wording(r"distance between the (?P<first>.+?) and the (?P<second>.+?) ?\(in "),
    _far,
    ("box", "distance"),
    lambda names: tuple(sorted(names.values())),
)
NEAREST = Reading(
    wording(r"which of these objects ?\((?P<options>.+?)\) ?is the closest to the (?P<category>.+?) ?\?"),
    _nearest,
    ("box", "distance"),
    lambda names: (names["category"], *sorted(_words(names["options"]))),
)
