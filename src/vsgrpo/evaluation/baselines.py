"""Scores that need no eyes: the best constant answer per question type, and chance for choices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from vsgrpo.data.row import LETTERS, Row
from vsgrpo.spatial.scoring import aggregate, best_number, best_word, mra


def best_constants(rows: Iterable[Row], show_options: bool = True) -> dict[str, str]:
    """Return per question type the one answer that scores best on `rows`.

    Numbers: the multiple of the finest decimal place among the ground truths, between their smallest and largest, with
    the highest mean relative accuracy (the smallest of equals). Choices: the most frequent letter, or with options not
    shown the most frequent word (the alphabetically first of equals).
    """
    constants = {}
    for question_type, group in _by_type(rows).items():
        if group[0].answer_kind == "number":
            constants[question_type] = best_number([row.ground_truth for row in group])[0]
        else:
            constants[question_type] = best_word(row.ground_truth if show_options else row.answer for row in group)[0]
    return constants


def most_frequent(rows: Iterable[Row], show_options: bool = True) -> dict[str, str]:
    """Return per question type the most frequent answer: number text, letter, or with options not shown word.

    Of equally frequent ones the smallest number, or the alphabetically first.
    """
    found = {}
    for question_type, group in _by_type(rows).items():
        is_number = group[0].answer_kind == "number"
        counts = Counter(row.ground_truth if is_number or show_options else row.answer for row in group)
        order = (lambda text: float(text)) if is_number else (lambda text: text)
        found[question_type] = min(counts, key=lambda text, counts=counts, order=order: (-counts[text], order(text)))
    return found


def constant_scores(rows: Iterable[Row], constants: Mapping[str, str]) -> dict[str, float]:
    """Return the table's row (0..1, with `overall`) of answering `constants[question_type]` to every question."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        text = constants[row.question_type]
        if row.answer_kind == "number":
            score = mra(float(text), float(row.ground_truth))
        else:
            score = float(text == (row.ground_truth if len(text) == 1 and text in LETTERS else row.answer))
        scores.setdefault(row.question_type, []).append(score)
    return aggregate(scores)


def chance_scores(rows: Iterable[Row]) -> dict[str, float]:
    """Return the expected score (0..1) of guessing among the options, for the choice tasks, without `overall`.

    Empty where `rows` have no choice question: numbers have no chance level.
    """
    scores: dict[str, list[float]] = {}
    for row in rows:
        if row.options is not None and row.answer_kind == "choice":
            scores.setdefault(row.question_type, []).append(1 / len(row.options))
    return {task: value for task, value in aggregate(scores).items() if task != "overall"} if scores else {}


def derangement(names: Sequence[str]) -> dict[str, str]:
    """Return for every name another one, each used once: the next of the sorted names, the first for the last.

    Raises:
        ValueError: fewer than two distinct names.
    """
    ordered = sorted(set(names))
    if len(ordered) < 2:
        raise ValueError(f"{len(ordered)} video(s): shuffling needs at least 2")
    return dict(zip(ordered, [*ordered[1:], ordered[0]], strict=True))


def _by_type(rows: Iterable[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.question_type, []).append(row)
    return groups
