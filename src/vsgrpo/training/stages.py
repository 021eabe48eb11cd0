"""A run is a list of stages, each a new trainer on the same model: build them, resume the right one, train in turn."""

from __future__ import annotations

import copy
import dataclasses
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers.integrations.integration_utils import get_reporting_integration_callbacks
from transformers.optimization import get_scheduler
from transformers.trainer_callback import TrainerCallback
from transformers.trainer_utils import SchedulerType
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.sft_config import SFTConfig

from vsgrpo.config.train import TrainConfig
from vsgrpo.config.trainer import NO_TRL_FIELD, OURS_BUT_NOT_PASSED, DpoSection, GrpoSection
from vsgrpo.errors import ConfigError, first_line
from vsgrpo.memory.load import stage_load
from vsgrpo.modeling.bundle import ModelBundle, use_gradient_checkpointing
from vsgrpo.terminal import show
from vsgrpo.training.base import RunParts, StageTrainer
from vsgrpo.training.callbacks import DevScore, StopOnSignal
from vsgrpo.training.continuation import Checkpoint
from vsgrpo.training.distributed import (
    CheckEngine,
    EqualCalls,
    check_backend,
    collective_timed_out,
    name_layers,
)
from vsgrpo.training.grpo import SpatialGRPOTrainer
from vsgrpo.training.launcher import another_failed
from vsgrpo.training.live import watch
from vsgrpo.training.measure import PhaseTimer, probe_longest, wants_probe
from vsgrpo.training.preflight import buffer_steps
from vsgrpo.training.progress import JsonLog, PhaseWatch, Progress, Stage, Tracker
from vsgrpo.training.samples import few_videos, stage_rows
from vsgrpo.training.sft_dpo import SpatialDPOTrainer, SpatialSFTTrainer


def train_stages(parts: RunParts, checkpoint: Checkpoint | None = None) -> tuple[StageTrainer, int | None]:
    """Train the stages in turn, or what is left of them after `checkpoint`, each with a new trainer.

    Optimizer and schedule start anew at each stage; weights go on. The reference of GRPO and DPO is the model as the
    run began (adapter off, or a frozen copy for full fine-tuning), for all stages, so that a resume finds the same one.

    Args:
        parts: of the run; the bundle holds the weights the run began with.
        checkpoint: to go on from.

    Returns:
        the last stage's trainer, and the signal that stopped it (None: all stages are done).
    """
    config = parts.config
    reference = reference_model(config, parts.bundle)
    first, before = (checkpoint.stage, checkpoint.number - checkpoint.step) if checkpoint else (0, 0)
    for number in range(first, config.trainer.num_stages):
        stage = Stage(parts.folder, number, config.trainer.num_stages, before, config.trainer.name)
        resume = checkpoint if number == first else None
        trainer, steps, received = _train_stage(parts, stage, reference, resume)
        before += steps
        if received is not None:
            return trainer, received
    return trainer, None


def _train_stage(
    parts: RunParts, stage: Stage, reference: nn.Module | None, resume: Checkpoint | None
) -> tuple[StageTrainer, int, int | None]:
    """Train one stage, after its largest microbatch was tried.

    Returns:
        its trainer, which holds the weights of the stage's end, its steps, and the signal that stopped it.
    """
    config, folder = parts.config, parts.folder
    section = config.trainer.stage(stage.number)
    progress = watch(stage, PhaseTimer(), stage_rows(config, parts.dataset, stage.number))
    every = buffer_steps(section) if isinstance(section, GrpoSection) else 1
    lost = partial(another_failed, folder.path)
    stop = StopOnSignal(every, progress.say, lost, config.launch.save_timeout_s)
    if config.launch.profile == "fsdp2":
        name_layers(parts.bundle.model)
    trainer = build_trainer(parts, stage, reference, progress, stop)
    check_backend(trainer.accelerator, config)
    is_main = trainer.is_world_process_zero()
    if wants_probe(config, section):
        found = probe_longest(trainer, section, stage_load(config, section, ()))
        if is_main:
            show(found, sys.stderr)
    folder.update_status(stage=stage.number)
    start = resume
    if resume is not None:
        total = total_steps(trainer)
        if resume.step >= total:
            trainer._load_from_checkpoint(str(resume.path))
            return trainer, resume.step, None
        # Only the last step of a stage can lie inside a rollout buffer: where the stage is longer now, it goes on from
        # an earlier checkpoint.
        ends = (c for c in folder.checkpoints() if c.stage == stage.number and c.step % every == 0)
        start = next(ends, resume)
        if is_main and total > start.max_steps:
            show(lengthened(trainer.args, start, total, every), sys.stderr)
    try:
        trainer.train(resume_from_checkpoint=str(start.path) if start else None)
    except Exception as error:
        # Name the phase in which another process was waited for too long.
        timed_out = collective_timed_out(error, trainer, config.launch.timeout_s)
        if timed_out is None or trainer.accelerator.num_processes == 1:
            raise
        raise timed_out from error
    finally:
        stop.restore()
        progress.close()
    if stop.stopped:
        return trainer, trainer.state.global_step, stop.received
    # Take the engine's wrapping off the model, so that the next stage's trainer can wrap it anew.
    trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
    trainer.accelerator.free_memory()
    return trainer, trainer.state.global_step, None


