"""ScanNet's annotation: segs.json, aggregation.json, txt and the label tsv, and the rules for their known defects."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from vsgrpo import tables
from vsgrpo.errors import DataError
from vsgrpo.scans.source import DOWNLOAD_AGAIN, read_json_object, read_text

LABEL_FILE = "scannetv2-labels.combined.tsv"
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


@dataclass(frozen=True)
class _Group:
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
        raise DataError(f"{path}: has no list segIndices", hint=DOWNLOAD_AGAIN)
    if len(ids) != num_vertices:
        what = f"has {len(ids)} segIndices for {num_vertices} mesh vertices"
        raise DataError(f"{path}: {what}", hint=_USE_LOW_RES)
    try:
        segments = np.asarray(ids)
    except (ValueError, OverflowError):  # lists among the numbers
        segments = np.empty(0, dtype=object)
    if segments.ndim != 1 or segments.dtype != np.int64:
        raise DataError(f"{path}: segIndices holds something other than integers", hint=DOWNLOAD_AGAIN)
    return segments


def read_instances(
    path: Path, segments_path: Path, segments: NDArray[np.int64], warnings: Counter[str]
) -> list[Instance]:
    """Read an aggregation and gather each object's vertices, in file order.

    Defects survived, each counted in `warnings`: `duplicate_groups` (the same segment set again, scene0217_00: the
    first stays), `duplicate_object_ids` (the later one gets the next free id), `overlapping_segments` (a segment of
    two groups: the first group keeps it; Deviation: the official exporter lets the later one win),
    `missing_segments` (listed but on no vertex) and `empty_instances` (no vertex left: dropped).

    Raises:
        DataError: broken JSON, a group without label or segments, no group at all, or the high-resolution
            aggregation beside low-resolution segments.
    """
    document = read_json_object(path)
    named = document.get("segmentsFile")
    if isinstance(named, str) and named.endswith("_vh_clean.segs.json") != segments_path.name.endswith(
        "_vh_clean.segs.json"
    ):
        what = f"segmentsFile={named} is not the segmentation read, {segments_path.name}"
        raise DataError(f"{path}: {what}", hint=_USE_LOW_RES)
    groups = _dedupe(_parse_groups(path, document.get("segGroups")), warnings)
    ids, inverse = np.unique(segments, return_inverse=True)
    position = {int(segment): number for number, segment in enumerate(ids)}
    listed = [segment for group in groups for segment in group.segments]
    missing = sum(segment not in position for segment in listed)
    if 2 * missing > len(listed):
        what = f"{missing} of its {len(listed)} segments are absent from {segments_path.name}"
        raise DataError(f"{path}: {what}", hint=_USE_LOW_RES)
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
            raise DataError(f"{path}: line {number} is not `key = value`: {line[:60]!r}", hint=DOWNLOAD_AGAIN)
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
        raise DataError(f"{path}: axisAlignment={text[:60]!r} is not 16 numbers", hint=DOWNLOAD_AGAIN)
    matrix = numbers.reshape(4, 4)
    with np.errstate(all="ignore"):
        error = np.abs(matrix[:3, :3] @ matrix[:3, :3].T - np.eye(3)).max()
    rigid = error < 1e-2 and np.linalg.det(matrix[:3, :3]) > 0 and np.abs(matrix[:3, 3]).max() < _MAX_SHIFT_METRES
    if not rigid or np.abs(matrix[3] - [0, 0, 0, 1]).max() > 1e-4:
        raise DataError(f"{path}: axisAlignment is not a rotation with a shift", hint=DOWNLOAD_AGAIN)
    return matrix


def _parse_groups(path: Path, entries: Any) -> list[_Group]:
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path}: has no segGroups", hint=DOWNLOAD_AGAIN)
    groups = []
    for number, entry in enumerate(entries):
        fields = entry if isinstance(entry, dict) else {}
        instance_id = fields.get("objectId", fields.get("id"))
        label, segments = fields.get("label"), fields.get("segments")
        if not _is_index(instance_id) or not isinstance(label, str) or not isinstance(segments, list):
            what = f"segGroups[{number}] lacks objectId, label or segments"
            raise DataError(f"{path}: {what}", hint=DOWNLOAD_AGAIN)
        if not all(_is_index(segment) for segment in segments):
            raise DataError(f"{path}: segGroups[{number}].segments are not all ids", hint=DOWNLOAD_AGAIN)
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
            group = _Group(next_id, group.label, group.segments)
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
        if len(vertices):
            instances.append(Instance(group.instance_id, group.label, vertices))
        else:
            warnings["empty_instances"] += 1
    return instances


# --- labels, and the categories that questions use ---


@dataclass(frozen=True)
class LabelRow:
    """One row: `category` is the cleaned name (typos and plurals merged), `nyu40id` None where the cell is empty."""

    category: str
    nyu40id: int | None


@dataclass(frozen=True)
class LabelTable:
    """Rows by raw category, as annotators wrote it."""

    rows: dict[str, LabelRow]

    def get(self, label: str) -> LabelRow | None:
        """Return the row of a raw label, exact after strip, else case-folded; None where the table has none."""
        stripped = label.strip()
        return self.rows.get(stripped) or self.rows.get(fold(stripped))


@dataclass(frozen=True)
class Category:
    """What became of a label: the name questions use, or None and the reason it is left out."""

    name: str | None
    reason: str = ""


def fold(label: str) -> str:
    """Case-fold a label and make its inner white space single."""
    return " ".join(label.casefold().split())


def read_labels(root: Path) -> LabelTable:
    """Read `scannetv2-labels.combined.tsv` of `root` or `root/tasks`.

    Raises:
        DataError: missing, truncated or without the columns raw_category, category and nyu40id.
    """
    places = [Path(root) / LABEL_FILE, Path(root) / "tasks" / LABEL_FILE]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        hint = f"source.root is the folder that holds scans/ and {LABEL_FILE} (it comes with ScanNet's downloader)"
        raise DataError(f"{places[0]}: no such file", hint=hint)
    text = read_text(path)
    lines = text.splitlines()
    header = lines[0].split("\t")
    missing = [name for name in ("raw_category", "category", "nyu40id") if name not in header]
    if missing:
        raise DataError(f"{path}: has no column {missing[0]}", hint=_TSV_AGAIN)
    raw, clean, nyu40 = (header.index(name) for name in ("raw_category", "category", "nyu40id"))
    rows: dict[str, LabelRow] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        cells = line.split("\t")
        cut = number == len(lines) and len(cells) < len(header) and not text.endswith("\n")
        if cut or len(cells) <= max(raw, clean, nyu40):  # rows may end early (the real table has such), cells may not
            what = f"line {number} has {len(cells)} of {len(header)} columns"
            raise DataError(f"{path}: {what}", hint=_TSV_AGAIN)
        nyu40id = cells[nyu40].strip()
        if nyu40id and not (nyu40id.isascii() and nyu40id.isdigit() and len(nyu40id) < 6):
            raise DataError(f"{path}: line {number} has nyu40id={nyu40id!r}", hint=_TSV_AGAIN)
        name = cells[raw].strip()
        rows.setdefault(name, LabelRow(cells[clean].strip() or name, int(nyu40id) if nyu40id else None))
    if not rows:
        raise DataError(f"{path}: has no rows", hint=_TSV_AGAIN)
    return LabelTable(rows)


def categorize(label: str, labels: LabelTable, mode: str) -> Category:
    """Return the category of a raw label: mode "raw" keeps its own cleaned name, "benchmark" VSI-Bench's names.

    raw: category column of the tsv, then our aliases, less the blacklist and the structural nyu40 classes.
    Deviation: of nyu40 class 38 (otherstructure) objects such as stove, oven, dishwasher and shower stay, since the
    paper's own figure asks about a shower; `tables.structure_exceptions` lists them.
    benchmark: by name, else by nyu40 class; names are mapped BEFORE anything is counted.
    Source: VSI-100k (arXiv 2504.00883) uses raw labels; the category list is that of VSI-Bench (arXiv 2412.14171).

    Raises:
        ValueError: another mode.
    """
    row = labels.get(label)
    raw = fold(label)
    clean = fold(row.category) if row else raw
    name = tables.category_aliases().get(clean, clean)
    if row is None:  # a spelling the tsv lacks may be known under its common name
        row = labels.get(name)
    nyu40id = row.nyu40id if row else None
    if mode == "benchmark":
        return _benchmark_category((raw, clean, name), nyu40id)
    if mode != "raw":
        raise ValueError(f"categories={mode!r}: must be raw or benchmark")
    if not name or {raw, clean, name} & tables.label_blacklist():
        return Category(None, "blacklist")
    if nyu40id in tables.STRUCTURE_NYU40:
        return Category(None, "structure")
    if nyu40id == tables.OTHER_STRUCTURE_NYU40 and not {raw, clean, name} & tables.structure_exceptions():
        return Category(None, "structure")
    return Category(name)


def _benchmark_category(names: tuple[str, ...], nyu40id: int | None) -> Category:
    table = tables.benchmark_categories()
    for name in names:
        if name in table.of_name:
            category = table.of_name[name]
            return Category(category, "" if category else "not_in_benchmark")
    category = table.of_nyu40.get(nyu40id) if nyu40id is not None else None
    return Category(category, "" if category else "not_in_benchmark")
