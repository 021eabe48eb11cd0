"""Draw demo rooms from (seed, index, preset): scan id, floor plan, camera spot, furniture placed without overlap."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vsgrpo.errors import ConfigError
from vsgrpo.scans.demo.rooms import CATALOGUE, CEILING, EYE_HEIGHT, PRESETS, Furniture, Preset, Room, floor_polygon

Floats = NDArray[np.float64]

_WALL_GAP, _OBJECT_GAP = 0.02, 0.08
_CAMERA_SPACE = 0.9
_NUM_CANDIDATES = 48
_INDEX_DIGITS = 10_000


@dataclass(frozen=True)
class _Shell:
    """A room without furniture, with the camera's place in it; see `Room`."""

    kind: Preset
    extent: Floats
    notch: tuple[float, float, float, float] | None
    eye: Floats


def room_truth(seed: int, index: int, preset: str = "easy") -> Room:
    """Return the construction of room `index` of `seed`: the same arguments always give the same room."""
    kind = PRESETS[preset]
    rng = np.random.default_rng([scan_number(seed, index), list(PRESETS).index(preset)])
    low, high = np.log(kind.sides)
    extent = np.exp(rng.uniform(low, high, 2))
    notch = _draw_notch(rng, extent) if rng.random() < kind.share_l_shaped else None
    shell = _Shell(kind, extent, notch, eye=np.array([*_camera_spot(rng, extent, notch), EYE_HEIGHT]))
    objects: list[Furniture] = []
    while not objects:
        objects = _furnish(rng, shell)
    return Room(
        scan_id=scan_id_of(seed, index),
        preset=kind,
        extent=extent,
        notch=notch,
        objects=tuple(objects),
        eye=shell.eye,
        heading=rng.uniform(0, 2 * math.pi),
        alignment=_draw_alignment(rng),
        wall_rgb=(np.array([226, 220, 208]) + rng.uniform(-4, 4, 3)).astype(np.float32),
        floor_rgb=(np.array([104, 88, 74]) * rng.uniform(0.95, 1.05)).astype(np.float32),
    )


def scan_id_of(seed: int, index: int) -> str:
    """Return the scan id of room `index` of `seed`, e.g. "demo000000_00"."""
    return f"demo{scan_number(seed, index):06d}_00"


def scan_number(seed: int, index: int) -> int:
    """Return the number in a scan id: seed * 10000 + index.

    Every pair with 0 <= index < 10000 has its own number; seeds 0-99 stay within six digits, larger ones use more.

    Raises:
        ConfigError: `index` outside 0-9999.
    """
    if not 0 <= index < _INDEX_DIGITS:
        raise ConfigError(
            f"demo room index={index}: a seed has rooms 0 to {_INDEX_DIGITS - 1}",
            hint="use fewer rooms (source.num_scenes) or a second seed",
        )
    return seed * _INDEX_DIGITS + index


def room_index(scan_id: str) -> int:
    """Return the index of the room that has this scan id."""
    return int(scan_id.removeprefix("demo").partition("_")[0]) % _INDEX_DIGITS


def _draw_notch(rng: np.random.Generator, extent: Floats) -> tuple[float, float, float, float]:
    """Cut 30-50 % of both sides away at one of the four corners."""
    size = extent * rng.uniform(0.3, 0.5, 2)
    right, top = rng.integers(0, 2, 2)
    x0 = extent[0] - size[0] if right else 0.0
    y0 = extent[1] - size[1] if top else 0.0
    return (x0, y0, extent[0] if right else size[0], extent[1] if top else size[1])


def _camera_spot(rng: np.random.Generator, extent: Floats, notch: tuple[float, float, float, float] | None) -> Floats:
    """Return (2,): near the centre, or in an L where both arms are in view, on the diagonal to its inner corner."""
    shift = rng.uniform(-0.2, 0.2, 2)
    if notch is None:
        return extent / 2 + shift
    x0, y0, x1, y1 = notch
    inner = np.array([x0 if x0 > 0 else x1, y0 if y0 > 0 else y1])
    outer = np.array([0.0 if x0 > 0 else extent[0], 0.0 if y0 > 0 else extent[1]])
    return outer + 0.62 * (inner - outer) + shift * 0.5


