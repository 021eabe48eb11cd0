"""Draw a coloured triangle mesh with numpy alone: a z-buffered span rasteriser.

Only fragments inside a triangle are ever made (triangles -> pixel rows -> fragments), so one frame of 448x336 of a
150k-face scan costs about 50 ms on one core. No matrix product is used: BLAS threads would spin and double the CPU
time.

Conventions: world metres, z up; camera x right, y down, z forward; pixel centres are integers, (0, 0) top left.
Legend: V vertices, F faces, H W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

NEAR = 0.1
"""Metres; whatever is nearer to the eye is cut away."""

Float = NDArray[np.float32]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera without roll, square pixels.

    Attributes:
        eye: (x, y, z) in metres.
        yaw_degrees: heading in the floor plane, 0 looks along +x, counted towards +y.
        pitch_degrees: above the horizon is positive.
        width, height: pixels.
        hfov_degrees: horizontal field of view.
    """

    eye: tuple[float, float, float]
    yaw_degrees: float
    pitch_degrees: float
    width: int
    height: int
    hfov_degrees: float

    @property
    def focal(self) -> float:
        """Focal length in pixels."""
        return self.width / 2 / math.tan(math.radians(self.hfov_degrees) / 2)

    def at(self, x: float, y: float, yaw_degrees: float) -> Camera:
        """Return the same camera at another place and heading."""
        return replace(self, eye=(x, y, self.eye[2]), yaw_degrees=yaw_degrees)

    def with_width(self, width: int) -> Camera:
        """Return the same camera with another width of its pictures; the height keeps their aspect."""
        return replace(self, width=width, height=max(round(self.height * width / self.width), 1))

    def axes(self) -> NDArray[np.float64]:
        """Return the camera's x, y and z axis in the world, one per ROW, shape (3, 3)."""
        yaw, pitch = math.radians(self.yaw_degrees), math.radians(self.pitch_degrees)
        right = (math.sin(yaw), -math.cos(yaw), 0.0)
        forward = (math.cos(pitch) * math.cos(yaw), math.cos(pitch) * math.sin(yaw), math.sin(pitch))
        down = (math.sin(pitch) * math.cos(yaw), math.sin(pitch) * math.sin(yaw), -math.cos(pitch))
        return np.array([right, down, forward])

    def pose(self) -> NDArray[np.float64]:
        """Return (4, 4) camera (x right, y down, z forward) -> world."""
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = self.axes().T, self.eye
        return pose

    def matrix(self) -> NDArray[np.float64]:
        """Return the (3, 3) pinhole matrix."""
        cx, cy = self.width / 2 - 0.5, self.height / 2 - 0.5
        return np.array([[self.focal, 0, cx], [0, self.focal, cy], [0, 0, 1]])

    def rays(self, pixel: NDArray[np.int64]) -> list[Float]:
        """Return world x, y, z of the rays through flat pixel numbers, scaled to depth 1 along the view axis."""
        rows, columns = np.divmod(pixel, self.width)
        x = ((columns - (self.width / 2 - 0.5)) / self.focal).astype(np.float32)
        y = ((rows - (self.height / 2 - 0.5)) / self.focal).astype(np.float32)
        right, down, forward = self.axes().astype(np.float32)
        return [x * right[i] + y * down[i] + forward[i] for i in range(3)]


class Pinhole(Protocol):
    """What `Surface.draw` asks of a camera."""

    @property
    def eye(self) -> tuple[float, float, float]: ...

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    @property
    def focal(self) -> float: ...

    def axes(self) -> NDArray[np.float64]: ...


class Raster(NamedTuple):
    """What a camera sees.

    Attributes:
        face: (H, W) int32, number of the nearest face, -1 where there is none.
        depth: (H, W) float32 metres along the view axis, +inf where there is no face.
    """

    face: NDArray[np.int32]
    depth: Float


class _Triangles(NamedTuple):
    """Projected triangles: x, y, 1/z of the three corners (3, N) and the face each one came from (N,)."""

    x: Float
    y: Float
    inverse_z: Float
    face: NDArray[np.int64]


