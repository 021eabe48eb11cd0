"""How an answer compares with the right one: scores as pure floats, VSI-Bench's table, best constants, wrong answers.

Source: thinking-in-space commit 51e089c (lmms_eval/tasks/vsibench/utils.py); arXiv 2504.00883 section 4.1.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import TypeGuard

import numpy as np

from vsgrpo.spatial.answers import normalize_word, official_number, read_letter, read_number
from vsgrpo.spatial.question_types import answer_kind_of, table_tasks, tolerance_of, type_names

# linspace, not literals: its 9th value is 0.8999999999999999, so an error of exactly 10 % passes nine thresholds.
_MRA_THRESHOLDS = np.linspace(0.5, 0.95, int((0.95 - 0.5) / 0.05 + 2))

TOLERANCES = 1 - _MRA_THRESHOLDS
"""Relative errors that `mra` lets pass, one per threshold."""
_MAX_CANDIDATES = 20_000
_ROUNDING = 1e-9
FACTORS = ((0.25, 0.75), (1.3, 1.75))
"""A wrong number is the right one times a factor from one of these ranges, each as likely as the other."""
MIN_ERROR = 0.2
"""A wrong number is at least this share of the right one away from it."""
DIRECTIONS = ("left", "right", "back", "front", "front-left", "front-right", "back-left", "back-right")
_DRAWS = 16


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
    return float(prediction is not None and abs(prediction - target) <= tolerance + _ROUNDING)


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
        scores = np.where(np.isnan(limits), scores, np.abs(predictions - targets) <= limits + _ROUNDING)
    return scores


def score(
    scorer: str, question_type: str, prediction: str, ground_truth: str, options: Sequence[str] | None = None
) -> float:
    """Return the score (0..1) of one answer: letter match (choices) or `score_number` (numbers).

    Args:
        scorer: one of `SCORERS`.
        question_type: a name of `QUESTION_TYPES`.
        prediction: the model's text.
        ground_truth: letter or number text.
        options: the words of a choice question without letters; only `lenient` looks at them.

    Raises:
        ValueError: unknown scorer or question type, or a ground truth that is no number where one is needed.
    """
    answer_kind = answer_kind_of(question_type)
    if answer_kind is None:
        raise ValueError(f"question_type={question_type!r}: one of {type_names()}")
    if answer_kind == "choice":
        return float(read_letter(scorer, prediction, options).lower() == ground_truth.lower())
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
        last = np.searchsorted(truths, values + allowed + _ROUNDING, side="right")
        ranges = [(np.searchsorted(truths, values - allowed - _ROUNDING), last)]
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


# --- wrong but plausible answers, for preference pairs ---


def rejected_answer(
    answer: str, answer_kind: str, options: Sequence[str] | None, *, seed: int, key: str, tolerance: float | None = None
) -> str | None:
    """Return a wrong answer that reads like the right one, never equal to it under the scorers.

    Source: arXiv 2504.00883 section 5.1 (the right answer changed to a wrong one). Deviation: how it was changed is not
    printed; the kinds below are ours. Margin of 20 %: VLM-3R's distractors.
    Numbers: scaled by `FACTORS` and rounded to the decimals of the answer, positive, at least `MIN_ERROR` away; drawn
    again where rounding takes it back, at last one unit of the last decimal larger. Choices: another candidate of the
    question. Directions without candidates: another direction of the same fineness.

    Args:
        answer: the right answer: a word, or number text > 0.
        answer_kind: "number", "choice" or "text".
        options: the candidates, right one included.
        seed: of the run or build.
        key: names the question.
        tolerance: of the question's type: a wrong number is farther away, too.

    Returns:
        None where there is no wrong answer to give: a text without candidates that is neither number nor direction.
    """
    digest = blake2b(f"{seed}\0rejected\0{key}".encode(), digest_size=16).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "big"))
    if answer_kind == "number" or (options is None and _is_positive(answer)):
        return _wrong_number(answer, rng, tolerance or 0.0)
    candidates = options if options is not None else _directions_like(answer)
    wrong = [word for word in candidates if exact_match(word, answer) == 0.0]
    return wrong[int(rng.integers(len(wrong)))] if wrong else None


def _is_positive(answer: str) -> bool:
    number = official_number(answer) if " " not in answer.strip() else None
    return number is not None and math.isfinite(number) and number > 0


def _wrong_number(answer: str, rng: np.random.Generator, tolerance: float) -> str:
    right = float(answer)
    # "1e2" has no decimals of its own
    decimals = 0 if "e" in answer.lower() else len(answer.strip().partition(".")[2])
    for _ in range(_DRAWS):
        low, high = FACTORS[int(rng.integers(len(FACTORS)))]
        text = f"{right * rng.uniform(low, high):.{decimals}f}"
        error = abs(float(text) - right)
        if float(text) > 0 and error >= MIN_ERROR * right and not (tolerance and error <= tolerance + _ROUNDING):
            return text
    return f"{right + 2 * tolerance + 10.0**-decimals:.{decimals}f}"


def _directions_like(answer: str) -> list[str]:
    """Return the directions as fine as `answer` ("left" and "front-left" are not mixed); none for other words."""
    word = answer.strip().removesuffix(".").casefold()
    return [name for name in DIRECTIONS if ("-" in name) == ("-" in word)] if word in DIRECTIONS else []
