"""`vsgrpo score`: the scores of a predictions file of any make, and the difference of two of them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vsgrpo.data.leak_guard import name_some
from vsgrpo.data.prompts import MODES, WORDINGS
from vsgrpo.data.row import LETTERS, Row, number_of
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.evaluation.accuracy import Accuracy
from vsgrpo.evaluation.benchmark import PromptSettings, ReadOptions, find_benchmark
from vsgrpo.evaluation.benchmarks.vsibench import iter_benchmark, row_file, types_of
from vsgrpo.evaluation.foreign import Line, num_tagged, read_lines, thinks
from vsgrpo.evaluation.intervals import scene_intervals, task_groups
from vsgrpo.evaluation.leak import check_recorded, split_model_words
from vsgrpo.evaluation.predictions import PREDICTIONS_NAME
from vsgrpo.evaluation.results import SETTINGS_NAME
from vsgrpo.evaluation.score_tables import DifferenceReport, ScoreReport
from vsgrpo.evaluation.scores import Item, row_item, score_items, task_table
from vsgrpo.records import read_json
from vsgrpo.spatial.answers import SCORERS
from vsgrpo.spatial.question_types import answer_kind_of, type_names
from vsgrpo.terminal import show

PROMPT_KEYS = ("mode", "wording", "show_options")


_KEYS = ("benchmark.path", "benchmark.split", "benchmark.tasks", "field", *(f"prompt.{key}" for key in PROMPT_KEYS))


def score_command(arguments: Sequence[str], *, allow_leak: bool = False) -> ScoreReport | DifferenceReport | Accuracy:
    """Score one file, or compare two, as the words of a command line say; KEY=VALUE among them are settings.

    With benchmark=NAME the rows, their score and the table are those of that benchmark, see `_score_benchmark`.

    Raises:
        ConfigError: no file, more than two, an unknown key or a wrong value.
        DataError: as `score_file` and `score_difference`; a model trained on benchmark rooms, without `allow_leak`.
    """
    model, arguments = split_model_words(arguments)
    files = [word for word in arguments if "=" not in word or Path(word).is_file()]
    given = dict(word.split("=", 1) for word in arguments if word not in files)
    name = given.pop("benchmark", "vsibench")
    known = _KEYS if name == "vsibench" else (*_KEYS, "output")
    for key, value in given.items():
        if key not in known or not value:
            every = ", ".join((*known, "benchmark", "model.path", "model.adapter"))
            raise ConfigError(f"{key}={value}: score knows {every}", hint="benchmark.path=data/vsibench")
    files += [str(Path(given["output"]) / PREDICTIONS_NAME)] if "output" in given else []
    if len(files) not in (1, 2):
        raise ConfigError(f"{len(files)} files: score takes one, or two to compare", hint="vsgrpo score FILE [FILE2]")
    if model and len(files) > 1:
        raise ConfigError("model.path: names the model of one file, two are given", hint="score each file alone")
    notes = [tuple(check_recorded(Path(file), model, allow_leak=allow_leak)) for file in files]
    prompt = _given_prompt({key.removeprefix("prompt."): v for key, v in given.items() if key.startswith("prompt.")})
    rows, split = given.get("benchmark.path"), given.get("benchmark.split", "test")
    tasks = given["benchmark.tasks"].strip("[]").replace(" ", "").split(",") if "benchmark.tasks" in given else None
    if name != "vsibench":
        if len(files) > 1 or rows is None:
            problem = "two files are compared on VSI-Bench only" if len(files) > 1 else "no benchmark.path given"
            raise ConfigError(f"benchmark={name}: {problem}", hint="vsgrpo score FILE benchmark.path=ROWS")
        for note in notes[0]:
            show(f"note: {note}", sys.stderr)
        return _score_benchmark(name, Path(files[0]), Path(rows), split, tasks, prompt, given.get("field"))
    reports = [score_file(file, rows, prompt, split, given.get("field"), types_of(tasks)) for file in files]
    reports = [replace(report, notes=(*report.notes, *more)) for report, more in zip(reports, notes, strict=True)]
    return reports[0] if len(reports) == 1 else score_difference(*reports)


def _score_benchmark(
    name: str,
    file: Path,
    rows_path: Path,
    split: str,
    tasks: list[str] | None,
    prompt: PromptSettings | None,
    field: str | None,
) -> Accuracy:
    """Score answers to a benchmark that is not of VSI-Bench's form, by its own rule; arguments as `score_file`.

    Raises:
        ConfigError: no such benchmark, or `field` where it reads predictions in a form of its own.
        DataError: an id that the rows lack, an id used twice, or no question answered.
    """
    kind = find_benchmark(name)
    prompt = prompt or _recorded_prompt(file) or PromptSettings()
    benchmark = kind.read(rows_path, ReadOptions(split, tasks, name=name, prompt=prompt))
    answers = kind.read_predictions(file)
    if answers is not None and field is not None:
        raise ConfigError(f"field={field}: benchmark={name} has predictions of its own form", hint="leave field out")
    if answers is None:
        answers = {}
        ids, seen = {row.id for row in benchmark.rows}, dict[Any, str]()
        for line in read_lines(file, field)[0]:
            if line.id is None or (tasks is None and line.id not in ids):
                raise _unknown(line, rows_path)
            if (line.id, line.sample) in seen:
                raise _given_twice(line, line.id, seen[line.id, line.sample])
            seen[line.id, line.sample] = line.where
            if line.text is not None and line.id in ids:
                answers.setdefault(line.id, line.text)
        if not answers:
            raise DataError(f"{file}: no question of {rows_path} is answered", "lines are {id, prediction}")
    return benchmark.accuracy(answers, file.name)


def _given_prompt(given: Mapping[str, str]) -> PromptSettings | None:
    """Return the prompt that command-line values describe, None where none is given."""
    choices = {"mode": MODES, "wording": WORDINGS, "show_options": ("true", "false")}
    for key, value in given.items():
        if value not in choices[key]:
            raise ConfigError(f"prompt.{key}={value}: unknown", hint=f"choose from: {', '.join(choices[key])}")
    if not given:
        return None
    settings = PromptSettings(given.get("mode", "vanilla"), given.get("wording", "eval"))
    return replace(settings, show_options=given.get("show_options", "true") == "true")


def score_file(
    path: Path | str,
    rows_path: Path | str | None = None,
    prompt: PromptSettings | None = None,
    split: str = "test",
    field: str | None = None,
    types: frozenset[str] | None = None,
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

    Raises:
        DataError: a broken or incomplete line (file:line), an id that the rows lack, an id used twice.
    """
    path = Path(path)
    lines, notes = read_lines(path, field)
    if prompt is None:
        prompt = _recorded_prompt(path)
        if prompt is None and thinks(lines):
            prompt = PromptSettings("think", "train")
            notes.append("the answers begin with <think>: official and lmms read inside <answer> tags")
    reads_tags = prompt is not None and prompt.answer_mode != "vanilla"
    if not reads_tags and (tagged := num_tagged(lines)):
        notes.append(
            f"{tagged} of {len(lines)} answers hold <answer> tags, which official and lmms take for text (a bare tag "
            "scores 0): prompt.mode=think prompt.wording=train reads inside them"
        )
    if rows_path is None and any(line.question_type is None or line.ground_truth is None for line in lines):
        rows_path = _recorded_rows(path)
    if rows_path is None:
        items = _self_contained(path, lines)
        if any(line.scene is None for line in lines):
            notes.append("no scene names in the file: single questions were resampled, the intervals are too narrow")
    else:
        file = row_file(Path(rows_path), split)
        items = _join(lines, (row for row, _ in iter_benchmark(file)), rows_path)
    items = [item for item in items if types is None or item.question_type in types]
    scores = score_items(items, prompt or PromptSettings())
    if scores.unanswered:
        notes.append(f"{len(scores.unanswered)} rows are unanswered and left out: {name_some(scores.unanswered)}")
    if scores.num_unmapped:
        notes.append(f"{scores.num_unmapped} answers are none of their question's options (scored 0)")
    return ScoreReport(path.name, scores, tuple(items), tuple(notes))


