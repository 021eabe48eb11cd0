"""Numbers that are none never reach the weights: their steps are left out, written down, and end the run at a limit."""

import json
import math
from pathlib import Path

import pytest
import spread_reward
import torch
from tiny_runs import SPREAD, make_trainer
from two_processes import GRPO, TWO, arguments, distance, finish, log, vsgrpo, weights, zero_file

from vsgrpo.errors import ConfigError, RunError
from vsgrpo.training.losses import MAX_LOG_RATIO

pytestmark = pytest.mark.integration


def dumped(config, step=0, process=0):
    return json.loads((Path(config.run.dir) / f"bad_batch-{step}-{process}.json").read_text())


def state_of(trainer):
    return {name: weight.detach().clone() for name, weight in trainer.model.state_dict().items()}


def test_an_infinite_reward_stops_with_the_batch_on_disk(make_config):
    config = make_config("grpo", "reward.names=[spread_reward:endless]", "trainer.beta=0.01")
    trainer = make_trainer(config)
    before = state_of(trainer)
    with pytest.raises(RunError, match=r"step 0: rewards \[inf\] of a completion"):
        trainer.train()
    found = dumped(config)
    assert len(found["samples"]) == 8 and found["reason"] == "rewards [inf] of a completion"
    assert [sample["rewards"] for sample in found["samples"]] == [["Infinity"]] + [[0.0]] * 7
    first = found["samples"][0]
    assert first["id"].startswith("demo/") and first["prompt"].count("<|video_pad|>") == 1
    assert "this room" in first["prompt"] and first["completion"]
    assert distance(state_of(trainer), before) == 0.0


def test_a_step_with_an_infinite_reward_is_left_out_and_the_next_one_trains(make_config, capfd):
    spread_reward._calls.clear()
    words = ("reward.names=[spread_reward:endless_once]", "trainer.beta=0.01", "trainer.learning_rate=5e-3")
    config = make_config("grpo", *words, "trainer.max_bad_steps=2")
    trainer = make_trainer(config)
    before = state_of(trainer)
    trainer.train()
    assert "step 0: rewards [inf] of a completion: left out (1 of at most 2)" in capfd.readouterr().err
    assert [entry.get("bad_steps") for entry in trainer.state.log_history if "loss" in entry] == [1, 1]
    assert distance(weights(config.run.dir, "checkpoint-1"), saved_names(before)) == 0.0
    assert distance(weights(config.run.dir, "checkpoint-2"), saved_names(before)) > 1e-3
    states = torch.load(Path(config.run.dir) / "checkpoint-2" / "optimizer.pt", weights_only=False)["state"]
    assert {float(state["step"]) for state in states.values()} == {1.0}  # AdamW counted the good step only


def saved_names(state):
    """Name weights as transformers 5.23 saves a Qwen2-VL."""
    parts = ((name.replace("model.language_model.", "model."), weight) for name, weight in state.items())
    return {name.replace("model.visual.", "visual."): weight for name, weight in parts}


def poison(trainer, steps):
    """Make the gradient of one weight NaN in these steps."""
    parameter = next(p for p in trainer.model.parameters() if p.requires_grad)
    parameter.register_hook(lambda g: g * math.nan if trainer.run_step in steps else g)


def test_a_gradient_that_is_no_number_stops_before_the_update(make_config):
    config = make_config("sft", "trainer.save_total_limit=null")
    trainer = make_trainer(config)
    poison(trainer, {1})
    with pytest.raises(RunError, match="step 1: grad_norm is nan"):
        trainer.train()
    assert all(bool(weight.isfinite().all()) for weight in trainer.model.parameters())
    assert math.isfinite(dumped(config, step=1)["samples"][0]["loss"])
    assert dumped(config, step=1)["grad_norm"] == "NaN"


def test_bad_gradients_are_left_out_up_to_the_limit(make_config):
    config = make_config("sft", "trainer.max_bad_steps=2", "trainer.max_steps=5", "trainer.save_steps=5")
    trainer = make_trainer(config)
    poison(trainer, {1, 3})
    with pytest.raises(RunError, match="step 3: grad_norm is nan"):
        trainer.train()
    assert trainer.bad_steps.count == 2 and trainer.state.global_step == 3
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 3 and all(math.isfinite(loss) for loss in losses)


