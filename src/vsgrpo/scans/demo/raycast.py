"""How demo rooms look: a small numpy ray caster for a room shell and boxes turned about z, many frames in one pass.

Light by face direction, floor patterns, contact shadows and outlines; the written mesh carries face light and the
floor's tones at its vertices too.

Legend: T frames, H W picture size, N = T*H*W rays, P boxes, Q (frame, box) pairs in view, M (pair, pixel) tests.
Every box is tested only in the rectangle it projects to; all rectangles of a chunk of pairs are laid out in one flat
list, so the cost is a few array operations per chunk and not per box.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vsgrpo.scans.demo.rooms import CEILING, Parts, Room, camera_matrix

Floats = NDArray[np.float64]
Float32s = NDArray[np.float32]

FLOOR, ABOVE, WALL = -1, -2, -3
"""Owner numbers of floor, ceiling and walls, beside the indices into `Room.objects`."""

_CEILING_RGB = (228, 227, 222)
_SKIRTING_HEIGHT = 0.1
_CHECKER, _PLANK_WIDTH, _PLANK_LENGTH = 0.5, 0.2, 1.6
_OUTLINE_MIN_HEIGHT = 100
_NEAR = 0.05
_MAX_TESTS = 1_500_000
# Corner k of a box has sign bits (x, y, z) of k; edges join corners that differ in one bit.
_FACES = np.arange(6, dtype=np.int8)
_SIGNS = np.array([[(k >> axis & 1) * 2 - 1 for axis in range(3)] for k in range(8)], dtype=np.float64)
_EDGES = np.array([(k, k | 1 << axis) for axis in range(3) for k in range(8) if not k >> axis & 1])


@dataclass(frozen=True)
class Frames:
    """What the camera sees.

    Attributes:
        rgb: (T, H, W, 3) uint8.
        objects: (T, H, W) int16: index into `Room.objects`, or `FLOOR`, `ABOVE`, `WALL`.
        depth: (T, H, W) float32 metres along the optical axis.
    """

    rgb: NDArray[np.uint8]
    objects: NDArray[np.int16]
    depth: Float32s


def render(room: Room, poses: Floats, height: int, width: int) -> Frames:
    """Render `room` from `poses` (T, 4, 4); the camera must stand inside the room."""
    camera = camera_matrix(height, width, room.preset.hfov_degrees)
    u = (np.arange(width) + 0.5 - camera[0, 2]) / camera[0, 0]
    v = (np.arange(height) + 0.5 - camera[1, 2]) / camera[1, 1]
    through = np.stack([*np.broadcast_arrays(u[None, :], v[:, None]), np.ones((height, width))], axis=2)
    directions = poses[:, :3, :3].astype(np.float32) @ through.reshape(-1, 3).T.astype(np.float32)
    directions[np.abs(directions) < 1e-7] = 1e-7
    parts = _with_notch(room)
    direction = [np.ascontiguousarray(directions[:, axis]).reshape(-1) for axis in range(3)]
    rays = _Rays(direction, poses[:, :3, 3].astype(np.float32), (len(poses), height, width))
    rays.meet_shell(room.extent)
    rays.meet_boxes(parts, _projected_rectangles(parts, poses, camera, (height, width)))
    return _shade(room, parts, rays, camera[0, 0])


class _Rays:
    """N rays and the nearest thing that each has met.

    Attributes:
        direction: three arrays (N,): x, y, z; length such that the ray parameter is the depth.
        origin: (T, 3).
        shape: (T, H, W).
        depth: (N,) metres.
        face: (N,) 2 * axis + 1 where the normal of the visible side points down the axis: 4 floor, 5 ceiling.
        part: (N,) index of the box, -1 for the room shell.
    """

    def __init__(self, direction: list[Float32s], origin: Float32s, shape: tuple[int, int, int]) -> None:
        self.direction, self.origin, self.shape = direction, origin, shape
        self.pixels_per_frame = shape[1] * shape[2]
        self.depth = np.full(len(direction[0]), np.inf, dtype=np.float32)
        self.face = np.zeros(len(direction[0]), dtype=np.int8)
        self.part = np.full(len(direction[0]), -1, dtype=np.int32)

    def meet_shell(self, extent: Floats) -> None:
        """Meet the wall, floor or ceiling behind all."""
        frames = (self.shape[0], self.pixels_per_frame)
        depth, face = self.depth.reshape(frames), self.face.reshape(frames)
        for axis, (size, direction) in enumerate(zip((*extent, CEILING), self.direction, strict=True)):
            direction = direction.reshape(frames)
            origin = self.origin[:, axis, None]
            is_up = direction > 0
            distance = np.where(is_up, np.float32(size) - origin, -origin) / direction
            nearer = distance < depth
            np.copyto(depth, distance, where=nearer)
            np.copyto(face, 2 * axis + is_up, where=nearer, casting="unsafe")

    def meet_boxes(self, parts: Parts, rectangles: NDArray[np.int64]) -> None:
        """Slab-test every pair's rectangle, rows as `_projected_rectangles` returns them."""
        chunk = np.cumsum(rectangles[:, 4] * rectangles[:, 5]) // _MAX_TESTS
        for number in np.unique(chunk):
            self._test_slabs(parts, rectangles[chunk == number])

    def _test_slabs(self, parts: Parts, rectangles: NDArray[np.int64]) -> None:
        """Slab method in each box's own axes: in at max over axes of the near planes, out at min of the far ones.

        Source: Kay and Kajiya, "Ray tracing complex scenes", 1986.
        """
        frame, box, x0, y0, width, height = rectangles.T
        count = width * height
        # Of each test, (M,): the row of `rectangles` and the pixel.
        pair = np.repeat(np.arange(len(count)), count)
        row, column = np.divmod(np.arange(len(pair)) - np.repeat(np.cumsum(count) - count, count), width[pair])
        first = frame * self.pixels_per_frame + y0 * self.shape[2] + x0
        pixel = first[pair] + row * self.shape[2] + column
        cos, sin = np.cos(parts.yaw).astype(np.float32)[box], np.sin(parts.yaw).astype(np.float32)[box]
        away = (self.origin[frame] - parts.center[box]).astype(np.float32)
        half = parts.half[box].astype(np.float32)
        origin = (cos * away[:, 0] + sin * away[:, 1], cos * away[:, 1] - sin * away[:, 0], away[:, 2])
        x, y, z = (direction[pixel] for direction in self.direction)
        c, s = cos[pair], sin[pair]
        near = np.full(pixel.shape, -np.inf, dtype=np.float32)
        far = np.full(pixel.shape, np.inf, dtype=np.float32)
        entered = np.zeros(pixel.shape, dtype=np.int8)
        for axis, direction in enumerate((c * x + s * y, c * y - s * x, z)):
            direction = np.where(np.abs(direction) < 1e-7, np.float32(1e-7), direction)
            inverse = 1 / direction
            middle = -origin[axis][pair] * inverse
            reach = half[:, axis][pair] * np.abs(inverse)
            later = middle - reach > near
            np.copyto(near, middle - reach, where=later)
            np.copyto(entered, 2 * axis + (direction > 0), where=later, casting="unsafe")
            np.minimum(far, middle + reach, out=far)
        hit = np.flatnonzero((near < far) & (near > _NEAR))
        hit = hit[near[hit] < self.depth[pixel[hit]]]
        at, distance = pixel[hit], near[hit]
        np.minimum.at(self.depth, at, distance)
        hit = hit[distance == self.depth[at]]
        self.face[pixel[hit]] = entered[hit]
        self.part[pixel[hit]] = box[pair[hit]]


