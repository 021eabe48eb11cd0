"""Rewards and advantages of groups: what SpatialGRPOTrainer changes in TRL's trainer between rollout and loss."""

from __future__ import annotations

from itertools import compress
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from trl.trainer.grpo_trainer import GRPOTrainer

from vsgrpo.config.train import TrainConfig
from vsgrpo.config.trainer import GrpoSection
from vsgrpo.reward_loading import load_reward
from vsgrpo.reward_metrics import reward_metrics
from vsgrpo.rewards import Completions, RewardFunction
from vsgrpo.trackers import Table
from vsgrpo.training.advantages import TypeSpread
from vsgrpo.training.base import RunParts, StageTrainer
from vsgrpo.training.group_filter import GroupFilter, gathered_rewards
from vsgrpo.training.progress import Stage, append_records
from vsgrpo.training.row_columns import with_columns
from vsgrpo.training.samples import Sample, completion_record
from vsgrpo.training.stage_checks import buffer_steps
from vsgrpo.training.temporal import ShuffledArm
from vsgrpo.training.trackers import Tracker, completion_table

METRIC_COLUMNS = ("question_type", "answer_kind", "prompt_mode", "question", "video")


class GroupTrainer(StageTrainer, GRPOTrainer):
    """TRL's GRPO trainer whose reward functions get the columns of the table, and whose dead rows earn nothing."""

    num_generations: int

    def __init__(self, run: RunParts, stage: Stage, args: Any, **given: Any) -> None:
        section = run.config.trainer.stage(stage.number)
        assert isinstance(section, GrpoSection)
        self._samples: list[Sample] = []
        self._spread = TypeSpread(section.ema_decay) if section.scale_rewards == "ema" else None
        self._scaled: list[float] = []
        self._table_steps, self._buffer_steps = section.table_steps, buffer_steps(section)
        self._filter = None
        if (bounds := section.group_filter) is not None:
            self._filter = GroupFilter(bounds["min"], bounds["max"], section.group_filter_rounds)
        self._arm = None
        if section.temporal_generations:
            self._arm = ShuffledArm(section.temporal_generations, section.temporal_ratio)
        super().__init__(run, stage, args, reward_funcs=_rewards(run.config, section), **given)
        self._reward_section, self._reward_names = run.config.reward, run.config.reward_names()
        self._first_weights = self.reward_weights.tolist()

    def follow_schedule(self) -> None:
        """Set the weights of the rewards of this step, and log them (`reward.schedule`)."""
        if self._reward_section.schedule is None:
            return
        names, count = self._reward_names, len(self._reward_names)
        own = self._reward_section.scheduled(names, self._first_weights[:count], self.run_step)
        self.reward_weights = torch.tensor([*own, *self._first_weights[count:]])
        for name, weight in zip(names, own, strict=True):
            if name in self._reward_section.schedule:
                self._metrics["train"][f"reward_weight/{name}"].append(weight)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Take our own advantages where TRL has no such scale."""
        output = super()._generate_and_score_completions(inputs)
        if self._spread is not None:
            first = self.accelerator.process_index * len(inputs)
            scaled = torch.tensor(self._scaled[first : first + len(inputs)])
            output["advantages"] = scaled.to(output["advantages"])
        return output

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list) -> Tensor:
        """Leave completions without video unscored; log reward per question type and parse failures."""
        completions = [self.bundle.opening + text for text in completions]
        if self._filter is not None:
            rewards_per_func = gathered_rewards(self, self._samples)
        else:
            rows = with_columns(inputs)
            rewards_per_func = super()._calculate_rewards(rows, prompts, completions, completion_ids_list)
        seen = gather_object([sample.media is not None for sample in self._samples])
        rewards_per_func = self.bad_steps.bad_rewards(rewards_per_func, seen, self._samples)
        rewards_per_func[[not good for good in seen]] = torch.nan
        if self._arm is not None:
            bonus = self._arm.bonus(self, inputs, self._samples, rewards_per_func)
            rewards_per_func[:, -1] = torch.where(rewards_per_func[:, 0].isnan(), torch.nan, bonus)
        totals = (rewards_per_func * self.reward_weights.to(rewards_per_func.device)).nansum(dim=1).tolist()
        first = self.accelerator.process_index * len(inputs)
        for sample, reward in zip(self._samples, totals[first:], strict=False):
            sample.reward = reward if sample.media is not None else None
        columns = {name: gather_object([row[name] for row in inputs]) for name in METRIC_COLUMNS}
        ends = set(self.eos_token_ids)
        columns |= {"completions": gather_object(completions), "rewards": totals}
        columns["truncated"] = gather_object([not ids or ids[-1] not in ends for ids in completion_ids_list])
        metrics = reward_metrics(**{name: list(compress(values, seen)) for name, values in columns.items()})
        metrics["skipped_completions"] = float(len(seen) - sum(seen))
        if self._spread is not None:
            self._scaled = self._spread.advantages(totals, columns["question_type"], seen, self.num_generations)
            metrics |= self._spread.metrics()
        for name, value in metrics.items():
            self._metrics["train"][name].append(value)
        return rewards_per_func

    def row_keys(self) -> list[str]:
        """Return the row keys of the table."""
        return list(self.train_dataset["row_key"])

    def score(self, rows: list[dict[str, Any]], samples: list[Sample]) -> Tensor:
        """Return the rewards (rows of all processes, functions) of drawn samples; all processes give equally many."""
        prompts, ids = [row["prompt"] for row in rows], [list(sample.completion) for sample in samples]
        return super()._calculate_rewards(with_columns(rows), prompts, self.bundle.answers(ids), ids)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Write what advantages are divided by beside the weights."""
        super()._save(output_dir, state_dict)
        if self._spread is not None and self.args.should_save and output_dir is not None:
            self._spread.save(Path(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Go on with the moving spread too: DeepSpeed loads weights by itself, every engine's resume comes by here."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if self._spread is not None and checkpoint is not None:
            self._spread.load(Path(checkpoint))

    def _write_completions(self, rows: list[dict[str, Any]], samples: list[Sample], advantages: Tensor) -> None:
        """Append the buffer to completions.jsonl (all of it, or the first trainer.hf.num_completions_to_print)."""
        limit = self.args.num_completions_to_print
        count = len(samples) if limit is None else min(limit, len(samples))
        texts = self.bundle.answers([sample.completion for sample in samples[:count]])
        records = [
            completion_record(self.run_step, row, sample, text, advantage)
            for row, sample, text, advantage in zip(rows, samples, texts, advantages.tolist(), strict=False)
        ]
        records = gather_object(records)
        if self.is_world_process_zero():
            append_records(self.stage.folder.path / "completions.jsonl", records)
            self._send_table(rows, samples, advantages)

    def _send_table(self, rows: list[dict[str, Any]], samples: list[Sample], advantages: Tensor) -> None:
        """Send this process's completions to the trackers: the first buffer of each trainer.table_steps steps."""
        trackers = [callback for callback in self.callback_handler.callbacks if isinstance(callback, Tracker)]
        step, every = self.run_step, self._table_steps
        if not trackers or not every or self.state.global_step % every >= self._buffer_steps:
            return

        def make() -> Table:
            texts = self.bundle.answers([sample.completion for sample in samples])
            return completion_table(step, rows, samples, texts, advantages.tolist())

        for tracker in trackers:
            tracker.send(make, step)


def _rewards(config: TrainConfig, section: GrpoSection) -> list[RewardFunction]:
    reward = config.reward
    bound = {"numeric": reward.numeric, "allow_empty": reward.allow_empty, "length_words": reward.length_words}
    bound |= {"overlong_tokens": reward.overlong_tokens, "max_completion_length": section.max_completion_length}
    bound |= {"token_range": reward.token_range}
    own = [load_reward(name, show_options=config.prompt.show_options, **bound) for name in config.reward_names()]
    return [*own, temporal] if section.temporal_generations else own


def temporal(completions: Completions, **columns: Any) -> list[None]:
    """Leave the bonus of T-GRPO open: it depends on the other rewards, and the trainer fills it in."""
    return [None] * len(completions)
