"""JSON lines, JSON lists and parquet, one record at a time: the reader of rows and of foreign files."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

from vsgrpo.errors import DataError

_LISTS = ("data", "questions", "annotations", "rows", "results")
"""Names under which an object holds its list of records."""
BLANK = object()
"""Stands for a line that holds nothing."""
_CHUNK = 1 << 20
_BATCH = 64
"""Records of a parquet file in memory at once: they may carry pictures."""


def read_jsonl(path: Path, *, nan: bool = False) -> Iterator[tuple[int, Any]]:
    """Yield (line number, value) of every non-empty line; a byte order mark at the start is passed over.

    Args:
        nan: read NaN and Infinity, which other writers use for "no value", as null instead of refusing them.

    Raises:
        DataError: no such file, or a line that is no JSON; names file and line.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file", "check the path; a dataset folder holds train.jsonl and dev.jsonl")
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                value = decode_line(line, is_first=number == 1, nan=nan)
            except ValueError as error:
                hint = "the file may be cut off; write it again"
                raise DataError(f"{path}:{number}: not JSON ({error})", hint) from None
            if value is not BLANK:
                yield number, value


def decode_line(line: bytes, *, is_first: bool = False, nan: bool = False) -> Any:
    """Return the value of one line of a JSON lines file, `BLANK` where there is none.

    Args:
        is_first: a byte order mark may stand before it.

    Raises:
        ValueError: no JSON, or nested too deep; says why.
    """
    try:
        text = line.decode("utf-8-sig" if is_first else "utf-8")
        return (_FOREIGN if nan else _OURS).decode(text) if text.strip() else BLANK
    except (ValueError, RecursionError) as error:
        raise ValueError(_reason(error)) from None


def read_json(path: Path, hint: str = "the file may be cut off; write it again") -> Any:
    """Return the value of a foreign JSON file, with or without a byte order mark; NaN is null.

    Raises:
        DataError: no such file, or no JSON.
    """
    try:
        return _FOREIGN.decode(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", "check the path") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({_reason(error)})", hint) from None


def records(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield (where, record) of a foreign file: parquet, a JSON list, an object that holds one, or one object a line.

    The content decides between the JSON forms, not the suffix. NaN is null. One record is in memory at a time, of an
    object that holds a list all.

    Raises:
        DataError: the file cannot be read as any of these.
    """
    if not file.is_file():
        raise DataError(f"{file}: no such file", "give .json, .jsonl or .parquet files")
    if file.suffix == ".parquet":
        yield from ((f"{file}:row {number}", data) for number, data in parquet_records(file))
        return
    if file.suffix not in (".json", ".jsonl"):
        raise DataError(f"{file}: neither .json, .jsonl nor .parquet", "rename it if it is one of these")
    first = _first_character(file)
    if first == "[":
        yield from ((f"{file}:row {number}", data) for number, data in enumerate(_list_items(file), start=1))
    elif file.suffix == ".jsonl" or _is_lines(file):
        yield from ((f"{file}:{number}", data) for number, data in read_jsonl(file, nan=True))
    else:
        data = read_json(file, "one object a line makes it .jsonl")
        found = (
            next((data[name] for name in _LISTS if isinstance(data.get(name), list)), None) if first == "{" else None
        )
        if found is None:
            raise DataError(f"{file}: not a list of records", "one object a line makes it .jsonl")
        yield from ((f"{file}:row {number}", item) for number, item in enumerate(found, start=1))


def _first_character(file: Path) -> str:
    with file.open("rb") as stream:
        return stream.read(4096).decode("utf-8-sig", errors="ignore").lstrip()[:1]


def _is_lines(file: Path) -> bool:
    """Say whether a file holds one JSON object a line: its first line is one, and others follow."""
    with file.open("rb") as stream:
        lines = (line for line in stream if line.strip())
        try:
            return isinstance(json.loads(next(lines, b"").decode("utf-8-sig")), dict) and next(lines, None) is not None
        except (ValueError, RecursionError):
            return False


def _list_items(file: Path) -> Iterator[Any]:
    """Yield the items of a JSON list that may be larger than the memory."""
    with file.open(encoding="utf-8-sig") as stream:
        try:
            buffer = stream.read(_CHUNK)
            start, number = _blank(buffer, 0) + 1, 0  # behind "["
            while True:
                start, buffer = _next_token(stream, buffer, start)
                token = buffer[start : start + 1]
                if token == "]":
                    break
                if number:
                    if token != ",":
                        raise ValueError(f"item {number}: ',' or ']' expected")
                    start, buffer = _next_token(stream, buffer, start + 1)
                number += 1
                value, start, buffer = _next_value(stream, buffer, start, number)
                yield value
            start, buffer = _next_token(stream, buffer, start + 1)
            if buffer[start:]:
                raise ValueError("text after the list")
        except (ValueError, RecursionError) as error:
            hint = "the file may be cut off; one object a line makes it .jsonl"
            raise DataError(f"{file}: not JSON ({_reason(error)})", hint) from None


def _next_token(stream: IO[str], buffer: str, start: int) -> tuple[int, str]:
    """Return the place of the next character that is not blank, and the buffer that holds it."""
    while (start := _blank(buffer, start)) == len(buffer):
        buffer, start = stream.read(_CHUNK), 0
        if not buffer:
            break
    return start, buffer


def _next_value(stream: IO[str], buffer: str, start: int, number: int) -> tuple[Any, int, str]:
    """Return the value that begins at `start`, its end, and the buffer, read on as far as the value needs."""
    size = _CHUNK
    while True:
        fault: json.JSONDecodeError | None = None
        try:
            value, end = _FOREIGN.raw_decode(buffer, start)
            if end < len(buffer):
                return value, end, buffer
        except json.JSONDecodeError as error:
            fault = error
        is_cut = fault is None or fault.msg.startswith("Unterminated") or fault.pos > len(buffer) - 16
        more = stream.read(size) if is_cut else ""
        if not more:
            raise ValueError(f"item {number}: {fault.msg if fault else 'the list does not end'}")
        buffer, start, size = buffer[start:] + more, 0, 2 * size


def _blank(text: str, start: int) -> int:
    while start < len(text) and text[start] in " \t\r\n":
        start += 1
    return start


def parquet_records(file: Path, skip: Collection[str] = ()) -> Iterator[tuple[int, Any]]:
    """Yield (number, record) of a parquet file, from 1; a few records are in memory at a time.

    Args:
        skip: columns that are not read.

    Raises:
        DataError: no parquet file, or a value that Python cannot hold: bytes that are no text, a date far ahead.
    """
    import pyarrow  # here: half a second that JSON does not need
    import pyarrow.parquet

    number = 0
    try:
        table = pyarrow.parquet.ParquetFile(file)
        columns = [name for name in table.schema_arrow.names if name not in skip]
        for batch in table.iter_batches(batch_size=_BATCH, columns=columns):
            yield from enumerate(_values(batch, file, number + 1), start=number + 1)
            number += batch.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file}: not a parquet file ({str(error).splitlines()[0]})", "download it again") from None


def _values(batch: Any, file: Path, first: int) -> list[Any]:
    try:
        return batch.to_pylist()
    except (ValueError, ArithmeticError, LookupError) as error:
        last = first + batch.num_rows - 1
        where = f"{file}:rows {first} to {last}"
        raise DataError(f"{where}: a value cannot be read ({error})", "write the file again") from None


def _reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not allowed")


_OURS = json.JSONDecoder(parse_constant=_refuse_constant)  # one for all lines: json.loads would make one per line
_FOREIGN = json.JSONDecoder(parse_constant=lambda name: None)
