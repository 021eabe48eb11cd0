"""GRPO sees the video, samples by key, and moves the weights it should: on the tiny model with random weights."""

import json
from dataclasses import replace

import pytest
import torch
from tiny_runs import LORA, SPREAD, make_trainer
from transformers import TrainerCallback

pytestmark = pytest.mark.integration


def group_rows(trainer, videos=None):
    """Return the first two rows four times each, with other videos where given."""
    rows = [dict(trainer.train_dataset[i]) for i in (0, 2)]
    for row, media in zip(rows, videos or [row["media"] for row in rows], strict=True):
        row["media"] = media
    return [dict(row) for row in rows for _ in range(4)]


def sample_batch(trainer, rows):
    trainer.model.train()
    return trainer._generate_and_score_completions(rows)


def scores(trainer, batch, samples):
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    trainer._samples = samples
    return trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, batch["completion_ids"].size(1))[0]


@pytest.mark.both_families
def test_swapping_the_video_changes_rollout_and_gradient_pass(make_config):
    trainer = make_trainer(make_config("grpo", SPREAD, "trainer.max_completion_length=32"))
    rows = group_rows(trainer)
    batch = sample_batch(trainer, rows)
    other = sample_batch(trainer, group_rows(trainer, [rows[4]["media"], rows[0]["media"]]))
    drawn = [sample.completion for sample in batch["samples"]]
    assert drawn != [sample.completion for sample in other["samples"]]

    swapped = [
        replace(sample, media=twin.media, features=twin.features, prompt=twin.prompt)
        for sample, twin in zip(batch["samples"], other["samples"], strict=True)
    ]
    own = scores(trainer, batch, batch["samples"])
    assert own.requires_grad
    moved = (own - scores(trainer, batch, swapped)).abs()
    assert moved.max() > 1e-3
    assert torch.equal(own, scores(trainer, batch, batch["samples"]))


@pytest.mark.parametrize("tiny_folder", ["qwen3_vl"], indirect=True, scope="session")
def test_rewards_and_records_hold_the_thought_that_the_template_begins(make_config):
    trainer = make_trainer(make_config("grpo", "reward.names=[spread_reward:opened]", "prompt=think"))
    rows = group_rows(trainer)
    assert {sample.reward for sample in sample_batch(trainer, rows)["samples"]} == {0.0}
    end = "assistant\\n' }}{% endif %}"
    processor = trainer.bundle.processor
    assert end in processor.chat_template
    processor.chat_template = processor.chat_template.replace(end, "assistant\\n<think>\\n' }}{% endif %}")
    trainer = make_trainer(make_config("grpo", "reward.names=[spread_reward:opened]", "prompt=think", name="other"))
    trainer.bundle.processor.chat_template = processor.chat_template
    samples = sample_batch(trainer, rows)["samples"]
    assert {sample.reward for sample in samples} == {1.0}
    assert trainer.bundle.tokenizer.decode(samples[0].prompt.token_ids).endswith("assistant\n<think>\n")
    lines = (trainer.stage.folder.path / "completions.jsonl").read_text().splitlines()
    assert lines and all(json.loads(line)["completion"].startswith("<think>\n") for line in lines)


def test_the_update_pass_reaches_a_trained_tower_and_leaves_a_frozen_one(make_config):
    for freeze, has_grad in (("false", True), ("true", False)):
        config = make_config("grpo", SPREAD, f"model.freeze_vision={freeze}", name=freeze)
        trainer = make_trainer(config)
        batch = sample_batch(trainer, group_rows(trainer))
        trainer.current_gradient_accumulation_steps = 1
        trainer._compute_loss(trainer.model, batch).backward()
        tower = [p.grad for p in trainer.model.model.visual.parameters()]
        assert any(grad is not None and grad.abs().sum() > 0 for grad in tower) is has_grad
        assert all(sample.features is None for sample in batch["samples"]) is has_grad


def test_completions_do_not_depend_on_batch_order_or_global_seed(make_config):
    trainer = make_trainer(make_config("grpo", SPREAD))
    rows = group_rows(trainer)
    torch.manual_seed(1)
    first = {(s.row_key, s.index): s.completion for s in sample_batch(trainer, rows)["samples"]}
    torch.manual_seed(2)
    turned = sample_batch(trainer, rows[4:] + rows[:4])["samples"]
    assert {(s.row_key, s.index): s.completion for s in turned} == first
    assert len(set(first.values())) > 1
    trainer.state.global_step = 1  # another step draws other noise
    assert {(s.row_key, s.index): s.completion for s in sample_batch(trainer, rows)["samples"]} != first


