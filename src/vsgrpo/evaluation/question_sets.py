"""Questions about images or videos with one right answer: MathVista's testmini, or any jsonl of one's own.

A line of one's own is a row of schema v1, or {"question" (or "problem"), "answer", and what is shown: "image",
"images", "video" or "videos" (paths relative to the file)}, with optional "id", "options", "question_type" and
"answer_kind". With options the answer is one of them, or its letter.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, NoReturn

from vsgrpo.data.json_files import read_jsonl
from vsgrpo.data.leakage import name_some
from vsgrpo.data.manifest import file_record
from vsgrpo.data.prompts import TRAIN_SENTENCES, question_text
from vsgrpo.data.row import LETTERS, SCHEMA_VERSION, Row, row_id
from vsgrpo.data.row_rules import check_row
from vsgrpo.data.rows import row_from_dict
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.evaluation.mathvista_rows import Problem, find_file, read_images, read_problems
from vsgrpo.evaluation.predictions import Media
from vsgrpo.evaluation.score import PromptSettings

NO_IMAGE_TOKEN = re.compile(r"\s*<(?:image|video)>\s*")
_FIELDS = ("id", "question", "problem", "answer", "image", "images", "video", "videos", "options")
_FIELDS += ("question_type", "answer_kind")


@dataclass(frozen=True)
class QuestionSet:
    """What is asked.

    Attributes:
        name: mathvista or folder.
        file: the row file.
        sha256: of the row file.
        rows: after the filters, in file order; ids are unique.
        num_rows: rows in the file, before any filter.
        base: what media paths are relative to, where a row's image does not lie in `unpacked`.
        text_of: the text of a row's user turn.
        problems: pid -> MathVista's question; empty for others.
        unpacked: row id -> the image that came out of the file itself.
    """

    name: str
    file: Path
    sha256: str
    rows: tuple[Row, ...]
    num_rows: int
    base: Path
    text_of: Callable[[Row], str]
    problems: Mapping[str, Problem] = field(default_factory=dict)
    unpacked: Mapping[str, Path] = field(default_factory=dict)

    def media(self, row: Row) -> Media:
        """Return what a row shows."""
        if row.id in self.unpacked:
            return (("image", self.unpacked[row.id]),)
        return row.media_paths(self.base)

    def with_media(self, skip_missing: bool) -> QuestionSet:
        """Return the set without rows that show a missing file.

        Raises:
            DataError: files are missing and may not be skipped, or no row is left.
        """
        missing = sorted({str(path) for row in self.rows for _, path in self.media(row) if not path.is_file()})
        if not missing:
            return self
        named = name_some(missing)
        hint = "put them there, or score the rest with --skip-missing"
        if not skip_missing:
            raise DataError(f"{self.file}: {len(missing)} image(s) or video(s) missing: {named}", hint)
        gone = set(missing)
        rows = tuple(row for row in self.rows if not any(str(path) in gone for _, path in self.media(row)))
        if not rows:
            raise DataError(f"{self.file}: every image or video is missing: {named}", "put them there")
        return replace(self, rows=rows)


def read_mathvista(
    path: Path | str, prompt: PromptSettings, tasks: Sequence[str] | None, limit: int | None, unpack_to: Path
) -> QuestionSet:
    """Read MathVista's testmini as downloaded: the parquet with its pictures, or json beside an images folder.

    Args:
        tasks: keep the questions of these tasks (metadata.task).
        unpack_to: where pictures that came inside the file are written.

    Raises:
        DataError: as `read_problems`; a picture that is no image.
        ConfigError: no question of these tasks.
    """
    file = find_file(Path(path))
    problems = read_problems(file)
    kept = [problem for problem in problems if tasks is None or set(tasks) & set(problem.groups["task"])]
    if not kept:
        known = sorted({task for problem in problems for task in problem.groups["task"]})
        raise ConfigError(f"benchmark.tasks={list(tasks or [])}: no such task", hint=f"there are: {', '.join(known)}")
    rows = _limited([_mathvista_row(problem) for problem in kept], limit)
    found = read_images(file, {row.id for row in rows}, unpack_to)
    base = next((folder for folder in (file.parent, file.parent.parent) if (folder / "images").is_dir()), file.parent)
    return QuestionSet(
        name="mathvista",
        file=file,
        sha256=file_record(file)["sha256"],
        rows=tuple(rows),
        num_rows=len(problems),
        base=base,
        text_of=lambda row: mathvista_text(row.question, prompt),
        problems={problem.pid: problem for problem in kept},
        unpacked=found,
    )


def mathvista_text(query: str, prompt: PromptSettings) -> str:
    """Return the official query (hint, question, choices); in tagged modes followed by the training sentence."""
    if prompt.mode == "vanilla":
        return query
    return f"{query}\n{TRAIN_SENTENCES[prompt.mode].replace('the video', 'the image')}"


def _mathvista_row(problem: Problem) -> Row:
    # A test row never meets a trainer, so its path may lie anywhere below the file.
    return _text_row("mathvista", problem.pid, problem.query, problem.answer, (problem.image or f"{problem.pid}.jpg",))


def read_folder(
    path: Path | str, split: str, prompt: PromptSettings, tasks: Sequence[str] | None, limit: int | None
) -> QuestionSet:
    """Read questions of one's own, see the module's docstring.

    Raises:
        DataError: no such file, no question, a broken line (file:line) or an id used twice.
        ConfigError: no question of the types asked for.
    """
    file = Path(path) / f"{split}.jsonl" if Path(path).is_dir() else Path(path)
    if file.suffix != ".jsonl" or not file.is_file():
        raise DataError(f"benchmark.path={path}: no {split}.jsonl, or no .jsonl file", "give the questions: FILE.jsonl")
    rows = list(iter_questions(file))
    if not rows:
        raise DataError(f"{file}: no question in it", "one object a line: question, answer, image")
    kept = [row for row in rows if tasks is None or row.question_type in tasks]
    if not kept:
        known = ", ".join(sorted({row.question_type for row in rows}))
        raise ConfigError(f"benchmark.tasks={list(tasks or [])}: no such question_type", hint=f"there are: {known}")
    return QuestionSet(
        name="folder",
        file=file,
        sha256=file_record(file)["sha256"],
        rows=tuple(_limited(kept, limit)),
        num_rows=len(rows),
        base=file.parent,
        text_of=lambda row: question_text(row, prompt.mode, prompt.wording, prompt.show_options),
    )


def iter_questions(file: Path) -> Iterator[Row]:
    """Yield the questions of a file of one's own one at a time.

    Raises:
        DataError: as `read_folder`.
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


