"""Small tables of facts, shipped as text files: rooms that may not be trained on, official splits, label names.

Ids and our own name tables only, and the category of a label by them; ScanNet's label tsv is read from the user's copy
(`vsgrpo.scans.annotation`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

BENCHMARKS = {"VSI-Bench": "deny_vsibench.tsv"}
"""Benchmark -> its table of scenes (dataset, scene, room). Another benchmark is one table and one entry here."""
_kept_out: dict[tuple[str, str], str] = {}
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
    """Return (dataset, scene) -> room of every scene that no model may be trained on: of `BENCHMARKS`, and kept out.

    Of a room that is kept out only a ScanNet++ scene, which is its room, is a scene here.
    """
    found = {(dataset, scene): room for file in BENCHMARKS.values() for dataset, scene, room in _rows(file)}
    return {key: key[1] for key in _kept_out if key[0] == "scannetpp"} | found


@cache
def denied_rooms() -> dict[tuple[str, str], str]:
    """Return (dataset, room) -> what shows it: the first of `BENCHMARKS`, or a file that is kept out (`keep_out`)."""
    found: dict[tuple[str, str], str] = {}
    for benchmark, file in BENCHMARKS.items():
        for dataset, _, room in _rows(file):
            found.setdefault((dataset, room), benchmark)
    return _kept_out | found


def keep_out(rooms: dict[tuple[str, str], str]) -> None:
    """Deny further rooms in this process, (dataset, room) -> what shows it, in place of those of an earlier call."""
    _kept_out.clear()
    _kept_out.update(rooms)
    denied_scenes.cache_clear()
    denied_rooms.cache_clear()


def kept_out() -> dict[tuple[str, str], str]:
    """Return the rooms that `keep_out` denies now."""
    return dict(_kept_out)


@cache
def arkitscenes_visits() -> dict[str, str]:
    """Return ARKitScenes video -> its visit, that is its room; videos whose visit is not published are left out."""
    return {video: visit for video, visit, _ in _rows("arkitscenes_visits.tsv") if visit != "NA"}


@cache
def arkitscenes_folds() -> dict[str, str]:
    """Return ARKitScenes video -> the publisher's fold, "Training" or "Validation"."""
    return {video: fold for video, _, fold in _rows("arkitscenes_visits.tsv")}


@cache
def arkitscenes_classes() -> dict[str, tuple[str, str | None]]:
    """Return the 17 annotated classes of ARKitScenes -> (name in questions, VSI-Bench's category or None)."""
    rows = _rows("arkitscenes_categories.tsv")
    return {label: (name, None if category == "-" else category) for label, name, category in rows}


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
def scannet_room_splits() -> dict[str, str]:
    """Return ScanNet room ("scene0000") -> the official split of all its scans."""
    return {scan.rpartition("_")[0]: split for split in SPLITS for scan in split_ids(split)}


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
def scannetpp_categories() -> dict[str, str | None]:
    """Return label of ScanNet++ -> the category that VSI-Bench asks about, None where it never does; case-folded."""
    return {label: None if name == "-" else name for label, name in _rows("scannetpp_categories.tsv")}


@cache
def scannetpp_structure() -> frozenset[str]:
    """Return the case-folded labels of ScanNet++ that are structure, or no object at all."""
    return frozenset(_lines("scannetpp_structure.txt"))


# --- the categories that questions use ---


@dataclass(frozen=True)
class LabelRow:
    """One row of ScanNet's label tsv.

    Attributes:
        category: the cleaned name, typos and plurals merged.
        nyu40id: None where the cell is empty.
    """

    category: str
    nyu40id: int | None


@dataclass(frozen=True)
class LabelTable:
    """Rows by raw category, as annotators wrote it."""

    rows: dict[str, LabelRow]

    def get(self, label: str) -> LabelRow | None:
        """Return the row of a raw label, exact after strip, else case-folded; None where the table has none."""
        stripped = label.strip()
        return self.rows.get(stripped) or self.rows.get(_fold(stripped))


@dataclass(frozen=True)
class Category:
    """What became of a label: the name questions use, or None and the reason it is left out."""

    name: str | None
    reason: str = ""


def _fold(label: str) -> str:
    """Case-fold a label and make its inner white space single."""
    return " ".join(label.casefold().split())


