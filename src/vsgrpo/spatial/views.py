"""Questions about objects as the camera sees them: how far, which is nearer, left or right of each other, where now.

An object is named where it is seen in the frame meant and no other of its category is (`moments.seen_objects`).
Distances are those of the camera to the closest point of a box. Thresholds are ours; docs/question_types.md has their
sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from vsgrpo.spatial.camera import DISTANCE_M, SIDES
from vsgrpo.spatial.moments import Moment, in_turn, moments_of, seen_objects, with_moments
from vsgrpo.spatial.question import Asking, Question, names_overlap, one_decimal
from vsgrpo.spatial.scene import Box, SceneObject

MIN_GAP_M = 0.3
"""Between the distances of objects that are compared."""
MIN_SIDE_GAP_M = 0.15
MIN_DEPTH_M = 0.1
"""No corner of an object compared by side is nearer, or behind: it would have no place in the picture."""
NOW_RANGE_M = (0.5, 5.0)
NOW_WORDS = ("front", "left", "behind", "right")
"""Counter-clockwise from straight ahead, 90 degrees each."""
_MOST_OPTIONS = 4

DISTANCE = "{opening}, how far (in meters) is the camera from the closest point of the {category}?"
_WHICH = "Measuring from the closest point of each object, which of these objects ({options}) is the "
NEAREST = _WHICH + "closest to the camera {words}?"
FARTHEST = _WHICH + "farthest from the camera {words}?"
SIDE = "{opening}, is the {first} to the left or to the right of the {second} as the camera sees them?"
NEARER = "{opening}, which is nearer to the camera, the {first} or the {second}?"
WHERE_NOW = "At the end of the video, is the {category} in front of the camera, to its left, to its right or behind it?"


def box_distance(point: NDArray[np.float64], box: Box) -> float:
    """Return the distance of a point to the nearest point of a box, metres; 0 inside.

    In the axes of the box: |max(|q| - half, 0)|.
    """
    local = np.abs(box.axes @ (point - box.centroid)) - box.axes_lengths / 2
    return float(np.linalg.norm(np.maximum(local, 0.0)))


def make_object_distance(ask: Asking) -> list[Question]:
    """Ask how far the camera is from an object that a frame shows."""
    found = []
    for moment in moments_of(ask.scene):
        for item in seen_objects(ask, moment):
            metres = box_distance(moment.center, item.box)
            if DISTANCE_M[0] <= metres <= DISTANCE_M[1]:
                found.append((moment, item, metres))
    questions = []
    for place in ask.rng.permutation(len(found))[: ask.cap]:
        moment, item, metres = found[place]
        text = DISTANCE.format(opening=moment.opening, category=item.category)
        questions.append(with_moments(ask.scene, ask.number(text, one_decimal(metres), [item]), [moment]))
    return questions


def make_nearest(ask: Asking) -> list[Question]:
    """Ask which of two to four objects that a frame shows is closest to the camera."""
    return _make_extreme(ask, NEAREST, farthest=False)


def make_farthest(ask: Asking) -> list[Question]:
    """Ask which of two to four objects that a frame shows is farthest from the camera."""
    return _make_extreme(ask, FARTHEST, farthest=True)


def _make_extreme(ask: Asking, sentence: str, *, farthest: bool) -> list[Question]:
    moments = moments_of(ask.scene)
    questions = []
    for place in ask.rng.permutation(len(moments)):
        moment = moments[place]
        found = [(box_distance(moment.center, item.box), item) for item in seen_objects(ask, moment)]
        chosen = _apart([found[k] for k in ask.rng.permutation(len(found))])
        if len(chosen) < 2:
            continue
        best = (max if farthest else min)(chosen, key=lambda pair: pair[0])
        rest = [pair for pair in chosen if pair is not best]
        rest.insert(int(ask.rng.integers(len(chosen))), best)  # its letter does not depend on the greedy choice
        objects = [item for _, item in rest]
        words = tuple(item.category for item in objects)
        text = sentence.format(options=", ".join(words), words=moment.words)
        questions.append(with_moments(ask.scene, ask.choice(text, words, rest.index(best), objects), [moment]))
    return questions[: ask.cap]


def _apart(found: Sequence[tuple[float, SceneObject]]) -> list[tuple[float, SceneObject]]:
    """Return up to four (distance, object), each at least 0.5 m away, in steps of 0.3 m, no name inside another."""
    chosen: list[tuple[float, SceneObject]] = []
    for metres, item in found:
        is_clear = all(
            abs(metres - other) >= MIN_GAP_M and not names_overlap(item.category, named.category)
            for other, named in chosen
        )
        if metres >= DISTANCE_M[0] and is_clear and len(chosen) < _MOST_OPTIONS:
            chosen.append((metres, item))
    return chosen


def _seen_pairs(ask: Asking) -> list[tuple[Moment, SceneObject, SceneObject]]:
    """Return pairs of objects that a frame shows, each pair one way round, in random order."""
    found = []
    for moment in moments_of(ask.scene):
        for one, two in combinations(seen_objects(ask, moment), 2):
            if not names_overlap(one.category, two.category):
                found.append((moment, one, two) if ask.rng.integers(2) else (moment, two, one))
    return [found[k] for k in ask.rng.permutation(len(found))]


def make_left_right(ask: Asking) -> list[Question]:
    """Ask whether one object is to the left or to the right of another in a frame, words in turn."""
    pairs = [(*pair, side_of(*pair)) for pair in _seen_pairs(ask)]
    pairs = [pair for pair in pairs if pair[3] is not None]
    questions = []
    for place in in_turn([pair[3] for pair in pairs], range(len(pairs)))[: ask.cap]:
        moment, first, second, word = pairs[place]
        options = tuple(str(text) for text in ask.rng.permutation(SIDES))
        text = SIDE.format(opening=moment.opening, first=first.category, second=second.category)
        question = ask.choice(text, options, options.index(str(word)), [first, second])
        questions.append(with_moments(ask.scene, question, [moment]))
    return questions


def side_of(moment: Moment, first: SceneObject, second: SceneObject) -> str | None:
    """Return on which side of the second the first object is, None where that is not clear.

    The corners of both boxes in the axes of the camera: they are at least 0.15 m apart in x, and apart in the picture
    (x / z), with the same sign.
    """
    one, two = (in_camera(moment, item.box) for item in (first, second))
    if min(one[:, 2].min(), two[:, 2].min()) < MIN_DEPTH_M:
        return None
    for word, left, right in ((SIDES[0], one, two), (SIDES[1], two, one)):
        in_picture = (right[:, 0] / right[:, 2]).min() - (left[:, 0] / left[:, 2]).max()
        if right[:, 0].min() - left[:, 0].max() > MIN_SIDE_GAP_M and in_picture > 0:
            return word
    return None


def in_camera(moment: Moment, box: Box) -> NDArray[np.float64]:
    """Return the corners of a box in the axes of the camera (x right, y down, z forward), (8, 3): R^T (p - c)."""
    return (box.corners() - moment.center) @ moment.pose[:3, :3]


def make_near_far(ask: Asking) -> list[Question]:
    """Ask which of two objects that a frame shows is nearer to the camera."""
    questions = []
    for moment, first, second in _seen_pairs(ask):
        metres = [box_distance(moment.center, item.box) for item in (first, second)]
        if abs(metres[0] - metres[1]) >= MIN_GAP_M:
            words = (first.category, second.category)
            text = NEARER.format(opening=moment.opening, first=words[0], second=words[1])
            question = ask.choice(text, words, int(metres[1] < metres[0]), [first, second])
            questions.append(with_moments(ask.scene, question, [moment]))
    return questions[: ask.cap]


def make_where_now(ask: Asking) -> list[Question]:
    """Ask where an object is that the video has shown, seen from the camera in the last frame, words in turn."""
    moments, footage = moments_of(ask.scene), ask.scene.footage
    if footage is None or not moments or moments[-1].number != footage.frames_shown:
        return []
    found = [(item, where_now(moments[-1], item, ask)) for item in ask.nameable_objects()]
    found = [pair for pair in found if pair[1] is not None]
    questions = []
    for place in in_turn([word for _, word in found], ask.rng.permutation(len(found)).tolist())[: ask.cap]:
        item, word = found[place]
        options = tuple(str(text) for text in ask.rng.permutation(NOW_WORDS))
        text = WHERE_NOW.format(category=item.category)
        questions.append(ask.choice(text, options, options.index(str(word)), [item]))
    return questions


def where_now(moment: Moment, item: SceneObject, ask: Asking) -> str | None:
    """Return in which quarter round the camera an object lies, None where that is not clear.

    The bearing of its centre in the floor plane, 10 degrees from every boundary; at most two corners lie elsewhere.
    """
    if not NOW_RANGE_M[0] <= box_distance(moment.center, item.box) <= NOW_RANGE_M[1]:
        return None
    points = np.concatenate([item.box.centroid[None], item.box.corners()])[:, :2] - moment.center[:2]
    angle = (np.degrees(np.arctan2(points[:, 1], points[:, 0])) - moment.heading_degrees) % 360.0
    quarter = np.floor((angle + 45.0) / 90.0).astype(int) % 4
    off_axis = abs((angle[0] + 45.0) % 90.0 - 45.0)
    is_clear = 45.0 - off_axis >= ask.settings.direction_margin_degrees
    few_elsewhere = (quarter[1:] != quarter[0]).sum() <= ask.settings.max_corners_elsewhere
    return NOW_WORDS[quarter[0]] if is_clear and few_elsewhere else None
