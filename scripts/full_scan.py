"""Generate scans of real size (150k vertices, 50 objects) in ScanNet's format, whose every answer is known.

A rectangular room of cuboids, made of grids like a reconstructed mesh, with vertex noise and a yawed raw frame. Used by
bench_build_data.py and by the test that goes from mesh files to answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vsgrpo.scans.annotation import write_labels
from vsgrpo.scans.demo.source import write_scan
from vsgrpo.scans.source import Mesh
from vsgrpo.spatial.scene import Box

# label -> (nyu40 id, width, depth, height in metres); the first ones come several times
REPEATED = {
    "chair": (5, 0.55, 0.5, 0.9),
    "table": (7, 1.1, 0.7, 0.75),
    "pillow": (18, 0.5, 0.4, 0.2),
    "window": (9, 1.2, 0.1, 1.0),
    "monitor": (40, 0.5, 0.2, 0.4),
    "trash can": (39, 0.35, 0.3, 0.4),
    "door": (8, 0.9, 0.1, 2.0),
}
SINGLE = {
    "bed": (4, 2.0, 1.5, 0.6),
    "couch": (6, 1.9, 0.9, 0.8),
    "refrigerator": (24, 0.8, 0.7, 1.7),
    "bookshelf": (10, 1.0, 0.3, 1.8),
    "lamp": (35, 0.3, 0.25, 1.5),
    "nightstand": (32, 0.5, 0.45, 0.6),
    "tv": (25, 1.1, 0.15, 0.7),
    "backpack": (40, 0.4, 0.3, 0.5),
    "mirror": (19, 0.7, 0.08, 1.2),
    "printer": (40, 0.5, 0.4, 0.3),
    "microwave": (40, 0.5, 0.35, 0.3),
    "radiator": (39, 1.0, 0.15, 0.6),
    "plant": (40, 0.4, 0.35, 0.9),
    "clock": (40, 0.3, 0.1, 0.3),
    "guitar": (40, 1.0, 0.15, 0.4),
    "keyboard": (40, 0.45, 0.16, 0.06),
    "washing machine": (40, 0.65, 0.6, 0.85),
    "fan": (40, 0.4, 0.3, 0.5),
    "piano": (40, 1.4, 0.6, 1.1),
    "bicycle": (40, 1.6, 0.3, 0.9),
}
STRUCTURE = {"wall": 1, "floor": 2}
NUM_OBJECTS = 50


@dataclass(frozen=True)
class Truth:
    """What a generated scan was made of, in the aligned frame.

    Attributes:
        area: floor area in square metres.
        objects: (label, box) in annotation order.
        noise: standard deviation of the vertices in metres.
    """

    scan_id: str
    area: float
    objects: tuple[tuple[str, Box], ...]
    noise: float


def write_full_scan(
    root: Path,
    index: int,
    num_vertices: int = 150_000,
    num_objects: int = NUM_OBJECTS,
    noise: float = 0.002,
    most_stacked: int = 3,
) -> Truth:
    """Write `root/scans/full<index>_00` and the label tsv; the same index gives the same files."""
    rng = np.random.default_rng([index, num_vertices, num_objects])
    vertices, faces, instances, boxes, size = full_room(rng, num_vertices, num_objects, noise, most_stacked)
    yaw = np.deg2rad(rng.uniform(-40, 40))
    alignment = np.eye(4)
    alignment[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    alignment[:3, 3] = [-1.5, 0.7, -0.06]
    raw = (vertices - alignment[:3, 3]) @ alignment[:3, :3]
    scan_id = f"full{index:04d}_00"
    write_labels(root, STRUCTURE | {k: v[0] for k, v in (REPEATED | SINGLE).items()})
    mesh = Mesh(raw.astype(np.float32), rng.integers(60, 200, (len(raw), 3)).astype(np.uint8), faces)
    write_scan(Path(root) / "scans" / scan_id, mesh, instances, axis_alignment=alignment)
    return Truth(scan_id, float(size.prod()), tuple(boxes), noise)


def full_room(
    rng: np.random.Generator, num_vertices: int, num_objects: int, noise: float, most_stacked: int
) -> tuple[NDArray, NDArray, list[tuple[str, NDArray]], list[tuple[str, Box]], NDArray]:
    """Return vertices, faces, (label, vertex indices) of floor, wall and objects, the objects' boxes, and the sides."""
    size = rng.uniform((6.5, 6.0), (8.0, 7.5))
    boxes = _place(rng, size, num_objects, most_stacked)
    # Two fifths of the vertices on floor and walls each, the rest on objects, as grids of one spacing per part.
    floor = [_patch(np.zeros(3), np.array([size[0], 0, 0]), np.array([0, size[1], 0]), 0.4 * num_vertices)]
    corners = np.array([[0, 0], [size[0], 0], size, [0, size[1]]])
    sides = [(corners[k], corners[(k + 1) % 4]) for k in range(4)]
    around = 2 * size.sum()
    walls = [
        _patch(
            np.append(a, 0.0),
            np.append(b - a, 0.0),
            np.array([0, 0, 2.5]),
            0.4 * num_vertices * abs(b - a).sum() / around,
        )
        for a, b in sides
    ]
    surface = [box.axes_lengths @ np.roll(box.axes_lengths, 1) * 2 for _, box in boxes]
    share = 0.2 * num_vertices / sum(surface)
    things = [_cuboid(box, max(share * area, 200)) for (_, box), area in zip(boxes, surface, strict=True)]
    parts = [("floor", floor), ("wall", walls), *((label, t) for (label, _), t in zip(boxes, things, strict=True))]
    vertices, faces, instances = _joined(parts)
    vertices = vertices + rng.normal(0, noise, vertices.shape) if noise else vertices
    return vertices, faces, instances, boxes, size


