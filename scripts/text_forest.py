"""A second judge of what text gives away: a random forest (scikit-learn) on what the audit's tables count.

For tests and bench_audit.py only. Balancing never uses it, so that it can say whether the balancer fools its own judge.
Rates of training rows' options come from other inner folds, else the label would leak.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vsgrpo.audit.choices import ChoiceTexts
from vsgrpo.audit.folds import NUM_FOLDS, scene_folds
from vsgrpo.audit.measure import read_texts
from vsgrpo.audit.numbers import NumberTexts
from vsgrpo.audit.rows import AuditRow

_LEAVES = (1, 3, 10)
"""Fewest rows of a leaf, for numbers: small leaves read sizes best, large ones counts and distances."""


def forest_score(rows: Sequence[AuditRow], trees: int = 120, seeds: Sequence[int] = (0,)) -> float | None:
    """Return the cross-validated score (0..1) of a forest on one type, None where all questions have one text."""
    texts = read_texts(rows)
    scenes = [row.scene for row in rows]
    if isinstance(texts, NumberTexts):
        if len(texts.keys) == 1:
            return None
        return float(np.mean([_numbers(texts, scenes, seed, trees) for seed in seeds]))
    return float(np.mean([_choices(texts, scenes, seed, trees) for seed in seeds]))


def _choices(texts: ChoiceTexts, scenes: list[str], seed: int, trees: int) -> float:
    from sklearn.ensemble import RandomForestClassifier

    folds, inner = scene_folds(scenes, seed), scene_folds(scenes, seed + 1)
    right = texts.is_right(texts.truth)
    letter = np.eye(int(texts.num_options.max()))[texts.place_of_option]
    score = np.zeros(len(scenes))
    for k in range(NUM_FOLDS):
        fit, use = np.flatnonzero(folds != k), np.flatnonzero(folds == k)
        encoded = texts.features(texts.truth, fit)
        for j in range(NUM_FOLDS):
            own = texts.options_of(fit[inner[fit] == j])
            encoded[own] = texts.features(texts.truth, fit[inner[fit] != j])[own]
        given = np.hstack([encoded, letter])
        known, asked = texts.options_of(fit), texts.options_of(use)
        forest = RandomForestClassifier(trees, min_samples_leaf=20, max_features=1.0, random_state=seed, n_jobs=1)
        forest.fit(given[known], right[known])
        belief = np.zeros(len(given))
        belief[asked] = forest.predict_proba(given[asked])[:, 1]
        score[use] = texts.hits(belief, texts.truth, use)
    return float(score.mean())


def _numbers(texts: NumberTexts, scenes: list[str], seed: int, trees: int) -> float:
    """Return the score of the number with the highest expected score under the answers of the leaves.

    It sees which names a question has, nothing else: rates of the names as further columns made it worse. As the audit
    does, a fold takes what is best on the other folds: one of three sizes of leaves, or the constant.
    """
    from sklearn.ensemble import RandomForestRegressor

    folds = scene_folds(scenes, seed)
    logs = np.log(np.maximum(texts.truth, 0.01))
    named = texts.names[texts.key_of].toarray()
    scores = np.zeros((len(_LEAVES) + 1, len(scenes)))
    for k in range(NUM_FOLDS):
        fit, use = np.flatnonzero(folds != k), np.flatnonzero(folds == k)
        scores[-1, use] = texts.predict(texts.truth, fit, use)["constant"]
        for row, leaf in zip(scores, _LEAVES, strict=False):
            forest = RandomForestRegressor(trees, min_samples_leaf=leaf, random_state=seed, n_jobs=1)
            forest.fit(named[fit], logs[fit])
            row[use] = texts.scores_by_weight(_leaf_weights(forest, named[fit], named[use]), fit, use)
    chosen = np.zeros(len(scenes))
    for k in range(NUM_FOLDS):
        best = scores[:, folds != k].mean(axis=1).argmax()
        chosen[folds == k] = scores[best, folds == k]
    return float(chosen.mean())


def _leaf_weights(forest: Any, known: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Return (asked, known): how often two rows share a leaf, each leaf's rows weighing 1 together."""
    of_known, of_asked = forest.apply(known), forest.apply(asked)
    weights = np.zeros((len(asked), len(known)))
    for tree in range(of_known.shape[1]):
        same = of_asked[:, tree][:, None] == of_known[:, tree][None]
        weights += same / same.sum(axis=1, keepdims=True)
    return weights
