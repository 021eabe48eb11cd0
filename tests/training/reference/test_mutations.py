"""Faults put into the trainers on purpose: the reference must disagree with each, and agree without it."""

from dataclasses import replace

import pytest
import torch
from recording import reference_of
from test_reference import EXACT, GROUPS, RAGGED, agrees, bury, end_often, grpo_losses, layout, record
from tiny_runs import SPREAD, make_trainer

from vsgrpo.modeling import bundle, logps
from vsgrpo.modeling.tree import pack
from vsgrpo.modeling.tree_masks import DenseMask
from vsgrpo.training import grpo, samples, sft_dpo
from vsgrpo.training.losses import LiveCounts, count_live
from vsgrpo.training.sft_dpo import SpatialSFTTrainer

pytestmark = pytest.mark.integration


def causal_mask(packed, *_):
    """Every token sees all before it: other completions and other questions too."""
    size = packed.ids.shape[1]
    allowed = torch.ones(packed.ids.shape[0], 1, size, size, dtype=torch.bool).tril()
    return DenseMask(allowed)


def running_positions(trees, positions, **options):
    """Positions count on through the completions of a row instead of restarting at each."""
    packed = pack(trees, positions, **options)
    moved = packed.positions.clone()
    for row, leaf in enumerate(packed.leaf):
        columns = (leaf >= 0).nonzero()[:, 0]
        moved[:, row, columns] = moved[:, row, columns[0], None] + torch.arange(len(columns))
    return replace(packed, positions=moved)


def mean_of_microbatches(self, model, inputs, return_outputs=False, num_items_in_batch=None):
    """What a model class without `accepts_loss_kwargs` gets from stock code."""
    count = self._count_items(inputs) * self.current_gradient_accumulation_steps
    return STOCK_SFT(self, model, inputs, return_outputs, count)


def turned_features(rows, *args, **options):
    """Each video's features in reverse order."""
    found = samples.compute_features(rows, *args, **options)
    return {key: replace(features, tensor=features.tensor.flip(0)) for key, features in found.items()}


def dead_tokens_counted(accelerator, rows, mask, num_microbatches):
    """Tokens as TRL counts them, before dead rows are masked."""
    live = count_live(accelerator, rows, mask, num_microbatches)
    return replace(live, tokens=sum(len(row.completion) for row in rows))


def as_the_library(positions, is_visual):
    """Text goes on after rows and columns, whatever the time."""
    return torch.zeros_like(positions[0])


STOCK_SFT = SpatialSFTTrainer.compute_loss
SFT_FAULTS = {
    "none": None,
    "wrong mask": (logps, "build_mask", causal_mask),
    "positions not restarted": (logps, "pack", running_positions),
    "normaliser of the microbatch": (SpatialSFTTrainer, "compute_loss", mean_of_microbatches),
    "text after a video by the other rule": (bundle, "_lag", as_the_library),
    "features in another order": (sft_dpo, "compute_features", turned_features),
}
GRPO_FAULTS = {
    "none": None,
    "dead rows in the mean": (LiveCounts, "scale", lambda *args: 1.0),
    "dead tokens in the mean": (grpo, "count_live", dead_tokens_counted),
    "the other KL gradient": "corrected",
}


@pytest.mark.parametrize("fault", SFT_FAULTS)
def test_sft(make_config, tiny_folder, monkeypatch, fault):
    trainer = make_trainer(make_config("sft", *EXACT, *RAGGED, layout(True), "trainer.max_steps=1"))
    if SFT_FAULTS[fault]:
        monkeypatch.setattr(*SFT_FAULTS[fault])
    [update], reference = record(trainer), reference_of(trainer, tiny_folder)
    reference.load(update.weights)
    assert agrees(reference.sft(update.microbatches), reference, update) is (fault == "none")


@pytest.mark.parametrize("fault", GRPO_FAULTS)
def test_grpo(make_config, tiny_folder, monkeypatch, fault):
    run = (SPREAD, *EXACT, *GROUPS, "trainer.beta=0.05", "trainer.max_steps=2", layout(True), "video.on_bad=skip")
    kind = "trainer.loss_type=dapo" if fault == "dead tokens in the mean" else "trainer.loss_type=grpo"
    trainer = end_often(make_trainer(make_config("grpo", *run, kind, "trainer.per_device_train_batch_size=8")))
    bury(trainer, trainer._maker, 3)
    if isinstance(GRPO_FAULTS[fault], tuple):
        monkeypatch.setattr(*GRPO_FAULTS[fault])
    updates, reference = record(trainer), reference_of(trainer, tiny_folder)
    if GRPO_FAULTS[fault] == "corrected":
        for update in updates:
            wanted = not update.settings.use_bias_correction_kl
            update.settings = replace(update.settings, use_bias_correction_kl=wanted)
    found = [agrees(loss, reference, u) for u, loss in zip(updates, grpo_losses(updates, reference), strict=True)]
    assert all(found) if fault == "none" else not any(found)