class GradientNorms(TrainerCallback):
    """Records the sum of absolute gradients per kind of parameter just before each optimizer step."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        norms = {"lora_A": 0.0, "lora_B": 0.0, "visual": 0.0}
        for name, parameter in model.named_parameters():
            for kind in norms:
                if kind in name and parameter.grad is not None:
                    norms[kind] += parameter.grad.abs().sum().item()
        self.steps.append(norms)


def test_lora_b_learns_first_then_lora_a_and_the_tower_never(make_config):
    trainer = make_trainer(make_config("grpo", SPREAD, *LORA, "trainer.learning_rate=1e-3", "trainer.warmup_steps=0"))
    norms = GradientNorms()
    trainer.add_callback(norms)
    trainer.train()
    first, second = norms.steps
    # At the start B = 0: dL/dA = B^T ... = 0 exactly, dL/dB is not.
    assert first["lora_B"] > 0 and first["lora_A"] == 0
    assert second["lora_B"] > 0 and second["lora_A"] > 0
    assert first["visual"] == second["visual"] == 0


def test_a_video_that_turns_out_bad_counts_nowhere(make_config):
    config = make_config("grpo", SPREAD, "trainer.beta=0", "video.on_bad=skip")
    trainer = make_trainer(config)
    trainer.current_gradient_accumulation_steps = 1
    rows = group_rows(trainer)
    alone = sample_batch(trainer, rows[4:])
    trainer._compute_loss(trainer.model, alone).backward()
    expected = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
    trainer.model.zero_grad()

    trainer._maker._loader.quarantine[rows[0]["video"]] = "an earlier failure"
    batch = sample_batch(trainer, rows)
    assert batch["advantages"][:4].tolist() == [0, 0, 0, 0]
    assert [s.completion for s in batch["samples"][4:]] == [s.completion for s in alone["samples"]]
    assert trainer._metrics["train"]["skipped_completions"] == [0.0, 4.0]
    trainer._compute_loss(trainer.model, batch).backward()
    for name, parameter in trainer.model.named_parameters():
        # A mean over the 4 completions that have a video, as without the others.
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-6, rtol=1e-4)


def log_lines(config):
    with open(f"{config.run.dir}/log.jsonl", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


@pytest.mark.parametrize(
    "overrides",
    [("model.tune=full", "model.freeze_vision=true"), ("model.tune=full", "model.freeze_vision=false"), LORA],
    ids=["full", "full-with-tower", "lora"],
)
def test_kl_is_exactly_zero_at_step_0_and_then_moves(make_config, overrides):
    from vsgrpo.training.worker import train

    config = make_config("grpo", SPREAD, *overrides, "trainer.beta=0.1", "trainer.learning_rate=1e-3")
    assert train(config) == 0
    first, second = [line for line in log_lines(config) if "loss" in line]
    assert first["kl"] == 0.0
    assert second["kl"] > 0.0


def test_kl_is_exactly_zero_at_step_0_from_an_adapter(make_config):
    from vsgrpo.training.worker import train

    earlier = make_config("grpo", SPREAD, *LORA, "trainer.learning_rate=1e-2", name="earlier")
    assert train(earlier) == 0
    adapter = f"{earlier.run.dir}/final"
    config = make_config("grpo", SPREAD, *LORA, f"model.adapter={adapter}", "trainer.beta=0.1", name="later")
    assert train(config) == 0
    assert next(line for line in log_lines(config) if "loss" in line)["kl"] == 0.0


@pytest.mark.both_families
def test_a_short_run_changes_weights_logs_rewards_and_reloads(make_config):
    from vsgrpo.modeling.load import load
    from vsgrpo.modeling.rollout import rollout
    from vsgrpo.modeling.vision import FeatureStore

    config = make_config("grpo", SPREAD, "model.freeze_vision=true", "trainer.learning_rate=1e-3")
    trainer = make_trainer(config)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.train()
    after = trainer.model.state_dict()
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert moved and not any("visual" in name for name in moved)

    lines = [line for line in log_lines(config) if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2]
    for key in ("reward", "reward_std", "frac_reward_zero_std", "rewards/spread/mean", "parse_failure/number"):
        assert key in lines[0], key
    types = {row["question_type"] for row in trainer.train_dataset}
    assert {key.removeprefix("reward/") for line in lines for key in line if key.startswith("reward/")} <= types
    for phase in ("decode", "vision", "generate", "reward", "update", "optimizer"):
        assert lines[1][f"time/{phase}"] > 0, phase
    with open(f"{config.run.dir}/completions.jsonl", encoding="utf-8") as stream:
        completions = [json.loads(line) for line in stream]
    assert [(c["step"], c["index"]) for c in completions] == [(s, i % 4) for s in (0, 1) for i in range(8)]
    for line, drawn in zip(lines, (completions[:8], completions[8:]), strict=True):
        assert sum(c["reward"] for c in drawn) / 8 == pytest.approx(line["reward"])

    batch = sample_batch(trainer, group_rows(trainer))
    own = scores(trainer, batch, batch["samples"]).detach()
    sampling = replace(trainer._sampling(), greedy=True)
    sample = batch["samples"][0]
    greedy = rollout(trainer.model, [sample.prompt], {sample.media[0].key: sample.features[0]}, [("a", 0)], sampling)

    other = load(f"{config.run.dir}/checkpoint-2")
    features = FeatureStore(other).features([sample.media[0] for sample in batch["samples"]])
    trainer.model = other.model
    loaded = scores(trainer, batch, [replace(s, features=(features[s.media[0].key],)) for s in batch["samples"]])
    torch.testing.assert_close(loaded, own, atol=1e-5, rtol=0)
    assert rollout(other.model, [sample.prompt], features, [("a", 0)], sampling) == greedy
