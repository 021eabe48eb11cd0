"""The one reader of JSON, JSON lines (gzipped ones too) and parquet: single records, in memory one at a time.

Every fault is a DataError that names the file and the line. NaN and Infinity, which JSON does not have, are refused,
kept as floats, or read as null (`Nan`): other writers use them for "no value". `check_shape` refuses values of the
wrong kind.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Collection, Iterator
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import IO, Any, Literal, NoReturn

from vsgrpo.errors import DataError

Nan = Literal["refuse", "keep", "null"]
BLANK = object()
"""`decode_line` returns it for a line that holds nothing."""
NUMBER = (int, float)
MAYBE_NUMBER = (int, float, type(None))
MAYBE_TEXT = (str, type(None))
RUN_STATUS = {
    "status?": str,
    "checkpoints?": {int: {"stage": int, "step": int}},
    "dev_scores?": {int: NUMBER},
    "best?": {"checkpoint": int, "dev_score": NUMBER},
    "changed_inputs?": [{"step": int, "inputs": [str]}],
    "wandb_run?": str,
    "rows_once?": bool,
}
"""Shape of run.json, as far as it is read again."""
_NAMES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
}
_LISTS = ("data", "questions", "annotations", "rows", "results")
"""Names under which an object holds its list of records."""
_CHUNK = 1 << 20
_BATCH = 64
"""Records of a parquet file in memory at once: they may carry pictures."""
_CUT_OFF = "the file may be cut off; write it again"
_NOT_UTF8 = "write it as UTF-8 text; compressed, its name ends in .gz"
GZIP_FAULTS = (EOFError, gzip.BadGzipFile, zlib.error)
_ONE_A_LINE = "one object a line makes it .jsonl"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not allowed")


_DECODERS = {  # made once: json.loads would make one per line
    "refuse": json.JSONDecoder(parse_constant=_refuse_constant),
    "keep": json.JSONDecoder(),
    "null": json.JSONDecoder(parse_constant=lambda name: None),
}


def read_json(path: Path, hint: str = _CUT_OFF, *, nan: Nan = "null") -> Any:
    """Return the value in a JSON file, with or without a byte order mark.

    Raises:
        DataError: the file cannot be read or is not JSON.
    """
    try:
        with open_packed(path) as stream:
            return _DECODERS[nan].decode(stream.read().decode("utf-8-sig"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file", hint) from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", hint) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({_reason(error)})", hint) from None


def read_record(path: Path, shape: Any, hint: str, *, schema_version: int | None = None) -> dict[str, Any]:
    """Return the object in a JSON file of an earlier command.

    Args:
        shape: kinds of its values (`check_shape`).
        schema_version: what its `schema_version` must be.

    Raises:
        DataError: it cannot be read, a value is of another kind, or it is of another version.
    """
    data = read_json(path, hint, nan="keep")
    check_shape(data, {}, str(path), hint)
    if schema_version is not None and data.get("schema_version") != schema_version:
        found = data.get("schema_version")
        raise DataError(f"{path}: schema_version={found}: this version reads {schema_version}", hint)
    check_shape(data, shape, str(path), hint)
    return data


def no_such_file(path: Path) -> DataError:
    """Return the error for a file that is not there, or is a folder: then its row files are named."""
    if not path.is_dir():
        hint = "check the path; a dataset folder holds train.jsonl and dev.jsonl"
        if path.stem.endswith("_pairs"):
            hint = "pairs are made by build-data counterfactual.removals=N video.source=mesh, where a scan allows one"
        return DataError(f"{path}: no such file", hint)
    names = [file for pattern in ("*.jsonl", "*.parquet", "*/predictions.jsonl") for file in sorted(path.glob(pattern))]
    names.sort(key=lambda file: file.name != "predictions.jsonl")
    hint = (
        f"give a file in it: {', '.join(map(str, names[:4]))}" if names else "there is no .jsonl or .parquet file in it"
    )
    return DataError(f"{path}: a folder, a file is needed", hint)


def read_jsonl(path: Path, *, nan: Nan = "refuse", is_growing: bool = False) -> Iterator[tuple[int, Any]]:
    """Yield (line number, value) of every line that is not blank; the first may begin with a byte order mark.

    Args:
        is_growing: another process writes the file: a last line without its end is left out.

    Raises:
        DataError: no such file, or a line that is not JSON.
    """
    if not path.is_file():
        raise no_such_file(path)
    with open_packed(path) as stream:
        for number, line in enumerate(stream, start=1):
            if is_growing and not line.endswith(b"\n"):
                return
            value = decode_line(line, f"{path}:{number}", is_first=number == 1, nan=nan)
            if value is not BLANK:
                yield number, value


def decode_line(line: bytes, where: str, hint: str = _CUT_OFF, *, is_first: bool = False, nan: Nan = "refuse") -> Any:
    """Return the value of one line of a JSON lines file, `BLANK` if there is none.

    Args:
        where: file and line, for the message.
        is_first: a byte order mark may be before it.

    Raises:
        DataError: not JSON, or nested too deeply.
    """
    try:
        text = line.decode("utf-8-sig" if is_first else "utf-8")
        return _DECODERS[nan].decode(text) if text.strip() else BLANK
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 ({error.reason} at byte {error.start})", _NOT_UTF8) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({_reason(error)})", hint) from None


def read_records(
    path: Path, *, nan: Nan = "refuse", first: int = 1, skip: Collection[str] = ()
) -> Iterator[tuple[str, Any]]:
    """Yield (where, record) of a parquet file, a JSON list, an object that holds one, or one JSON object a line.

    The content decides between the JSON forms, not the suffix. An object that holds a list is read as a whole.
    .json.gz and .jsonl.gz are unpacked on the way.

    Args:
        first: number of the first row of a parquet file in `where`.
        skip: columns of a parquet file that are not read.

    Raises:
        DataError: the file cannot be read as any of these.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file", "give .json, .jsonl or .parquet files")
    try:
        yield from _records(path, nan, first, skip)
    except GZIP_FAULTS as error:
        raise DataError(f"{path}: not a whole gzip file ({error})", "download it again") from None


