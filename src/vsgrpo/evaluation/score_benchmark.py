"""`vsgrpo score` of a benchmark by its own rule: one file of answers, or the paired difference of two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vsgrpo.errors import ConfigError, DataError
from vsgrpo.evaluation import foreign
from vsgrpo.evaluation.accuracy import Accuracy, Cell, Cells
from vsgrpo.evaluation.benchmark import Benchmark, ReadOptions, find_benchmark
from vsgrpo.evaluation.export import export_scores
from vsgrpo.evaluation.leak import check_scored
from vsgrpo.terminal import counted


@dataclass(frozen=True)
class AccuracyDifference:
    """The paired difference of two files over the questions that both answered.

    Attributes:
        names: of the files.
        tables: of both, over these questions.
        cells: first minus second, with the interval of the difference.
        num_left_out: questions that only one of them answered.
    """

    names: tuple[str, str]
    tables: tuple[Accuracy, Accuracy]
    cells: Cells
    num_left_out: int

    def shown(self) -> dict[str, tuple[str, str, Cell]]:
        """Return name -> place in a table and cell, of the means and the tasks."""
        headline = self.tables[0].headline
        means = {name: ("means", name, cell) for name, cell in self.cells["means"].items()}
        tasks = {name: ("tasks", name, cell) for name, cell in self.cells["tasks"].items()}
        return {"overall": means[headline], **means, **tasks}

    def to_json(self) -> dict[str, Any]:
        """Return both tables, their difference (first minus second) and its 95 % interval."""
        first, second = self.tables
        return {
            "headline": first.headline,
            "first": {"name": self.names[0], **first.scores()},
            "second": {"name": self.names[1], **second.scores()},
            "difference": {name: cell.mean for name, (_, _, cell) in self.shown().items()},
            "intervals": {name: [cell.low, cell.high] for name, (_, _, cell) in self.shown().items()},
            "n": len(first.correct),
            "left_out": self.num_left_out,
            "num_scenes": first.num_scenes,
        }

    def table(self) -> str:
        """Return both tables and their difference, in percent."""
        first = self.tables[0]
        lines = [
            f"{self.names[0]} minus {self.names[1]}: {counted(len(first.correct), 'question')} that both answered",
            f"{'':<34}{'first':>8}{'second':>8}{'difference':>12}   95 %",
        ]
        for name, (group, key, cell) in self.shown().items():
            pair = "".join(f"{100 * table.cells[group][key].mean:>8.1f}" for table in self.tables)
            title = f"overall ({first.headline})" if name == "overall" else name
            span = f"{100 * cell.low:+.1f} to {100 * cell.high:+.1f}"
            lines.append(f"{title:<34}{pair}{100 * cell.mean:>+12.1f}   {span}")
        lines.append(f"note: {first.interval_note()}")
        if self.num_left_out:
            left_out = counted(self.num_left_out, "question")
            lines.append(f"note: left out: {left_out} that only one of them answered")
        return "\n".join(lines)


def score_benchmark(
    files: list[Path],
    rows_path: Path,
    options: ReadOptions,
    field: str | None,
    *,
    export: str | None = None,
    model: Mapping[str, str] | None = None,
    allow_leak: bool = False,
) -> Accuracy | AccuracyDifference:
    """Score answers to a benchmark by its own rule.

    Args:
        field: as `score_file.score_file`.
        export, allow_leak: as `score_command`.
        model: {"path", "adapter"} as the user gives it, else that of the files beside the predictions.

    Raises:
        ConfigError: no such benchmark, or `field` where it reads predictions in a form of its own.
        DataError: an id that the rows lack, an id used twice, no question answered (by both of two files), or a model
            that was trained on rooms of the rows.
    """
    benchmark = find_benchmark(options.name).read(rows_path, options)
    of_rows = benchmark.rows, benchmark.official, benchmark.drawn_from
    leaks = [note for file in files for note in check_scored(file, model or {}, *of_rows, allow_leak=allow_leak)]
    answers = [_answers(benchmark, file, rows_path, options, field) for file in files]
    found = [benchmark.mean_accuracy(given, file.name) for given, file in zip(answers, files, strict=True)]
    if len(found) == 1:
        export_scores(export, files[0], benchmark, answers[0], found[0])
        return replace(found[0], notes=(*benchmark.remarks(), *leaks, *found[0].notes))
    first, second = (report.correct for report in found)
    common = first.keys() & second.keys()
    if not common:
        raise DataError(f"{files[0]} and {files[1]}: no question that both answered", "give answers to the same rows")
    tables = [benchmark.table_of({key: float(scores[key]) for key in common}) for scores in (first, second)]
    same = files[0].name == files[1].name
    names = [str(file) if same else file.name for file in files]
    cells = benchmark.difference(*(table.correct for table in tables))
    return AccuracyDifference((names[0], names[1]), (tables[0], tables[1]), cells, len(first.keys() ^ second.keys()))


def _answers(
    benchmark: Benchmark, file: Path, rows_path: Path, options: ReadOptions, field: str | None
) -> Mapping[str, Sequence[str]]:
    """Return id -> answers of a predictions file; a line without an id of the benchmark is joined by its question."""
    own = benchmark.read_predictions(file)
    if own is not None and field is not None:
        problem = f"field={field}: benchmark={options.name} has predictions of its own form"
        raise ConfigError(problem, hint="leave field out")
    if own is not None:
        return {name: [text] for name, text in own.items()}
    answers: dict[str, list[str]] = {}
    used: dict[tuple[str, Any], str] = {}
    asked: dict[str, list[tuple[str, str]]] = {}
    for row in benchmark.rows:
        asked.setdefault(" ".join(row.question.split()), []).append((row.id, row.scene_name))
    ids = {row.id for row in benchmark.rows}
    for line in foreign.read_lines(file, field)[0]:
        name = line.id if line.id in ids or line.id in benchmark.unknown else _by_question(line, asked)
        if name is None and options.tasks is None:
            raise foreign.unknown_id(line, rows_path)
        if name is None:
            continue
        foreign.refuse_second(line, name, used)
        if line.text is not None and name in ids:
            answers.setdefault(name, []).append(line.text)
    if not answers:
        raise DataError(f"{file}: no question of {rows_path} is answered", "lines are {id, prediction}")
    return answers


def _by_question(line: foreign.Line, asked: Mapping[str, list[tuple[str, str]]]) -> str | None:
    """Return the id of the one row that asks a line's question about its scene, None for none and for several."""
    found = asked.get(" ".join((line.question or "").split()), [])
    if len(found) > 1 and line.scene is not None:
        found = [(name, scene) for name, scene in found if line.scene.rpartition("/")[2] == scene]
    return found[0][0] if len(found) == 1 else None
