"""One update of every trainer against the independent reference; the trainers run their own `train()`."""

import ast
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from recording import Recording, disagreement, reference_of, start_adapter
from reference import live
from tiny_runs import LORA, SPREAD, make_trainer

from vsgrpo.families import family_of

pytestmark = pytest.mark.integration

ALLOWED = (1e-6, 1e-5, 5e-5)
"""Largest disagreement of loss, gradient and one tensor of it."""
EXACT = (
    "trainer.max_grad_norm=1e9",
    "trainer.learning_rate=5e-3",
    "trainer.lr_scheduler_type=constant",
    "trainer.warmup_steps=0",
)
EXACT += ("trainer.warmup_steps=0", *LORA)
EXACT += ("video.num_frames=8",)
"""Frames of 2 x 2 tokens in 4 temporal patches: where text goes on after them depends on model.text_after_video."""
LIBRARY = "model.text_after_video=library"
RAGGED = ("trainer.per_device_train_batch_size=5", "trainer.gradient_accumulation_steps=3")
"""The 12 rows of an epoch in microbatches of 5, 5 and 2: one update."""
GROUPS = ("trainer.per_device_train_batch_size=4", "trainer.gradient_accumulation_steps=2")
ALL = [(loss, "token") for loss in ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "vespo")]
ALL += [("luspo", "sequence"), ("grpo", "sequence")]


def layout(on):
    return f"trainer.shared_prefix={'on' if on else 'off'}"


def record(trainer, plan=None):
    start_adapter(trainer)
    recording = Recording(trainer, plan)
    trainer.train()
    return recording.updates


def agrees(loss, reference, update):
    found = disagreement(loss, reference.gradients(loss, update.gradients), update)
    print(found, update.settings and update.settings.loss_type)
    return all(value <= allowed for value, allowed in zip(found, ALLOWED, strict=True))


def grpo_losses(updates, reference, updates_per_buffer=1):
    """Yield the reference's loss of each update; log-probs of a buffer are those of its first update's weights."""
    for start in range(0, len(updates), updates_per_buffer):
        buffer = updates[start : start + updates_per_buffer]
        reference.load(buffer[0].weights)
        rows = {id(row): row for update in buffer for row in live(update.microbatches)}
        with torch.no_grad():
            old = {key: reference.logps(row, buffer[0].settings.temperature) for key, row in rows.items()}
        for update in buffer:
            reference.load(update.weights)
            yield reference.grpo(update.microbatches, update.settings, old) if live(update.microbatches) else None


def all_losses(first=0):
    """Return a plan of nine steps of nine losses; where a rollout serves two steps, every other one is off policy."""

    def plan(trainer, step):
        loss, level = ALL[(first + step) % len(ALL)]
        trainer.loss_type = trainer.args.loss_type = loss
        trainer.importance_sampling_level = trainer.args.importance_sampling_level = level
        trainer.args.use_bias_correction_kl = step % 4 >= 2
        trainer.args.delta = 1.05 if step >= 4 else None

    return plan


def end_often(trainer):
    """Let every 16th token end a completion: random weights hardly ever draw the one that does."""
    trainer.eos_token_ids = list(range(0, len(trainer.bundle.tokenizer), 16))
    return trainer


def test_the_reference_is_independent():
    tree = ast.parse(Path(__file__).with_name("reference.py").read_text())
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {name.split(".")[0] for name in names} == {"collections", "dataclasses", "math", "typing"} | {
        "peft",
        "token_positions",  # which imports torch alone, see tests/modeling/test_positions.py
        "torch",
        "transformers",
    }


@pytest.mark.both_families
@pytest.mark.parametrize("tree", [True, False])
def test_sft(make_config, tiny_folder, tree):
    # Ragged microbatches, and (tree) an update of one microbatch that ends the epoch.
    batch = ("trainer.per_device_train_batch_size=5", "trainer.gradient_accumulation_steps=2") if tree else RAGGED
    rule = () if tree or not family_of(str(tiny_folder)).has_text_rules else (LIBRARY,)
    trainer = make_trainer(make_config("sft", *EXACT, *batch, layout(tree), *rule))
    updates, reference = record(trainer), reference_of(trainer, tiny_folder)
    assert [[len(rows) for rows in u.microbatches] for u in updates] == ([[5, 5], [2]] if tree else [[5, 5, 2]] * 2)
    for update in updates:
        assert (
            len({len(row.completion) for rows in update.microbatches for row in rows}) > 1
            or len(update.microbatches) == 1
        )
        reference.load(update.weights)
        assert agrees(reference.sft(update.microbatches), reference, update)


@pytest.mark.parametrize(
    ("tiny_folder", "tree", "kind", "rule"),
    [("qwen2_vl", True, "sigmoid", ()), ("qwen2_5_vl", False, "hinge", ()), ("qwen2_5_vl", True, "ipo", (LIBRARY,))],
    indirect=["tiny_folder"],
)
def test_dpo(make_config, tiny_folder, tree, kind, rule):
    trainer = make_trainer(make_config("dpo", *EXACT, *RAGGED, layout(tree), f"trainer.loss_type={kind}", *rule))
    updates, reference = record(trainer), reference_of(trainer, tiny_folder)
    assert [[len(rows) for rows in u.microbatches] for u in updates] == [[10, 10, 4]] * 2
    for update in updates:
        reference.load(update.weights)
        assert agrees(reference.dpo(update.microbatches, kind, trainer.beta), reference, update)


