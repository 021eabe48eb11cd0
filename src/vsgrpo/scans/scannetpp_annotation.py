"""ScanNet++'s annotation: segments.json and segments_anno.json of both releases.

Since the end of 2023 each segment is a vertex (`segIndices` is 0..V-1); before, segments held 20 vertices and more. A
vertex may belong to several groups. Known defects of the files are survived by rule, and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vsgrpo.scans.source import broken, read_json_object
from vsgrpo.spatial.scene import Box
from vsgrpo.terminal import counted

SEGMENTS, ANNOTATION = "segments.json", "segments_anno.json"
_AGAIN = "take segments.json, segments_anno.json and the mesh of one release of the data set"
_MIN_SEGMENT = 15
"""Vertices: segments of the older release hold 20 on average at least, so its groups list far fewer than vertices."""
_MAX_MISSING = 0.5
_MAX_METRES = 1000.0
_MAX_ID = 10**9
"""Owners of vertices have 32 bits, and groups that share an id get further ones."""
_BOX_MARGIN = 0.1
"""Metres by which a box is grown before vertices are counted in it."""
_BOX_SHARE = 0.5


@dataclass(frozen=True)
class Group:
    """One annotated object.

    Attributes:
        instance_id: objectId, from 1; the next free number where two groups have the same.
        label: as annotated, stripped.
        vertices: (K,) int64 into the mesh, sorted; a vertex may be in several groups.
        box: of the annotation, None where it has none that can be used.
    """

    instance_id: int
    label: str
    vertices: NDArray[np.int64]
    box: Box | None


def read_groups(folder: Path, vertices: NDArray[np.floating], warnings: Counter[str]) -> list[Group]:
    """Read the groups of a scan in file order.

    Defects survived, each counted in `warnings`: `segments_missing` (no segments.json: each segment is taken for a
    vertex), `missing_segments` (listed, but on no vertex), `empty_instances` (no vertex left),
    `duplicate_groups` (label and segments again: the first stays), `duplicate_object_ids`, `boxes_missing`,
    `boxes_broken` (numbers that are no box) and `boxes_elsewhere` (less than half of the vertices in the box grown by
    0.1 m): these three are fitted to the vertices.

    Args:
        folder: scans/ of the scan.
        vertices: (V, 3) of the mesh.

    Raises:
        DataError: a broken file, segments of another mesh or release, or no group.
    """
    path = folder / ANNOTATION
    entries = read_json_object(path).get("segGroups")
    if not isinstance(entries, list) or not entries:
        raise broken(path, "has no segGroups")
    parsed = [_parsed(path, number, entry) for number, entry in enumerate(entries)]
    listed = [segments for _, _, segments, _ in parsed]
    members, num_missing = _vertices_of(folder, listed, len(vertices), warnings)
    num_listed = sum(map(len, listed))
    if num_missing > _MAX_MISSING * num_listed:
        raise broken(
            path,
            f"{num_missing} of its {counted(num_listed, 'segment is', 'segments are')} on no vertex of the mesh",
            _AGAIN,
        )
    warnings["missing_segments"] += num_missing
    next_id = max(number for number, *_ in parsed) + 1
    groups: list[Group] = []
    known: set[tuple[str, bytes]] = set()
    ids: set[int] = set()
    for (instance_id, label, _, obb), own in zip(parsed, members, strict=True):
        if not len(own):
            warnings["empty_instances"] += 1
        elif (label, own.tobytes()) in known:
            warnings["duplicate_groups"] += 1
            continue
        known.add((label, own.tobytes()))
        if instance_id in ids:
            warnings["duplicate_object_ids"] += 1
            instance_id, next_id = next_id, next_id + 1
        ids.add(instance_id)
        groups.append(Group(instance_id, label, own, _box(obb, vertices, own, warnings) if len(own) else None))
    return groups


def owner_of_vertex(groups: Sequence[Group], num_vertices: int) -> NDArray[np.int32]:
    """Return (V,) the instance id of each vertex, -1 where none; of several groups the smallest has it."""
    owner = np.full(num_vertices, -1, dtype=np.int32)
    sizes = [len(group.vertices) for group in groups]
    for number in sorted(range(len(groups)), key=lambda number: (-sizes[number], -number)):  # of equal ones the first
        owner[groups[number].vertices] = groups[number].instance_id
    return owner


def _parsed(path: Path, number: int, entry: Any) -> tuple[int, str, NDArray[np.int64], Any]:
    fields = entry if isinstance(entry, Mapping) else {}
    instance_id, label = fields.get("objectId", fields.get("id")), fields.get("label")
    segments = _integers(fields.get("segments"))
    if (
        type(instance_id) is not int
        or not 0 <= instance_id <= _MAX_ID
        or not isinstance(label, str)
        or segments is None
    ):
        raise broken(path, f"segGroups[{number}] lacks objectId, label or segments")
    if len(segments) > 1 and not (segments[1:] > segments[:-1]).all():  # sorted already in most files
        segments = np.unique(segments)
    return instance_id, label.strip(), segments, fields.get("obb")


def _integers(values: Any) -> NDArray[np.int64] | None:
    """Return a list of whole numbers as an array, None where it is something else."""
    if not isinstance(values, list):
        return None
    if not values:
        return np.empty(0, dtype=np.int64)
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError):  # lists among the numbers
        return None
    return array if array.ndim == 1 and array.dtype == np.int64 else None


def _vertices_of(
    folder: Path, listed: Sequence[NDArray[np.int64]], num_vertices: int, warnings: Counter[str]
) -> tuple[list[NDArray[np.int64]], int]:
    """Return the sorted vertices of each list of segments, and how many segments are on no vertex."""
    path = folder / SEGMENTS
    segments = np.arange(num_vertices)
    if path.is_file():
        found = _integers(read_json_object(path).get("segIndices"))
        if found is None:
            raise broken(path, "has no list segIndices of whole numbers")
        if len(found) != num_vertices:
            raise broken(path, f"has {len(found)} segIndices for {num_vertices} mesh vertices", _AGAIN)
        segments = found
    else:
        warnings["segments_missing"] = 1
        if sum(map(len, listed)) * _MIN_SEGMENT < num_vertices:
            what = f"lacks {SEGMENTS}, and {ANNOTATION} lists too few segments for each to be a vertex"
            raise broken(folder, what, "copy segments.json of the same release")
    if np.array_equal(segments, np.arange(num_vertices)):
        kept = [own[(own >= 0) & (own < num_vertices)] for own in listed]
        return kept, sum(map(len, listed)) - sum(map(len, kept))
    ids, inverse, counts = np.unique(segments, return_inverse=True, return_counts=True)
    order = np.argsort(inverse, kind="stable")
    starts = np.cumsum(counts) - counts
    members, missing = [], 0
    for own in listed:
        places = np.searchsorted(ids, own)
        places = places[(places < len(ids)) & (ids[np.minimum(places, len(ids) - 1)] == own)]
        missing += len(own) - len(places)
        runs = [order[starts[place] : starts[place] + counts[place]] for place in places.tolist()]
        members.append(np.sort(np.concatenate(runs)) if runs else np.empty(0, dtype=np.int64))
    return members, missing


def _box(obb: Any, vertices: NDArray[np.floating], own: NDArray[np.int64], warnings: Counter[str]) -> Box | None:
    """Return the annotation's box, None where it is missing, no box, or not around the vertices: each counted.

    Row i of normalizedAxes, nine numbers row by row, is the unit axis of axesLengths[i], a full edge.
    """
    if obb is None:
        warnings["boxes_missing"] += 1
        return None
    fields = obb if isinstance(obb, Mapping) else {}
    centroid = _numbers(fields.get("centroid"), 3)
    lengths = _numbers(fields.get("axesLengths"), 3)
    axes = _numbers(fields.get("normalizedAxes"), 9)
    if centroid is None or lengths is None or axes is None or not _is_frame(axes.reshape(3, 3)) or (lengths < 0).any():
        warnings["boxes_broken"] += 1
        return None
    box = Box(centroid, lengths, axes.reshape(3, 3))
    inside = np.abs((vertices[own] - centroid) @ box.axes.T) <= lengths / 2 + _BOX_MARGIN
    if inside.all(axis=1).mean() < _BOX_SHARE:
        warnings["boxes_elsewhere"] += 1
        return None
    return box


def _numbers(values: Any, count: int) -> NDArray[np.float64] | None:
    """Return so many finite numbers below 1 km, nested or not, None where they are something else."""
    try:
        array = np.asarray(values, dtype=np.float64).ravel()
    except (TypeError, ValueError, OverflowError):  # the last: a whole number of hundreds of digits
        return None
    return array if len(array) == count and (np.abs(array) < _MAX_METRES).all() else None


def _is_frame(axes: NDArray[np.float64]) -> bool:
    return bool(np.abs(axes @ axes.T - np.eye(3)).max() < 1e-2)
