"""Row files of benchmarks: where they are in a folder, their records and rows, and which version they are."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vsgrpo.data.json_values import short_json
from vsgrpo.data.leak_guard import name_some
from vsgrpo.data.row import CHOICE_LETTERS, NUMBER, SCHEMA_VERSION, Row, check_asked, number_of
from vsgrpo.errors import DataError
from vsgrpo.evaluation.unpacking import shards
from vsgrpo.loose_records import read_tsv
from vsgrpo.records import read_records


@dataclass(frozen=True)
class Version:
    """A known row file of a benchmark: its name, its number of rows, and its sha256 where that is public."""

    name: str
    num_rows: int
    sha256: str | None = None


def find_version(versions: Sequence[Version], num_rows: int, sha256: str) -> Version | None:
    """Return which known file this is, None for another one; the first that fits where only the number is known."""
    same = [version for version in versions if version.sha256 == sha256]
    return next(iter(same or [v for v in versions if v.sha256 is None and v.num_rows == num_rows]), None)


def refuse_run(path: Path) -> None:
    """Raise DataError for the folder of a training run: its log would be read as questions."""
    if (path / "run.json").is_file() and (path / "log.jsonl").is_file():
        hint = f"benchmark.path is for questions; the model of this run is model={path / 'final'}"
        raise DataError(f"benchmark.path={path}: a training run, no questions", hint)


def no_rows(path: Path, split: str, suffixes: Sequence[str] = (".jsonl",)) -> DataError:
    """Return the error for a folder or file that has no rows of a split, with what there is."""
    if not path.exists():
        return DataError(f"benchmark.path={path}: no such file or folder", "give the row file or its folder")
    if not path.is_dir():
        kinds = " or ".join(suffixes)
        return DataError(f"benchmark.path={path}: not a {kinds} file", f"give the questions: FILE{suffixes[0]}")
    endings = sorted({*suffixes, ".jsonl", ".parquet"})
    there = _row_files(path, endings)
    below = [file for folder in sorted(path.iterdir()) if folder.is_dir() for file in _row_files(folder, endings)]
    named = name_some([str(file.relative_to(path)) for file in there or below]) or "no row file"
    of_split = next((file.stem for file in there if file.stem in ("test", "train", "dev")), None)
    hint = f"set benchmark.split={of_split}, or give" if of_split else "give"
    return DataError(
        f"benchmark.path={path}: has no {split}{suffixes[0]} (there: {named})",
        f"{hint} the file itself as benchmark.path",
    )


def _row_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    return sorted(file for suffix in suffixes for file in folder.glob(f"*{suffix}"))


def row_file(path: Path, split: str, suffixes: Sequence[str], subset: str = "full") -> Path:
    """Return the row file: `path`, or in that folder SPLIT_SUBSET, else SPLIT, else SPLIT-*.parquet.

    For `test` a folder's only row file will do, unless it is called train or dev.

    Raises:
        DataError: there is none, or it is the folder of a training run.
    """
    refuse_run(path)
    if not path.is_dir():
        if path.is_file() and path.suffix in suffixes:
            return path
        raise no_rows(path, split, suffixes)
    names = [f"{split}_{subset}", split] if subset != "full" else [split]
    for name in names:
        for suffix in suffixes:
            if (path / f"{name}{suffix}").is_file():
                return path / f"{name}{suffix}"
    there = _row_files(path, suffixes)
    parquet = [file for file in there if file.suffix == ".parquet" and file.name.startswith(f"{split}-")]
    if parquet and parquet == shards(parquet[0]):
        return parquet[0]
    if split == "test" and len(there) == 1 and there[0].stem not in ("train", "dev"):
        return there[0]
    raise no_rows(path, split, suffixes)


def records(
    file: Path, columns: Sequence[str], title: str, skip: Collection[str] = ()
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, record) of a row file, each with these columns.

    Args:
        title: of the benchmark, for messages.
        skip: columns that are not read (pictures, which `packed_pictures` reads).

    Raises:
        DataError: the file cannot be read, or a record lacks a column.
    """
    for where, data in _shard_records(file, skip):
        if not isinstance(data, dict):
            raise DataError(f"{where}: a row is an object", f"rows of {title} have {', '.join(columns)}")
        if missing := [name for name in columns if name not in data]:
            raise DataError(f"{where}: {missing[0]} is missing", f"rows of {title} have {', '.join(columns)}")
        yield where, data


