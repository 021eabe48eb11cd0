"""data.mix: general video beside spatial rows; the same run on one and two processes, after a resume, and on paper."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny_runs import make_rows, write_dataset
from two_processes import (
    FIVE_STEPS,
    SFT,
    TWO,
    arguments,
    assert_equal_runs,
    distance_from_start,
    finish,
    run_one,
    vsgrpo,
)

from vsgrpo.data.mix import read_mix
from vsgrpo.data.rows import read_rows, write_rows
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.launch.start import describe, launch_training
from vsgrpo.report.run_page import write_report

pytestmark = pytest.mark.integration
RUN = ("trainer.per_device_train_batch_size=2", "trainer.learning_rate=1e-3", "trainer.lr_scheduler_type=constant")
RUN += ("trainer.warmup_steps=0",)


def general_row(scene):
    row = make_rows(scene)[0]
    words = {"question": "What happens in the video?", "question_type": "other", "answer_kind": "text"}
    said = f"colours change {scene}"
    return replace(row, id=f"what{scene}", dataset="clips", answer=said, ground_truth=said, **words)


@pytest.fixture
def mix(tmp_path):
    """Return data.mix=... of six clips, of which at most four are drawn; data.path has twelve rows."""
    folder = write_dataset(tmp_path / "general", 6)
    write_rows(folder / "train.jsonl", [general_row(scene) for scene in range(6)])
    return f"data.mix=[{{path: {folder}, weight: 0.5, cap: 4}}]"


def train(config, **flags):
    assert launch_training(config, [], **{"resume": False, "overwrite": False, **flags}) == 0
    return Path(config.run.dir)


def log_of(run):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def test_a_mixed_run_says_what_it_drew_and_goes_on_as_if_it_had_not_stopped(mix, make_config, capsys):
    whole = train(make_config("sft", *RUN, mix, "trainer.max_steps=4", name="whole"))
    # weights 1 and 0.5, at most 4 clips: 12 rows in all, 8 of them spatial
    told = capsys.readouterr().err
    table = [line.split()[1:] for line in told.splitlines() if line.endswith("1x")]
    assert table == [["12", "1", "-", "8", "66.7", "%", "8", "1x"], ["6", "0.5", "4", "4", "33.3", "%", "4", "1x"]]
    assert "rows: 12; steps per epoch: 6" in told
    run = train(make_config("sft", *RUN, mix, "trainer.max_steps=2"))
    config = make_config("sft", *RUN, mix, "trainer.max_steps=4")
    train(config, resume=True)
    assert log_of(run) == log_of(whole)
    first, second = (load_file(folder / "final/model.safetensors") for folder in (run, whole))
    assert all((first[name] == second[name]).all() for name in second)
    assert read_mix(run) == read_mix(whole) and [item.drawn for item in read_mix(run)] == [8, 4]
    page = write_report([run]).path.read_text(encoding="utf-8")
    assert 'general</code></td><td class="n">6</td>' in page and "33.3 %" in page
    other = make_config("sft", *RUN, mix.replace("cap: 4", "cap: 2"), "trainer.max_steps=4")
    with pytest.raises(ConfigError, match=r"data\.mix="):
        launch_training(other, [], resume=True, overwrite=False)


def test_a_plan_shows_the_mix_and_a_missing_folder_is_named_by_its_key(mix, make_config):
    assert "general" in describe(make_config("sft", *RUN, mix)) and "rows: 12;" in describe(
        make_config("sft", *RUN, mix)
    )
    with pytest.raises(DataError, match=r"^data\.mix\[0\]\.path=/nowhere: no such folder"):
        describe(make_config("sft", *RUN, "data.mix=[{path: /nowhere}]"))


def test_a_benchmark_room_in_any_source_ends_the_run_before_it_begins(mix, make_config, tmp_path):
    leaked = replace(general_row(0), dataset="scannet", scene_name="scene0025_00", room="scene0025")
    rows = read_rows(tmp_path / "general/train.jsonl")
    write_rows(tmp_path / "general/train.jsonl", [*rows, replace(leaked, id="leak")])
    config = make_config("sft", *RUN, mix)
    with pytest.raises(DataError, match=r"general/train\.jsonl.*VSI-Bench"):
        launch_training(config, [], resume=False, overwrite=False)
    assert not (Path(config.run.dir) / "mix.json").exists()


@pytest.mark.distributed
def test_two_processes_draw_the_same_mix(mix, dataset_folder, tiny_folder, tmp_path):
    given = (*SFT, *FIVE_STEPS, mix)
    whole = "trainer.per_device_train_batch_size=4"
    one = run_one("sft", arguments("sft", dataset_folder, tiny_folder, tmp_path / "one", *given, whole))
    halves = (*given, "launch=ddp", *TWO, "trainer.per_device_train_batch_size=2")
    words = arguments("sft", dataset_folder, tiny_folder, tmp_path / "two", *halves)
    code, _, err = finish(vsgrpo("sft", words))
    assert code == 0, err[-3000:]
    assert sum(line.endswith("1x") for line in err.splitlines()) == 2  # one process speaks
    assert distance_from_start(one, tiny_folder) >= 1e-2
    assert_equal_runs(tmp_path / "two", one)
    assert [item.drawn for item in read_mix(tmp_path / "two")] == [8, 4]
