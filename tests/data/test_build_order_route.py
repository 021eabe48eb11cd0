"""build-data makes appearance order and routes from a scan filmed from its mesh, and neither unasked."""

import importlib.util
import sys
from collections import Counter
from pathlib import Path

import pytest
from build_roots import demo_config, scannet_config

from vsgrpo.data.build.scan import ScanJob, build_scan
from vsgrpo.errors import ConfigError
from vsgrpo.scans.demo.plan import scan_id_of
from vsgrpo.scans.demo.source import write_demo_labels
from vsgrpo.scans.meta_info import read_scene_json
from vsgrpo.scans.sens import SensReader, SensWriter
from vsgrpo.video.budget import frame_indices

ROOM = ("source.preset=furnished", "data.mode=vsibench", "data.min_count=1")
BOTH = "data.types=[obj_appearance_order,route_planning]"


def build(tmp_path, *overrides: str):
    out = tmp_path / "out"
    config = demo_config(out, *ROOM, *overrides)
    root = out / "scans_root"
    write_demo_labels(root)
    outcome = build_scan(ScanJob(config, root, out, scan_id_of(0, 0), "train"))
    assert outcome.status == "done", outcome.reason
    return outcome


def full_scan_module():
    path = Path(__file__).parents[2] / "scripts/full_scan.py"
    spec = importlib.util.spec_from_file_location("full_scan", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["full_scan"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.integration
def test_a_filmed_scan_gives_orders_and_marked_routes(tmp_path):
    root, out = tmp_path / "root", tmp_path / "out"
    truth = full_scan_module().write_full_scan(root, 0, num_vertices=20_000, num_objects=22, most_stacked=1)
    config = scannet_config(
        root, out, "data.mode=vsibench", BOTH, "video.source=mesh", "video.walk_width=224", "video.walk_height=168"
    )
    outcome = build_scan(ScanJob(config, root, out, truth.scan_id, "train"))
    counts = Counter(row.question_type for row in outcome.rows)
    assert counts["route_planning"] == 3
    assert 1 <= counts["obj_appearance_order"] <= 30
    assert set(counts) == {"obj_appearance_order", "route_planning"}
    for row in outcome.rows:
        assert 3 <= len(row.options) <= 4
        assert ("synthetic_route" in row.extra) == (row.question_type == "route_planning")
    # 50 of 448 x 336 pixels are 12.5 of 224 x 168; the configured threshold is 50 of these.
    scene = read_scene_json(out / "scenes" / "scannet" / f"{truth.scan_id}.json")
    num_frames = len(next(iter(scene.pixels.values())))
    for row in outcome.rows:
        if row.question_type == "obj_appearance_order":
            for frames in (range(num_frames), frame_indices(num_frames, 16)):
                for least in (13, 25, 50):
                    assert_appear_in_order(scene, row.answer.split(", "), frames, least)


def assert_appear_in_order(scene, categories, frames, least):
    ids = {name: [item.instance_id for item in scene.objects if item.category == name] for name in categories}
    first = [next(k for k in frames if sum(scene.pixels[i][k] for i in ids[name]) >= least) for name in categories]
    assert first == sorted(set(first))


def test_without_masks_and_depth_nobody_looks_and_nothing_is_dropped(tmp_path):
    # Without both no order can be asked, and no object is unseen.
    types = "data.types=[obj_appearance_order,object_counting]"
    assert all(row.extra["judged_at"] == [8] for row in build(tmp_path, types).rows)
    scan_id = scan_id_of(0, 0)
    folder = tmp_path / f"out/scans_root/scans/{scan_id}"
    (folder / f"{scan_id}_2d-instance-filt.zip").unlink()
    with SensReader(folder / f"{scan_id}.sens") as reader:
        frames, header = list(reader.frames()), reader.header
    with SensWriter(folder / f"{scan_id}.sens", header.color_size, header.intrinsic_color) as writer:
        for frame in frames:
            writer.add(frame.jpeg, frame.pose)
    outcome = build(tmp_path, types)
    assert {row.question_type for row in outcome.rows} == {"object_counting"}
    assert all("seen" not in row.extra for row in outcome.rows)
    assert outcome.num_shown is None


@pytest.mark.parametrize("name", ["obj_appearance_order", "route_planning"])
def test_the_paper_mode_refuses_what_the_paper_holds_out(tmp_path, name):
    with pytest.raises(ConfigError, match=f"data.types={name}: the paper holds this type out"):
        demo_config(tmp_path, "data.mode=vsi100k", f"data.types=[{name}]")


@pytest.mark.parametrize(
    "override",
    [
        "appearance.min_pixels=0",
        "appearance.min_share=1.0",
        "appearance.min_gap_s=0",
        "route.min_legs=3 route.max_legs=2",
        "route.min_leg_m=7",
        "spatial.alpha=0",
        "spatial.alpha_holes=drop",
    ],
)
def test_bad_thresholds_are_refused_by_name(tmp_path, override):
    key = override.split("=")[0]
    with pytest.raises(ConfigError) as error:
        demo_config(tmp_path, *override.split())
    assert key in error.value.message