class Surface:
    """A coloured triangle mesh laid out for drawing.

    Args:
        vertices: (V, 3) metres, all finite.
        colors: (V, 3) uint8.
        faces: (F, 3) vertex numbers.
    """

    def __init__(self, vertices: NDArray, colors: NDArray, faces: NDArray) -> None:
        self.xyz = np.ascontiguousarray(vertices.T, dtype=np.float32)
        self.colors = np.ascontiguousarray(colors, dtype=np.uint8)
        # intp: numpy would otherwise convert the index array at every take.
        self.corners = np.ascontiguousarray(faces.T, dtype=np.intp)

    def draw(self, camera: Pinhole) -> Raster:
        """Return face number and depth per pixel.

        Both sides of a face are drawn: one-sided walls of real scans would else become see-through. Where two faces
        meet at the same depth the higher face number wins, so the result does not depend on the order of work.
        """
        triangles = _project(self.xyz, self.corners, camera)
        return _fill(triangles, camera.width, camera.height)

    def shade(self, raster: Raster, camera: Camera) -> NDArray[np.uint8]:
        """Return (H, W, 3) uint8: vertex colours interpolated on the surface; black where there is no face.

        Colour is affine in the point's world position on its face, so interpolating there is perspective-correct.
        """
        image = np.zeros((camera.height * camera.width, 3), np.uint8)
        pixel = np.flatnonzero(raster.face.reshape(-1) >= 0)
        face = raster.face.reshape(-1)[pixel]
        record = np.zeros(self.corners.shape[1], bool)
        record[face] = True
        seen = np.flatnonzero(record)
        number = np.zeros(self.corners.shape[1], np.intp)
        number[seen] = np.arange(len(seen))
        weights, base, steps = self._face_records(seen, camera)
        depth = raster.depth.reshape(-1)[pixel]
        point = [axis * depth for axis in camera.rays(pixel)]
        rows = number[face]
        w = weights[rows]
        first = np.clip(w[:, 0] * point[0] + w[:, 1] * point[1] + w[:, 2] * point[2] - w[:, 3], 0, 1)
        second = np.clip(w[:, 4] * point[0] + w[:, 5] * point[1] + w[:, 6] * point[2] - w[:, 7], 0, 1 - first)
        color = base[rows] + first[:, None] * steps[0][rows] + second[:, None] * steps[1][rows]
        image[pixel] = (color + np.float32(0.5)).astype(np.uint8)
        return image.reshape(camera.height, camera.width, 3)

    def _face_records(self, faces: NDArray[np.intp], camera: Camera) -> tuple[Float, Float, tuple[Float, Float]]:
        """Return per face: two affine maps point -> barycentric weight (N, 8), first corner's colour, two colour steps.

        With edges u, v from corner 0 the dual basis gives weight 1 = ((v.v) u - (u.v) v) . p / (u.u v.v - (u.v)^2).
        """
        corner = [self.corners[k][faces] for k in range(3)]
        eye = np.asarray(camera.eye, np.float32)[:, None]
        origin = self.xyz[:, corner[0]] - eye
        u = self.xyz[:, corner[1]] - eye - origin
        v = self.xyz[:, corner[2]] - eye - origin
        uu, uv, vv = (u * u).sum(0), (u * v).sum(0), (v * v).sum(0)
        scale = 1 / np.maximum(uu * vv - uv * uv, np.float32(1e-20))
        first, second = (vv * u - uv * v) * scale, (uu * v - uv * u) * scale
        weights = np.concatenate([first, (first * origin).sum(0)[None], second, (second * origin).sum(0)[None]])
        base = self.colors[corner[0]].astype(np.float32)
        steps = (self.colors[corner[1]] - base, self.colors[corner[2]] - base)
        return np.ascontiguousarray(weights.T), base, steps