def _limited(rows: list[Row], limit: int | None) -> list[Row]:
    """Return `limit` rows in file order, chosen by a hash of their ids: the same ones at every call."""
    if limit is None or limit >= len(rows):
        return rows
    chosen = sorted(rows, key=lambda row: blake2b(row.key.encode(), digest_size=8).digest())[:limit]
    kept = {row.id for row in chosen}
    return [row for row in rows if row.id in kept]


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
    options = data.get("options")
    text = NO_IMAGE_TOKEN.sub(" ", str(question)).strip()
    row = _text_row(dataset, str(data.get("id", "")), text, str(answer).strip(), ())
    row = replace(
        row,
        id=row.id or row_id(dataset, str(media), str(data.get("question_type", "")), text),
        question_type=str(data.get("question_type") or "question"),
        answer_kind=data.get("answer_kind", "choice" if options is not None else "text"),
        media=tuple(media),
        extra={name: value for name, value in data.items() if name not in _FIELDS},
    )
    if options is not None:
        row = _with_options(row, options, where)
    row = replace(row, scene_name=row.id, room=row.id)
    check_row(row, where)
    return row


def _with_options(row: Row, options: Any, where: str) -> Row:
    if not isinstance(options, list) or not options:
        _fail(where, f"options={options!r}: must be a list")
    words = tuple(re.sub(r"^\(?[A-D][.):]\s+", "", str(option)).strip() for option in options)
    letters = LETTERS[: len(words)]
    right = row.answer if row.answer in words else words[letters.index(row.answer)] if row.answer in letters else None
    if right is None:
        _fail(where, f"answer={row.answer!r}: neither one of the options {list(words)} nor its letter")
    truth = letters[words.index(right)] if words.index(right) < len(letters) else ""
    return replace(row, options=words, answer=right, ground_truth=truth)


def _text_row(dataset: str, name: str, question: str, answer: str, images: Sequence[str]) -> Row:
    return Row(
        schema_version=SCHEMA_VERSION,
        id=name,
        dataset=dataset,
        split="test",
        scene_name=name,
        room=name,
        question_type=dataset,
        question=question,
        options=None,
        ground_truth=answer,
        answer=answer,
        answer_kind="text",
        unit=None,
        media=tuple({"kind": "image", "path": os.path.normpath(path)} for path in images),
        rejected=None,
        reasoning=None,
        objects=(),
        generator={},
        extra={},
    )


def _fail(where: str, problem: str, hint: str = "") -> NoReturn:
    raise DataError(f"{where}: {problem}", hint or 'questions are {"question", "answer", "image" or "video"}')
