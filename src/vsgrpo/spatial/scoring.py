"""Scores as pure floats: exact match, the paper's relative reward, mean relative accuracy, VSI-Bench's aggregation.

Source: thinking-in-space commit 51e089c (lmms_eval/tasks/vsibench/utils.py); arXiv 2504.00883 section 4.1.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping

import numpy as np

from vsgrpo.spatial.answers import normalize_word
from vsgrpo.spatial.question_types import table_tasks, type_names

# linspace, not literals: its 9th value is 0.8999999999999999, so an error of exactly 10 % passes nine thresholds.
_MRA_THRESHOLDS = np.linspace(0.5, 0.95, int((0.95 - 0.5) / 0.05 + 2))


def exact_match(prediction: str, target: str) -> float:
    """Return 1.0 if the whole strings agree but for case, outer space and one final period, else 0.0."""
    return float(normalize_word(prediction) == normalize_word(target))


def relative_reward(prediction: float | None, target: float) -> float:
    """Return max(0, 1 - |target - prediction| / min(target, prediction)), 0 for no or a non-positive prediction.

    Source: arXiv 2504.00883 section 4.1 gives the ratio. Deviation: the paper does not print how the ratio becomes a
    reward; 1 minus it, floored at 0, is ours.

    Raises:
        ValueError: target not a positive finite number.
    """
    if not (math.isfinite(target) and target > 0):
        raise ValueError(f"target={target}: a finite number > 0 is needed")
    if prediction is None or not math.isfinite(prediction) or prediction <= 0:
        return 0.0
    return max(0.0, 1.0 - abs(target - prediction) / min(target, prediction))


def smooth_reward(prediction: float | None, target: float) -> float:
    """Return min(p, t) / max(p, t), 0 for no or a non-positive prediction: 10 % too low 0.9, twice too high 0.5.

    Ours: a second choice beside `relative_reward`, which is 0 beyond a factor of two and tells nothing there.

    Raises:
        ValueError: target not a positive finite number.
    """
    if not (math.isfinite(target) and target > 0):
        raise ValueError(f"target={target}: a finite number > 0 is needed")
    if prediction is None or not math.isfinite(prediction) or prediction <= 0:
        return 0.0
    return min(prediction, target) / max(prediction, target)


def mra(prediction: float | None, target: float) -> float:
    """Return the mean relative accuracy: the share of ten thresholds theta with |p - t| / t <= 1 - theta.

    A target of 0, on which the official code divides by zero, scores 1 if the prediction is 0 too, else 0, with a
    warning; no such row exists in the benchmark.

    Raises:
        ValueError: target negative or not finite.
    """
    if not (math.isfinite(target) and target >= 0):
        raise ValueError(f"target={target}: a finite number >= 0 is needed")
    if target == 0:
        warnings.warn("a relative accuracy against a target of 0 is not defined", stacklevel=2)
        return float(prediction == 0)
    if prediction is None:
        return 0.0
    return float((abs(prediction - target) / target <= 1 - _MRA_THRESHOLDS).mean())


def mra_many(predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return `mra` of each pair, the same floats; a prediction of nan stands for none.

    Args:
        predictions: (N,) float64.
        targets: (N,) float64, all above 0.
    """
    return (np.abs(predictions - targets)[:, None] / targets[:, None] <= 1 - _MRA_THRESHOLDS).mean(axis=1)


def aggregate(scores: Mapping[str, Iterable[float]]) -> dict[str, float]:
    """Return the table's row, 0..1: a mean per task and `overall`, their unweighted mean.

    The types of one task (the difficulties of relative direction) are averaged unweighted, over those present. The
    task itself may be in `scores` when it has been averaged before.

    Raises:
        ValueError: nothing to average, an unknown type, or a task given both whole and by its types.
    """
    types_of = table_tasks()
    unknown = sorted(set(scores) - {*type_names(), *types_of})
    if unknown:
        raise ValueError(f"question types {unknown}: one of {type_names()}")
    means = {name: float(np.mean(values)) for name, values in ((n, list(s)) for n, s in scores.items()) if values}
    table = {}
    for task, types in types_of.items():
        given = {name for name in (task, *types) if name in means}
        if task in given and len(given) > 1:
            raise ValueError(f"{task} is given both whole and by difficulty")
        if given:
            table[task] = float(np.mean([means[name] for name in (task, *types) if name in given]))
    if not table:
        raise ValueError("no scores to average")
    return {**table, "overall": float(np.mean(list(table.values())))}
