"""The base class of benchmarks (rows, the media and the text of each, the score of an answer), and ours by name.

`evaluation.run` runs any benchmark. Ours are in `evaluation/benchmarks/`, one file each; one of your own is a class in
a module of yours (docs/extending.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from vsgrpo.data.prompts import asked_text
from vsgrpo.data.row import CHOICE_LETTERS, SCHEMA_VERSION, Row, check_asked
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.evaluation.results import REPORT_NAME, Accuracy, AccuracyReport, Answers
from vsgrpo.evaluation.shown_rows import ShownRows
from vsgrpo.evaluation.unpacking import known_pictures, picture_folders, rows_sha256
from vsgrpo.report.accuracy_page import write_accuracy_page
from vsgrpo.rules import import_named, one_of

if TYPE_CHECKING:
    from vsgrpo.config.evaluate import EvalConfig

BENCHMARKS = {
    "vsibench": "vsgrpo.evaluation.benchmarks.vsibench:VsiBench",
    "mathvista": "vsgrpo.vision_r1.mathvista:MathVista",
    "folder": "vsgrpo.evaluation.benchmarks.folder:Folder",
}
"""The benchmarks of `vsgrpo eval` by name; each is imported when it is asked for."""


def find_benchmark(name: str) -> type[Benchmark]:
    """Return the benchmark called `name`: one of `BENCHMARKS`, or "package.module:Class" of the user's own.

    Raises:
        ConfigError: no such name, module, or `Benchmark` in it.
    """
    if ":" not in name:
        one_of("benchmark.name", name, tuple(BENCHMARKS))
    needed = "a subclass of vsgrpo.evaluation.benchmark.Benchmark is needed"
    return import_named("benchmark.name", BENCHMARKS.get(name, name), "benchmark", needed, _is_benchmark)


def _is_benchmark(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Benchmark)


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

    def text(self, row: Row) -> str:
        """Return the text of a row's user turn, see `data.prompts.asked_text`."""
        return asked_text(row, self)


class Report(Protocol):
    """Result of an evaluation."""

    def to_json(self) -> dict[str, Any]:
        """Return the content of results.json."""
        ...

    def table(self) -> str:
        """Return the scores as text for people."""
        ...


def refuse_run(path: Path) -> None:
    """Raise DataError for the folder of a training run: its log would be read as questions."""
    if (path / "run.json").is_file() and (path / "log.jsonl").is_file():
        hint = f"benchmark.path is for questions; the model of this run is model={path / 'final'}"
        raise DataError(f"benchmark.path={path}: a training run, no questions", hint)


def no_rows(path: Path, split: str) -> DataError:
    """Return the error for a folder or file that has no rows of a split, with what there is."""
    if not path.exists():
        return DataError(f"benchmark.path={path}: no such file or folder", "give the row file or its folder")
    if not path.is_dir():
        return DataError(f"benchmark.path={path}: not a .jsonl file", "give the questions: FILE.jsonl")
    there = sorted([*path.glob("*.jsonl"), *path.glob("*.parquet")])
    named = ", ".join(file.name for file in there) or "no row file"
    of_split = next((file.stem for file in there if file.stem in ("test", "train", "dev")), None)
    hint = f"set benchmark.split={of_split}, or give" if of_split else "give"
    return DataError(
        f"benchmark.path={path}: has no {split}.jsonl (there: {named})", f"{hint} the file itself as benchmark.path"
    )


@dataclass(frozen=True)
class ReadOptions:
    """Which questions of a benchmark are read, and how they are asked: the keys `benchmark.*`.

    Attributes:
        split: which row file of a folder.
        tasks: keep these question types; None keeps all.
        limit: keep this many rows, chosen by a hash of their ids: the same ones at every call.
        subset: part of the benchmark; only VSI-Bench has any.
        harness: whose prompt and reader of answers, one of `Benchmark.harnesses`.
        name, prompt, run_dir: see `Benchmark`.
    """

    split: str = "test"
    tasks: Sequence[str] | None = None
    limit: int | None = None
    subset: str = "full"
    harness: str = "official"
    name: str = ""
    prompt: PromptSettings = PromptSettings()
    run_dir: Path | None = None


