"""Stages, checkpoints over all stages, exact resume, stopping on a signal."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import LORA, SMALL, SPREAD, make_parts
from transformers import TrainerCallback

from vsgrpo.config.compose import load_config
from vsgrpo.errors import RunError
from vsgrpo.training import stages
from vsgrpo.training.samples import stage_rows
from vsgrpo.training.stages import trl_config
from vsgrpo.training.worker import main, train

pytestmark = pytest.mark.integration
TWO_STAGES = (
    "trainer.stages=[{max_steps: 2, max_completion_length: 3}, "
    "{max_steps: 2, max_completion_length: 6, num_generations: 2}]"
)
"""PTST in small: short completions with many rollouts, then longer ones with fewer."""


def weights(folder):
    return load_file(next(Path(folder).glob("*model.safetensors")))


def difference(first, second):
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


def run_status(folder):
    return json.loads((Path(folder) / "run.json").read_text())


@pytest.mark.parametrize("tuning", [("model.freeze_vision=true",), LORA], ids=["full", "lora"])
def test_two_stages_leave_four_checkpoints_each_resumable_exactly(make_config, tuning):
    # 12 rows, 2 questions a buffer in stage 0 and 4 in stage 1: the first stage ends inside its first epoch.
    overrides = (SPREAD, *tuning, TWO_STAGES, "trainer.learning_rate=1e-3", "trainer.beta=0.01")
    config = make_config("grpo", *overrides)
    assert train(config) == 0
    run = Path(config.run.dir)
    status = run_status(run)
    assert status["status"] == "done"
    assert status["checkpoints"] == {
        "1": {"stage": 0, "step": 1},
        "2": {"stage": 0, "step": 2},
        "3": {"stage": 1, "step": 1},
        "4": {"stage": 1, "step": 2},
    }
    folders = [run / f"checkpoint-{n}" for n in (1, 2, 3, 4)]
    assert all(difference(a, b) > 0 for i, a in enumerate(folders) for b in folders[:i])
    assert (run / "final" / "README.md").read_text().startswith("---\n")  # the model card
    for folder in [*folders, run / "final"]:
        assert (folder / "vision.json").is_file() and (folder / "training_manifest.json").is_file()
    assert difference(run / "final", folders[3]) == 0
    assert not list(run.glob(".partial/*"))
    drawn = [json.loads(line) for line in (run / "completions.jsonl").open()]
    for first, last, group, limit in ((0, 1, 4, 3), (2, 3, 2, 6)):
        of_stage = [line for line in drawn if first <= line["step"] <= last]
        assert {line["index"] for line in of_stage} == set(range(group))
        assert max(line["num_tokens"] for line in of_stage) == limit  # random weights hardly ever end by themselves

    for number in (1, 2, 3, 4):
        resumed = make_config("grpo", *overrides, name=f"from{number}")
        copy = Path(resumed.run.dir)
        shutil.copytree(run, copy, dirs_exist_ok=True)
        shutil.rmtree(copy / "final")
        for later in range(number + 1, 5):
            shutil.rmtree(copy / f"checkpoint-{later}")
        assert train(resumed, resume=True) == 0
        assert difference(copy / "final", run / "final") == 0, number
        assert sorted(run_status(copy)["checkpoints"]) == ["1", "2", "3", "4"]


def test_a_resume_in_a_later_epoch_sees_the_same_order(make_config):
    # SFT, 12 rows of 4 a step: 3 steps an epoch, 5 steps end in the second one.
    overrides = ("trainer.per_device_train_batch_size=4", "trainer.max_steps=5", "trainer.learning_rate=1e-3")
    config = make_config("sft", *overrides)
    assert train(config) == 0
    resumed = make_config("sft", *overrides, name="again")
    shutil.copytree(config.run.dir, resumed.run.dir, dirs_exist_ok=True)
    shutil.rmtree(Path(resumed.run.dir) / "checkpoint-5")
    assert train(resumed, resume=True) == 0
    assert difference(Path(resumed.run.dir) / "final", Path(config.run.dir) / "final") == 0


class SignalAtStep(TrainerCallback):
    """Sends this process a signal in the middle of a step."""

    def __init__(self, step, number):
        self.step, self.number = step, number

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), self.number)


FOUR_STEPS = ("trainer.max_steps=4", "trainer.save_steps=100", "trainer.learning_rate=1e-3", SPREAD)


@pytest.fixture(scope="module")
def uninterrupted(dataset_folder, tiny_folder, tmp_path_factory):
    """Four GRPO steps that no signal met."""
    run_dir = tmp_path_factory.mktemp("whole")
    given = ["trainer=grpo", f"data={dataset_folder}", f"output={run_dir}", *SMALL, f"model.path={tiny_folder}"]
    groups = ["trainer.num_generations=4", "trainer.per_device_train_batch_size=8"]
    groups += ["trainer.gradient_accumulation_steps=1", "model.freeze_vision=true"]
    assert train(load_config("train", [*given, *groups, *FOUR_STEPS])) == 0
    return run_dir / "final"


# Slurm's early warning (SIGUSR1) ends a run like the SIGTERM that would follow.
SIGNALS = [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 143)]


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_saves_a_checkpoint_and_the_run_goes_on_from_it(make_config, uninterrupted, monkeypatch, number, code):
    config = make_config("grpo", "model.freeze_vision=true", *FOUR_STEPS)
    build = stages.build_trainer

    def build_signalled(*args, **kwargs):
        trainer = build(*args, **kwargs)
        trainer.add_callback(SignalAtStep(1, number))
        return trainer

    with monkeypatch.context() as patch:
        patch.setattr(stages, "build_trainer", build_signalled)
        assert train(config) == code
    status = run_status(config.run.dir)
    assert status["status"] == "stopped" and status["signal"] == signal.Signals(code - 128).name
    assert list(status["checkpoints"]) == ["2"]
    assert not (Path(config.run.dir) / "final").exists()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert train(config, resume=True) == 0
    assert run_status(config.run.dir)["status"] == "done"
    assert difference(Path(config.run.dir) / "final", uninterrupted) == 0


def test_old_checkpoints_are_dropped_over_all_stages(make_config):
    config = make_config("grpo", SPREAD, TWO_STAGES, "trainer.save_total_limit=2", "model.freeze_vision=true")
    assert train(config) == 0
    assert sorted(path.name for path in Path(config.run.dir).glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]
    assert list(run_status(config.run.dir)["checkpoints"]) == ["3", "4"]


def test_the_worker_reports_an_error_of_the_user_in_two_lines(make_config, capsys):
    from vsgrpo.config.compose import to_yaml

    config = make_config("grpo", SPREAD, "trainer.per_device_train_batch_size=64")
    file = Path(config.run.dir) / "config.yaml"
    file.write_text(to_yaml(config))
    assert main([str(file)]) == 2
    error, hint = capsys.readouterr().err.strip().splitlines()[-2:]
    assert error.startswith(f"error: data.path={config.data.path} has 12 rows: one rollout buffer takes 16")
    assert hint.startswith("hint: ")
    assert run_status(config.run.dir)["status"] == "failed"


def test_a_loss_that_is_no_number_stops_the_run_and_is_never_filtered(make_config):
    config = make_config("sft", "trainer.max_steps=1")
    parts_of = stages.build_trainer

    def build_broken(*args, **kwargs):
        trainer = parts_of(*args, **kwargs)
        with torch.no_grad():
            next(trainer.model.model.language_model.layers.parameters()).fill_(float("nan"))
        return trainer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "build_trainer", build_broken)
        with pytest.raises(RunError, match="step 0: loss is nan"):
            train(config)
    assert run_status(config.run.dir)["status"] == "failed"
    assert trl_config(config, 0).logging_nan_inf_filter is False


def test_a_stage_trains_on_its_question_types_only(make_config):
    stages = "trainer.stages=[{max_steps: 1, types: [object_counting]}, {max_steps: 1}]"
    config = make_config("grpo", SPREAD, "model.freeze_vision=true", stages)
    assert train(config) == 0
    lines = [json.loads(line) for line in (Path(config.run.dir) / "completions.jsonl").read_text().splitlines()]
    assert {line["question_type"] for line in lines if line["step"] == 0} == {"object_counting"}
    parts = make_parts(config)
    assert [len(stage_rows(config, parts.dataset, number)) for number in (0, 1)] == [6, 12]