def _draw_alignment(rng: np.random.Generator) -> Floats:
    """Return a raw -> aligned matrix: a yaw of 10 to 80 degrees and a shift, as real scans have."""
    yaw = math.radians(rng.uniform(10, 80)) * rng.choice([-1, 1])
    matrix = np.eye(4)
    matrix[:2, :2] = [[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]]
    matrix[:3, 3] = [*rng.uniform(-4, 4, 2), rng.uniform(-0.3, 0.3)]
    return matrix


def _furnish(rng: np.random.Generator, shell: _Shell) -> list[Furniture]:
    """Draw categories and counts, place them and return the objects in a shuffled (annotation) order."""
    kind = shell.kind
    low, high = kind.num_instances
    number = rng.integers(kind.num_categories[0], min(kind.num_categories[1], len(kind.categories)) + 1)
    names = [str(name) for name in rng.choice(kind.categories, size=number, replace=False)]
    names.sort(key=lambda name: -CATALOGUE[name].size[0] * CATALOGUE[name].size[1])
    # Round by round, largest first: a crowded room loses repeats before it loses a category.
    counts = {name: min(rng.integers(low, high + 1), CATALOGUE[name].most) for name in names}
    wanted = [name for turn in range(high) for name in names if turn < counts[name]]
    fixed = [(*shell.eye[:2], _CAMERA_SPACE / 2, _CAMERA_SPACE / 2, 0.0)]
    if shell.notch is not None:
        x0, y0, x1, y1 = shell.notch
        fixed.append(((x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2, (y1 - y0) / 2, 0.0))
    objects: list[Furniture] = []
    for name in wanted:
        item = _place(rng, shell, name, np.array(fixed), objects)
        if item is not None:
            objects.append(item)
    return [objects[i] for i in rng.permutation(len(objects))]


def _place(
    rng: np.random.Generator, shell: _Shell, category: str, fixed: Floats, objects: list[Furniture]
) -> Furniture | None:
    """Return the object at the first of many random spots that is free and in view, or None.

    Rectangles are rows (x, y, half width, half depth, yaw); `fixed` holds those that are no furniture.
    """
    kind, piece = shell.kind, CATALOGUE[category]
    size = np.array(piece.size) * kind.scale * math.exp(rng.uniform(-kind.jitter, kind.jitter))
    size[2] = min(size[2], CEILING - piece.lift - 0.1)
    spots = _draw_spots(rng, shell, piece.at_wall, size)
    corners = _corners(spots)
    placed = np.array([(*item.center, item.size[0] / 2, item.size[1] / 2, item.yaw) for item in objects]).reshape(-1, 5)
    taken = np.concatenate([fixed, placed])
    gap = np.where(np.arange(len(taken)) < len(fixed), 0.0, _OBJECT_GAP)
    free = ((corners > 0) & (corners < shell.extent)).all(axis=(1, 2)) & ~_overlaps(spots, taken, gap).any(axis=1)
    open_spots = np.flatnonzero(free)
    if len(open_spots) and objects:
        spots = spots[open_spots]
        free = (_covered_share(spots, placed, shell.eye[:2]) <= kind.max_overlap).all(axis=1)
    if not free.any():
        return None
    spot = spots[int(np.argmax(free))]
    return Furniture(category, spot[:2], size, float(spot[4]), piece.lift, float(rng.uniform(0.88, 1.08)))


def _draw_spots(rng: np.random.Generator, shell: _Shell, at_wall: bool, size: Floats) -> Floats:
    """Return candidate rectangles (K, 5): along the walls for pieces that belong there, else anywhere."""
    polygon = floor_polygon(shell.extent, shell.notch)
    share = rng.random(_NUM_CANDIDATES)
    half = np.broadcast_to(size[:2] / 2, (_NUM_CANDIDATES, 2))
    if at_wall:
        start, step = polygon, np.roll(polygon, -1, axis=0) - polygon
        length = np.hypot(step[:, 0], step[:, 1])
        wall = rng.choice(len(polygon), size=_NUM_CANDIDATES, p=length / length.sum())
        along = step[wall] / length[wall, None]
        inward = np.stack([-along[:, 1], along[:, 0]], axis=1)
        slack = length[wall] - size[0] - 2 * _WALL_GAP
        center = start[wall] + along * (_WALL_GAP + size[0] / 2 + share * slack)[:, None]
        center = center + inward * (_WALL_GAP + size[1] / 2)
        # Local +y, the back, looks out of the room: (-sin yaw, cos yaw) = -inward.
        yaw = np.arctan2(inward[:, 0], -inward[:, 1])
        center[slack < 0] = -1.0
        return np.column_stack([center, half, yaw])
    low, high = polygon.min(axis=0), polygon.max(axis=0)
    center = rng.uniform(low, high, (_NUM_CANDIDATES, 2))
    if shell.kind.is_free_yaw:
        yaw = share * 2 * math.pi
    else:
        # The front, local -y, looks along the axis that comes closest to the camera.
        to_eye = shell.eye[:2] - center
        yaw = np.round((np.arctan2(to_eye[:, 1], to_eye[:, 0]) + math.pi / 2) / (math.pi / 2)) * (math.pi / 2)
    return np.column_stack([center, half, yaw])


def _corners(rectangles: Floats) -> Floats:
    """Return the corners (N, 4, 2) of rectangles (N, 5)."""
    c, s = np.cos(rectangles[:, 4, None]), np.sin(rectangles[:, 4, None])
    x = rectangles[:, 2, None] * np.array([-1, 1, 1, -1])
    y = rectangles[:, 3, None] * np.array([-1, -1, 1, 1])
    return np.stack([rectangles[:, 0, None] + c * x - s * y, rectangles[:, 1, None] + s * x + c * y], axis=2)


def _overlaps(a: Floats, b: Floats, gap: Floats) -> NDArray[np.bool_]:
    """Tell for rectangles a (K, 5) and b (M, 5) which pairs (K, M) are less than about `gap` (M,) apart.

    Separating-axis test: two convex shapes are disjoint if their projections on some edge normal are.
    """
    shift = b[None, :, :2] - a[:, None, :2]
    apart = np.zeros(shift.shape[:2], dtype=bool)
    turn = b[None, :, 4] - a[:, None, 4]
    cos, sin = np.abs(np.cos(turn)), np.abs(np.sin(turn))
    for own, other in ((a[:, None], b[None]), (b[None], a[:, None])):
        c, s = np.cos(own[..., 4]), np.sin(own[..., 4])
        reach_x = own[..., 2] + other[..., 2] * cos + other[..., 3] * sin + gap
        reach_y = own[..., 3] + other[..., 2] * sin + other[..., 3] * cos + gap
        apart |= np.abs(shift[..., 0] * c + shift[..., 1] * s) >= reach_x
        apart |= np.abs(shift[..., 1] * c - shift[..., 0] * s) >= reach_y
    return ~apart


def _covered_share(a: Floats, b: Floats, eye: Floats) -> Floats:
    """Return (K, M): the overlap of the bearing ranges of a and b seen from `eye`, over the smaller range."""
    ranges = []
    for rectangles in (a, b):
        to_center = rectangles[:, :2] - eye
        middle = np.arctan2(to_center[:, 1], to_center[:, 0])
        to_corners = _corners(rectangles) - eye
        turn = np.arctan2(to_corners[..., 1], to_corners[..., 0]) - middle[:, None]
        turn = (turn + math.pi) % (2 * math.pi) - math.pi
        ranges.append((middle + (turn.max(axis=1) + turn.min(axis=1)) / 2, (turn.max(axis=1) - turn.min(axis=1)) / 2))
    (middle_a, half_a), (middle_b, half_b) = ranges
    distance = np.abs((middle_a[:, None] - middle_b + math.pi) % (2 * math.pi) - math.pi)
    overlap = half_a[:, None] + half_b - distance
    smaller = 2 * np.minimum(half_a[:, None], half_b)
    return np.clip(overlap, 0, smaller) / smaller
