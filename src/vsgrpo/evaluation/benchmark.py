"""The base class of benchmarks (rows, the media and the text of each, the score of an answer), and ours by name.

`evaluation.run` runs any benchmark. Ours are in `evaluation/benchmarks/`, one file each; one of your own is a class in
a module of yours (docs/extending.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from vsgrpo.data.prompts import parted_text
from vsgrpo.data.row import Row
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.evaluation.accuracy import Accuracy, AccuracyReport, Cell
from vsgrpo.evaluation.benchmark_table import PLAIN, PromptSettings, ScoredRows
from vsgrpo.evaluation.results import REPORT_NAME, Answers
from vsgrpo.evaluation.row_files import check_rows, records, row_file
from vsgrpo.evaluation.row_files import question_row as question_row
from vsgrpo.evaluation.unpacking import known_pictures, picture_folders, rows_sha256, shards
from vsgrpo.report.accuracy_page import Judged, write_accuracy_page
from vsgrpo.rules import import_named, one_of
from vsgrpo.spatial.scoring import best_of, sample_sizes
from vsgrpo.terminal import counted

if TYPE_CHECKING:
    from vsgrpo.config.evaluate import EvalConfig

BENCHMARKS = {
    "vsibench": "vsgrpo.evaluation.benchmarks.vsibench:VsiBench",
    "revsi": "vsgrpo.evaluation.benchmarks.revsi:ReVsi",
    "vsi_super_recall": "vsgrpo.evaluation.benchmarks.vsi_super:VsiSuperRecall",
    "vsi_super_count": "vsgrpo.evaluation.benchmarks.vsi_super:VsiSuperCount",
    "vsi_super_streaming": "vsgrpo.evaluation.benchmarks.vsi_super:VsiSuperStreaming",
    "mmsi_video": "vsgrpo.evaluation.benchmarks.mmsi_video:MmsiVideo",
    "video_mme": "vsgrpo.evaluation.benchmarks.video_mme:VideoMme",
    "site": "vsgrpo.evaluation.benchmarks.site:SiteBench",
    "spar": "vsgrpo.evaluation.benchmarks.spar:SparBench",
    "osi": "vsgrpo.evaluation.benchmarks.osi:OsiBench",
    "sti": "vsgrpo.evaluation.benchmarks.sti:StiBench",
    "spbench": "vsgrpo.evaluation.benchmarks.spbench:SpBench",
    "mmsi": "vsgrpo.evaluation.benchmarks.mmsi:MmsiBench",
    "mindcube": "vsgrpo.evaluation.benchmarks.mindcube:MindCube",
    "viewspatial": "vsgrpo.evaluation.benchmarks.viewspatial:ViewSpatial",
    "blink": "vsgrpo.evaluation.benchmarks.blink:Blink",
    "threedsr": "vsgrpo.evaluation.benchmarks.threedsr:ThreeDsr",
    "embspatial": "vsgrpo.evaluation.benchmarks.embspatial:EmbSpatial",
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


class Report(Protocol):
    """Result of an evaluation."""

    def to_json(self) -> dict[str, Any]:
        """Return the content of results.json."""
        ...

    def table(self) -> str:
        """Return the scores as text for people."""
        ...


@dataclass(frozen=True)
class ReadOptions:
    """Which questions of a benchmark are read, and how they are asked: the keys `benchmark.*`.

    Attributes:
        split: which row file of a folder.
        tasks: keep these question types; None keeps all.
        limit: keep this many questions, chosen by a hash of their ids: the same ones at every call.
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
    prompt: PromptSettings = PLAIN
    run_dir: Path | None = None


