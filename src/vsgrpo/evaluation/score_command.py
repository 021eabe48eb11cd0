"""`vsgrpo score`: the scores of a predictions file of any make, and the difference of two of them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vsgrpo.data.leak_guard import name_some
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.evaluation import foreign
from vsgrpo.evaluation.accuracy import Accuracy
from vsgrpo.evaluation.asked_as import PROMPT_KEYS, given_prompt, harness_of, recorded_prompt
from vsgrpo.evaluation.benchmark import PromptSettings, ReadOptions
from vsgrpo.evaluation.benchmarks.vsibench import SUFFIXES, VsiBench, iter_benchmark, scorers_of, types_of
from vsgrpo.evaluation.export import check_export, export_scores
from vsgrpo.evaluation.intervals import Interval, scene_intervals, task_groups
from vsgrpo.evaluation.leak import check_recorded, split_model_words
from vsgrpo.evaluation.map_scores import map_lines
from vsgrpo.evaluation.predictions import PREDICTIONS_NAME
from vsgrpo.evaluation.results import RESULTS_NAME
from vsgrpo.evaluation.row_files import row_file
from vsgrpo.evaluation.score_benchmark import AccuracyDifference, score_benchmark
from vsgrpo.evaluation.score_tables import Line, group_lines, interval_note, micro_line, score_table
from vsgrpo.evaluation.scores import Item, Scores, score_items, task_table
from vsgrpo.evaluation.trust.from_files import TrustFiles, take_trust_words, write_trust_of_files
from vsgrpo.records import read_json
from vsgrpo.rules import one_of
from vsgrpo.terminal import show

_KEYS = ("benchmark.path", "benchmark.split", "benchmark.tasks", "field", *(f"prompt.{key}" for key in PROMPT_KEYS))


def score_command(
    arguments: Sequence[str], *, allow_leak: bool = False, export: str | None = None
) -> ScoreReport | DifferenceReport | Accuracy | AccuracyDifference | TrustFiles:
    """Score one file, or compare two, as the words of a command line say; KEY=VALUE among them are settings.

    With benchmark=NAME the rows, their score and the table are those of that benchmark, see `score_benchmark`. With
    trust=DIR the file is the vision arm of a trust report, and blind=FILE, ... are its others. `export` writes the
    files of `evaluation.export` beside the predictions too.

    Raises:
        ConfigError: no file, more than two, an unknown key or a wrong value.
        DataError: as `score_file` and `score_difference`; a model trained on benchmark rooms, without `allow_leak`.
    """
    model, arguments = split_model_words(arguments)
    files, given, trust = _files_and_keys(arguments)
    name = given.pop("benchmark", "vsibench")
    if len(files) not in (1, 2):
        raise ConfigError(f"{len(files)} files: score takes one, or two to compare", hint="vsgrpo score FILE [FILE2]")
    if model and len(files) > 1:
        raise ConfigError("model.path: names the model of one file, two are given", hint="score each file alone")
    check_export(export, name, files, None if trust else given.get("benchmark.path"))
    notes = [tuple(check_recorded(Path(file), model, allow_leak=allow_leak)) for file in files]
    prompt = given_prompt(given)
    rows, split = given.get("benchmark.path"), given.get("benchmark.split", "test")
    tasks = given["benchmark.tasks"].strip("[]").replace(" ", "").split(",") if "benchmark.tasks" in given else None
    if name != "vsibench":
        if rows is None:
            problem = f"benchmark={name}: no benchmark.path given"
            raise ConfigError(problem, hint="vsgrpo score FILE benchmark.path=ROWS")
        if trust:
            problem = f"trust={trust['trust']}: benchmark={name}: the trust report is of VSI-Bench and our datasets"
            raise ConfigError(problem, hint="leave trust out")
        for note in (note for own in notes for note in own):
            show(f"note: {note}", sys.stderr)
        asked = _asked_alike([Path(file) for file in files], prompt, given)
        read = replace(asked, split=split, tasks=tasks, name=name)
        paths, more = [Path(file) for file in files], {"export": export, "model": model, "allow_leak": allow_leak}
        return score_benchmark(paths, Path(rows), read, given.get("field"), **more)
    if trust:
        if len(files) > 1:
            raise ConfigError(f"trust={trust['trust']}: {len(files)} files", hint="name the others: blind=FILE")
        first = Path(files[0])
        read = ReadOptions(split, tasks, prompt=prompt or recorded_prompt(first) or PromptSettings())
        where = _recorded_rows(first) if rows is None else Path(rows)

        def score(file: str) -> tuple[Scores, tuple[Item, ...]]:
            report = score_file(file, where, prompt, split, given.get("field"), types_of(tasks))
            return report.scores, report.items

        return write_trust_of_files(trust, files[0], score, where, read, model)
    return _score_vsibench(files, given, prompt, tasks, notes, export)


def _score_vsibench(
    files: Sequence[str],
    given: Mapping[str, str],
    prompt: PromptSettings | None,
    tasks: Sequence[str] | None,
    notes: Sequence[tuple[str, ...]],
    export: str | None,
) -> ScoreReport | DifferenceReport:
    """Score one file of answers to VSI-Bench or a dataset of ours, and export it, or compare two."""
    rows, split = given.get("benchmark.path"), given.get("benchmark.split", "test")
    subset, harness = given.get("benchmark.subset", "full"), given.get("benchmark.harness")
    how = (prompt, split, given.get("field"), types_of(tasks), subset, harness)
    reports = [score_file(file, rows, *how) for file in files]
    reports = [replace(report, notes=(*report.notes, *more)) for report, more in zip(reports, notes, strict=True)]
    if export is not None and rows is not None:
        first = Path(files[0])
        asked, harness = prompt or recorded_prompt(first) or PromptSettings(), harness_of(given, first)
        read = ReadOptions(split, tasks, subset=subset, harness=harness, name="vsibench", prompt=asked)
        answers = {item.id: text for item in reports[0].items if (text := item.texts[0]) is not None}
        export_scores(export, first, VsiBench.read(rows, read), answers, reports[0])
    return reports[0] if len(reports) == 1 else score_difference(*reports)


def _files_and_keys(arguments: Sequence[str]) -> tuple[list[str], dict[str, str], dict[str, str]]:
    """Return the predictions files, the keys and those of a trust report among the words of a command line."""
    files = [word for word in arguments if "=" not in word or Path(word).is_file()]
    given = dict(word.split("=", 1) for word in arguments if word not in files)
    trust = take_trust_words(given)
    is_vsibench = given.get("benchmark", "vsibench") == "vsibench"
    known = (*_KEYS, "benchmark.subset") if is_vsibench else (*_KEYS, "output")
    known = known if trust else (*known, "benchmark.harness")
    for key, value in given.items():
        if key not in (*known, "benchmark") or not value:
            every = ", ".join((*known, "benchmark", "model.path", "model.adapter"))
            raise ConfigError(f"{key}={value}: score knows {every}", hint="benchmark.path=data/vsibench")
    files += [str(Path(given["output"]) / PREDICTIONS_NAME)] if "output" in given else []
    return files, given, trust


def _asked_alike(files: Sequence[Path], prompt: PromptSettings | None, given: Mapping[str, str]) -> ReadOptions:
    """Return prompt and harness of predictions files; ConfigError where they differ."""
    asked = {(prompt or recorded_prompt(file), harness_of(given, file)) for file in files}
    if len(asked) > 1:
        problem = f"{files[0]} and {files[1]}: asked in other ways, as the settings.json beside each says"
        raise ConfigError(problem, hint="score each alone, or say how both are read: prompt.mode=, benchmark.harness=")
    ((found, harness),) = asked
    return ReadOptions(harness=harness, prompt=found or PromptSettings())


def score_file(
    path: Path | str,
    rows_path: Path | str | None = None,
    prompt: PromptSettings | None = None,
    split: str = "test",
    field: str | None = None,
    types: frozenset[str] | None = None,
    subset: str = "full",
    harness: str | None = None,
) -> ScoreReport:
    """Score a predictions file with every scorer.

    Args:
        path: see `evaluation.foreign` for the forms.
        rows_path: benchmark file or folder to join with; needed where a line lacks question type or ground truth. None:
            the rows that results.json beside the file names, if they are still there.
        prompt: how the questions were asked; where None, as the settings.json beside the file says (predictions of
            `vsgrpo eval`), else the official form.
        split: which row file of a folder.
        field: where the answers are in each line; None: see `evaluation.foreign`.
        types: score questions of these types only; None: all.
        subset: full, or the part of VSI-Bench that is scored (debiased, pruned); the answers may be to all of it.
        harness: one of `VsiBench.harnesses`, whose reader is used beside ours; None: as the settings.json says.

    Raises:
        DataError: a broken or incomplete line (file:line), an id that the rows lack, an id used twice.
    """
    path = Path(path)
    lines, notes = foreign.read_lines(path, field)
    if prompt is None:
        prompt = recorded_prompt(path)
        if prompt is None and foreign.thinks(lines):
            prompt = PromptSettings("think", "train")
            notes.append("the answers begin with <think>: official and lmms read inside <answer> tags")
    reads_tags = prompt is not None and prompt.answer_mode != "vanilla"
    if not reads_tags and (tagged := foreign.num_tagged(lines)):
        notes.append(
            f"{tagged} of {len(lines)} answers hold <answer> tags, which official and lmms take for text (a bare tag "
            "scores 0): prompt.mode=think prompt.wording=train reads inside them"
        )
    if rows_path is None and any(line.question_type is None or line.ground_truth is None for line in lines):
        rows_path = _recorded_rows(path)
    if rows_path is None:
        items = foreign.carried_questions(lines)
        if any(line.scene is None for line in lines):
            notes.append("no scene names in the file: single questions were resampled, the intervals are too narrow")
    else:
        file = row_file(Path(rows_path), split, SUFFIXES)
        items = foreign.join_rows(lines, (row for row, _ in iter_benchmark(file)), rows_path)
    if subset != "full":
        items, note = _part_of(items, rows_path, split, subset)
        notes += note
    items = [item for item in items if types is None or item.question_type in types]
    scores = score_items(items, prompt or PromptSettings(), scorers_of(harness or harness_of({}, path)))
    if scores.unanswered:
        notes.append(f"{len(scores.unanswered)} rows are unanswered and left out: {name_some(scores.unanswered)}")
    if scores.num_unmapped:
        notes.append(f"{scores.num_unmapped} answers are none of their question's options (scored 0)")
    return ScoreReport(path.name, scores, tuple(items), tuple(notes))


def _part_of(
    items: Sequence[Item], rows_path: Path | str | None, split: str, subset: str
) -> tuple[list[Item], list[str]]:
    """Return the items of a part of VSI-Bench, and a note where that is not the published one."""
    one_of("benchmark.subset", subset, ("full", "debiased", "pruned"))
    if rows_path is None:
        problem = f"benchmark.subset={subset}: the rows that say what belongs to it are needed"
        raise ConfigError(problem, hint="add benchmark.path=ROWS")
    part = VsiBench.read(rows_path, ReadOptions(split, subset=subset))
    ids = {row.id for row in part.rows}
    return [item for item in items if item.id in ids], [part.other_part] if part.other_part else []


def score_difference(first: ScoreReport, second: ScoreReport) -> DifferenceReport:
    """Return the paired difference of two reports over the rows that both answered.

    Raises:
        DataError: no row in common, or the two files have other truths for one id.
    """
    answered = [{item.id: item for item in r.items if item.id in r.scores.by_row["official"]} for r in (first, second)]
    common = [item for name, item in answered[0].items() if name in answered[1]]
    for item in common:
        other = answered[1][item.id]
        if (item.question_type, item.ground_truth) != (other.question_type, other.ground_truth):
            hint = "both must answer the same rows"
            raise DataError(f"id={item.id}: {first.name} and {second.name} have other questions for it", hint)
    if not common:
        hint = "give predictions of the same rows"
        raise DataError(f"{first.name} and {second.name}: no row that both answered", hint)
    kinds, scenes = [item.question_type for item in common], [item.scene for item in common]
    scorers = [s for s in first.scores.tables if s in second.scores.tables]
    rows = [{s: np.array([r.scores.by_row[s][i.id] for i in common]) for s in scorers} for r in (first, second)]
    plain = [{s: task_table(kinds, values) for s, values in by.items()} for by in rows]
    tables = tuple({s: {**table, **task_groups(table)} for s, table in by.items()} for by in plain)
    intervals = scene_intervals({s: rows[0][s] - rows[1][s] for s in scorers}, kinds, scenes)
    names = (first.name, second.name) if first.name != second.name else (f"{first.name} (1)", f"{second.name} (2)")
    left_out = len(answered[0].keys() ^ answered[1].keys())
    return DifferenceReport(names, tables, intervals, len(common), left_out, len(set(scenes)))  # type: ignore[arg-type]


def _recorded_rows(path: Path) -> Path | None:
    """Return the row file that the results.json beside a predictions file names, if both are there."""
    results = path.with_name(RESULTS_NAME)
    try:
        file = Path(read_json(results)["benchmark"]["file"]) if results.is_file() else Path()
    except (KeyError, TypeError):
        return None
    return file if file.is_file() else None


@dataclass(frozen=True)
class ScoreReport:
    """Scores of one predictions file."""

    name: str
    scores: Scores
    items: tuple[Item, ...]
    notes: tuple[str, ...] = ()

    @property
    def num_rows(self) -> int:
        """Rows asked about."""
        return len(self.items)

    def to_json(self) -> dict[str, Any]:
        """Return {scorer: {task: 0..1, "overall"}, "n", "unanswered": how many, "intervals", ...}."""
        scores = self.scores
        return {
            **scores.tables,
            "n": scores.num_answered,
            "unanswered": len(scores.unanswered),
            "micro": scores.micro,
            "micro_intervals": scores.micro_intervals,
            "intervals": scores.intervals,
            "groups": scores.groups(),
            **({"sampling": scores.sampling} if scores.sampling else {}),
            **({"sampling_intervals": scores.sampling_intervals} if scores.sampling else {}),
            **({"maps": scores.maps} if any(scores.maps.values()) else {}),
            "n_by_task": scores.num_by_task,
            "num_rows": self.num_rows,
            "num_scenes": scores.num_scenes,
            "unanswered_ids": list(scores.unanswered),
            "unread": scores.num_unread,
            "unmapped": scores.num_unmapped,
            "notes": list(self.notes),
        }

    def table(self) -> str:
        """Return the table of all scorers; says so where rows are unanswered."""
        scores = self.scores
        title = f"{self.name}: {scores.num_answered} of {self.num_rows} rows answered"
        lines: list[Line] = []
        for scorer in scores.tables:
            lines.append((scorer, scores.tables[scorer], scores.intervals[scorer]))
            for how, table in scores.sampling.get(scorer, {}).items():
                lines.append((f"{scorer} {how}", table, scores.sampling_intervals[scorer][how]))
        text = [
            score_table(lines, scores.num_by_task, title),
            *group_lines(scores),
            micro_line(scores),
            *map_lines(scores.maps),
        ]
        text += [f"note: {note}" for note in (interval_note(scores.num_scenes), *self.notes)]
        return "\n".join(text)


@dataclass(frozen=True)
class DifferenceReport:
    """The paired difference of two predictions files over the rows that both answered."""

    names: tuple[str, str]
    tables: tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]
    intervals: dict[str, dict[str, Interval]]
    num_common: int
    num_left_out: int
    num_scenes: int

    def differences(self) -> dict[str, dict[str, float]]:
        """Return per scorer and task: first minus second."""
        first, second = self.tables
        return {s: {task: first[s][task] - second[s][task] for task in first[s]} for s in first}

    def to_json(self) -> dict[str, Any]:
        """Return both tables, their difference (first minus second) and its 95 % interval."""
        return {
            "first": {"name": self.names[0], **self.tables[0]},
            "second": {"name": self.names[1], **self.tables[1]},
            "difference": self.differences(),
            "intervals": self.intervals,
            "n": self.num_common,
            "left_out": self.num_left_out,
            "num_scenes": self.num_scenes,
        }

    def table(self) -> str:
        """Return the table of both files and their difference per scorer."""
        lines: list[Line] = []
        for scorer in self.tables[0]:
            lines += [(f"{scorer}: {name}", self.tables[i][scorer]) for i, name in enumerate(self.names)]
            lines.append((f"{scorer}: difference", self.differences()[scorer], self.intervals[scorer]))
        title = f"{self.names[0]} minus {self.names[1]}: {self.num_common} rows that both answered"
        text = [score_table(lines, None, title), f"note: {interval_note(self.num_scenes)}"]
        if self.num_left_out:
            text.append(f"note: {self.num_left_out} rows that only one of them answered are left out")
        return "\n".join(text)
