"""Trackers report, and one that fails costs a warning, never the run. Real trackers; their files are read back."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_runs import make_trainer
from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from two_processes import log

from tracker_files import tensorboard_events, tensorboard_text, trackio_metrics, wandb_history, wandb_runs
from vsgrpo.config.trainer import TRACKERS
from vsgrpo.errors import ConfigError
from vsgrpo.trackers import SHEET_HEIGHT, check_installed, contact_sheet
from vsgrpo.training.trackers import TABLE_COLUMNS, Tracker
from vsgrpo.training.worker import train


@pytest.fixture
def wandb_home(tmp_path, monkeypatch):
    """No key, no settings of a user or of an earlier test, no terminal to ask on; the folder of its files."""
    import wandb

    wandb.teardown()
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    yield tmp_path
    wandb.teardown()


@pytest.mark.integration
def test_wandb_without_a_key_costs_a_warning(make_config, wandb_home, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_MODE", "online")
    config = make_config("sft", "trainer.report_to=[wandb]")
    assert train(config) == 0
    warnings = [line for line in capfd.readouterr().err.splitlines() if "trainer.report_to=wandb" in line]
    assert len(warnings) == 1 and "No API key configured" in warnings[0]
    assert len(log(config.run.dir)) == 2


@pytest.mark.integration
def test_wandb_that_breaks_in_the_middle_costs_a_warning(make_config, wandb_home, monkeypatch, capfd):
    import wandb

    class Finish(TrainerCallback):
        """End the tracker's run after the first step, as a full disk or a dead service would."""

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 1:
                wandb.finish()

    monkeypatch.setenv("WANDB_MODE", "offline")
    trainer = make_trainer(
        make_config("sft", "trainer.report_to=[wandb]", "trainer.max_steps=3", "trainer.save_steps=3")
    )
    trainer.add_callback(Finish())
    trainer.train()
    assert trainer.state.global_step == 3
    warnings = [line for line in capfd.readouterr().err.splitlines() if "trainer.report_to=wandb" in line]
    assert len(warnings) == 1 and "wandb.init()" in warnings[0]
    assert list((wandb_home / "wandb").glob("offline-run-*"))  # it had reported until then


def test_a_tracker_that_is_not_installed_costs_a_warning(capfd):
    said = []

    def missing():
        raise RuntimeError("TrackioCallback requires trackio to be installed. Run `pip install trackio`.\nMore")

    tracker = Tracker("trackio", missing, said.append)
    assert tracker.on_train_begin(None, None, None) is None and tracker.on_log(None, None, None, logs={}) is None
    assert said == [
        "warning: trainer.report_to=trackio: TrackioCallback requires trackio to be installed. Run `pip install "
        "trackio`.; training goes on without it (log.jsonl has all)"
    ]


def test_names_are_those_of_the_installed_transformers(make_config):
    assert set(TRACKERS) == set(INTEGRATION_TO_CALLBACK)
    with pytest.raises(ConfigError, match=r"trainer\.report_to=wandv"):
        make_config("sft", "trainer.report_to=[wandv]")


@pytest.mark.integration
def test_every_log_line_says_times_tokens_and_memory(make_config):
    config = make_config("grpo", "trainer.beta=0.01")
    assert train(config) == 0
    for line in log(config.run.dir):
        assert line["memory/peak_gib"] > 0.1 and line["tokens/computed"] > 0 and line["time/update"] > 0
        assert line["tokens/second"] > 0 and not any(name.startswith("time_max/") for name in line)
    json.dumps(log(config.run.dir), allow_nan=False)


def completions(config):
    """Return the lines of completions.jsonl of a run's first step."""
    lines = [json.loads(line) for line in (Path(config.run.dir) / "completions.jsonl").read_text().splitlines()]
    return [line for line in lines if line["step"] == 0]


GRPO = ("trainer.table_steps=2", "trainer.max_steps=3", "trainer.save_steps=3", "trainer.dev_rows=0")


