"""A small numpy ray caster for demo rooms: a room shell and boxes turned about z, many frames in one pass.

Legend: T frames, H W picture size, N = T*H*W rays, P boxes, Q (frame, box) pairs in view, M (pair, pixel) tests.
Every box is tested only in the rectangle it projects to; all rectangles of a chunk of pairs are laid out in one flat
list, so the cost is a few array operations per chunk and not per box.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vsgrpo.scans.demo.rooms import CEILING, Parts, Room
from vsgrpo.scans.walk import surfaces

_NEAR = 0.05
_MAX_TESTS = 1_500_000
# Corner k of a box has sign bits (x, y, z) of k; edges join corners that differ in one bit.
_SIGNS = np.array([[(k >> axis & 1) * 2 - 1 for axis in range(3)] for k in range(8)], dtype=np.float64)
_EDGES = np.array([(k, k | 1 << axis) for axis in range(3) for k in range(8) if not k >> axis & 1])


@dataclass(frozen=True)
class Frames:
    """What the camera sees.

    Attributes:
        rgb: (T, H, W, 3) uint8.
        objects: (T, H, W) int16: index into `Room.objects`, or `surfaces.FLOOR`, `CEILING`, `WALL`.
        depth: (T, H, W) float32 metres along the optical axis.
    """

    rgb: NDArray[np.uint8]
    objects: NDArray[np.int16]
    depth: NDArray[np.float32]


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


def render(room: Room, poses: NDArray[np.float64], height: int, width: int) -> Frames:
    """Render `room` from `poses` (T, 4, 4); the camera must stand inside the room."""
    camera = camera_matrix(height, width, room.preset.hfov_degrees)
    u = (np.arange(width) + 0.5 - camera[0, 2]) / camera[0, 0]
    v = (np.arange(height) + 0.5 - camera[1, 2]) / camera[1, 1]
    rays = np.stack([*np.broadcast_arrays(u[None, :], v[:, None]), np.ones((height, width))], axis=2)
    directions = poses[:, :3, :3].astype(np.float32) @ rays.reshape(-1, 3).T.astype(np.float32)
    directions[np.abs(directions) < 1e-7] = 1e-7
    parts = _with_notch(room)
    scene = _Rays(
        direction=[np.ascontiguousarray(directions[:, axis]).reshape(-1) for axis in range(3)],
        origin=poses[:, :3, 3].astype(np.float32),
        shape=(len(poses), height, width),
    )
    depth, axis = _hit_shell(scene, room.extent)
    part = np.full(depth.shape, -1, dtype=np.int32)
    _hit_boxes(scene, parts, _projected_rectangles(parts, poses, camera, (height, width)), depth, axis, part)
    return _shade(room, parts, scene, depth, axis, part, camera[0, 0])


@dataclass(frozen=True)
class _Rays:
    direction: list[NDArray[np.float32]]
    """Three arrays (N,): x, y, z; length such that the ray parameter is the depth."""
    origin: NDArray[np.float32]
    """(T, 3)."""
    shape: tuple[int, int, int]

    @property
    def pixels_per_frame(self) -> int:
        return self.shape[1] * self.shape[2]


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
        owner=np.append(parts.owner, surfaces.WALL),
    )


def _hit_shell(rays: _Rays, extent: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Return depth (N,) and face (N,) of the wall, floor or ceiling behind all.

    A face is 2 * axis + 1 where the normal of the visible side points down the axis: 4 is the floor, 5 the ceiling.
    """
    frames = (rays.shape[0], rays.pixels_per_frame)
    depth = np.full(frames, np.inf, dtype=np.float32)
    face = np.zeros(frames, dtype=np.int8)
    for axis, (size, direction) in enumerate(zip((*extent, CEILING), rays.direction, strict=True)):
        direction = direction.reshape(frames)
        origin = rays.origin[:, axis, None]
        is_up = direction > 0
        distance = np.where(is_up, np.float32(size) - origin, -origin) / direction
        nearer = distance < depth
        np.copyto(depth, distance, where=nearer)
        np.copyto(face, 2 * axis + is_up, where=nearer, casting="unsafe")
    return depth.ravel(), face.ravel()


def _projected_rectangles(
    parts: Parts, poses: NDArray[np.float64], camera: NDArray[np.float64], size: tuple[int, int]
) -> NDArray[np.int64]:
    """Return (Q, 6) rows (frame, part, x0, y0, width, height) of the picture rectangle of each box in view."""
    cos, sin = np.cos(parts.yaw)[:, None], np.sin(parts.yaw)[:, None]
    local = _SIGNS[None] * parts.half[:, None]
    corners = np.stack([cos * local[..., 0] - sin * local[..., 1], sin * local[..., 0] + cos * local[..., 1]], axis=-1)
    corners = np.concatenate([corners, local[..., 2:]], axis=-1) + parts.center[:, None]
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


