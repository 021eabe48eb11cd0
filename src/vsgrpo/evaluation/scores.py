"""From predictions to scores: read the answer out of the text as each scorer does, score, average, resample.

Every scorer sees the same predictions, so their tables can be compared. Rows without a prediction (the video did not
decode) are left out of the means and listed. Intervals are a bootstrap over scenes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, nan
from statistics import median
from sys import intern
from typing import TypeVar

import numpy as np

from vsgrpo.data.row import LETTERS, Row
from vsgrpo.errors import DataError
from vsgrpo.evaluation.benchmark import PromptSettings
from vsgrpo.evaluation.intervals import Interval, mean_intervals, scene_intervals, task_groups
from vsgrpo.evaluation.map_scores import MapScores, map_scores
from vsgrpo.spatial.answers import SCORERS, normalize_word, parse_answer, read_letter, read_number
from vsgrpo.spatial.maps import map_text, read_map, read_map_as, strict_score
from vsgrpo.spatial.question import read_letters
from vsgrpo.spatial.question_types import answer_kind_of, table_tasks
from vsgrpo.spatial.scoring import aggregate, best_of, sample_sizes, score_numbers
from vsgrpo.terminal import counted

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Item:
    """One question and what was answered.

    Attributes:
        id: unique.
        question_type: a name of `QUESTION_TYPES`.
        ground_truth: letter, text of a number above 0, or a map.
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
    def kind(self) -> str | None:
        """What is scored: a "choice" by its letter, a "number" or a "map"."""
        return answer_kind_of(self.question_type)

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
        micro: scorer -> mean over questions; "overall" of a table is the mean of the tasks (macro).
        micro_intervals: scorer -> (low, high) of it.
        by_row: scorer -> id -> score.
        num_answered: rows scored.
        num_by_task: rows scored per task of a table.
        num_scenes: scenes the intervals resample.
        unanswered: ids of rows without a prediction.
        num_unmapped: answers to choice questions without shown options that are none of the options (scored 0).
        num_unread: scorer -> answers in which it found no letter of an option, or no number.
        maps: scorer -> both scores of maps (`map_scores`), {} where none was asked for.
        sampling: with several samples: scorer -> "pass@k" and "majority" -> table; {} otherwise.
        sampling_intervals: as `sampling`, with intervals for scores.
    """

    tables: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, Interval]]
    micro: dict[str, float]
    micro_intervals: dict[str, Interval]
    by_row: dict[str, dict[str, float]]
    num_answered: int
    num_by_task: dict[str, int]
    num_scenes: int
    unanswered: tuple[str, ...]
    num_unmapped: int
    num_unread: dict[str, int]
    maps: dict[str, MapScores] = field(default_factory=dict)
    sampling: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    sampling_intervals: dict[str, dict[str, dict[str, Interval]]] = field(default_factory=dict)

    def groups(self) -> dict[str, dict[str, float]]:
        """Return per scorer the mean over the tasks that are trained and over those held out."""
        return {name: task_groups(table) for name, table in self.tables.items()}


def scored_text(item: Item | Row, prediction: str, prompt: PromptSettings) -> str | None:
    """Return what the scorers but the lenient one read of a prediction; None for a word that is none of the options.

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


def score_rows(
    rows: Sequence[Row],
    predictions: Mapping[str, Sequence[str | None]],
    prompt: PromptSettings,
    scorers: Sequence[str] = SCORERS,
) -> Scores:
    """Score predictions (id -> one text per sample) of rows; see `score_items`."""
    return score_items([row_item(row, predictions.get(row.id, ())) for row in rows], prompt, scorers)


def read_first(
    scorer: str, rows: Sequence[Row], predictions: Mapping[str, Sequence[str | None]], prompt: PromptSettings
) -> dict[str, str | float | None]:
    """Return id -> letter or number that a scorer reads in the first answer of each answered row, see `read_row`."""
    first = {row.id: next((text for text in predictions.get(row.id, ()) if text is not None), None) for row in rows}
    return {row.id: read_row(scorer, row, text, prompt) for row in rows if (text := first[row.id]) is not None}


def row_item(row: Row, texts: Iterable[str | None]) -> Item:
    """Return a row with its answers as scoring takes it."""
    scene = intern(f"{row.dataset}/{row.scene_name}")
    return Item(row.id, row.question_type, row.ground_truth, row.options, scene, tuple(texts))


