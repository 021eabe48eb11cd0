"""Records of row files whose columns nobody has described: TSV, JSON of any shape, and parquet without its pictures.

One record is in memory at a time, but for JSON that is one object.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from vsgrpo.errors import DataError
from vsgrpo.records import GZIP_FAULTS, first_character, is_lines, read_json, read_records, row_suffix

SUFFIXES = (".jsonl", ".json", ".parquet", ".tsv")
"""What `loose_records` reads; .json and .jsonl gzipped too."""
_AGAIN = "download it again"
_BATCH = 256
_TEXT_BYTES = 1024
"""Mean bytes of a value: columns of bytes above it are pictures."""


def loose_records(path: Path) -> Iterator[Any]:
    """Yield the records of a row file of any make; JSON that is one object is one record.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        yield from _records(path, row_suffix(path))
    except GZIP_FAULTS as error:
        raise DataError(f"{path}: not a whole gzip file ({error})", _AGAIN) from None


def _records(path: Path, suffix: str) -> Iterator[Any]:
    if suffix == ".tsv":
        yield from (row for _, row in read_tsv(path))
    elif suffix == ".parquet":
        yield from _without_pictures(path)
    elif suffix == ".json" and first_character(path) == "{" and not is_lines(path):
        yield read_json(path, nan="keep")
    else:
        yield from (data for _, data in read_records(path, nan="keep"))


def _without_pictures(path: Path) -> Iterator[Any]:
    """Yield the rows of a parquet file without columns of bytes, at any depth, that are no short texts."""
    import pyarrow  # here: half a second that other forms do not need
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        columns = []
        for number in range(file.metadata.num_columns):
            column = file.schema.column(number)
            is_text = column.logical_type.type in ("STRING", "JSON", "ENUM")
            chunks = [group.column(number) for group in groups]
            size = sum(chunk.total_uncompressed_size for chunk in chunks)
            mean = size / max(1, sum(chunk.num_values for chunk in chunks))
            if is_text or "BYTE_ARRAY" not in column.physical_type or mean <= _TEXT_BYTES:
                columns.append(column.path)
        for batch in file.iter_batches(batch_size=_BATCH, columns=columns, use_threads=False):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: not a parquet file ({str(error).splitlines()[0]})", _AGAIN) from None


def read_tsv(path: Path, skip: Collection[str] = (), first: int = 1) -> Iterator[tuple[str, dict[str, str | None]]]:
    """Yield (where, row) of a .tsv or .csv file with its names of columns first; values are texts, None where empty.

    Args:
        skip: columns that are left out, pictures for instance.
        first: number of the first row in `where`.

    Raises:
        DataError: no such file, or a row of more or fewer values than there are columns.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file", f"give the {path.suffix} file")
    delimiter = "," if path.suffix.lower() == ".csv" else "\t"
    csv.field_size_limit(1 << 31)  # pictures as base64 text
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            for number, row in enumerate(csv.DictReader(stream, delimiter=delimiter), start=first):
                if None in row or None in row.values():
                    raise DataError(f"{path}:row {number}: not as many values as there are columns", _AGAIN)
                yield f"{path}:row {number}", {name: value or None for name, value in row.items() if name not in skip}
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a {path.suffix} file ({error})", _AGAIN) from None