@pytest.mark.parametrize(
    ("tiny_folder", "tree", "steps", "first", "options"),
    [
        ("qwen2_vl", True, 10, 0, ()),
        ("qwen2_5_vl", False, 10, 1, ("trainer.scale_rewards=batch", LIBRARY)),
        ("qwen2_vl", False, 4, 3, ("trainer.mask_truncated_completions=true", "trainer.scale_rewards=none")),
        ("qwen2_5_vl", True, 4, 5, ("trainer.mask_truncated_completions=true", "trainer.temperature=0.8")),
    ],
    indirect=["tiny_folder"],
)
def test_grpo(make_config, tiny_folder, tree, steps, first, options):
    run = (SPREAD, *EXACT, *GROUPS, "trainer.beta=0.05", "trainer.num_iterations=2", layout(tree), *options)
    trainer = end_often(
        make_trainer(make_config("grpo", *run, f"trainer.max_steps={steps}", "trainer.save_steps=1000"))
    )
    updates, reference = record(trainer, all_losses(first)), reference_of(trainer, tiny_folder)
    rows = [row for update in updates for part in update.microbatches for row in part]
    assert len({len(row.completion) for row in rows}) > 3
    ended = [row.completion[-1] in trainer.eos_token_ids for row in rows]
    assert any(ended) and not all(ended)
    for update, loss in zip(updates, grpo_losses(updates, reference, 2), strict=True):
        assert agrees(loss, reference, update)


def test_dead_rows_leave_every_loss(make_config, tiny_folder):
    batch = ("trainer.per_device_train_batch_size=8", "trainer.gradient_accumulation_steps=2", "video.on_bad=skip")
    run = (SPREAD, *EXACT, *batch, "trainer.beta=0.05", f"trainer.max_steps={len(ALL)}", "trainer.save_steps=1000")
    trainer = end_often(make_trainer(make_config("grpo", *run)))
    bury(trainer, trainer._maker, 3)
    updates, reference = record(trainer, all_losses()), reference_of(trainer, tiny_folder)
    for update, loss in zip(updates, grpo_losses(updates, reference), strict=True):
        dead = [sum(row.media is None for row in rows) for rows in update.microbatches]
        assert 0 < sum(dead) < 16
        assert agrees(loss, reference, update)


def test_dead_rows_leave_an_update_that_is_a_part_of_its_rollout_buffer(make_config, tiny_folder):
    sizes = ("trainer.hf.steps_per_generation=4", "trainer.max_steps=6", "trainer.save_steps=1000")
    trainer = end_often(make_trainer(make_config("grpo", SPREAD, *EXACT, *GROUPS, *sizes, "video.on_bad=skip")))
    bury(trainer, trainer._maker, 2)
    updates, reference = record(trainer), reference_of(trainer, tiny_folder)
    shares = {sum(rows[0].media is None for rows in update.microbatches) for update in updates}
    assert {0, 1} <= shares  # updates of one buffer lose unequal shares
    for update, loss in zip(updates, grpo_losses(updates, reference, 2), strict=True):
        if loss is not None:
            assert agrees(loss, reference, update)


def bury(trainer, maker, count):
    """Let the first `count` videos turn out bad."""
    for video in sorted(set(trainer.train_dataset["video"]))[:count]:
        maker._loader.quarantine[video] = "an earlier failure"


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_dead_rows_leave_sft_and_dpo(make_config, tiny_folder, method):
    trainer = make_trainer(make_config(method, *EXACT, *RAGGED, "video.on_bad=skip", layout(True)))
    bury(trainer, trainer._maker, 2)
    updates, reference = record(trainer), reference_of(trainer, tiny_folder)
    for update in updates:
        dead = [sum(row.media is None for row in rows) / len(rows) for rows in update.microbatches]
        assert len(set(dead)) > 1  # microbatches lose unequal shares
        reference.load(update.weights)
        rows = update.microbatches
        assert agrees(
            reference.sft(rows) if method == "sft" else reference.dpo(rows, "sigmoid", trainer.beta), reference, update
        )


def test_an_update_without_a_live_row_changes_nothing(make_config):
    trainer = make_trainer(make_config("sft", *EXACT, "video.on_bad=skip", "trainer.max_steps=4"))

    def plan(trainer, step):
        if step == 0:
            bury(trainer, trainer._maker, 6)

    updates = record(trainer, plan)  # the rows of an update are made before it begins
    assert [bool(live(update.microbatches)) for update in updates] == [True, False, False, False]
    moved = [
        any(not torch.equal(tensor, later.weights[name]) for name, tensor in update.weights.items())
        for update, later in pairwise(updates)
    ]
    assert moved == [True, False, False]  # AdamW's momentum alone would move them
