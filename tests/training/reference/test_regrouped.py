"""An update dealt out over fewer or more passes has the rows, the loss and the gradient of its microbatches."""

import dataclasses

import pytest
import torch
from recording import disagreement, reference_of
from test_reference import EXACT, SPREAD, bury, end_often, grpo_losses, layout, record
from tiny_runs import make_trainer

from vsgrpo.memory.load import stage_load

pytestmark = pytest.mark.integration


def tokens_of(config, rows):
    """Return the tokens of a pass of so many rows at most."""
    return stage_load(config, dataclasses.replace(config.trainer, per_device_train_batch_size=rows), ()).update_tokens


def updates_of(make_config, method, words, rows):
    """Train with passes of `rows` rows, None: the microbatches of the configuration."""
    config = make_config(method, *words)
    if rows is not None:
        config = make_config(method, *words, f"trainer.tokens_per_pass={tokens_of(config, rows)}")
    trainer = make_trainer(config)
    if method == "grpo":
        end_often(trainer)
        bury(trainer, trainer._maker, 1)
    return trainer, record(trainer)


def names(update):
    return [(row.group, row.completion) for rows in update.microbatches for row in rows]


SMOOTH = (*EXACT, "trainer.adam_epsilon=1e-3")
"""Adam divides by the gradient's size: where it is near zero rounding would grow over steps."""
GRPO = (SPREAD, *SMOOTH, "trainer.beta=0.05", "trainer.num_iterations=2", "trainer.max_steps=4", "trainer.save_steps=4")
GRPO += ("trainer.num_generations=4", "trainer.per_device_train_batch_size=8", "trainer.gradient_accumulation_steps=2")
SFT = (*SMOOTH, "trainer.per_device_train_batch_size=5", "trainer.gradient_accumulation_steps=2")
DPO = (*SMOOTH, "trainer.per_device_train_batch_size=4", "trainer.gradient_accumulation_steps=3")
CASES = [
    ("grpo", (*GRPO, "trainer.loss_type=grpo"), {None: [8, 8], 16: [16], 4: [4] * 4, 2: [2] * 8}),
    ("grpo", (*GRPO, "trainer.loss_type=dapo", layout(False)), {None: [8, 8], 16: [16], 4: [4] * 4}),
    ("grpo", (*GRPO, "trainer.loss_type=luspo", "trainer.hf.steps_per_generation=4"), {None: [8, 8], 16: [16]}),
    # 12 rows an epoch: the last of its updates has 5, 5 and 2 of them
    ("sft", SFT, {None: [5, 5], 10: [10], 1: [1] * 10}),
    ("dpo", DPO, {None: [8] * 3, 12: [24], 2: [4] * 6}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "words", "passes"), CASES, ids=["grpo", "dapo plain", "luspo", "sft", "dpo"])
def test_passes_change_no_update(make_config, method, words, passes):
    words = (*words, "video.on_bad=skip")
    _, truth = updates_of(make_config, method, words, None)
    assert [len(rows) for rows in truth[0].microbatches] == passes[None]
    for rows, sizes in list(passes.items())[1:]:
        _, updates = updates_of(make_config, method, words, rows)
        assert len(updates) == len(truth)
        assert [len(part) for part in updates[0].microbatches] == sizes
        for ours, theirs in zip(updates, truth, strict=True):
            assert names(ours) == names(theirs)
            assert abs(ours.loss - theirs.loss) <= 1e-6 * max(1.0, abs(theirs.loss))
            whole = torch.cat([gradient.flatten() for gradient in theirs.gradients.values()]).norm()
            apart = torch.stack([(g - theirs.gradients[name]).norm() for name, g in ours.gradients.items()]).norm()
            assert apart <= 1e-5 * whole, (rows, float(apart / whole))


@pytest.mark.parametrize("rows", [16, 2])
def test_regrouped_losses_equal_the_reference(make_config, tiny_folder, rows):
    trainer, updates = updates_of(make_config, "grpo", (*GRPO, "trainer.loss_type=dr_grpo"), rows)
    reference = reference_of(trainer, tiny_folder)
    for update, loss in zip(updates, grpo_losses(updates, reference, 2), strict=True):
        found = disagreement(loss, reference.gradients(loss, update.gradients), update)
        assert all(value <= allowed for value, allowed in zip(found, (1e-6, 1e-5, 5e-5), strict=True)), found
