"""Which rows are asked about which media, and predictions.jsonl: append-only, one line per answer, resumable.

Rows are grouped by what they show and answered in chunks of whole videos; a run goes on after its last whole chunk.

Line: {"id", "sample" (only with several samples), "prediction" (null: the video did not decode), "prompt_mode",
"num_tokens" (tokens generated), "error" (only with null)}; with decoding.think_below "first_probability" too, and
"first_answer" where it was thought over. Chunks and their order follow from the rows and the batch
size alone, so a resumed file is byte for byte the file of an uninterrupted run.

Several processes share the chunks out: each appends to a part file of its own, and the parts are merged in the order of
the chunks, into the same bytes. A later run may have another number of processes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

from vsgrpo.data.row import Row
from vsgrpo.errors import DataError
from vsgrpo.files import publish
from vsgrpo.records import MAYBE_TEXT, check_shape, decode_line, read_jsonl
from vsgrpo.video.place import Place

PREDICTIONS_NAME = "predictions.jsonl"
_LINE = {"id": str, "prediction": MAYBE_TEXT, "sample?": int, "num_tokens?": int, "error?": str}
_HINT = "use --overwrite to answer anew, or remove this line"

Media = tuple[Place, ...]
"""Media shown with a question, in order."""
MediaOf = Callable[[Row], Media]
"""From a row to the media that the model gets with it."""


@dataclass(frozen=True)
class VideoQuestions:
    """A video (or images) to show and the rows asked about it."""

    media: Media
    rows: tuple[Row, ...]


def predictions_name(control: str) -> str:
    """Return the name of a predictions file: of a control, or ("") of the evaluation itself."""
    return f"predictions_{control}.jsonl" if control else PREDICTIONS_NAME


def group_by_media(rows: Sequence[Row], media_of: MediaOf) -> list[VideoQuestions]:
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


class Ledger:
    """Which chunks are answered, and where a process writes its own.

    Args:
        path: predictions.jsonl; parts are `<stem>.part-NAME.jsonl` beside it.
        chunks, num_samples: what is asked (`plan_chunks`).
        rank, world: this process and how many there are.
        in_order: this process answers its chunks in their order; else all it answers goes to its part first.
    """

    def __init__(
        self,
        path: Path,
        chunks: Sequence[Sequence[VideoQuestions]],
        num_samples: int,
        rank: int = 0,
        world: int = 1,
        in_order: bool = True,
    ) -> None:
        self.path, self.rank, self.world, self._in_order = path, rank, world, in_order
        self._keys = [
            [(row.id, k) for group in chunk for row in group.rows for k in range(num_samples)] for chunk in chunks
        ]

    def resume(self) -> int:
        """Cut the predictions file back to its last whole chunk and return how many chunks are done.

        A half-written last line (a kill) is part of what is cut off.

        Raises:
            DataError: the file holds answers to other questions than the chunks ask, or a broken line before the last.
        """
        if not self.path.is_file():
            return 0
        content = self.path.read_bytes()
        lines = content.split(b"\n")[:-1]  # what follows the last newline is half a line
        found = [_key_of(line) for line in lines]
        if found and found[-1] is None:
            found.pop()
        expected = list(chain.from_iterable(self._keys))
        hint = "these are predictions of other rows or settings; use --overwrite or another output"
        for number, key in enumerate(found, start=1):
            if key is None:
                raise DataError(f"{self.path}:{number}: not a prediction", hint)
            if number > len(expected):
                raise DataError(f"{self.path}:{number}: more predictions than questions", hint)
            if key != expected[number - 1]:
                raise DataError(f"{self.path}:{number}: id={key[0]}: expected {expected[number - 1][0]}", hint)
        done = self._num_whole(len(found))
        size = sum(len(line) + 1 for line in lines[: sum(map(len, self._keys[:done]))])
        if size < len(content):
            with self.path.open("r+b") as stream:
                stream.truncate(size)
        return done

    def merge(self) -> None:
        """Move whole chunks of the parts into predictions.jsonl as far as they follow on; the rest stays in one part.

        To be called by one process while no other writes: before and after the work.

        Raises:
            DataError: as `resume`.
        """
        done = self.resume()
        parts = sorted(self.path.parent.glob(f"{self.path.stem}.part-*.jsonl"))
        if not parts:
            return
        found: dict[int, list[bytes]] = {}
        for part in parts:
            found |= self._whole_chunks(part)
        with self.path.open("ab") as stream:
            while done in found:
                stream.writelines(found.pop(done))
                done += 1
            stream.flush()
            os.fsync(stream.fileno())  # before the parts go
        later = [line for index, lines in sorted(found.items()) if index > done for line in lines]
        kept = self._part("merged")
        if later:
            part = kept.with_suffix(".tmp")
            part.write_bytes(b"".join(later))
            publish(part, kept)
        for part in parts:
            if part != kept or not later:
                part.unlink()

    def pending(self) -> list[int]:
        """Return the chunks that this process is to answer, in order; call after `merge`."""
        if self.rank == 0:
            done = self.resume()
        else:  # the file is the first process's: it is only looked at
            done = self._num_whole(self.path.read_bytes().count(b"\n")) if self.path.is_file() else 0
        merged = self._part("merged")  # no other part: faster processes may be writing theirs already
        elsewhere = self._whole_chunks(merged) if merged.is_file() else {}
        left = [index for index in range(done, len(self._keys)) if index not in elsewhere]
        self._direct = self.world == 1 and self._in_order and not elsewhere
        return left[self.rank :: self.world]

    def add(self, records: Iterable[dict[str, Any]]) -> None:
        """Append the lines of the next pending chunk, or of any where they need not be in order."""
        append_lines(self.path if self._direct else self._part(str(self.rank)), records)

    def _part(self, name: str) -> Path:
        return self.path.with_name(f"{self.path.stem}.part-{name}.jsonl")

    def _num_whole(self, num_lines: int) -> int:
        """Return how many chunks are whole in the first `num_lines` lines."""
        return sum(end <= num_lines for end in accumulate(map(len, self._keys)))

    def _whole_chunks(self, part: Path) -> dict[int, list[bytes]]:
        """Return the chunks that are whole in a part file, as lines; what follows a half one is dropped."""
        first: dict[Any, int] = {keys[0]: index for index, keys in enumerate(self._keys)}
        lines = part.read_bytes().splitlines(keepends=True)
        found: dict[int, list[bytes]] = {}
        start = 0
        while start < len(lines):
            index = first.get(_key_of(lines[start]))
            if index is None:
                break
            taken = lines[start : start + len(self._keys[index])]
            if list(map(_key_of, taken)) != self._keys[index] or not taken[-1].endswith(b"\n"):
                break
            found[index] = taken
            start += len(taken)
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


def one_each(file: Path, answers: Mapping[str, Sequence[str | None]]) -> dict[str, str]:
    """Return id -> answer of the answered questions; DataError where one has several: no table is of the first."""
    if several := [name for name, texts in answers.items() if len(texts) > 1]:
        problem = f"id={several[0]}: {len(answers[several[0]])} answers; an export has one per question"
        raise DataError(f"{file}: {problem}", "answer with decoding.num_samples=1, or leave --export out")
    return {name: text for name, (text,) in answers.items() if text is not None}


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


def _key_of(line: bytes) -> tuple[str, int] | None:
    """Return (id, sample) of a line, None where it is no prediction."""
    try:
        data = decode_line(line, "", nan="keep")
        check_shape(data, _LINE, "", "")
    except DataError:
        return None
    return data["id"], data.get("sample", 0)
