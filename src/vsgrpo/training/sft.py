"""Supervised fine-tuning on video: loss on the answer tokens, features once per video of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from vsgrpo.modeling.bundle import ModelBundle
from vsgrpo.modeling.logps import logps
from vsgrpo.training.base import StageTrainer, TrainerParts
from vsgrpo.training.samples import SampleMaker, compute_features

END_OF_TURN = "<|im_end|>"
IGNORED = -100


class AnswerCollator:
    """Table rows -> samples whose completion is the answer and `<|im_end|>`, and the labels that count its tokens.

    A row whose video turned out bad has no labels: its tokens count nowhere.
    """

    def __init__(self, bundle: ModelBundle, maker: SampleMaker) -> None:
        self._tokenizer = bundle.tokenizer
        self._maker = maker
        self._end = bundle.tokenizer.convert_tokens_to_ids(END_OF_TURN)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return `samples`, and (rows, tokens) tensors `input_ids`, `labels`, `shift_labels` padded right."""
        samples = self._maker.make(rows, [0] * len(rows))
        answers = self._tokenizer([row["target"] for row in rows], add_special_tokens=False)["input_ids"]
        for sample, answer in zip(samples, answers, strict=True):
            sample.completion = (*answer, self._end)
        width = max(len(s.prompt.token_ids) + len(s.completion) for s in samples)
        input_ids = torch.full((len(samples), width), self._tokenizer.pad_token_id)
        labels = torch.full((len(samples), width), IGNORED)
        for i, sample in enumerate(samples):
            start, stop = len(sample.prompt.token_ids), len(sample.prompt.token_ids) + len(sample.completion)
            input_ids[i, :stop] = torch.tensor(sample.prompt.token_ids + sample.completion)
            if sample.media is not None:
                labels[i, start:stop] = torch.tensor(sample.completion)
        shift_labels = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
        return {"input_ids": input_ids, "labels": labels, "shift_labels": shift_labels, "samples": samples}


class SpatialSFTTrainer(StageTrainer, SFTTrainer):
    """SFT on rows of `rows_to_dataset(..., targets=True)`."""

    def __init__(self, parts: TrainerParts, args: SFTConfig) -> None:
        super().__init__(parts, args, data_collator=AnswerCollator(parts.bundle, parts.maker))

    def _count_items(self, inputs: Any) -> int:
        """Count answer tokens."""
        return int((inputs["shift_labels"] != IGNORED).sum())

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None) -> Tensor:
        """Score the answers with their videos: mean negative log-likelihood of the answer tokens of one update.

        The mean is over the tokens of all microbatches of all processes; without `num_items_in_batch` the inputs are an
        update of their own. Stock code feeds pixels and text through one processor call and the tower once per row.

        Raises:
            ValueError: `return_outputs`; there are no logits to return.
        """
        if return_outputs:
            raise ValueError("SpatialSFTTrainer scores answer tokens only, it has no logits to return")
        samples = inputs["samples"]
        with self.accelerator.autocast():
            features = compute_features(samples, self._store, self.timer, grad=self._train_vision)
            trees = self._trees(samples)
            rows = logps(model, trees, features, entropy=True, layout=self._layout, attention=self._attention)
        seen = [float(sample.media is not None) for sample in samples]
        total = torch.stack([row[0].sum() * weight for row, weight in zip(rows, seen, strict=True)]).sum()
        entropy = sum(
            float(row[1].sum()) * weight for row, weight in zip(rows, seen, strict=True) if row[1] is not None
        )
        if num_items_in_batch is None:
            num_items_in_batch = self._get_num_items_in_batch([inputs], total.device)
        # The engine averages gradients over processes.
        loss = -total * self.accelerator.num_processes / max(num_items_in_batch, 1)
        count = self._count_items(inputs)
        totals: Any = self.accelerator.reduce(torch.tensor([entropy, count], device=total.device), reduction="sum")
        total_entropy, num_tokens = totals.tolist()
        metrics = self._metrics["train"]
        metrics["entropy"].append(total_entropy / max(num_tokens, 1.0))
        self._total_train_tokens += int(num_tokens)
        metrics["num_answer_tokens"] = [self._total_train_tokens]
        return loss
