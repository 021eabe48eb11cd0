"""build-data on made-up ScanNet++ scans: recorded and mesh videos, lists, the leak guard, skipped scans."""

import json
import sys
from pathlib import Path

import pytest

from vsgrpo.config.compose import load_config
from vsgrpo.data.build.dataset import build_dataset
from vsgrpo.data.leak_guard import read_checked_rows
from vsgrpo.data.manifest import read_manifest
from vsgrpo.errors import DataError
from vsgrpo.tables import denied_scenes
from vsgrpo.video.reader import probe

sys.path.append(str(Path(__file__).parents[1] / "scans"))
from scannetpp_room import write_phone, write_room, writer

pytestmark = pytest.mark.integration
SCANS = ("0a1b2c3d4e", "1a1b2c3d4e", "2a1b2c3d4e")


def config(root, out, *overrides):
    common = ["source=scannetpp", f"source.root={root}", f"output={out}", "build.num_workers=1", "balance.mode=paper"]
    common.append("spatial.alpha_points=voxel5cm")
    return load_config("build_data", [*common, *overrides])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three scans with videos, and one that only the list of nvs_sem_val names."""
    folder = tmp_path_factory.mktemp("scannetpp")
    for scan_id in SCANS:
        write_phone(write_room(folder, scan_id, 0.1), "deflate")
    write_room(folder, "3a1b2c3d4e", 0.1, split="nvs_sem_val")
    return folder


def test_recorded_videos_give_rows_videos_and_what_they_show(root, tmp_path):
    summary = build_dataset(config(root, tmp_path / "d", "video.budgets=[4,8]"))
    assert (summary.done, summary.skipped) == (3, {})
    assert summary.refused == {"not in the train list of scannetpp (data.split=train)": 1}
    rows, verdict = read_checked_rows(tmp_path / "d/train.jsonl")
    assert verdict == "clean" and {row.dataset for row in rows} == {"scannetpp"}
    assert all(row.room == row.scene_name for row in rows)
    header = probe(rows[0].video_path(tmp_path / "d"))
    assert (header.num_frames, header.fps, header.height, header.width) == (12, 30, 144, 192)
    sizes = {row.answer for row in rows if row.question_type == "object_size_estimation" and "bed" in row.question}
    assert sizes == {"190"}  # 1.9 x 1.4 x 0.5 m
    assert any(row.extra.get("true_at") for row in rows)
    assert build_dataset(config(root, tmp_path / "d", "video.budgets=[4,8]")).reused == 3


def test_a_walk_is_filmed_from_the_mesh_without_a_phone(root, tmp_path):
    size = ["video.walk_frames=5", "video.walk_width=112", "video.walk_height=84"]
    summary = build_dataset(config(root, tmp_path / "d", "video.source=mesh", *size), limit=1)
    assert summary.done == 1 and summary.num_shown
    assert probe(tmp_path / f"d/videos/scannetpp/{SCANS[0]}.mp4").num_frames == 5


def test_every_scene_of_the_benchmark_is_refused_whatever_the_lists_say(tmp_path):
    denied = [scene for dataset, scene in denied_scenes() if dataset == "scannetpp"]
    for scan_id in denied:
        (tmp_path / "data" / scan_id / "scans").mkdir(parents=True)
        writer.list_scan(tmp_path, scan_id)  # as train
    with pytest.raises(DataError, match=r"no scan may be used .*50 scans: its room is in VSI-Bench"):
        build_dataset(config(tmp_path, tmp_path / "d"))
    write_room(tmp_path)
    summary = build_dataset(config(tmp_path, tmp_path / "d", "video.source=none"))
    assert summary.done == 1 and list(summary.refused.values()) == [50]


def test_defects_are_skips_by_name_or_counted_in_the_manifest(root, tmp_path):
    broken = tmp_path / "root"
    for scan_id in SCANS:
        write_phone(write_room(broken, scan_id, 0.1), "none")
    (broken / f"data/{SCANS[0]}/scans/segments.json").write_text('{"segIndices": [0]}')
    path = broken / f"data/{SCANS[1]}/iphone/pose_intrinsic_imu.json"
    path.write_text(json.dumps({"frame_000000": {}}))
    summary = build_dataset(config(broken, tmp_path / "d", "build.max_skipped=0.5"))
    assert "segments.json: has 1 segIndices" in summary.skipped[SCANS[0]]
    manifest = read_manifest(tmp_path / "d")
    counted = manifest.scans[SCANS[1]]["warnings"]
    assert {"invalid_poses": 12, "too_few_poses": 1, "frame_count_differs": 1}.items() <= counted.items()
    assert manifest.scans[SCANS[0]]["status"] == "skipped"
