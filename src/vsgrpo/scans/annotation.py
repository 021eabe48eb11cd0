"""ScanNet's annotation, read and written: segs.json, aggregation.json, txt and the label tsv.

Known defects of the real files are survived by rule, and counted.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from numpy.typing import NDArray

from vsgrpo.files import write_atomic
from vsgrpo.scans.source import broken, read_json_object, read_text
from vsgrpo.tables import LabelRow, LabelTable
from vsgrpo.terminal import counted

SEGMENTS, AGGREGATION = "_vh_clean_2.0.010000.segs.json", ".aggregation.json"
"""What follows the scan id in the names of its files."""
LABEL_FILE = "scannetv2-labels.combined.tsv"
_COLUMNS = (
    *("id", "raw_category", "category", "count", "nyu40id", "eigen13id", "nyuClass", "nyu40class", "eigen13class"),
    *("ModelNet40", "ModelNet10", "ShapeNetCore55", "synsetoffset", "wnsynsetid", "wnsynsetkey", "mpcat40"),
    "mpcat40index",
)
_USE_LOW_RES = (
    "take the pair <scan>_vh_clean_2.0.010000.segs.json and <scan>.aggregation.json; the _vh_clean pair is "
    "for the high-resolution mesh"
)
_TSV_AGAIN = "download ScanNet's label tsv again"
_KEY = re.compile(r"[A-Za-z]\w*")
_MAX_SHIFT_METRES = 1000.0


@dataclass(frozen=True)
class Instance:
    """One annotated object: `instance_id` is ScanNet's objectId, `vertex_indices` (K,) int64 into the mesh, sorted."""

    instance_id: int
    label: str
    vertex_indices: NDArray[np.int64]


class _Group(NamedTuple):
    instance_id: int
    label: str
    segments: frozenset[int]


def read_segments(path: Path, num_vertices: int) -> NDArray[np.int64]:
    """Read segIndices, (V,) sparse segment ids, one per mesh vertex.

    Raises:
        DataError: broken JSON, ids that are not integers, or not one per vertex (another mesh's file).
    """
    ids = read_json_object(path).get("segIndices")
    if not isinstance(ids, list):
        raise broken(path, "has no list segIndices")
    if len(ids) != num_vertices:
        raise broken(
            path, f"has {len(ids)} segIndices for {counted(num_vertices, 'mesh vertex', 'mesh vertices')}", _USE_LOW_RES
        )
    try:
        segments = np.asarray(ids)
    except (ValueError, OverflowError):  # lists among the numbers
        segments = np.empty(0, dtype=object)
    if segments.ndim != 1 or segments.dtype != np.int64:
        raise broken(path, "segIndices holds something other than integers")
    return segments


def read_instances(
    path: Path, segments_path: Path, segments: NDArray[np.int64], warnings: Counter[str]
) -> list[Instance]:
    """Read an aggregation and gather each object's vertices, in file order.

    Defects survived, each counted in `warnings`: `duplicate_groups` (the same segment set again, scene0217_00: the
    first stays), `duplicate_object_ids` (the later one gets the next free id), `overlapping_segments` (a segment of
    two groups: the first group keeps it; Deviation: the official exporter lets the later one win),
    `missing_segments` (listed but on no vertex) and `empty_instances` (no vertex left: of
    them is known that they are there).

    Raises:
        DataError: broken JSON, a group without label or segments, no group at all, or the high-resolution
            aggregation beside low-resolution segments.
    """
    document = read_json_object(path)
    named = document.get("segmentsFile")
    is_high_res = [str(name).endswith("_vh_clean.segs.json") for name in (named, segments_path)]
    if isinstance(named, str) and is_high_res[0] != is_high_res[1]:
        raise broken(path, f"segmentsFile={named} is not the segmentation read, {segments_path.name}", _USE_LOW_RES)
    groups = _dedupe(_parse_groups(path, document.get("segGroups")), warnings)
    ids, inverse = np.unique(segments, return_inverse=True)
    position = {int(segment): number for number, segment in enumerate(ids)}
    listed = [segment for group in groups for segment in group.segments]
    missing = sum(segment not in position for segment in listed)
    if 2 * missing > len(listed):
        what = f"{missing} of its {counted(len(listed), 'segment is', 'segments are')} absent from {segments_path.name}"
        raise broken(path, what, _USE_LOW_RES)
    owner = np.full(len(ids), -1, dtype=np.int64)
    for number, group in enumerate(groups):
        places = np.array([position[s] for s in group.segments if s in position], dtype=np.int64)
        free = places[owner[places] < 0]
        owner[free] = number
        warnings["overlapping_segments"] += len(places) - len(free)
    warnings["missing_segments"] += missing
    return _gather(groups, owner[inverse], warnings)


