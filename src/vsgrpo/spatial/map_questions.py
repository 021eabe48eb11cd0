"""The map of a room as a question: the cells of a grid of 10 x 10 in which the objects of some categories stand.

The frame is ours (SpaceR's is not documented) and stated in the question: y is the horizontal direction in which the
first shown frame looks, x is to its right, and the grid is the smallest square that holds all boxes of the room.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vsgrpo.spatial.frame_true import judge_named
from vsgrpo.spatial.maps import GRID, Cell, map_text
from vsgrpo.spatial.question import Asking, Question, Shown, names_overlap
from vsgrpo.spatial.scene import Scene, SceneObject

MAP = (
    "Draw a map of the room seen from above on a grid of 10 x 10 cells, [0, 0] at the lower left. The y axis points "
    "where the camera looks in the first frame, the x axis to its right, and the grid is the smallest square that "
    "holds all objects of the room. Give the cell [x, y] of the center of every instance of these categories: "
    "{categories}.\n"
    "Answer in this form: {example}"
)
EXAMPLE = {"table": ((0, 3), (5, 7)), "chair": ((9, 3),)}
"""SpaceR's example."""
MIN_OBJECTS = 3
MAX_CATEGORIES = 8
MAX_INSTANCES = 6
MIN_LEVEL = 0.5
"""Length of the horizontal part of the viewing direction: a camera that looks further up or down has none."""
MAX_TURN_DEGREES = 5.0
"""Between the first frames of two budgets for which one map is true."""
_LISTED = re.compile(r"instance of these categories: (.+?)\.\n")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MapFrame:
    """The frame of a scene's map.

    Attributes:
        right, ahead: (2,) unit vectors of x and y in the scene's floor plan.
        origin: (2,) lower left corner in these coordinates, metres.
        side: edge of the square, metres.
    """

    right: Floats
    ahead: Floats
    origin: Floats
    side: float

    def cell(self, point: Floats) -> Cell:
        """Return the cell of a point (2 or 3,) of the scene; those outside are put at the border."""
        place = np.array([point[:2] @ self.right, point[:2] @ self.ahead])
        x, y = np.clip(np.floor(GRID * (place - self.origin) / self.side), 0, GRID - 1).astype(int).tolist()
        return x, y


def map_frame(scene: Scene, ahead: Floats) -> MapFrame | None:
    """Return the frame of a map whose y points `ahead` (2,), None in a room without extent."""
    right = np.array([ahead[1], -ahead[0]])
    corners = [item.box.corners()[:, :2] for item in scene.objects if item.is_sound]
    if not corners:
        return None
    places = np.concatenate(corners) @ np.stack([right, ahead], axis=1)
    low, high = places.min(axis=0), places.max(axis=0)
    side = float((high - low).max())
    return MapFrame(right, ahead, (low + high - side) / 2, side) if side > 0 else None


def first_view(scene: Scene, place: int | None = None) -> Floats | None:
    """Return the horizontal direction (2,) of the first frame shown, None where its pose is not known or too steep.

    Args:
        place: of that frame among those looked at; None: the first of `footage.shown`.
    """
    footage = scene.footage
    if footage is None or footage.poses is None or not (footage.shown or place is not None):
        return None
    ahead = footage.poses[footage.shown[0] if place is None else place][:2, 2]
    length = float(np.hypot(*ahead))
    return ahead / length if np.isfinite(length) and length >= MIN_LEVEL else None


def scene_map(ask: Asking) -> tuple[dict[str, tuple[Cell, ...]], list[SceneObject]] | None:
    """Return the cells of some categories of a scene, in random order, and their objects; None where it has no map.

    Categories of which all instances may be named, at most 6 of each, at most 8 categories and at least 3 objects.
    """
    ahead = first_view(ask.scene)
    frame = None if ahead is None else map_frame(ask.scene, ahead)
    if frame is None:
        return None
    usable = ask.usable_ids()
    found: dict[str, tuple[SceneObject, ...]] = {}
    names = sorted({item.category for item in ask.scene.objects})
    for place in ask.rng.permutation(len(names)):
        items = ask.scene.of_category(names[place])
        is_known = len(items) == ask.scene.object_counts.get(names[place]) and len(items) <= MAX_INSTANCES
        is_shown = all(item.is_sound and item.instance_id in usable for item in items)
        if is_known and is_shown and not any(names_overlap(names[place], other) for other in found):
            found[names[place]] = items
        if len(found) == MAX_CATEGORIES:
            break
    objects = [item for items in found.values() for item in items]
    if len(objects) < MIN_OBJECTS or len(found) < 2:
        return None
    cells = {name: tuple(sorted(frame.cell(item.box.centroid) for item in items)) for name, items in found.items()}
    return cells, objects


def make_map(ask: Asking) -> list[Question]:
    """Ask for the map of the scene; one question or none."""
    drawn = scene_map(ask)
    if drawn is None:
        return []
    cells, objects = drawn
    return [ask.map(map_request(list(cells)), map_text(cells), objects)][: ask.cap]


def map_request(categories: Sequence[str]) -> str:
    """Return the sentences that ask for a map of these categories, with an example."""
    return MAP.format(categories=", ".join(categories), example=map_text(EXAMPLE))


def asked_categories(question: str) -> list[str]:
    """Return the categories that `map_request` listed in a question; none where it has another wording."""
    listed = _LISTED.search(question)
    return listed[1].split(", ") if listed else []


def resolve_map(scene: Scene, question: str, options: Sequence[str]) -> str | None:
    """Return the map of the categories that a question lists, None where the scene stores no pose or lacks one."""
    ahead = first_view(scene)
    frame = None if ahead is None else map_frame(scene, ahead)
    names = asked_categories(question)
    if not names:
        raise ValueError(f"question {question!r} is not in the wording of a map")
    if frame is None or not all(scene.of_category(name) for name in names):
        return None
    return map_text({n: tuple(sorted(frame.cell(o.box.centroid) for o in scene.of_category(n))) for n in names})


def observe_map(scene: Scene, question: Question, objects: Sequence[SceneObject], distance: str) -> str | None:
    """Name how far ahead and to which side of the first frame's camera each object stands; None without its pose."""
    ahead, footage = first_view(scene), scene.footage
    if ahead is None or footage is None or footage.poses is None:
        return None
    at = footage.poses[footage.shown[0]][:2, 3]
    parts = []
    for item in objects:
        step = item.box.centroid[:2] - at
        along, aside = float(step @ ahead), float(step @ np.array([ahead[1], -ahead[0]]))
        where = f"{abs(along):.1f} m {'ahead' if along >= 0 else 'behind'}"
        parts.append(f"{item.category} {where}, {abs(aside):.1f} m to the {'right' if aside >= 0 else 'left'}")
    return f"From where the video begins I see: {'; '.join(parts)}."


def judge_map(scene: Scene, question: Question, shown: Shown) -> str:
    """Judge a map: all its objects are visible, and the first frame of the budget looks where the map's does."""
    own, other = first_view(scene), first_view(scene, shown.frames[0])
    if own is None or other is None or float(own @ other) < np.cos(np.radians(MAX_TURN_DEGREES)):
        return ""
    return judge_named(scene, question, shown)