@dataclass(frozen=True)
class Benchmark(ScoredRows):
    """Questions read from a file, and everything that differs between benchmarks.

    A benchmark of your own gives `row` (or `read_rows`) and `score`, and `text` where its prompts have a form of their
    own; every other method has a default, and what a published benchmark is known by is class attributes.
    """

    media_in_text: ClassVar[bool] = False
    """`<image>` and `<video>` in a text are where media are shown, one each and in their order; a text without any
    follows its media."""
    may_show_nothing: ClassVar[bool] = False
    """Some questions have no image and no video: they are asked as text alone, and counted."""
    has_task_tables: ClassVar[bool] = False
    """results.json has VSI-Bench's tables per task: several models are compared in one."""
    suffixes: ClassVar[tuple[str, ...]] = (".jsonl",)
    """Row files that `read_rows` reads; in a folder the first kind that is there."""
    columns: ClassVar[tuple[str, ...]] = ()
    """Columns that every row of the file has, those that are read."""
    packed: ClassVar[tuple[str, ...]] = ()
    """Columns of pictures: `packed_pictures` reads them, not `row`."""
    media_folders: ClassVar[tuple[str, ...]] = ()
    """Folders beside the row file that media may be below, as the zips of the benchmark unpack."""

    @classmethod
    def read(cls, path: Path | str, options: ReadOptions = ReadOptions()) -> Self:
        """Read the questions of a row file, or of a folder that holds it.

        Raises:
            DataError: no such file, no question in it, a broken row, or an id used twice.
            ConfigError: no question of the types asked for.
        """
        file, tasks = cls.find_file(Path(path), options.split), options.tasks
        rows = list(cls.read_rows(file))
        if not rows:
            raise DataError(f"{file}: no question in it", "one object a line: question, answer, image")
        check_rows(file, rows)
        known = cls.known_types()
        unknown = {row.id: row.question_type for row in rows if known and row.question_type not in known}
        if len(unknown) == len(rows):
            rows_have = counted(len(rows), "row has", "rows have")
            problem = f"question_type={rows[0].question_type}: none of {cls.title}'s; {rows_have} no other"
            raise DataError(f"{file}: {problem}", f"the types are {', '.join(sorted(known))}")
        rows = [row for row in rows if row.id not in unknown]
        kept = [row for row in rows if tasks is None or row.question_type in tasks]
        if not kept:
            there = ", ".join(sorted({row.question_type for row in rows}))
            raise ConfigError(f"benchmark.tasks={list(tasks or [])}: no such question_type", hint=f"there are: {there}")
        official = {"official": bool(cls.title), "unknown": unknown}
        return cls.of_rows(file, kept, len(rows) + len(unknown), options, **official)

    @classmethod
    def of_rows(cls, file: Path, rows: Sequence[Row], num_rows: int, options: ReadOptions, **fields: Any) -> Self:
        """Return the benchmark of `rows`, as many as `options.limit` allows; `fields` are those of a subclass.

        Raises:
            ConfigError: a harness whose prompt and reader it has not.
        """
        one_of("benchmark.harness", options.harness, cls.harnesses)
        kept = tuple(rows) if options.limit is None else cls._chosen(rows, options.limit)
        sha256 = rows_sha256(cls.row_files(file))
        pictures = known_pictures(picture_folders(file, sha256, options.run_dir))
        fields |= {
            "prompt": options.prompt,
            "harness": options.harness,
            "run_dir": options.run_dir,
            "pictures": pictures,
        }
        return cls(options.name, file, sha256, kept, num_rows, **fields)

    @classmethod
    def _chosen(cls, rows: Sequence[Row], limit: int) -> tuple[Row, ...]:
        """Return the rows of as many questions, chosen by a hash: the same ones at every call, in file order."""
        keys = {cls.unit(row): row.key for row in reversed(rows)}
        chosen = sorted(keys, key=lambda unit: blake2b(keys[unit].encode(), digest_size=8).digest())[:limit]
        units = set(chosen)
        return tuple(row for row in rows if cls.unit(row) in units)

    @classmethod
    def row_files(cls, file: Path) -> Sequence[Path]:
        """Return the files that hold the rows of the row file: its shards, or those in it if it is a folder."""
        return shards(file)

    @classmethod
    def find_file(cls, path: Path, split: str) -> Path:
        """Return the row file: `path` itself, or the one of that folder; DataError where it is not there."""
        return row_file(path, split, cls.suffixes)

    @classmethod
    def read_rows(cls, file: Path) -> Iterator[Row]:
        """Yield the questions of a row file, each of a record that has all `columns`."""
        for where, data in records(file, cls.columns, cls.title or "this benchmark", cls.packed):
            yield cls.row(data, where)

    @classmethod
    def known_types(cls) -> frozenset[str]:
        """Return the question types that the benchmark has; empty: any."""
        return frozenset([*cls.question_types, *(kind for own in cls.tasks.values() for kind in own)])

    @classmethod
    def row(cls, data: dict[str, Any], where: str) -> Row:
        """Return the row of a record; `question_row` makes it. DataError with `where` for a value that cannot be.

        A record of an unknown type becomes a row too, if it can: it is counted by its type and left out.
        """
        raise NotImplementedError(f"{cls.__name__}: row, or read_rows")

    @cached_property
    def folder(self) -> Path:
        """The folder that media paths are below: that of the row file, one of `media_folders` in it, or one of two
        above it: the first that holds what the first row shows, else the first with zips in it."""
        beside = [self.file.parent / name for name in self.media_folders]
        folders = (self.file.parent, *beside, *list(self.file.resolve().parents)[1:3])
        first = next((item["path"] for row in self.rows for item in row.media), "")
        zipped = next((folder for folder in folders if any(folder.glob("*.zip"))), folders[0])
        return next((folder for folder in folders if (folder / first).is_file()), zipped)

    def text(self, row: Row) -> str:
        """Return the text of a row's user turn; videos and images are shown before it, or in it (`media_in_text`).

        The authors' own (`official_text`), unless the configuration asks for another mode, wording or template.
        """
        return self.official_text(row) if self.prompt.is_official else self.prompt.text(row)

    def official_text(self, row: Row) -> str:
        """Return the text that the authors ask with; the official form of VSI-Bench where a class has none."""
        return self.prompt.text(row)

    def turn(self, row: Row) -> str | tuple[str, ...]:
        """Return the text of a row's user turn, or the texts before, between and after what is shown.

        Raises:
            DataError: `<image>` and `<video>` in it are not one per medium.
        """
        text = self.text(row)
        if not self.media_in_text:
            return text
        return parted_text(text, [kind for kind, *_ in self.media(row)], f"{self.file}: id={row.id}")

    def drawn_from(self, row: Row) -> Mapping[str, str] | None:
        """Return what a row that names no room shows a room of: data set -> official split, "" for all of the data set.

        Only as published; None: nothing is. Splits are known of ScanNet ("train", "val", "test").
        """
        return None

    def check_turns(self) -> None:
        """Refuse rows whose text and media do not belong together; DataError as `turn`, or for a row that shows nothing
        where the benchmark has none such."""
        for row in self.rows:
            self.turn(row)
            if not self.may_show_nothing and not self.media(row):
                raise DataError(f"{self.file}: id={row.id}: shows neither image nor video", "download it again")

    @classmethod
    def takes_samples(cls) -> bool:
        """Return whether several answers to a question are scored, by their mean (decoding.num_samples).

        They are not where a class of its own makes the table of one answer each, or scores several rows as one.
        """
        own_table = cls.report is not Benchmark.report or cls.accuracy is not Benchmark.accuracy
        return not own_table and cls.unit.__func__ is Benchmark.unit.__func__

    def mean_accuracy(
        self, answers: Mapping[str, Sequence[str]], name: str, config: EvalConfig | None = None
    ) -> Accuracy:
        """Return `accuracy` of one answer to each question; of several the score of a question is their mean.

        Raises:
            DataError: several, and the benchmark takes one (`takes_samples`).
        """
        most = max((len(texts) for texts in answers.values()), default=0)
        if most < 2:
            return self.accuracy({key: texts[0] for key, texts in answers.items() if texts}, name, config)
        if not self.takes_samples():
            problem = f"{most} answers to one question: benchmark={self.name} scores one answer"
            raise DataError(f"{name or self.file}: {problem}", "give one answer per question")
        scores = {
            row.id: [float(self.score(row, self.spoken(text))) for text in texts]
            for row in self.rows
            if (texts := answers.get(row.id))
        }
        table = self.table_of({name: fmean(values) for name, values in scores.items()})
        told = f"up to {most} answers per question: its score is their mean"
        return replace(table, notes=(*table.notes, told), pass_at_k=self._pass_at_k(scores, most, table.quoted_mean))

    def _pass_at_k(self, scores: Mapping[str, Sequence[float]], most: int, mean: str) -> dict[str, Cell]:
        """Return "pass@k" -> mean of the best of k answers; a question with fewer answers gives the best of its own."""
        best = {name: best_of(values) for name, values in scores.items()}
        tables = {
            k: self.table_of({name: found.get(k, found[len(scores[name])]) for name, found in best.items()})
            for k in sample_sizes(most)[1:]
        }
        return {f"pass@{k}": table.mean_of(mean) for k, table in tables.items()}

    def report(self, answers: Answers) -> Report:
        """Return the scores of an evaluation and of its controls.

        Raises:
            DataError: no question is answered.
        """
        given = {name: answers.given_to(name) for name in answers.by_control}
        found = {name: self.mean_accuracy(texts, name, answers.config) for name, texts in given.items()}
        main = found.pop("")
        return AccuracyReport(replace(main, notes=(*self.remarks(answers.settings), *main.notes)), found, answers)

    def write_beside_results(self, report: Any, answers: Answers) -> None:
        """Write what the benchmark has beside results.json: report.html, a page for the eye."""
        if not isinstance(report, AccuracyReport):
            return
        given, scores = answers.given_to(""), report.main.correct
        answered = []
        for row in self.rows:
            if texts := given.get(row.id):
                said = self.spoken(texts[0])  # of several answers the first is shown, with its own score
                score = float(scores[row.id] if len(texts) == 1 else self.score(row, said))
                read = self.read_answer(row, said)
                answered.append(Judged(row, texts[0], read, score, tuple(answers.media_of(row))))
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
        harness: dict[str, Any] = {} if self.harness == "official" else {"harness": self.harness}
        if self.harness in self.own_frames:
            harness["frames"] = self.own_frames[self.harness]
        return {"name": self.name, "file": str(self.file), "sha256": self.sha256, **harness}
