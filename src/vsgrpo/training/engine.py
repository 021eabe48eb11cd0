"""From our configuration to TRL's and torch's: a trainer's arguments, the process group, the engine asked for."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.sft_config import SFTConfig

from vsgrpo.config.train import TrainConfig
from vsgrpo.config.trl_options import NO_TRL_FIELD, OURS_BUT_NOT_PASSED
from vsgrpo.devices import visible_gpus
from vsgrpo.errors import ConfigError, SetupError, first_line
from vsgrpo.modeling.libraries import why_no_gpu
from vsgrpo.training.preflight import check_devices, cpu_hint, needs_launcher

ENGINES = {
    "cpu": (DistributedType.NO,),
    "gpu1": (DistributedType.NO,),
    "ddp": (DistributedType.MULTI_GPU, DistributedType.MULTI_CPU),
    "zero2": (DistributedType.DEEPSPEED,),
    "zero3": (DistributedType.DEEPSPEED,),
    "zero3_offload": (DistributedType.DEEPSPEED,),
    "fsdp2": (DistributedType.FSDP,),
}
"""Engines that accelerate may report, for each launch profile."""
BACKENDS = {"cuda": "nccl", "cpu": "gloo"}
"""Backend that processes must talk by, for each type of device."""


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
        raise ConfigError(
            f"trainer: {first_line(error)}", hint="see the names and rules of TRL 1.16's " + kind.__name__
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
        "report_to": "none",  # see `callbacks.Tracker`
        "logging_nan_inf_filter": False,
        "average_tokens_across_devices": True,
        "disable_tqdm": True,
    }


def join_processes(config: TrainConfig, num_processes: int) -> None:
    """Start torch's process group on CPUs, whose time limit no option of the Trainer reaches.

    On a GPU `trl_config` passes the limit on, and accelerate starts the group.

    Raises:
        SetupError: torch sees no GPU though the profile needs one (accelerate would train on the CPU), sees one that
            launch=auto has not counted, or FSDP2 is asked for on CPUs.
    """
    launch = config.launch
    if not launch.on_cpu:
        if not torch.cuda.is_available():
            raise SetupError(f"launch={launch.profile}: needs GPUs: {why_no_gpu()}", hint=cpu_hint(launch))
        return
    check_devices(config)
    if launch.auto and not launch.use_cpu and launch.num_processes == 1 and torch.cuda.is_available():
        raise SetupError(
            f"launch=auto counted no GPU, torch sees {torch.cuda.device_count()}: {visible_gpus().source}",
            hint="set launch=cpu to train on the CPU, or make nvidia-smi work",
        )
    if num_processes > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=config.launch.timeout_s))


def check_backend(accelerator: Any, config: TrainConfig) -> None:
    """Refuse to train on another engine, world size or backend than the config asked for.

    Some settings of the environment make accelerate fall back without a word (ACCELERATE_USE_CPU turns DeepSpeed and
    FSDP into plain data parallelism, or one process).

    Raises:
        SetupError: naming both.
    """
    launch = config.launch
    expected = ENGINES[launch.profile] if needs_launcher(config) else (DistributedType.NO,)
    if accelerator.num_processes != launch.num_processes or accelerator.distributed_type not in expected:
        raise SetupError(
            f"launch.profile={launch.profile} with launch.num_processes={launch.num_processes}: accelerate runs "
            f"{accelerator.num_processes} process(es) as {accelerator.distributed_type.value}",
            hint="start through `vsgrpo train`, and leave ACCELERATE_USE_CPU unset",
        )
    wanted = BACKENDS.get(accelerator.device.type)
    if accelerator.num_processes > 1 and wanted is not None and wanted not in str(accelerator.state.backend):
        raise SetupError(
            f"launch.profile={launch.profile}: processes on {accelerator.device.type} talk by "
            f"{accelerator.state.backend}, not by {wanted}",
            hint="leave ACCELERATE_TORCH_DEVICE unset",
        )
