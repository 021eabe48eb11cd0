"""Furniture of the embedded demo rooms: composite silhouettes made of a few coloured boxes.

A piece is a list of parts in fractions of its own size: x in [-.5, .5] (width), y in [-.5, .5] (depth, the front looks
to -y, the back stands at +y), z in [0, 1]. In every piece some parts reach all four corners of the footprint rectangle
and both ends of z, so the smallest upright box round its vertices is exactly `Piece.size`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Part = tuple[float, float, float, float, float, float, str | tuple[int, int, int]]
"""(x0, x1, y0, y1, z0, z1, colour): colour is an RGB triple or "main*f", the piece's own colour times f."""


@dataclass(frozen=True)
class Piece:
    """One category.

    Attributes:
        size: (width, depth, height) in metres before scaling.
        color: its main colour, RGB 0-255.
        nyu40id: class id of the label table (ScanNet's `scannetv2-labels.combined.tsv` numbering).
        lo, hi: (P, 3) part corners in fractions of `size`.
        rgb: (P, 3) float32 part colours.
        is_main: (P,) parts that carry the main colour (and its per-object variation).
        at_wall: stands with its back to a wall.
        lift: height of its lowest point in metres; hung on the wall when > 0.
        most: a room never has more of them.
    """

    size: tuple[float, float, float]
    color: tuple[int, int, int]
    nyu40id: int
    lo: NDArray[np.float64]
    hi: NDArray[np.float64]
    rgb: NDArray[np.float32]
    is_main: NDArray[np.bool_]
    at_wall: bool
    lift: float
    most: int


def _piece(
    size: tuple[float, float, float],
    color: tuple[int, int, int],
    nyu40id: int,
    parts: list[Part],
    *,
    at_wall: bool = False,
    lift: float = 0.0,
    most: int = 5,
) -> Piece:
    bounds = np.array([part[:6] for part in parts], dtype=np.float64)
    rgb, is_main = [], []
    for *_, tone in parts:
        is_main.append(isinstance(tone, str))
        rgb.append(np.multiply(color, float(tone.removeprefix("main*"))) if isinstance(tone, str) else tone)
    return Piece(
        size=size,
        color=color,
        nyu40id=nyu40id,
        lo=bounds[:, 0::2],
        hi=bounds[:, 1::2],
        rgb=np.clip(np.array(rgb, dtype=np.float32), 0, 255),
        is_main=np.array(is_main),
        at_wall=at_wall,
        lift=lift,
        most=most,
    )


def _legs(width: float, height: float, tone: str | tuple[int, int, int]) -> list[Part]:
    """Four legs at the corners of the footprint; `width` in fractions of both sides."""
    low, high = (-0.5, -0.5 + width), (0.5 - width, 0.5)
    return [(*x, *y, 0.0, height, tone) for x in (low, high) for y in (low, high)]


def _leaves(base: float, tones: tuple[float, float, float]) -> list[Part]:
    """Nine leaf blocks: four at the footprint's corners, four between them, one on top."""
    dark, mid, light = (f"main*{tone}" for tone in tones)
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


_DARK, _STEEL, _WHITE, _GLASS = (48, 46, 50), (176, 178, 182), (240, 238, 232), (168, 205, 232)

