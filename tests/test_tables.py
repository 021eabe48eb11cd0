"""The shipped tables against the published counts."""

from pathlib import Path

import pytest

from vsgrpo import tables
from vsgrpo.scans.annotation import read_labels

META = Path(__file__).resolve().parents[2] / "shared" / "data" / "scannet_meta"
needs_meta = pytest.mark.skipif(not META.is_dir(), reason="needs ScanNet's own lists beside the repository")


def test_official_splits_have_their_published_sizes_and_share_no_room():
    rooms = {split: {scan_id[:9] for scan_id in tables.split_ids(split)} for split in tables.SPLITS}
    assert {split: len(tables.split_ids(split)) for split in tables.SPLITS} == {"train": 1201, "val": 312, "test": 100}
    assert {split: len(ids) for split, ids in rooms.items()} == {"train": 565, "val": 142, "test": 100}
    assert not rooms["train"] & rooms["val"] | rooms["train"] & rooms["test"] | rooms["val"] & rooms["test"]


def test_split_of_scan():
    assert tables.split_of("scene0000_00") == "train"
    assert tables.split_of("scene0025_00") == "val"
    assert tables.split_of("scene0707_00") == "test"
    assert tables.split_of("demo000000_00") is None


def test_split_ids_refuses_other_names():
    with pytest.raises(ValueError, match="train, val, test"):
        tables.split_ids("dev")


def test_denied_rooms_are_the_288_of_vsibench_with_all_their_recordings():
    rooms = [dataset for dataset, _ in tables.denied_rooms()]
    assert {name: rooms.count(name) for name in rooms} == {"scannet": 88, "arkitscenes": 150, "scannetpp": 50}
    scenes = [dataset for dataset, _ in tables.denied_scenes()]
    assert {name: scenes.count(name) for name in scenes} == {"scannet": 207, "arkitscenes": 451, "scannetpp": 50}
    assert set(tables.denied_rooms().values()) == {"VSI-Bench"}
    # A visit is one room: every video of a denied visit is denied, and no other.
    visits = tables.arkitscenes_visits()
    assert len(visits) == 5071 - 8
    denied = {video for video, visit in visits.items() if ("arkitscenes", visit) in tables.denied_rooms()}
    assert denied == {scene for name, scene in tables.denied_scenes() if name == "arkitscenes"}


def test_denied_scannet_rooms_are_val_rooms_with_207_scans():
    deny = {room for dataset, room in tables.denied_rooms() if dataset == "scannet"}
    assert len(deny) == 88 and "scene0025" in deny
    assert sum(scan_id[:9] in deny for scan_id in tables.split_ids("val")) == 207  # 88 scans + 119 siblings
    assert not any(scan_id[:9] in deny for scan_id in tables.split_ids("train"))


def test_aliases_are_folded_and_point_at_final_names():
    aliases = tables.category_aliases()
    assert aliases["trashcan"] == "trash can" and aliases["television"] == "tv"
    assert aliases["refridgerator"] == "refrigerator"
    assert all(key == key.casefold() and name not in aliases for key, name in aliases.items())


def test_blacklist_holds_no_category_of_the_benchmark():
    blacklist = tables.label_blacklist()
    assert {"wall", "floor", "ceiling", "doorframe"} <= blacklist
    assert all(label == label.casefold().strip() for label in blacklist)
    assert not blacklist & set(tables.benchmark_categories().categories)
    assert not blacklist & tables.structure_exceptions()


def test_benchmark_categories():
    table = tables.benchmark_categories()
    assert len(table.categories) == 33 == len(set(table.categories))
    assert table.of_name["couch"] == "sofa" and table.of_name["recycling bin"] == "trash bin"
    assert table.of_nyu40[14] == "table" and table.of_nyu40[24] == "refrigerator"
    assert table.of_name["mattress"] is None
    # Aliases may not turn a benchmark name into one the list does not know.
    aliases = tables.category_aliases()
    assert all(table.of_name.get(aliases.get(name, name)) == table.of_name[name] for name in table.of_name)


@needs_meta
def test_splits_equal_the_official_lists():
    for split in tables.SPLITS:
        official = (META / f"scannetv2_{split}.txt").read_text().split()
        assert sorted(official) == list(tables.split_ids(split))


@needs_meta
def test_official_labels_reach_every_benchmark_category_but_no_structure():
    labels = read_labels(META)
    raw = {label: tables.categorize(label, labels, "raw") for label in labels.rows}
    assert all(category.name or category.reason in ("blacklist", "structure") for category in raw.values())
    assert {raw[label].name for label in ("wall", "doorframe", "books", "column", "grab bar")} == {None}
    assert raw["shower"].name == "shower" and raw["trash bin"].name == raw["trash can"].name == "trash can"
    benchmark = {label: tables.categorize(label, labels, "benchmark").name for label in labels.rows}
    assert set(benchmark.values()) == {*tables.benchmark_categories().categories, None}
    assert (
        benchmark["armchair"] == "chair" and benchmark["coffee table"] == "table" and benchmark["closet wall"] is None
    )


def test_tables_hold_the_published_lists():
    # VSI-Bench's ScanNet categories: eight by nyu40 class (table holds desk), the others by name.
    by_class = {"bed": [4], "chair": [5], "sofa": [6], "table": [7, 14], "window": [9], "bookshelf": [10]}
    by_class |= {"counter": [12], "refrigerator": [24]}
    table = tables.benchmark_categories()
    assert {number: name for name, ids in by_class.items() for number in ids} == table.of_nyu40
    by_name = (
        "pillow monitor door lamp printer towel tv nightstand plant keyboard backpack closet microwave fan mirror "
    )
    by_name += "piano radiator telephone clock guitar bicycle oven"
    names = {*by_name.split(), "trash bin", "washing machine", "computer mouse"}
    assert set(table.categories) == names | set(by_class)
    merged = {"mouse": "computer mouse", "trash can": "trash bin", "recycling bin": "trash bin", "desk": "table"}
    assert {name: table.of_name[name] for name in merged} == merged
    excluded = "wall floor ceiling cabinet picture curtain toilet sink bathtub otherfurniture box book bag paper object"
    assert not {*excluded.split(), "shower curtain", "structure"} & {n for n, c in table.of_name.items() if c}
    # Raw-label mode leaves these out.
    clutter = (
        "wall floor ceiling object objects unknown remove misc structure ledge doorframe windowsill column pillar "
    )
    clutter += "beam pipe pipes vent rail sign paper papers book books clothes decoration person cable wire case tube "
    clutter += "bar divider"
    phrases = {
        "door frame",
        "window sill",
        "stair rail",
        "closet wall",
        "shower wall",
        "bathroom stall",
        "light switch",
    }
    phrases |= {"power outlet", "floor mat", "curtain rods"}
    assert {*clutter.split()} | phrases <= tables.label_blacklist()
    assert {0, 1, 2, 22} == tables.STRUCTURE_NYU40
