"""The score table of a benchmark: means by task, question type and group, micro and macro, with 95 % intervals.

A table has three levels. Question types are what a row names; a task is a column of the authors' table, the unweighted
mean of its question types (VSI-Bench's direction: easy, medium and hard); groups are any other way to sort questions.
micro is the mean over questions, macro the unweighted mean of the tasks; the one that the authors quote is "overall".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from vsgrpo.evaluation.intervals import Interval, mean_of_known, resample_scenes
from vsgrpo.evaluation.results import SCHEMA_VERSION, Answers
from vsgrpo.terminal import counted

HEADLINES = ("micro", "macro", "chance_adjusted")
"""What a benchmark's one number may be: the mean over questions, the mean of its tasks, or the mean over questions
above chance, sum(score - chance) / sum(1 - chance) (SITE-Bench, arXiv 2505.05456)."""
_TYPE, _TASK, _MEAN = "types", "tasks", "means"
_SHOWN = {_TYPE: "question type", _TASK: "task"}


@dataclass(frozen=True)
class Published:
    """A published row of a benchmark's table.

    Attributes:
        name: of the model, with what must be known of the setup.
        overall: the quoted number, 0..1.
        source: where it is printed.
        tasks: task -> 0..1, where the source has them.
    """

    name: str
    overall: float
    source: str
    tasks: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the row as results.json has it."""
        return {"name": self.name, "overall": self.overall, "tasks": dict(self.tasks), "source": self.source}


@dataclass(frozen=True, slots=True)
class Scored:
    """One scored question.

    Attributes:
        question_type: of its row.
        scene: what is resampled together.
        score: 0..1 (a difference of two scores: -1..1).
        chance: expected score of a guess among its options, 0 where there are none.
        groups: way of sorting -> the values that it belongs to.
    """

    question_type: str
    scene: str
    score: float
    chance: float = 0.0
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cell:
    """A mean with its 95 % interval, how many questions it is of, and the sum of their scores.

    The sum is n times the mean only where the mean is over questions: not for one of several types, nor above chance.
    """

    mean: float
    n: int
    low: float
    high: float
    correct: float

    def to_json(self) -> dict[str, float]:
        """Return the cell as results.json has it."""
        found = {"accuracy": self.mean, "correct": self.correct, "total": self.n}
        return {**found, "low": self.low, "high": self.high}

    def text(self) -> str:
        """Return mean, number and interval in percent, in columns."""
        return f"{100 * self.mean:>8.1f}{self.n:>7}{100 * self.low:>8.1f} to {100 * self.high:.1f}"


Cells = dict[str, dict[str, Cell]]


def make_cells(
    questions: Sequence[Scored],
    tasks: Mapping[str, Sequence[str]],
    above_chance: bool = False,
    offset: bool = True,
    task_groups: Mapping[str, Mapping[str, Sequence[str]]] = MappingProxyType({}),
) -> Cells:
    """Return every mean of a table: "means" (micro, macro, chance_adjusted), "tasks", "types" and the groups.

    Intervals are the 2.5 % and 97.5 % points over resamples of whole scenes (`intervals.resample_scenes`); all cells
    see the same resamples.

    Args:
        tasks: task -> its question types; types that no task names are tasks of their own.
        above_chance: types, tasks and groups are sum(score - chance) / sum(1 - chance); micro is not.
        offset: False for differences of two scores, in which the chance cancels.
        task_groups: way of sorting tasks -> value -> its tasks; a cell is their unweighted mean.
    """
    scenes = {scene: place for place, scene in enumerate(dict.fromkeys(question.scene for question in questions))}
    means = [(_MEAN, "micro"), *([(_MEAN, "chance_adjusted")] if above_chance else [])]
    keys = {key: place for place, key in enumerate(means)}
    for kind in sorted({question.question_type for question in questions}):
        keys[_TYPE, kind] = len(keys)
    cells, rows, values, weights, scores = [], [], [], [], []
    for question in questions:
        chance = question.chance if above_chance else 0.0
        value = question.score - (chance if offset else 0.0)
        own = [(_TYPE, question.question_type), *means[1:]]
        own += [(group, name) for group, names in question.groups.items() for name in names]
        for key, score, weight in [(means[0], question.score, 1.0), *((key, value, 1 - chance) for key in own)]:
            cells.append(keys.setdefault(key, len(keys)))
            rows.append(scenes[question.scene])
            values.append(score)
            weights.append(weight)
            scores.append(question.score)
    flat, shape = np.array(rows) * len(keys) + np.array(cells), (len(scenes), len(keys))
    sums = [np.bincount(flat, each, shape[0] * shape[1]).reshape(shape) for each in (values, weights)]
    both = np.hstack(sums)
    drawn = np.vstack([both.sum(axis=0), resample_scenes(both)])  # the questions themselves first
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = drawn[:, : len(keys)] / drawn[:, len(keys) :]
        columns = {key: ratios[:, place] for key, place in keys.items()}
        of_each = [np.bincount(cells, each, len(keys)) for each in (None, scores)]
        counts = dict(zip(keys, np.stack(of_each, axis=1), strict=True))
        _add_tasks(columns, counts, tasks, task_groups)
    found: Cells = {}
    for (group, name), column in columns.items():
        found.setdefault(group, {})[name] = _cell(column, counts[group, name])
    found[_MEAN] = {name: found[_MEAN][name] for name in HEADLINES if name in found[_MEAN]}
    return found


