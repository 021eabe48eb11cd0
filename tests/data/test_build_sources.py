"""build-data from several sources: one dataset, rooms that never meet, counts per source, the guard for each."""

import json
import sys
from pathlib import Path

import pytest
from build_roots import row_bytes

from vsgrpo.cli import run
from vsgrpo.config.compose import load_config
from vsgrpo.data.build.dataset import build_dataset, merge_shards
from vsgrpo.data.leak_guard import read_checked_rows
from vsgrpo.data.manifest import read_manifest
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.tables import denied_scenes

sys.path.append(str(Path(__file__).parents[1] / "scans"))
from scannetpp_room import write_room

pytestmark = pytest.mark.integration
SCANS = [f"{number}a1b2c3d4e" for number in range(4)]
DENIED = next(scene for dataset, scene in denied_scenes() if dataset == "scannetpp")
OPTIONS = ("video.source=none", "build.num_workers=1", "balance.mode=paper", "data.dev_fraction=0.3")
OPTIONS += ("spatial.alpha_points=voxel5cm", "build.max_skipped=0.5")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Four scans, one that the benchmark shows, and one that is broken."""
    folder = tmp_path_factory.mktemp("scannetpp")
    for scan_id in [*SCANS, DENIED, "9a1b2c3d4e"]:
        write_room(folder, scan_id, 0.1)
    (folder / "data/9a1b2c3d4e/scans/segments.json").write_text("{")
    return folder


def config(root, out, *overrides):
    sources = f"sources=[{{name: demo, num_scenes: 5}}, {{name: scannetpp, root: {root}}}]"
    return load_config("build_data", [sources, f"output={out}", *OPTIONS, *overrides])


@pytest.fixture(scope="module")
def both(root, tmp_path_factory):
    """The dataset of both sources."""
    out = tmp_path_factory.mktemp("both") / "d"
    return out, build_dataset(config(root, out))


def test_two_sources_make_one_dataset_with_counts_for_each(root, both):
    out, summary = both
    assert list(summary.skipped) == ["scannetpp/9a1b2c3d4e"]
    rows, verdict = read_checked_rows(out / "train.jsonl")
    dev, _ = read_checked_rows(out / "dev.jsonl")
    assert verdict == "clean" and {row.dataset for row in rows} == {"demo", "scannetpp"}
    assert not {(row.dataset, row.room) for row in rows} & {(row.dataset, row.room) for row in dev}
    manifest = read_manifest(out)
    assert manifest.dataset == "demo+scannetpp"
    assert set(manifest.scans) == {f"scannetpp/{name}" for name in [*SCANS, "9a1b2c3d4e"]} | {
        f"demo/demo{number:06d}_00" for number in range(5)
    }
    first, second = manifest.counts["sources"]
    assert [first[key] for key in ("name", "scans", "skipped", "refused")] == ["demo", 5, 0, 0]
    assert [second[key] for key in ("name", "scans", "skipped", "refused")] == ["scannetpp", 4, 1, 1]
    assert second["objects"] == 20  # 5 pieces of furniture in each of 4 scans
    for name, part in (("train", rows), ("dev", dev)):
        counted = [source["questions"][name] for source in (first, second)]
        assert counted == [sum(row.dataset == dataset for row in part) for dataset in ("demo", "scannetpp")]
    assert f"scannetpp ({root}): 4 scans built, 1 skipped, 1 left out, 20 objects" in summary.table()
    assert build_dataset(config(root, out)).reused == 9


def test_the_rows_of_a_source_are_those_it_gives_alone(root, both, tmp_path):
    alone = ["source=scannetpp", f"source.root={root}", f"output={tmp_path / 'one'}", *OPTIONS]
    build_dataset(load_config("build_data", alone))

    def ids(folder):
        lines = [json.loads(line) for name in ("train", "dev") for line in (folder / f"{name}.jsonl").open()]
        return {line["id"] for line in lines if line["dataset"] == "scannetpp"}

    assert ids(both[0]) == ids(tmp_path / "one")


def test_shards_of_several_sources_are_merged_to_the_same_rows(root, both, tmp_path):
    for shard in (0, 1):
        build_dataset(config(root, tmp_path / "parts", "build.num_shards=2", f"build.shard={shard}"))
    merge_shards(tmp_path / "parts")
    assert row_bytes(both[0]) == row_bytes(tmp_path / "parts")


def test_zero_counts_are_drawn_from_the_rooms_of_their_own_data_set(root, tmp_path):
    # Every room of the demo may lack a sofa; no ScanNet++ room is asked about what only demo rooms count.
    build_dataset(config(root, tmp_path / "d", "data.min_count=0", "data.types=[object_counting]"))
    lines = [json.loads(line) for line in (tmp_path / "d/train.jsonl").open()]
    zeros = [line for line in lines if line["answer"] == "0"]
    assert zeros
    for line in zeros:
        counted = {
            other["question"] for other in lines if other["dataset"] == line["dataset"] and other["answer"] != "0"
        }
        assert line["question"] in counted


def test_a_limit_is_shared_by_the_sources(root, tmp_path):
    summary = build_dataset(config(root, tmp_path / "d"), limit=3)
    assert [source["scans"] for source in summary.sources] == [2, 1]


def test_a_scan_of_two_sources_is_refused(root, tmp_path):
    twice = f"sources=[{{name: scannetpp, root: {root}}}, {{name: scannetpp, root: {root}}}]"
    with pytest.raises(DataError, match=r"scannetpp/0a1b2c3d4e is in two of them"):
        build_dataset(load_config("build_data", [twice, f"output={tmp_path / 'd'}", *OPTIONS]))


def test_each_source_has_a_split_of_its_own(root, tmp_path):
    val = f"sources=[{{name: demo, num_scenes: 2}}, {{name: scannetpp, root: {root}, split: val_safe}}]"
    with pytest.raises(DataError, match=r"sources\[1\]\.root=.*not in the val list of scannetpp \(sources\[1\]\.split"):
        build_dataset(load_config("build_data", [val, f"output={tmp_path / 'd'}", *OPTIONS]))


@pytest.mark.parametrize(
    ("given", "says", "hint"),
    [
        (["source=[scannet,scannetpp]"], "one source is needed", "sources='[{name"),
        (["sources=[{name: demo}]", "source.seed=1"], "no effect beside sources", "in its entry"),
        (["sources=[{name: demo}]", "source=scannet"], "no effect beside sources", "leave it out"),
        (["sources=[{name: scanet, root: x}]"], "sources[0].name=scanet", "did you mean scannet?"),
        (["sources=[{name: demo}, {name: scannetpp}]"], "sources[1].root: no value given", "root: DIR"),
        (["sources=[{name: demo, sed: 1}]"], "sources[0].sed: unknown key", "sources[0].seed"),
        (["sources=[{name: demo, num_scenes: 0}]"], "sources[0].num_scenes=0", "set sources[0].num_scenes=1"),
        (["sources=[{name: demo, split: test}]"], "sources[0].split=test", "val_safe"),
        (["sources=[{root: x}]"], "has no name", "sources='["),
        (["sources=demo"], "a list of sources is needed", "sources='["),
    ],
)
def test_what_is_wrong_with_sources_is_named(given, says, hint, tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_config("build_data", [*given, f"output={tmp_path / 'd'}"])
    assert says in caught.value.message and hint in caught.value.hint


def test_a_path_with_strange_signs_and_the_report(root, tmp_path, capsys):
    strange = tmp_path / "my ${scans}, v2"
    strange.symlink_to(root)
    sources = f"sources=[{{name: demo, num_scenes: 2}}, {{name: scannetpp, root: '{strange}'}}]".replace("${", "\\${")
    out = tmp_path / "d"
    assert run(["build-data", sources, f"output={out}", *OPTIONS, "--limit", "4"]) == 0
    assert f"scannetpp ({strange}): 2 scans built" in capsys.readouterr().out
    page = (out / "report.html").read_text()
    assert "<h2>Sources</h2>" in page and "Rooms of different data sets never count as one" in page
