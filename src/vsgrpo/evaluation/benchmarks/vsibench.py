"""VSI-Bench as downloaded (jsonl or parquet + mp4s), or one of our dataset folders, as rows to evaluate.

VSI-Bench: one file of rows {id, dataset, scene_name, question_type, question, ground_truth, options ("A. chair") |
null, ...}, videos at <dataset>/<scene_name>.mp4 beside it, or still in the zips they were downloaded in (scannet.zip,
arkitscenes.zip, scannetpp.zip). Ours: `test.jsonl`, `dev.jsonl`, `train.jsonl` in row schema v1. Both become rows of
schema v1, so everything after this module knows one form.

Source: Hugging Face nyu-visionx/VSI-Bench; spec of formats in data/README.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self

from vsgrpo.data.prompts import LETTER_SENTENCE, PRE_PROMPT, option_lines
from vsgrpo.data.room_ids import room_of
from vsgrpo.data.row import LETTERS, Row, check_row
from vsgrpo.data.rows import check_scorable, row_from_dict
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.evaluation.accuracy import Published
from vsgrpo.evaluation.benchmark import Benchmark, ReadOptions
from vsgrpo.evaluation.export_names import ExportNames
from vsgrpo.evaluation.pair_scores import pair_outcomes, pair_scores
from vsgrpo.evaluation.results import LMMS_NAME, REPORT_NAME, Answers
from vsgrpo.evaluation.row_files import question_row, row_file
from vsgrpo.evaluation.score_tables import METRICS, VsiBenchReport, write_lmms_samples
from vsgrpo.evaluation.scores import read_first, read_row, score_rows
from vsgrpo.files import file_sha256
from vsgrpo.records import read_records
from vsgrpo.report.evaluation_page import ReadAnswer, write_evaluation_page
from vsgrpo.rules import load_question_types, one_of
from vsgrpo.spatial.answers import EASI, SCORERS
from vsgrpo.spatial.maps import read_map, strict_score
from vsgrpo.spatial.question_types import QUESTION_TYPES, answer_kind_of, table_tasks
from vsgrpo.spatial.scoring import score_number

SUFFIXES = (".jsonl", ".parquet")
EASI_NUMBER_SENTENCE = "Answer briefly and directly in one float number."
PRUNED_SHA256 = "76fc941f75956f7d3796ae017d2ec06a7eb4c447862624ca27e09c9eb58ae9e9"
"""Of pruned_ids.txt (2,768 ids) at revision bdcadb3f of the data set."""
PART_ROWS = {
    "object_counting": (251, 565),
    "object_abs_distance": (434, 834),
    "object_size_estimation": (353, 953),
    "room_size_estimation": (200, 288),
    "object_rel_distance": (310, 710),
    "object_rel_direction_easy": (212, 217),
    "object_rel_direction_medium": (54, 378),
    "object_rel_direction_hard": (116, 373),
    "route_planning": (114, 194),
    "obj_appearance_order": (318, 618),
}
"""Question type -> rows of the debiased part, and of the whole."""
_EASI = "the authors' code, table of EASI 0.2.2"
_COLUMNS = ("id", "dataset", "scene_name", "question_type", "question", "ground_truth", "options")


_METRICS = {metric: f"tasks/{metric.rpartition('_')[0]}" for metric in METRICS[1:]}
_EASI_SCORES = {metric.removesuffix("_mra"): metric for metric in _METRICS}
_NAMED = partial(ExportNames, overall="vsibench_overall", metrics=_METRICS)
_EXPORT_NAMES = (
    _NAMED("vsibench", easi="vsi_bench", easi_task="vsibench_multiimage", easi_scores=_EASI_SCORES),
    _NAMED(
        "vsibench_debiased",
        easi="vsi_debiased",
        easi_task="vsibench_debiased_multiimage",
        easi_scores=_EASI_SCORES,
        part="debiased",
    ),
    _NAMED("vsibench_pruned", part="pruned"),
)


@dataclass(frozen=True)
class VsiBench(Benchmark):
    """Rows about videos of rooms, scored by VSI-Bench's formulas as several harnesses read answers.

    `scorer` says whose reading of answers is quoted, where lmms-eval asks as the authors do; `harness=easi` asks as
    VLMEvalKit does, whose reading is then scored too, and quoted.

    Attributes:
        official: the file is in VSI-Bench's own format, not in ours.
        subset: full, or the part of VSI-Bench that iterative bias pruning keeps (debiased) or takes away (pruned).
        other_part: what tells the part from the published one, "" where nothing does.
    """

    subset: str = "full"
    other_part: str = ""

    title: ClassVar[str] = "VSI-Bench"
    harnesses: ClassVar[tuple[str, ...]] = ("official", EASI)
    headline: ClassVar[str] = "macro"
    export_names: ClassVar[tuple[ExportNames, ...]] = _EXPORT_NAMES
    published: ClassVar[tuple[Published, ...]] = (
        Published("SenseNova-SI-1.1-Qwen3-VL-8B", 0.629, _EASI),
        Published("Cambrian-S-7B, 32 frames", 0.6361, _EASI),
        Published("InternVL3.5-8B", 0.563, _EASI),
        Published("Qwen2.5-VL-7B, 128 frames", 0.335, f"{_EASI}; VLMEvalKit gives 33.7, lmms-eval 38.7"),
        Published("Qwen2.5-VL-3B", 0.268, f"{_EASI}; VLMEvalKit gives 26.6, lmms-eval 29.6"),
    )
    published_debiased: ClassVar[tuple[Published, ...]] = (
        Published("Cambrian-S-7B", 0.5558, _EASI),
        Published("Qwen2.5-VL-7B", 0.296, f"{_EASI}; VLMEvalKit gives 29.1, lmms-eval 33.8"),
    )

    has_task_tables: ClassVar[bool] = True

    @classmethod
    def takes_samples(cls) -> bool:
        """Return True: the table has pass@k and the majority too."""
        return True

    @classmethod
    def read(cls, path: Path | str, options: ReadOptions = ReadOptions()) -> Self:
        """Read the rows to evaluate: of a row file (.jsonl or .parquet), or of the folder that holds it.

        `tasks`: see `types_of`. `limit` keeps rows of all tasks. `subset` is full, debiased or pruned: by the `pruned`
        column, else by pruned_ids.txt beside the file; a folder with SPLIT_debiased or SPLIT_pruned files gives those.

        Raises:
            DataError: file missing or broken, or no row of the tasks asked for; names file, line and field.
            ConfigError: an unknown task.
        """
        subset, tasks = options.subset, options.tasks
        file = row_file(Path(path), options.split, SUFFIXES, subset)
        types = types_of(tasks)  # before the rows, which may be of a type of the user's own
        found = list(iter_benchmark(file))
        rows, official = [row for row, _ in found], all(is_official for _, is_official in found)
        if subset != "full" and not file.stem.endswith(f"_{subset}"):
            rows = _subset(file, rows, subset)
        part = _other_part(file, rows, subset) if official and subset != "full" else ""
        kept = [row for row in rows if types is None or row.question_type in types]
        if not kept:
            what = "no rows" if not rows else f"no row of benchmark.tasks={list(tasks or [])}"
            there = ", ".join(sorted({row.question_type for row in rows})) or "no question"
            raise DataError(f"{file}: {what}", f"the file has {there}")
        return cls.of_rows(file, kept, len(rows), options, official=official, subset=subset, other_part=part)

    def identity(self) -> dict[str, Any]:
        """Return the hash of the row file, and subset and harness where they are not the default."""
        subset = {} if self.subset == "full" else {"subset": self.subset}
        return {"sha256": self.sha256, **subset, **({} if self.harness == "official" else {"harness": self.harness})}

    def official_text(self, row: Row) -> str:
        """Return the text as configured; of harness easi VLMEvalKit's, where options are shown."""
        if self.harness != EASI or not self.prompt.show_options or row.answer_kind not in ("choice", "number"):
            return self.prompt.text(row)
        if row.options is None:
            return f"{PRE_PROMPT}\n{row.question}\n{EASI_NUMBER_SENTENCE}"
        return "\n".join([PRE_PROMPT, row.question, *option_lines(row.options), LETTER_SENTENCE])

    def read_answer(self, row: Row, answer: str) -> str | float | None:
        """Return what an export reads: as VLMEvalKit of harness easi, else as lmms-eval."""
        scorer = EASI if self.harness == EASI else "lmms"
        return read_row(scorer, row, answer, replace(self.prompt, mode="vanilla"))

    def score(self, row: Row, answer: str) -> float:
        """Return the score that an export has: that of `read_answer`."""
        read = self.read_answer(row, answer)
        if row.answer_kind == "number":
            number = read if isinstance(read, float) else None
            return score_number(row.question_type, number, float(row.ground_truth))
        if row.answer_kind == "map":
            return strict_score(read_map(str(read)), read_map(row.ground_truth) or {})
        return read == row.ground_truth

    def quoted(self, scorer: str) -> str:
        """Return the scorer whose numbers are quoted: `scorer`, or VLMEvalKit's of harness easi."""
        return EASI if self.harness == EASI else scorer

    def report(self, answers: Answers) -> VsiBenchReport:
        """Return the scores of all scorers with their intervals, beside controls and the paper's."""
        how = (self.prompt, scorers_of(self.harness))
        scores = {name: score_rows(self.rows, found, *how) for name, found in answers.by_control.items()}
        main = scores.pop("")
        errors = {name: answers.errors[name] for name in answers.errors if name in set(main.unanswered)}
        scorer = self.quoted(answers.config.scorer)
        read = read_first(scorer, self.rows, answers.by_control[""], self.prompt)
        pairs = pair_scores(pair_outcomes(self.rows, read))
        beside = {"full": self.published, "debiased": self.published_debiased}.get(self.subset, ())
        notes, whole = [self.other_part] if self.other_part else [], sum(_part_rows(self.subset).values())
        if self.official and beside and len(self.rows) != whole:
            notes.append(f"{len(self.rows)} of {whole} rows were asked, published rows are of all")
        is_part = self.official and self.subset != "full" and not self.other_part
        return VsiBenchReport(
            self,
            main,
            answers.leak,
            answers.settings,
            errors,
            scorer,
            scores,
            pairs,
            part=f"VSI-Bench, {self.subset} part" if is_part else "",
            published=beside if self.official else (),
            notes=tuple(notes),
        )

    def write_beside_results(self, report: VsiBenchReport, answers: Answers) -> None:
        """Write report.html and the log in lmms-eval's form."""
        folder, texts, scorer = Path(answers.config.run.dir), answers.by_control[""], report.scorer
        write_lmms_samples(folder / LMMS_NAME, self.rows, texts, self.prompt, self.text)
        scores = report.scores.by_row[scorer]
        first = answers.first_of("")
        read = [
            ReadAnswer(row, text, read_row(scorer, row, text, self.prompt), scores[row.id], answers.media_of(row))
            for row in self.rows
            if (text := first.get(row.id)) is not None
        ]
        write_evaluation_page(folder / REPORT_NAME, report.to_json(), read)

    def row_scores(self, answers: Mapping[str, Sequence[str | None]], results: Mapping[str, Any]) -> dict[str, float]:
        """Return id -> score by the scorer of an earlier evaluation."""
        tables = score_rows(self.rows, answers, self.prompt, scorers_of(self.harness)).by_row
        return tables.get(results.get("scorer") or "official", tables["official"])


