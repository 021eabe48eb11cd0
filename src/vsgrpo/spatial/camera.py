"""Questions about two places of the camera: how far apart, in which direction, turned which way and by how much.

Poses are camera -> scene: the last column is where the camera is. Directions are measured in the floor plane. The video
between the two moments is not asked about: views of a walk jump. Thresholds are ours; sources of the wordings and what
others keep: docs/question_types.md.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vsgrpo.spatial.moments import Moment, in_turn, moment_pairs, with_moments
from vsgrpo.spatial.question import Asking, Question, one_decimal

DISTANCE_M = (0.5, 10.0)
"""Displacements and distances that are asked."""
MIN_STEP_M = 0.5
AXIS_MARGIN_DEGREES = 30.0
"""A direction is clear where it is this near to straight ahead, left, right or back."""
TURN_DEGREES = (20.0, 150.0)
MAX_TILT_DEGREES = 30.0
DIRECTIONS = ("forward", "left", "backward", "right")
"""Counter-clockwise from straight ahead, 90 degrees each."""
SIDES = ("left", "right")
_DEGREES_STEP = 5

DISPLACEMENT = "How far apart (in meters) are the places of the camera {first} and {second}?"
MOVEMENT = (
    "From where it looks {first}, in which direction does the camera's place {second} lie: forward, left, backward or"
    " right?"
)
TURN = "Compared with the view {first}, has the camera turned to the left or to the right {second}?"
TURN_ANGLE = "Compared with the view {first}, by how many degrees (0-180) has the camera turned {second}?"


def make_displacement(ask: Asking) -> list[Question]:
    """Ask how far apart the places of the camera in two frames are, in metres: |c2 - c1|."""
    questions = []
    for first, second in moment_pairs(ask):
        metres = float(np.linalg.norm(second.center - first.center))
        if DISTANCE_M[0] <= metres <= DISTANCE_M[1]:
            text = DISPLACEMENT.format(first=first.words, second=second.words)
            questions.append(with_moments(ask.scene, ask.number(text, one_decimal(metres), []), (first, second)))
    return questions[: ask.cap]


def make_movement_direction(ask: Asking) -> list[Question]:
    """Ask in which direction from one view the camera is in another."""
    return _make_choice(ask, MOVEMENT, movement_direction)


def make_turn(ask: Asking) -> list[Question]:
    """Ask whether the camera has turned to the left or to the right."""
    return _make_choice(ask, TURN, lambda one, two: turn_side(turn_degrees(one, two)))


def make_turn_angle(ask: Asking) -> list[Question]:
    """Ask by how many degrees the camera has turned, to the next multiple of five."""
    questions = []
    for first, second in moment_pairs(ask):
        turned = turn_degrees(first, second)
        if turn_side(turned) is not None:
            text = TURN_ANGLE.format(first=first.words, second=second.words)
            answer = str(_DEGREES_STEP * round(abs(turned or 0.0) / _DEGREES_STEP))
            questions.append(with_moments(ask.scene, ask.number(text, answer, []), (first, second)))
    return questions[: ask.cap]


def _make_choice(ask: Asking, sentence: str, word_of: Callable[[Moment, Moment], str | None]) -> list[Question]:
    """Ask about pairs of moments for which there is a word, words in turn."""
    pairs = [(*pair, word) for pair in moment_pairs(ask) if (word := word_of(*pair)) is not None]
    questions = []
    for place in in_turn([word for _, _, word in pairs], range(len(pairs)))[: ask.cap]:
        first, second, word = pairs[place]
        assert ask.kind.words is not None
        options = tuple(str(text) for text in ask.rng.permutation(ask.kind.words))
        text = sentence.format(first=first.words, second=second.words)
        question = ask.choice(text, options, options.index(word), [])
        questions.append(with_moments(ask.scene, question, (first, second)))
    return questions


def movement_direction(first: Moment, second: Moment) -> str | None:
    """Return the direction from one view to the place of another, None where it is too near or between two words.

    v = c2 - c1 in the floor plane, its angle counted from where the first view looks, to the left. The first view must
    be level within 30 degrees.
    """
    step = (second.center - first.center)[:2]
    if np.hypot(*step) < MIN_STEP_M or abs(first.tilt_degrees) > MAX_TILT_DEGREES:
        return None
    angle = (float(np.degrees(np.arctan2(step[1], step[0]))) - first.heading_degrees) % 360.0
    nearest = round(angle / 90.0)
    return DIRECTIONS[nearest % 4] if abs(angle - 90.0 * nearest) <= AXIS_MARGIN_DEGREES else None


def turn_degrees(first: Moment, second: Moment) -> float | None:
    """Return the turn from one view to another in (-180, 180], left positive; None where one is not level."""
    if max(abs(first.tilt_degrees), abs(second.tilt_degrees)) > MAX_TILT_DEGREES:
        return None
    return 180.0 - (180.0 - (second.heading_degrees - first.heading_degrees)) % 360.0


def turn_side(degrees: float | None) -> str | None:
    """Return "left" or "right" of a turn, None where it is none, too small, or nearly a half turn."""
    if degrees is None or not TURN_DEGREES[0] <= abs(degrees) <= TURN_DEGREES[1]:
        return None
    return SIDES[int(degrees < 0)]