def score_items(items: Sequence[Item], prompt: PromptSettings, scorers: Sequence[str] = SCORERS) -> Scores:
    """Score answered questions with these scorers, with 95 % intervals by scene.

    Raises:
        DataError: no item is answered.
    """
    answered = [item for item in items if item.given]
    unanswered = tuple(item.id for item in items if not item.given)
    if not answered:
        raise DataError(
            f"none of {counted(len(unanswered), 'row')} is answered: nothing to score", "see the reasons above"
        )
    given = [(item, text, scored_text(item, text, prompt)) for item in answered for text in item.given]
    read = {scorer: [read_answer(scorer, *each, prompt.show_options) for each in given] for scorer in scorers}
    by_scorer = {scorer: _columns(answered, read[scorer]) for scorer in scorers}
    found = [((scorer, how), column) for scorer, by in by_scorer.items() for how, column in by.items()]
    columns = dict(sorted(found, key=lambda entry: entry[0][1] != ""))  # the means over samples first
    kinds, scenes = [item.question_type for item in answered], [item.scene for item in answered]
    intervals = scene_intervals(columns, kinds, scenes)
    tables = {key: task_table(kinds, column) for key, column in columns.items()}
    means = {scorer: columns[scorer, ""].tolist() for scorer in scorers}
    return Scores(
        tables={scorer: tables[scorer, ""] for scorer in scorers},
        intervals={scorer: intervals[scorer, ""] for scorer in scorers},
        micro={scorer: float(columns[scorer, ""].mean()) for scorer in scorers},
        micro_intervals=mean_intervals({scorer: columns[scorer, ""] for scorer in scorers}, scenes),
        by_row={s: dict(zip((i.id for i in answered), values, strict=True)) for s, values in means.items()},
        num_answered=len(answered),
        num_by_task=_counts(kinds, tables["official", ""]),
        num_scenes=len(set(scenes)),
        unanswered=unanswered,
        num_unmapped=sum(formal is None for _, _, formal in given),
        num_unread={scorer: sum(value is None for value in texts) for scorer, texts in read.items()},
        maps={scorer: _maps_of(given, read[scorer]) for scorer in scorers},
        sampling=_sampling_of(tables),
        sampling_intervals=_sampling_of(intervals),
    )


def _maps_of(given: Sequence[tuple[Item, str, str | None]], read: Sequence[str | float | None]) -> MapScores:
    maps = [(item.ground_truth, value) for (item, *_), value in zip(given, read, strict=True) if item.kind == "map"]
    return map_scores([truth for truth, _ in maps], [None if value is None else str(value) for _, value in maps])


def _sampling_of(found: Mapping[tuple[str, str], T]) -> dict[str, dict[str, T]]:
    """Return scorer -> "pass@k" and "majority" -> what was found for it; {} where one answer was given."""
    by_scorer: dict[str, dict[str, T]] = {}
    for (scorer, how), value in found.items():
        if how:
            by_scorer.setdefault(scorer, {})[how] = value
    return by_scorer


def read_answer(scorer: str, item: Item, raw: str, formal: str | None, shown: bool) -> str | float | None:
    """Return the letter (upper case), number or map (as text) that a scorer reads of an answer, None for none.

    Args:
        raw: the answer, which the lenient scorer reads.
        formal: `scored_text` of it, which the others read.
        shown: the options were shown.
    """
    text = raw if scorer == "lenient" else formal
    if text is None:
        return None
    if item.kind == "map":
        cells = read_map_as(scorer, text)
        return None if cells is None else map_text(cells)
    if item.kind != "choice":
        return read_number(scorer, item.question_type, text)
    letter = read_letter(scorer, text, item.options, shown).upper()
    return letter if len(letter) == 1 and letter in read_letters(item.options) else None


def read_row(scorer: str, row: Row, text: str, prompt: PromptSettings) -> str | float | None:
    """Return the letter of one of the row's options, the finite number or map that a scorer reads, None for none."""
    item = row_item(row, (text,))
    value = read_answer(scorer, item, text, scored_text(item, text, prompt), prompt.show_options)
    if isinstance(value, str) and item.kind == "choice":
        return value if value in LETTERS[: len(row.options or ())] else None
    return value if isinstance(value, str) or (value is not None and isfinite(value)) else None


def _values(items: Sequence[Item], read: Sequence[str | float | None]) -> np.ndarray:
    """Return the score of each answer read."""
    numbers = [i for i, item in enumerate(items) if item.kind == "number"]
    right = (value == item.ground_truth.upper() for item, value in zip(items, read, strict=True))
    values = np.fromiter(right, dtype=float, count=len(items))
    if numbers:  # they are 0 so far: no number equals a text
        given = np.array([nan if read[i] is None else read[i] for i in numbers], dtype=float)
        truths = np.array([float(items[i].ground_truth) for i in numbers])
        values[numbers] = score_numbers([items[i].question_type for i in numbers], given, truths)
    for i, (item, value) in enumerate(zip(items, read, strict=True)):
        if item.kind == "map":
            said = read_map(value) if isinstance(value, str) else None
            values[i] = strict_score(said, read_map(item.ground_truth) or {})
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
    unbiased estimator of arXiv 2107.03374. majority: the most frequent letter or map (of equals the first drawn); of
    numbers the median of those that could be read.
    """
    most = int(sizes.max())
    ks = sample_sizes(most)
    passed = {k: np.zeros(len(items)) for k in ks}
    answers: list[str | float | None] = []
    start = 0
    for index, size in enumerate(sizes.tolist()):
        best = best_of(values[start : start + size].tolist())
        for k in ks:
            passed[k][index] = best.get(k, best[size])
        given = [value for value in read[start : start + size] if value is not None]
        if items[index].kind != "number":
            answers.append(Counter(given).most_common(1)[0][0] if given else None)
        else:
            finite = [value for value in given if not isinstance(value, str) and isfinite(value)]
            answers.append(median(finite) if finite else None)
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
