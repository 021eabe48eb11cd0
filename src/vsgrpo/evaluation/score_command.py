"""`vsgrpo score`: the scores of a predictions file of any make, and the difference of two of them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vsgrpo.errors import ConfigError, DataError
from vsgrpo.evaluation.accuracy import Accuracy
from vsgrpo.evaluation.asked_as import PROMPT_KEYS, given_prompt, harness_of, recorded_prompt
from vsgrpo.evaluation.benchmark import ReadOptions
from vsgrpo.evaluation.benchmark_table import PLAIN, PromptSettings
from vsgrpo.evaluation.benchmarks.vsibench import VsiBench, types_of
from vsgrpo.evaluation.export import check_export, export_scores
from vsgrpo.evaluation.intervals import Interval, scene_intervals, task_groups
from vsgrpo.evaluation.leak import check_recorded, split_model_words
from vsgrpo.evaluation.predictions import PREDICTIONS_NAME
from vsgrpo.evaluation.score_benchmark import AccuracyDifference, score_benchmark
from vsgrpo.evaluation.score_file import ScoreReport, recorded_rows, score_file
from vsgrpo.evaluation.score_tables import Line, interval_note, score_table
from vsgrpo.evaluation.scores import task_table
from vsgrpo.evaluation.trust.from_files import CONTROLS, TrustFiles, take_trust_words, write_trust_of_files
from vsgrpo.evaluation.trust.report import ARMS
from vsgrpo.terminal import counted, show

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
        return _trust_of_files(files, given, trust, prompt, tasks, notes[0], model)
    return _score_vsibench(files, given, prompt, tasks, notes, export)


def _trust_of_files(
    files: Sequence[str],
    given: Mapping[str, str],
    trust: Mapping[str, str],
    prompt: PromptSettings | None,
    tasks: Sequence[str] | None,
    notes: Sequence[str],
    model: Mapping[str, str],
) -> TrustFiles:
    """Write the trust report of the files of several arms, all read as they were asked."""
    if len(files) > 1:
        raise ConfigError(f"trust={trust['trust']}: {len(files)} files", hint="name the others: blind=FILE")
    arms = {"": files[0], **{name: trust[name] for name in CONTROLS if name in trust}}
    asked = _asked_alike([Path(file) for file in arms.values()], prompt, given)
    split, subset = given.get("benchmark.split", "test"), given.get("benchmark.subset", "full")
    read = replace(asked, split=split, tasks=tasks, subset=subset, name="vsibench")
    rows = given.get("benchmark.path")
    where = recorded_rows(Path(files[0])) if rows is None else Path(rows)
    for note in notes:
        show(f"note: {note}", sys.stderr)

    def score(name: str) -> ScoreReport:
        report = score_file(
            arms[name], where, prompt, split, given.get("field"), types_of(tasks), subset, asked.harness
        )
        for note in report.notes:
            show(f"note: {ARMS[name]}: {note}", sys.stderr)
        return report

    return write_trust_of_files(trust, arms, score, where, read, model)


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
        asked, harness = prompt or recorded_prompt(first) or PLAIN, harness_of(given, first)
        read = ReadOptions(split, tasks, subset=subset, harness=harness, name="vsibench", prompt=asked)
        answers = {item.id: item.given for item in reports[0].items if item.given}
        export_scores(export, first, VsiBench.read(rows, read), answers, reports[0])
    return reports[0] if len(reports) == 1 else score_difference(*reports)


def _files_and_keys(arguments: Sequence[str]) -> tuple[list[str], dict[str, str], dict[str, str]]:
    """Return the predictions files, the keys and those of a trust report among the words of a command line."""
    files = [word for word in arguments if "=" not in word or Path(word).is_file()]
    given = dict(word.split("=", 1) for word in arguments if word not in files)
    trust = take_trust_words(given)
    is_vsibench = given.get("benchmark", "vsibench") == "vsibench"
    known = (*_KEYS, "benchmark.subset" if is_vsibench else "output", "benchmark.harness")
    for key, value in given.items():
        if key not in (*known, "benchmark") or not value:
            every = ", ".join((*known, "benchmark", "model.path", "model.adapter"))
            raise ConfigError(f"{key}={value}: score knows {every}", hint="benchmark.path=data/vsibench")
    files += [str(Path(given["output"]) / PREDICTIONS_NAME)] if "output" in given else []
    return files, given, trust


def _asked_alike(files: Sequence[Path], prompt: PromptSettings | None, given: Mapping[str, str]) -> ReadOptions:
    """Return prompt and harness of predictions files; ConfigError where they differ."""
    asked = {file: (prompt or recorded_prompt(file) or PLAIN, harness_of(given, file)) for file in files}
    found, harness = asked[files[0]]
    if other := [file for file, how in asked.items() if how != (found, harness)]:
        problem = f"{files[0]} and {other[0]}: asked in other ways, as the settings.json beside each says"
        raise ConfigError(problem, hint="score each alone, or say how both are read: prompt.mode=, benchmark.harness=")
    return ReadOptions(harness=harness, prompt=found)


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
        title = f"{self.names[0]} minus {self.names[1]}: {counted(self.num_common, 'row')} that both answered"
        text = [score_table(lines, None, title), f"note: {interval_note(self.num_scenes)}"]
        if self.num_left_out:
            left_out = counted(self.num_left_out, "row")
            text.append(f"note: left out: {left_out} that only one of them answered")
        return "\n".join(text)
