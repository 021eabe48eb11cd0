"""SFT and DPO on video: the answers are given, and are scored with the video of their question.

Stock code feeds pixels and text through one processor call and the tower once per row; stock TRL 1.16 takes a DPO row
with a video for plain text and trains on placeholders alone. Here features are computed once per video, and all answers
to one question are leaves of one tree (`modeling.logps`).

Source of DPO: arXiv 2305.18290 eq. 7; the pairs: arXiv 2504.00883 section 5.1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import is_peft_model
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Sampler
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.sft_trainer import SFTTrainer

from vsgrpo.modeling.bundle import MediaFeatures, vision_tower
from vsgrpo.modeling.logps import logps
from vsgrpo.modeling.vision import is_tower_trained
from vsgrpo.training.base import RunParts, StageTrainer
from vsgrpo.training.distributed import keep_whole, unshard_root
from vsgrpo.training.progress import Stage
from vsgrpo.training.samples import Sample, compute_features


@dataclass(eq=False)
class DealtBatches(Sampler[list[int]]):
    """Microbatches of one process: of every `batch_size` x `num_processes` rows in order, its part.

    Each row of the order is in one microbatch of one process. The last microbatch of an epoch may be short, or empty on
    some processes; it exists on all of them.

    Deviation: accelerate's BatchSamplerShard fills the last microbatch up with rows from the beginning of the epoch,
    which then count twice on several processes and once on one.

    Attributes:
        rows: row numbers in the order of the epoch.
        batch_size: rows of a microbatch of one process.
        process: number of this process.
    """

    rows: Sampler[int]
    batch_size: int
    num_processes: int
    process: int

    def __iter__(self) -> Iterator[list[int]]:
        order, start = list(self.rows), self.process * self.batch_size
        for first in range(start, start + len(self) * self.batch_size * self.num_processes, self._stride):
            yield order[first : first + self.batch_size]

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self._stride)  # type: ignore[arg-type]

    @property
    def _stride(self) -> int:
        return self.batch_size * self.num_processes


class AnswerTrainer(StageTrainer):
    """Base of SFT and DPO; a batch holds `{"samples": [...]}` whose completions are the given answers."""

    _columns: tuple[str, ...]
    """Columns of the table whose answers are scored."""

    def __init__(self, run: RunParts, stage: Stage, args: Any, **given: Any) -> None:
        self._sums: dict[str, tuple[float, float]] = {}
        super().__init__(run, stage, args, **given)
        if run.folder.repeats_rows and args.world_size > 1:
            self.num_repeated = -len(self.train_dataset) % (args.per_device_train_batch_size * args.world_size)

    def get_train_dataloader(self) -> DataLoader:
        """Deal the rows of each microbatch over the processes, none of them twice; see `DealtBatches`."""
        if self.num_repeated:
            return super().get_train_dataloader()
        args, rows = self.args, self._get_train_sampler()
        batches = DealtBatches(rows, args.per_device_train_batch_size, args.world_size, args.process_index)
        return DataLoader(self.train_dataset, batch_sampler=batches, collate_fn=self.data_collator)

    def _make_samples(self, rows: Sequence[Mapping[str, Any]]) -> list[Sample]:
        """Return the samples of a microbatch; one without rows takes part in all calls with a filler."""
        if rows:
            return self._maker.make_answered(rows, self._columns)
        return self._maker.make_filler(self.train_dataset[0], self._columns)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """Measure the epoch in rows: stock code measures it in microbatches, the last of which may be short."""
        num_rows, step = len(self.train_dataset), self.state.global_step
        per_step = self.get_total_train_batch_size(self.args)
        epochs, steps = divmod(step, math.ceil(num_rows / per_step))
        self.state.epoch = epochs + steps * per_step / num_rows
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add means over all pairs or tokens since the last log, however they were dealt out."""
        for name, (total, count) in self._sums.items():
            self._metrics["train"][name] = [total / max(count, 1.0)]
        self._sums.clear()
        super().log(logs, start_time)

    def training_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Hold a frozen tower whole: it is called wherever a feature is missing (GRPO calls it during a rollout)."""
        if not is_tower_trained(self.bundle.model):
            keep_whole(vision_tower(self.bundle.model))
            unshard_root(self.model_wrapped)
        return super().training_step(model, inputs, *args, **kwargs)

    def _answer_logps(
        self, model: Any, samples: Sequence[Sample], features: Mapping[str, MediaFeatures], **options: Any
    ) -> tuple[Tensor, Tensor]:
        """Return each answer's log-prob (samples,) and the sum of its tokens' entropies (samples,), 0 if not asked."""
        rows = logps(model, self._trees(samples), features, **options, **self._scoring)
        scores = torch.stack([row[0].sum() for row in rows])
        zero = scores.new_zeros(())
        return scores, torch.stack([zero if row[1] is None else row[1].sum() for row in rows])

    def _share_of_update(self, total: Tensor, inputs: Any, num_items: Any) -> Tensor:
        """Return the part of a microbatch in the mean loss of its update, over all microbatches of all processes.

        So the items of a smaller microbatch weigh like the others. The engine averages gradients over processes.

        Args:
            total: sum of the losses of the microbatch's items.
            inputs: the microbatch.
            num_items: of the update; None where the microbatch is an update of its own.
        """
        if num_items is None:
            num_items = self._get_num_items_in_batch([inputs], total.device)
        return total * self.accelerator.num_processes / max(num_items, 1)

    def _note_answers(self, entropy: float, num_tokens: float) -> None:
        """Log the mean entropy of answer tokens, and their number so far; both are sums over all processes."""
        self.state.num_input_tokens_seen += int(num_tokens)  # which a checkpoint keeps
        self._add({"entropy": entropy}, num_tokens)
        self._metrics["train"]["num_answer_tokens"] = [self.state.num_input_tokens_seen]

    def _add(self, totals: Mapping[str, float], count: float) -> None:
        """Add sums over `count` items of all processes to what is logged next."""
        for name, total in totals.items():
            before = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = (before[0] + total, before[1] + count)

    def _count_items(self, inputs: Any) -> int:
        """Return what a microbatch adds to the denominator of its update's loss; dead rows add nothing."""
        raise NotImplementedError

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Any:
        """Count the items of one update, in all its microbatches of all processes."""
        count = sum(self._count_items(batch) for batch in batch_samples)
        if self.accelerator.num_processes > 1:
            total: Any = self.accelerator.reduce(torch.tensor(count, device=device), reduction="sum")
            count = int(total)
        self._num_items = count
        return count


