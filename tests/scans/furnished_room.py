"""A tessellated box room with box furniture, built by hand for the renderer's tests: sizes are known exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vsgrpo.scans.source import Mesh

SIZE = (5.0, 4.0, 2.6)
"""Metres; the room spans x 0..5, y 0..4, z 0..2.6."""

# name -> (x0, y0, x1, y1, height), colour
FURNITURE: dict[str, tuple[tuple[float, float, float, float, float], tuple[int, int, int]]] = {
    "bed": ((0.1, 0.1, 2.0, 1.5, 0.5), (40, 40, 160)),
    "table": ((3.6, 2.4, 4.8, 3.4, 0.75), (150, 90, 40)),
    "cabinet": ((0.1, 3.3, 1.1, 3.9, 1.9), (200, 60, 60)),
    "bin": ((4.5, 0.2, 4.8, 0.5, 0.4), (30, 140, 60)),
    "chair": ((3.0, 2.7, 3.4, 3.1, 0.8), (220, 200, 40)),
}


@dataclass
class MeshArrays(Mesh):
    """What `render_walk` takes; instance ids are 10, 11, ... in the order of FURNITURE."""

    instances: NDArray[np.int32]

    def arguments(self) -> tuple:
        return self, self.instances


def rectangle(corner: tuple, u: tuple, v: tuple, step: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Tessellate corner + s u + t v, s and t in 0..1, into squares of about `step` metres, two triangles each."""
    corner, u, v = (np.array(a, float) for a in (corner, u, v))
    rows = max(int(np.ceil(np.linalg.norm(u) / step)), 1)
    columns = max(int(np.ceil(np.linalg.norm(v) / step)), 1)
    s, t = np.meshgrid(np.linspace(0, 1, rows + 1), np.linspace(0, 1, columns + 1), indexing="ij")
    points = corner + s.reshape(-1, 1) * u + t.reshape(-1, 1) * v
    at = (np.arange(rows)[:, None] * (columns + 1) + np.arange(columns)).reshape(-1)
    lower = np.stack([at, at + columns + 1, at + columns + 2], axis=1)
    upper = np.stack([at, at + columns + 2, at + 1], axis=1)
    return points, np.concatenate([lower, upper])


def box_sides(low: tuple, high: tuple, step: float) -> list[tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """Return floor, ceiling and four walls of a box."""
    x, y, z = (high[k] - low[k] for k in range(3))
    return [
        rectangle(low, (x, 0, 0), (0, y, 0), step),
        rectangle((low[0], low[1], high[2]), (x, 0, 0), (0, y, 0), step),
        rectangle(low, (x, 0, 0), (0, 0, z), step),
        rectangle((low[0], high[1], low[2]), (x, 0, 0), (0, 0, z), step),
        rectangle(low, (0, y, 0), (0, 0, z), step),
        rectangle((high[0], low[1], low[2]), (0, y, 0), (0, 0, z), step),
    ]


def furnished_room(step: float = 0.25, with_floor: bool = True, with_ceiling: bool = True) -> MeshArrays:
    """Build the room; floor (180, 170, 150), walls (210, 205, 200), ceiling (235, 235, 235)."""
    parts = []
    shell = box_sides((0, 0, 0), SIZE, step)
    tones = [(180, 170, 150), (235, 235, 235)] + [(210, 205, 200)] * 4
    for number, (side, tone) in enumerate(zip(shell, tones, strict=True)):
        if (number == 0 and not with_floor) or (number == 1 and not with_ceiling):
            continue
        parts.append((*side, tone, -1))
    for number, ((x0, y0, x1, y1, height), tone) in enumerate(FURNITURE.values()):
        for side in box_sides((x0, y0, 0.0), (x1, y1, height), step)[1:]:
            parts.append((*side, tone, 10 + number))
    sizes = np.array([len(points) for points, *_ in parts])
    starts = np.cumsum(sizes) - sizes
    return MeshArrays(
        np.concatenate([points for points, *_ in parts]).astype(np.float32),
        np.concatenate([np.tile(np.uint8([tone]), (len(points), 1)) for points, _, tone, _ in parts]),
        np.concatenate([faces + start for (_, faces, *_), start in zip(parts, starts, strict=True)]).astype(np.int32),
        np.repeat(np.array([owner for *_, owner in parts], np.int32), sizes),
    )


def pose_of(camera) -> NDArray[np.float64]:
    """Return the (4, 4) camera -> world matrix; camera axes x right, y down, z forward."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = camera.axes().T, camera.eye
    return matrix


def intrinsics_of(camera) -> NDArray[np.float64]:
    """Return the (3, 3) pinhole matrix; pixel centres are integers."""
    x, y = camera.width / 2 - 0.5, camera.height / 2 - 0.5
    return np.array([[camera.focal, 0, x], [0, camera.focal, y], [0, 0, 1]])
