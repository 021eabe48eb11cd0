"""Questions that measure one object by its box: how high its top is, the floor it covers, the space it takes up.

Heights are above the floor that was found in the mesh, never above z = 0: scans of ARKitScenes have it anywhere, and
the alignment of ScanNet is good to some centimetres. Wordings and margins are ours; SPAR asks for volumes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vsgrpo.spatial.object_relations import edges_text, volume_m3
from vsgrpo.spatial.question import Asking, Question, one_decimal
from vsgrpo.spatial.questions import fields_of, only_object, pattern_of
from vsgrpo.spatial.scene import Box, Scene, SceneObject

HEIGHT_RANGE_CM = (20, 300)
MIN_FOOTPRINT_M2 = 0.3
MIN_VOLUME_M3 = 0.05
MAX_TILT_DEGREES = 5.0

HEIGHT = "How high above the floor (in centimeters) is the top of the {category}?"
FOOTPRINT = "How much floor (in square meters) does the {category} cover?"
VOLUME = "How much space (in cubic meters) does the {category} take up, measured as the volume of its bounding box?"
_READ = {text: pattern_of(text) for text in (HEIGHT, FOOTPRINT, VOLUME)}


def make_height(ask: Asking) -> list[Question]:
    """Ask how high above the floor the top of each object is, in whole centimetres."""
    questions = []
    for item in ask.nameable_objects():
        top = top_cm(ask.scene, item)
        if top is not None and HEIGHT_RANGE_CM[0] <= top <= HEIGHT_RANGE_CM[1]:
            questions.append(ask.number(HEIGHT.format(category=item.category), str(round(top)), [item]))
    return ask.capped(questions)


def top_cm(scene: Scene, item: SceneObject) -> float | None:
    """Return the height of an object's top above the floor in centimetres, None where the floor is not known."""
    if scene.floor is None or scene.floor.height is None:
        return None
    return 100 * (float(item.box.max[2]) - scene.floor.height)


def observe_height(scene: Scene, question: Question, objects: Sequence[SceneObject], distance: str) -> str:
    """Name where its box begins and how tall it is."""
    low, high = (float(end[2]) for end in (objects[0].box.min, objects[0].box.max))
    below = int(question.answer) - round(100 * (high - low))
    return f"It begins {max(below, 0)} cm above the floor and is {round(100 * (high - low))} cm tall."


def make_footprint(ask: Asking) -> list[Question]:
    """Ask how much floor each object covers, in square metres with one decimal."""
    questions = []
    for item in ask.nameable_objects():
        area = upright_area_m2(item.size_box)
        if area is not None and area >= MIN_FOOTPRINT_M2:
            questions.append(ask.number(FOOTPRINT.format(category=item.category), one_decimal(area), [item]))
    return ask.capped(questions)


def upright_area_m2(box: Box) -> float | None:
    """Return the area of the outline of an upright box, seen from above; None where it is tilted over 5 degrees."""
    vertical = upright_axis(box)
    return None if vertical is None else float(np.prod(np.delete(box.axes_lengths, vertical)))


def upright_axis(box: Box) -> int | None:
    """Return which axis of a box is vertical, None where none is within `MAX_TILT_DEGREES`."""
    rise = np.abs(box.axes[:, 2]) / np.linalg.norm(box.axes, axis=1)
    axis = int(np.argmax(rise))
    return axis if rise[axis] >= np.cos(np.radians(MAX_TILT_DEGREES)) else None


def resolve_footprint(scene: Scene, question: str, options: Sequence[str]) -> str | None:
    """Return the floor that the object covers, None where its box is tilted."""
    item = only_object(scene, fields_of(_READ[FOOTPRINT], question)["category"])
    area = None if item is None else upright_area_m2(item.size_box)
    return None if area is None else one_decimal(area)


def observe_outline(scene: Scene, question: Question, objects: Sequence[SceneObject], distance: str) -> str:
    """Name the edges of the outline."""
    box = objects[0].size_box
    vertical = upright_axis(box)
    edges = sorted((float(edge) for k, edge in enumerate(box.axes_lengths) if k != vertical), reverse=True)
    return f"Seen from above it is {edges[0]:.2f} by {edges[1]:.2f} m."


def make_volume(ask: Asking) -> list[Question]:
    """Ask for the volume of the box of each object, in cubic metres with two decimals."""
    questions = []
    for item in ask.nameable_objects():
        volume = volume_m3(item.size_box)
        if upright_axis(item.size_box) is not None and np.isfinite(volume) and volume >= MIN_VOLUME_M3:
            questions.append(ask.number(VOLUME.format(category=item.category), f"{volume:.2f}", [item]))
    return ask.capped(questions)


def resolve_volume(scene: Scene, question: str, options: Sequence[str]) -> str | None:
    """Return the volume of the object's box."""
    item = only_object(scene, fields_of(_READ[VOLUME], question)["category"])
    return None if item is None else f"{volume_m3(item.size_box):.2f}"


def observe_box(scene: Scene, question: Question, objects: Sequence[SceneObject], distance: str) -> str:
    """Name the edges of the box."""
    return f"Its box is {edges_text(objects[0].size_box)}."