def read_info(path: Path) -> dict[str, str]:
    """Read `key = value` lines of the scan's txt.

    Raises:
        DataError: a line without `=` or with something that is no key (truncated, or another kind of file).
    """
    info: dict[str, str] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        key, equals, value = line.partition("=")
        if not equals or not _KEY.fullmatch(key.strip()):
            raise broken(path, f"line {number} is not `key = value`: {line[:60]!r}")
        info[key.strip()] = value.strip()
    return info


def axis_alignment(path: Path, info: dict[str, str], warnings: Counter[str]) -> NDArray[np.float64]:
    """Return the (4, 4) transform raw -> aligned; identity, counted as `missing_alignment`, where there is none.

    Raises:
        DataError: not 16 numbers, or not a rotation with a shift below 1 km.
    """
    text = info.get("axisAlignment")
    if text is None:
        warnings["missing_alignment"] += 1
        return np.eye(4)
    try:
        numbers = np.array([float(word) for word in text.split()])
    except ValueError:
        numbers = np.empty(0)
    if len(numbers) != 16 or not np.isfinite(numbers).all():
        raise broken(path, f"axisAlignment={text[:60]!r} is not 16 numbers")
    matrix = numbers.reshape(4, 4)
    with np.errstate(all="ignore"):
        error = np.abs(matrix[:3, :3] @ matrix[:3, :3].T - np.eye(3)).max()
    rigid = error < 1e-2 and np.linalg.det(matrix[:3, :3]) > 0 and np.abs(matrix[:3, 3]).max() < _MAX_SHIFT_METRES
    if not rigid or np.abs(matrix[3] - [0, 0, 0, 1]).max() > 1e-4:
        raise broken(path, "axisAlignment is not a rotation with a shift")
    return matrix


def _parse_groups(path: Path, entries: Any) -> list[_Group]:
    if not isinstance(entries, list) or not entries:
        raise broken(path, "has no segGroups")
    groups = []
    for number, entry in enumerate(entries):
        fields = entry if isinstance(entry, dict) else {}
        instance_id = fields.get("objectId", fields.get("id"))
        label, segments = fields.get("label"), fields.get("segments")
        if not _is_index(instance_id) or not isinstance(label, str) or not isinstance(segments, list):
            raise broken(path, f"segGroups[{number}] lacks objectId, label or segments")
        if not all(_is_index(segment) for segment in segments):
            raise broken(path, f"segGroups[{number}].segments are not all ids")
        groups.append(_Group(instance_id, label.strip(), frozenset(segments)))
    return groups


