"""Templated thoughts: what a scene's boxes say on the way to an answer. Synthetic, for think and observe SFT.

Nobody thought them and no video was looked at: rows that carry one say so (`extra.synthetic_reasoning`). One function
per question type, all of one signature (`question.Observer`): each returns one sentence that leads to the answer
without stating it as such.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vsgrpo.spatial.geometry import bearing_degrees
from vsgrpo.spatial.question import Question
from vsgrpo.spatial.questions import object_distances, one_decimal
from vsgrpo.spatial.scene import Scene, SceneObject

_MAX_NAMED = 8


def observe_count(scene: Scene, question: Question, objects: Sequence[SceneObject], distance: str) -> str | None:
    """Count the objects one by one; None where they are not known."""
    if not objects:
        return None
    category, count = objects[0].category, int(question.answer)
    named = ", ".join(f"{category} {number}" for number in range(1, min(count, _MAX_NAMED) + 1))
    return f"I see {named}." if count <= _MAX_NAMED else f"I see {named} and more, up to {category} {count}."


def observe_object_size(scene: Scene, question: Question, objects: Sequence[SceneObject], distance: str) -> str:
    """Name the edges of the box, the longest first."""
    edges = sorted((round(100 * float(edge)) for edge in objects[0].size_box.axes_lengths), reverse=True)
    return f"Its box is {edges[0]} by {edges[1]} by {edges[2]} cm."


def observe_room_size(scene: Scene, question: Question, objects: Sequence[SceneObject], distance: str) -> str | None:
    """Name the extent of all furniture; None in an empty room."""
    if not scene.objects:
        return None
    low = np.min([item.box.min for item in scene.objects], axis=0)
    high = np.max([item.box.max for item in scene.objects], axis=0)
    x, y = (one_decimal(float(value)) for value in (high - low)[:2])
    return f"The furniture spreads over {x} m by {y} m."


def observe_abs_distance(scene: Scene, question: Question, objects: Sequence[SceneObject], distance: str) -> str:
    """Name how far the two centres are apart along each axis."""
    apart = np.abs(objects[0].box.centroid - objects[1].box.centroid)
    x, y, z = (one_decimal(float(value)) for value in apart)
    return f"Their centres are {x} m by {y} m apart on the floor, {z} m in height."


def observe_rel_distance(scene: Scene, question: Question, objects: Sequence[SceneObject], distance: str) -> str:
    """Name the distance of each candidate."""
    found = object_distances([objects[0]], objects[1:], distance)[0]
    listed = ", ".join(f"{o.category} {one_decimal(float(d))} m" for o, d in zip(objects[1:], found, strict=True))
    return f"From the {objects[0].category}: {listed}."


def observe_rel_direction(scene: Scene, question: Question, objects: Sequence[SceneObject], distance: str) -> str:
    """Name the angle to turn by."""
    standing, facing, target = objects[:3]
    bearing = bearing_degrees(standing.box.centroid, facing.box.centroid, target.box.centroid)
    side, angle = ("left", bearing) if bearing <= 180 else ("right", 360 - bearing)
    return f"To face the {target.category} I turn {round(angle)} degrees to the {side}."
