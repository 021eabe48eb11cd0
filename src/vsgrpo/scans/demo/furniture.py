"""Furniture of the embedded demo rooms: composite silhouettes made of a few coloured boxes, in `furniture.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Part = Sequence[Any]
"""x0, x1, y0, y1, z0, z1, colour: a factor on the piece's own colour, or RGB."""


@dataclass(frozen=True)
class Piece:
    """One category.

    Attributes:
        size: (width, depth, height) in metres before scaling.
        nyu40id: class id of the label table (ScanNet's `scannetv2-labels.combined.tsv` numbering).
        lo, hi: (P, 3) part corners in fractions of `size`.
        rgb: (P, 3) float32 part colours.
        is_main: (P,) parts that carry the main colour (and its per-object variation).
        at_wall: stands with its back to a wall.
        lift: height of its lowest point in metres; hung on the wall when > 0.
        most: a room never has more of them.
    """

    size: tuple[float, ...]
    nyu40id: int
    lo: NDArray[np.float64]
    hi: NDArray[np.float64]
    rgb: NDArray[np.float32]
    is_main: NDArray[np.bool_]
    at_wall: bool = False
    lift: float = 0.0
    most: int = 5


def _piece(
    size: Sequence[float],
    color: Sequence[int],
    nyu40id: int,
    parts: Sequence[Part] = (),
    legs: tuple[float, float, float] | None = None,
    made: str = "",
    **more: Any,
) -> Piece:
    """Return a piece from its table in the file."""
    parts = [*(_legs(*legs) if legs else []), *parts, *(_MADE[made]() if made else [])]
    bounds = np.array([part[:6] for part in parts], dtype=np.float64)
    is_main = [isinstance(tone, float) for *_, tone in parts]
    rgb = [np.multiply(color, tone) if isinstance(tone, float) else tone for *_, tone in parts]
    rgb = np.clip(np.array(rgb, dtype=np.float32), 0, 255)
    return Piece(tuple(size), nyu40id, bounds[:, 0::2], bounds[:, 1::2], rgb, np.array(is_main), **more)


def _legs(width: float, height: float, tone: float) -> list[Part]:
    """Four legs at the corners of the footprint; `width` in fractions of both sides."""
    low, high = (-0.5, -0.5 + width), (0.5 - width, 0.5)
    return [(*x, *y, 0.0, height, tone) for x in (low, high) for y in (low, high)]


def _leaves() -> list[Part]:
    """Nine leaf blocks: four at the footprint's corners, four between them, one on top."""
    base, dark, mid, light = 0.46, 0.75, 1.0, 1.25
    corner, between = base + 0.14, base + 0.04
    return [
        (-0.50, -0.16, -0.50, -0.16, base, corner + 0.12, dark),
        (0.16, 0.50, -0.50, -0.16, corner, corner + 0.18, mid),
        (-0.50, -0.16, 0.16, 0.50, corner, corner + 0.22, mid),
        (0.16, 0.50, 0.16, 0.50, base, corner + 0.12, dark),
        (-0.24, 0.24, -0.42, 0.0, between, between + 0.26, light),
        (-0.24, 0.24, 0.0, 0.42, between, between + 0.30, mid),
        (-0.42, 0.0, -0.24, 0.24, between + 0.14, between + 0.36, dark),
        (0.0, 0.42, -0.24, 0.24, between + 0.10, between + 0.32, light),
        (-0.18, 0.18, -0.18, 0.18, corner, 1.0, light),
    ]


def _books() -> list[Part]:
    """Three shelves of books in fixed widths and colours."""
    colors = [(178, 58, 48), (52, 92, 150), (222, 190, 90), (60, 120, 84), (235, 228, 212), (110, 70, 120)]
    parts: list[Part] = []
    for row, floor in enumerate((0.06, 0.30, 0.54, 0.78)):
        left = -0.44
        for number in range(7 - row % 2):
            width = 0.07 + 0.02 * ((3 * number + 2 * row) % 4)
            top = floor + 0.13 + 0.02 * ((number + row) % 3)
            parts.append((left, left + width, -0.40, 0.42, floor, top, colors[(2 * number + row) % 6]))
            left += width + 0.012
    return parts


_MADE = {"leaves": _leaves, "books": _books}
_TABLES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
CATALOGUE: dict[str, Piece] = {name: _piece(**table) for name, table in _TABLES.items()}
