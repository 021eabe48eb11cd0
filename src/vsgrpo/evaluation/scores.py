"""From predictions to scores: read the answer out of the text as each scorer does, score, average, resample.

Every scorer sees the same predictions, so their tables can be compared. Rows without a prediction (the video did not
decode) are left out of the means and listed. At the end: scores of answers that need no model, to compare with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import comb, isfinite, nan
from statistics import median
from sys import intern
from typing import TypeVar

import numpy as np

from vsgrpo.data.row import LETTERS, Row
from vsgrpo.errors import DataError
from vsgrpo.evaluation.benchmark import PromptSettings
from vsgrpo.evaluation.intervals import Interval, scene_intervals, task_groups
from vsgrpo.spatial.answers import SCORERS, normalize_word, parse_answer, read_letter, read_number
from vsgrpo.spatial.question_types import answer_kind_of, table_tasks
from vsgrpo.spatial.scoring import aggregate, best_number, best_word, mra, mra_many

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Item:
    """One question and what was answered.

    Attributes:
        id: unique.
        question_type: a name of `QUESTION_TYPES`.
        ground_truth: letter, or text of a number above 0.
        options: the words of a choice question in shown order, without letters; None where unknown.
        scene: what is resampled together.
        texts: one answer per sample; None: unanswered.
    """

    id: str
    question_type: str
    ground_truth: str
    options: tuple[str, ...] | None
    scene: str
    texts: tuple[str | None, ...]

    @property
    def is_choice(self) -> bool:
        """Whether a letter is scored, not a number."""
        return answer_kind_of(self.question_type) == "choice"

    @property
    def given(self) -> list[str]:
        """The samples that are answers."""
        return [text for text in self.texts if text is not None]


@dataclass(frozen=True)
class Scores:
    """The scores of one predictions file; tables are task -> 0..1 with "overall", over the answered rows.

    Attributes:
        tables: scorer -> table; with several samples the mean over them.
        intervals: scorer -> task, "overall", "trained_tasks" or "held_out_tasks" -> (low, high), 95 %.
        by_row: scorer -> id -> score.
        num_answered: rows scored.
        num_by_task: rows scored per task of a table.
        num_scenes: scenes the intervals resample.
        unanswered: ids of rows without a prediction.
        num_unmapped: answers to choice questions without shown options that are none of the options (scored 0).
        num_unread: scorer -> answers in which it found no letter of an option, or no number.
        sampling: with several samples: scorer -> "pass@k" and "majority" -> table; {} otherwise.
        sampling_intervals: as `sampling`, with intervals for scores.
    """

    tables: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, Interval]]
    by_row: dict[str, dict[str, float]]
    num_answered: int
    num_by_task: dict[str, int]
    num_scenes: int
    unanswered: tuple[str, ...]
    num_unmapped: int
    num_unread: dict[str, int]
    sampling: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    sampling_intervals: dict[str, dict[str, dict[str, Interval]]] = field(default_factory=dict)

    def groups(self) -> dict[str, dict[str, float]]:
        """Return per scorer the mean over the tasks that are trained and over those held out."""
        return {name: task_groups(table) for name, table in self.tables.items()}


def scored_text(item: Item | Row, prediction: str, prompt: PromptSettings) -> str | None:
    """Return what the official and the lmms scorer read of a prediction; None for a word that is none of the options.

    The raw text where the official harness would see it. Two of our prompts ask for another form: the training
    wording of think and observe puts the answer into `<answer>` tags (missing tags: empty, scored 0), and a choice
    question without shown options is answered by a word, which becomes its letter.
    """
    is_tagged = prompt.answer_mode != "vanilla"
    text = parse_answer(prediction, prompt.mode).text if is_tagged else prediction
    if prompt.show_options or answer_kind_of(item.question_type) != "choice" or item.options is None:
        return text
    words = [normalize_word(option) for option in item.options]
    word = normalize_word(text)
    return LETTERS[words.index(word)] if word in words else None


def score_rows(rows: Sequence[Row], predictions: Mapping[str, Sequence[str | None]], prompt: PromptSettings) -> Scores:
    """Score predictions (id -> one text per sample) of rows; see `score_items`."""
    return score_items([row_item(row, predictions.get(row.id, ())) for row in rows], prompt)


def row_item(row: Row, texts: Iterable[str | None]) -> Item:
    """Return a row with its answers as scoring takes it."""
    scene = intern(f"{row.dataset}/{row.scene_name}")
    return Item(row.id, row.question_type, row.ground_truth, row.options, scene, tuple(texts))


def score_items(items: Sequence[Item], prompt: PromptSettings) -> Scores:
    """Score answered questions with every scorer, with 95 % intervals by scene.

    Raises:
        DataError: no item is answered.
    """
    answered = [item for item in items if item.given]
    unanswered = tuple(item.id for item in items if not item.given)
    if not answered:
        raise DataError(f"none of {len(unanswered)} rows is answered: nothing to score", "see the reasons above")
    given = [(item, text, scored_text(item, text, prompt)) for item in answered for text in item.given]
    read = {scorer: [read_answer(scorer, *each, prompt.show_options) for each in given] for scorer in SCORERS}
    by_scorer = {scorer: _columns(answered, read[scorer]) for scorer in SCORERS}
    found = [((scorer, how), column) for scorer, by in by_scorer.items() for how, column in by.items()]
    columns = dict(sorted(found, key=lambda entry: entry[0][1] != ""))  # the means over samples first
    kinds, scenes = [item.question_type for item in answered], [item.scene for item in answered]
    intervals = scene_intervals(columns, kinds, scenes)
    tables = {key: task_table(kinds, column) for key, column in columns.items()}
    means = {scorer: columns[scorer, ""].tolist() for scorer in SCORERS}
    return Scores(
        tables={scorer: tables[scorer, ""] for scorer in SCORERS},
        intervals={scorer: intervals[scorer, ""] for scorer in SCORERS},
        by_row={s: dict(zip((i.id for i in answered), values, strict=True)) for s, values in means.items()},
        num_answered=len(answered),
        num_by_task=_counts(kinds, tables["official", ""]),
        num_scenes=len(set(scenes)),
        unanswered=unanswered,
        num_unmapped=sum(formal is None for _, _, formal in given),
        num_unread={scorer: sum(value is None for value in texts) for scorer, texts in read.items()},
        sampling=_sampling_of(tables),
        sampling_intervals=_sampling_of(intervals),
    )


def _sampling_of(found: Mapping[tuple[str, str], T]) -> dict[str, dict[str, T]]:
    """Return scorer -> "pass@k" and "majority" -> what was found for it; {} where one answer was given."""
    by_scorer: dict[str, dict[str, T]] = {}
    for (scorer, how), value in found.items():
        if how:
            by_scorer.setdefault(scorer, {})[how] = value
    return by_scorer


def read_answer(scorer: str, item: Item, raw: str, formal: str | None, shown: bool) -> str | float | None:
    """Return the letter (upper case) or number that a scorer reads of an answer, None for none.

    Args:
        raw: the answer, which the lenient scorer reads.
        formal: `scored_text` of it, which the others read.
        shown: the options were shown.
    """
    text = raw if scorer == "lenient" else formal
    if text is None:
        return None
    if not item.is_choice:
        return read_number(scorer, item.question_type, text)
    letter = read_letter(scorer, text, item.options, shown).upper()
    return letter if len(letter) == 1 and letter in LETTERS else None


def read_row(scorer: str, row: Row, text: str, prompt: PromptSettings) -> str | float | None:
    """Return the letter of one of the row's options or the finite number that a scorer reads, None for none."""
    item = row_item(row, (text,))
    value = read_answer(scorer, item, text, scored_text(item, text, prompt), prompt.show_options)
    if isinstance(value, str):
        return value if value in LETTERS[: len(row.options or ())] else None
    return value if value is not None and isfinite(value) else None


