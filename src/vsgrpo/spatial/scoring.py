"""How an answer compares with the right one: scores as pure floats, VSI-Bench's table, best constants.

Source: thinking-in-space commit 51e089c (lmms_eval/tasks/vsibench/utils.py); arXiv 2504.00883 section 4.1.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeGuard

import numpy as np

from vsgrpo.spatial.answers import normalize_word, read_letter, read_number
from vsgrpo.spatial.maps import read_map, read_map_as, strict_score
from vsgrpo.spatial.question_types import answer_kind_of, table_tasks, tolerance_of, type_names

# linspace, not literals: its 9th value is 0.8999999999999999, so an error of exactly 10 % passes nine thresholds.
_MRA_THRESHOLDS = np.linspace(0.5, 0.95, int((0.95 - 0.5) / 0.05 + 2))

TOLERANCES = 1 - _MRA_THRESHOLDS
"""Relative errors that `mra` lets pass, one per threshold."""
_MAX_CANDIDATES = 20_000
ROUNDING = 1e-9


def exact_match(prediction: str, target: str) -> float:
    """Return 1.0 if the whole strings agree but for case, outer space and one final period, else 0.0."""
    return float(normalize_word(prediction) == normalize_word(target))


def relative_reward(prediction: float | None, target: float) -> float:
    """Return max(0, 1 - |target - prediction| / min(target, prediction)), 0 for no or a non-positive prediction.

    A target of 0 (a count) earns 1 for exactly 0, else 0: ratios are not defined there.

    Source: arXiv 2504.00883 section 4.1 gives the ratio. Deviation: the paper does not print how the ratio becomes a
    reward; 1 minus it, floored at 0, is ours.

    Raises:
        ValueError: target negative or not finite.
    """
    if not _is_positive_pair(prediction, target):
        return float(prediction == target == 0)
    return max(0.0, 1.0 - abs(target - prediction) / min(target, prediction))


def smooth_reward(prediction: float | None, target: float) -> float:
    """Return min(p, t) / max(p, t), 0 for no or a non-positive prediction: 10 % too low 0.9, twice too high 0.5.

    A target of 0 earns 1 for exactly 0, else 0.

    Ours: a second choice beside `relative_reward`, which is 0 beyond a factor of two, however far.

    Raises:
        ValueError: target negative or not finite.
    """
    if not _is_positive_pair(prediction, target):
        return float(prediction == target == 0)
    return min(prediction, target) / max(prediction, target)


def linear_reward(prediction: float | None, target: float) -> float:
    """Return max(0, 1 - |target - prediction| / target), 0 for no or a non-positive prediction: 10 % off gives 0.9.

    A target of 0 earns 1 for exactly 0, else 0.

    Source: Video-R1 (arXiv 2503.21776), regression. Deviation: there a prediction of 0 earns 0 by the formula, here
    negative ones do, too.

    Raises:
        ValueError: target negative or not finite.
    """
    if not _is_positive_pair(prediction, target):
        return float(prediction == target == 0)
    return max(0.0, 1.0 - abs(target - prediction) / target)


def log_ratio_reward(prediction: float | None, target: float) -> float:
    """Return max(0, 1 - |log2(prediction / target)|), 0 for no or a non-positive prediction: twice too high or low 0.

    A target of 0 earns 1 for exactly 0, else 0. Ours: as far for half as for double, and 0 beyond.

    Raises:
        ValueError: target negative or not finite.
    """
    if not _is_positive_pair(prediction, target):
        return float(prediction == target == 0)
    return max(0.0, 1.0 - abs(math.log2(prediction) - math.log2(target)))


def _is_positive_pair(prediction: float | None, target: float) -> TypeGuard[float]:
    """Return whether both are finite numbers > 0; ValueError where the target is no finite number >= 0."""
    if not (math.isfinite(target) and target >= 0):
        raise ValueError(f"target={target}: a finite number >= 0 is needed")
    return target > 0 and prediction is not None and math.isfinite(prediction) and prediction > 0


def mra(prediction: float | None, target: float) -> float:
    """Return the mean relative accuracy: the share of ten thresholds theta with |p - t| / t <= 1 - theta.

    A target of 0, on which the official code divides by zero, scores 1 if the prediction is 0 too, else 0. No such row
    exists in the benchmark; our counts of nothing are (`data.min_count=0`).

    Raises:
        ValueError: target negative or not finite.
    """
    if not (math.isfinite(target) and target >= 0):
        raise ValueError(f"target={target}: a finite number >= 0 is needed")
    if target == 0:
        return float(prediction == 0)
    if prediction is None:
        return 0.0
    return float((abs(prediction - target) / target <= TOLERANCES).mean())


def mra_many(predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return `mra` of each pair, the same floats; nan means no prediction.

    Args:
        predictions: (N,) float64.
        targets: (N,) float64, none below 0.
    """
    is_zero = targets == 0
    divisor = np.where(is_zero, 1.0, targets)
    relative = (np.abs(predictions - targets)[:, None] / divisor[:, None] <= TOLERANCES).mean(axis=1)
    return np.where(is_zero, predictions == 0, relative)


