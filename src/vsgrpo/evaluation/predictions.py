"""predictions.jsonl: append-only, one line per answer, resumable by whole chunks of videos.

Line: {"id", "sample" (only with several samples), "prediction" (null: the video did not decode), "prompt_mode",
"num_tokens" (tokens generated), "error" (only with null)}. Chunks and their order follow from the rows and the batch
size alone, so a resumed file is byte for byte the file of an uninterrupted run.

Several processes share the chunks out: each appends to a part file of its own, and the parts are merged in the order of
the chunks, into the same bytes. A later run may have another number of processes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from vsgrpo.data.row import Row
from vsgrpo.errors import DataError
from vsgrpo.files import publish
from vsgrpo.records import MAYBE_TEXT, check_shape, decode_line, read_jsonl

PREDICTIONS_NAME = "predictions.jsonl"
_LINE = {"id": str, "prediction": MAYBE_TEXT, "sample?": int, "num_tokens?": int, "error?": str}
_HINT = "use --overwrite to answer anew, or remove this line"

Media = tuple[tuple[str, Path], ...]
"""Media shown before a question: kind (video, image) and path of each."""


@dataclass(frozen=True)
class VideoQuestions:
    """A video (or images) to show and the rows asked about it."""

    media: Media
    rows: tuple[Row, ...]


def predictions_name(control: str) -> str:
    """Return the name of a predictions file: of a control, or ("") of the evaluation itself."""
    return f"predictions_{control}.jsonl" if control else PREDICTIONS_NAME


def group_by_media(rows: Sequence[Row], media_of: Callable[[Row], Media]) -> list[VideoQuestions]:
    """Return the rows by the video or images they are shown, sorted by path, rows in the order given."""
    groups: dict[Media, list[Row]] = {}
    for row in rows:
        groups.setdefault(media_of(row), []).append(row)
    return [VideoQuestions(media, tuple(groups[media])) for media in sorted(groups)]


def plan_chunks(groups: Sequence[VideoQuestions], batch_size: int) -> list[list[VideoQuestions]]:
    """Cut videos into runs of at most `batch_size` questions; a video is never split, so one alone may have more."""
    chunks: list[list[VideoQuestions]] = []
    size = 0
    for group in groups:
        if not chunks or size + len(group.rows) > batch_size:
            chunks.append([])
            size = 0
        chunks[-1].append(group)
        size += len(group.rows)
    return chunks


def resume(path: Path, chunks: Sequence[Sequence[VideoQuestions]], num_samples: int) -> int:
    """Cut a predictions file back to its last whole chunk and return how many chunks are done.

    A half-written last line (a kill) is part of what is cut off.

    Raises:
        DataError: the file holds answers to other questions than the chunks ask, or a broken line before the last.
    """
    if not path.is_file():
        return 0
    wanted = [[(row.id, k) for group in chunk for row in group.rows for k in range(num_samples)] for chunk in chunks]
    expected = [key for keys in wanted for key in keys]
    content = path.read_bytes()
    lines = content.split(b"\n")[:-1]  # what follows the last newline is half a line
    if lines and _parse(lines[-1]) is None:
        lines.pop()
    for number, line in enumerate(lines, start=1):
        data = _parse(line)
        hint = "these are predictions of other rows or settings; use --overwrite or another output"
        if data is None:
            raise DataError(f"{path}:{number}: not a prediction", hint)
        if number > len(expected):
            raise DataError(f"{path}:{number}: more predictions than questions", hint)
        if (data.get("id"), data.get("sample", 0)) != expected[number - 1]:
            raise DataError(f"{path}:{number}: id={data.get('id')}: expected {expected[number - 1][0]}", hint)
    ends = list(accumulate(len(keys) for keys in wanted))
    done = sum(end <= len(lines) for end in ends)
    size = sum(len(line) + 1 for line in lines[: ends[done - 1]]) if done else 0
    if size < len(content):
        with path.open("r+b") as stream:
            stream.truncate(size)
    return done


class Ledger:
    """Which chunks are answered, and where a process writes its own.

    Args:
        path: predictions.jsonl; parts are `<stem>.part-NAME.jsonl` beside it.
        chunks, num_samples: what is asked (`plan_chunks`).
        rank, world: this process and how many there are.
    """

    def __init__(
        self, path: Path, chunks: Sequence[Sequence[VideoQuestions]], num_samples: int, rank: int = 0, world: int = 1
    ) -> None:
        self.path, self.chunks, self.num_samples = path, chunks, num_samples
        self.rank, self.world = rank, world
        self._keys = [
            [(row.id, k) for group in chunk for row in group.rows for k in range(num_samples)] for chunk in chunks
        ]

    def merge(self) -> None:
        """Move whole chunks of the parts into predictions.jsonl as far as they follow on; the rest stays in one part.

        To be called by one process while no other writes: before and after the work.

        Raises:
            DataError: as `resume`.
        """
        done = resume(self.path, self.chunks, self.num_samples)
        parts = self._parts()
        if not parts:
            return
        found: dict[int, list[bytes]] = {}
        for part in parts:
            found |= self._whole_chunks(part)
        with self.path.open("ab") as stream:
            while done in found:
                stream.write(b"".join(found.pop(done)))
                done += 1
            stream.flush()
            os.fsync(stream.fileno())  # before the parts go
        later = {index: lines for index, lines in sorted(found.items()) if index > done}
        kept = self._part("merged")
        if later:
            part = kept.with_suffix(".tmp")
            part.write_bytes(b"".join(line for lines in later.values() for line in lines))
            publish(part, kept)
        for part in parts:
            if part != kept or not later:
                part.unlink()

    def pending(self) -> list[int]:
        """Return the chunks that this process is to answer, in order; call after `merge`."""
        done = resume(self.path, self.chunks, self.num_samples) if self.rank == 0 else self._count()
        merged = self._part("merged")  # no other part: faster processes may be writing theirs already
        elsewhere = self._whole_chunks(merged) if merged.is_file() else {}
        left = [index for index in range(done, len(self.chunks)) if index not in elsewhere]
        self._direct = self.world == 1 and not elsewhere
        return left[self.rank :: self.world]

    def add(self, records: Iterable[dict[str, Any]]) -> None:
        """Append the lines of the next pending chunk."""
        append_lines(self.path if self._direct else self._part(str(self.rank)), records)

    def _part(self, name: str) -> Path:
        return self.path.with_name(f"{self.path.stem}.part-{name}.jsonl")

    def _parts(self) -> list[Path]:
        return sorted(self.path.parent.glob(f"{self.path.stem}.part-*.jsonl"))

    def _count(self) -> int:
        """Count the whole chunks of predictions.jsonl without touching it."""
        if not self.path.is_file():
            return 0
        lines = self.path.read_bytes().count(b"\n")
        return sum(end <= lines for end in accumulate(len(keys) for keys in self._keys))

    def _whole_chunks(self, part: Path) -> dict[int, list[bytes]]:
        """Return the chunks that are whole in a part file, as lines; what follows a half one is dropped."""
        first = {keys[0]: index for index, keys in enumerate(self._keys)}
        lines = part.read_bytes().splitlines(keepends=True)
        found: dict[int, list[bytes]] = {}
        start = 0
        while start < len(lines):
            data = _parse(lines[start]) or {}
            index = first.get((data.get("id", ""), data.get("sample", 0)))
            if index is None:
                break
            keys = self._keys[index]
            taken = lines[start : start + len(keys)]
            read = [_parse(line) or {} for line in taken]
            if [(line.get("id"), line.get("sample", 0)) for line in read] != keys or not taken[-1].endswith(b"\n"):
                break
            found[index] = taken
            start += len(keys)
        return found


def append_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Append records with one write, synced: a kill leaves whole lines or one half line at the end."""
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    with path.open("a", encoding="utf-8", newline="\n") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def read_answers(path: Path) -> dict[str, list[str | None]]:
    """Return id -> predictions (one per sample) of a complete predictions file of `vsgrpo eval`."""
    answers: dict[str, list[str | None]] = {}
    for data in read_lines(path):
        answers.setdefault(data["id"], []).append(data["prediction"])
    return answers


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a predictions file of `vsgrpo eval`.

    Raises:
        DataError: a line that is none, with its number.
    """
    for number, data in read_jsonl(path):
        check_shape(data, _LINE, f"{path}:{number}", _HINT)
        yield data


def read_errors(path: Path) -> dict[str, str]:
    """Return id -> reason of the unanswered rows of a predictions file of `vsgrpo eval`."""
    return {data["id"]: data.get("error") or "" for data in read_lines(path) if data["prediction"] is None}


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        data = decode_line(line, "", nan="keep")
        check_shape(data, _LINE, "", "")
    except DataError:
        return None
    return data
