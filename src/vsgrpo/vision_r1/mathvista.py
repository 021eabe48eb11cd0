"""MathVista testmini: its files as downloaded, and its scores as the official code computes them.

Questions: the parquet of Hugging Face, or the json / jsonl of the repository. Predictions: jsonl lines of {pid (or
id), prediction (or response)}, or the official json {pid: {response, ...}}.

The official harness asks GPT-4 to extract each answer; here rules do it, or any endpoint (`mathvista_extract`), so a
score says which extraction it is of.

Source: Hugging Face AI4Math/MathVista; github.com/lupantech/MathVista evaluation/calculate_score.py (equality, groups).
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn, Self

from vsgrpo.config.evaluate import EvalConfig
from vsgrpo.data.prompts import TRAIN_SENTENCES
from vsgrpo.data.row import Row
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.evaluation.accuracy import Accuracy, Cell
from vsgrpo.evaluation.benchmark import Benchmark, ReadOptions, question_row
from vsgrpo.paths import path_fault
from vsgrpo.records import read_json, read_records
from vsgrpo.terminal import counted
from vsgrpo.vision_r1.mathvista_extract import Problem, extract, extract_answers, normalize

NUM_ROWS = 1000
"""Questions of the whole testmini; fewer are never called MathVista."""
COLUMNS = {
    "GEO": ("skills", "geometry reasoning"),
    "ARI": ("skills", "arithmetic reasoning"),
    "ALG": ("skills", "algebraic reasoning"),
    "GPS": ("task", "geometry problem solving"),
    "MWP": ("task", "math word problem"),
}
"""The columns of Vision-R1's table: a group and its value."""
_CHOICES = {"question_type": ("multi_choice", "free_form"), "answer_type": ("text", "integer", "float", "list")}
_KINDS = {
    **dict.fromkeys(("pid", "answer"), (str, int, float)),
    **dict.fromkeys(("question", "query", "question_type", "answer_type", "image"), (str,)),
    "choices": (list, tuple),
    "precision": (int, float),
    "metadata": (dict,),
}
"""Types that the fields may have, if they are there."""
GROUPS = ("task", "skills", "question_type", "answer_type", "category", "source", "grade", "context", "language")


@dataclass(frozen=True)
class MathVistaAccuracy(Accuracy):
    """Accuracy on MathVista, with the columns of Vision-R1's table.

    Attributes:
        unreadable: pids whose answer could not be read (wrong).
        extraction: "rule", or "model NAME".
    """

    unreadable: tuple[str, ...] = ()
    extraction: str = "rule"

    def title(self) -> str:
        """Name what was scored: "MathVista testmini" only where every question of it was answered."""
        whole = len(self.correct) == self.num_rows == NUM_ROWS
        what = "MathVista testmini"
        if not whole:
            what = f"{len(self.correct)} of {counted(self.num_rows, 'question')} of MathVista's form"
        return f"{what} | extraction by {self.extraction} (the official one is by GPT-4)"

    def to_json(self) -> dict[str, Any]:
        """Return accuracies 0..1, overall and by group."""
        return {**super().to_json(), "extraction": self.extraction, "unreadable": list(self.unreadable)}

    def table(self) -> str:
        """Return the columns of Vision-R1's table, then accuracy by task and by skill."""
        none = Cell(0.0, 0, 0.0, 0.0, 0.0)
        cells = {"ALL": self.cells["means"]["micro"]}
        cells |= {name: self.cells[group].get(value, none) for name, (group, value) in COLUMNS.items()}
        width = max(len(self.name), 1)
        lines = [self.title(), " " * width + "".join(f"{name:>8}" for name in cells)]
        lines.append(f"{self.name:<{width}}" + "".join(f"{_percent(cell):>8}" for cell in cells.values()))
        lines.append(f"{'n':<{width}}" + "".join(f"{cell.n:>8}" for cell in cells.values()))
        for group in ("task", "skills"):
            lines.append(f"by {group}:")
            lines += [f"  {value:<32}{_percent(cell):>8}{cell.n:>6}" for value, cell in self.cells[group].items()]
        return "\n".join([*lines, *(f"note: {note}" for note in (self.interval_note(), *self.notes))])


