"""Row schema v1: one question of one video as one JSON line, checked strictly when read and when written.

A row file lies beside its `videos/` folder; media paths are relative to the row file's folder and stay below it. Nested
values (media, objects, generator, extra) stay plain JSON. Every problem is a DataError saying `file:line: field=value:
rule`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from vsgrpo.data.json_files import read_jsonl
from vsgrpo.errors import DataError
from vsgrpo.files import inside, path_fault, write_atomic
from vsgrpo.spatial.scoring import CHOICE_TYPES, NUMBER_TYPES

if TYPE_CHECKING:
    from vsgrpo.spatial.questions import Question

SCHEMA_VERSION = 1
ANSWER_KINDS = ("number", "choice", "text")
MEDIA_KINDS = ("video", "image")
LETTERS = "ABCD"
_REQUIRED_TEXT = ("id", "dataset", "split", "scene_name", "room", "question_type", "question", "ground_truth", "answer")
_OPTIONAL_TEXT = ("unit", "rejected", "reasoning")
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)
_SMALLEST, _LARGEST = 1e-100, 1e100
"""Between these, ratios and squares of numbers stay finite."""
_MAX_DEPTH = 50
"""Levels of lists and objects inside `generator` and `extra`."""


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
        """Return (kind, path) of each video and image, in the order they are shown; `base` holds the row file.

        Raises:
            DataError: a path that leads out of `base` by a link.
        """
        return tuple((item["kind"], _place(base, item["path"])) for item in self.media)

    def video_path(self, base: Path) -> Path:
        """Return the first video of the row; `base` is the folder that holds the row file."""
        for item in self.media:
            if item["kind"] == "video":
                return _place(base, item["path"])
        raise DataError(
            f"row {self.key}: media={list(self.media)!r}: no video", "give the row a media entry of kind video"
        )


FIELD_NAMES = tuple(field.name for field in fields(Row))
_FIELDS = frozenset(FIELD_NAMES)
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)  # one for all rows: json.dumps would make one per row


def _place(base: Path, path: str) -> Path:
    # `..` is in no row file (`check_row`): only rows that `mix.rebase` moved from one folder to another have it.
    return Path(base) / path if path.startswith("../") else inside(base, path)


def number_of(text: str) -> float | None:
    """Return the number that a label is, None where it is none that an answer can be.

    Plain digits only, above 0 and within 1e-100 .. 1e100: "1_0", Arabic digits, "1e-320", "nan" and " 3" are none.
    """
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    return value if _SMALLEST <= value <= _LARGEST else None


def row_id(dataset: str, scene_name: str, question_type: str, question: str) -> str:
    """Return the stable 16-digit id of a question: blake2b of its dataset, scene, type and text."""
    text = "\x1f".join((dataset, scene_name, question_type, question))
    return blake2b(
        text.encode(errors="surrogatepass"), digest_size=8
    ).hexdigest()  # `check_row` refuses the text itself


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
    if data.keys() != _FIELDS:
        missing = [name for name in FIELD_NAMES if name not in data]
        if missing:
            _fail(where, f"{missing[0]} is missing", f"a row has the fields {', '.join(FIELD_NAMES)}")
        unknown = [name for name in data if name not in FIELD_NAMES]
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
        if not value.isascii():
            _check_characters(name, value, where)
    for name in _OPTIONAL_TEXT:
        value = getattr(row, name)
        if value is not None and (not isinstance(value, str) or not value.strip()):
            _fail(where, f"{name}={_short(value)}: must be null or a non-empty string")
        if value is not None and not value.isascii():
            _check_characters(name, value, where)
    for name in ("generator", "extra"):
        if not isinstance(getattr(row, name), dict):
            _fail(where, f"{name}={_short(getattr(row, name))}: must be an object")
        if (fault := _json_fault(getattr(row, name))) is not None:
            _fail(where, f"{name}: {fault}", "keep plain JSON values there")
    _check_answer(row, where)
    _check_media(row, where)
    for item in row.objects:
        if not isinstance(item, dict) or set(item) != {"category", "instance_id"}:
            _fail(where, f"objects={_short(item)}: each is {{category, instance_id}}")
        if not isinstance(item["category"], str) or type(item["instance_id"]) is not int:
            _fail(where, f"objects={_short(item)}: category is a string, instance_id an integer")
        _check_characters("objects", item["category"], where)
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
        for option in row.options:
            if not option.isascii():
                _check_characters("options", option, where)
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
    if number_of(text) is None:
        rule = (
            f"must be a number in plain digits, above 0 (relative errors divide by it), {_SMALLEST:g} to {_LARGEST:g}"
        )
        _fail(where, f"{name}={_short(text)}: {rule}")


def _check_characters(name: str, text: str, where: str) -> None:
    """Refuse half a character, which no file of ours can hold."""
    if (fault := _json_fault(text)) is not None:
        _fail(where, f"{name}={_short(text)}: {fault}", "an emoji was cut in two, write the text again")


def _is_plain(value: Any) -> bool:
    return value is None or type(value) is int or type(value) is bool or (type(value) is str and value.isascii())


def _json_fault(value: Any) -> str | None:
    """Return why a value cannot be written as JSON in UTF-8, or None where it can."""
    left = [(value, 0)]
    if isinstance(value, dict) and all(k.isascii() and _is_plain(v) for k, v in value.items() if isinstance(k, str)):
        left = [] if all(isinstance(key, str) for key in value) else left  # the common case, in one look
    while left:
        item, depth = left.pop()
        if isinstance(item, str):
            try:
                item.isascii() or item.encode()
            except UnicodeEncodeError:
                return "holds half a character (a lone surrogate)"
        elif isinstance(item, dict | list | tuple):
            if depth == _MAX_DEPTH:
                return f"is nested more than {_MAX_DEPTH} levels deep"
            if isinstance(item, dict):
                if not all(isinstance(key, str) for key in item):
                    return "has a key that is no string"
                left += [(key, depth) for key in item]
            left += [(inner, depth + 1) for inner in (item.values() if isinstance(item, dict) else item)]
        elif isinstance(item, float):
            if not math.isfinite(item):
                return f"{item} is no JSON number"
        elif item is not None and not isinstance(item, int):
            return f"holds a {type(item).__name__}"
    return None


def _check_media(row: Row, where: str) -> None:
    if not row.media:
        _fail(where, "media=[]: a row needs at least one video or image")
    for item in row.media:
        if not isinstance(item, dict) or set(item) != {"kind", "path"} or item["kind"] not in MEDIA_KINDS:
            _fail(where, f"media={_short(item)}: each is {{kind: video|image, path}}")
        path = item["path"]
        if not isinstance(path, str) or not path.strip():
            _fail(where, f"media.path={_short(path)}: must be a non-empty string")
        if (fault := path_fault(path)) is not None:
            hint = "put the video or image beside the row file, or link it there"
            _fail(where, f"media.path={_short(path)}: {fault}; it must be relative to the row file and below it", hint)


def check_scorable(row: Row, where: str) -> None:
    """Raise DataError unless VSI-Bench's scorer can score the row: one of its types, with the answer of that type."""
    kind = "choice" if row.question_type in CHOICE_TYPES else "number"
    if row.question_type not in (*CHOICE_TYPES, *NUMBER_TYPES):
        hint = f"the types are {', '.join((*CHOICE_TYPES, *NUMBER_TYPES))}"
        _fail(where, f"question_type={_short(row.question_type)}: unknown question type", hint)
    if row.answer_kind != kind:
        _fail(where, f"answer_kind={_short(row.answer_kind)}: {row.question_type} asks for a {kind}")
    if kind == "number":
        _check_number("ground_truth", row.ground_truth, where)


