"""From our typed configuration to TRL's: `trainer.*` under TRL's own names, and what a run of ours always sets."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.sft_config import SFTConfig

from vsgrpo.config import TrainConfig
from vsgrpo.config.trl_options import NO_TRL_FIELD, OURS_BUT_NOT_PASSED
from vsgrpo.errors import ConfigError


def trl_config(config: TrainConfig, number: int = 0) -> GRPOConfig | SFTConfig | DPOConfig:
    """Return TRL's configuration of stage `number`.

    Gradient checkpointing is not passed on: `modeling.use_gradient_checkpointing` switches it on for the language model
    alone. Checkpoints are counted and dropped by `RunFolder`, over all stages.

    Raises:
        ConfigError: TRL refuses a combination of values, or checkpoints would fall inside a rollout buffer.
    """
    section = config.trainer.stage(number)
    names = {field.name for field in dataclasses.fields(section)} - {*NO_TRL_FIELD, *OURS_BUT_NOT_PASSED}
    values = {name: getattr(section, name) for name in names} | section.hf | _fixed(config)
    values["bf16"] = config.autocasts(section)
    if section.name == "grpo":
        values |= {"disable_dropout": False, "reward_weights": config.reward.weights}
    if section.name == "sft":
        values |= {"dataset_kwargs": {"skip_prepare_dataset": True}, "max_length": None, "packing": False}
    if section.name == "dpo":
        # Deviation: TRL switches dropout off in DPO, model.lora.dropout would have no effect; it is 0 unless set.
        values |= {"disable_dropout": False, "max_length": None, "loss_type": [values["loss_type"]]}
    kind = {"grpo": GRPOConfig, "sft": SFTConfig, "dpo": DPOConfig}[section.name]
    try:
        args = kind(**values)
    except ValueError as error:
        message = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"trainer: {message}", hint="see the names and rules of TRL 1.16's " + kind.__name__
        ) from error
    if isinstance(args, GRPOConfig):
        _check_saves(args)
    return args


def _fixed(config: TrainConfig) -> dict[str, Any]:
    """Return what every run sets (`config.trl_options.FIXED`), whatever its method."""
    on_cpu = config.launch.on_cpu
    return {
        "output_dir": config.run.dir,
        "run_name": config.run.name or Path(config.run.dir).name,
        "seed": config.run.seed,
        "use_cpu": on_cpu,
        "dataloader_pin_memory": not on_cpu,
        "remove_unused_columns": False,
        "gradient_checkpointing": False,
        # Every parameter that is trained takes part in every forward; searching for unused ones costs a graph walk.
        "ddp_find_unused_parameters": False,
        "ddp_timeout": round(config.launch.timeout_s),
        "save_strategy": "steps",
        "save_total_limit": None,
        "logging_strategy": "steps",
        "report_to": "none",  # see trackers.py
        "logging_nan_inf_filter": False,
        "average_tokens_across_devices": True,
        "disable_tqdm": True,
    }


def buffer_steps(args: TrainingArguments) -> int:
    """Return after how many optimizer steps a rollout buffer and an update end together (1 for SFT and DPO).

    A buffer serves steps_per_generation * num_iterations microbatches, an update takes gradient_accumulation_steps of
    them; the two meet after buffer / gcd(buffer, accumulation) updates.
    """
    if not isinstance(args, GRPOConfig):
        return 1
    assert args.steps_per_generation is not None  # set by GRPOConfig
    buffer = args.steps_per_generation * args.num_iterations
    return buffer // math.gcd(buffer, args.gradient_accumulation_steps)


def _check_saves(args: GRPOConfig) -> None:
    """Refuse checkpoints inside a rollout buffer: buffered rollouts are not saved, so a resume would not be exact."""
    every, save = buffer_steps(args), int(args.save_steps)
    if save % every:
        raise ConfigError(
            f"trainer.save_steps={save}: a rollout buffer lasts {every} optimizer steps, a checkpoint inside it cannot "
            "be resumed exactly",
            hint=f"set trainer.save_steps={nearest_multiples(save, every)}",
        )


def nearest_multiples(value: int, divisor: int) -> str:
    """Return the positive multiples of `divisor` around `value`, for a hint."""
    below, above = value // divisor * divisor, math.ceil(value / divisor) * divisor
    return f"{below} or {above}" if below else str(above)


def check_enough_rows(num_rows: int, args: TrainingArguments) -> None:
    """Raise ConfigError where the rows do not fill one rollout buffer: there would be nothing to train on."""
    if not isinstance(args, GRPOConfig):
        return
    assert args.generation_batch_size is not None and args.num_generations is not None  # set by GRPOConfig
    prompts = args.generation_batch_size // args.num_generations
    if num_rows < prompts:
        raise ConfigError(
            f"data.path has {num_rows} rows: one rollout buffer takes {prompts} of them "
            f"({args.generation_batch_size} completions / {args.num_generations})",
            hint="lower trainer.per_device_train_batch_size or trainer.gradient_accumulation_steps, or build more data",
        )
