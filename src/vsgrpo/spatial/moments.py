"""Moments of a video that questions name: a frame as a loader counts them, or seconds of a recording.

A question with a moment says in `extra` which frames it means (`moment`) and for how many frames shown it is made
(`frames_shown`): "frame 3 of 16" is another frame where 32 are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vsgrpo.spatial.question import Asking, Question, Shown
from vsgrpo.spatial.scene import Footage, Scene, SceneObject

MOMENT, FRAMES_SHOWN = "moment", "frames_shown"
"""Keys of `Question.extra`."""


@dataclass(frozen=True)
class Moment:
    """One frame that a model is shown.

    Attributes:
        place: its position among the frames looked at.
        number: its number among the frames shown, from 1.
        time_s: seconds from the start of the video.
        words: "in frame 3 of 16" or "at 4.2 s".
        pose: (4, 4) camera (x right, y down, z forward) -> scene.
    """

    place: int
    number: int
    time_s: float
    words: str
    pose: NDArray[np.float64]

    @property
    def center(self) -> NDArray[np.float64]:
        """(3,) where the camera is: the last column of its pose."""
        return self.pose[:3, 3]

    @property
    def heading_degrees(self) -> float:
        """Where it looks in the floor plane, counted counter-clockwise seen from above."""
        return float(np.degrees(np.arctan2(self.pose[1, 2], self.pose[0, 2])))

    @property
    def tilt_degrees(self) -> float:
        """How far it looks up (positive) or down."""
        return float(np.degrees(np.arcsin(np.clip(self.pose[2, 2], -1, 1))))

    @property
    def opening(self) -> str:
        """`words` as the first words of a sentence."""
        return self.words[0].upper() + self.words[1:]


def is_named_by_time(footage: Footage) -> bool:
    """Return whether moments of a video are seconds: a recording whose shown frames differ in tenths of a second."""
    words = [f"{time:.1f}" for time, number in zip(footage.times, footage.numbers, strict=True) if number]
    return footage.has_clock and len(set(words)) == len(words)


def moments_of(scene: Scene) -> list[Moment]:
    """Return the frames shown whose pose is known, in their order; none where the camera is not known."""
    footage = scene.footage
    if footage is None or footage.poses is None:
        return []
    by_time = is_named_by_time(footage)
    found = []
    for place, (number, time, pose) in enumerate(zip(footage.numbers, footage.times, footage.poses, strict=True)):
        if number and np.isfinite(pose).all():
            words = f"at {time:.1f} s" if by_time else f"in frame {number} of {footage.frames_shown}"
            found.append(Moment(place, number, time, words, pose))
    return found


def moment_pairs(ask: Asking) -> list[tuple[Moment, Moment]]:
    """Return all pairs of moments, the earlier one first, in random order."""
    pairs = list(combinations(moments_of(ask.scene), 2))
    return [pairs[k] for k in ask.rng.permutation(len(pairs))]


def seen_objects(ask: Asking, moment: Moment) -> list[SceneObject]:
    """Return the objects that a name identifies in one frame, sorted by category.

    Each has at least `min_pixels` there, a sound box, and no other instance of its category has any pixel.
    """
    footage = ask.scene.footage
    assert footage is not None
    pixels = {item.instance_id: footage.pixels.get(item.instance_id, ()) for item in ask.scene.objects}
    there = [item for item in ask.scene.objects if pixels[item.instance_id] and pixels[item.instance_id][moment.place]]
    names = [item.category for item in there]
    found = [item for item in there if names.count(item.category) == 1 and item.is_sound]
    enough = [item for item in found if pixels[item.instance_id][moment.place] >= ask.settings.min_pixels]
    return sorted(enough, key=lambda item: item.category)


def with_moments(scene: Scene, question: Question, moments: Sequence[Moment]) -> Question:
    """Return the question with the frames that it names in `extra`."""
    assert scene.footage is not None
    named = [{"frame": moment.number, "time_s": round(moment.time_s, 3)} for moment in moments]
    return replace(
        question, extra={**question.extra, MOMENT: named, FRAMES_SHOWN: scene.footage.frames_shown, "seen": True}
    )


def judge_moments(scene: Scene, question: Question, shown: Shown) -> str:
    """Judge a question with moments: a budget shows the frames that it means, and each object named in them.

    Frames with a number are those of one budget alone; seconds are right wherever the frame is among those shown.
    """
    footage = scene.footage
    assert footage is not None
    places = [footage.numbers.index(item["frame"]) for item in question.extra[MOMENT]]
    if is_named_by_time(footage):
        means_them = set(places) <= set(shown.frames)
    else:
        means_them = [footage.numbers[place] for place in shown.frames] == list(range(1, footage.frames_shown + 1))
    rows = [footage.pixels.get(item.instance_id, ()) for item in question.objects]
    is_seen = all(row and row[place] >= shown.least for row in rows for place in places)
    return question.answer if means_them and is_seen else ""


def in_turn(words: Sequence[Any], order: Sequence[int]) -> list[int]:
    """Return `order` with the words in turn (left, right, left, ...), so that a cut keeps them even.

    Args:
        words: the word of each item.
        order: places of items.
    """
    before: dict[Any, int] = {}
    rank = {}
    for place in order:
        rank[place] = before[words[place]] = before.get(words[place], -1) + 1
    return sorted(order, key=rank.__getitem__)