def read_rows(path: Path | str) -> list[Row]:
    """Read a row file; every line is checked, ids are unique within a dataset.

    Raises:
        DataError: the file is missing or a line breaks the schema; the message names file and line.
    """
    return list(iter_rows(path))


def iter_rows(path: Path | str) -> Iterator[Row]:
    """Yield the rows of a file one at a time; checks and errors are those of `read_rows`."""
    path = Path(path)
    first_line: dict[bytes, int] = {}
    for number, data in read_jsonl(path):
        row = row_from_dict(data, f"{path}:{number}")
        line = first_line.setdefault(blake2b(row.key.encode(), digest_size=8).digest(), number)
        if line != number:
            _fail(f"{path}:{number}", f"id={row.id}: already used in line {line}", "ids must be unique")
        yield row


def write_rows(path: Path | str, rows: Iterable[Row]) -> int:
    """Check and write rows, complete or not at all (temporary name, then rename); return how many."""
    path = Path(path)
    lines = [row_line(row, f"{path}:{number}") for number, row in enumerate(rows, start=1)]
    write_atomic(path, "".join(lines))
    return len(lines)


def row_line(row: Row, where: str) -> str:
    """Check a row and return its line of a row file; DataError where it breaks the schema."""
    check_row(row, where)
    return checked_line(row)


def checked_line(row: Row) -> str:
    """Return the line of a row that has been checked."""
    return _ENCODER.encode(row_to_dict(row)) + "\n"


def _short(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, default=str).encode(errors="replace").decode()
    except (RecursionError, TypeError, ValueError):
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def _fail(where: str, problem: str, hint: str = "") -> NoReturn:
    raise DataError(f"{where}: {problem}", hint or "compare with the row schema in data/README.md")