def row_suffix(path: Path) -> str:
    """Return the suffix that says what a row file is: ".jsonl" of rows.jsonl and of rows.jsonl.gz."""
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def open_packed(path: Path) -> gzip.GzipFile | BufferedReader:
    """Open a file for reading, a gzipped one unpacked."""
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _records(path: Path, nan: Nan, first: int, skip: Collection[str]) -> Iterator[tuple[str, Any]]:
    suffix = row_suffix(path)
    if path.suffix == ".parquet":
        yield from ((f"{path}:row {number}", data) for number, data in enumerate(_parquet_rows(path, skip), first))
    elif suffix not in (".json", ".jsonl"):
        raise DataError(
            f"{path}: neither .json, .jsonl (or .gz of one) nor .parquet", "rename it if it is one of these"
        )
    elif (start := first_character(path)) == "[":
        yield from ((f"{path}:row {number}", data) for number, data in enumerate(_list_items(path, nan), start=1))
    elif suffix == ".jsonl" or is_lines(path):
        yield from ((f"{path}:{number}", data) for number, data in read_jsonl(path, nan=nan))
    else:
        data = read_json(path, _ONE_A_LINE, nan=nan)
        lists = [data[name] for name in _LISTS if isinstance(data.get(name), list)] if start == "{" else []
        if not lists:
            raise DataError(f"{path}: not a list of records", _ONE_A_LINE)
        yield from ((f"{path}:row {number}", item) for number, item in enumerate(lists[0], start=1))


def first_character(path: Path) -> str:
    with open_packed(path) as stream:
        return stream.read(4096).decode("utf-8-sig", errors="ignore").lstrip()[:1]


def is_lines(path: Path) -> bool:
    """Tell whether a file holds one JSON object a line: its first line is one, and others follow."""
    with open_packed(path) as stream:
        lines = (line for line in stream if line.strip())
        try:
            return isinstance(json.loads(next(lines, b"").decode("utf-8-sig")), dict) and next(lines, None) is not None
        except (ValueError, RecursionError):
            return False


