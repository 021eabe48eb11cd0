"""build-data under fire: kill -9 in the middle, shards, a disk that fills up."""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from build_roots import demo_config, row_bytes, scannet_config, scannet_like

from vsgrpo.data.build.dataset import build_dataset, merge_shards, scenes_drawn
from vsgrpo.data.build.scan import ScanJob, build_scans
from vsgrpo.data.manifest import read_manifest
from vsgrpo.data.rows import read_rows
from vsgrpo.errors import ConfigError, DataError, RunError
from vsgrpo.scans.source import find_source

pytestmark = pytest.mark.integration

CLI = [sys.executable, "-m", "vsgrpo.cli", "build-data", "experiment=demo_data", "data.dev_fraction=0.3"]


def started(out, *overrides, **options):
    command = [*CLI, f"output={out}", *overrides]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def finished_parts(out):
    return sorted(path.name for path in (out / ".parts").glob("demo*_00.json"))


@pytest.mark.faults
def test_a_killed_build_goes_on_and_ends_byte_for_byte_the_same(tmp_path):
    scenes = ["source.num_scenes=24", "source.frame_size=112"]
    process = started(tmp_path / "cut", *scenes, "build.num_workers=2", start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while len(finished_parts(tmp_path / "cut")) < 3 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        before = finished_parts(tmp_path / "cut")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert 3 <= len(before) < 24, process.communicate()
    assert not (tmp_path / "cut" / "train.jsonl").exists() and not (tmp_path / "cut" / "manifest.json").exists()
    again = build_dataset(demo_config(tmp_path / "cut", "data.dev_fraction=0.3", "source.frame_size=112", scenes=24))
    assert again.reused >= len(before)
    whole = build_dataset(demo_config(tmp_path / "one", "data.dev_fraction=0.3", "source.frame_size=112", scenes=24))
    assert row_bytes(tmp_path / "cut") == row_bytes(tmp_path / "one") and whole.counts == again.counts
    for split in ("train", "dev"):
        assert again.counts[split]
    assert not list((tmp_path / "cut").rglob(".*.tmp"))  # what the killed workers left behind is gone


def test_shards_and_merge_equal_one_build(tmp_path):
    given = ["data.dev_fraction=0.3", "balance.max_share.object_counting=0.5"]
    build_dataset(demo_config(tmp_path / "one", *given, scenes=5))
    out = tmp_path / "parts"
    for shard in (1, 0):
        config = demo_config(out, *given, "build.num_shards=2", f"build.shard={shard}", scenes=5)
        summary = build_dataset(config)
        assert summary.shard == f"{shard} of 2" and "merge-data" in summary.table()
        assert not (out / "train.jsonl").exists()
        if shard == 1:
            with pytest.raises(DataError, match=r"3 of 5 scans are not built yet \(shards 0\)"):
                merge_shards(out)
    merged = merge_shards(out)
    assert row_bytes(out) == row_bytes(tmp_path / "one") and merged.done == 5
    assert set(read_manifest(out).scans) == set(read_manifest(tmp_path / "one").scans)


def test_a_shard_keeps_what_it_skipped_for_the_merge(tmp_path):
    root = scannet_like(tmp_path / "root", ["scene0000_00", "scene0001_00", "scene0002_00"])
    (root / "scans" / "scene0001_00" / "scene0001_00.txt").unlink()
    for shard in range(2):
        given = ["build.num_shards=2", f"build.shard={shard}", "video.source=none"]
        build_dataset(scannet_config(root, tmp_path / "out", *given))
    merged = merge_shards(tmp_path / "out")
    assert list(merged.skipped) == ["scene0001_00"] and merged.done == 2


def test_one_shard_may_not_overwrite_and_shards_are_numbered_from_0(tmp_path):
    build_dataset(demo_config(tmp_path / "d", "build.num_shards=2", scenes=2))
    with pytest.raises(ConfigError, match=r"--overwrite with build.num_shards=2"):
        build_dataset(demo_config(tmp_path / "d", "build.num_shards=2", scenes=2), overwrite=True)
    with pytest.raises(ConfigError, match=r"build.shard=2: must be in 0..1"):
        demo_config(tmp_path / "d", "build.num_shards=2", "build.shard=2")
    with pytest.raises(DataError, match=r"plan.json: no such file"):
        merge_shards(tmp_path / "nowhere")


def test_drawn_scenes_are_the_same_whatever_else_is_built():
    names = [f"scene{number:04d}_00" for number in range(50)]
    assert scenes_drawn(names, 6) == scenes_drawn(names[::-1], 6) and len(scenes_drawn(names, 6)) == 6
    assert scenes_drawn(names, 0) == set()


@pytest.mark.faults
def test_a_full_disk_ends_with_exit_1_and_no_half_file_under_a_final_name(tmp_path):
    def bounded():
        # A file may not grow above 48 KB: the write fails as on a full disk, with an OSError in the middle of a file.
        resource.setrlimit(resource.RLIMIT_FSIZE, (48_000, 48_000))

    out = tmp_path / "full"
    scenes = ["source.num_scenes=3", "build.num_workers=1", f"source.root={tmp_path / 'rooms'}"]
    scenes += ["source.frame_size=336", "video.crf=0"]  # videos of about 300 KB
    first = started(tmp_path / "rooms_only", *scenes, "video.source=none")
    assert first.wait(120) == 0, first.communicate()
    process = started(out, *scenes, preexec_fn=bounded)
    _, errors = process.communicate(timeout=120)
    names = [str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()]
    assert process.returncode == 1, errors
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert "while building" in line or "cannot be written" in line
    assert not any(name in ("train.jsonl", "manifest.json") or name.endswith((".mp4", ".tmp")) for name in names), names
    retry = started(out, *scenes)
    assert retry.wait(120) == 0, retry.communicate()
    assert read_rows(out / "train.jsonl")


@pytest.mark.faults
def test_no_worker_writes_on_when_a_build_has_failed(tmp_path):
    config = demo_config(tmp_path / "d", "source.num_scenes=4")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "videos").write_text("in the way")
    source = find_source("demo")
    names = source.list_scans(config.source, tmp_path / "root")
    jobs = [ScanJob(config, tmp_path / "root", tmp_path / "d", name, "train") for name in names]
    with pytest.raises(RunError, match="videos"):
        list(build_scans(jobs, 2))
    assert multiprocessing.active_children() == []


def test_a_killed_worker_is_one_line_and_the_next_run_goes_on(tmp_path):
    scenes = ["source.num_scenes=40", "source.frame_size=112", "build.num_workers=2"]
    process = started(tmp_path / "d", *scenes)
    deadline = time.monotonic() + 120
    while not finished_parts(tmp_path / "d") and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(workers[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1 and "error: a build-data worker was killed" in errors and "Traceback" not in errors
    assert "run the same command again" in errors
    assert finished_parts(tmp_path / "d")
