"""DPO on video: the right answer against a wrong one of the same question, its video and prompt computed once.

Stock TRL 1.16 takes a row with a video for plain text and trains on placeholders alone. Here both answers are leaves of
one question (`modeling.logps`), with the same features in the policy's pass and in the reference's.

Source: arXiv 2305.18290 eq. 7; the pairs: arXiv 2504.00883 section 5.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import is_peft_model
from torch import Tensor
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from vsgrpo.modeling.vision import MediaFeatures
from vsgrpo.training.base import StageTrainer, TrainerParts
from vsgrpo.training.losses import pair_losses
from vsgrpo.training.samples import Sample, compute_features


class SpatialDPOTrainer(StageTrainer, DPOTrainer):
    """DPO on rows of `rows_to_dataset(..., targets=True, rejected_seed=...)`; `args.loss_type`: see `pair_losses`.

    A batch holds two samples per row, neighbours: the `target` (chosen), then `rejected`.

    Raises:
        ValueError: neither an adapter nor a reference.
    """

    def __init__(self, parts: TrainerParts, args: DPOConfig) -> None:
        model, maker = parts.bundle.model, parts.maker
        if parts.reference is None and not is_peft_model(model):
            raise ValueError("DPO needs a reference: the model has no adapter to switch off")

        def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
            return {"samples": maker.make_answered(rows, ["target", "rejected"])}

        super().__init__(parts, args, ref_model=parts.reference, data_collator=collate)
        if is_peft_model(model) and "ref" in model.peft_config:
            model.delete_adapter("ref")  # TRL's copy of the start; ours is "adapter off", which costs nothing

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        """Leave the rows as they are: the collator tokenises them with their videos."""
        return dataset

    def _count_items(self, inputs: Any) -> int:
        """Count pairs; those whose video turned out bad count nowhere."""
        return sum(sample.media is not None for sample in inputs["samples"][::2])

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None) -> Tensor:
        """Compare the log-ratios of right and wrong answers; return the part of a microbatch in its update's mean."""
        samples: list[Sample] = inputs["samples"]
        with self.accelerator.autocast():
            features = compute_features(samples, self._store, self.timer, grad=self._train_vision)
            policy, entropies = self._answer_logps(model, samples, features, entropy=True)
            with self.timer.phase("reference"), torch.no_grad():
                reference = self._reference_logps(model, samples, features)
        lengths = torch.tensor([len(sample.completion) for sample in samples], device=policy.device).view(-1, 2)
        live = torch.tensor([sample.media is not None for sample in samples[::2]], device=policy.device)
        ratios = (policy - reference).view(-1, 2)  # (pairs, chosen and rejected)
        losses = pair_losses(ratios, lengths, self.beta, self.loss_types[0])
        self._note_pairs(policy.detach().view(-1, 2), ratios.detach(), entropies, lengths, live)
        return self._share_of_update((losses * live).sum(), inputs, num_items_in_batch)

    def _reference_logps(self, model: Any, samples: Sequence[Sample], features: Mapping[str, MediaFeatures]) -> Tensor:
        if self.ref_model is None:
            return self._answer_logps(model, samples, features, adapter=False)[0]
        if self._train_vision:
            features = compute_features(samples, self._reference_store, self.timer)
        return self._answer_logps(self.ref_model, samples, features)[0]

    def _note_pairs(self, policy: Tensor, ratios: Tensor, entropies: Tensor, lengths: Tensor, live: Tensor) -> None:
        """Log under TRL's names, as means over the pairs of all processes."""
        rewards = self.beta * ratios
        values = {
            "rewards/chosen": rewards[:, 0],
            "rewards/rejected": rewards[:, 1],
            "rewards/margins": rewards[:, 0] - rewards[:, 1],
            "rewards/accuracies": (rewards[:, 0] > rewards[:, 1]).float(),
            "logps/chosen": policy[:, 0],
            "logps/rejected": policy[:, 1],
        }
        counts = [entropies.view(-1, 2).sum(1), lengths.sum(1).float(), torch.ones_like(rewards[:, 0])]
        sums: Any = self.accelerator.reduce((torch.stack([*values.values(), *counts]) * live).sum(1), reduction="sum")
        *totals, entropy, num_tokens, pairs = sums.tolist()
        for name, total in zip(values, totals, strict=True):
            self._metrics["train"][name].append(total / max(pairs, 1.0))
        self._note_answers(entropy, num_tokens)