def _list_items(path: Path, nan: Nan) -> Iterator[Any]:
    """Yield the items of a JSON list that may be larger than the memory."""
    with TextIOWrapper(open_packed(path), encoding="utf-8-sig") as stream:
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
                value, start, buffer = _next_value(stream, buffer, start, number, _DECODERS[nan])
                yield value
            start, buffer = _next_token(stream, buffer, start + 1)
            if buffer[start:]:
                raise ValueError("text after the list")
        except (ValueError, RecursionError) as error:
            hint = f"the file may be cut off; {_ONE_A_LINE}"
            raise DataError(f"{path}: not JSON ({_reason(error)})", hint) from None


def _next_token(stream: IO[str], buffer: str, start: int) -> tuple[int, str]:
    """Return the place of the next character that is not blank, and the buffer that holds it."""
    while (start := _blank(buffer, start)) == len(buffer):
        buffer, start = stream.read(_CHUNK), 0
        if not buffer:
            break
    return start, buffer


def _next_value(
    stream: IO[str], buffer: str, start: int, number: int, decoder: json.JSONDecoder
) -> tuple[Any, int, str]:
    """Return the value that begins at `start`, its end, and the buffer, read on as far as the value needs."""
    size = _CHUNK
    while True:
        fault: json.JSONDecodeError | None = None
        try:
            value, end = decoder.raw_decode(buffer, start)
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


def _parquet_rows(path: Path, skip: Collection[str]) -> Iterator[Any]:
    """Yield the rows of a parquet file; DataError also for values that Python cannot hold (text that is no UTF-8)."""
    import pyarrow  # here: half a second that JSON does not need
    import pyarrow.parquet

    number = 0
    try:
        # Through a buffer, without threads: otherwise a whole row group, often the whole file, is in memory.
        table = pyarrow.parquet.ParquetFile(path, buffer_size=_CHUNK, pre_buffer=False)
        columns = [name for name in table.schema_arrow.names if name not in skip]
        for batch in table.iter_batches(batch_size=_BATCH, columns=columns, use_threads=False):
            try:
                rows = batch.to_pylist()
            except (ValueError, ArithmeticError, LookupError) as error:
                what = f"{path}:rows {number + 1} to {number + batch.num_rows}: a value cannot be read ({error})"
                raise DataError(what, "write the file again") from None
            yield from rows
            number += batch.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a parquet file ({str(error).splitlines()[0]})", "download it again") from None


def _reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def check_shape(value: Any, shape: Any, where: str, hint: str, key: str = "") -> None:
    """Refuse content whose values are not of the kinds that its reader takes.

    Args:
        shape: a type or several; [shape] for a list; {"name": shape} for an object, "name?" where it may be absent or
            null; {str: shape} for any names, {int: shape} for names that are whole numbers.
        where: the file, with the line where it has several records.

    Raises:
        DataError: names file, dotted key, value and the kind that it should be.
    """
    if isinstance(shape, dict):
        _check_kind(value, dict, where, hint, key)
        for name, inner in shape.items():
            if isinstance(name, type):
                for other, item in value.items():
                    if name is int and not (other.isascii() and other.isdigit()):
                        raise DataError(f"{where}: {_dotted(key, other)}: must be a whole number", hint)
                    check_shape(item, inner, where, hint, _dotted(key, other))
            elif value.get(name.removesuffix("?")) is not None:
                check_shape(value[name.removesuffix("?")], inner, where, hint, _dotted(key, name.removesuffix("?")))
            elif not name.endswith("?") and not (name in value and isinstance(None, inner)):
                raise DataError(f"{where}: {_dotted(key, name)}: is missing", hint)
    elif isinstance(shape, list):
        _check_kind(value, list, where, hint, key)
        for number, item in enumerate(value):
            check_shape(item, shape[0], where, hint, _dotted(key, str(number)))
    else:
        _check_kind(value, shape, where, hint, key)


def _check_kind(value: Any, kinds: Any, where: str, hint: str, key: str) -> None:
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    fits = isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds)
    if fits and not (type(value) is int and float in kinds and abs(value) > 1e300):  # no float holds it
        return
    wanted = " or ".join(dict.fromkeys(_NAMES[kind] for kind in kinds if kind is not type(None)))
    shown = f"{key}={str(value)[:60]!r}" if key else f"{str(value)[:60]!r}"
    raise DataError(f"{where}: {shown}: must be {wanted}", hint)


def _dotted(key: str, name: str) -> str:
    return f"{key}.{name[:60]}" if key else name[:60]
