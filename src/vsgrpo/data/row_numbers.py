"""Numbers of rows for the plan of a run: how many, of which types, the longest texts, the media they show.

Of a large file every line is counted and a part of the lines is read as rows (`sketch_files`): a plan of a million rows
takes seconds. A run itself, and check-data, read and judge all rows.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vsgrpo.config.evaluate import PromptSection
from vsgrpo.config.train import TrainConfig
from vsgrpo.data.leak_guard import check_rows
from vsgrpo.data.mix import DrawnSource, expect_mix
from vsgrpo.data.prompts import asked_text, target_text
from vsgrpo.data.row import Row
from vsgrpo.data.rows import row_from_dict
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.records import decode_line
from vsgrpo.spatial.question_types import types_named
from vsgrpo.terminal import counted

SKETCHED_BYTES = 32 << 20
"""Row files of a run that are larger together are sketched by a dry run."""
_SAMPLED = 5000
"""Rows read of a large file, at about equal distances, besides the longest lines."""
_LONGEST = 200
_OURS = b'{"schema_version": 1, "id": "'
_TYPE, _MEDIA, _QUOTE, _END = b'"question_type": "', b'"media": [', b'"', b'"}]'


@dataclass(frozen=True)
class RowNumbers:
    """Numbers of the rows of a run.

    Attributes:
        count: rows.
        types: question type -> rows.
        question_bytes: of the longest question as it is asked; 0 without rows.
        target_bytes: of the longest text that SFT or DPO train on; None where a row cannot be trained on.
        shown: (videos, images) of one row, each that occurs.
        num_videos, num_images: different ones that the rows show.
        looked_at: what was read, in words; empty: all rows.
        mix: what comes from each source of data.mix.
    """

    count: int = 0
    types: Mapping[str, int] = field(default_factory=dict)
    question_bytes: int = 0
    target_bytes: int | None = None
    shown: Set[tuple[int, int]] = frozenset()
    num_videos: int = 0
    num_images: int = 0
    looked_at: str = ""
    mix: tuple[DrawnSource, ...] = ()

    def __len__(self) -> int:
        """Return the rows."""
        return self.count

    def drawn(self, count: int) -> RowNumbers:
        """Return the numbers where `count` rows are drawn of these: types in proportion, media at most those."""
        if count == self.count:
            return self
        types = {name: round(number * count / max(1, self.count)) for name, number in self.types.items()}
        videos = count * max((videos for videos, _ in self.shown), default=0)
        images = count * max((images for _, images in self.shown), default=0)
        videos, images = min(self.num_videos, videos), min(self.num_images, images)
        return replace(self, count=count, types=types, num_videos=videos, num_images=images)


Rows = Sequence[Row] | RowNumbers


def numbers_of(rows: Rows, prompt: PromptSection) -> RowNumbers:
    """Count rows that are at hand."""
    if isinstance(rows, RowNumbers):
        return rows
    return _numbers(rows, prompt, type_counts(rows), {entry for row in rows for entry in _entries(row.media)})


def type_counts(rows: Rows) -> Mapping[str, int]:
    """Return question type -> rows."""
    return rows.types if isinstance(rows, RowNumbers) else Counter(row.question_type for row in rows)


def _entries(media: Iterable[dict[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple((item["kind"], item["path"]) for item in media)


def _numbers(
    rows: Sequence[Row],
    prompt: PromptSection,
    types: Mapping[str, int],
    media: Set[tuple[str, str]],
    looked_at: str = "",
) -> RowNumbers:
    """Return the numbers of counted rows, whose texts are those of `rows`."""
    asked = (asked_text(row, prompt) for row in rows)
    targets = (target_text(row, prompt.mode, prompt.show_options) for row in rows)
    try:
        target_bytes = max((len(text.encode()) for text in targets), default=None)
    except DataError:  # `preflight.check_targets` reports it where the method needs it
        target_bytes = None
    shown = {(sum(item["kind"] == "video" for item in row.media), len(row.media)) for row in rows}
    num_videos = sum(kind == "video" for kind, _ in media)
    return RowNumbers(
        count=sum(types.values()),
        types=types,
        question_bytes=max((len(text.encode()) for text in asked), default=0),
        target_bytes=target_bytes,
        shown=frozenset((videos, total - videos) for videos, total in shown),
        num_videos=num_videos,
        num_images=len(media) - num_videos,
        looked_at=looked_at,
    )


def sketch_files(files: Sequence[Path], config: TrainConfig) -> tuple[RowNumbers, list[Row]]:
    """Sketch the rows that a run draws from the files of data.path and data.mix by data.types, data.mix and data.limit.

    Returns:
        The numbers, and the rows that were read.

    Raises:
        VsgrpoError: as `_sketch` and `check_types`.
    """
    sketches = [_sketch(file, config) for file in files]
    check_types(files, [counted for _, _, counted in sketches], config.data.types)
    found, mix = [numbers for numbers, _, _ in sketches], []
    if len(found) > 1:
        mix = expect_mix([numbers.count for numbers in found], config.data.sources(), config.data.limit)
        found = [numbers.drawn(item.drawn) for numbers, item in zip(found, mix, strict=True)]
    whole = _joined(found)
    rows = [row for _, read, _ in sketches for row in read]
    return replace(whole.drawn(min(config.data.limit or whole.count, whole.count)), mix=tuple(mix)), rows


def check_types(files: Sequence[Path], counts: Sequence[Mapping[str, int]], types: Sequence[str] | None) -> None:
    """Check that every file has rows to train on.

    Args:
        counts: question type -> rows of each file.
        types: data.types, types or families; None: all are trained on.

    Raises:
        ConfigError: a type or family that is in none of the files.
        DataError: a file without rows of these types.
    """
    present = sorted(set().union(*counts))
    for name in types or ():
        if set(types_named([name])).isdisjoint(present):
            where = ", ".join(map(str, files))
            raise ConfigError(f"data.types: {name} is not in {where}", hint=f"there are: {', '.join(present)}")
    for file, lines in zip(files, counts, strict=True):
        if not lines or (types is not None and lines.keys().isdisjoint(types_named(types))):
            raise DataError(f"{file}: no rows to train on", hint="build-data reports why scans gave no questions")


def _joined(parts: Sequence[RowNumbers]) -> RowNumbers:
    targets = [part.target_bytes for part in parts]
    return RowNumbers(
        count=sum(part.count for part in parts),
        types=sum((Counter(part.types) for part in parts), Counter()),
        question_bytes=max(part.question_bytes for part in parts),
        target_bytes=None if None in targets else max(size for size in targets if size is not None),
        shown=frozenset().union(*(part.shown for part in parts)),
        num_videos=sum(part.num_videos for part in parts),
        num_images=sum(part.num_images for part in parts),
        looked_at="; ".join(part.looked_at for part in parts),
    )


def _sketch(file: Path, config: TrainConfig) -> tuple[RowNumbers, list[Row], Counter[str]]:
    """Count the rows of a file with their types and media, and read a part of them: evenly spread, and the longest.

    Returns:
        The numbers, the rows that were read, in the order of the file, and the rows of all types that occur in it.

    Raises:
        DataError: the file cannot be read, or a row read breaks the schema or shows a benchmark room.
    """
    found: dict[tuple[Any, Any], int] = {}
    sampled: dict[int, bytes] = {}
    longest: list[tuple[int, int, bytes]] = []
    shortest = -1
    for number, line in _lines(file, sampled):
        key = _type_and_media(line) if line.startswith(_OURS) else None
        if key not in found and (key is None or b"\\" in key[0] or b"\\" in key[1]):
            row = _row(line, f"{file}:{number}", number == 1)
            key = row.question_type, _entries(row.media)
        found[key] = found.get(key, 0) + 1
        if len(line) > shortest:
            (heapq.heappush if len(longest) < _LONGEST else heapq.heapreplace)(longest, (len(line), number, line))
            shortest = longest[0][0] if len(longest) == _LONGEST else -1
    sampled |= {number: line for _, number, line in longest}
    rows = [_row(line, f"{file}:{number}", number == 1) for number, line in sorted(sampled.items())]
    check_rows(rows, allow_val_safe=config.data.allow_val_safe, where=str(file), base=file.parent)
    num_read, types = len(rows), config.data.kept_types
    rows = [row for row in rows if types is None or row.question_type in types]
    lines: Counter[str] = Counter()
    media: set[tuple[str, str]] = set()
    for (kind, shown), number in found.items():
        name = kind if isinstance(kind, str) else kind.decode(errors="replace")
        lines[name] += number
        if types is None or name in types:
            media.update(_entries(json.loads(b"[" + shown + b"]")) if isinstance(shown, bytes) else shown)
    kept = {name: number for name, number in sorted(lines.items()) if types is None or name in types}
    looked_at = f"{file.name}: {counted(lines.total(), 'line')} counted by types and media, "
    looked_at += f"{counted(num_read, 'row')} read and checked (evenly spread, and the longest)"
    return _numbers(rows, config.prompt, kept, media, looked_at), rows, lines


def _lines(file: Path, sampled: dict[int, bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield (number, line) of every line that is not blank; put lines at equal distances into `sampled`."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            stride, position, wanted = size / _SAMPLED, 0, 0.0
            for number, line in enumerate(stream, start=1):
                position += len(line)
                if not line.isspace():
                    if position >= wanted:
                        sampled[number] = line
                        wanted += max(stride, len(line))
                    yield number, line
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}", "check the path") from None


def _type_and_media(line: bytes) -> tuple[bytes, bytes] | None:
    """Return the question type of a line and what it shows as they are written, None where they are not found.

    In lines that we write the keys are in the order of the schema, and quotes inside texts are escaped: the first match
    is the key. A value with a backslash may go on behind what is returned.
    """
    kind = line.find(_TYPE) + len(_TYPE)
    shows = line.find(_MEDIA, kind) + len(_MEDIA)
    end = line.find(_END, shows)
    if kind < len(_TYPE) or shows < len(_MEDIA) or end < 0:
        return None
    return line[kind : line.find(_QUOTE, kind)], line[shows : end + 2]


def _row(line: bytes, where: str, is_first: bool) -> Row:
    return row_from_dict(decode_line(line, where, is_first=is_first), where)