@dataclass(frozen=True)
class MathVista(Benchmark):
    """MathVista's testmini as downloaded: the parquet with its pictures, or json beside an images folder.

    Attributes:
        problems: pid -> question, those of the tasks asked for.
    """

    problems: Mapping[str, Problem] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path | str, options: ReadOptions = ReadOptions()) -> Self:
        """Read the questions; `tasks` are those of metadata.task.

        Raises:
            DataError: as `read_problems`.
            ConfigError: no question of these tasks.
        """
        file, tasks = find_file(Path(path)), options.tasks
        problems = read_problems(file)
        kept = [problem for problem in problems if tasks is None or set(tasks) & set(problem.groups["task"])]
        if not kept:
            known = ", ".join(sorted({task for problem in problems for task in problem.groups["task"]}))
            raise ConfigError(f"benchmark.tasks={list(tasks or [])}: no such task", hint=f"there are: {known}")
        by_pid = {problem.pid: problem for problem in kept}
        return cls.of_rows(file, [_row(problem) for problem in kept], len(problems), options, problems=by_pid)

    @classmethod
    def packed_pictures(cls, file: Path, ids: Collection[str]) -> Iterator[tuple[str, Sequence[Any]]]:
        """Yield pid and picture of the rows of a parquet (`decoded_image`); a json file carries none."""
        for _, data in read_records(file) if file.suffix == ".parquet" else ():
            picture = data.get("decoded_image")
            yield str(data.get("pid")), [] if picture is None else [picture]

    @property
    def folder(self) -> Path:
        """The folder that holds `images`."""
        folders = (self.file.parent, self.file.parent.parent)
        return next((folder for folder in folders if (folder / "images").is_dir()), folders[0])

    def text(self, row: Row) -> str:
        """Return the official query (hint, question, choices); in tagged modes followed by the training sentence."""
        if self.prompt.mode == "vanilla":
            return row.question
        return f"{row.question}\n{TRAIN_SENTENCES[self.prompt.mode].replace('the video', 'the image')}"

    @classmethod
    def read_predictions(cls, file: Path) -> dict[str, str]:
        """Return pid -> answer, see the module's docstring; a null prediction is left out.

        Raises:
            DataError: missing or broken file, a line without id or prediction, an id used twice.
        """
        if not file.is_file():
            raise DataError(f"{file}: no such file", "give a predictions file: lines of {pid, prediction}")
        responses: dict[str, str] = {}
        for where, data in _records(file):
            data = data if isinstance(data, dict) else {}
            pid, text = data.get("pid", data.get("id")), data.get("prediction", data.get("response"))
            if isinstance(data.get("response"), str):
                text = data["response"]
            if pid is None or not {"prediction", "response"} & data.keys():
                _fail(where, "no pid or no prediction", "each line is {pid, prediction}")
            if str(pid) in responses:
                _fail(where, f"pid={pid}: used twice", "one prediction a question")
            if text is not None:
                responses[str(pid)] = str(text)
        return responses

    def accuracy(self, answers: Mapping[str, str], name: str, config: EvalConfig | None = None) -> Accuracy:
        """Score answers by extraction (by rule, or by the model of `extract.model`) and the official comparison.

        Raises:
            RunError: the endpoint that should extract answers can serve nothing; predictions are kept.
            DataError: no question has an answer, or an answer belongs to none.
        """
        if config is not None:
            name = name or config.model.adapter or config.model.path
        if unknown := sorted(answers.keys() - self.problems.keys()):
            hint = "these are predictions of other questions"
            raise DataError(f"{name}: pid={unknown[0]}: not in the benchmark ({len(unknown)} such)", hint)
        asked = {pid: problem for pid, problem in self.problems.items() if pid in answers}
        if not asked:
            hint = "lines are {pid, prediction}"
            raise DataError(f"{name}: no prediction for any of {counted(len(self.problems), 'question')}", hint)
        if config is not None and config.extract.model is not None:
            folder, by = Path(config.run.dir) / ".extract", f"model {config.extract.model}"
            asking = extract_answers(self.problems, answers, config.extract, config.run.seed, folder)
            extractions = asyncio.run(asking)
        else:
            extractions, by = {pid: extract(answers[pid], problem) for pid, problem in asked.items()}, "rule"
        predictions = {pid: normalize(extractions[pid], problem) for pid, problem in asked.items()}
        correct = {pid: predictions[pid] == problem.answer.strip() for pid, problem in asked.items()}
        unreadable = tuple(pid for pid, prediction in predictions.items() if prediction is None)
        plain = self.table_of(correct)
        notes = list(plain.notes)
        if unreadable:
            notes.append(f"{counted(len(unreadable), 'answer')} could not be read (wrong), such as {unreadable[0]}")
        values = {item.name: getattr(plain, item.name) for item in fields(plain)}
        values |= {"name": name, "scorer": f"MathVista ({by})", "notes": tuple(notes)}
        return MathVistaAccuracy(**values, unreadable=unreadable, extraction=by)

    def groups(self, row: Row) -> Mapping[str, Sequence[str]]:
        """Return the official groups: task, skills, source, ..."""
        return self.problems[row.id].groups


