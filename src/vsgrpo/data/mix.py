"""data.mix: rows drawn from several dataset folders by weight."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

from vsgrpo.data.row import Row
from vsgrpo.errors import ConfigError
from vsgrpo.paths import inside


def draw_mix(sources: Sequence[tuple[Sequence[Row], float]], seed: int) -> list[Row]:
    """Return as many rows as all sources have together, from each a share equal to its weight's.

    A source with more rows than its share gives a part of them, one with fewer gives rows again (each once more before
    any twice more). Which ones, and the order of all, are hashes of (seed, key): the same for every process.

    Raises:
        ValueError: no source, an empty one, or weights that are not above 0.
    """
    if (
        not sources
        or not all(rows for rows, _ in sources)
        or not all(0 < weight < float("inf") for _, weight in sources)
    ):
        raise ValueError("draw_mix: sources with rows and weights above 0 are needed")
    total = sum(len(rows) for rows, _ in sources)
    weights = [weight for _, weight in sources]
    drawn: list[tuple[bytes, Row]] = []
    for number, ((rows, _), count) in enumerate(zip(sources, shares(total, weights), strict=True)):
        ranked = sorted(rows, key=lambda row: _hash(seed, number, 0, row))
        for k in range(count):
            row = ranked[k % len(ranked)]
            drawn.append((_hash(seed, number, 1 + k // len(ranked), row), row))
    return [row for _, row in sorted(drawn, key=lambda item: item[0])]


def shares(total: int, weights: Sequence[float]) -> list[int]:
    """Split `total` in proportion to `weights` into whole numbers that add up to it (largest remainders)."""
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(weights)), key=lambda k: (counts[k] - exact[k], k))
    for k in by_remainder[: total - sum(counts)]:
        counts[k] += 1
    return counts


def rebase(rows: Sequence[Row], folder: Path, base: Path) -> list[Row]:
    """Return the rows of a dataset folder with media paths relative to another one.

    Raises:
        DataError: a path that leads out of `folder` by a link: seen from `base` that can no longer be told.
    """
    if folder.resolve() == base.resolve():
        return list(rows)
    try:
        prefix = Path(os.path.relpath(folder.resolve(), base.resolve()))
    except ValueError:  # another drive
        raise ConfigError(f"data.mix: {folder} is not on the disk of {base}", "move one of them") from None
    for path in dict.fromkeys(item["path"] for row in rows for item in row.media):
        inside(folder, path)
    return [
        replace(row, media=tuple({**item, "path": (prefix / item["path"]).as_posix()} for item in row.media))
        for row in rows
    ]


def _hash(seed: int, source: int, turn: int, row: Row) -> bytes:
    return blake2b(f"{seed}\0{source}\0{turn}\0{row.key}".encode(), digest_size=8).digest()
