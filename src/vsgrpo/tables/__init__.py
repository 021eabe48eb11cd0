"""Small tables of facts, shipped as text files: rooms that may not be trained on, official splits, label names.

Ids and our own name tables only; ScanNet's label tsv is read from the user's copy (`vsgrpo.scans.annotation`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

BENCHMARKS = {"VSI-Bench": "deny_vsibench.tsv"}
"""Benchmark -> its table of scenes (dataset, scene, room). Another benchmark is one table and one entry here."""
SPLITS = ("train", "val", "test")
STRUCTURE_NYU40 = frozenset({0, 1, 2, 22})
"""nyu40 ids never asked about: none, wall, floor, ceiling."""
OTHER_STRUCTURE_NYU40 = 38
"""nyu40 `otherstructure`: left out but for `structure_exceptions()`."""


@dataclass(frozen=True)
class BenchmarkCategories:
    """How labels become VSI-Bench categories.

    Attributes:
        categories: the 33 names, in the table's order.
        of_name: label name -> category; None for names that must not come in by their nyu40 class.
        of_nyu40: nyu40 id -> category, for labels whose name is not listed.
    """

    categories: tuple[str, ...]
    of_name: dict[str, str | None]
    of_nyu40: dict[int, str]


@cache
def denied_scenes() -> dict[tuple[str, str], str]:
    """Return (dataset, scene) -> room of every scene that no model may be trained on, over all of `BENCHMARKS`."""
    return {(dataset, scene): room for file in BENCHMARKS.values() for dataset, scene, room in _rows(file)}


@cache
def denied_rooms() -> dict[tuple[str, str], str]:
    """Return (dataset, room) -> the benchmark that shows it (the first of `BENCHMARKS`)."""
    found: dict[tuple[str, str], str] = {}
    for benchmark, file in BENCHMARKS.items():
        for dataset, _, room in _rows(file):
            found.setdefault((dataset, room), benchmark)
    return found


@cache
def arkitscenes_visits() -> dict[str, str]:
    """Return ARKitScenes video -> its visit, that is its room; videos whose visit is not published are left out."""
    return {video: visit for video, visit, _ in _rows("arkitscenes_visits.tsv") if visit != "NA"}


@cache
def split_ids(split: str) -> tuple[str, ...]:
    """Return the scan ids of the official ScanNet v2 split "train", "val" or "test", sorted.

    Raises:
        ValueError: another split name.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: must be one of {', '.join(SPLITS)}")
    return tuple(_lines(f"scannetv2_{split}.txt"))


def split_of(scan_id: str) -> str | None:
    """Return the official split that `scan_id` ("scene0000_00") belongs to, None where ScanNet v2 has no such scan."""
    return _split_by_id().get(scan_id)


@cache
def label_blacklist() -> frozenset[str]:
    """Return the case-folded labels that raw-label mode leaves out."""
    return frozenset(_lines("label_blacklist.txt"))


@cache
def structure_exceptions() -> frozenset[str]:
    """Return labels of nyu40 class 38 (otherstructure) that are objects all the same, e.g. "stove"."""
    return frozenset(_lines("structure_exceptions.txt"))


@cache
def category_aliases() -> dict[str, str]:
    """Return spelling or synonym -> the name that questions use, all case-folded."""
    return {row[0]: row[1] for row in _rows("label_aliases.tsv")}


@cache
def benchmark_categories() -> BenchmarkCategories:
    """Return the benchmark's category list and how labels map to it."""
    rows = _rows("benchmark_categories.tsv")
    of_name = {name: None if row[0] == "-" else row[0] for row in rows for name in row[2].split(",")}
    of_nyu40 = {int(number): row[0] for row in rows for number in row[1].split(",") if number}
    return BenchmarkCategories(tuple(row[0] for row in rows if row[0] != "-"), of_name, of_nyu40)


@cache
def _split_by_id() -> dict[str, str]:
    return {scan_id: split for split in SPLITS for scan_id in split_ids(split)}


def _lines(name: str) -> list[str]:
    text = files("vsgrpo.tables").joinpath(name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def _rows(name: str) -> list[list[str]]:
    """Return the tab-separated rows after the header."""
    return [line.split("\t") for line in _lines(name)[1:]]