def _is_index(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _dedupe(groups: list[_Group], warnings: Counter[str]) -> list[_Group]:
    next_id = max(group.instance_id for group in groups) + 1
    seen_segments: set[frozenset[int]] = set()
    seen_ids: set[int] = set()
    kept = []
    for group in groups:
        if group.segments and group.segments in seen_segments:
            warnings["duplicate_groups"] += 1
            continue
        if group.instance_id in seen_ids:
            warnings["duplicate_object_ids"] += 1
            group = group._replace(instance_id=next_id)
            next_id += 1
        seen_segments.add(group.segments)
        seen_ids.add(group.instance_id)
        kept.append(group)
    return kept


def _gather(groups: list[_Group], owner_of_vertex: NDArray[np.int64], warnings: Counter[str]) -> list[Instance]:
    order = np.argsort(owner_of_vertex, kind="stable")
    edges = np.searchsorted(owner_of_vertex[order], np.arange(len(groups) + 1))
    instances = []
    for number, group in enumerate(groups):
        vertices = order[edges[number] : edges[number + 1]]
        instances.append(Instance(group.instance_id, group.label, vertices))
        if not len(vertices):
            warnings["empty_instances"] += 1
    return instances


def annotation_files(
    scan_id: str, num_vertices: int, instances: Sequence[tuple[str, NDArray[np.integer]]]
) -> dict[str, str]:
    """Return suffix -> text of the segs.json and the aggregation.json of instances (label, vertex indices).

    Vertices are cut into over-segments: two per instance, the rest in runs of 200; ids are sparse, as in ScanNet.

    Raises:
        ValueError: two instances share a vertex.
    """
    segments = np.full(num_vertices, -1, dtype=np.int64)
    groups: list[list[int]] = []
    next_id = 3
    for label, indices in instances:
        if (segments[indices] >= 0).any():
            raise ValueError(f"instance {len(groups)} ({label}) shares a vertex with an earlier one")
        half = (len(indices) + 1) // 2
        segments[indices[:half]] = next_id
        segments[indices[half:]] = next_id + 5
        groups.append([next_id, next_id + 5] if len(indices) > 1 else [next_id])
        next_id += 11
    rest = np.flatnonzero(segments < 0)
    segments[rest] = next_id + 7 * (np.arange(len(rest)) // 200)
    segmentation = {
        "params": {"kThresh": "0.0001", "segMinVerts": "20", "minPoints": "750", "maxPoints": "30000"},
        "sceneId": scan_id,
        "segIndices": segments.tolist(),
    }
    aggregation = {
        "sceneId": f"scannet.{scan_id}",
        "appId": "Aggregator.v2",
        "segGroups": [
            {"id": number, "objectId": number, "segments": ids, "label": label}
            for number, ((label, _), ids) in enumerate(zip(instances, groups, strict=True))
        ],
        "segmentsFile": f"scannet.{scan_id}{SEGMENTS}",
    }
    documents = {SEGMENTS: segmentation, AGGREGATION: aggregation}
    return {suffix: json.dumps(document, separators=(",", ":")) for suffix, document in documents.items()}


# --- labels ---


def read_labels(root: Path) -> LabelTable:
    """Read `scannetv2-labels.combined.tsv` of `root` or `root/tasks`.

    Raises:
        DataError: missing, truncated or without the columns raw_category, category and nyu40id.
    """
    places = [Path(root) / LABEL_FILE, Path(root) / "tasks" / LABEL_FILE]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        hint = f"source.root is the folder that holds scans/ and {LABEL_FILE} (it comes with ScanNet's downloader)"
        raise broken(places[0], "no such file", hint)
    text = read_text(path)
    lines = text.splitlines()
    header = lines[0].split("\t")
    missing = [name for name in ("raw_category", "category", "nyu40id") if name not in header]
    if missing:
        raise broken(path, f"has no column {missing[0]}", _TSV_AGAIN)
    raw, clean, nyu40 = (header.index(name) for name in ("raw_category", "category", "nyu40id"))
    rows: dict[str, LabelRow] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        cells = line.split("\t")
        cut = number == len(lines) and len(cells) < len(header) and not text.endswith("\n")
        if cut or len(cells) <= max(raw, clean, nyu40):  # rows may end early (the real table has such), cells may not
            raise broken(path, f"line {number} has {len(cells)} of {counted(len(header), 'column')}", _TSV_AGAIN)
        nyu40id = cells[nyu40].strip()
        if nyu40id and not (nyu40id.isascii() and nyu40id.isdigit() and len(nyu40id) < 6):
            raise broken(path, f"line {number} has nyu40id={nyu40id!r}", _TSV_AGAIN)
        name = cells[raw].strip()
        rows.setdefault(name, LabelRow(cells[clean].strip() or name, int(nyu40id) if nyu40id else None))
    if not rows:
        raise broken(path, "has no rows", _TSV_AGAIN)
    return LabelTable(rows)


def write_labels(root: Path, categories: dict[str, int]) -> None:
    """Write `root/scannetv2-labels.combined.tsv` with one row per raw category -> nyu40 id, other columns empty."""
    lines = ["\t".join(_COLUMNS)]
    for number, (name, nyu40id) in enumerate(categories.items(), start=1):
        cells = {"id": str(number), "raw_category": name, "category": name, "nyu40id": str(nyu40id)}
        lines.append("\t".join(cells.get(column, "") for column in _COLUMNS))
    write_atomic(Path(root) / LABEL_FILE, "\n".join(lines) + "\n")
