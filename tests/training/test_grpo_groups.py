"""Groups and trees in GRPO: the same run in both layouts, exact counts of work, skipping, losses, correlation."""

import json
from pathlib import Path

import pytest
import torch
from tiny_runs import LORA, SPREAD, make_trainer

from vsgrpo.config import train
from vsgrpo.training import grpo

pytestmark = pytest.mark.integration

TWO_VIDEOS = ("trainer.questions_per_video=2", "trainer.per_device_train_batch_size=16")
"""Four questions of two videos in a microbatch."""


def batch_of(trainer):
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    size = trainer.args.per_device_train_batch_size
    rows = [dict(trainer.train_dataset[i]) for i in range(size // trainer.num_generations)]
    return trainer._generate_and_score_completions([dict(row) for row in rows for _ in range(trainer.num_generations)])


def test_tokens_and_tower_calls_of_a_step_are_exact(make_config):
    trainer = make_trainer(make_config("grpo", SPREAD, *LORA, *TWO_VIDEOS, "trainer.shared_prefix=on"))
    batch = batch_of(trainer)
    samples = batch["samples"]
    trainer.timer.take_counts()
    trainer._compute_loss(trainer.model, batch)
    lengths = [len(sample.completion) for sample in samples]
    prompts = [len(sample.prompt.token_ids) for sample in samples]
    by_video: dict[str, dict] = {}
    for sample in samples:
        by_video.setdefault(sample.media[0].key, {})[sample.row_key] = sample.prompt.token_ids
    shared = 0
    for questions in by_video.values():
        a, b = questions.values()
        cut = next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
        # prefix once, each question without its last token
        shared += cut + (len(a) - cut - 1) + (len(b) - cut - 1)
    counts = trainer.timer.take_counts()
    assert counts["tokens/plain"] == sum(prompts) + sum(lengths)
    assert counts["tokens/computed"] == shared + sum(lengths)
    assert counts.get("videos/computed", 0) == 0  # the rollout's features travel with the batch
    assert (trainer._store.num_calls, trainer._store.num_videos) == (2, 2)


def test_long_completions_are_drawn_in_plain_rows_and_are_those_of_the_tree(make_config, monkeypatch):
    monkeypatch.setattr(train, "TREE_TOKENS", 19)  # its own value would take a minute
    drawn = {}
    for layout in ("auto", "on"):
        length = "trainer.max_completion_length=20"
        config = make_config(
            "grpo", *LORA, *TWO_VIDEOS, length, f"trainer.shared_prefix={layout}", "model.dtype=float32", name=layout
        )
        trainer = make_trainer(config)
        samples = batch_of(trainer)["samples"]
        drawn[layout] = trainer._drawing["layout"], [sample.completion for sample in samples]
        assert trainer._layout == "tree"
    assert [found[0] for found in drawn.values()] == ["plain", "tree"]
    assert drawn["auto"][1] == drawn["on"][1] and max(map(len, drawn["on"][1])) > 16


@pytest.mark.parametrize("kernel", ["block", "merge"])
def test_three_steps_in_a_tree_equal_three_plain_ones(make_config, kernel):
    steps = ("trainer.max_steps=3", "trainer.learning_rate=0.01", "trainer.save_steps=3", "model.dtype=float32")
    found = []
    for layout in ("off", "on"):
        config = make_config(
            "grpo",
            SPREAD,
            *LORA,
            *TWO_VIDEOS,
            *steps,
            f"trainer.shared_prefix={layout}",
            f"trainer.prefix_attention={kernel}",
            name=f"{layout}{kernel}",
        )
        trainer = make_trainer(config)
        start = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
        trainer.train()
        moved = {name: p.detach() for name, p in trainer.model.named_parameters() if p.requires_grad}
        assert max((moved[name] - start[name]).abs().max() for name in start) >= 1e-2
        written = (Path(config.run.dir) / "completions.jsonl").read_text().splitlines()
        drawn = [json.loads(line)["completion"] for line in written]
        logs = [{k: log[k] for k in ("loss", "kl", "reward", "grad_norm")} for log in trainer.state.log_history[:3]]
        found.append((moved, drawn, logs))
    (plain, plain_drawn, plain_logs), (tree, tree_drawn, tree_logs) = found
    assert tree_drawn == plain_drawn
    for ours, theirs in zip(tree_logs, plain_logs, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    for name, weight in plain.items():
        torch.testing.assert_close(tree[name], weight, atol=1e-4, rtol=0)


@pytest.mark.parametrize("spared", [True, False])
def test_a_microbatch_without_advantage_is_skipped_with_zero_gradients(make_config, monkeypatch, spared):
    if not spared:  # as with sharded weights
        monkeypatch.setattr(grpo, "needs_forward", lambda accelerator: True)
    trainer = make_trainer(make_config("grpo", SPREAD, *LORA, "trainer.skip_zero_variance=true", "trainer.beta=0.5"))
    batch = batch_of(trainer)
    trainer._compute_loss(trainer.model, batch).backward()
    assert trainer._metrics["train"]["skipped_microbatches"] == [0.0]
    trainer.model.zero_grad()
    batch["advantages"] = torch.zeros_like(batch["advantages"])
    for name, parameter in trainer.model.named_parameters():  # away from the reference: the KL term has a gradient
        if "lora_B" in name:
            parameter.data += 0.05
    trainer.timer.take_counts()
    loss = trainer._compute_loss(trainer.model, batch)
    loss.backward()
    assert loss.item() == 0 and trainer._metrics["train"]["skipped_microbatches"] == [0.0, 1.0]
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    assert all(p.grad is not None and not p.grad.any() for p in trained)
    assert ("tokens/computed" in trainer.timer.take_counts()) != spared


def test_gradient_cosines_are_logged_and_leave_the_update_alone(make_config):
    gradients = []
    for wanted in ("false", "true"):
        config = make_config(
            "grpo", SPREAD, *LORA, *TWO_VIDEOS, f"trainer.log_gradient_correlation={wanted}", name=wanted
        )
        trainer = make_trainer(config)
        trainer._compute_loss(trainer.model, batch_of(trainer)).backward()
        gradients.append([p.grad for p in trainer.model.parameters() if p.grad is not None])
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.equal(ours, theirs)
    logged = [{"loss": 0.0}, {"loss": 0.0}]
    for logs in logged:
        trainer.log(logs)
    first, second = ({key: v for key, v in logs.items() if key.startswith("gradient_cosine/")} for logs in logged)
    assert set(first) == {"gradient_cosine/same_video", "gradient_cosine/other_video"} and not second
    assert all(-1 <= value <= 1 for value in first.values())


# luspo needs sequences, vespo tokens (TRL 1.16)
PAIRS = [
    (loss, level)
    for loss in ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo")
    for level in ("token", "sequence")
    if (loss, level) not in {("luspo", "token"), ("vespo", "sequence")}
]


def test_every_loss_has_equal_gradients_in_both_layouts(make_config):
    trainer = make_trainer(make_config("grpo", SPREAD, *LORA, *TWO_VIDEOS))
    batch = batch_of(trainer)
    for loss, level in PAIRS:
        trainer.loss_type = trainer.args.loss_type = loss
        trainer.importance_sampling_level = level
        found = []
        for layout in ("plain", "tree"):
            trainer._layout = layout
            trainer.model.zero_grad()
            trainer._compute_loss(trainer.model, dict(batch)).backward()
            found.append(torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]))
        assert found[0].norm() > 0, (loss, level)
        assert (found[0] - found[1]).norm() <= 1e-4 * found[0].norm(), (loss, level)


@pytest.mark.parametrize("options", [["trainer.num_iterations=2"], ["trainer.mask_truncated_completions=true"]])
def test_second_iterations_and_masked_completions_train_in_a_tree(make_config, options):
    config = make_config("grpo", SPREAD, *LORA, *TWO_VIDEOS, *options, "trainer.save_steps=2")
    trainer = make_trainer(config)
    trainer.train()
    log = trainer.state.log_history[0]
    # Prompts of about 65 tokens, half of them the video's: 16 rows read 16 x 65 tokens plain, but 2 x 31 + 4 x 34 in
    # trees; with about 23 completion tokens a row that is (1040 + 368) / (198 + 368) = 2.5 times fewer.
    assert log["tokens/computed"] < log["tokens/plain"] / 2
    assert {"time/prefill", "time/generate", "time/vision", "time/update"} <= set(log)
    assert trainer.state.global_step == 2 and all(
        torch.isfinite(p).all() for p in trainer.model.parameters() if p.requires_grad
    )
