"""Trackers report, and one that fails costs a warning, never the run. Real wandb, offline or without a key."""

import json
import os

import pytest
from tiny_runs import make_trainer
from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from two_processes import log

from vsgrpo.config.trainer import TRACKERS
from vsgrpo.errors import ConfigError
from vsgrpo.training.progress import Tracker
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