def _values(items: Sequence[Item], read: Sequence[str | float | None]) -> np.ndarray:
    """Return the score of each answer read."""
    values = np.zeros(len(items))
    numbers = [i for i, item in enumerate(items) if not item.is_choice]
    for i, item in enumerate(items):
        if item.is_choice:
            values[i] = read[i] == item.ground_truth.upper()
    if numbers:
        given = np.array([nan if read[i] is None else read[i] for i in numbers], dtype=float)
        values[numbers] = mra_many(given, np.array([float(items[i].ground_truth) for i in numbers]))
    return values


def _columns(items: Sequence[Item], read: Sequence[str | float | None]) -> dict[str, np.ndarray]:
    """Return scores per item: under "" the mean over its samples, with several samples also those of `_sampled`."""
    sizes = np.array([len(item.given) for item in items])
    values = _values([item for item in items for _ in item.given], read)
    mean = np.add.reduceat(values, np.concatenate([[0], sizes.cumsum()[:-1]])) / sizes
    return {"": mean, **(_sampled(items, sizes, read, values) if sizes.max() > 1 else {})}


def _sampled(
    items: Sequence[Item], sizes: np.ndarray, read: Sequence[str | float | None], values: np.ndarray
) -> dict[str, np.ndarray]:
    """Return per row what k of the n samples reach: "pass@k" for k = 1, 2, 4, ... n, and "majority".

    pass@k: the expected best score among k of the samples drawn without replacement; for right-or-wrong scores the
    unbiased estimator of arXiv 2107.03374. majority: the most frequent letter (of equals the one drawn first); of
    numbers the median of those that could be read.
    """
    most = int(sizes.max())
    ks = sorted({1 << power for power in range(most.bit_length()) if 1 << power <= most} | {most})
    passed = {k: np.zeros(len(items)) for k in ks}
    answers: list[str | float | None] = []
    start = 0
    for index, size in enumerate(sizes.tolist()):
        ordered = np.sort(values[start : start + size])
        for k in ks:
            drawn = min(k, size)
            weights = [comb(place, drawn - 1) / comb(size, drawn) for place in range(size)]
            passed[k][index] = float(ordered @ np.array(weights))
        given = [value for value in read[start : start + size] if value is not None]
        if items[index].is_choice:
            answers.append(Counter(given).most_common(1)[0][0] if given else None)
        else:
            answers.append(median(given) if given else None)  # type: ignore[type-var]
        start += size
    return {**{f"pass@{k}": column for k, column in passed.items()}, "majority": _values(items, answers)}


def task_table(kinds: Sequence[str], column: np.ndarray) -> dict[str, float]:
    """Return the table (task -> 0..1, with "overall") of one score per row of these question types."""
    by_type: dict[str, list[float]] = {}
    for kind, value in zip(kinds, column.tolist(), strict=True):
        by_type.setdefault(kind, []).append(value)
    return aggregate(by_type)


def _counts(kinds: Sequence[str], table: Mapping[str, float]) -> dict[str, int]:
    found = Counter(kinds)
    return {task: sum(found[kind] for kind in types) for task, types in table_tasks().items() if task in table}


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

    Ties go to the smallest number, or to the alphabetically first word.
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


def _by_type(rows: Iterable[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.question_type, []).append(row)
    return groups
