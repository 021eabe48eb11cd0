"""Rows thinned by their text: kept with a probability that makes every answer as likely, whatever the words say.

A row is kept with probability min_k p_k / p_right, where p are the probabilities of its answers by its words, learned
from other scenes; of numbers, of bins of answers. Drawn, never cut to quotas: a fixed number of wins per word can be
learned in the opposite direction. Sizes are knowledge and stay, but for categories that one number answers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vsgrpo.audit.folds import NUM_FOLDS, scene_folds
from vsgrpo.audit.measure import NEAR_FIXED, Texts, read_texts
from vsgrpo.audit.numbers import NumberTexts
from vsgrpo.audit.rows import AuditRow
from vsgrpo.terminal import counted

MIN_ROWS = 50
MIN_SCENES = 20
"""With fewer rows or scenes of a type its words cannot be told from its rooms: it is left as it is."""
NUM_BINS = 5
_FLOOR = 0.04
"""No answer is taken for less likely than this: one rare answer would empty the type."""
_SEEDS = (100, 101, 102)
_MIN_FIXED_ROWS = 10

Array = NDArray[np.float64]


def is_too_small(rows: Sequence[AuditRow]) -> str | None:
    """Return why the rows of one type cannot be balanced by their text, None where they can."""
    scenes = len({row.scene for row in rows})
    if len(rows) < MIN_ROWS or scenes < MIN_SCENES:
        return f"{counted(len(rows), 'row')} of {counted(scenes, 'room')}, {MIN_ROWS} of {MIN_SCENES} are needed"
    return None


def text_chances(rows: Sequence[AuditRow]) -> Array:
    """Return of each row of one type the probability to keep it, by its text."""
    texts = read_texts(rows)
    answers = bins_of(texts.truth, NUM_BINS) if isinstance(texts, NumberTexts) else texts.truth
    scenes = [row.scene for row in rows]
    keep = np.zeros(len(rows))
    for seed in _SEEDS:
        folds = scene_folds(scenes, seed)
        for k in range(NUM_FOLDS):
            use = np.flatnonzero(folds == k)
            keep[use] += _chances(texts, answers, np.flatnonzero(folds != k), use) / len(_SEEDS)
    return keep


def _chances(texts: Texts, answers: NDArray[np.int64], fit: NDArray[np.int64], use: NDArray[np.int64]) -> Array:
    if not len(use):
        return np.zeros(0)
    beliefs = [np.maximum(belief, _FLOOR) for belief in texts.beliefs(answers, fit, use)]
    return np.array([belief.min() / belief[answers[k]] for k, belief in zip(use, beliefs, strict=True)])


def fixed_chances(rows: Sequence[AuditRow]) -> Array:
    """Return of each row of one number type the probability to keep it by how near its category is to one number.

    0 where the category's best constant scores 0.75, else 1. Where that leaves less than half of the rows, all sizes
    are a matter of the name (rooms drawn by a program): then (1 - score) / 0.25, so that the type is thinned, not gone.
    """
    texts = read_texts(rows)
    score = np.zeros(len(rows))
    if isinstance(texts, NumberTexts):
        for k in range(len(texts.keys)):
            own = np.flatnonzero(texts.key_of == k)
            if len(own) >= _MIN_FIXED_ROWS:
                score[own] = texts.best_constant(own)[1]
    keep = (score < NEAR_FIXED).astype(float)
    return keep if keep.mean() >= 0.5 else np.minimum(1.0, (1.0 - score) / (1.0 - NEAR_FIXED))


def bins_of(values: Array, most: int) -> NDArray[np.int64]:
    """Return the bin of each value: at most `most` ranges of about as many values, none empty, equal values together.

    [2, 2, 2, 3, 4, 5] in 3 bins: 2 | 3, 4 | 5.
    """
    found, counts = np.unique(values, return_counts=True)
    bin_of = np.zeros(len(found), dtype=np.int64)
    current, inside, left = 0, 0, len(values)
    for k, count in enumerate(counts):
        if inside and current < most - 1 and inside + count / 2 > left / (most - current):
            left -= inside
            current, inside = current + 1, 0
        bin_of[k] = current
        inside += count
    return bin_of[np.searchsorted(found, values)]
