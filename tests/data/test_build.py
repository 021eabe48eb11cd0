"""build-data on demo rooms: same bytes for any number of workers, resume, broken scans, leak rules."""

import json
import shutil

import pytest
from build_roots import demo_config, row_bytes, scannet_config, scannet_like

from vsgrpo.data.build.dataset import build_dataset
from vsgrpo.data.leak_guard import read_checked_rows
from vsgrpo.data.manifest import read_manifest
from vsgrpo.errors import DataError, RunError
from vsgrpo.video.reader import probe

pytestmark = pytest.mark.integration


def test_a_demo_build_has_questions_videos_scenes_and_a_manifest(tmp_path):
    out = tmp_path / "data set=1"
    summary = build_dataset(demo_config(out))
    rows, verdict = read_checked_rows(out / "train.jsonl")
    assert verdict == "clean" and summary.done == 4 and not summary.skipped
    assert {row.question_type for row in rows} == {"object_counting", "room_size_estimation"}
    assert sum(row.question_type == "room_size_estimation" for row in rows) == 4
    for row in rows:
        header = probe(row.video_path(out), backend="pyav")
        assert (header.num_frames, header.height, header.width) == (8, 56, 56)
    manifest = read_manifest(out)
    assert sorted(manifest.scans) == sorted({row.scene_name for row in rows})
    assert manifest.counts["video_source"] == "recorded"
    assert "object_counting" in summary.table()


def test_row_files_do_not_depend_on_workers_or_interruptions(tmp_path):
    build_dataset(demo_config(tmp_path / "one", "data.dev_fraction=0.3", scenes=6))
    build_dataset(demo_config(tmp_path / "two", "data.dev_fraction=0.3", scenes=6, workers=2))
    build_dataset(demo_config(tmp_path / "cut", "data.dev_fraction=0.3", scenes=6), limit=3)
    (tmp_path / "cut" / ".parts" / "demo000001_00.json").write_text('{"scan_id": ')  # a half-written part is redone
    summary = build_dataset(demo_config(tmp_path / "cut", "data.dev_fraction=0.3", scenes=6))
    assert summary.reused == 2
    assert row_bytes(tmp_path / "one") == row_bytes(tmp_path / "two") == row_bytes(tmp_path / "cut")
    manifest = read_manifest(tmp_path / "one")
    assert manifest.rooms["dev"] and not set(manifest.rooms["dev"]) & set(manifest.rooms["train"])


def test_other_settings_are_refused_without_overwrite(tmp_path):
    build_dataset(demo_config(tmp_path / "d", scenes=2))
    with pytest.raises(DataError, match="other settings"):
        build_dataset(demo_config(tmp_path / "d", "data.min_count=2", scenes=2))
    build_dataset(demo_config(tmp_path / "d", "data.min_count=2", scenes=2), overwrite=True)
    rows, _ = read_checked_rows(tmp_path / "d" / "train.jsonl")
    assert all(row.answer != "1" for row in rows if row.question_type == "object_counting")


def test_a_folder_of_something_else_is_never_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(DataError, match="no dataset folder"):
            build_dataset(demo_config(tmp_path, scenes=1), overwrite=overwrite)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_broken_scans_are_skipped_with_a_reason_and_benchmark_rooms_left_out(tmp_path):
    # scene0000_00 and scene0001_00: train; scene0025_00: a room of VSI-Bench; scene0011_00: val, room-safe
    root = scannet_like(tmp_path / "root", ["scene0000_00", "scene0001_00", "scene0025_00", "scene0011_00"])
    ply = root / "scans" / "scene0001_00" / "scene0001_00_vh_clean_2.ply"
    ply.write_bytes(ply.read_bytes()[:2000])
    summary = build_dataset(scannet_config(root, tmp_path / "out", "build.max_skipped=0.1"))
    assert (
        list(summary.skipped) == ["scene0001_00"] and "scene0001_00_vh_clean_2.ply" in summary.skipped["scene0001_00"]
    )
    assert sum(summary.refused.values()) == 2 and any("VSI-Bench" in reason for reason in summary.refused)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["scans"]["scene0001_00"]["status"] == "skipped" and manifest["rooms"]["train"] == ["scene0000"]
    with pytest.raises(RunError, match="1 of 2 scans skipped"):
        summary.raise_if_failed()
    assert "skipped scene0001_00" in summary.table()


def test_only_broken_scans_is_an_error_that_names_the_file(tmp_path):
    root = scannet_like(tmp_path / "root", ["scene0000_00"])
    (root / "scans" / "scene0000_00" / "scene0000_00.aggregation.json").unlink()
    with pytest.raises(DataError, match=r"scene0000_00.*aggregation"):
        build_dataset(scannet_config(root, tmp_path / "out"))


def test_videos_from_a_folder_are_taken_and_a_missing_one_skips_the_scan(tmp_path):
    root = scannet_like(tmp_path / "root", ["scene0000_00", "scene0002_00"])
    build_dataset(scannet_config(root, tmp_path / "first"))
    videos = tmp_path / "videos"
    videos.mkdir()
    shutil.copy(tmp_path / "first" / "videos" / "scannet" / "scene0000_00.mp4", videos)
    summary = build_dataset(scannet_config(root, tmp_path / "second", "video.source=folder", f"video.folder={videos}"))
    assert list(summary.skipped) == ["scene0002_00"] and "scene0002_00.mp4" in summary.skipped["scene0002_00"]
    copy = tmp_path / "second" / "videos" / "scannet" / "scene0000_00.mp4"
    assert copy.read_bytes() == (videos / "scene0000_00.mp4").read_bytes()


def test_a_mesh_walk_counts_pixels_and_drops_questions_about_the_unseen(tmp_path):
    root = scannet_like(tmp_path / "root", ["scene0000_00"])
    walk = ["video.source=mesh", "video.walk_frames=5", "video.walk_width=224", "video.walk_height=168"]
    summary = build_dataset(scannet_config(root, tmp_path / "out", *walk, "data.min_count=1"))
    assert summary.num_shown is not None and 0 < summary.num_shown <= summary.num_objects
    rows, _ = read_checked_rows(tmp_path / "out" / "train.jsonl")
    assert rows and all(row.generator["video_source"] == "mesh" for row in rows)
    assert all(row.extra["seen"] for row in rows)
    scene = json.loads((tmp_path / "out" / "scenes" / "scannet" / "scene0000_00.json").read_text())
    assert all(len(frames) == 5 for frames in scene["pixels"].values())
    assert probe(tmp_path / "out" / "videos" / "scannet" / "scene0000_00.mp4", backend="pyav").num_frames == 5
