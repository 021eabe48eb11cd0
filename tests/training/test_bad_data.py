"""Videos and cache entries that break before and during a run: named, counted, left out; the rest goes on."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from tiny_runs import write_dataset
from transformers import TrainerCallback

from untimed_video import write_untimed
from vsgrpo.errors import DataError
from vsgrpo.training import stages
from vsgrpo.training.worker import train

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def broken_dataset(tmp_path_factory):
    """Ten videos of two rows, of which 0 is cut in its middle and 1 is empty."""
    folder = write_dataset(tmp_path_factory.mktemp("broken"), num_scenes=10)
    whole = (folder / "videos" / "0.mp4").read_bytes()
    (folder / "videos" / "0.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "videos" / "1.mp4").write_bytes(b"")
    return folder


def run(make_config, dataset, cache, name, *overrides):
    # 16 rows of readable videos, 8 a step: two steps see every video.
    batch = ("trainer.per_device_train_batch_size=8", "trainer.learning_rate=1e-3", "model.freeze_vision=true")
    features = ("video.feature_cache=disk", f"video.cache_dir={cache}", "video.frame_cache=off", "video.timeout_s=60")
    config = make_config("sft", f"data={dataset}", *batch, *features, *overrides, name=name)
    assert train(config) == 0
    log = Path(config.run.dir) / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return config, [line for line in lines if "loss" in line]


def test_broken_videos_and_cache_entries_are_counted_and_left_out(make_config, broken_dataset, tmp_path, capsys):
    allow = "video.max_quarantined=0.2"
    first, log = run(make_config, broken_dataset, tmp_path / "cache", "first", allow)
    err = capsys.readouterr().err
    for name in ("0.mp4", "1.mp4"):
        assert f"skipped video: {broken_dataset / 'videos' / name}: " in err
    # The two are known before the first step, and no row of theirs is trained on.
    assert [line["num_quarantined"] for line in log] == [2, 2]
    assert "num_corrupt" not in log[-1]

    entries = sorted((tmp_path / "cache" / "features").glob("??/*.npy"))
    assert len(entries) == 8
    content = bytearray(entries[0].read_bytes())
    content[-20] ^= 1  # one bit of one feature
    entries[0].write_bytes(content)
    entries[1].write_bytes(b"")
    second, log = run(make_config, broken_dataset, tmp_path / "cache", "second", allow)
    assert log[-1]["num_corrupt"] == 2
    weights = [load_file(Path(config.run.dir) / "final" / "model.safetensors") for config in (first, second)]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])


def test_a_video_without_a_frame_rate_is_left_out_where_seconds_count(make_config, tmp_path, capsys):
    dataset = write_dataset(tmp_path / "data", num_scenes=4)
    frames = [np.full((56, 56, 3), 30 * i, np.uint8) for i in range(8)]
    write_untimed(dataset / "videos" / "1.mp4", frames)
    (dataset / "videos" / "0.mp4").write_bytes(b"")  # known before the model is; of 4 videos half may be bad
    timed = ("model=tiny_2_5", "model.path=tiny_2_5", f"data={dataset}", "video.max_quarantined=0.5")
    config = make_config("sft", *timed, "trainer.per_device_train_batch_size=2")
    assert train(config) == 0
    err = capsys.readouterr().err
    assert f"skipped video: {dataset / 'videos' / '1.mp4'}: states no frame rate" in err
    assert err.count("skipped video: ") == 2


class HangingVideo(TrainerCallback):
    """Once training begins, a video becomes a pipe that nobody writes to."""

    def __init__(self, path):
        self.path = path

    def on_train_begin(self, args, state, control, **kwargs):
        self.path.unlink()
        os.mkfifo(self.path)


@pytest.mark.parametrize(("allowed", "ends"), [("0.3", False), ("0.2", True)])
def test_a_video_that_hangs_in_training_is_named(allowed, ends, make_config, tmp_path, monkeypatch, capsys):
    dataset = write_dataset(tmp_path / "data", num_scenes=10)
    for name in ("0.mp4", "1.mp4"):
        (dataset / "videos" / name).write_bytes(b"")
    hanging = dataset / "videos" / "2.mp4"
    build = stages.build_trainer

    def build_hanging(*args, **kwargs):
        trainer = build(*args, **kwargs)
        trainer.add_callback(HangingVideo(hanging))
        return trainer

    monkeypatch.setattr(stages, "build_trainer", build_hanging)
    # A busy machine may take seconds for a video that is whole.
    limits = ("video.timeout_s=15", f"video.max_quarantined={allowed}")
    given = (make_config, dataset, tmp_path / "cache", "run", *limits)
    if not ends:
        _, log = run(*given)
        assert log[-1]["num_quarantined"] == 3  # 10 videos, a share of 0.3: 3 may be bad
    else:
        with pytest.raises(
            DataError, match=r"3 videos or images cannot be read, video.max_quarantined allows 2; .*2.mp4"
        ):
            run(*given)
    assert f"skipped video: {hanging}: not decoded within video.timeout_s=15" in capsys.readouterr().err