def _with_notch(room: Room) -> Parts:
    """Return the room's boxes, and for an L-shaped room the missing corner as one more box owned by WALL."""
    parts = room.parts
    if room.notch is None:
        return parts
    x0, y0, x1, y1 = room.notch
    return Parts(
        center=np.vstack([parts.center, [(x0 + x1) / 2, (y0 + y1) / 2, CEILING / 2]]),
        half=np.vstack([parts.half, [(x1 - x0) / 2, (y1 - y0) / 2, CEILING / 2]]),
        yaw=np.append(parts.yaw, 0.0),
        rgb=np.vstack([parts.rgb, room.wall_rgb]),
        owner=np.append(parts.owner, WALL),
    )


def _projected_rectangles(parts: Parts, poses: Floats, camera: Floats, size: tuple[int, int]) -> NDArray[np.int64]:
    """Return (Q, 6) rows (frame, part, x0, y0, width, height) of the picture rectangle of each box in view."""
    corners = parts.points(_SIGNS)
    # Into the camera: (x - eye) @ R, (T, P, 8, 3).
    seen = (corners.reshape(-1, 3) - poses[:, None, :3, 3]) @ poses[:, :3, :3]
    seen = seen.reshape(len(poses), *corners.shape)
    start, end = seen[..., _EDGES[:, 0], :], seen[..., _EDGES[:, 1], :]
    rise = end[..., 2] - start[..., 2]
    share = (_NEAR - start[..., 2]) / np.where(rise == 0, 1.0, rise)
    crossing = start + share[..., None] * (end - start)
    is_crossing = (start[..., 2] < _NEAR) != (end[..., 2] < _NEAR)
    points = np.concatenate([seen, crossing], axis=2)
    is_used = np.concatenate([seen[..., 2] >= _NEAR, is_crossing], axis=2)
    z = np.where(is_used, points[..., 2], 1.0)
    bounds = []
    for axis, limit in ((0, size[1]), (1, size[0])):
        pixel = points[..., axis] / z * camera[axis, axis] + camera[axis, 2]
        # Pixel i has its centre at i + 0.5.
        low = np.where(is_used, pixel, np.inf).min(axis=2) - 0.5
        high = np.where(is_used, pixel, -np.inf).max(axis=2) - 0.5
        low = np.ceil(np.clip(low, 0, limit)).astype(np.int64)
        bounds.append((low, np.floor(np.clip(high, -1, limit - 1)).astype(np.int64) + 1 - low))
    frame, part = np.nonzero((bounds[0][1] > 0) & (bounds[1][1] > 0))
    (x0, width), (y0, height) = bounds
    return np.stack([frame, part, *(column[frame, part] for column in (x0, y0, width, height))], axis=1)


