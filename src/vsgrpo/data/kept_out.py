"""data.keep_out: rooms of further benchmarks, read from their rows as downloaded and denied as VSI-Bench's are.

No list of ids is needed: the leak guard's own finder looks through the rows. The rooms are denied in this process for
as long as a command runs; processes that it starts are told by `tell_process`, training workers by their config.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from vsgrpo.data.room_ids import forget_texts, rooms_in_data
from vsgrpo.errors import DataError
from vsgrpo.files import file_sha256
from vsgrpo.loose_records import SUFFIXES, loose_records
from vsgrpo.records import row_suffix
from vsgrpo.tables import keep_out, kept_out
from vsgrpo.terminal import counted

KEY = "data.keep_out"
_PACKED = re.compile(r"[0-9A-Za-z+/=_-]{1024,}")
"""A picture as base64 text: what looks like an id in it is none."""


@dataclass(frozen=True)
class KeptFile:
    """A row file of `data.keep_out`, for manifests.

    Attributes:
        rows, rows_without_room: records of the file, and those that name no room.
        rooms: (data set, room) pairs that the others name.
    """

    file: str
    sha256: str
    rows: int
    rows_without_room: int
    rooms: frozenset[tuple[str, str]]

    def to_json(self) -> dict[str, Any]:
        """Return the record, with the number of its rooms."""
        return {**vars(self), "rooms": len(self.rooms)}


def given_files(value: str) -> tuple[str, ...]:
    """Return the files and folders of a word of the command line, [A,B] or A."""
    return tuple(item.strip() for item in value.removeprefix("[").removesuffix("]").split(",") if item.strip())


def read_kept(values: Sequence[str]) -> list[KeptFile]:
    """Return what the files and folders of `data.keep_out` name.

    Raises:
        DataError: nothing is there, a file cannot be read, or an entry names no room of a known form.
    """
    found: list[KeptFile] = []
    for value in values:
        files = _files(value)
        kept = [_read(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files]
        if not any(item.rooms for item in kept):
            raise DataError(
                f"{KEY}={value}: names no room of a known form (ScanNet, ARKitScenes, ScanNet++) in "
                f"{counted(sum(item.rows for item in kept), 'row')} of {counted(len(files), 'file')}",
                "give the row files that name scenes or videos, or leave the entry out: it would keep nothing out",
            )
        found += kept
    return found


@contextmanager
def keeping_out(values: Sequence[str]) -> Iterator[None]:
    """Deny the rooms of `data.keep_out`, beside those that are denied already, until the block ends.

    Raises:
        DataError: as `read_kept`.
    """
    before, rooms = kept_out(), kept_out()
    for item in read_kept(values):
        for room in item.rooms:
            rooms.setdefault(room, f"{item.file} ({KEY})")
    tell_process(rooms)
    try:
        yield
    finally:
        tell_process(before)


def tell_process(rooms: dict[tuple[str, str], str]) -> None:
    """Deny rooms in this process, (data set, room) -> what shows it: what `tables.kept_out` gave in another one."""
    if rooms != kept_out():
        keep_out(rooms)
        forget_texts()


def kept_json(values: Sequence[str], whole_paths: bool = True) -> dict[str, Any]:
    """Return {"keep_out": files with hash and number of rooms, and rooms of all} for manifests; {} without values.

    Args:
        whole_paths: False names files alone, for what goes to another machine.
    """
    kept = read_kept(values)
    rooms = {room for item in kept for room in item.rooms}
    files = [item.to_json() if whole_paths else {**item.to_json(), "file": Path(item.file).name} for item in kept]
    return {"keep_out": {"files": files, "rooms": len(rooms)}} if kept else {}


def kept_line(values: Sequence[str]) -> list[str]:
    """Return a sentence on what is kept out, [] without values."""
    if not (kept := read_kept(values)):
        return []
    rooms = {room for item in kept for room in item.rooms}
    rows, without = sum(item.rows for item in kept), sum(item.rows_without_room for item in kept)
    named = counted(rows, "row there names one", "rows there each name one")
    if without:
        named = f"{without} of {counted(rows, 'row there names none', 'rows there name none')}"
    return [f"{KEY}: {counted(len(rooms), 'room')} of {counted(len(kept), 'file')} denied as VSI-Bench's; {named}"]


def _files(value: str) -> list[Path]:
    path = Path(value).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and row_suffix(file) in SUFFIXES)
    elif path.is_file():
        files = [path]
    else:
        raise DataError(
            f"{KEY}={value}: no such file or folder", "give a benchmark's row file as downloaded, or its folder"
        )
    if not files or row_suffix(files[0]) not in SUFFIXES:
        raise DataError(f"{KEY}={value}: no row file", f"give {', '.join(SUFFIXES)} files, or a folder with some")
    return files


@lru_cache(maxsize=256)
def _read(file: str, changed_ns: int, size: int) -> KeptFile:
    """Read a file once per process; time and size stand for its content."""
    rooms: set[tuple[str, str]] = set()
    rows = without = 0
    for data in loose_records(Path(file)):
        found = rooms_in_data(_without_packed(data))
        rooms.update((item.dataset, item.room) for item in found)
        rows += 1
        without += not found
    return KeptFile(file, file_sha256(Path(file)), rows, without, frozenset(rooms))


def _without_packed(value: Any) -> Any:
    if isinstance(value, str):
        return _PACKED.sub(" ", value) if len(value) > 1024 else value
    if isinstance(value, dict):
        return {name: _without_packed(item) for name, item in value.items()}
    return [_without_packed(item) for item in value] if isinstance(value, list) else value
