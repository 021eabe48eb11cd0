"""Which answers are true for the frames that a model is shown, budget by budget; one judge per type of question.

An object is visible where it has at least `min_pixels` in one frame shown. The frames are those that a loader takes for
a budget (`Footage.budgets`). Thresholds are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from vsgrpo.spatial.geometry import object_distances
from vsgrpo.spatial.question import Question, Shown
from vsgrpo.spatial.question_settings import QuestionSettings
from vsgrpo.spatial.scene import Scene, SceneObject

MIN_AREA = 0.95
"""Share of the floor that frames must show to tell the size of the room."""


def judged(scene: Scene, questions: Sequence[Question], settings: QuestionSettings) -> list[Question]:
    """Return the questions with what the frames of each budget make of their answers, in `extra`.

    `judged_at`: budgets that were judged; `true_at`: those of them at which the answer is true; `answer_at`: budget (as
    text) -> another answer that is true there, where there is one. Questions that no budget judges stay as they are.
    """
    if scene.footage is None or not scene.footage.budgets:
        return list(questions)
    budgets = shown_at(scene, settings)
    return [replace(q, extra={**q.extra, **_verdict(scene, q, budgets)}) for q in questions]


def shown_at(scene: Scene, settings: QuestionSettings) -> dict[int, Shown]:
    """Return what a model sees at each budget; nothing where no video was looked at."""
    footage = scene.footage
    if footage is None:
        return {}
    return {
        budget: Shown(
            positions,
            {i: tuple(row[k] for k in positions) for i, row in footage.pixels.items()},
            footage.frame_pixels,
            settings.min_pixels,
            footage.areas.get(budget),
            settings,
        )
        for budget, positions in sorted(footage.budgets.items())
    }


def _verdict(scene: Scene, question: Question, budgets: Mapping[int, Shown]) -> dict[str, object]:
    judge = question.type.judge or judge_named
    found = {budget: judge(scene, question, shown) for budget, shown in budgets.items()}
    known = {budget: answer for budget, answer in found.items() if answer is not None}
    if not known:
        return {}
    other = {str(budget): answer for budget, answer in known.items() if answer not in ("", question.answer)}
    true_at = [budget for budget, answer in known.items() if answer == question.answer]
    return {"judged_at": list(known), "true_at": true_at, **({"answer_at": other} if other else {})}


def judge_named(scene: Scene, question: Question, shown: Shown) -> str:
    """Judge a question about objects: its answer is true where all of them are visible."""
    return question.answer if all(shown.shows(item.instance_id) for item in question.objects) else ""


def judge_count(scene: Scene, question: Question, shown: Shown) -> str:
    """Judge a count: that of the visible instances, unless one shows fewer pixels than make it visible.

    A count below `min_count` is none that is asked for. None of a category, where none is in the room, is always true.
    """
    if not question.objects:
        return question.answer
    pixels = [shown.most(item.instance_id) for item in question.objects]
    visible = sum(count >= shown.least for count in pixels)
    if visible == len(pixels):
        return question.answer
    if any(0 < count < shown.least for count in pixels) or visible < shown.settings.min_count:
        return ""
    return str(visible)


def judge_rel_distance(scene: Scene, question: Question, shown: Shown) -> str:
    """Judge which category is nearest: all are visible, and so is an instance of the right one that is nearest."""
    target, *_ = question.objects
    objects = {item.instance_id: item for item in scene.objects}
    if not shown.shows(target.instance_id) or target.instance_id not in objects:
        return ""
    visible: list[list[SceneObject]] = []
    for word in question.options or ():
        visible.append([item for item in scene.of_category(word) if item.is_sound and shown.shows(item.instance_id)])
    if not all(visible):
        return ""
    at, distance = [objects[target.instance_id]], str(shown.settings.distance)
    nearest = [float(object_distances(at, items, distance).min()) for items in visible]
    right = (question.options or ())[int(np.argmin(nearest))]
    return question.answer if right == question.answer else ""


def judge_room_size(scene: Scene, question: Question, shown: Shown) -> str | None:
    """Judge the size of the room: the frames show at least `MIN_AREA` of its floor (`spatial.sight`)."""
    if shown.area is None:
        return None
    return question.answer if shown.area >= MIN_AREA else ""


def judge_order(scene: Scene, question: Question, shown: Shown) -> str:
    """Judge an order of appearance: no frame shown contradicts it, at any number of pixels.

    Each category first has as many pixels as make it visible in a frame of its own, in this order; and in no frame has
    a later category more pixels than an earlier one has had so far, from a glimpse (`glimpse_share`) on.
    """
    appearance = shown.settings.appearance
    least = max(shown.least, appearance.min_pixels, appearance.min_share * shown.frame_pixels)
    glimpse = max(1.0, min(least, appearance.glimpse_share * shown.frame_pixels))
    so_far, first = [], []
    for category in question.answer.split(", "):
        members = [item.instance_id for item in scene.of_category(category)]
        rows = [shown.pixels[number] for number in members if number in shown.pixels]
        most = np.maximum.accumulate(np.sum(rows, axis=0)) if rows else np.zeros(0)
        if not len(most) or most[-1] < least:
            return ""
        so_far.append(np.minimum(most, least))
        first.append(int((most >= least).argmax()))
    is_ordered = all(a < b for a, b in pairwise(first))
    clear = (
        bool(np.all((later < glimpse) | (later <= earlier)))
        for number, later in enumerate(so_far)
        for earlier in so_far[:number]
    )
    return question.answer if is_ordered and all(clear) else ""