def _row(problem: Problem) -> Row:
    # A test row never meets a trainer, so its path may lie anywhere below the file.
    image = os.path.normpath(problem.image or f"{problem.pid}.jpg")
    kind = next(iter(problem.groups["task"]), "mathvista")
    media = [("image", image)]
    return question_row(problem.pid, problem.query, problem.answer, media, dataset="mathvista", question_type=kind)


def _percent(cell: Cell) -> str:
    return f"{100 * cell.mean:.1f}" if cell.n else "-"


def read_problems(path: Path | str) -> list[Problem]:
    """Read the questions: testmini parquet, json {pid: {...}} or jsonl, or the folder that holds one of them.

    Raises:
        DataError: missing or broken file, a question without a needed field or an answer (the test split has none), or
            an id used twice.
    """
    file = find_file(Path(path))
    problems = [parse_problem(data, where) for where, data in _records(file)]
    if not problems:
        raise DataError(f"{file}: no question in it", "download it again")
    seen: set[str] = set()
    for problem in problems:
        if problem.pid in seen:
            _fail(str(file), f"pid={problem.pid}: used twice")
        seen.add(problem.pid)
    return problems


def find_file(path: Path) -> Path:
    """Return testmini itself: the file, or the one that a folder holds; DataError where there is none, or several."""
    if path.is_file():
        if path.suffix not in (".parquet", ".json", ".jsonl"):
            raise DataError(f"benchmark.path={path}: not a .parquet, .json or .jsonl file", "give testmini itself")
        return path
    found = sorted(f for f in path.rglob("testmini*") if f.suffix in (".parquet", ".json", ".jsonl"))
    if len(found) != 1:
        named = ", ".join(str(file.relative_to(path)) for file in found) or "none"
        raise DataError(f"benchmark.path={path}: holds no single testmini file ({named})", "give the file itself")
    return found[0]


def _records(file: Path) -> Iterator[tuple[str, Any]]:
    if file.suffix == ".json":
        content = read_json(file, "download it again")
        if not isinstance(content, dict | list):
            raise DataError(f"{file}: neither an object {{pid: ...}} nor a list", "download it again")
        is_named = isinstance(content, dict)
        for key, data in content.items() if is_named else enumerate(content):
            yield f"{file}:{key}", {"pid": key, **data} if is_named and isinstance(data, dict) else data
    else:  # pictures are hundreds of MB: `packed_pictures`
        yield from read_records(file, first=0, skip={"decoded_image"})


def parse_problem(data: Any, where: str) -> Problem:
    """Check one question's object; DataError says `where` and which field is wrong."""
    if not isinstance(data, dict):
        _fail(where, "a question is an object")
    for name in ("pid", "question", "question_type", "answer_type", "answer"):
        if data.get(name) is None:
            hint = "the test split has no public answers: use testmini" if name == "answer" else ""
            _fail(where, f"{name} is missing", hint)
    for name, kinds in _KINDS.items():
        value = data.get(name)
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            _fail(where, f"{name}={str(value)[:60]!r}: must be {' or '.join(kind.__name__ for kind in kinds)}")
    for name, known in _CHOICES.items():
        if data[name] not in known:
            _fail(where, f"{name}={data[name]!r}: must be one of {', '.join(known)}")
    question_type, answer_type = data["question_type"], data["answer_type"]
    choices = tuple(str(choice) for choice in data.get("choices") or ())
    if question_type == "multi_choice" and str(data["answer"]) not in choices:
        _fail(where, f"answer={data['answer']!r}: not among the choices {list(choices)}")
    precision = data.get("precision")
    if precision is not None and (not math.isfinite(precision) or precision != int(precision) or precision < 0):
        _fail(where, f"precision={precision}: must be a number of decimals")
    image = str(data.get("image") or "")
    if image and (fault := path_fault(image)) is not None:
        _fail(where, f"image={image[:60]!r}: {fault}; it must be below the folder of the file")
    if answer_type == "float" and question_type == "free_form" and precision is None:
        _fail(where, "precision is missing: float answers are rounded to it")
    named = {**(data.get("metadata") or {}), "question_type": question_type, "answer_type": answer_type}
    return Problem(
        pid=str(data["pid"]),
        query=str(data.get("query") or data["question"]),
        choices=choices,
        question_type=question_type,
        answer_type=answer_type,
        precision=None if precision is None else int(precision),
        answer=str(data["answer"]),
        image=image,
        groups={name: tuple(map(str, _listed(named.get(name)))) for name in GROUPS},
    )


def _listed(value: Any) -> Sequence[Any]:
    if value is None:
        return ()
    return value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)


def _fail(where: str, problem: str, hint: str = "") -> NoReturn:
    raise DataError(f"{where}: {problem}", hint or "compare with a question of MathVista's testmini")
