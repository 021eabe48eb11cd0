"""Read what is to be evaluated: VSI-Bench as downloaded (jsonl or parquet + mp4s), or a dataset folder of ours.

VSI-Bench: one file of rows {id, dataset, scene_name, question_type, question, ground_truth, options ("A. chair") |
null, ...}, videos at <dataset>/<scene_name>.mp4 beside it. Ours: `test.jsonl`, `dev.jsonl`, `train.jsonl` in row schema
v1. Both become rows of schema v1, so everything after this module knows one form.

Source: Hugging Face nyu-visionx/VSI-Bench; spec of formats in data/README.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, NoReturn

from vsgrpo.data.json_files import read_jsonl
from vsgrpo.data.leakage import name_some, room_of
from vsgrpo.data.manifest import file_record
from vsgrpo.data.row import LETTERS, SCHEMA_VERSION, Row
from vsgrpo.data.row_rules import check_row, check_scorable
from vsgrpo.data.rows import row_from_dict
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.evaluation.archives import find_in_zips, unpack
from vsgrpo.plugins import load_question_types
from vsgrpo.spatial.question_types import QUESTION_TYPES, answer_kind_of, table_tasks

_COLUMNS = ("id", "dataset", "scene_name", "question_type", "question", "ground_truth", "options")
SUBSETS = ("full", "debiased", "pruned")


@dataclass(frozen=True)
class Benchmark:
    """Rows to evaluate and where their videos are.

    Attributes:
        file: the row file.
        sha256: of the row file.
        rows: after the filters, in file order; ids are unique.
        num_rows: rows in the file, before any filter.
        official: the file is in VSI-Bench's own format.
        subset: full, or the part of VSI-Bench that iterative bias pruning keeps (debiased) or takes away (pruned).
        unpacked: videos that came out of a zip and lie elsewhere: name in the row -> path.
    """

    file: Path
    sha256: str
    rows: tuple[Row, ...]
    num_rows: int
    official: bool
    subset: str = "full"
    unpacked: Mapping[str, Path] = field(default_factory=dict)

    def video(self, row: Row) -> Path:
        """Return the path of a row's video."""
        return self.unpacked.get(self._name(row), row.video_path(self.file.parent))

    def _name(self, row: Row) -> str:
        return str(row.video_path(self.file.parent).relative_to(self.file.parent))

    def missing_videos(self) -> list[str]:
        """Return the videos that are not there, relative to the row file, sorted."""
        names = {self._name(row): self.video(row) for row in self.rows}
        return sorted(name for name, path in names.items() if not path.is_file())

    def with_videos(self, skip_missing: bool, unpack_to: Path | None = None) -> Benchmark:
        """Return the benchmark without rows whose video is missing; videos in zips beside the row file are unpacked.

        Args:
            skip_missing: leave rows out instead of raising.
            unpack_to: where to unpack if the row file's folder cannot be written; None looks at no zip.

        Raises:
            DataError: videos are missing and may not be skipped, none is left, or a zip is broken.
        """
        missing = self.missing_videos()
        if missing and unpack_to is not None:
            zipped = find_in_zips(self.file.parent, missing)
            if len(zipped) == len(missing) or skip_missing:
                return replace(self, unpacked=unpack(zipped, self.file.parent, unpack_to)).with_videos(skip_missing)
            missing = [name for name in missing if name not in zipped]
        if not missing:
            return self
        named = name_some(missing)
        if not skip_missing:
            raise DataError(
                f"{self.file.parent}: {len(missing)} video(s) missing: {named}",
                "unpack the benchmark's zips there, or score the rest with --skip-missing",
            )
        rows = tuple(row for row in self.rows if self.video(row).is_file())
        if not rows:
            raise DataError(f"{self.file.parent}: every video is missing: {named}", "unpack the benchmark's zips there")
        return replace(self, rows=rows)


