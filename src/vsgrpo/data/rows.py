"""Row schema v1: one question of one video as one JSON line, checked strictly when read and when written.

A row file lies beside its `videos/` folder; media paths are relative to the row file's folder. Nested values
(media, objects, generator, extra) stay plain JSON. Every problem is a DataError saying `file:line: field=value: rule`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn

from vsgrpo.errors import DataError
from vsgrpo.files import write_atomic

if TYPE_CHECKING:
    from vsgrpo.spatial.questions import Question

SCHEMA_VERSION = 1
ANSWER_KINDS = ("number", "choice", "text")
MEDIA_KINDS = ("video", "image")
LETTERS = "ABCD"
_REQUIRED_TEXT = ("id", "dataset", "split", "scene_name", "room", "question_type", "question", "ground_truth", "answer")
_OPTIONAL_TEXT = ("unit", "rejected", "reasoning")


@dataclass(frozen=True)
class Row:
    """One question; field by field the row schema of design.md section 3.

    Attributes:
        schema_version: always `SCHEMA_VERSION`.
        id: stable within a dataset (`row_id`); sampling is keyed by `key`, that is dataset/id.
        room: grouping key for splits and leak checks ("scene0000" of "scene0000_00").
        question_type: a VSI-Bench name.
        options: the 2-4 candidates of a choice question without "A. " prefix, in shown order; None otherwise.
        ground_truth: option letter (choice), or number text.
        answer: what the model is trained to say: word or number text.
        answer_kind: number | choice | text.
        unit: "m", "m2", "cm" or None.
        media: {"kind": "video" | "image", "path": relative to the row file}.
        rejected: a wrong answer for DPO, or None.
        reasoning: text to be thought before the answer (think and observe SFT), or None.
        objects: {"category", "instance_id"} of the objects asked about.
        generator: what made the row (version, mode, distance, size_box).
        extra: anything else.
    """

    schema_version: int
    id: str
    dataset: str
    split: str
    scene_name: str
    room: str
    question_type: str
    question: str
    options: tuple[str, ...] | None
    ground_truth: str
    answer: str
    answer_kind: str
    unit: str | None
    media: tuple[dict[str, str], ...]
    rejected: str | None
    reasoning: str | None
    objects: tuple[dict[str, Any], ...]
    generator: dict[str, Any]
    extra: dict[str, Any]

    @property
    def key(self) -> str:
        """The name that sampling noise and predictions are keyed by: dataset/id."""
        return f"{self.dataset}/{self.id}"

    def media_paths(self, base: Path) -> tuple[tuple[str, Path], ...]:
        """Return (kind, path) of each video and image, in the order they are shown; `base` holds the row file."""
        return tuple((item["kind"], Path(base) / item["path"]) for item in self.media)

    def video_path(self, base: Path) -> Path:
        """Return the first video of the row; `base` is the folder that holds the row file."""
        for item in self.media:
            if item["kind"] == "video":
                return Path(base) / item["path"]
        raise DataError(
            f"row {self.key}: media={list(self.media)!r}: no video", "give the row a media entry of kind video"
        )


FIELD_NAMES = tuple(field.name for field in fields(Row))


def row_id(dataset: str, scene_name: str, question_type: str, question: str) -> str:
    """Return the stable 16-digit id of a question: blake2b of its dataset, scene, type and text."""
    text = "\x1f".join((dataset, scene_name, question_type, question))
    return blake2b(text.encode(), digest_size=8).hexdigest()


def make_row(
    question: Question,
    *,
    dataset: str,
    split: str,
    scene_name: str,
    room: str,
    video: str,
    generator: Mapping[str, Any],
    rejected: str | None = None,
    reasoning: str | None = None,
) -> Row:
    """Turn a generated question into a checked row; `video` is the mp4's path relative to the row file."""
    row = Row(
        schema_version=SCHEMA_VERSION,
        id=row_id(dataset, scene_name, question.question_type, question.question),
        dataset=dataset,
        split=split,
        scene_name=scene_name,
        room=room,
        question_type=question.question_type,
        question=question.question,
        options=None if question.options is None else tuple(question.options),
        ground_truth=question.ground_truth,
        answer=question.answer,
        answer_kind=question.answer_kind,
        unit=question.unit,
        media=({"kind": "video", "path": video},),
        rejected=rejected,
        reasoning=reasoning,
        objects=tuple({"category": o.category, "instance_id": int(o.instance_id)} for o in question.objects),
        generator=dict(generator),
        extra=dict(question.extra),
    )
    check_row(row, f"{dataset}/{scene_name}")
    return row