def score_difference(first: ScoreReport, second: ScoreReport) -> DifferenceReport:
    """Return the paired difference of two reports over the rows that both answered.

    Raises:
        DataError: no row in common, or the two files have other truths for one id.
    """
    items = {item.id: item for item in second.items}
    common = []
    answered = first.scores.by_row["official"], second.scores.by_row["official"]
    for item in first.items:
        other = items.get(item.id)
        if other is None or item.id not in answered[0] or item.id not in answered[1]:
            continue
        if (item.question_type, item.ground_truth) != (other.question_type, other.ground_truth):
            hint = "both must answer the same rows"
            raise DataError(f"id={item.id}: {first.name} and {second.name} have other questions for it", hint)
        common.append(item)
    if not common:
        raise DataError(
            f"{first.name} and {second.name}: no row that both answered", "give predictions of the same rows"
        )
    kinds, scenes = [item.question_type for item in common], [item.scene for item in common]
    rows = [{s: np.array([r.scores.by_row[s][i.id] for i in common]) for s in SCORERS} for r in (first, second)]
    plain = [{s: task_table(kinds, values) for s, values in by.items()} for by in rows]
    tables = tuple({s: {**table, **task_groups(table)} for s, table in by.items()} for by in plain)
    intervals = scene_intervals({s: rows[0][s] - rows[1][s] for s in SCORERS}, kinds, scenes)
    names = (first.name, second.name) if first.name != second.name else (f"{first.name} (1)", f"{second.name} (2)")
    left_out = len(set(answered[0]) ^ set(answered[1]))
    return DifferenceReport(names, tables, intervals, len(common), left_out, len(set(scenes)))  # type: ignore[arg-type]