@dataclass(frozen=True)
class Benchmark(ShownRows):
    """Questions read from a file, and everything that differs between benchmarks.

    A benchmark of your own gives `read_rows` and `score`, and `text` where its prompts have a form of their own; every
    other method has a default.

    Attributes:
        prompt: how the rows are asked.
        official: the rows are in a published benchmark's own form: a room of theirs that was trained on is a leak.
        harness: whose prompt and reader of answers, one of `harnesses`.
    """

    prompt: PromptSettings = PromptSettings()
    official: bool = False
    harness: str = "official"

    harnesses: ClassVar[tuple[str, ...]] = ("official",)
    """Whose prompt and reader of answers there are: `official` (the authors'), `lmms` (lmms-eval), `easi` (VLMEvalKit,
    as the EASI leaderboard runs it)."""

    takes_samples: ClassVar[bool] = False
    """Several samples per question can be scored (decoding.num_samples)."""
    has_task_tables: ClassVar[bool] = False
    """results.json has VSI-Bench's tables per task: several models are compared in one."""

    @classmethod
    def read(cls, path: Path | str, options: ReadOptions = ReadOptions()) -> Self:
        """Read the questions of a row file, or of a folder that holds it.

        Raises:
            DataError: no such file, no question in it, or an id used twice.
            ConfigError: no question of the types asked for.
        """
        file, tasks = cls.find_file(Path(path), options.split), options.tasks
        rows = list(cls.read_rows(file))
        if not rows:
            raise DataError(f"{file}: no question in it", "one object a line: question, answer, image")
        _check_rows(file, rows)
        kept = [row for row in rows if tasks is None or row.question_type in tasks]
        if not kept:
            known = ", ".join(sorted({row.question_type for row in rows}))
            raise ConfigError(f"benchmark.tasks={list(tasks or [])}: no such question_type", hint=f"there are: {known}")
        return cls.of_rows(file, kept, len(rows), options)

    @classmethod
    def of_rows(cls, file: Path, rows: Sequence[Row], num_rows: int, options: ReadOptions, **fields: Any) -> Self:
        """Return the benchmark of `rows`, as many as `options.limit` allows; `fields` are those of a subclass.

        Raises:
            ConfigError: a harness whose prompt and reader it has not.
        """
        one_of("benchmark.harness", options.harness, cls.harnesses)
        kept = tuple(rows)
        if options.limit is not None and options.limit < len(rows):
            chosen = sorted(rows, key=lambda row: blake2b(row.key.encode(), digest_size=8).digest())[: options.limit]
            ids = {row.id for row in chosen}
            kept = tuple(row for row in rows if row.id in ids)
        sha256 = rows_sha256(file)
        pictures = known_pictures(picture_folders(file, sha256, options.run_dir))
        fields |= {
            "prompt": options.prompt,
            "harness": options.harness,
            "run_dir": options.run_dir,
            "pictures": pictures,
        }
        return cls(options.name, file, sha256, kept, num_rows, **fields)

    @classmethod
    def find_file(cls, path: Path, split: str) -> Path:
        """Return the row file: `path` itself, or SPLIT.jsonl in that folder; DataError where it is not there."""
        refuse_run(path)
        file = path / f"{split}.jsonl" if path.is_dir() else path
        if file.suffix != ".jsonl" or not file.is_file():
            raise no_rows(path, split)
        return file

    @classmethod
    def read_rows(cls, file: Path) -> Iterator[Row]:
        """Yield the questions of a row file; `question_row` makes a row."""
        raise NotImplementedError(f"{cls.__name__}: read_rows")

    def text(self, row: Row) -> str:
        """Return the text of a row's user turn; videos and images stand before it."""
        return self.prompt.text(row)

    def score(self, row: Row, answer: str) -> float:
        """Return the score of one answer, 0..1 (or True and False). No text of a model may raise."""
        raise NotImplementedError(f"{type(self).__name__}: score")

    def accuracy(self, answers: Mapping[str, str], name: str, config: EvalConfig | None = None) -> Accuracy:
        """Return the mean score of answers (id -> text), overall and by question type.

        Args:
            name: of the answers: a control, "" for the evaluation itself, or a predictions file.
            config: of the evaluation; None for a predictions file.
        """
        correct: dict[str, float] = {}
        cells: dict[str, list[float]] = {}
        for row in self.rows:
            if row.id in answers:
                correct[row.id] = self.score(row, answers[row.id])
                cells.setdefault(row.question_type, []).append(correct[row.id])
        by_type = {name: (sum(cells[name]), len(cells[name])) for name in sorted(cells)}
        return Accuracy(self.file.name, self.num_rows, correct, by_type)

    def report(self, answers: Answers) -> Report:
        """Return the scores of an evaluation and of its controls.

        Raises:
            DataError: no question is answered.
        """
        found = {name: self.accuracy(answers.first_of(name), name, answers.config) for name in answers.by_control}
        return AccuracyReport(found.pop(""), found, answers)

    def write_beside_results(self, report: Any, answers: Answers) -> None:
        """Write what the benchmark has beside results.json: report.html, a page for the eye."""
        if not isinstance(report, AccuracyReport):
            return
        first, scores = answers.first_of(""), report.main.correct
        answered = [
            (row, first[row.id], float(scores[row.id]), answers.media_of(row)) for row in self.rows if row.id in first
        ]
        write_accuracy_page(Path(answers.config.run.dir) / REPORT_NAME, report.to_json(), answered)

    def row_scores(self, answers: Mapping[str, Sequence[str | None]], results: Mapping[str, Any]) -> dict[str, float]:
        """Return id -> score of an earlier evaluation: as its results.json says, {} without one."""
        return {name: float(score) for name, score in (results.get("correct") or {}).items()}

    @classmethod
    def read_predictions(cls, file: Path) -> dict[str, str] | None:
        """Return id -> answer of a predictions file in a form of the benchmark's own; None: in those `score` knows."""
        return None

    def identity(self) -> dict[str, Any]:
        """Return what tells the row file apart, for settings.json: another one is another evaluation."""
        harness = {} if self.harness == "official" else {"harness": self.harness}
        return {"name": self.name, "file": str(self.file), "sha256": self.sha256, **harness}


