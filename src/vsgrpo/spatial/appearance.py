"""Order of first appearance: when a video first shows each category, and which sets of four are clear enough to ask.

Source: VSI-Bench (arXiv 2412.14171): a category appears when its pixels first pass a threshold, too close times are
ambiguous. The benchmark's threshold and gap are not published.
Deviation: thresholds are ours, and an order must hold twice: in all frames looked at (every 0.25 s of a recorded
video) and in the few frames a model is shown, else the answer would depend on how many frames were sampled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from vsgrpo.spatial.question import AppearanceSettings, Asking, Question, drawn_options
from vsgrpo.spatial.scene import Footage, SceneObject

ORDER = "What will be the first-time appearance order of the following categories in the video: {categories}?"
_NUM_CATEGORIES = 4
_MOST_SETS = 20_000


def make_appearance_order(ask: Asking) -> list[Question]:
    """Ask in which order the video first shows four categories; none where the frames were not looked at."""
    if ask.scene.footage is None:
        return []
    members: dict[str, list[SceneObject]] = {}
    for item in ask.scene.objects:
        members.setdefault(item.category, []).append(item)
    ids = {category: [o.instance_id for o in items] for category, items in members.items()}
    sights = first_sights(ask.scene.footage, ids, ask.settings.appearance)
    questions = []
    for order in clear_orders(sights, ask.settings.appearance.min_gap_s, ask.cap, ask.rng):
        listed = [order[k] for k in ask.rng.permutation(len(order))]
        text = ORDER.format(categories=", ".join(listed))
        objects = [members[category][0] for category in listed]
        questions.append(ask.choice(text, *order_options(order, ask.rng), objects))
    return questions


def order_options(order: Sequence[str], rng: np.random.Generator) -> tuple[tuple[str, ...], int]:
    """Return four different orders of the same categories joined by ", ", and the place of the right one."""
    return drawn_options(
        ", ".join(order), lambda: ", ".join(order[int(k)] for k in rng.permutation(len(order))), 3, rng
    )


@dataclass(frozen=True)
class FirstSight:
    """When a category is first seen, in seconds: among all frames looked at, and among those a model is shown."""

    looked: float
    shown: float


def first_sights(
    footage: Footage, members: Mapping[str, Sequence[int]], settings: AppearanceSettings
) -> dict[str, FirstSight]:
    """Return when each category is first seen; categories seen too briefly, or in no frame shown, are left out.

    So is one that an earlier frame glimpses, among those looked at or among those shown: at every threshold between
    the glimpse and the one it is seen from, each category returned first appears in the same frame.

    Args:
        members: category -> its instance ids; their pixels in a frame add up.
    """
    least = max(settings.min_pixels, settings.min_share * footage.frame_pixels)
    times = np.array(footage.times, dtype=np.float64)
    shown = np.zeros(len(times), dtype=bool)
    shown[list(footage.shown)] = True
    none = np.zeros(len(times), dtype=np.int64)
    glimpse = max(1.0, min(least, settings.glimpse_share * footage.frame_pixels))
    sights = {}
    for category in sorted(members):
        counts = sum((np.array(footage.pixels[i]) for i in members[category] if i in footage.pixels), none)
        seen = counts >= least
        steady = in_runs(seen, settings.min_run)
        if seen.sum() < settings.min_frames or not (steady & shown).any():
            continue
        first, first_shown = int(steady.argmax()), int((steady & shown).argmax())
        glimpsed = counts >= glimpse
        if not glimpsed[:first].any() and not (glimpsed & shown)[:first_shown].any():
            sights[category] = FirstSight(float(times[first]), float(times[first_shown]))
    return sights


def in_runs(seen: NDArray[np.bool_], min_run: int) -> NDArray[np.bool_]:
    """Return which of (F,) frames belong to at least `min_run` consecutive true ones."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], seen, [False]])))
    steady = np.zeros(len(seen), dtype=bool)
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        steady[start:end] = end - start >= min_run
    return steady


def clear_orders(
    sights: Mapping[str, FirstSight], min_gap_s: float, limit: int | None, rng: np.random.Generator
) -> list[tuple[str, ...]]:
    """Return sets of four categories, each in order of appearance, at most `limit` of them in random order.

    Any two first appearances are `min_gap_s` apart, in the frames looked at and in those shown, in the same order;
    no name is part of another.
    """
    names = sorted(sights)
    looked = np.array([sights[name].looked for name in names])
    shown = np.array([sights[name].shown for name in names])
    gap_looked, gap_shown = looked[None] - looked[:, None], shown[None] - shown[:, None]
    # Not by a rounding error: 1.0 s apart is enough where 1.0 is asked.
    clear = (np.abs(gap_looked) > min_gap_s - 1e-9) & (np.abs(gap_shown) > min_gap_s - 1e-9)
    clear &= np.sign(gap_looked) == np.sign(gap_shown)
    for i, j in combinations(range(len(names)), 2):
        if names[i] in names[j] or names[j] in names[i]:
            clear[i, j] = clear[j, i] = False
    found: list[tuple[int, ...]] = []
    for number in rng.permutation(len(names)):
        if len(found) >= _MOST_SETS:
            break
        mates = [k for k in np.flatnonzero(clear[number]).tolist() if shown[k] > shown[number]]
        found += [
            (int(number), *rest)
            for rest in combinations(sorted(mates, key=lambda k: shown[k]), _NUM_CATEGORIES - 1)
            if all(clear[a, b] for a, b in combinations(rest, 2))
        ]
    picked = [found[k] for k in rng.permutation(len(found))[:limit]]
    return [tuple(names[k] for k in chosen) for chosen in picked]