def _project(xyz: Float, corners: NDArray[np.intp], camera: Pinhole) -> _Triangles:
    """Transform, drop what is outside the view, cut at the near plane and project."""
    eye = np.asarray(camera.eye, np.float32)
    x, y, z = xyz[0] - eye[0], xyz[1] - eye[1], xyz[2] - eye[2]
    # Elementwise on purpose, see the module docstring.
    axes = camera.axes().astype(np.float32)
    right, down, forward = (x * a[0] + y * a[1] + z * a[2] for a in axes)
    del x, y, z
    focal = np.float32(camera.focal)
    right *= focal
    down *= focal
    half_x, half_y = np.float32(camera.width / 2) * forward, np.float32(camera.height / 2) * forward
    # One bit per side of the view pyramid: a face is out if all its corners are beyond the same side.
    code = (right < -half_x).view(np.uint8) | (right > half_x).view(np.uint8) << 1
    code |= (down < -half_y).view(np.uint8) << 2 | (down > half_y).view(np.uint8) << 3
    code |= (forward < NEAR).view(np.uint8) << 4
    code_0, code_1, code_2 = code[corners[0]], code[corners[1]], code[corners[2]]
    inside = (code_0 & code_1 & code_2) == 0
    crossing = (code_0 | code_1 | code_2) >= 16
    whole = np.flatnonzero(inside & ~crossing)
    taken = corners[:, whole]
    # Vertices behind the eye never get here; the floor under 1/z only keeps them from warning.
    inverse_z = 1 / np.maximum(forward, np.float32(NEAR / 2))
    offset_x, offset_y = np.float32(camera.width / 2 - 0.5), np.float32(camera.height / 2 - 0.5)
    screen_x, screen_y = right * inverse_z + offset_x, down * inverse_z + offset_y
    triangles = _Triangles(screen_x[taken], screen_y[taken], inverse_z[taken], whole)
    cut = np.flatnonzero(inside & crossing)
    if not len(cut):
        return triangles
    points = np.stack([right, down, forward])[:, corners[:, cut]]
    clipped, face = _clip_near(points, cut)
    near_z = 1 / clipped[2]
    parts = (clipped[0] * near_z + offset_x, clipped[1] * near_z + offset_y, near_z)
    x, y, z = (np.concatenate([old, new], axis=1) for old, new in zip(triangles[:3], parts, strict=True))
    return _Triangles(x, y, z, np.concatenate([whole, face]))


def _clip_near(points: Float, face: NDArray[np.intp]) -> tuple[Float, NDArray[np.intp]]:
    """Cut triangles (3 axes, 3 corners, N) at the near plane: one or two triangles each, and their faces.

    A crossing point is always computed from the corner in front to the one behind, so two faces that share the edge
    get the same point and no crack opens.
    """
    front = points[2] >= NEAR
    count = front.sum(0)
    # Rotate so that the odd corner (the only one in front, or the only one behind) comes first.
    lone = np.where(count == 1, front.argmax(0), (~front).argmax(0))
    order = (lone + np.arange(3)[:, None]) % 3
    a, b, c = (np.take_along_axis(points, order[k][None, None], axis=1)[:, 0] for k in range(3))

    def cross(inner: Float, outer: Float) -> Float:
        share = (inner[2] - np.float32(NEAR)) / (inner[2] - outer[2])
        point = inner + share * (outer - inner)
        point[2] = NEAR
        return point

    one, two = count == 1, count == 2
    tip = np.stack([a[:, one], cross(a[:, one], b[:, one]), cross(a[:, one], c[:, one])], axis=1)
    a, b, c = a[:, two], b[:, two], c[:, two]
    on_b, on_c = cross(b, a), cross(c, a)
    pieces = [tip, np.stack([b, c, on_b], axis=1), np.stack([on_b, c, on_c], axis=1)]
    return np.concatenate(pieces, axis=2), np.concatenate([face[one], face[two], face[two]])


def _fill(triangles: _Triangles, width: int, height: int) -> Raster:
    """Expand triangles to rows, rows to fragments, and keep the nearest fragment per pixel."""
    x, y = triangles.x, triangles.y
    top = np.ceil(np.clip(y.min(0), 0, height))
    bottom = np.floor(np.clip(y.max(0), -1, height - 1))
    wide = np.floor(np.clip(x.max(0), -1, width - 1)) >= np.ceil(np.clip(x.min(0), 0, width))
    # A face seen exactly edge-on has no area; its neighbours own the pixels on its edges.
    area = (x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])
    keep = np.flatnonzero((bottom >= top) & wide & (area != 0))
    nearest = np.full(height * width, -1, np.int64)
    if len(keep):
        rows = _rows(triangles, keep, area[keep], top[keep], bottom[keep], width)
        _splat(nearest, rows, triangles.face[keep], width)
    seen = nearest >= 0
    face = np.where(seen, nearest & 0xFFFFFFFF, -1).astype(np.int32)
    depth = np.full(height * width, np.inf, np.float32)
    depth[seen] = 1 / (nearest[seen] >> 32).astype(np.int32).view(np.float32)
    return Raster(face.reshape(height, width), depth.reshape(height, width))