def row_to_dict(row: Row) -> dict[str, Any]:
    """Return the JSON object of a row, fields in schema order."""
    data = {name: getattr(row, name) for name in FIELD_NAMES}
    for name in ("options", "media", "objects"):
        data[name] = None if data[name] is None else list(data[name])
    return data


def row_from_dict(data: Any, where: str = "row") -> Row:
    """Check a JSON object and return its Row; `where` (file:line) leads every error message."""
    if not isinstance(data, dict):
        _fail(where, f"{_short(data)}: a row is a JSON object")
    version = data.get("schema_version")
    if version is None:
        _fail(where, "schema_version is missing", "not a row file of ours; `vsgrpo import-data` reads other formats")
    if type(version) is not int or version != SCHEMA_VERSION:
        _fail(
            where, f"schema_version={_short(version)}: this version reads {SCHEMA_VERSION}", "update vsgrpo or rebuild"
        )
    missing = [name for name in FIELD_NAMES if name not in data]
    if missing:
        _fail(where, f"{missing[0]} is missing", f"a row has the fields {', '.join(FIELD_NAMES)}")
    unknown = [name for name in data if name not in FIELD_NAMES]
    if unknown:
        _fail(where, f"{unknown[0]}={_short(data[unknown[0]])}: unknown field", "put additional values under `extra`")
    values = dict(data)
    for name in ("options", "media", "objects"):
        if values[name] is None and name == "options":
            continue
        if not isinstance(values[name], list):
            _fail(where, f"{name}={_short(values[name])}: must be a list")
        values[name] = tuple(values[name])
    row = Row(**values)
    check_row(row, where)
    return row


def check_row(row: Row, where: str) -> None:
    """Raise DataError unless every field of the row has the type and the meaning the schema gives it."""
    if row.schema_version != SCHEMA_VERSION:
        _fail(where, f"schema_version={_short(row.schema_version)}: this version writes {SCHEMA_VERSION}")
    for name in _REQUIRED_TEXT:
        value = getattr(row, name)
        if not isinstance(value, str) or not value.strip():
            _fail(where, f"{name}={_short(value)}: must be a non-empty string")
    for name in _OPTIONAL_TEXT:
        value = getattr(row, name)
        if value is not None and (not isinstance(value, str) or not value.strip()):
            _fail(where, f"{name}={_short(value)}: must be null or a non-empty string")
    for name in ("generator", "extra"):
        if not isinstance(getattr(row, name), dict):
            _fail(where, f"{name}={_short(getattr(row, name))}: must be an object")
    _check_answer(row, where)
    _check_media(row, where)
    for item in row.objects:
        if not isinstance(item, dict) or set(item) != {"category", "instance_id"}:
            _fail(where, f"objects={_short(item)}: each is {{category, instance_id}}")
        if not isinstance(item["category"], str) or type(item["instance_id"]) is not int:
            _fail(where, f"objects={_short(item)}: category is a string, instance_id an integer")
    if row.rejected is not None and row.rejected == row.answer:
        _fail(where, f"rejected={_short(row.rejected)}: equals the answer", "a rejected answer must be wrong, or null")


