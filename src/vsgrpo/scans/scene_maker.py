"""Annotated objects and the points of a floor to a Scene: what sources with labelled meshes have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vsgrpo.errors import DataError
from vsgrpo.scans.source import SceneSettings
from vsgrpo.spatial.floor import room_floor
from vsgrpo.spatial.geometry import fit_box
from vsgrpo.spatial.scene import Box, Scene, SceneObject
from vsgrpo.tables import Category

MIN_DIMENSION = 0.05
"""Metres: an object whose longest edge is shorter cannot be asked about."""
_MAX_DIMENSION = 50.0
"""Metres: no object of a room is longer. In centimetres a chair is."""
_FLOOR = "floor"
"""Label of the floor in ScanNet and ScanNet++."""
_FLOOR_RISE = (1.0, 3.0)
"""Metres that a floor rises from its 5th to its 95th percentile, and times its width: with more it is a wall."""
_ROOM_AREA_RANGE = (2.0, 150.0)  # square metres


@dataclass(frozen=True)
class Candidate:
    """An annotated instance: its label and the object, or the reason why there is none and the category it is of."""

    label: str
    item: SceneObject | None
    reason: str = ""
    category: str | None = None


def make_object(
    instance_id: int,
    label: str,
    category: Category,
    vertices: NDArray[np.floating],
    indices: NDArray[np.integer],
    settings: SceneSettings,
    box: Box | None = None,
) -> Candidate:
    """Return the object of an instance, or the reason it is left out.

    The reason is that of the category, few_vertices (fewer than `settings.min_vertices`) or degenerate_box (NaN, or
    longest edge < 0.05 m).

    Args:
        vertices: (V, 3) of the mesh, in the frame of the scene.
        indices: (K,) which of them are the instance's.
        box: the annotators' own; None: it is fitted to the points.

    Raises:
        DataError: the floor stands upright: z is not up.
    """
    if label.strip().casefold() == _FLOOR and len(indices) >= settings.min_vertices:
        _check_lies(instance_id, vertices[indices])
    if category.name is None:
        return Candidate(label, None, category.reason)
    if len(indices) < max(settings.min_vertices, 1):
        return Candidate(label, None, "few_vertices", category.name)
    points = vertices[indices]
    box = fit_box(points, settings.box) if box is None else box
    size_box = fit_box(points, "aabb") if settings.size_box == "aabb" else box
    if not _is_sound(box) or not _is_sound(size_box):
        return Candidate(label, None, "degenerate_box", category.name)
    return Candidate(label, SceneObject(instance_id, category.name, box, size_box, label, len(points)))


def make_scene(
    identity: tuple[str, str, str],
    candidates: Iterable[Candidate],
    names: Set[str],
    vertices: NDArray[np.floating],
    settings: SceneSettings,
    warnings: Mapping[str, int],
    floor_points: NDArray[np.floating] | None = None,
) -> Scene:
    """Return the scene of a scan.

    Candidates that are no objects are counted by reason in `warnings` (`dropped_<reason>`) and by label in
    `extra["dropped"]`. If one instance of a category is left out, all are (incomplete_category): the others would be
    counted wrong, or called the only one, or the nearest. A floor outside 2..150 square metres is unknown, and counted.

    Args:
        identity: data set, scan id and room.
        names: every name of every label, for questions about what is not there.
        vertices: (V, 3) of the mesh.
        floor_points: (P, 3) that the floor is drawn from; None: the vertices.

    Raises:
        DataError: an object is longer than any of a room: the unit is not the metre.
    """
    dataset, scan_id, room = identity
    objects: list[SceneObject] = []
    dropped: dict[str, Counter[str]] = {}
    candidates = list(candidates)
    incomplete = {found.category for found in candidates if found.item is None}
    for found in candidates:
        if found.item is not None:
            _check_metres(found.item)
        if found.item is not None and found.item.category not in incomplete:
            objects.append(found.item)
        else:
            dropped.setdefault(found.reason or "incomplete_category", Counter())[found.label] += 1
    counted = {**warnings, **{f"dropped_{reason}": counter.total() for reason, counter in sorted(dropped.items())}}
    points = vertices if floor_points is None else floor_points
    room_size, outlines = room_floor(
        points, settings.alpha_points, scan_id, alpha=settings.alpha, holes=settings.alpha_holes
    )
    if room_size is None:
        counted["room_size_unknown"] = 1
    elif not _ROOM_AREA_RANGE[0] <= room_size <= _ROOM_AREA_RANGE[1]:
        counted["room_size_out_of_range"] = 1
        room_size = None
    return Scene(
        dataset=dataset,
        scene_name=scan_id,
        room=room,
        objects=tuple(objects),
        room_size=room_size,
        room_center=(vertices.min(axis=0) + vertices.max(axis=0)).astype(np.float64) / 2,
        object_counts=dict(sorted(Counter(item.category for item in objects).items())),
        warnings=counted,
        extra={
            "dropped": {reason: dict(sorted(counter.items())) for reason, counter in sorted(dropped.items())},
            "names": sorted(names),
            "floor_outline": [loop.round(2).tolist() for loop in outlines],
        },
    )


def _check_metres(item: SceneObject) -> None:
    if (longest := float(item.box.axes_lengths.max())) > _MAX_DIMENSION:
        what = f"object {item.instance_id} ({item.raw_label}): its longest edge is {longest:.0f} m"
        raise DataError(
            f"{what}, of no object of a room", "coordinates must be in metres: scale the mesh and its boxes"
        )


def _check_lies(instance_id: int, points: NDArray[np.floating]) -> None:
    """Refuse a floor that stands upright: heights, areas and directions would be those of a room on its side."""
    low, high = np.percentile(points, (5, 95), axis=0)
    x, y, z = (high - low).tolist()
    if z > max(_FLOOR_RISE[0], _FLOOR_RISE[1] * min(x, y)):
        problem = f"object {instance_id} (floor): spans {x:.1f} x {y:.1f} m in x and y and {z:.1f} m in z: z is not up"
        raise DataError(problem, "turn the mesh so that z points up, or give the axisAlignment that does so")


def _is_sound(box: Box) -> bool:
    finite = np.isfinite(box.axes_lengths).all() and np.isfinite(box.centroid).all() and np.isfinite(box.axes).all()
    return bool(finite and box.axes_lengths.max() >= MIN_DIMENSION)
