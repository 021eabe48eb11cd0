"""GPD: a teacher that also reads the boxes of the scene helps with completions that earn little.

The teacher is the same model as it is when the rollout is scored. Its prompt begins with a text of the boxes
(`data.scene_files.boxes_text`); it scores the tokens of the completion that the student drew without them. Where a
completion earns less than `trainer.gpd_below`, the loss gets

    trainer.gpd_weight * mean over completions of min(trainer.gpd_clip, mean over tokens of exp(r) - r - 1)

with r = log-prob of the teacher - log-prob of the student; the gradient goes through the student alone. The mean is
over all live completions of an update, those that are not taught count as 0.

The text is read here and in `training.rows` alone. No rollout gets it (`SpatialGRPOTrainer.draw` asserts it), no
evaluation makes it, and no model records it.

Source: GPD (ZJU-REAL/GPD, 2026). Deviations: the teacher reads boxes and not the answer; the bound holds for each
completion instead of a batch, so that the loss does not depend on how an update is cut into microbatches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from vsgrpo.modeling.logps import logps
from vsgrpo.training.losses import MAX_LOG_RATIO
from vsgrpo.training.row_columns import PRIVILEGED
from vsgrpo.training.samples import Sample, TeacherSample, compute_features, sample_trees


def distance(teacher: Tensor, student: Tensor) -> Tensor:
    """Return the mean over a completion's tokens of exp(r) - r - 1, r = teacher - student, at most MAX_LOG_RATIO."""
    ratio = (teacher - student).clamp(max=MAX_LOG_RATIO)
    return (ratio.exp() - ratio - 1).mean()


class PrivilegedTeacher:
    """Scores completions with the boxes of their scenes in sight, and makes the loss of it.

    Args:
        weight, below, clip: `trainer.gpd_weight`, `trainer.gpd_below`, `trainer.gpd_clip`.
    """

    def __init__(self, weight: float, below: float, clip: float) -> None:
        self._weight, self._below, self._clip = weight, below, clip

    @torch.no_grad()
    def teach(self, trainer: Any, rows: Sequence[Mapping[str, Any]], samples: Sequence[Sample], mask: Tensor) -> None:
        """Fill in `taught` of the samples of a rollout buffer that earn too little.

        All processes call it and score equally many: a forward of sharded weights is a collective call.

        Args:
            rows, samples: of this process, with rewards.
            mask: (samples, tokens) tokens that the loss reads.
        """
        pupils = [
            (sample, self._teacher_of(trainer, row, sample))
            for row, sample, counted in zip(rows, samples, mask.any(1).tolist(), strict=True)
            if counted and row[PRIVILEGED] is not None and sample.reward is not None and sample.reward < self._below
        ]
        total = gather_object([len(pupils)])
        trainer._metrics["train"]["gpd/taught"].append(sum(total) / (len(samples) * trainer.accelerator.num_processes))
        scored = [teacher for _, teacher in pupils]
        scored += [samples[0]] * (max(total) - len(scored))  # their results are left out
        found: list[Tensor] = []
        with trainer.timer.phase("reference"), trainer.accelerator.autocast():
            for start in range(0, len(scored), trainer.passes.scored):
                part = scored[start : start + trainer.passes.scored]
                trees = sample_trees(part, trainer._layout)
                features = compute_features(part, trainer._store, trainer.timer)
                passed = logps(trainer.model, trees, features, temperature=trainer.temperature, **trainer._scoring)
                found += [row[0] for row in passed]
        for (sample, teacher), scores in zip(pupils, found, strict=False):
            sample.teacher, sample.taught = teacher.prompt, scores

    @staticmethod
    def _teacher_of(trainer: Any, row: Mapping[str, Any], sample: Sample) -> TeacherSample:
        text = f"{row[PRIVILEGED]}\n{row['prompt']}"
        prompt = trainer._maker.prompt(text, row["system"], sample.media or ())
        return TeacherSample(sample.row_key, sample.index, prompt, sample.media, sample.features, sample.completion)

    def loss(self, trainer: Any, samples: Sequence[Sample], scores: Tensor) -> Tensor:
        """Return the sum of a microbatch over its number of rows, for the mean that the loss of GRPO is.

        Args:
            samples: of the microbatch.
            scores: (samples, tokens) log-probs of the student, with gradient.
        """
        pairs = zip(samples, scores, strict=True)
        found = [distance(s.taught, row[: len(s.completion)]) for s, row in pairs if s.taught is not None]
        own = torch.stack([*(each.detach() for each in found), scores.new_zeros(())]).sum()
        total, count = trainer.accelerator.reduce(
            torch.stack([own, own.new_tensor(float(len(found)))]), reduction="sum"
        ).tolist()
        if count:
            trainer._metrics["train"]["gpd/kl"].append(total / count)
        if not found:
            return scores.sum() * 0.0
        return self._weight * torch.stack(found).clamp(max=self._clip).sum() / len(samples)
