"""Row files: one row as one JSON line, checked strictly when read and when written; the dev split.

A row file is beside its `videos/` folder; media paths are relative to the row file's folder and stay below it. Nested
values (media, objects, generator, extra) stay plain JSON. Every problem is a DataError: `file:line: field=value: rule`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import blake2b
from pathlib import Path
from sys import intern
from typing import Any

from vsgrpo.data.json_values import short_json
from vsgrpo.data.row import IS_MISSING, SCHEMA_VERSION, Row, RowError, check_map, check_number, check_row, row_faults
from vsgrpo.errors import DataError
from vsgrpo.files import write_atomic
from vsgrpo.paths import inside
from vsgrpo.records import read_jsonl
from vsgrpo.spatial.question import Question
from vsgrpo.spatial.question_types import answer_kind_of, type_names
from vsgrpo.terminal import counted

FIELD_NAMES = tuple(field.name for field in fields(Row))
_FIELDS = frozenset(FIELD_NAMES)
_COMMON = ("dataset", "split", "scene_name", "room", "question_type", "answer_kind", "unit")
"""Fields whose texts many rows share: each is in memory once."""
_LISTS = ("options", "media", "objects")
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)  # one for all rows: json.dumps would make one per row


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
        answer_kind=question.type.answer_kind,
        unit=question.type.unit,
        media=({"kind": "video", "path": video},),
        rejected=rejected,
        reasoning=reasoning,
        objects=tuple({"category": o.category, "instance_id": int(o.instance_id)} for o in question.objects),
        generator=dict(generator),
        extra=dict(question.extra),
    )
    check_row(row, f"{dataset}/{scene_name}")
    return row


def row_id(dataset: str, scene_name: str, question_type: str, question: str) -> str:
    """Return the stable 16-digit id of a question: blake2b of its dataset, scene, type and text."""
    text = "\x1f".join((dataset, scene_name, question_type, question))  # half a character is refused by `check_row`
    return blake2b(text.encode(errors="surrogatepass"), digest_size=8).hexdigest()


def row_to_dict(row: Row) -> dict[str, Any]:
    """Return the JSON object of a row, fields in schema order."""
    data = {name: getattr(row, name) for name in FIELD_NAMES}
    for name in _LISTS:
        data[name] = None if data[name] is None else list(data[name])
    return data


def row_from_dict(data: Any, where: str = "row") -> Row:
    """Check a JSON object and return its Row; `where` (file:line) leads every error message."""
    row, faults, _ = _read(data, where)
    if faults:
        raise faults[0]
    check_row(row, where)
    return row


def faults_of(data: Any, where: str) -> list[RowError]:
    """Return every rule of the schema that a JSON object breaks, where `row_from_dict` raises the first."""
    try:
        row, faults, unread = _read(data, where)
    except RowError as error:
        return [error]
    return faults + row_faults(row, where, unread)


def _read(data: Any, where: str) -> tuple[Row, list[RowError], list[str]]:
    """Return the row with None for what is missing, the faults of its shape, and the fields that cannot be checked."""
    if not isinstance(data, dict):
        raise RowError(where, short_json(data), "a row is a JSON object")
    version = data.get("schema_version")
    if version is None:
        hint = "not a row file of ours; `vsgrpo import-data` reads other formats"
        raise RowError(where, "schema_version", IS_MISSING, hint)
    if type(version) is not int or version != SCHEMA_VERSION:
        rule = f"this version reads {SCHEMA_VERSION}"
        raise RowError(where, "schema_version", rule, "update vsgrpo or rebuild", value=version)
    faults: list[RowError] = []
    unread: list[str] = []
    values: dict[str, Any] = dict(data)
    if data.keys() != _FIELDS:
        unread = [name for name in FIELD_NAMES if name not in data]
        hint = f"a row has the fields {', '.join(FIELD_NAMES)}"
        faults += [RowError(where, name, IS_MISSING, hint) for name in unread]
        hint = "put additional values under `extra`"
        unknown = [name for name in data if name not in _FIELDS]
        faults += [RowError(where, str(name), "unknown field", hint, value=data[name]) for name in unknown]
        values = {name: data.get(name) for name in FIELD_NAMES}
    for name in _COMMON:
        if type(value := values[name]) is str:
            values[name] = intern(value)
    for name in _LISTS:
        if isinstance(values[name], list):
            values[name] = tuple(values[name])
        elif not (values[name] is None and name == "options") and name not in unread:
            faults.append(RowError(where, name, "must be a list", value=values[name]))
            unread.append(name)
    return Row(**values), faults, unread


def check_scorable(row: Row, where: str) -> None:
    """Raise DataError unless VSI-Bench's scorer can score the row: of a known type, with the answer of that type."""
    kind = answer_kind_of(row.question_type)
    if kind is None:
        hint = f"benchmark=folder scores rows of any type; those of VSI-Bench's scorer are {', '.join(type_names())}"
        raise RowError(where, "question_type", "unknown question type", hint, value=row.question_type)
    if row.answer_kind != kind:
        raise RowError(where, "answer_kind", f"{row.question_type} asks for a {kind}", value=row.answer_kind)
    if kind == "number":
        check_number("ground_truth", row.ground_truth, where, row.question_type)
    if kind == "map":
        check_map("ground_truth", row.ground_truth, where)


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
            raise DataError(f"{path}:{number}: id={row.id}: already used in line {line}", "ids must be unique")
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


@dataclass(frozen=True)
class DevSplit:
    """Rooms held out of train, and a sentence to print where rooms were asked for and none is."""

    dev_rooms: frozenset[str]
    note: str | None


def split_dev(rooms: Iterable[str], fraction: float) -> DevSplit:
    """Hold out about `fraction` of the rooms, each by its own hash: a room keeps its side when others come and go.

    Train is never emptied: where every room hashes into dev, the one furthest from it stays in train. With fewer than
    two rooms dev is empty.

    Raises:
        ValueError: a fraction outside [0, 1).
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"data.dev_fraction={fraction}: must be in [0, 1)")
    names = set(rooms)
    dev = {name for name in names if falls_into_dev(name, fraction)}
    if dev and dev == names:
        dev.remove(max(sorted(names), key=_place))
    if dev or not fraction:
        return DevSplit(frozenset(dev), None)
    why = f"none of {counted(len(names), 'room')} fell into dev_fraction={fraction}"
    if len(names) < 2:
        why = f"{counted(len(names), 'room')}, a dev split needs at least 2"
    return DevSplit(frozenset(), f"dev is empty: {why}")


def falls_into_dev(room: str, fraction: float) -> bool:
    """Return whether a room is held out, by its own hash."""
    return _place(room) < fraction


def _place(room: str) -> float:
    return int.from_bytes(blake2b(room.encode(), digest_size=8).digest(), "big") / 2**64


def rebase(rows: Sequence[Row], folder: Path, base: Path) -> list[Row]:
    """Return the rows of a dataset folder with media paths relative to another one.

    Raises:
        DataError: a path that leads out of `folder` by a link: from `base` this can no longer be seen.
    """
    if folder.resolve() == base.resolve():
        return list(rows)
    prefix = Path(os.path.relpath(folder.resolve(), base.resolve()))
    for path in dict.fromkeys(item["path"] for row in rows for item in row.media):
        inside(folder, path)
    return [
        replace(row, media=tuple({**item, "path": (prefix / item["path"]).as_posix()} for item in row.media))
        for row in rows
    ]