def _recorded_prompt(path: Path) -> PromptSettings | None:
    settings = path.with_name(SETTINGS_NAME)
    if not settings.is_file():
        return None
    hint = "move the predictions elsewhere"
    try:
        recorded = read_json(settings, hint)["prompt"]
        return PromptSettings(**{name: recorded[name] for name in PROMPT_KEYS})
    except (KeyError, TypeError) as error:
        raise DataError(f"{settings}: does not name the prompt ({error})", hint) from None


def _recorded_rows(path: Path) -> Path | None:
    """Return the row file that the results.json beside a predictions file names, if both are there."""
    results = path.with_name("results.json")
    try:
        file = Path(read_json(results)["benchmark"]["file"]) if results.is_file() else Path()
    except (KeyError, TypeError):
        return None
    return file if file.is_file() else None


def _join(lines: Sequence[Line], rows: Iterable[Row], rows_path: Path | str) -> list[Item]:
    """Return the questions of the rows with their answers; of a row no more is kept than scoring asks for."""
    items: dict[str, Item] = {}
    asked: dict[str, list[tuple[str, str]]] = {}
    by_question = any(line.question is not None and line.scene is not None for line in lines)
    for row in rows:
        item = items[row.id] = row_item(row, ())
        if by_question:
            asked.setdefault(item.scene, []).append((row.id, row.question))
    if not items:
        raise DataError(f"{rows_path}: no rows", "give the rows these predictions are of")
    grouped: dict[str, list[str | None]] = {}
    seen: dict[Any, str] = {}
    for line in lines:
        name = _find(line, items, asked, rows_path)
        key = name if line.sample is None else (name, line.sample)
        if key in seen:
            raise _given_twice(line, name, seen[key])
        seen[key] = line.where
        grouped.setdefault(name, []).append(line.text)
    return [replace(item, texts=tuple(grouped.get(name, ()))) for name, item in items.items()]


def _unknown(line: Line, rows_path: Path | str) -> DataError:
    return DataError(f"{line.where}: id={line.id}: not in {rows_path}", "give the rows these predictions are of")


def _given_twice(line: Line, name: str, where: str) -> DataError:
    place = where.rpartition(":")[2].strip()
    first = f"line {place}" if place.isdigit() else place  # of a JSON list: "entry 3"
    return DataError(f"{line.where}: id={name}: already in {first}", "keep one line per id")


def _find(
    line: Line, known: Mapping[str, Item], asked_in: Mapping[str, list[tuple[str, str]]], rows_path: Path | str
) -> str:
    """Return the id of the row that a line answers: by its id, else by scene and question."""
    if line.id in known or line.question is None or line.scene is None:
        if line.id is None or line.id not in known:
            raise _unknown(line, rows_path)
        return line.id
    asked = " ".join(line.question.split())
    candidates = [(name, " ".join(question.split())) for name, question in asked_in.get(line.scene or "", [])]
    found = [name for name, question in candidates if question == asked]
    found = found or [name for name, question in candidates if question in asked]
    if len(found) != 1:
        what = "no row" if not found else f"{len(found)} rows"
        raise DataError(
            f"{line.where}: {what} of {line.scene} ask {asked[:60]!r}", f"give the rows: {rows_path} has others"
        )
    return found[0]


def _self_contained(path: Path, lines: Sequence[Line]) -> list[Item]:
    """Return the questions of lines that carry question type and ground truth."""
    first: dict[str, Line] = {}
    texts: dict[str, list[str | None]] = {}
    seen: dict[tuple[str, Any], str] = {}
    for number, line in enumerate(lines, start=1):
        if line.question_type is None or line.ground_truth is None:
            raise DataError(
                f"{line.where}: has no question_type and ground_truth", "give the rows: benchmark.path=ROWS.jsonl"
            )
        _check_truth(line.where, line.question_type, line.ground_truth)
        name = line.id or str(number)
        if (name, line.sample) in seen and line.id is not None:
            raise _given_twice(line, name, seen[name, line.sample])
        seen[name, line.sample] = line.where
        first.setdefault(name, line)
        texts.setdefault(name, []).append(line.text)
    return [
        Item(
            name,
            line.question_type or "",
            line.ground_truth or "",
            line.options,
            line.scene or name,
            tuple(texts[name]),
        )
        for name, line in first.items()
    ]


def _check_truth(where: str, question_type: str, truth: str) -> None:
    answer_kind = answer_kind_of(question_type)
    if answer_kind is None:
        hint = f"the types are {', '.join(type_names())}"
        raise DataError(f"{where}: question_type={question_type!r}: unknown question type", hint)
    if answer_kind == "choice" and (len(truth) != 1 or truth.upper() not in LETTERS):
        raise DataError(f"{where}: ground_truth={truth!r}: must be a letter of {LETTERS}", "give the option's letter")
    if answer_kind == "number" and number_of(truth) is None:
        raise DataError(f"{where}: ground_truth={truth!r}: must be a number above 0", "scores are relative to it")