def test_an_infinite_loss_is_left_out_and_later_logs_are_numbers(make_config, monkeypatch):
    config = make_config("sft", "trainer.max_bad_steps=2", "trainer.max_steps=3")
    trainer = make_trainer(config)
    share = type(trainer)._share_of_update
    monkeypatch.setattr(
        type(trainer),
        "_share_of_update",
        lambda self, *args: share(self, *args) * (torch.inf if self.run_step == 0 else 1),
    )
    trainer.train()
    assert dumped(config)["reason"] == "loss is inf"
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[0] == 0.0 and all(0 < loss < torch.inf for loss in losses[1:])
    assert all(bool(weight.isfinite().all()) for weight in trainer.model.parameters())


def test_losses_are_not_hidden_and_engines_that_update_in_backward_take_no_limit(make_config):
    assert make_trainer(make_config("sft")).args.logging_nan_inf_filter is False
    with pytest.raises(ConfigError, match="updates inside the backward pass"):
        make_config("grpo", "launch=zero2", "trainer.max_bad_steps=2")


@pytest.mark.distributed
def test_two_processes_leave_out_a_step_that_is_bad_on_one(dataset_folder, tiny_folder, tmp_path):
    words = (*GRPO, *TWO, "launch=ddp", "trainer.max_bad_steps=2")
    process = vsgrpo("grpo", arguments("grpo", dataset_folder, tiny_folder, tmp_path, *words), mutation="bad_loss")
    code, _, err = finish(process)
    assert code == 0, err
    reasons = [json.loads((tmp_path / f"bad_batch-0-{rank}.json").read_text())["reason"] for rank in (0, 1)]
    # Rank 0 sees the sum of both gradients.
    assert reasons == ["grad_norm is nan", "loss is nan"]
    assert [line["bad_steps"] for line in log(tmp_path)] == [1, 1]
    last = log(tmp_path)[1]
    assert last["grad_norm"] > 0
    assert last["time_max/update"] >= last["time/update"] > 0  # of two processes, told by one


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize(
    ("profile", "mutation", "found"),
    [
        ("zero2", "bad_loss", "loss is nan"),
        ("zero2", "bad_gradient", "grad_norm is inf after the engine's update"),
        ("zero3", "bad_gradient", "grad_norm is inf after the engine's update"),
    ],
)
def test_an_engine_that_updates_in_backward_saves_nothing_after_a_bad_step(
    profile, mutation, found, dataset_folder, tiny_folder, tmp_path
):
    words = (*GRPO, *TWO, zero_file(tmp_path, profile), f"launch={profile}", "trainer.save_steps=1")
    run = tmp_path / "run"
    process = vsgrpo("grpo", arguments("grpo", dataset_folder, tiny_folder, run, *words), mutation=mutation)
    code, _, err = finish(process)
    assert code == 1, err
    assert f"error: step 0: {found}" in err
    assert "Traceback" not in err
    assert not list(run.glob("checkpoint-*")) and not (run / "final").exists()
    assert json.loads((run / "run.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(("corrected", "bounded"), [(False, -10.0), (True, -30.0)])
def test_a_reference_far_above_the_policy_is_bounded_and_counted(make_config, corrected, bounded):
    trainer = make_trainer(make_config("grpo", SPREAD, "trainer.beta=0.01"))
    trainer.args.use_bias_correction_kl = corrected
    scores = torch.tensor([[-30.0, -1.0]], requires_grad=True)
    trainer._loss_inputs = {"ref_per_token_logps": torch.tensor([[-0.5, -1.5]])}
    trainer._bound_kl(scores)
    # -0.5 - -30 = 29.5 > 20: bounded to -30 + 20 = -10, or out of a corrected term; -1.5 - -1 = -0.5 stays.
    assert MAX_LOG_RATIO == 20.0
    reference = trainer._loss_inputs["ref_per_token_logps"]
    assert reference.tolist() == [[bounded, -1.5]]
    assert trainer._metrics["train"]["kl_clamped"] == [1.0]
    # TRL's term; the ratio to the policy of the rollout is 1.
    kl = torch.exp(reference - scores) - (reference - scores) - 1
    if corrected:
        kl = kl * torch.exp(scores - scores.detach())
    kl.sum().backward()
    # k3' = 1 - exp(r) = 1 - exp(-.5) = .393469; corrected: k3' + k3 = -r = .5
    assert scores.grad.tolist() == [[0.0, pytest.approx(0.5 if corrected else 0.393469, abs=1e-6)]]