def _check_rows(file: Path, rows: Sequence[Row]) -> None:
    """Raise DataError for a row that breaks a rule of the schema, or an id used twice: predictions name rows by it."""
    seen: set[str] = set()
    for row in rows:
        check_asked(row, f"{file}: id={row.id}")
        if row.id in seen:
            raise DataError(f"{file}: id={row.id}: used twice", "ids must be unique")
        seen.add(row.id)


def question_row(
    name: str,
    question: str,
    answer: str,
    media: Sequence[tuple[str, str]],
    *,
    dataset: str,
    question_type: str | None = None,
    options: Sequence[str] | None = None,
    **more: Any,
) -> Row:
    """Return a row of schema v1 to evaluate on.

    Args:
        name: its id, unique in the benchmark.
        answer: of a question with options, one of them.
        media: (kind, path) of each image or video; paths are relative to the row file.
        dataset: name of the benchmark; `question_type` is the same where none is given.
        more: other fields of `Row`.
    """
    place = list(options).index(answer) if options else 0
    values: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "id": name,
        "dataset": dataset,
        "split": "test",
        "scene_name": name,
        "room": name,
        "question_type": dataset if question_type is None else question_type,
        "question": question,
        "options": tuple(options) if options else None,
        "ground_truth": CHOICE_LETTERS[place : place + 1] if options else answer,
        "answer": answer,
        "answer_kind": "choice" if options else "text",
        "unit": None,
        "media": tuple({"kind": kind, "path": path} for kind, path in media),
        "rejected": None,
        "reasoning": None,
        "objects": (),
        "generator": {},
        "extra": {},
    }
    return Row(**{**values, **more})