def categorize(label: str, labels: LabelTable, mode: str) -> Category:
    """Return the category of a raw label: mode "raw" keeps its own cleaned name, "benchmark" VSI-Bench's names.

    raw: category column of the tsv, then our aliases, less the blacklist and the structural nyu40 classes.
    Deviation: of nyu40 class 38 (otherstructure) objects such as stove, oven, dishwasher and shower stay, since the
    paper's own figure asks about a shower; `structure_exceptions` lists them.
    benchmark: by name, else by nyu40 class; names are mapped BEFORE anything is counted.
    Source: VSI-100k (arXiv 2504.00883) uses raw labels; the category list is that of VSI-Bench (arXiv 2412.14171).

    Raises:
        ValueError: another mode.
    """
    row = labels.get(label)
    raw = _fold(label)
    clean = _fold(row.category) if row else raw
    name = category_aliases().get(clean, clean)
    if row is None:  # a spelling the tsv lacks may be known under its common name
        row = labels.get(name)
    nyu40id = row.nyu40id if row else None
    if mode == "benchmark":
        return _benchmark_category((raw, clean, name), nyu40id)
    if mode != "raw":
        raise ValueError(f"categories={mode!r}: must be raw or benchmark")
    if not name or {raw, clean, name} & label_blacklist():
        return Category(None, "blacklist")
    is_exception = nyu40id == OTHER_STRUCTURE_NYU40 and {raw, clean, name} & structure_exceptions()
    if nyu40id in (*STRUCTURE_NYU40, OTHER_STRUCTURE_NYU40) and not is_exception:
        return Category(None, "structure")
    return Category(name)


def categorize_arkitscenes(label: str, mode: str) -> Category:
    """Return the category of a label of ARKitScenes in mode "raw" or "benchmark", as `categorize` does for ScanNet."""
    found = arkitscenes_classes().get(arkitscenes_class(label))
    if found is None:
        return Category(None, "unknown_label")
    name, category = found
    if mode == "benchmark":
        return Category(category, "" if category else "not_in_benchmark")
    return Category(category_aliases().get(name, name))


def arkitscenes_class(label: str) -> str:
    """Return a label in the spelling of the classes: "TV monitor" and "tv/monitor" are `tv_monitor`."""
    return "_".join(label.casefold().replace("-", " ").replace("/", " ").replace("_", " ").split())


def names_of(label: str, labels: LabelTable) -> set[str]:
    """Return every name of a raw label: as annotated, cleaned, under its alias, and the benchmark's category of it."""
    row, raw = labels.get(label), _fold(label)
    clean = _fold(row.category) if row else raw
    category = categorize(label, labels, "benchmark").name
    return {name for name in (raw, clean, category_aliases().get(clean, clean), category) if name}


def categorize_scannetpp(label: str, mode: str) -> Category:
    """Return the category of a label of ScanNet++: mode "raw" keeps its own name, "benchmark" VSI-Bench's names.

    raw: our aliases, less the blacklist and what is structure. benchmark: by name, before anything is counted.

    Raises:
        ValueError: another mode.
    """
    raw = _fold(label)
    name = category_aliases().get(raw, raw)
    if mode == "benchmark":
        table = scannetpp_categories()
        category = next((table[known] for known in (raw, name) if known in table), None)
        return Category(category, "" if category else "not_in_benchmark")
    if mode != "raw":
        raise ValueError(f"categories={mode!r}: must be raw or benchmark")
    if not name or {raw, name} & scannetpp_structure():
        return Category(None, "structure")
    return Category(None, "blacklist") if {raw, name} & label_blacklist() else Category(name)


def scannetpp_names_of(label: str) -> set[str]:
    """Return every name of a label of ScanNet++: as annotated, under its alias, and the benchmark's category of it."""
    raw = _fold(label)
    names = (raw, category_aliases().get(raw, raw), categorize_scannetpp(label, "benchmark").name)
    return {name for name in names if name}


def _benchmark_category(names: tuple[str, ...], nyu40id: int | None) -> Category:
    table = benchmark_categories()
    category = table.of_nyu40.get(nyu40id) if nyu40id is not None else None
    category = next((table.of_name[name] for name in names if name in table.of_name), category)
    return Category(category, "" if category else "not_in_benchmark")


# --- the files ---


@cache
def _split_by_id() -> dict[str, str]:
    return {scan_id: split for split in SPLITS for scan_id in split_ids(split)}


def _lines(name: str) -> list[str]:
    text = files("vsgrpo.tables").joinpath(name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def _rows(name: str) -> list[list[str]]:
    """Return the tab-separated rows after the header."""
    return [line.split("\t") for line in _lines(name)[1:]]