def _hit_boxes(
    rays: _Rays,
    parts: Parts,
    rectangles: NDArray[np.int64],
    depth: NDArray[np.float32],
    face: NDArray[np.int8],
    part: NDArray[np.int32],
) -> None:
    """Slab-test every pair's rectangle and keep the nearest hit in `depth`, `face` and `part` (in place)."""
    num_tests = rectangles[:, 4] * rectangles[:, 5]
    chunk = np.cumsum(num_tests) // _MAX_TESTS
    cos, sin = np.cos(parts.yaw).astype(np.float32), np.sin(parts.yaw).astype(np.float32)
    for number in np.unique(chunk):
        chosen = chunk == number
        count = num_tests[chosen]
        frame, box, x0, y0, width, _ = rectangles[chosen].T
        pair = np.repeat(np.arange(len(count)), count)
        offset = np.arange(len(pair)) - np.repeat(np.cumsum(count) - count, count)
        row, column = np.divmod(offset, width[pair])
        first = frame * rays.pixels_per_frame + y0 * rays.shape[2] + x0
        pixel = first[pair] + row * rays.shape[2] + column
        _test_slabs(rays, parts, (cos[box], sin[box]), frame, box, pair, pixel, depth, face, part)


def _test_slabs(
    rays: _Rays,
    parts: Parts,
    turn: tuple[NDArray[np.float32], NDArray[np.float32]],
    frame: NDArray[np.int64],
    box: NDArray[np.int64],
    pair: NDArray[np.int64],
    pixel: NDArray[np.int64],
    depth: NDArray[np.float32],
    face: NDArray[np.int8],
    part: NDArray[np.int32],
) -> None:
    """Slab method in each box's own axes: the ray enters at max over axes of the near planes, leaves at min of the far.

    Source: Kay and Kajiya, "Ray tracing complex scenes", 1986. `pair` and `pixel` (M,) name the tests.
    """
    cos, sin = turn
    away = (rays.origin[frame] - parts.center[box]).astype(np.float32)
    half = parts.half[box].astype(np.float32)
    origin = (cos * away[:, 0] + sin * away[:, 1], cos * away[:, 1] - sin * away[:, 0], away[:, 2])
    x, y, z = (direction[pixel] for direction in rays.direction)
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
    hit = hit[near[hit] < depth[pixel[hit]]]
    at, distance = pixel[hit], near[hit]
    np.minimum.at(depth, at, distance)
    hit = hit[distance == depth[at]]
    face[pixel[hit]] = entered[hit]
    part[pixel[hit]] = box[pair[hit]]


def _shade(
    room: Room,
    parts: Parts,
    rays: _Rays,
    depth: NDArray[np.float32],
    face: NDArray[np.int8],
    part: NDArray[np.int32],
    focal: float,
) -> Frames:
    """Colour every pixel: base colour, floor pattern, face light, contact shadow, outlines."""
    box = np.flatnonzero(part >= 0)
    shell = np.array([surfaces.WALL] * 4 + [surfaces.FLOOR, surfaces.CEILING], dtype=np.int16)
    owner = shell[face]
    owner[box] = parts.owner[part[box]]
    rgb = np.empty((len(depth), 3), dtype=np.float32)
    faces = np.arange(6, dtype=np.int8)
    light = surfaces.face_light(faces >> 1, (faces & 1).astype(bool), parts.yaw[:, None].astype(np.float32))
    rgb[box] = (parts.rgb[:, None] * light[..., None]).reshape(-1, 3)[part[box] * 6 + face[box]]
    origin = np.repeat(rays.origin, rays.pixels_per_frame, axis=0)
    surfaces.paint_shell(room, rgb, (origin, rays.direction, depth), owner, face, focal)
    depth, owner = depth.reshape(rays.shape), owner.reshape(rays.shape)
    factor = surfaces.outlines(owner, part.reshape(rays.shape), depth).ravel()
    drawn = np.flatnonzero(factor < 1)
    rgb[drawn] *= factor[drawn, None]
    rgb += np.float32(0.5)
    np.clip(rgb, 0, 255, out=rgb)
    return Frames(rgb=rgb.astype(np.uint8).reshape(*rays.shape, 3), objects=owner, depth=depth)