def _add_tasks(
    columns: dict[tuple[str, str], np.ndarray],
    counts: dict[tuple[str, str], np.ndarray],
    tasks: Mapping[str, Sequence[str]],
    task_groups: Mapping[str, Mapping[str, Sequence[str]]],
) -> None:
    """Add the tasks of which there are questions, their mean, and that of each group of them.

    Args:
        columns: mean of the questions, then of each resample.
        counts: number of questions, and the sum of their scores.
    """
    kinds = [name for group, name in columns if group == _TYPE]
    named = {kind for own in tasks.values() for kind in own}
    parts = {task: [kind for kind in own if kind in kinds] for task, own in tasks.items()}
    parts |= {kind: [kind] for kind in kinds if kind not in named}
    for task, own in parts.items():
        if own:
            columns[_TASK, task] = mean_of_known([columns[_TYPE, kind] for kind in own])
            counts[_TASK, task] = np.sum([counts[_TYPE, kind] for kind in own], axis=0)
    every = [column for (group, _), column in columns.items() if group == _TASK]
    columns[_MEAN, "macro"], counts[_MEAN, "macro"] = mean_of_known(every), counts[_MEAN, "micro"]
    for group, values in task_groups.items():
        for value, own in values.items():
            if there := [(_TASK, task) for task in own if (_TASK, task) in columns]:
                columns[group, value] = mean_of_known([columns[key] for key in there])
                counts[group, value] = np.sum([counts[key] for key in there], axis=0)


def _cell(column: np.ndarray, counts: np.ndarray) -> Cell:
    known = column[1:][~np.isnan(column[1:])]
    low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (column[0], column[0])
    return Cell(float(column[0]), int(counts[0]), float(low), float(high), float(counts[1]))


