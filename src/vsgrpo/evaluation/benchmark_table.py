"""What is scored: rows of a benchmark, the score of an answer, and the table that the authors make of the scores."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from vsgrpo.data.prompts import asked_text
from vsgrpo.data.row import Row
from vsgrpo.errors import DataError
from vsgrpo.evaluation.accuracy import Accuracy, Cells, Published, Scored, make_cells
from vsgrpo.evaluation.constants import most_frequent
from vsgrpo.evaluation.export_names import ExportNames
from vsgrpo.evaluation.row_files import Version, find_version
from vsgrpo.evaluation.shown_rows import ShownRows
from vsgrpo.spatial.answers import parse_answer
from vsgrpo.terminal import counted

if TYPE_CHECKING:
    from vsgrpo.config.evaluate import EvalConfig


@dataclass(frozen=True)
class PromptSettings:
    """How the questions were asked; decides how an answer is read."""

    mode: str = "vanilla"
    wording: str = "eval"
    show_options: bool = True
    template: str | None = None
    suffix: str | None = None

    @property
    def answer_mode(self) -> str:
        """The mode whose tags an answer is read from; `vanilla` (no tags) unless the wording asks for them."""
        return self.mode if self.wording == "train" else "vanilla"

    @property
    def is_official(self) -> bool:
        """Whether a benchmark is asked as its authors do: no tags, no template and no other closing sentence."""
        return (self.mode, self.wording, self.template, self.suffix) == ("vanilla", "eval", None, None)

    def text(self, row: Row) -> str:
        """Return the text of a row's user turn, see `data.prompts.asked_text`."""
        return asked_text(row, self)


PLAIN = PromptSettings()
"""As VSI-Bench and most others ask."""