class _Rows(NamedTuple):
    """Spans: triangle number, pixel row, first column, number of pixels, 1/z at the first pixel and its step."""

    triangle: NDArray[np.intp]
    row: NDArray[np.int64]
    start: NDArray[np.int64]
    count: NDArray[np.int64]
    inverse_z: Float
    step: Float


def _rows(triangles: _Triangles, keep: NDArray, area: Float, top: Float, bottom: Float, width: int) -> _Rows:
    """Cut each triangle into spans of pixels.

    Corners are sorted by height, so a shared edge is evaluated from the same corner with the same slope by both faces
    and bounds are inclusive: no pixel falls between two neighbours.
    """
    x, y, inverse_z = triangles.x[:, keep], triangles.y[:, keep], triangles.inverse_z[:, keep]
    # 1/z is affine on the screen: gradient from the corner differences.
    du, dv = inverse_z[1] - inverse_z[0], inverse_z[2] - inverse_z[0]
    slope_x = (du * (y[2] - y[0]) - dv * (y[1] - y[0])) / area
    slope_y = (dv * (x[1] - x[0]) - du * (x[2] - x[0])) / area
    order = np.argsort(y, axis=0, kind="stable")
    sorted_x, sorted_y = np.take_along_axis(x, order, axis=0), np.take_along_axis(y, order, axis=0)

    def slope(first: int, last: int) -> Float:
        rise = sorted_y[last] - sorted_y[first]
        return (sorted_x[last] - sorted_x[first]) / np.where(rise == 0, np.float32(1), rise)

    long, upper, lower = slope(0, 2), slope(0, 1), slope(1, 2)
    height = (bottom - top).astype(np.int64) + 1
    owner = np.repeat(np.arange(len(keep)), height)
    row = np.arange(len(owner)) - np.repeat(np.cumsum(height) - height - top.astype(np.int64), height)
    at = row.astype(np.float32)
    y_0, y_1 = sorted_y[0][owner], sorted_y[1][owner]
    below = at >= y_1
    x_long = sorted_x[0][owner] + (at - y_0) * long[owner]
    x_upper = sorted_x[0][owner] + (at - y_0) * upper[owner]
    x_lower = sorted_x[1][owner] + (at - y_1) * lower[owner]
    x_short = np.where(below, x_lower, x_upper)
    start = np.ceil(np.clip(np.minimum(x_long, x_short), 0, width))
    end = np.floor(np.clip(np.maximum(x_long, x_short), -1, width - 1))
    filled = np.flatnonzero(end >= start)
    owner, row, at, start, end = owner[filled], row[filled], at[filled], start[filled], end[filled]
    # Slivers have steep gradients: hold 1/z inside the triangle's own range at both ends of the span.
    low, high = inverse_z.min(0)[owner], inverse_z.max(0)[owner]
    across = inverse_z[0][owner] + (at - y[0][owner]) * slope_y[owner]
    offset, gradient = x[0][owner], slope_x[owner]
    first = np.clip(across + (start - offset) * gradient, low, high)
    last = np.clip(across + (end - offset) * gradient, low, high)
    step = (last - first) / np.maximum(end - start, np.float32(1))
    return _Rows(owner, row, start.astype(np.int64), (end - start).astype(np.int64) + 1, first, step)


def _splat(nearest: NDArray[np.int64], rows: _Rows, face: NDArray, width: int) -> None:
    """Write spans into the z-buffer, in place.

    Positive floats order like their bits, so (bits of 1/z) << 32 | face is one integer whose maximum is the nearest
    face, ties going to the higher face number.
    """
    index = np.repeat(np.arange(len(rows.count)), rows.count)
    along = np.arange(len(index)) - np.repeat(np.cumsum(rows.count) - rows.count, rows.count)
    inverse_z = rows.inverse_z[index] + along.astype(np.float32) * rows.step[index]
    key = inverse_z.view(np.int32).astype(np.int64) << 32
    key |= face[rows.triangle][index]
    np.maximum.at(nearest, (rows.row * width + rows.start)[index] + along, key)