def scorers_of(harness: str) -> tuple[str, ...]:
    """Return the scorers of questions that are asked as a harness asks them; ConfigError for another one."""
    one_of("benchmark.harness", harness, VsiBench.harnesses)
    return (*SCORERS, EASI) if harness == EASI else SCORERS


def _part_rows(subset: str) -> dict[str, int]:
    """Return question type -> rows of the published part."""
    return {kind: {"full": of, "debiased": kept, "pruned": of - kept}[subset] for kind, (kept, of) in PART_ROWS.items()}


def _other_part(file: Path, rows: Sequence[Row], subset: str) -> str:
    """Return what tells rows of a subset from the published ones: the list's hash, else rows by question type."""
    listed, there = file.with_name("pruned_ids.txt"), Counter(row.question_type for row in rows)
    has_column = any("pruned" in row.extra for row in rows)
    if listed.is_file() and not has_column and not file.stem.endswith(f"_{subset}"):
        sha256 = file_sha256(listed)
        if sha256 != PRUNED_SHA256:
            return f"{listed.name} is not the published list: sha256 {sha256[:12]}, not {PRUNED_SHA256[:12]}"
    published = _part_rows(subset)
    other = [f"{kind} {there[kind]} for {number}" for kind, number in published.items() if there[kind] != number]
    return f"not the published part: rows of {'; '.join(other)}" if other else ""