@dataclass(frozen=True)
class ScoredRows(ShownRows):
    """Rows to score answers to. Its class attributes are what a published benchmark is known by.

    Attributes:
        prompt: how the rows are asked.
        official: the rows are in a published benchmark's own form: a room of theirs that was trained on is a leak.
        harness: whose prompt and reader of answers, one of `harnesses`.
        unknown: id -> question type of rows that are left out because `question_types` and `tasks` do not name it.
    """

    prompt: PromptSettings = PLAIN
    official: bool = False
    harness: str = "official"
    unknown: Mapping[str, str] = field(default_factory=dict)

    harnesses: ClassVar[tuple[str, ...]] = ("official",)
    """Whose prompt and reader of answers there are: `official` (the authors'), `lmms` (lmms-eval), `easi` (VLMEvalKit,
    as the EASI leaderboard runs it)."""
    title: ClassVar[str] = ""
    """The benchmark's published name; "" for questions of one's own, named by their file."""
    question_types: ClassVar[tuple[str, ...]] = ()
    """Known question types besides those of `tasks`; where both are empty, any type is scored."""
    tasks: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Columns of the authors' table that are the mean of several question types."""
    task_groups: ClassVar[Mapping[str, Mapping[str, tuple[str, ...]]]] = {}
    """Means of tasks that the authors print too: name of the group -> value -> its tasks."""
    headline: ClassVar[str] = "micro"
    """The mean that the authors quote, one of `accuracy.HEADLINES`."""
    scorer: ClassVar[str] = "right or wrong"
    published: ClassVar[tuple[Published, ...]] = ()
    own_frames: ClassVar[Mapping[str, int]] = {}
    """Harness -> frames of all videos of a question together. Where it has a number, video.num_frames is refused."""
    official_frames: ClassVar[int | None] = None
    """Frames of a video that the published rows are of; None: any, or no video."""
    export_names: ClassVar[tuple[ExportNames, ...]] = ()
    """What it and its parts are called in lmms-eval's logs and on the EASI leaderboard."""
    versions: ClassVar[tuple[Version, ...]] = ()
    """Known row files; the published rows are of one of them."""

    def read_answer(self, row: Row, answer: str) -> str | float | None:
        """Return the letter or number that is read of an answer, None for nothing, or where all of it is judged.

        It is what `score` judges, and what exports and pages show. No text of a model may raise.

        Args:
            answer: what the model said; in tagged prompt modes what its `<answer>` tags hold.
        """
        return None

    def score(self, row: Row, answer: str) -> float:
        """Return the score of one answer, 0..1 (or True and False): whether `read_answer` is the right letter.

        No text of a model may raise.

        Args:
            answer: as for `read_answer`.
        """
        if type(self).read_answer is ScoredRows.read_answer:
            raise NotImplementedError(f"{type(self).__name__}: score, or read_answer")
        return self.read_answer(row, answer) == row.ground_truth

    @classmethod
    def unit(cls, row: Row) -> str:
        """Return what is scored as one: rows of the same unit are right together (circular evaluation)."""
        return row.id

    def scene(self, row: Row) -> str:
        """Return what intervals resample together."""
        return f"{row.dataset}/{row.scene_name}"

    def chance(self, row: Row) -> float:
        """Return the expected score of a guess among the options, 0 where there are none."""
        return 1 / len(row.options) if row.options else 0.0

    def groups(self, row: Row) -> Mapping[str, Sequence[str]]:
        """Return further ways to sort the questions: name -> the values that a row belongs to."""
        return {}

    def remarks(self, settings: Mapping[str, Any] | None = None) -> list[str]:
        """Return what must be known of the rows: another version of the file, unknown types, another number of frames.

        Args:
            settings: of the evaluation (settings.json); None for a predictions file.
        """
        notes, version = [], find_version(self.versions, self.num_rows, self.sha256)
        if self.versions and version is None:
            known = "; ".join(f"{version.name} has {version.num_rows}" for version in self.versions)
            what = f"{self.rows_name}: {counted(self.num_rows, 'row')}, sha256 {self.sha256[:12]}"
            notes.append(f"{what}: no known version of {self.title} ({known}): published rows are of another file")
        elif self.published and version is None:
            rows = counted(self.num_rows, "row")
            notes.append(f"{rows}; {self.title}'s number is not known here: published rows are of all")
        if self.published and (asked := len(self.rows) + len(self.unknown)) < self.num_rows:
            notes.append(
                f"{asked} of {counted(self.num_rows, 'row was', 'rows were')} asked, published rows are of all"
            )
        if number := sum(not row.media for row in self.rows):
            notes.append(f"{counted(number, 'question has', 'questions have')} no image and no video: asked as text")
        if self.unknown:
            types = ", ".join(f"{kind} ({n})" for kind, n in sorted(Counter(self.unknown.values()).items()))
            left_out = counted(
                len(self.unknown), "row of an unknown question type is", "rows of unknown question types are"
            )
            notes.append(f"{left_out} left out: {types}")
        frames = self.official_frames
        if settings is not None and frames is not None and settings["vision"]["num_frames"] != frames:
            shown = f"{counted(settings['vision']['num_frames'], 'frame was', 'frames were')} shown"
            notes.append(f"{shown}, published rows are of {frames}: video.num_frames={frames}")
        return notes

    @property
    def rows_name(self) -> str:
        """Name the row file."""
        return self.file.name

    def version_name(self) -> str:
        """Name what is scored: the benchmark with the version of its file, or the file."""
        version = find_version(self.versions, self.num_rows, self.sha256)
        if version is not None:
            return f"{self.title} {version.name}"
        return f"{self.rows_name} of {self.title}'s form" if self.title else self.rows_name

    def accuracy(self, answers: Mapping[str, str], name: str, config: EvalConfig | None = None) -> Accuracy:
        """Return the mean score of answers (id -> text), overall, by task, question type and group.

        Args:
            name: of the answers: a control, "" for the evaluation itself, or a predictions file.
            config: of the evaluation; None for a predictions file.
        """
        given = {row.id: self.spoken(answers[row.id]) for row in self.rows if row.id in answers}
        return self.table_of({row.id: self.score(row, given[row.id]) for row in self.rows if row.id in given})

    def spoken(self, answer: str) -> str:
        """Return what of a completion is scored: all of it, or in tagged prompt modes what the last tags hold."""
        mode = self.prompt.answer_mode
        return answer if mode == "vanilla" else parse_answer(answer, mode).text

    def table_of(self, scores: Mapping[str, float], **fields: Any) -> Accuracy:
        """Return the table of scored rows (id -> score); `fields` replace those of `Accuracy`.

        Raises:
            DataError: no question is answered in all its variants.
        """
        units = self._units()
        whole = [rows for rows in units if all(row.id in scores for row in rows)]
        notes = []
        if half := sum(any(row.id in scores for row in rows) for rows in units) - len(whole):
            answered = counted(half, "question is", "questions are")
            notes.append(f"{answered} answered in some variants only, and left out")
        if missing := len(self.rows) - len(scores):
            answered = counted(missing, "question has no prediction and is", "questions have no prediction and are")
            notes.append(f"{answered} left out of the scores")
        if not whole:
            raise DataError(f"{self.file}: no question is answered", "each needs an answer to every variant of it")
        scored = [self._scored(rows, min(float(scores[row.id]) for row in rows)) for rows in whole]
        values = {
            "name": self.version_name(),
            "num_rows": self.num_rows,
            "correct": scores,
            "cells": make_cells(scored, self.tasks, self._is_above_chance, task_groups=self.task_groups),
            "headline": self.headline,
            "scorer": self.scorer if self.harness == "official" else f"as harness {self.harness} asks and reads",
            "num_scenes": len({question.scene for question in scored}),
            "baselines": self._baselines(whole),
            "published": self.published,
            "notes": tuple(notes),
        }
        return Accuracy(**{**values, **fields})

    def difference(self, first: Mapping[str, float], second: Mapping[str, float]) -> Cells:
        """Return the table of differences, first minus second, of questions that both have scores for."""
        scored = []
        for rows in self._units():
            if all(row.id in first and row.id in second for row in rows):
                scores = [min(float(each[row.id]) for row in rows) for each in (first, second)]
                scored.append(self._scored(rows, scores[0] - scores[1]))
        return make_cells(scored, self.tasks, self._is_above_chance, offset=False, task_groups=self.task_groups)

    def _units(self) -> list[list[Row]]:
        """Return the rows by what is scored as one."""
        units: dict[str, list[Row]] = {}
        for row in self.rows:
            units.setdefault(self.unit(row), []).append(row)
        return list(units.values())

    @property
    def _is_above_chance(self) -> bool:
        return self.headline == "chance_adjusted"

    def _scored(self, rows: Sequence[Row], score: float) -> Scored:
        first = rows[0]
        chance = math.prod(self.chance(row) for row in rows)
        return Scored(first.question_type, self.scene(first), score, chance, self.groups(first))

    def _baselines(self, units: Sequence[Sequence[Row]]) -> dict[str, float]:
        """Return the overall score of guessing among the options, and of the most frequent answer of each type."""
        rows = [row for unit in units for row in unit]
        if any(row.answer_kind not in ("choice", "number") for row in rows):
            return {}
        often = most_frequent(rows)
        answered = {row.id: float(self.score(row, often[row.question_type])) for row in rows}
        scores = {"most frequent answer of each type": [min(answered[row.id] for row in unit) for unit in units]}
        if all(row.answer_kind == "choice" for row in rows):
            scores["chance"] = [math.prod(self.chance(row) for row in unit) for unit in units]
        found = {}
        for name, values in scores.items():
            scored = [self._scored(unit, value) for unit, value in zip(units, values, strict=True)]
            cells = make_cells(scored, self.tasks, self._is_above_chance)
            found[name] = cells["means"][self.headline].mean
        return found