@dataclass(frozen=True)
class Accuracy:
    """Scores of one set of answers.

    Attributes:
        name: what was scored: the row file, or the benchmark and its version.
        num_rows: questions in the row file.
        correct: id -> score of an answered question: right or wrong, or 0..1.
        cells: the table (`make_cells`).
        headline: which mean is `overall`, one of `HEADLINES`.
        scorer: its name.
        num_scenes: what intervals resample; as many as questions where nothing groups them.
        baselines: answers that need no model -> their overall score.
        published: rows to print beside.
        notes: what a reader must know before quoting a number.
        pass_at_k: with several answers per question: "pass@k" -> mean of the best of k of them, as `quoted_mean`.
    """

    name: str
    num_rows: int
    correct: Mapping[str, float]
    cells: Cells
    headline: str = "micro"
    scorer: str = "right or wrong"
    num_scenes: int = 0
    baselines: Mapping[str, float] = field(default_factory=dict)
    published: tuple[Published, ...] = ()
    notes: tuple[str, ...] = ()
    pass_at_k: Mapping[str, Cell] = field(default_factory=dict)

    @property
    def quoted_mean(self) -> str:
        """The mean that pass@k is of: the headline, or micro where that is above chance (k guesses raise it too)."""
        return "micro" if self.headline == "chance_adjusted" else self.headline

    def mean_of(self, name: str) -> Cell:
        """Return one of the means: micro, macro, chance_adjusted."""
        return self.cells[_MEAN][name]

    @property
    def overall(self) -> float:
        """The number that the benchmark's authors quote, 0..1."""
        return self.cells[_MEAN][self.headline].mean

    def scores(self) -> dict[str, float]:
        """Return the mean score 0..1 overall and by task."""
        return {"overall": self.overall, **{name: cell.mean for name, cell in self.cells[_TASK].items()}}

    def title(self) -> str:
        """Name what was scored."""
        return f"{len(self.correct)} of {counted(self.num_rows, 'question')} in {self.name} | {self.scorer}"

    def intervals(self) -> dict[str, Interval]:
        """Return the 95 % interval overall, of the means and by task."""
        means = self.cells[_MEAN]
        cells = {"overall": means[self.headline], **means, **self.cells[_TASK]}
        return {name: (cell.low, cell.high) for name, cell in cells.items()}

    def to_json(self) -> dict[str, Any]:
        """Return means 0..1: overall, micro and macro, by task, question type and group."""
        others = {name: cells for name, cells in self.cells.items() if name not in (_MEAN, _TASK, _TYPE)}
        return {
            "title": self.title(),
            "overall": self.overall,
            "headline": self.headline,
            **{name: cell.mean for name, cell in self.cells[_MEAN].items()},
            "n": len(self.correct),
            "num_rows": self.num_rows,
            "num_scenes": self.num_scenes,
            "intervals": self.intervals(),
            "tasks": cells_json(self.cells[_TASK]),
            "question_types": cells_json(self.cells[_TYPE]),
            "groups": {name: cells_json(cells) for name, cells in others.items()},
            "baselines": dict(self.baselines),
            "published": [row.to_json() for row in self.published],
            "notes": list(self.notes),
            **({"pass_at_k": cells_json(self.pass_at_k)} if self.pass_at_k else {}),
            "correct": dict(self.correct),
        }

    def table(self) -> str:
        """Return the means overall, by task and by question type, in percent, with what stands beside them."""
        means = self.cells[_MEAN]
        what = {"micro": "mean over questions", "macro": f"mean of {counted(len(self.cells[_TASK]), 'task')}"}
        what["chance_adjusted"] = "above chance"
        lines = [
            self.title(),
            f"{'':<44}{'score':>8}{'n':>7}{'95 %':>8}",
            _line(f"overall ({self.headline}: {what[self.headline]})", means[self.headline]),
        ]
        lines += [_line(f"{name} ({what[name]})", cell) for name, cell in means.items() if name != self.headline]
        lines += [_line(f"{name} ({self.quoted_mean})", cell) for name, cell in self.pass_at_k.items()]
        parts = {name: cells for name, cells in self.cells.items() if name not in (_MEAN, _TASK)}
        if parts[_TYPE].keys() != self.cells[_TASK].keys():
            parts = {_TASK: self.cells[_TASK]} | parts
        for group, cells in parts.items():
            lines += [f"by {_SHOWN.get(group, group)}:", *(_line(f"  {name}", cell) for name, cell in cells.items())]
        lines += [f"{name:<44}{100 * value:>8.1f}" for name, value in self.baselines.items()]
        lines += [f"published: {row.name:<33}{100 * row.overall:>8.1f}  ({row.source})" for row in self.published]
        return "\n".join([*lines, *(f"note: {note}" for note in (self.interval_note(), *self.notes))])

    def interval_note(self) -> str:
        """Say what the intervals are."""
        if self.num_scenes < len(self.correct):
            return f"intervals are 95 %, by resampling {counted(self.num_scenes, 'scene')}"
        return f"intervals are 95 %, by resampling {counted(self.num_scenes, 'question')}, which no scene groups"


def _line(name: str, cell: Cell) -> str:
    return f"{name:<44}{cell.text()}"


def cells_json(cells: Mapping[str, Cell]) -> dict[str, dict[str, float]]:
    """Return name -> cell as results.json has them."""
    return {name: cell.to_json() for name, cell in cells.items()}


@dataclass(frozen=True)
class AccuracyReport:
    """One evaluation: its accuracy, that of the controls, and what decided them."""

    main: Accuracy
    controls: Mapping[str, Accuracy]
    answers: Answers

    def to_json(self) -> dict[str, Any]:
        """Return the content of results.json; `scores` and what follows it are read by reports and model cards."""
        return {
            "schema_version": SCHEMA_VERSION,
            **self.main.to_json(),
            "scores": self.main.scores(),
            "scorer": self.main.scorer,
            "controls": {name: accuracy.scores() for name, accuracy in self.controls.items()},
            "leak": self.answers.leak.to_json(),
            "cut_off": self.answers.num_cut_off,
            "unanswered": [{"id": name, "reason": reason} for name, reason in self.answers.errors.items()],
            **{name: value for name, value in self.answers.settings.items() if name != "schema_version"},
        }

    def table(self) -> str:
        """Return the accuracy, the controls below it, and what a reader must know before quoting it."""
        lines = [self.main.table()]
        lines += [f"control {name:<12} {100 * accuracy.overall:.1f}" for name, accuracy in self.controls.items()]
        lines += [f"note: {note}" for note in self.answers.leak.notes()]
        if self.answers.num_cut_off:
            limit = self.answers.settings["decoding"]["max_new_tokens"]
            cut_off = counted(self.answers.num_cut_off, "answer was", "answers were")
            lines.append(f"note: {cut_off} cut off at decoding.max_new_tokens={limit}")
        if self.answers.errors:
            unanswered = counted(len(self.answers.errors), "question is", "questions are")
            lines.append(f"note: {unanswered} unanswered and left out of the scores:")
            lines += [f"  {reason}" for reason in sorted(set(self.answers.errors.values()))[:5]]
        return "\n".join(lines)