def _shade(room: Room, parts: Parts, rays: _Rays, focal: float) -> Frames:
    """Colour every pixel: base colour, floor pattern, face light, contact shadow, outlines."""
    box = np.flatnonzero(rays.part >= 0)
    shell = np.array([WALL] * 4 + [FLOOR, ABOVE], dtype=np.int16)
    owner = shell[rays.face]
    owner[box] = parts.owner[rays.part[box]]
    rgb = np.empty((len(owner), 3), dtype=np.float32)
    light = face_light(_FACES, parts.yaw[:, None].astype(np.float32))
    rgb[box] = (parts.rgb[:, None] * light[..., None]).reshape(-1, 3)[rays.part[box] * 6 + rays.face[box]]
    _paint_shell(room, rgb, rays, owner, focal)
    depth, owner = rays.depth.reshape(rays.shape), owner.reshape(rays.shape)
    factor = _outlines(owner, rays.part.reshape(rays.shape), depth).ravel()
    drawn = np.flatnonzero(factor < 1)
    rgb[drawn] *= factor[drawn, None]
    rgb += np.float32(0.5)
    np.clip(rgb, 0, 255, out=rgb)
    return Frames(rgb=rgb.astype(np.uint8).reshape(*rays.shape, 3), objects=owner, depth=depth)


def face_light(face: NDArray[np.int8], yaw: Float32s) -> Float32s:
    """Return the light (N,) on faces (numbered as `_Rays.face`) of boxes turned by `yaw`.

    1 on top, 0.6 below, 0.7 to 0.88 on the sides by compass direction, so that box edges show.
    """
    axis, is_negative = face >> 1, face & 1
    bearing = yaw + np.float32(np.pi / 2) * axis + np.float32(np.pi) * is_negative
    side = 0.79 + 0.09 * np.cos(bearing - np.float32(0.9))
    return np.where(axis == 2, np.where(is_negative, 0.6, 1.0), side).astype(np.float32)


def floor_tone(room: Room, xy: NDArray[np.floating], blur: NDArray[np.floating] | float) -> Float32s:
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


def _paint_shell(room: Room, rgb: Float32s, rays: _Rays, owner: NDArray[np.int16], focal: float) -> None:
    """Write the lit colours of floor, ceiling and walls into `rgb` (N, 3).

    `focal` in pixels: a pixel at depth d spans d / focal metres across the line of sight.
    """
    depth, direction = rays.depth, rays.direction
    origin = np.repeat(rays.origin, rays.pixels_per_frame, axis=0)
    light = face_light(_FACES, np.zeros(6, dtype=np.float32))
    rgb[owner == ABOVE] = _CEILING_RGB
    wall = np.flatnonzero(owner == WALL)
    height = origin[wall, 2] + depth[wall] * direction[2][wall]
    skirting_share = np.clip(1.5 - depth[wall] / np.float32(focal * _SKIRTING_HEIGHT), 0.3, 1)
    tone = 1 - 0.4 * skirting_share * (height < _SKIRTING_HEIGHT) - 0.16 * np.clip(1 - height / 0.4, 0, 1)
    rgb[wall] = room.wall_rgb * (tone * light[rays.face[wall]])[:, None]
    floor = np.flatnonzero(owner == FLOOR)
    away = np.stack([depth[floor] * direction[axis][floor] for axis in (0, 1)], axis=1)
    xy = origin[floor, :2] + away
    # Seen at a slant, a pixel spans longer on the floor by (line of sight) / (eye height).
    footprint = depth[floor] / np.float32(focal)
    slant = np.sqrt(away[:, 0] ** 2 + away[:, 1] ** 2 + np.float32(room.eye[2] ** 2)) / np.float32(room.eye[2])
    tone = floor_tone(room, xy, footprint * slant) * _contact_shadow(room, xy, float(footprint.min(initial=1.0)))
    rgb[floor] = room.floor_rgb * tone[:, None]


def _contact_shadow(room: Room, xy: NDArray[np.floating], finest: float) -> Float32s:
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


def _outlines(owner: NDArray[np.int16], part: NDArray[np.int32], depth: Float32s) -> Float32s:
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
