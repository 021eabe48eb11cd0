"""Demo rooms as values: furniture, presets, the room itself (`plan.room_truth` draws one) and its camera.

Everything here is in the aligned frame: metres, z up, floor at z = 0, walls along x and y. A `Room` is the known
construction that a reader of the written scan has to find again. Furniture are composite silhouettes made of a few
coloured boxes, in `furniture.toml`.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vsgrpo.spatial.scene import Box

CEILING = 2.6
"""Ceiling height in metres, the same everywhere: with the eye height it ties picture rows to distances."""
EYE_HEIGHT = 1.5


# --- furniture ---

Part = Sequence[Any]
"""x0, x1, y0, y1, z0, z1, colour: a factor on the piece's own colour, or RGB."""


@dataclass(frozen=True)
class Piece:
    """One category of furniture.

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
    """Return a piece from its table in `furniture.toml`."""
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
_TABLES = tomllib.loads(Path(__file__).with_name("furniture.toml").read_text(encoding="utf-8"))
CATALOGUE: dict[str, Piece] = {name: _piece(**table) for name, table in _TABLES.items()}


# --- rooms ---


@dataclass(frozen=True)
class Preset:
    """How rooms of one kind are made.

    Attributes:
        categories: names of `CATALOGUE` to draw from.
        num_categories: least and most categories of a room.
        num_instances: least and most objects of a category; what finds no place is left out.
        sides: least and most side length in metres, log-uniform.
        scale: all furniture is this much larger than life.
        jitter: half width of the log-uniform size variation of one object.
        share_l_shaped: share of L-shaped rooms.
        is_free_yaw: pieces that stand free turn by any angle, else by multiples of 90 degrees.
        max_overlap: largest share of an object's width, seen from the camera, that another may cover.
        camera: "stops" (four headings 90 degrees apart, frames of a stop 2 degrees apart) or "turn" (one even turn).
        hfov_degrees, pitch_degrees: of the camera.
        floor: "checker" (0.5 m) or "planks" (0.2 m wide).
    """

    categories: tuple[str, ...]
    num_categories: tuple[int, int]
    num_instances: tuple[int, int]
    sides: tuple[float, float]
    scale: float
    jitter: float
    share_l_shaped: float
    is_free_yaw: bool
    max_overlap: float
    camera: str
    hfov_degrees: float
    pitch_degrees: float
    floor: str


PRESETS: dict[str, Preset] = {
    # Few, large categories and views that tile the room: what a very small model can learn to count and measure.
    "easy": Preset(
        categories=("chair", "sofa", "plant", "cabinet"),
        num_categories=(1, 3),
        num_instances=(1, 5),
        sides=(3.6, 9.0),
        scale=1.4,
        jitter=0.25,
        share_l_shaped=0.0,
        is_free_yaw=False,
        max_overlap=0.5,
        camera="stops",
        hfov_degrees=90.0,
        pitch_degrees=-15.0,
        floor="checker",
    ),
    "furnished": Preset(
        categories=tuple(CATALOGUE),
        num_categories=(6, 10),
        num_instances=(1, 4),
        sides=(3.6, 8.0),
        scale=1.0,
        jitter=0.15,
        share_l_shaped=0.4,
        is_free_yaw=True,
        max_overlap=0.85,
        camera="turn",
        hfov_degrees=80.0,
        pitch_degrees=-15.0,
        floor="planks",
    ),
}


@dataclass(frozen=True)
class Furniture:
    """One placed object.

    Attributes:
        category: name in `CATALOGUE`, the label that is written.
        center: (2,) of the footprint in metres.
        size: (3,) width, depth, height in metres.
        yaw: radians about z; local +x turns to (cos, sin).
        lift: height of the lowest point in metres.
        tone: factor on the main colour.
    """

    category: str
    center: NDArray[np.float64]
    size: NDArray[np.float64]
    yaw: float
    lift: float
    tone: float

    @property
    def box(self) -> Box:
        """The upright box that the object fills exactly."""
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        axes = np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])
        centroid = np.array([*self.center, self.lift + self.size[2] / 2])
        return Box(centroid=centroid, axes_lengths=self.size, axes=axes)


@dataclass(frozen=True)
class Parts:
    """All boxes of a room. P parts; each is centre +- half along axes turned by its yaw.

    Attributes:
        center, half: (P, 3) metres; half edge lengths.
        yaw: (P,) radians about z.
        rgb: (P, 3) 0-255, unshaded.
        owner: (P,) index into `Room.objects`.
    """

    center: NDArray[np.float64]
    half: NDArray[np.float64]
    yaw: NDArray[np.float64]
    rgb: NDArray[np.float32]
    owner: NDArray[np.int64]

    def points(self, signs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (P, K, 3) the points of every box at `signs` (K, 3), counted in half edges from its centre."""
        x, y, z = np.moveaxis(signs * self.half[:, None], -1, 0)
        cos, sin = np.cos(self.yaw)[:, None], np.sin(self.yaw)[:, None]
        return np.stack([cos * x - sin * y, sin * x + cos * y, z], axis=-1) + self.center[:, None]


