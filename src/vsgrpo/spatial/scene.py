"""What a scan is after reading: objects with boxes in metres, z up. Pure data, no I/O.

All coordinates are in the scan's axis-aligned frame (ScanNet `axisAlignment` applied): metres, z up.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Box:
    """An oriented box.

    Attributes:
        centroid: (3,) box centre in metres.
        axes_lengths: (3,) full edge lengths in metres.
        axes: (3, 3) ROW i is the unit axis of length `axes_lengths[i]` (VSI-Bench `normalizedAxes`,
            reshape(3, 3); rows reproduce the official min/max to 1e-15, columns do not).
    """

    centroid: NDArray[np.float64]
    axes_lengths: NDArray[np.float64]
    axes: NDArray[np.float64]

    def corners(self) -> NDArray[np.float64]:
        """Return the 8 corners, shape (8, 3)."""
        signs = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
        return self.centroid + (signs * self.axes_lengths) @ self.axes

    @property
    def min(self) -> NDArray[np.float64]:
        """(3,) lower corner of the axis-aligned hull of the box."""
        return self.centroid - np.abs(self.axes * self.axes_lengths[:, None] / 2).sum(axis=0)

    @property
    def max(self) -> NDArray[np.float64]:
        """(3,) upper corner of the axis-aligned hull of the box."""
        return self.centroid + np.abs(self.axes * self.axes_lengths[:, None] / 2).sum(axis=0)


@dataclass(frozen=True)
class SceneObject:
    """One annotated instance.

    Attributes:
        instance_id: ScanNet `objectId`, or a running number where the source has none.
        category: the name questions use (after the category mapping of the mode).
        box: oriented box (`spatial.box`).
        size_box: the box whose longest edge is the object's size (`spatial.size_box`); often the same as `box`.
        raw_label: the annotation's own label.
        num_vertices: mesh vertices of the instance, 0 where unknown.
    """

    instance_id: int
    category: str
    box: Box
    size_box: Box
    raw_label: str = ""
    num_vertices: int = 0

    @property
    def is_sound(self) -> bool:
        """Whether its box is finite."""
        return bool(np.isfinite(self.box.centroid).all() and np.isfinite(self.box.axes_lengths).all())


@dataclass(frozen=True)
class Footage:
    """What a video shows of the objects over time, in the F frames that were looked at.

    Attributes:
        times: seconds from the start of the video, ascending.
        shown: positions in `times` of the frames a loader gives to a model.
        frame_pixels: pixels of a whole frame.
        pixels: instance id -> its pixels in each of the F frames.
        budgets: frames asked for -> positions in `times` of those that a loader then shows; budgets of which every
            frame was looked at.
        reach: how far each of the F frames sees over the floor plan (`spatial.sight.reach_of`), None where that is not
            known or not asked; empty: in none.
        areas: frames asked for -> share of the room's floor that lies under their lines of sight; empty: not known.
        poses: (F, 4, 4) camera (x right, y down, z forward) -> frame of the scene, metres, in each of the F frames; nan
            where it is not known; None: in none.
        frames_shown: frames that a loader shows, as moments count them: `shown` with repeated frames left out.
        numbers: of each of the F frames among these, from 1; 0: it is not shown.
        has_clock: the seconds are those of a recording, not of a row of views.
    """

    times: tuple[float, ...]
    shown: tuple[int, ...]
    frame_pixels: int
    pixels: dict[int, tuple[int, ...]]
    budgets: dict[int, tuple[int, ...]] = field(default_factory=dict)
    reach: tuple[NDArray[np.float32] | None, ...] = ()
    areas: dict[int, float] = field(default_factory=dict)
    poses: NDArray[np.float64] | None = None
    frames_shown: int = 0
    numbers: tuple[int, ...] = ()
    has_clock: bool = False


@dataclass(frozen=True)
class FreeFloor:
    """Where one can walk: a grid over the floor plan.

    Attributes:
        origin: (2,) world x, y of the lower corner of cell (0, 0), metres.
        cell: edge of a cell in metres.
        free: (R, C) bool, rows along x: floor is there and nothing stands on it or too near.
        height: world z of the floor, metres; None where it was not measured.
    """

    origin: NDArray[np.float64]
    cell: float
    free: NDArray[np.bool_]
    height: float | None = None


@dataclass(frozen=True)
class Scene:
    """One scan, ready for questions.

    Attributes:
        dataset: "scannet", "demo", "scannetpp", "arkitscenes".
        scene_name: scan id, e.g. "scene0000_00".
        room: grouping key for splits and leak checks, e.g. "scene0000" (a room is scanned 1-7 times).
        objects: annotated instances, structural ones (wall, floor, ceiling) left out.
        room_size: floor area in square metres, None where it cannot be computed.
        room_center: (3,) metres.
        object_counts: instances per category. Normally the counts of `objects`; official VSI-Bench meta info
            has hand-edited counts that differ from its box list.
        pixels: per instance id, pixels of that instance in each frame of the mesh walk, or in each frame of a
            recorded video that a loader shows; None where they were not counted.
        warnings: counter name -> number, defects survived while reading.
        extra: anything else that a source passes on (JSON-able).
        footage: what the video shows over time, for the order of appearance; None where unknown.
        floor: where one can walk, for routes; None where it was not mapped.
    """

    dataset: str
    scene_name: str
    room: str
    objects: tuple[SceneObject, ...]
    room_size: float | None
    room_center: NDArray[np.float64]
    object_counts: dict[str, int]
    pixels: dict[int, tuple[int, ...]] | None = None
    warnings: dict[str, int] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    footage: Footage | None = None
    floor: FreeFloor | None = None

    def of_category(self, category: str) -> tuple[SceneObject, ...]:
        """Return the instances of `category`, in annotation order."""
        return tuple(o for o in self.objects if o.category == category)

    def unique_objects(self) -> tuple[SceneObject, ...]:
        """Return objects whose category occurs exactly once (by `object_counts` and by boxes), sorted by category."""
        boxes = Counter(item.category for item in self.objects)
        unique = [o for o in self.objects if boxes[o.category] == 1 and self.object_counts.get(o.category, 1) == 1]
        return tuple(sorted(unique, key=lambda o: o.category))
