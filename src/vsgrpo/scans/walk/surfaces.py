"""How demo rooms look: light by face direction, floor patterns, contact shadows, outlines.

The ray caster uses all of it at every pixel; the written mesh carries face light and the floor's tones at its vertices.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vsgrpo.scans.demo.rooms import Room

FLOOR, CEILING, WALL = -1, -2, -3
"""Owner numbers of the room shell, beside the indices into `Room.objects`."""

_CEILING_RGB = (228, 227, 222)
_SKIRTING_HEIGHT = 0.1
_CHECKER, _PLANK_WIDTH, _PLANK_LENGTH = 0.5, 0.2, 1.6
_OUTLINE_MIN_HEIGHT = 100


def face_light(axis: NDArray[np.int8], is_negative: NDArray[np.bool_], yaw: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the light (N,) on faces whose outward normal is + or - `axis` of a box turned by `yaw`.

    1 on top, 0.6 below, 0.7 to 0.88 on the sides by compass direction, so that box edges show.
    """
    bearing = yaw + np.float32(np.pi / 2) * axis + np.float32(np.pi) * is_negative
    side = 0.79 + 0.09 * np.cos(bearing - np.float32(0.9))
    return np.where(axis == 2, np.where(is_negative, 0.6, 1.0), side).astype(np.float32)


def floor_tone(room: Room, xy: NDArray[np.floating], blur: NDArray[np.floating] | float) -> NDArray[np.float32]:
    """Return the factor (N,) of the floor pattern at `xy` (N, 2); `blur` is the metres of floor that a sample covers.

    The pattern fades to its mean where a sample covers more than a tile can show, else far tiles turn to noise.
    """
    # A dark, calm floor against light walls: where they meet is what tells a small model the size of the room.
    # With twice the contrast between tiles the tiny model read room size from 200 rooms hardly better than a constant.
    if room.preset.floor == "checker":
        dark = np.floor(xy / _CHECKER).astype(np.int32).sum(axis=1) & 1
        strength = 0.12 * np.clip((0.8 - np.asarray(blur)) / 0.45, 0, 1)
        return (1 + strength * (1 - 2 * dark)).astype(np.float32)
    row = np.floor(xy[:, 1] / _PLANK_WIDTH)
    along = xy[:, 0] / _PLANK_LENGTH + (row * 0.618) % 1
    plank = np.sin(row * 12.9898 + np.floor(along) * 78.233) * 43758.5453
    tone = 0.2 * (plank - np.floor(plank) - 0.5) * np.clip((0.5 - np.asarray(blur)) / 0.35, 0, 1)
    seam = np.minimum(xy[:, 1] / _PLANK_WIDTH % 1 * _PLANK_WIDTH, along % 1 * _PLANK_LENGTH) < 0.012
    return (1 + tone - 0.35 * seam * np.clip((0.03 - np.asarray(blur)) / 0.02, 0, 1)).astype(np.float32)


def paint_shell(
    room: Room,
    rgb: NDArray[np.float32],
    rays: tuple[NDArray[np.float32], list[NDArray[np.float32]], NDArray[np.float32]],
    owner: NDArray[np.int16],
    face: NDArray[np.int8],
    focal: float,
) -> None:
    """Write the lit colours of floor, ceiling and walls into `rgb` (N, 3).

    Args:
        rays: origin (N, 3), direction three times (N,), depth (N,): a point is origin + depth * direction.
        face: (N,) 2 * axis + 1 where the visible normal points down the axis.
        focal: in pixels; a pixel at depth d spans d / focal metres across the line of sight.
    """
    origin, direction, depth = rays
    faces = np.arange(6, dtype=np.int8)
    light = face_light(faces >> 1, (faces & 1).astype(bool), np.zeros(6, dtype=np.float32))
    rgb[owner == CEILING] = _CEILING_RGB
    wall = np.flatnonzero(owner == WALL)
    height = origin[wall, 2] + depth[wall] * direction[2][wall]
    skirting_share = np.clip(1.5 - depth[wall] / np.float32(focal * _SKIRTING_HEIGHT), 0.3, 1)
    tone = 1 - 0.4 * skirting_share * (height < _SKIRTING_HEIGHT) - 0.16 * np.clip(1 - height / 0.4, 0, 1)
    rgb[wall] = room.wall_rgb * (tone * light[face[wall]])[:, None]
    floor = np.flatnonzero(owner == FLOOR)
    away = np.stack([depth[floor] * direction[axis][floor] for axis in (0, 1)], axis=1)
    xy = origin[floor, :2] + away
    # Seen at a slant, a pixel spans longer on the floor by (line of sight) / (eye height).
    footprint = depth[floor] / np.float32(focal)
    slant = np.sqrt(away[:, 0] ** 2 + away[:, 1] ** 2 + np.float32(room.eye[2] ** 2)) / np.float32(room.eye[2])
    tone = floor_tone(room, xy, footprint * slant) * _contact_shadow(room, xy, float(footprint.min(initial=1.0)))
    rgb[floor] = room.floor_rgb * tone[:, None]


