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

from vsgrpo.modeling.bundle import ModelBundle
from vsgrpo.modeling.logps import logps
from vsgrpo.modeling.vision import MediaFeatures
from vsgrpo.training.base import StageTrainer, TrainerParts
from vsgrpo.training.losses import pair_losses
from vsgrpo.training.samples import Sample, SampleMaker, compute_features
from vsgrpo.training.sft import END_OF_TURN


class PairCollator:
    """Table rows -> two samples per row, neighbours: the `target` (chosen), then `rejected`, each with `<|im_end|>`."""

    def __init__(self, bundle: ModelBundle, maker: SampleMaker) -> None:
        self._tokenizer = bundle.tokenizer
        self._maker = maker
        self._end = bundle.tokenizer.convert_tokens_to_ids(END_OF_TURN)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return `samples` (2 x rows, a list) and `num_tokens` (2 x rows,), the tokens of each answer."""
        samples = self._maker.make([row for row in rows for _ in range(2)], [0, 1] * len(rows))
        texts = [text for row in rows for text in (row["target"], row["rejected"])]
        answers = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        for sample, answer in zip(samples, answers, strict=True):
            sample.completion = (*answer, self._end)
        return {"samples": samples, "num_tokens": torch.tensor([len(sample.completion) for sample in samples])}


class SpatialDPOTrainer(StageTrainer, DPOTrainer):
    """DPO on rows of `rows_to_dataset(..., targets=True, rejected_seed=...)`; `args.loss_type`: see `pair_losses`.

    Raises:
        ValueError: neither an adapter nor a reference.
    """

    def __init__(self, parts: TrainerParts, args: DPOConfig) -> None:
        if parts.reference is None and not is_peft_model(parts.bundle.model):
            raise ValueError("DPO needs a reference: the model has no adapter to switch off")
        collator = PairCollator(parts.bundle, parts.maker)
        super().__init__(parts, args, ref_model=parts.reference, data_collator=collator)
        if is_peft_model(parts.bundle.model) and "ref" in parts.bundle.model.peft_config:
            parts.bundle.model.delete_adapter(
                "ref"
            )  # TRL's copy of the start; ours is "adapter off", which costs nothing

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        """Leave the rows as they are: the collator tokenises them with their videos."""
        return dataset

    def _count_items(self, inputs: Any) -> int:
        """Count pairs."""
        return sum(sample.media is not None for sample in inputs["samples"][::2])

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None) -> Tensor:
        """Return the part of a microbatch in the mean loss of one update.

        The mean is over the pairs of all microbatches of all processes, so that pairs of a smaller microbatch weigh
        like the others; pairs whose video turned out bad count nowhere. Without `num_items_in_batch` the inputs are an
        update of their own.

        Raises:
            ValueError: `return_outputs`; there are no logits to return.
        """
        if return_outputs:
            raise ValueError("SpatialDPOTrainer scores answer tokens only, it has no logits to return")
        samples: list[Sample] = inputs["samples"]
        with self.accelerator.autocast():
            features = compute_features(samples, self._store, self.timer, grad=self._train_vision)
            policy, entropy = self._answer_logps(model, samples, features, entropy=True)
            with self.timer.phase("reference"), torch.no_grad():
                reference = self._reference_logps(model, samples, features)
        lengths = inputs["num_tokens"].to(policy.device).view(-1, 2)
        seen = torch.tensor([sample.media is not None for sample in samples[::2]], device=policy.device)
        ratios = (policy - reference).view(-1, 2)  # (pairs, chosen and rejected)
        losses = pair_losses(ratios, lengths, self.beta, self.loss_types[0])
        self._note(policy.detach().view(-1, 2), ratios.detach(), entropy, lengths, seen)
        if num_items_in_batch is None:
            num_items_in_batch = self._get_num_items_in_batch([inputs], losses.device)
        # The engine averages gradients over processes.
        return (losses * seen).sum() * self.accelerator.num_processes / max(num_items_in_batch, 1)

    def _answer_logps(
        self,
        model: Any,
        samples: Sequence[Sample],
        features: Mapping[str, MediaFeatures],
        *,
        entropy: bool = False,
        adapter: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Return each answer's log-prob (samples,) and the sum of its tokens' entropies (samples,), 0 if not asked."""
        trees = self._trees(samples)
        rows = logps(
            model, trees, features, entropy=entropy, adapter=adapter, layout=self._layout, attention=self._attention
        )
        scores = torch.stack([row[0].sum() for row in rows])
        zero = scores.new_zeros(())
        return scores, torch.stack([zero if row[1] is None else row[1].sum() for row in rows])

    def _reference_logps(self, model: Any, samples: Sequence[Sample], features: Mapping[str, MediaFeatures]) -> Tensor:
        if self.ref_model is None:
            return self._answer_logps(model, samples, features, adapter=False)[0]
        if self._train_vision:
            features = compute_features(samples, self._reference_store, self.timer)
        return self._answer_logps(self.ref_model, samples, features)[0]

    def _note(self, policy: Tensor, ratios: Tensor, entropy: Tensor, lengths: Tensor, seen: Tensor) -> None:
        """Log under TRL's names, as means over the pairs of all processes."""
        rewards = self.beta * ratios
        values = torch.stack(
            [
                *rewards.unbind(1),
                rewards[:, 0] - rewards[:, 1],
                (rewards[:, 0] > rewards[:, 1]).float(),
                *policy.unbind(1),
                entropy.detach().view(-1, 2).sum(1),
                lengths.sum(1).float(),
                torch.ones_like(rewards[:, 0]),
            ]
        )
        sums: Any = self.accelerator.reduce((values * seen).sum(1), reduction="sum")
        *totals, entropies, tokens, pairs = sums.tolist()
        metrics = self._metrics["train"]
        names = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
        for name, total in zip((*names, "logps/chosen", "logps/rejected"), totals, strict=True):
            metrics[name].append(total / max(pairs, 1.0))
        metrics["entropy"].append(entropies / max(tokens, 1.0))
        self._total_train_tokens += int(tokens)
        metrics["num_answer_tokens"] = [self._total_train_tokens]