def total_steps(trainer: StageTrainer) -> int:
    """Return how many optimizer steps a stage has."""
    args = trainer.args
    if args.max_steps > 0:
        return args.max_steps
    return trainer.set_initial_training_values(args, trainer.get_train_dataloader())[-1]


def lengthened(args: Any, start: Checkpoint, total: int, every: int) -> str:
    """Say that a stage got longer, and what is not as if it had been that long from the beginning."""
    text = f"stage {start.stage} goes on at step {start.step} to {total} steps, it had {start.max_steps}"
    before, now = (_rates(args, steps, start.step + 1) for steps in (start.max_steps, total))
    apart = [step for step in range(start.step) if before[step] != now[step]]
    reasons = []
    if apart:
        which = f"steps {apart[0] + 1}-{apart[-1] + 1}" if len(apart) > 1 else f"step {apart[0] + 1}"
        reasons.append(
            f"trainer.lr_scheduler_type={SchedulerType(args.lr_scheduler_type).value}: the learning rates of {which} "
            f"were those of {start.max_steps} steps; step {start.step + 1} now has {now[-1]:.3g} instead of "
            f"{before[-1]:.3g}"
        )
    if start.step % every:
        reasons.append(f"step {start.step} lies inside a rollout buffer of {every} steps: a new buffer begins there")
    return "; ".join([f"{text}: {'not ' if reasons else ''}as if it had been so long from the start", *reasons])


def _rates(args: Any, total: int, count: int) -> list[float]:
    """Return the learning rates of the first `count` steps of a stage of `total` steps."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=args.learning_rate)
    schedule = get_scheduler(
        args.lr_scheduler_type,
        optimizer=optimizer,
        num_warmup_steps=args.get_warmup_steps(total),
        num_training_steps=total,
        scheduler_specific_kwargs=args.lr_scheduler_kwargs,
    )
    if not isinstance(schedule, LambdaLR):  # it follows what it sees, not the number of steps
        return [args.learning_rate] * count
    return [args.learning_rate * schedule.lr_lambdas[0](step) for step in range(count)]


def build_trainer(
    parts: RunParts,
    stage: Stage,
    reference: nn.Module | None = None,
    progress: Progress | None = None,
    stop: StopOnSignal | None = None,
) -> StageTrainer:
    """Return the trainer of one stage.

    Args:
        progress: its timer and rows are the trainer's; None shows plain lines.
        stop: None leaves signals alone.

    Raises:
        ConfigError: values that TRL refuses.
    """
    config = parts.config
    section = config.trainer.stage(stage.number)
    args: Any = trl_config(config, stage.number)
    rows_per_step = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    if isinstance(section, GrpoSection):
        rows_per_step //= section.num_generations
    warning = few_videos(rows_per_step, section.questions_per_video)
    if warning and args.process_index == 0:
        show(warning, sys.stderr)
    if section.gradient_checkpointing:
        use_gradient_checkpointing(parts.bundle.model)
    progress = progress or Progress(stage, PhaseTimer())
    launch, timer, say = config.launch, progress.timer, progress.say
    callbacks: list[TrainerCallback] = [JsonLog(stage), progress, CheckEngine(stage.folder, launch.profile)]
    callbacks += [Tracker(name, get_reporting_integration_callbacks([name])[0], say) for name in section.report_to]
    if launch.num_processes > 1:
        callbacks += [EqualCalls(timer), PhaseWatch(timer, args.process_index, launch.timeout_s)]
    if stop is not None:
        callbacks.append(stop)
    make = {"grpo": SpatialGRPOTrainer, "sft": SpatialSFTTrainer, "dpo": SpatialDPOTrainer}[section.name]
    trainer = make(parts, stage, args, progress=progress, reference=reference, callbacks=callbacks)
    if parts.dev is not None:
        trainer.add_callback(DevScore(trainer, parts.dev, config))
    return trainer


def reference_model(config: TrainConfig, bundle: ModelBundle) -> nn.Module | None:
    """Copy the model where a stage of full fine-tuning is measured against the run's start (GRPO's KL, DPO)."""
    sections = config.stage_sections()
    needed = any(isinstance(section, GrpoSection | DpoSection) and section.beta > 0 for section in sections)
    if not needed or config.model.tune != "full":
        return None
    reference = copy.deepcopy(bundle.model).eval().requires_grad_(False)
    profile = config.launch.profile
    if (profile.startswith("zero") or profile == "fsdp2") and any(config.autocasts(section) for section in sections):
        for parameter in reference.parameters():  # as the engine casts the policy, so that KL is 0 at the start
            parameter.data = parameter.data.bfloat16()
    return reference


def trl_config(config: TrainConfig, number: int = 0) -> GRPOConfig | SFTConfig | DPOConfig:
    """Return TRL's configuration of stage `number`.

    Gradient checkpointing is not passed on: `modeling.bundle.use_gradient_checkpointing` switches it on for the
    language model alone. Checkpoints are counted and dropped by `RunFolder`, over all stages.

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
    """Return what every run sets (`config.trainer.FIXED`), whatever its method."""
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
