"""Files of exported rows, written row by row: a JSON list, JSON lines, or parquet; UTF-8 with LF."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

SUFFIXES = (".json", ".jsonl", ".parquet")
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


class RowFiles:
    """Several files in one folder; the suffix of a name decides its form."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts: Counter[str] = Counter()
        self._streams: dict[str, IO[str]] = {}
        self._tables: dict[str, list[dict[str, Any]]] = {}

    def __enter__(self) -> Self:
        return self

    def add(self, name: str, record: dict[str, Any]) -> None:
        """Write one row."""
        self.counts[name] += 1
        if name.endswith(".parquet"):
            self._tables.setdefault(name, []).append(record)
            return
        is_list = name.endswith(".json")
        if name not in self._streams:
            self._streams[name] = (self.folder / name).open("x", encoding="utf-8", newline="\n")
            before = "[\n" if is_list else ""
        else:
            before = ",\n" if is_list else ""
        self._streams[name].write(f"{before}{_ENCODER.encode(record)}" + ("" if is_list else "\n"))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for name, stream in self._streams.items():
            if name.endswith(".json"):
                stream.write("\n]\n")
            stream.close()
        if kind is None:
            for name, rows in self._tables.items():
                _write_parquet(self.folder / name, rows)


def write_json(path: Path, value: Any) -> None:
    """Write one JSON value."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")


def _write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)