def _check_answer(row: Row, where: str) -> None:
    if row.answer_kind not in ANSWER_KINDS:
        _fail(where, f"answer_kind={_short(row.answer_kind)}: must be one of {', '.join(ANSWER_KINDS)}")
    if row.options is not None:
        if not isinstance(row.options, tuple) or not all(isinstance(o, str) and o.strip() for o in row.options):
            _fail(where, f"options={_short(row.options)}: must be null or a list of non-empty strings")
        if not 2 <= len(row.options) <= len(LETTERS):
            _fail(where, f"options={_short(list(row.options))}: must hold 2 to {len(LETTERS)} candidates")
        if len(set(row.options)) != len(row.options):
            _fail(where, f"options={_short(list(row.options))}: candidates must differ")
    if row.answer_kind == "number":
        for name in ("ground_truth", "answer"):
            _check_number(name, getattr(row, name), where)
    if row.answer_kind == "choice":
        if row.options is None:
            _fail(where, "options=null: a choice question needs its candidates")
        letters = LETTERS[: len(row.options)]
        if len(row.ground_truth) != 1 or row.ground_truth not in letters:
            _fail(where, f"ground_truth={_short(row.ground_truth)}: must be a letter of {letters}")
        right = row.options[letters.index(row.ground_truth)]
        if row.answer != right:
            _fail(where, f"answer={_short(row.answer)}: ground_truth {row.ground_truth} is {_short(right)}")


def _check_number(name: str, text: str, where: str) -> None:
    try:
        value = float(text)
    except ValueError:
        _fail(where, f"{name}={_short(text)}: must be a number in a number question")
    if not math.isfinite(value) or value <= 0:
        _fail(where, f"{name}={_short(text)}: must be finite and above 0 (relative errors divide by it)")


def _check_media(row: Row, where: str) -> None:
    if not row.media:
        _fail(where, "media=[]: a row needs at least one video or image")
    for item in row.media:
        if not isinstance(item, dict) or set(item) != {"kind", "path"} or item["kind"] not in MEDIA_KINDS:
            _fail(where, f"media={_short(item)}: each is {{kind: video|image, path}}")
        path = item["path"]
        if not isinstance(path, str) or not path.strip():
            _fail(where, f"media.path={_short(path)}: must be a non-empty string")
        if PurePosixPath(path).is_absolute():
            _fail(
                where,
                f"media.path={_short(path)}: must be relative to the row file",
                "move or link the video beside it",
            )


def read_rows(path: Path | str) -> list[Row]:
    """Read a row file; every line is checked, ids are unique within a dataset.

    Raises:
        DataError: the file is missing or a line breaks the schema; the message names file and line.
    """
    path = Path(path)
    rows: list[Row] = []
    first_line: dict[str, int] = {}
    for number, data in read_jsonl(path):
        row = row_from_dict(data, f"{path}:{number}")
        if row.key in first_line:
            _fail(f"{path}:{number}", f"id={row.id}: already used in line {first_line[row.key]}", "ids must be unique")
        first_line[row.key] = number
        rows.append(row)
    return rows


def read_jsonl(path: Path) -> Iterable[tuple[int, Any]]:
    """Yield (line number, value) of every non-empty line; DataError names file and line of a broken one."""
    if not path.is_file():
        raise DataError(f"{path}: no such file", "check the path; a dataset folder holds train.jsonl and dev.jsonl")
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                yield number, _DECODER.decode(line.decode())
            except (ValueError, UnicodeDecodeError) as error:
                _fail(f"{path}:{number}", f"not JSON ({error})", "the file may be cut off; write it again")


def write_rows(path: Path | str, rows: Iterable[Row]) -> int:
    """Check and write rows, complete or not at all (temporary name, then rename); return how many."""
    path = Path(path)
    lines = []
    for number, row in enumerate(rows, start=1):
        check_row(row, f"{path}:{number}")
        lines.append(json.dumps(row_to_dict(row), ensure_ascii=False, allow_nan=False) + "\n")
    write_atomic(path, "".join(lines))
    return len(lines)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not allowed")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)  # one for all lines: json.loads would make one per line


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def _fail(where: str, problem: str, hint: str = "") -> NoReturn:
    raise DataError(f"{where}: {problem}", hint or "compare with the row schema in data/README.md")