class SpatialSFTTrainer(AnswerTrainer, SFTTrainer):
    """SFT on rows of `rows_to_dataset(..., targets=True)`."""

    _columns = ("target",)

    def __init__(self, *args: Any, **given: Any) -> None:
        super().__init__(*args, data_collator=self._collate, **given)

    def _collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        samples = self._make_samples(rows)
        ids = [torch.tensor(sample.prompt.token_ids + sample.completion) for sample in samples]
        # The Trainer estimates its total_flos from the ids; the loss is computed from the samples.
        padding = self.bundle.tokenizer.pad_token_id
        return {"samples": samples, "input_ids": pad_sequence(ids, batch_first=True, padding_value=padding)}

    def _count_items(self, inputs: Any) -> int:
        """Count answer tokens; those of a row whose video turned out bad count nowhere."""
        return sum(len(sample.completion) for sample in inputs["samples"] if sample.media is not None)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None) -> Tensor:
        """Score the answers with their videos; return the part of a microbatch in the mean loss of its update."""
        samples = inputs["samples"]
        idle = self._idle_tower(samples)
        with self.accelerator.autocast():
            features = compute_features(samples, self._store, self.timer, grad=self._train_vision)
            scores, entropies = self._answer_logps(model, samples, features, entropy=True)
        live = torch.tensor([float(sample.media is not None) for sample in samples], device=scores.device)
        loss = self._share_of_update(-(scores * live).sum(), inputs, num_items_in_batch)
        counts = torch.stack([(entropies * live).sum(), live.new_tensor(float(self._count_items(inputs)))])
        sums: Any = self.accelerator.reduce(counts, reduction="sum")
        self._note_answers(*sums.tolist())
        self._look_at(loss, inputs)
        return loss + idle


class SpatialDPOTrainer(AnswerTrainer, DPOTrainer):
    """DPO on rows of `rows_to_dataset(..., targets=True, rejected_seed=...)`; `args.loss_type`: see `pair_losses`.

    A batch holds two samples per row, neighbours: the `target` (chosen), then `rejected`.

    Raises:
        ValueError: neither an adapter nor a reference.
    """

    _columns = ("target", "rejected")

    def __init__(self, run: RunParts, *args: Any, reference: nn.Module | None, **given: Any) -> None:
        model = run.bundle.model
        if reference is None and not is_peft_model(model):
            raise ValueError("DPO needs a reference: the model has no adapter to switch off")
        given |= {"ref_model": reference, "data_collator": self._collate}
        super().__init__(run, *args, reference=reference, **given)
        if is_peft_model(model) and "ref" in model.peft_config:
            model.delete_adapter("ref")  # TRL's copy of the start; ours is "adapter off", which costs nothing

    def _collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {"samples": self._make_samples(rows)}

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        """Leave the rows as they are: the collator tokenises them with their videos."""
        return dataset

    def _count_items(self, inputs: Any) -> int:
        """Count pairs; those whose video turned out bad count nowhere."""
        return sum(sample.media is not None for sample in inputs["samples"][::2])

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None) -> Tensor:
        """Compare the log-ratios of right and wrong answers; return the part of a microbatch in its update's mean."""
        samples: list[Sample] = inputs["samples"]
        idle = self._idle_tower(samples)
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
        loss = self._share_of_update((losses * live).sum(), inputs, num_items_in_batch)
        self._look_at(loss, inputs)
        return loss + idle

    def _reference_logps(self, model: Any, samples: Sequence[Sample], features: Mapping[str, MediaFeatures]) -> Tensor:
        if self.ref_model is None:
            return self._answer_logps(model, samples, features, adapter=False)[0]
        if self._train_vision:
            # The reference's tower is frozen, and is called once for each video: its calls must not be collective.
            keep_whole(vision_tower(self._reference_store.bundle.model))
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
        self._add(dict(zip(values, totals, strict=True)), pairs)
        self._note_answers(entropy, num_tokens)


def pair_losses(ratios: Tensor, lengths: Tensor, beta: float, loss_type: str) -> Tensor:
    """Return the loss of each pair.

    Args:
        ratios: (pairs, 2) log-prob under the policy minus under the reference, chosen and rejected.
        lengths: (pairs, 2) tokens of the answers.
        beta: strength of the reference.
        loss_type: sigmoid (arXiv 2305.18290 eq. 7), hinge (arXiv 2305.10425), ipo (arXiv 2310.12036 eq. 17, on means
            over the tokens, as TRL does).
    """
    if loss_type == "sigmoid":
        return -logsigmoid(beta * (ratios[:, 0] - ratios[:, 1]))
    if loss_type == "hinge":
        return (1 - beta * (ratios[:, 0] - ratios[:, 1])).relu()
    if loss_type == "ipo":
        means = ratios / lengths
        return (means[:, 0] - means[:, 1] - 1 / (2 * beta)) ** 2
    raise ValueError(f"loss_type={loss_type}: one of sigmoid, hinge, ipo")