@pytest.mark.integration
def test_wandb_gets_tables_of_completions_with_the_frames_shown(make_config, wandb_home, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    config = make_config("grpo", "trainer.report_to=[wandb]", *GRPO)
    assert train(config) == 0
    assert wandb.run is None  # closed: the next run of this process, of another seed, opens its own
    records, _ = wandb_history(wandb_home / "wandb")  # where WANDB_DIR says
    tables = {r["train/global_step"]: r["completions"] for r in records if "completions" in r}
    assert list(tables) == [0, 2]  # steps 0, 1, 2: every second one
    table = tables[0]["table"]
    assert table["columns"] == list(TABLE_COLUMNS)
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    written = completions(config)  # 8 completions: 2 questions of 4
    for name in ("id", "completion", "reward", "answer"):
        assert [row[name] for row in rows] == [line[name] for line in written], name
    assert [row["advantage"] for row in rows] == pytest.approx([line["advantage"] for line in written], abs=1e-4)
    assert {row["prompt"].partition("?")[0] for row in rows} <= {
        "What is the size of this room (in square meters)",
        "How many chair(s) are in this room",
    }
    picture = tables[0]["pictures"][rows[0]["frames"]["path"]]
    assert picture.is_relative_to(wandb_home / "wandb")
    image = Image.open(picture)
    assert image.size == (4 * SHEET_HEIGHT, SHEET_HEIGHT)  # 4 square frames
    assert {"train/loss", "train/reward"} <= {key for record in records for key in record}


@pytest.mark.integration
def test_wandb_stays_in_the_run_folder_without_wandb_dir_and_counts_steps_over_stages(
    make_config, wandb_home, monkeypatch
):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_DIR")
    stages = "trainer.stages=[{max_steps: 1}, {max_steps: 2}]"
    config = make_config("sft", "trainer.report_to=[wandb]", stages)
    assert train(config) == 0
    records, _ = wandb_history(tmp := (wandb_home / "run" / "wandb"))
    assert [r["train/global_step"] for r in records if "train/loss" in r] == [1, 2, 3], tmp


@pytest.mark.integration
def test_a_resumed_run_goes_on_in_its_wandb_run(make_config, wandb_home, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")

    def start(steps, **options):
        given = ("trainer.report_to=[wandb]", "trainer.save_steps=1", f"trainer.max_steps={steps}")
        assert train(make_config("sft", *given), **options) == 0
        return [name for name, _ in wandb_runs(wandb_home / "wandb")]

    (first,) = start(2)
    assert start(3, resume=True) == [first, first]
    assert [steps for _, steps in wandb_runs(wandb_home / "wandb")] == [[1, 2], [3]]
    assert json.loads((wandb_home / "run/run.json").read_text())["wandb_run"] == first
    monkeypatch.setenv("WANDB_RUN_ID", "own")
    wandb.teardown()  # a process reads its environment once
    assert start(4, resume=True)[-1] == "own"


@pytest.mark.integration
def test_tensorboard_gets_tables_and_frames(make_config, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    config = make_config("grpo", "trainer.report_to=[tensorboard]", *GRPO)
    assert train(config) == 0
    events = tensorboard_events(f"{config.run.dir}/tensorboard")
    assert [item.step for item in events.Scalars("train/reward")] == [1, 2, 3]
    text = tensorboard_text(events, "completions")
    lines = text[0].splitlines()
    assert list(text) == [0, 2] and lines[0] == f"| {' | '.join(TABLE_COLUMNS)} |" and len(lines) == 2 + 8
    (image,) = [item for item in events.Images("completions/picture_0") if item.step == 0]
    assert (image.width, image.height) == (4 * SHEET_HEIGHT, SHEET_HEIGHT)


@pytest.mark.integration
def test_trackio_gets_tables_in_its_own_database(dataset_folder, tiny_folder, tmp_path):
    pytest.importorskip("trackio")
    words = ["train", "grpo", "model=tiny", f"model.path={tiny_folder}", f"data={dataset_folder}", "launch=cpu"]
    words += ["video.num_frames=4", "trainer.num_generations=4", "trainer.per_device_train_batch_size=8", *GRPO]
    words += ["trainer.gradient_accumulation_steps=1", "trainer.report_to=[trackio]", f"output={tmp_path / 'run'}"]
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-m", "vsgrpo.cli", *words], env=environment, check=True, capture_output=True)
    records = trackio_metrics(tmp_path / "trackio")["run"]
    tables = [record["completions"]["_value"] for record in records if "completions" in record]
    assert len(tables) == 2 and len(tables[0]) == 8 and list(tables[0][0]) == list(TABLE_COLUMNS)
    assert (tmp_path / "trackio" / "media" / tables[0][0]["frames"]["file_path"]).is_file()
    assert [record["train/global_step"] for record in records if "train/loss" in record] == [1, 2, 3]


def test_a_tracker_that_is_not_installed_is_refused_at_the_start(make_config, tmp_path, capsys):
    from vsgrpo.cli import run

    argv = ["train", "sft", "model=tiny", "data=rows", "trainer.report_to=[neptune]", f"output={tmp_path / 'new'}"]
    assert run(argv) == 2
    error = capsys.readouterr().err
    assert "error: trainer.report_to=neptune: the package neptune is not installed" in error
    assert "hint: pip install neptune" in error and not (tmp_path / "new").exists()
    with pytest.raises(ConfigError, match="package azureml-core is not installed"):
        check_installed(["azure_ml"], "trainer.report_to")


def test_tables_without_a_tracker_that_takes_them_are_refused(make_config):
    with pytest.raises(ConfigError, match=r"trainer\.table_steps.*trainer\.report_to=\['mlflow'\]: no tracker takes"):
        make_config("grpo", "trainer.report_to=[mlflow]", "trainer.table_steps=5")


def test_a_contact_sheet_has_at_most_eight_frames_first_and_last_among_them():
    frames = [np.full((48, 96, 3), shade, np.uint8) for shade in range(0, 170, 10)]  # 17 frames, twice as wide as high
    sheet = contact_sheet(frames)
    assert sheet.shape == (96, 8 * 192, 3)
    # 17 frames, 8 places: round(i * 16 / 7) = 0 2 5 7 9 11 14 16
    assert sheet[0, ::192, 0].tolist() == [0, 20, 50, 70, 90, 110, 140, 160]
    assert contact_sheet([]) is None