CATALOGUE: dict[str, Piece] = {
    "chair": _piece(
        (0.48, 0.50, 0.92),
        (214, 74, 42),
        5,
        [
            *_legs(0.15, 0.45, "main*0.55"),
            (-0.5, 0.5, -0.5, 0.5, 0.45, 0.53, "main*1.0"),
            (-0.5, 0.5, 0.36, 0.5, 0.60, 1.0, "main*0.9"),
            (-0.46, -0.34, 0.38, 0.48, 0.53, 0.60, "main*0.6"),
            (0.34, 0.46, 0.38, 0.48, 0.53, 0.60, "main*0.6"),
        ],
    ),
    "sofa": _piece(
        (1.80, 0.86, 0.80),
        (46, 84, 190),
        6,
        [
            (-0.5, 0.5, -0.5, 0.5, 0.0, 0.36, "main*0.8"),
            (-0.5, 0.5, 0.24, 0.5, 0.36, 1.0, "main*0.9"),
            (-0.5, -0.39, -0.5, 0.24, 0.36, 0.68, "main*0.9"),
            (0.39, 0.5, -0.5, 0.24, 0.36, 0.68, "main*0.9"),
            (-0.385, -0.005, -0.48, 0.24, 0.36, 0.54, "main*1.3"),
            (0.005, 0.385, -0.48, 0.24, 0.36, 0.54, "main*1.3"),
        ],
    ),
    "plant": _piece(
        (0.52, 0.52, 1.15),
        (52, 156, 58),
        40,
        [
            (-0.26, 0.26, -0.26, 0.26, 0.0, 0.28, (120, 74, 66)),
            (-0.30, 0.30, -0.30, 0.30, 0.28, 0.34, (138, 88, 78)),
            (-0.06, 0.06, -0.06, 0.06, 0.34, 0.60, (86, 78, 40)),
            *_leaves(0.46, (0.75, 1.0, 1.25)),
        ],
    ),
    "cabinet": _piece(
        (0.95, 0.45, 1.10),
        (226, 172, 66),
        3,
        [
            (-0.5, 0.5, -0.42, 0.5, 0.05, 0.95, "main*0.85"),
            (-0.46, 0.46, -0.38, 0.46, 0.0, 0.05, _DARK),
            (-0.5, 0.5, -0.5, 0.5, 0.95, 1.0, "main*0.7"),
            (-0.48, -0.01, -0.47, -0.42, 0.08, 0.92, "main*1.0"),
            (0.01, 0.48, -0.47, -0.42, 0.08, 0.92, "main*1.0"),
            (-0.08, -0.04, -0.5, -0.47, 0.45, 0.65, _DARK),
            (0.04, 0.08, -0.5, -0.47, 0.45, 0.65, _DARK),
        ],
        at_wall=True,
    ),
    "table": _piece(
        (1.40, 0.80, 0.74),
        (156, 104, 62),
        7,
        [*_legs(0.07, 0.92, "main*0.7"), (-0.5, 0.5, -0.5, 0.5, 0.92, 1.0, "main*1.1")],
    ),
    "bed": _piece(
        (1.60, 2.05, 0.95),
        (126, 84, 150),
        4,
        [
            (-0.5, 0.5, -0.5, 0.46, 0.0, 0.26, (112, 76, 50)),
            (-0.48, 0.48, -0.49, 0.45, 0.26, 0.50, _WHITE),
            (-0.5, 0.5, -0.5, 0.14, 0.28, 0.55, "main*1.0"),
            (-0.5, 0.5, 0.08, 0.16, 0.52, 0.57, "main*1.35"),
            (-0.42, -0.05, 0.20, 0.42, 0.50, 0.62, (250, 248, 244)),
            (0.05, 0.42, 0.20, 0.42, 0.50, 0.62, (250, 248, 244)),
            (-0.5, 0.5, 0.46, 0.5, 0.0, 1.0, (128, 88, 58)),
        ],
        at_wall=True,
        most=2,
    ),
    "bookshelf": _piece(
        (0.95, 0.32, 1.85),
        (134, 92, 56),
        10,
        [
            (-0.5, -0.46, -0.5, 0.5, 0.0, 1.0, "main*1.0"),
            (0.46, 0.5, -0.5, 0.5, 0.0, 1.0, "main*1.0"),
            (-0.46, 0.46, 0.44, 0.5, 0.0, 1.0, "main*0.6"),
            *[(-0.46, 0.46, -0.5, 0.44, z, z + 0.03, "main*1.1") for z in (0.03, 0.27, 0.51, 0.75, 0.97)],
            *_books(),
        ],
        at_wall=True,
    ),
    "lamp": _piece(
        (0.42, 0.42, 1.60),
        (244, 222, 150),
        35,
        [
            (-0.32, 0.32, -0.32, 0.32, 0.0, 0.025, _DARK),
            (-0.05, 0.05, -0.05, 0.05, 0.025, 0.80, _DARK),
            (-0.5, 0.5, -0.5, 0.5, 0.78, 0.94, "main*1.0"),
            (-0.36, 0.36, -0.36, 0.36, 0.94, 1.0, "main*1.0"),
        ],
    ),
    "refrigerator": _piece(
        (0.72, 0.70, 1.75),
        (206, 212, 216),
        24,
        [
            (-0.5, 0.5, -0.40, 0.5, 0.0, 1.0, "main*0.9"),
            (-0.5, 0.5, -0.47, -0.40, 0.03, 0.62, "main*1.0"),
            (-0.5, 0.5, -0.47, -0.40, 0.64, 1.0, "main*1.0"),
            (-0.44, -0.38, -0.5, -0.47, 0.30, 0.58, (80, 84, 90)),
            (-0.44, -0.38, -0.5, -0.47, 0.68, 0.84, (80, 84, 90)),
            (-0.5, 0.5, -0.5, -0.47, 0.0, 0.03, _DARK),
        ],
        at_wall=True,
        most=1,
    ),
    "nightstand": _piece(
        (0.48, 0.42, 0.55),
        (176, 112, 88),
        32,
        [
            *_legs(0.12, 0.2, "main*0.6"),
            (-0.5, 0.5, -0.44, 0.5, 0.2, 0.95, "main*0.85"),
            (-0.5, 0.5, -0.5, 0.5, 0.95, 1.0, "main*0.7"),
            (-0.45, 0.45, -0.49, -0.44, 0.24, 0.56, "main*1.15"),
            (-0.45, 0.45, -0.49, -0.44, 0.60, 0.92, "main*1.15"),
            (-0.06, 0.06, -0.5, -0.49, 0.38, 0.43, _STEEL),
            (-0.06, 0.06, -0.5, -0.49, 0.74, 0.79, _STEEL),
        ],
        at_wall=True,
    ),
    "trash can": _piece(
        (0.34, 0.34, 0.50),
        (70, 78, 86),
        39,
        [
            (-0.40, 0.40, -0.40, 0.40, 0.0, 0.45, "main*0.85"),
            (-0.46, 0.46, -0.46, 0.46, 0.45, 0.86, "main*1.0"),
            (-0.5, 0.5, -0.5, 0.5, 0.86, 0.94, "main*1.5"),
            (-0.3, 0.3, -0.3, 0.3, 0.94, 1.0, (20, 20, 22)),
        ],
    ),
    "tv": _piece(
        (1.20, 0.10, 0.70),
        (24, 26, 32),
        25,
        [
            (-0.5, 0.5, -0.44, 0.0, 0.0, 1.0, "main*1.0"),
            (-0.5, 0.5, 0.0, 0.5, 0.3, 0.7, _DARK),
            (-0.5, 0.5, -0.5, -0.44, 0.0, 0.07, "main*1.4"),
            (-0.46, 0.46, -0.47, -0.44, 0.09, 0.95, (58, 96, 138)),
        ],
        at_wall=True,
        most=1,
        lift=0.95,
    ),
    "door": _piece(
        (0.94, 0.08, 2.04),
        (164, 118, 76),
        8,
        [
            (-0.5, -0.43, -0.5, 0.5, 0.0, 1.0, _WHITE),
            (0.43, 0.5, -0.5, 0.5, 0.0, 1.0, _WHITE),
            (-0.43, 0.43, -0.5, 0.5, 0.965, 1.0, _WHITE),
            (-0.43, 0.43, -0.2, 0.3, 0.0, 0.965, "main*1.0"),
            (-0.30, 0.30, -0.3, -0.2, 0.56, 0.90, "main*0.8"),
            (-0.30, 0.30, -0.3, -0.2, 0.08, 0.48, "main*0.8"),
            (0.33, 0.39, -0.5, -0.2, 0.49, 0.53, _STEEL),
        ],
        at_wall=True,
        most=2,
    ),
    "window": _piece(
        (1.30, 0.08, 1.20),
        (168, 205, 232),
        9,
        [
            (-0.5, 0.5, 0.1, 0.5, 0.0, 1.0, _GLASS),
            (-0.5, -0.44, -0.5, 0.1, 0.0, 1.0, _WHITE),
            (0.44, 0.5, -0.5, 0.1, 0.0, 1.0, _WHITE),
            (-0.44, 0.44, -0.5, 0.1, 0.0, 0.07, _WHITE),
            (-0.44, 0.44, -0.5, 0.1, 0.93, 1.0, _WHITE),
            (-0.025, 0.025, -0.5, 0.1, 0.07, 0.93, _WHITE),
            (-0.44, 0.44, -0.5, 0.1, 0.48, 0.53, _WHITE),
        ],
        at_wall=True,
        most=3,
        lift=0.95,
    ),
    "washing machine": _piece(
        (0.62, 0.62, 0.86),
        (232, 232, 234),
        39,
        [
            (-0.5, 0.5, -0.46, 0.5, 0.0, 1.0, "main*1.0"),
            (-0.5, 0.5, -0.5, -0.46, 0.84, 1.0, (120, 128, 140)),
            *[(-x, x, -0.48, -0.46, 0.47 - z, 0.47 + z, _STEEL) for x, z in ((0.20, 0.27), (0.29, 0.22), (0.35, 0.15))],
            *[(-x, x, -0.5, -0.48, 0.47 - z, 0.47 + z, (74, 96, 118)) for x, z in ((0.16, 0.18), (0.24, 0.12))],
        ],
        at_wall=True,
        most=1,
    ),
    "toilet": _piece(
        (0.40, 0.68, 0.78),
        (244, 244, 246),
        33,
        [
            (-0.30, 0.30, -0.40, 0.20, 0.0, 0.42, "main*0.9"),
            (-0.5, 0.5, -0.5, 0.20, 0.42, 0.52, "main*1.0"),
            (-0.30, 0.30, -0.38, 0.10, 0.52, 0.525, (150, 190, 210)),
            (-0.5, 0.5, 0.20, 0.5, 0.42, 0.96, "main*1.0"),
            (-0.5, 0.5, 0.20, 0.5, 0.96, 1.0, "main*0.85"),
        ],
        at_wall=True,
        most=1,
    ),
}
