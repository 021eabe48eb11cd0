"""Supervised fine-tuning on video: mean negative log-likelihood of the answer tokens, features once per video.

Stock code feeds pixels and text through one processor call and the tower once per row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from vsgrpo.training.base import StageTrainer, TrainerParts
from vsgrpo.training.samples import compute_features


class SpatialSFTTrainer(StageTrainer, SFTTrainer):
    """SFT on rows of `rows_to_dataset(..., targets=True)`."""

    def __init__(self, parts: TrainerParts, args: SFTConfig) -> None:
        padding = parts.bundle.tokenizer.pad_token_id

        def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
            samples = parts.maker.make_answered(rows, ["target"])
            ids = [torch.tensor(sample.prompt.token_ids + sample.completion) for sample in samples]
            # The Trainer estimates its total_flos from the ids; the loss is computed from the samples.
            return {"samples": samples, "input_ids": pad_sequence(ids, batch_first=True, padding_value=padding)}

        super().__init__(parts, args, data_collator=collate)

    def _count_items(self, inputs: Any) -> int:
        """Count answer tokens; those of a row whose video turned out bad count nowhere."""
        return sum(len(sample.completion) for sample in inputs["samples"] if sample.media is not None)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None) -> Tensor:
        """Score the answers with their videos; return the part of a microbatch in the mean loss of its update."""
        samples = inputs["samples"]
        with self.accelerator.autocast():
            features = compute_features(samples, self._store, self.timer, grad=self._train_vision)
            scores, entropies = self._answer_logps(model, samples, features, entropy=True)
        live = torch.tensor([float(sample.media is not None) for sample in samples], device=scores.device)
        loss = self._share_of_update(-(scores * live).sum(), inputs, num_items_in_batch)
        counts = torch.stack([(entropies * live).sum(), live.new_tensor(float(self._count_items(inputs)))])
        sums: Any = self.accelerator.reduce(counts, reduction="sum")
        self._note_answers(*sums.tolist())
        return loss