@dataclass(frozen=True)
class Room:
    """The known construction of one demo scan, in the aligned frame.

    Attributes:
        extent: (2,) the room's bounding rectangle spans (0, 0) to this, metres.
        notch: (x0, y0, x1, y1) of the rectangle missing from an L-shaped room, else None.
        objects: in annotation order: `objects[i]` is written as the i-th instance.
        eye: (3,) camera position, heading: radians of the first view.
        alignment: (4, 4) raw -> aligned, never the identity.
        wall_rgb, floor_rgb: base colours 0-255.
    """

    scan_id: str
    preset: Preset
    extent: NDArray[np.float64]
    notch: tuple[float, float, float, float] | None
    objects: tuple[Furniture, ...]
    eye: NDArray[np.float64]
    heading: float
    alignment: NDArray[np.float64]
    wall_rgb: NDArray[np.float32]
    floor_rgb: NDArray[np.float32]

    @property
    def polygon(self) -> NDArray[np.float64]:
        """(4 or 6, 2) floor corners in metres, counter-clockwise."""
        return floor_polygon(self.extent, self.notch)

    @property
    def area(self) -> float:
        """Floor area in square metres."""
        x0, y0, x1, y1 = self.notch or (0.0, 0.0, 0.0, 0.0)
        return float(self.extent[0] * self.extent[1] - (x1 - x0) * (y1 - y0))

    @cached_property
    def parts(self) -> Parts:
        """All boxes of all objects."""
        center, half, yaw, rgb, owner = [], [], [], [], []
        for number, item in enumerate(self.objects):
            piece = CATALOGUE[item.category]
            local = (piece.lo + piece.hi) / 2 * item.size
            c, s = math.cos(item.yaw), math.sin(item.yaw)
            x = item.center[0] + c * local[:, 0] - s * local[:, 1]
            y = item.center[1] + s * local[:, 0] + c * local[:, 1]
            center.append(np.stack([x, y, item.lift + local[:, 2]], axis=1))
            half.append((piece.hi - piece.lo) / 2 * item.size)
            yaw.append(np.full(len(local), item.yaw))
            rgb.append(np.where(piece.is_main[:, None], piece.rgb * np.float32(item.tone), piece.rgb))
            owner.append(np.full(len(local), number))
        return Parts(*(np.concatenate(column) for column in (center, half, yaw, rgb, owner)))


def floor_polygon(extent: NDArray[np.float64], notch: tuple[float, float, float, float] | None) -> NDArray[np.float64]:
    """Return the (4 or 6, 2) corners of the rectangle (0, 0)-`extent` without `notch`, counter-clockwise."""
    width, depth = extent
    corners = [(0.0, 0.0), (width, 0.0), (width, depth), (0.0, depth)]
    if notch is None:
        return np.array(corners)
    x0, y0, x1, y1 = notch
    cut = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    at = next(i for i in range(4) if cut[i] == corners[i])
    # Going round, the lost corner is replaced by the notch's other three, met in clockwise order.
    bypass = [cut[(at - 1) % 4], cut[(at + 2) % 4], cut[(at + 1) % 4]]
    return np.array(corners[:at] + bypass + corners[at + 1 :])


def camera_poses(room: Room, num_frames: int) -> NDArray[np.float64]:
    """Return (T, 4, 4) camera -> aligned frame, camera axes x right, y down, z forward.

    "stops": min(4, T) headings 90 degrees apart; the frames of a stop differ by 2 degrees, so a pair of frames shows
    one view and the views tile the room. "turn": T even headings on a circle of 0.25 m round the eye, looking out.
    """
    frame = np.arange(num_frames)
    if room.preset.camera == "stops":
        stops = min(4, num_frames)
        stop = frame * stops // num_frames
        first = np.searchsorted(stop, np.arange(stops))
        heading = room.heading + stop * (2 * math.pi / 4) + np.radians(2.0) * (frame - first[stop])
        radius = 0.0
    else:
        heading = room.heading + frame * (2 * math.pi / num_frames)
        radius = 0.25
    pitch = math.radians(room.preset.pitch_degrees)
    cos, sin = np.cos(heading), np.sin(heading)
    zero = np.zeros(num_frames)
    forward = np.stack([cos * math.cos(pitch), sin * math.cos(pitch), zero + math.sin(pitch)], axis=1)
    right = np.stack([sin, -cos, zero], axis=1)
    poses = np.tile(np.eye(4), (num_frames, 1, 1))
    poses[:, :3, 0] = right
    poses[:, :3, 1] = np.cross(forward, right)
    poses[:, :3, 2] = forward
    poses[:, :3, 3] = room.eye + radius * np.stack([cos, sin, zero], axis=1)
    return poses


def camera_matrix(height: int, width: int, hfov_degrees: float) -> NDArray[np.float64]:
    """Return the (4, 4) pinhole matrix of square pixels with the horizontal field of view; pixel centres at +0.5."""
    focal = width / 2 / math.tan(math.radians(hfov_degrees) / 2)
    matrix = np.eye(4)
    matrix[0, 0] = matrix[1, 1] = focal
    matrix[0, 2], matrix[1, 2] = width / 2, height / 2
    return matrix
