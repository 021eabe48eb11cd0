"""Questions about images or videos with one right answer each: any jsonl of one's own.

A line is a row of schema v1, or {"question" (or "problem"), "answer", and what is shown: "image", "images", "video" or
"videos" (paths relative to the file)}, with optional "id", "options", "question_type" and "answer_kind". With options
the answer is one of them, or its letter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from vsgrpo.data.row import LETTERS, Row, check_row
from vsgrpo.data.rows import row_from_dict, row_id
from vsgrpo.errors import DataError
from vsgrpo.evaluation.benchmark import Benchmark
from vsgrpo.evaluation.row_files import question_row
from vsgrpo.records import read_jsonl
from vsgrpo.rewards import is_right
from vsgrpo.spatial.answers import parse_answer
from vsgrpo.spatial.question_types import tolerance_of

NO_IMAGE_TOKEN = re.compile(r"\s*<(?:image|video)>\s*")
_FIELDS = ("id", "question", "problem", "answer", "image", "images", "video", "videos", "options")
_FIELDS += ("question_type", "answer_kind")


class Folder(Benchmark):
    """Questions of one's own, right or wrong: words, option letters, maths by value, numbers within 5 %."""

    @classmethod
    def read_rows(cls, file: Path) -> Iterator[Row]:
        """Yield the questions of a file, see the module's docstring."""
        return iter_questions(file)

    def score(self, row: Row, answer: str) -> bool:
        """Return whether an answer is right, see `rewards.is_right`."""
        letter = row.ground_truth if row.answer_kind == "choice" and self.prompt.show_options else None
        parsed, tolerance = parse_answer(answer), tolerance_of(row.question_type)
        return is_right(parsed, row.answer, row.answer_kind, letter, tolerance)


def iter_questions(file: Path) -> Iterator[Row]:
    """Yield the questions of a file of one's own one at a time.

    Raises:
        DataError: a broken line (file:line) or an id used twice.
    """
    first_use: dict[str, int] = {}
    for number, data in read_jsonl(file):
        where = f"{file}:{number}"
        ours = isinstance(data, dict) and "schema_version" in data
        row = row_from_dict(data, where) if ours else _own_row(data, where, file.parent.name or "folder")
        if row.id in first_use:
            _fail(where, f"id={row.id}: already used in line {first_use[row.id]}", "ids must be unique")
        first_use[row.id] = number
        yield row


def _own_row(data: Any, where: str, dataset: str) -> Row:
    if not isinstance(data, dict):
        _fail(where, "a question is an object")
    question, answer = data.get("question", data.get("problem")), data.get("answer")
    for name, value in (("question", question), ("answer", answer)):
        if not isinstance(value, (str, int, float)) or isinstance(value, bool) or not str(value).strip():
            _fail(where, f"{name}={value!r}: must be a non-empty string")
    media = []
    for kind in ("image", "video"):
        for name in (kind, f"{kind}s"):
            value = data.get(name)
            paths = value if isinstance(value, list) else [] if value is None else [value]
            if not all(isinstance(path, str) and path.strip() for path in paths):
                _fail(where, f"{name}={value!r}: must be a path, or a list of them")
            media += [{"kind": kind, "path": path} for path in paths]
    text, answer = NO_IMAGE_TOKEN.sub(" ", str(question)).strip(), str(answer).strip()
    options = None
    if data.get("options") is not None:
        options, answer = _options(data["options"], answer, where)
    row = question_row(
        str(data.get("id", "")) or row_id(dataset, str(media), str(data.get("question_type", "")), text),
        text,
        answer,
        [(item["kind"], item["path"]) for item in media],
        dataset=dataset,
        question_type=str(data.get("question_type") or "question"),
        options=options,
        answer_kind=data.get("answer_kind", "text" if options is None else "choice"),
        extra={name: value for name, value in data.items() if name not in _FIELDS},
    )
    check_row(row, where)
    return row


def _options(options: Any, answer: str, where: str) -> tuple[tuple[str, ...], str]:
    """Return the options without letters, and which of them is the answer."""
    if not isinstance(options, list) or not options:
        _fail(where, f"options={options!r}: must be a list")
    given, letters = tuple(str(option).strip() for option in options), LETTERS[: len(options)]
    marked = [
        re.fullmatch(rf"\(?{k}[.):]\s+(.+)", option, re.DOTALL) for k, option in zip(LETTERS, given, strict=False)
    ]
    has_letters = len(marked) == len(given) and all(marked)  # "E. coli" among others is a word
    words = tuple(found[1] for found in marked if found) if has_letters else given
    if has_letters and answer in given:
        return words, words[given.index(answer)]
    if answer not in words and answer not in letters:
        _fail(where, f"answer={answer!r}: neither one of the options {list(words)} nor its letter")
    if answer in words and answer in letters and words.index(answer) != letters.index(answer):
        problem = f"answer={answer!r}: the letter of one option and the words of another"
        _fail(where, problem, 'write the options with their letters ("A. C") and the answer as one of them')
    return words, answer if answer in words else words[letters.index(answer)]


def _fail(where: str, problem: str, hint: str = "") -> NoReturn:
    raise DataError(f"{where}: {problem}", hint or 'questions are {"question", "answer", "image" or "video"}')