def _contact_shadow(room: Room, xy: NDArray[np.floating], finest: float) -> NDArray[np.float32]:
    """Return the factor (N,) at floor points `xy`: 0.5 under furniture, back to 1 within 0.3 m.

    Worked out on a grid of cells between 3 and 10 cm, as small as the `finest` pixel needs.
    """
    cell = float(np.clip(2 * finest, 0.03, 0.1))
    num_x, num_y = (int(side / cell) + 1 for side in room.extent)
    grid_x = ((np.arange(num_x) + 0.5) * cell).astype(np.float32)[:, None]
    grid_y = ((np.arange(num_y) + 0.5) * cell).astype(np.float32)[None, :]
    nearest = np.full((num_x, num_y), 1.0, dtype=np.float32)
    for item in room.objects:
        if item.lift > 0:
            continue
        reach = float(np.hypot(item.size[0], item.size[1]) / 2 + 0.35)
        (x0, x1), (y0, y1) = (
            (max(int((middle - reach) / cell), 0), int((middle + reach) / cell) + 1) for middle in item.center
        )
        x, y = grid_x[x0:x1] - np.float32(item.center[0]), grid_y[:, y0:y1] - np.float32(item.center[1])
        c, s = np.float32(np.cos(item.yaw)), np.float32(np.sin(item.yaw))
        beyond_x = np.maximum(np.abs(c * x + s * y) - np.float32(item.size[0] / 2), 0)
        beyond_y = np.maximum(np.abs(c * y - s * x) - np.float32(item.size[1] / 2), 0)
        window = nearest[x0:x1, y0:y1]
        np.minimum(window, beyond_x * beyond_x + beyond_y * beyond_y, out=window)
    shadow = (1 - 0.5 * np.exp(-nearest / 0.12**2)).astype(np.float32)
    column = np.clip((xy[:, 0] / cell).astype(np.int32), 0, num_x - 1)
    row = np.clip((xy[:, 1] / cell).astype(np.int32), 0, num_y - 1)
    return shadow[column, row]


def outlines(owner: NDArray[np.int16], part: NDArray[np.int32], depth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the factor (T, H, W) that darkens the farther pixel along object borders.

    The nearer object keeps all its pixels: at 56 pixels a line inside a chair would eat half of it. Borders between
    the parts of one object are drawn (lightly) from 100 rows on.
    """
    factor = np.ones(depth.shape, dtype=np.float32)
    draw_parts = depth.shape[1] >= _OUTLINE_MIN_HEIGHT
    for axis in (1, 2):
        before = (slice(None),) * axis + (slice(None, -1),)
        after = (slice(None),) * axis + (slice(1, None),)
        differs = (owner[before] != owner[after]) & (np.maximum(owner[before], owner[after]) >= 0)
        is_farther = depth[before] > depth[after]
        factor[before][differs & is_farther] = 0.55
        factor[after][differs & ~is_farther] = 0.55
        if draw_parts:
            inner = (part[before] != part[after]) & (owner[before] == owner[after]) & (owner[after] >= 0)
            view = factor[before]
            view[inner] = np.minimum(view[inner], 0.78)
    return factor
