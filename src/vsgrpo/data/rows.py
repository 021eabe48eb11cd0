"""Row schema v1: one question of one video as one JSON line, checked strictly when read and when written.

A row file lies beside its `videos/` folder; media paths are relative to the row file's folder and stay below it. Nested
values (media, objects, generator, extra) stay plain JSON. Every problem is a DataError saying `file:line: field=value:
rule`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from sys import intern
from typing import TYPE_CHECKING, Any

from vsgrpo.data.row import FIELD_NAMES, SCHEMA_VERSION, Row, row_id
from vsgrpo.data.row_rules import IS_MISSING, RowError, check_row, row_faults, short_json
from vsgrpo.errors import DataError
from vsgrpo.files import write_atomic
from vsgrpo.records import read_jsonl

if TYPE_CHECKING:
    from vsgrpo.spatial.question import Question


_FIELDS = frozenset(FIELD_NAMES)
_COMMON = ("dataset", "split", "scene_name", "room", "question_type", "answer_kind", "unit")
"""Fields whose texts many rows share: each is in memory once."""
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
    row, faults, _ = _read(data, where)
    if faults or row is None:
        raise faults[0]
    check_row(row, where)
    return row


def faults_of(data: Any, where: str) -> list[RowError]:
    """Return every rule of the schema that a JSON object breaks, where `row_from_dict` raises the first."""
    row, faults, unread = _read(data, where)
    return faults if row is None else faults + row_faults(row, where, unread)


def _read(data: Any, where: str) -> tuple[Row | None, list[RowError], list[str]]:
    """Return the row with None for what is missing, the faults of its shape, and the fields that cannot be checked."""
    if not isinstance(data, dict):
        return None, [RowError(where, short_json(data), "a row is a JSON object", "")], []
    version = data.get("schema_version")
    if version is None:
        hint = "not a row file of ours; `vsgrpo import-data` reads other formats"
        return None, [RowError(where, "schema_version", IS_MISSING, hint)], []
    if type(version) is not int or version != SCHEMA_VERSION:
        rule, shown = f"this version reads {SCHEMA_VERSION}", f"={short_json(version)}"
        return None, [RowError(where, "schema_version", rule, "update vsgrpo or rebuild", shown)], []
    faults: list[RowError] = []
    unread: list[str] = []
    values: dict[str, Any] = dict(data)
    if data.keys() != _FIELDS:
        unread = [name for name in FIELD_NAMES if name not in data]
        hint = f"a row has the fields {', '.join(FIELD_NAMES)}"
        faults += [RowError(where, name, IS_MISSING, hint) for name in unread]
        for name in data:
            if name not in _FIELDS:
                shown, hint = f"={short_json(data[name])}", "put additional values under `extra`"
                faults.append(RowError(where, str(name), "unknown field", hint, shown))
        values = {name: data.get(name) for name in FIELD_NAMES}
    for name in _COMMON:
        if type(value := values[name]) is str:
            values[name] = intern(value)
    for name in ("options", "media", "objects"):
        if isinstance(values[name], list):
            values[name] = tuple(values[name])
        elif not (values[name] is None and name == "options") and name not in unread:
            faults.append(RowError(where, name, "must be a list", "", f"={short_json(values[name])}"))
            unread.append(name)
    return Row(**values), faults, unread


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