def within(prediction: float | None, target: float, tolerance: float) -> float:
    """Return 1.0 where a number is at most `tolerance` from the right one, else 0.0; for times, which may be near 0."""
    return float(prediction is not None and abs(prediction - target) <= tolerance + ROUNDING)


def score_number(question_type: str, prediction: float | None, target: float) -> float:
    """Return the score of a number: `within` the tolerance of its type, or `mra` for types without one.

    Raises:
        ValueError: as `mra`.
    """
    tolerance = tolerance_of(question_type)
    return mra(prediction, target) if tolerance is None else within(prediction, target, tolerance)


def score_numbers(question_types: Sequence[str], predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return `score_number` of each row, the same floats; nan means no prediction.

    Args:
        question_types: of each row.
        predictions: (N,) float64.
        targets: (N,) float64, none below 0.
    """
    known = {name: tolerance_of(name) for name in set(question_types)}
    scores = mra_many(predictions, targets)
    if any(value is not None for value in known.values()):
        limits = np.array([np.nan if (limit := known[name]) is None else limit for name in question_types])
        scores = np.where(np.isnan(limits), scores, np.abs(predictions - targets) <= limits + ROUNDING)
    return scores


def score(
    scorer: str, question_type: str, prediction: str, ground_truth: str, options: Sequence[str] | None = None
) -> float:
    """Return the score (0..1) of one answer: letter match (choices), `score_number` (numbers) or `strict_score` (maps).

    Args:
        scorer: one of `SCORERS`, or `EASI`.
        question_type: a name of `QUESTION_TYPES`.
        prediction: the model's text.
        ground_truth: letter, number text or map.
        options: the words of a choice question without letters; only `lenient` looks at them.

    Raises:
        ValueError: unknown scorer or question type, or a ground truth that is no number where one is needed.
    """
    answer_kind = answer_kind_of(question_type)
    if answer_kind is None:
        raise ValueError(f"question_type={question_type!r}: one of {type_names()}")
    if answer_kind == "choice":
        return float(read_letter(scorer, prediction, options).lower() == ground_truth.lower())
    if answer_kind == "map":
        return strict_score(read_map_as(scorer, prediction), read_map(ground_truth) or {})
    return score_number(question_type, read_number(scorer, question_type, prediction), float(ground_truth))


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


# --- what can be scored without eyes ---


def best_number(texts: Iterable[str] | Mapping[str, int], allowed: float | None = None) -> tuple[str, float]:
    """Return the constant with the highest mean MRA over number texts, and that score. Zeros are right for 0 alone.

    Candidates are the multiples of the finest decimal place among the texts, between their smallest and largest (where
    that is more than 20,000, the texts' own values); the smallest of equals wins.

    Args:
        texts: as they come, or text -> how often.
        allowed: the error that is right where that is scored instead (`QuestionType.tolerance`).

    Raises:
        ValueError: no texts, or one that is not a finite number >= 0.
    """
    found = Counter(texts)
    zeros = sum(count for text, count in found.items() if float(text) == 0)
    if zeros and allowed is None:
        rest = {text: count for text, count in found.items() if float(text) != 0}
        best, share = best_number(rest) if rest else ("0", 0.0)
        share *= sum(rest.values()) / found.total()
        return max(("0", zeros / found.total()), (best, share), key=lambda item: item[1])
    places = max(len(text.partition(".")[2]) if "e" not in text.lower() else 1 for text in found)
    truths, place_of = np.unique(np.array([float(text) for text in found]), return_inverse=True)
    counts = np.bincount(place_of, weights=list(found.values())).astype(int)
    if not (np.isfinite(truths).all() and truths[0] >= 0):
        raise ValueError(f"best_number: {truths[0]}: numbers >= 0 are needed")
    scale = 10**places
    low, high = round(truths[0] * scale), round(truths[-1] * scale)
    values = np.arange(low, high + 1) / scale if high - low < _MAX_CANDIDATES else truths
    totals = np.concatenate([[0], np.cumsum(counts)])
    if allowed is None:
        ranges = [_within(truths, values, tolerance) for tolerance in TOLERANCES]
    else:
        last = np.searchsorted(truths, values + allowed + ROUNDING, side="right")
        ranges = [(np.searchsorted(truths, values - allowed - ROUNDING), last)]
    right = np.zeros(len(values))
    for first, last in ranges:
        right += totals[last] - totals[first]
    place = int(np.argmax(right))
    return f"{values[place]:.{places}f}", float(right[place] / (len(ranges) * totals[-1]))


def _within(truths: np.ndarray, values: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Return first and last + 1 of the sorted truths t with |value - t| / t <= tolerance, per value."""

    def is_right(places: np.ndarray) -> np.ndarray:
        inside = (places >= 0) & (places < len(truths))
        t = truths[np.clip(places, 0, len(truths) - 1)]
        return inside & (np.abs(values - t) / t <= tolerance)

    # The bounds are rounded otherwise than the rule: a truth on the edge may be one place off.
    first = np.searchsorted(truths, values / (1 + tolerance), side="left")
    last = np.searchsorted(truths, values / (1 - tolerance), side="right")
    first = np.where(is_right(first - 1), first - 1, np.where(is_right(first) | (first >= last), first, first + 1))
    last = np.where(is_right(last), last + 1, np.where(is_right(last - 1) | (first >= last), last, last - 1))
    return first, np.maximum(first, last)


def best_word(words: Iterable[str] | Mapping[str, int]) -> tuple[str, float]:
    """Return the most frequent word (the alphabetically first of equals) and its share.

    Args:
        words: as they come, or word -> how often.

    Raises:
        ValueError: no words.
    """
    counts = Counter(words)
    if not counts:
        raise ValueError("best_word: no words")
    word = min(counts, key=lambda text: (-counts[text], text))
    return word, counts[word] / counts.total()


def entropy_bits(words: Iterable[str] | Mapping[str, int]) -> float:
    """Return the entropy in bits of the words' shares: 0 for one word, 2 for four equally frequent ones."""
    counts = Counter(words)
    total = counts.total()
    return sum(-n / total * math.log2(n / total) for n in counts.values()) + 0.0


def best_of(scores: Sequence[float]) -> dict[int, float]:
    """Return k -> expected best of k of the scores of one question, for k = 1, 2, 4, ... and all of them.

    They are drawn without replacement: sum of s_i * C(i, k - 1) / C(n, k) over the scores in rising order, i from 0.
    For right-or-wrong scores it is the unbiased estimator of pass@k, 1 - C(n - c, k) / C(n, k), of arXiv 2107.03374.
    """
    ordered, n = sorted(scores), len(scores)
    return {
        k: sum(score * math.comb(place, k - 1) for place, score in enumerate(ordered)) / math.comb(n, k)
        for k in sample_sizes(n)
    }


def sample_sizes(most: int) -> list[int]:
    """Return the k of pass@k for up to `most` answers: 1, 2, 4, ... and `most`."""
    return sorted({1 << power for power in range(most.bit_length())} | {most})