def _subset(file: Path, rows: list[Row], subset: str) -> list[Row]:
    """Return the rows that bias pruning keeps or takes away.

    Source: arXiv 2511.04655; VSI-Bench's column `pruned`, or its list pruned_ids.txt.
    """
    listed = file.with_name("pruned_ids.txt")
    if rows and all(isinstance(row.extra.get("pruned"), bool) for row in rows):
        pruned = {row.id for row in rows if row.extra["pruned"]}
    elif listed.is_file():
        pruned = set(listed.read_text(encoding="utf-8").replace(",", " ").split())
    else:
        hint = "download the file again, or put pruned_ids.txt beside it"
        raise DataError(f"{file}: benchmark.subset={subset}: rows have no column `pruned`", hint)
    return [row for row in rows if (row.id in pruned) == (subset == "pruned")]


def iter_benchmark(file: Path) -> Iterator[tuple[Row, bool]]:
    """Yield the rows of a file one at a time, each with whether the file is in VSI-Bench's own format.

    Raises:
        DataError: as `VsiBench.read`.
    """
    official = True
    first_use: dict[str, int] = {}
    for number, (where, data) in enumerate(read_records(file, first=0)):
        if not number:
            official = not (isinstance(data, dict) and "schema_version" in data)
        row = _official_row(data, where) if official else row_from_dict(data, where)
        check_scorable(row, where)
        if official:
            check_row(row, where)
        if (first := first_use.setdefault(row.id, number)) != number:
            place = next(place for k, (place, _) in enumerate(read_records(file, first=0)) if k == first)
            _fail(where, f"id={row.id}: already used at {place}", "ids must be unique in a file")
        yield row, official


