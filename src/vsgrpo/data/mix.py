"""data.mix: rows of several sources in one run, by weight and cap, and the table of what was drawn.

Which rows, and the order of all, are hashes of (seed, source, key): the same in every process, and after a resume.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path

from vsgrpo.config.train import MixSource
from vsgrpo.data.row import Row
from vsgrpo.files import write_atomic
from vsgrpo.records import MAYBE_NUMBER, NUMBER, read_record

MIX_NAME = "mix.json"
SCHEMA_VERSION = 1
_SHAPE = {
    "sources": [
        {"path": str, "weight": NUMBER, "cap": MAYBE_NUMBER, "rows": int, "drawn": int, "different": int, "most": int}
    ]
}


@dataclass(frozen=True)
class DrawnSource:
    """What a run draws from one source.

    Attributes:
        rows: those that it has, after data.types and what the frames shown do not make true.
        drawn: rows of the run, after data.limit.
        different: different rows among them; each of these comes at most `most` times.
    """

    path: str
    weight: float
    cap: int | None
    rows: int
    drawn: int
    different: int
    most: int


def mix_counts(sizes: Sequence[int], sources: Sequence[MixSource]) -> list[int]:
    """Return how many rows are drawn from each source: by the weights, of as many as all sources have together.

    A cap makes the whole mix smaller, so that its source gives no more than that and the shares stay those of the
    weights.

    Args:
        sizes: rows of each source.
    """
    weights = [source.weight for source in sources]
    total = float(sum(sizes))
    for source in sources:
        if source.cap is not None:
            total = min(total, source.cap * sum(weights) / source.weight)
    counts = shares(max(1, int(total + 1e-9)), weights)
    return [
        count if source.cap is None else min(count, source.cap) for count, source in zip(counts, sources, strict=True)
    ]


def shares(total: int, weights: Sequence[float]) -> list[int]:
    """Split `total` in proportion to `weights` into whole numbers that add up to it (largest remainders)."""
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(weights)), key=lambda k: (counts[k] - exact[k], k))
    for k in by_remainder[: total - sum(counts)]:
        counts[k] += 1
    return counts


def draw_mix(
    parts: Sequence[Sequence[Row]], sources: Sequence[MixSource], seed: int, limit: int | None = None
) -> tuple[list[Row], list[DrawnSource]]:
    """Return the rows of a mix in the order of the run, and what came from each source.

    A source with more rows than its share gives a part of them, one with fewer gives rows again (each once more before
    any twice more).

    Args:
        parts: rows of each source; none is empty.
        limit: only the first so many.
    """
    drawn: list[tuple[bytes, int, Row]] = []
    for number, (rows, count) in enumerate(zip(parts, mix_counts([*map(len, parts)], sources), strict=True)):
        ranked = sorted(rows, key=lambda row: _hash(seed, number, 0, row))
        for k in range(count):
            row = ranked[k % len(ranked)]
            drawn.append((_hash(seed, number, 1 + k // len(ranked), row), number, row))
    drawn = sorted(drawn, key=lambda item: item[0])[:limit]
    times = [Counter(row.key for _, of, row in drawn if of == number) for number in range(len(parts))]
    found = [
        DrawnSource(*source, len(part), count.total(), len(count), max(count.values(), default=0))
        for source, part, count in zip(sources, parts, times, strict=True)
    ]
    return [row for _, _, row in drawn], found


def expect_mix(sizes: Sequence[int], sources: Sequence[MixSource], limit: int | None = None) -> list[DrawnSource]:
    """Return what `draw_mix` will draw from sources of these sizes; with a limit, about."""
    counts = mix_counts(sizes, sources)
    if limit is not None and limit < sum(counts):
        counts = shares(limit, counts)
    return [
        DrawnSource(*source, size, count, min(size, count), -(-count // size) if size else 0)
        for source, size, count in zip(sources, sizes, counts, strict=True)
    ]


def mix_lines(drawn: Sequence[DrawnSource]) -> list[str]:
    """Return the printed table; nothing for a run of one source."""
    if len(drawn) < 2:
        return []
    total, width = max(1, sum(item.drawn for item in drawn)), max(len(item.path) for item in drawn)
    head = f"{'rows from':<{width}}  {'rows':>9}  {'weight':>6}  {'cap':>9}  {'drawn':>9}   share  "
    head += f"{'different':>9}  most often"
    lines = [
        f"{item.path:<{width}}  {item.rows:>9}  {item.weight:>6g}  {'-' if item.cap is None else item.cap:>9}"
        f"  {item.drawn:>9}  {100 * item.drawn / total:>4.1f} %  {item.different:>9}  {item.most:>9}x"
        for item in drawn
    ]
    return [head, *lines]


def write_mix(folder: Path, drawn: Sequence[DrawnSource], seed: int) -> None:
    """Write mix.json into the folder of a run; nothing for a run of one source."""
    if drawn:
        record = {"schema_version": SCHEMA_VERSION, "seed": seed, "sources": [asdict(item) for item in drawn]}
        write_atomic(folder / MIX_NAME, json.dumps(record, indent=1) + "\n")


def read_mix(folder: Path) -> list[DrawnSource]:
    """Return what a run drew from its sources, nothing for a run of one source.

    Raises:
        DataError: its mix.json is broken.
    """
    path = folder / MIX_NAME
    if not path.is_file():
        return []
    data = read_record(path, _SHAPE, "restore the file that the run wrote", schema_version=SCHEMA_VERSION)
    return [DrawnSource(**source) for source in data["sources"]]


def _hash(seed: int, source: int, turn: int, row: Row) -> bytes:
    return blake2b(f"{seed}\0{source}\0{turn}\0{row.key}".encode(), digest_size=8).digest()