def _shard_records(file: Path, skip: Collection[str]) -> Iterator[tuple[str, Any]]:
    for shard in shards(file):
        if shard.suffix == ".tsv":
            yield from read_tsv(shard, skip, first=0)
        else:
            yield from read_records(shard, first=0, nan="null", skip=skip)


def check_rows(file: Path, rows: Sequence[Row]) -> None:
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
    media: Sequence[tuple[str, str, *tuple[float, ...]]],
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
        media: (kind, path) of each image or video, (kind, path, start, end) of a clip of a video, in seconds; paths are
            relative to the row file.
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
        "media": tuple(dict(zip(("kind", "path", "start", "end"), item, strict=False)) for item in media),
        "rejected": None,
        "reasoning": None,
        "objects": (),
        "generator": {},
        "extra": {},
    }
    return Row(**{**values, **more})


def text_of(data: Mapping[str, Any], column: str, where: str) -> str:
    """Return a text of a record; DataError for another kind or a blank one."""
    value = data[column]
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {column}={short_json(value)}: must be a text", "download it again")
    return value


def texts_of(data: Mapping[str, Any], column: str, where: str, fewest: int = 1) -> list[str]:
    """Return a list of texts of a record; DataError for another kind, a blank one, or fewer."""
    value = data[column]
    texts = value if isinstance(value, list | tuple) else []
    if len(texts) < fewest or not all(isinstance(text, str) and text.strip() for text in texts):
        problem = f"must be a list of {fewest} or more texts"
        raise DataError(f"{where}: {column}={short_json(value)}: {problem}", "download it again")
    return list(texts)


def lettered(options: Any, where: str, title: str) -> tuple[str, ...]:
    """Return the words of options that may carry their letters: ["A. chair", "B. table"], ["A) chair", ...] or words.

    Raises:
        DataError: no list of texts, or some have their letter and others not.
    """
    hint = f'options of {title} are a list like ["A. chair", "B. table"]'
    if not isinstance(options, list | tuple) or not 2 <= len(options) <= len(CHOICE_LETTERS):
        raise DataError(f"{where}: options={options!r}: must be a list of 2 to {len(CHOICE_LETTERS)}", hint)
    if not all(isinstance(option, str) and option.strip() for option in options):
        raise DataError(f"{where}: options={options!r}: must be texts", hint)
    starts = [option.lstrip("(")[:2] for option in options]
    marked = [start in (f"{x}.", f"{x})", f"{x}:") for x, start in zip(CHOICE_LETTERS, starts, strict=False)]
    if any(marked) and not all(marked):
        raise DataError(f"{where}: options={options!r}: some have their letter, others not", hint)
    return tuple(option.lstrip("(")[2:].strip() if marked[0] else option.strip() for option in options)


def truth_letter(truth: Any, options: Sequence[str], where: str) -> str:
    """Return the letter of the right option, given it or the option's words.

    Raises:
        DataError: neither.
    """
    letters = CHOICE_LETTERS[: len(options)]
    said = truth.strip() if isinstance(truth, str) else truth
    if isinstance(said, str) and len(said) == 1 and said.upper() in letters:
        return said.upper()
    if said in options:
        return letters[list(options).index(said)]
    problem = f"ground truth {truth!r}: neither a letter of {letters} nor an option"
    raise DataError(f"{where}: {problem}", "download it again")


def letter_of(data: Mapping[str, Any], column: str, letters: str, where: str) -> str:
    """Return the right letter of a record, one of `letters`; DataError for anything else."""
    value = data[column]
    if not isinstance(value, str) or len(value) != 1 or value not in letters:
        raise DataError(f"{where}: {column}={short_json(value)}: must be a letter of {letters}", "download it again")
    return value


def number_text(value: Any, where: str) -> str:
    """Return a true number as text; DataError for what is none."""
    text = str(value).strip()
    if isinstance(value, bool) or NUMBER.fullmatch(text) is None:
        raise DataError(f"{where}: ground truth {value!r}: must be a number", "download it again")
    return text


def number_kind(text: str) -> str:
    """Return the answer kind of a true number: "number", or "text" for 0 and less, which no ratio can be made of."""
    return "text" if number_of(text) is None else "number"
