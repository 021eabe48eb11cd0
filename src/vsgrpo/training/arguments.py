"""From our typed configuration to TRL's: `trainer.*` under TRL's own names, and what a run of ours always sets."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

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
        ConfigError: TRL refuses a combination of values.
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
        return kind(**values)
    except ValueError as error:
        message = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"trainer: {message}", hint="see the names and rules of TRL 1.16's " + kind.__name__
        ) from error


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