def _place(rng: np.random.Generator, size: NDArray, number: int, most_stacked: int) -> list[tuple[str, Box]]:
    """Place every single label and repeated ones up to `number`, apart from each other, up to three levels high."""
    labels = list(SINGLE)[:number]
    while len(labels) < number:
        labels.append(list(REPEATED)[len(labels) % len(REPEATED)])
    placed: list[tuple[str, Box]] = []
    spots: list[tuple[NDArray, float, int]] = []
    for label in labels:
        lengths = np.array((REPEATED | SINGLE)[label][1:]) * rng.uniform(0.9, 1.1, 3)
        radius = float(np.hypot(*lengths[:2])) / 2
        while True:
            level = int(rng.integers(most_stacked))
            xy = rng.uniform(radius + 0.05, size - radius - 0.05)
            near = [s for s in spots if s[2] == level and np.hypot(*(s[0] - xy)) < s[1] + radius + 0.02]
            if not near:
                break
            radius *= 0.995
            lengths *= 0.995
        spots.append((xy, radius, level))
        angle = rng.uniform(0, np.pi)
        cos, sin = np.cos(angle), np.sin(angle)
        axes = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
        placed.append((label, Box(np.append(xy, 2.2 * level + lengths[2] / 2 + 0.02), lengths, axes)))
    return placed


def _patch(origin: NDArray, u: NDArray, v: NDArray, number: float) -> tuple[NDArray, NDArray]:
    """Return about `number` vertices in a grid over a parallelogram, its corners included, and its triangles."""
    a, b = np.linalg.norm(u), np.linalg.norm(v)
    columns = max(2, round(float(np.sqrt(number * a / b))))
    rows = max(2, round(number / columns))
    s, t = np.meshgrid(np.linspace(0, 1, columns), np.linspace(0, 1, rows), indexing="ij")
    index = np.arange(columns * rows).reshape(columns, rows)
    first = np.stack([index[:-1, :-1], index[1:, :-1], index[1:, 1:]], axis=-1).reshape(-1, 3)
    second = np.stack([index[:-1, :-1], index[1:, 1:], index[:-1, 1:]], axis=-1).reshape(-1, 3)
    return origin + s.reshape(-1, 1) * u + t.reshape(-1, 1) * v, np.concatenate([first, second])


def _cuboid(box: Box, number: float) -> list[tuple[NDArray, NDArray]]:
    edges = box.axes * box.axes_lengths[:, None]
    low, high = box.centroid - edges.sum(axis=0) / 2, box.centroid + edges.sum(axis=0) / 2
    areas = [float(np.prod(np.delete(box.axes_lengths, axis))) for axis in range(3)]
    sides = []
    for axis, area in enumerate(areas):
        u, v = np.delete(edges, axis, axis=0)
        share = number * area / sum(areas) / 2
        sides += [_patch(low, u, v, share), _patch(high, -u, -v, share)]
    return sides


def _joined(parts: list[tuple[str, list[tuple[NDArray, NDArray]]]]) -> tuple[NDArray, NDArray, list]:
    vertices, faces, instances, start = [], [], [], 0
    for label, patches in parts:
        first = start
        for points, triangles in patches:
            vertices.append(points)
            faces.append(triangles + start)
            start += len(points)
        instances.append((label, np.arange(first, start)))
    return np.concatenate(vertices), np.concatenate(faces).astype(np.int32), instances
