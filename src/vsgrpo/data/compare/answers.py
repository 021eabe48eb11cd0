"""Answers of a dataset, whatever its form, by scene and question; and when two of them are equal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vsgrpo.data.audit_rows import any_row
from vsgrpo.data.importing.answer_values import Refused
from vsgrpo.data.manifest import MANIFEST_NAME
from vsgrpo.data.row import Row, number_of
from vsgrpo.errors import DataError
from vsgrpo.records import read_records
from vsgrpo.spatial.answers import normalize_word
from vsgrpo.spatial.question_types import question_key
from vsgrpo.spatial.released import measure_of
from vsgrpo.terminal import counted

_SUFFIXES = (".jsonl", ".json", ".parquet")
_NO_ROWS = (MANIFEST_NAME, "dataset_info.json", "config.json", "info.json")
Key = tuple[str, ...]
"""Scene, question type, and what the question names."""


@dataclass(frozen=True)
class Said:
    """One answer.

    Attributes:
        number: its value, None of words.
        where: file and line.
    """

    key: Key
    question: str
    answer: str
    number: float | None
    unit: str | None
    where: str

    @property
    def scene(self) -> str:
        """The scene that is asked about."""
        return self.key[0]

    @property
    def question_type(self) -> str:
        """Name of the type."""
        return self.key[1]

    @property
    def decimals(self) -> int:
        """Digits behind the point, as the number is written."""
        return len(self.answer.partition(".")[2]) if self.number is not None else 0

    @property
    def measure(self) -> str:
        """How its sentence says to measure."""
        return measure_of(self.question)


@dataclass
class Answers:
    """The answers of a dataset.

    Attributes:
        said: key -> answer; of equal ones that come twice the first.
        left_out: reason -> rows.
        repeated: rows that ask again and say the same.
    """

    path: Path
    said: dict[Key, Said] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    repeated: int = 0

    @property
    def scenes(self) -> set[str]:
        """The scenes asked about."""
        return {key[0] for key in self.said}

    def notes(self) -> list[str]:
        """Return what was not compared, as sentences."""
        found = [
            f"{self.path}: {counted(number, 'row')} left out: {reason}"
            for reason, number in self.left_out.most_common()
        ]
        if self.repeated:
            found.append(
                f"{self.path}: {counted(self.repeated, 'row repeats', 'rows repeat')} a question and its answer: "
                "counted once"
            )
        return found


def read_answers(path: Path) -> Answers:
    """Read a dataset folder, an export, a folder of row files (such as the six of VSI-100k), or one file.

    A question that is asked again with another answer is left out, with both answers.

    Raises:
        DataError: no such file, none in the folder, a broken line, or no row that can be read.
    """
    answers, contradicted = Answers(path), set[Key]()
    for said in _all_said(path, answers):
        first = answers.said.setdefault(said.key, said)
        if first is said:
            continue
        if is_equal(first, said, max(first.decimals, said.decimals)):
            answers.repeated += 1
        else:
            contradicted.add(said.key)
            answers.left_out["the question is asked again, with another answer"] += 1
    for key in contradicted:
        del answers.said[key]
        answers.left_out["the question is asked again, with another answer"] += 1
    if not answers.said:
        reasons = "; ".join(f"{counted(number, 'row')}: {reason}" for reason, number in answers.left_out.most_common())
        hint = "a row has a scene, a question and an answer: see data/README.md"
        raise DataError(f"{path}: no row can be compared ({reasons or 'it is empty'})", hint)
    return answers


def _all_said(path: Path, answers: Answers) -> Iterator[Said]:
    for file in _row_files(path):
        for where, data in read_records(file, nan="null"):
            try:
                yield said_of(any_row(data, where), where)
            except Refused as error:
                answers.left_out[error.reason] += 1


def said_of(row: Row, where: str) -> Said:
    """Return the answer of a row."""
    number = number_of(row.answer, row.question_type) if row.answer_kind == "number" else None
    key = (row.scene_name, *question_key(row.question_type, row.question))
    return Said(key, row.question, row.answer, number, row.unit, where)


def _row_files(path: Path) -> list[Path]:
    if not path.is_dir():
        if not path.exists():
            raise DataError(f"{path}: no such folder or file", "give a dataset folder, an export, or a file of rows")
        return [path]
    found = [file for file in sorted(path.iterdir()) if file.suffix in _SUFFIXES and file.is_file()]
    found = [file for file in found if file.name not in _NO_ROWS and not file.stem.endswith("_pairs")]
    if not found:
        raise DataError(f"{path}: no .json, .jsonl or .parquet file with rows in it", "give the folder that holds them")
    return found


def is_equal(first: Said, second: Said, decimals: int) -> bool:
    """Tell whether two answers are the same: words as words are compared, numbers rounded to so many decimals."""
    if first.number is None or second.number is None:
        return normalize_word(first.answer) == normalize_word(second.answer)
    return is_equal_number(first.number, second.number, decimals)


def is_equal_number(first: float, second: float, decimals: int) -> bool:
    """Tell whether two numbers may be one, rounded to so many decimals by one side."""
    return abs(first - second) <= 0.5 * 10.0**-decimals * (1 + 1e-9)


def relative_difference(first: float, second: float) -> float:
    """Return |first - second| / the larger of the two: the same from both sides, 0 of two zeros."""
    largest = max(abs(first), abs(second))
    return abs(first - second) / largest if largest else 0.0


def decimals_of(said: Iterable[Said]) -> int:
    """Return the most decimals that numbers of a side are written with: trailing zeros may be left out of some."""
    return max((item.decimals for item in said), default=0)