def read_benchmark(
    path: Path | str,
    split: str = "test",
    tasks: Sequence[str] | None = None,
    limit: int | None = None,
    subset: str = "full",
) -> Benchmark:
    """Read the rows to evaluate.

    Args:
        path: a row file (.jsonl or .parquet) or the folder that holds it.
        split: test, train or dev; which file of a folder.
        tasks: keep these, see `types_of`; None keeps all.
        limit: keep this many rows, chosen by a hash of their ids so that all tasks are among them.
        subset: full, debiased or pruned: by the `pruned` column, else by pruned_ids.txt beside the file; a folder with
            SPLIT_debiased or SPLIT_pruned files gives those.

    Raises:
        DataError: file missing or broken; names file, line and field.
        ConfigError: an unknown task or subset, or no row of the tasks asked for.
    """
    if subset not in SUBSETS:
        raise ConfigError(f"benchmark.subset={subset}: unknown", hint=f"choose from: {', '.join(SUBSETS)}")
    file = _subset_file(Path(path), split, subset) or row_file(Path(path), split)
    types = types_of(tasks)
    rows, official = _read_file(file)
    if subset != "full" and not file.stem.endswith(f"_{subset}"):
        rows = _subset(file, rows, subset)
    kept = [row for row in rows if types is None or row.question_type in types]
    if not kept:
        what = "no rows" if not rows else f"no row of benchmark.tasks={list(tasks or [])}"
        there = ", ".join(sorted({row.question_type for row in rows})) or "no question"
        raise DataError(f"{file}: {what}", f"the file has {there}")
    if limit is not None and limit < len(kept):
        chosen = sorted(kept, key=lambda row: blake2b(row.key.encode(), digest_size=8).digest())[:limit]
        ids = {row.id for row in chosen}
        kept = [row for row in kept if row.id in ids]
    return Benchmark(file, file_record(file)["sha256"], tuple(kept), len(rows), official, subset)


def _subset_file(path: Path, split: str, subset: str) -> Path | None:
    """Return SPLIT_SUBSET.jsonl or .parquet of a folder, None where it has neither."""
    files = [path / f"{split}_{subset}.{kind}" for kind in ("jsonl", "parquet")]
    return next((file for file in files if subset != "full" and file.is_file()), None)


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


def row_file(path: Path, split: str) -> Path:
    """Return the row file of a folder: SPLIT.jsonl, else SPLIT*.parquet, else for `test` its only .jsonl."""
    if path.is_file():
        if path.suffix not in (".jsonl", ".parquet"):
            raise DataError(f"benchmark.path={path}: not a .jsonl or .parquet file", "give the row file or its folder")
        return path
    if not path.is_dir():
        raise DataError(f"benchmark.path={path}: no such file or folder", "give the row file or its folder")
    if (path / f"{split}.jsonl").is_file():
        return path / f"{split}.jsonl"
    there = sorted([*path.glob("*.jsonl"), *path.glob("*.parquet")])
    parquet = [file for file in there if file.suffix == ".parquet" and file.name.startswith(f"{split}-")]
    if len(parquet) == 1:
        return parquet[0]
    named = ", ".join(file.name for file in there) or "no row file"
    if split == "test" and len(there) == 1 and there[0].stem not in ("train", "dev"):
        return there[0]
    hint = "set benchmark.split, or give the file itself as benchmark.path"
    raise DataError(f"benchmark.path={path}: has no {split}.jsonl (there: {named})", hint)


def _read_file(file: Path) -> tuple[list[Row], bool]:
    """Return (rows, official); the first line tells the format."""
    found = list(iter_benchmark(file))
    return [row for row, _ in found], all(official for _, official in found)


def iter_benchmark(file: Path) -> Iterator[tuple[Row, bool]]:
    """Yield the rows of a file one at a time, each with whether the file is in VSI-Bench's own format.

    Raises:
        DataError: as `read_benchmark`.
    """
    official = True
    first_use: dict[str, int] = {}
    for number, (where, data) in enumerate(_lines(file)):
        if not number:
            official = not (isinstance(data, dict) and "schema_version" in data)
        row = _official_row(data, where) if official else row_from_dict(data, where)
        check_scorable(row, where)
        if (first := first_use.setdefault(row.id, number)) != number:
            place = next(place for k, (place, _) in enumerate(_lines(file)) if k == first)
            _fail(where, f"id={row.id}: already used at {place}", "ids must be unique in a file")
        yield row, official


def _lines(file: Path) -> Iterator[tuple[str, Any]]:
    if file.suffix == ".jsonl":
        yield from ((f"{file}:{number}", data) for number, data in read_jsonl(file))
        return
    import pyarrow  # here: half a second that jsonl does not need
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(file)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{file}: not a parquet file ({str(error).splitlines()[0]})", "download it again") from None
    yield from ((f"{file}:row {number}", data) for number, data in enumerate(table.to_pylist()))


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
    row = Row(
        schema_version=SCHEMA_VERSION,
        id=str(data["id"]),
        dataset=data["dataset"],
        split="test",
        scene_name=scene,
        room=room_of(scene),
        question_type=data["question_type"],
        question=data["question"],
        options=options,
        ground_truth=truth,
        answer=truth if options is None else options[LETTERS.index(truth)],
        answer_kind="choice" if choice else "number",
        unit=None,
        media=({"kind": "video", "path": f"{data['dataset']}/{scene}.mp4"},),
        rejected=None,
        reasoning=None,
        objects=(),
        generator={},
        extra={name: value for name, value in data.items() if name not in _COLUMNS},
    )
    check_scorable(row, where)
    check_row(row, where)
    return row


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
