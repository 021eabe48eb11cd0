"""Answers that need no model: the best constant, the most frequent answer, chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from vsgrpo.data.row import LETTERS, Row
from vsgrpo.spatial.maps import centred, read_map, strict_score
from vsgrpo.spatial.question_types import tolerance_of
from vsgrpo.spatial.scoring import aggregate, best_number, best_word, score_number


def best_constants(rows: Iterable[Row], show_options: bool = True) -> dict[str, str]:
    """Return per question type the one answer that scores best on `rows`.

    Numbers: the multiple of the finest decimal place among the ground truths, between their smallest and largest, with
    the highest mean score (the smallest of equals). Choices: the most frequent letter, or with options not
    shown the most frequent word (the alphabetically first of equals). Maps have none: see `constant_scores`.
    """
    texts = _answers_by_type(rows, show_options)
    return {
        kind: (best_number(found, tolerance_of(kind)) if is_number else best_word(found))[0]
        for (kind, is_number), found in texts.items()
    }


def most_frequent(rows: Iterable[Row], show_options: bool = True) -> dict[str, str]:
    """Return per question type the most frequent answer: number text, letter, or with options not shown word.

    Ties go to the smallest number, or to the alphabetically first word.
    """
    counts = {kind: Counter(texts) for kind, texts in _answers_by_type(rows, show_options).items()}
    return {
        kind: min(found, key=lambda text: (-found[text], float(text))) if is_number else best_word(found)[0]
        for (kind, is_number), found in counts.items()
    }


def _answers_by_type(rows: Iterable[Row], show_options: bool) -> dict[tuple[str, bool], list[str]]:
    """Return (question type, whether its answers are numbers) -> the right answers, as a model would say them."""
    found: dict[tuple[str, bool], list[str]] = {}
    for row in rows:
        if row.answer_kind == "map":
            continue
        is_number = row.answer_kind == "number"
        text = row.ground_truth if is_number or show_options else row.answer
        found.setdefault((row.question_type, is_number), []).append(text)
    return found


def constant_scores(rows: Iterable[Row], constants: Mapping[str, str]) -> dict[str, float]:
    """Return the table's row (0..1, with `overall`) of answering `constants[question_type]` to every question.

    A map is answered by one point of each category in its centre.
    """
    scores: dict[str, list[float]] = {}
    for row in rows:
        if row.answer_kind == "map":
            truth = read_map(row.ground_truth) or {}
            scores.setdefault(row.question_type, []).append(strict_score(centred(truth, one_each=True), truth))
            continue
        text = constants[row.question_type]
        if row.answer_kind == "number":
            value = score_number(row.question_type, float(text), float(row.ground_truth))
        else:
            value = float(text == (row.ground_truth if len(text) == 1 and text in LETTERS else row.answer))
        scores.setdefault(row.question_type, []).append(value)
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