def _official_row(data: Any, where: str) -> Row:
    """Turn a row of VSI-Bench into ours; columns we do not know are kept in `extra`."""
    if not isinstance(data, dict):
        _fail(where, "a row is an object")
    for name in _COLUMNS:
        if name not in data:
            _fail(where, f"{name} is missing", f"VSI-Bench rows have {', '.join(_COLUMNS)}")
    for name in ("dataset", "scene_name", "question_type", "question", "ground_truth"):
        if not isinstance(data[name], str) or not data[name].strip():
            _fail(where, f"{name}={data[name]!r}: must be a non-empty string")
    if type(data["id"]) not in (int, str):
        _fail(where, f"id={data['id']!r}: must be an integer or a string")
    choice = answer_kind_of(data["question_type"]) == "choice"
    options = _option_words(data["options"], where) if choice else None
    truth = data["ground_truth"]
    if options is not None and (len(truth) != 1 or truth not in LETTERS[: len(options)]):
        _fail(where, f"ground_truth={truth!r}: must be a letter of {LETTERS[: len(options)]}")
    scene = data["scene_name"]
    return question_row(
        str(data["id"]),
        data["question"],
        truth if options is None else options[LETTERS.index(truth)],
        [("video", f"{data['dataset']}/{scene}.mp4")],
        dataset=data["dataset"],
        question_type=data["question_type"],
        options=options,
        scene_name=scene,
        room=room_of(scene),
        ground_truth=truth,
        answer_kind="choice" if choice else "number",
        extra={name: value for name, value in data.items() if name not in _COLUMNS},
    )


def _option_words(options: Any, where: str) -> tuple[str, ...]:
    """Return the words of ["A. chair", "B. table", ...]."""
    hint = 'choice questions of VSI-Bench have options like ["A. chair", "B. table"]'
    if not isinstance(options, list) or not 2 <= len(options) <= len(LETTERS):
        _fail(where, f"options={options!r}: must be a list of 2 to {len(LETTERS)}", hint)
    for letter, option in zip(LETTERS, options, strict=False):
        if not isinstance(option, str) or not option.startswith(f"{letter}. ") or not option[3:].strip():
            _fail(where, f"options={options!r}: option {letter} must begin with '{letter}. '", hint)
    return tuple(option[3:] for option in options)


def types_of(given: Sequence[str] | None) -> frozenset[str] | None:
    """Return the question types that benchmark.tasks names, None for all.

    Args:
        given: tasks (`object_rel_direction` stands for its three difficulties), single types, or types of the user's
            own as package.module:NAME, which are registered.

    Raises:
        ConfigError: an unknown task, or a type of the user's own that is not found.
    """
    if given is None:
        return None
    names = load_question_types("benchmark.tasks", given)
    known = {**table_tasks(), **{name: (name,) for name in QUESTION_TYPES}}
    for name in names:
        if name not in known:
            raise ConfigError(f"benchmark.tasks={name}: unknown task", hint=f"choose from: {', '.join(known)}")
    return frozenset(question_type for name in names for question_type in known[name])


def _fail(where: str, problem: str, hint: str = "") -> NoReturn:
    raise DataError(f"{where}: {problem}", hint or "compare with a row of VSI-Bench's test.jsonl")
