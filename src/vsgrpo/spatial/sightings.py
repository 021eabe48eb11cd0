"""Questions about when the video shows an object: when it is first, and when it is last seen.

Between the frames that a model is shown nobody tells when something comes into view, so a time is asked only where the
frames looked at and those shown agree within a second. Thresholds are ours; none of the field's benchmarks asks it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vsgrpo.spatial.question import Asking, Question, Shown, one_decimal
from vsgrpo.spatial.scene import Footage, Scene

TOLERANCE_S = 1.0
"""A time this near to the right one is right, and the frames that tell it differ by at most so much."""
_RUN = 2
FIRST = "When is the {category} first seen (seconds from the start)?"
LAST = "When is the {category} last seen (seconds from the start)?"


def make_first_seen(ask: Asking) -> list[Question]:
    """Ask when each object whose category occurs once is first seen, seconds with one decimal."""
    return _make(ask, FIRST, last=False)


def make_last_seen(ask: Asking) -> list[Question]:
    """Ask when each object whose category occurs once is last seen, seconds with one decimal."""
    return _make(ask, LAST, last=True)


def _make(ask: Asking, sentence: str, *, last: bool) -> list[Question]:
    footage = ask.scene.footage
    if footage is None:
        return []
    glimpse = glimpse_pixels(footage, ask.settings.min_pixels, ask.settings.appearance.glimpse_share)
    questions = []
    for item in ask.nameable_objects():
        pixels = np.array(footage.pixels.get(item.instance_id, ()))
        time = clear_time(footage, pixels, ask.settings.min_pixels, glimpse, last=last) if len(pixels) else None
        if time is not None and one_decimal(time) != "0.0":
            questions.append(ask.number(sentence.format(category=item.category), one_decimal(time), [item]))
    return ask.capped(questions)


def glimpse_pixels(footage: Footage, least: int, share: float) -> float:
    """Return the pixels from which an object is visible at all."""
    return max(1.0, min(least, share * footage.frame_pixels))


def clear_time(
    footage: Footage, pixels: NDArray[np.int64], least: float, glimpse: float, *, last: bool
) -> float | None:
    """Return when an object is first (last) seen, None where the frames do not agree within a second.

    It is seen from the first of two consecutive frames looked at in which it has `least` pixels. Not more than a second
    from there are the first frame with a glimpse of it and the first frame shown that shows it. A time less than a
    second from the start (the end) is not asked.
    """
    times = np.array(footage.times)
    order = slice(None, None, -1 if last else 1)
    seen, glimpsed, shown = (values[order] for values in (pixels >= least, pixels >= glimpse, _is_shown(footage)))
    times = times[order]
    run = seen.copy()
    for shift in range(1, _RUN):
        run &= np.concatenate([seen[shift:], np.zeros(shift, dtype=bool)])
    if not run.any() or not (seen & shown).any():
        return None
    time = float(times[run.argmax()])
    others = times[[glimpsed.argmax(), (seen & shown).argmax()]]
    if abs(time - times[0]) < TOLERANCE_S or np.abs(others - time).max() > TOLERANCE_S:
        return None
    return time


def _is_shown(footage: Footage) -> NDArray[np.bool_]:
    shown = np.zeros(len(footage.times), dtype=bool)
    shown[list(footage.shown)] = True
    return shown


def judge_first_seen(scene: Scene, question: Question, shown: Shown) -> str:
    """Judge a time: the first frame shown that shows the object is within a second of it."""
    return _judge(scene, question, shown, shown.frames)


def judge_last_seen(scene: Scene, question: Question, shown: Shown) -> str:
    """Judge a time: the last frame shown that shows the object is within a second of it."""
    return _judge(scene, question, shown, shown.frames[::-1])


def _judge(scene: Scene, question: Question, shown: Shown, order: Sequence[int]) -> str:
    footage = scene.footage
    assert footage is not None
    pixels = footage.pixels.get(question.objects[0].instance_id, ())
    times = [footage.times[place] for place in order if pixels and pixels[place] >= shown.least]
    return question.answer if times and abs(times[0] - float(question.answer)) <= TOLERANCE_S + 0.05 else ""
