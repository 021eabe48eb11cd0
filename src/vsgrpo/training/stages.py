"""A run is a list of stages, each a new trainer on the same model: build them, resume the right one, train in turn."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers.optimization import get_scheduler
from transformers.trainer_callback import TrainerCallback
from transformers.trainer_utils import SchedulerType

from vsgrpo.config import DpoSection, GrpoSection, TrainConfig
from vsgrpo.config.trainer import TrainerSection
from vsgrpo.memory.load import token_layout
from vsgrpo.modeling.bundle import ModelBundle, vision_token_ids
from vsgrpo.modeling.model import use_gradient_checkpointing
from vsgrpo.rewards import load_reward
from vsgrpo.terminal import show
from vsgrpo.training.arguments import buffer_steps, check_enough_rows, trl_config
from vsgrpo.training.bad_steps import BadSteps
from vsgrpo.training.callbacks import JsonLog, OptimizerClock, StopOnSignal
from vsgrpo.training.checkpoints import Checkpoint, RunFolder
from vsgrpo.training.dev_score import DevScore
from vsgrpo.training.dpo import SpatialDPOTrainer
from vsgrpo.training.grpo import SpatialGRPOTrainer
from vsgrpo.training.guards import CheckShards, EqualCalls, PhaseWatch, waited_in_vain
from vsgrpo.training.launcher import another_failed
from vsgrpo.training.live import Progress, watch
from vsgrpo.training.precision import CheckPrecision
from vsgrpo.training.probe import probe_longest, wants_probe
from vsgrpo.training.samplers import few_videos
from vsgrpo.training.samples import SampleMaker
from vsgrpo.training.sft import SpatialSFTTrainer
from vsgrpo.training.stage_trainer import Stage, StageTrainer, TrainerParts
from vsgrpo.training.timing import PhaseTimer, device_sync
from vsgrpo.training.trackers import make_trackers
from vsgrpo.training.zero import name_layers
from vsgrpo.video.loader import VideoLoader


@dataclass(frozen=True)
class RunParts:
    """What all stages of a run share."""

    config: TrainConfig
    bundle: ModelBundle
    dataset: Dataset
    loader: VideoLoader
    folder: RunFolder
    dev: Dataset | None = None


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended: the last trainer (None where nothing was left to do) and the signal that stopped it, if any."""

    trainer: StageTrainer | None
    steps: int
    stopped_by: int | None = None


def run_stages(
    parts: RunParts, checkpoint: Checkpoint | None = None, check: Callable[[StageTrainer], None] | None = None
) -> RunOutcome:
    """Train all stages, or what is left of them after `checkpoint`.

    Optimizer and schedule start anew at each stage; weights go on. The reference of GRPO and DPO is the model as the
    run began (adapter off, or a frozen copy for full fine-tuning), for all stages, so that a resume finds the same one.

    Args:
        parts: of the run.
        checkpoint: to go on from; the bundle holds the weights the run began with.
        check: called with each trainer before it trains.
    """
    config = parts.config
    num_stages = config.trainer.num_stages
    reference = reference_model(config, parts.bundle)
    steps = checkpoint.number - checkpoint.step if checkpoint else 0
    trainer: StageTrainer | None = None
    for number in range(checkpoint.stage if checkpoint else 0, num_stages):
        stage = Stage(parts.folder, number, num_stages, steps, config.trainer.name)
        progress = watch(stage)
        stop = StopOnSignal(
            say=progress.say,
            lost=lambda: another_failed(parts.folder.path),
            save_timeout_s=config.launch.save_timeout_s,
        )
        if config.launch.profile == "fsdp2":
            name_layers(parts.bundle.model)
        trainer = build_trainer(parts, stage, stop, reference, progress)
        if check is not None:
            check(trainer)
        section = config.trainer.stage(number)
        if wants_probe(config, section):
            found = probe_longest(trainer, config, section, parts.loader, stage_rows(parts, number))
            if trainer.is_world_process_zero():
                show(found.line(), sys.stderr)
        if trainer.is_world_process_zero():
            parts.folder.update_status(stage=number)
        resume = checkpoint if checkpoint and checkpoint.stage == number else None
        if resume and resume.step >= (total := total_steps(trainer)):
            trainer._load_from_checkpoint(str(resume.path))
            steps += resume.step
            continue
        if resume:
            resume = on_boundary(resume, parts.folder, stop.every)
            if trainer.is_world_process_zero() and total > resume.max_steps:
                show(lengthened(trainer.args, resume, total, stop.every), sys.stderr)
        try:
            trainer.train(resume_from_checkpoint=str(resume.path) if resume else None)
        except Exception as error:
            told = waited_in_vain(error, trainer, config.launch.timeout_s)
            if told is None or config.launch.num_processes == 1:
                raise
            raise told from error
        finally:
            stop.restore()
            progress.close()
        steps += trainer.state.global_step
        if stop.stopped:
            return RunOutcome(trainer, steps, stop.received)
        _release(trainer)
    return RunOutcome(trainer, steps)


def total_steps(trainer: StageTrainer) -> int:
    """Return how many optimizer steps a stage has."""
    args = trainer.args
    if args.max_steps > 0:
        return args.max_steps
    return trainer.set_initial_training_values(args, trainer.get_train_dataloader())[-1]


def on_boundary(newest: Checkpoint, folder: RunFolder, every: int) -> Checkpoint:
    """Return where a stage goes on: the newest of its checkpoints that ends a rollout buffer, `newest` if none does.

    Only the last step of a stage can lie inside a buffer; where the stage becomes longer, that is no place to go on.

    Args:
        every: optimizer steps of one buffer.
    """
    if newest.step % every == 0:
        return newest
    same = [c for c in folder.checkpoints() if c.stage == newest.stage and c.step % every == 0]
    return same[-1] if same else newest


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
    return f"{text}: {'not ' if reasons else ''}as if it had been so long from the start" + "".join(
        f"; {reason}" for reason in reasons
    )


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
    stop: StopOnSignal | None = None,
    reference: nn.Module | None = None,
    progress: Progress | None = None,
) -> StageTrainer:
    """Return the trainer of one stage.

    Raises:
        ConfigError: values that TRL refuses, or that do not fit the rows.
    """
    config = parts.config
    section = config.trainer.stage(stage.number)
    args = trl_config(config, stage.number)
    dataset = stage_rows(parts, stage.number)
    check_enough_rows(len(dataset), args)
    rows_per_step = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    if isinstance(section, GrpoSection):
        rows_per_step //= section.num_generations
    warning = few_videos(rows_per_step, section.questions_per_video)
    if warning and args.process_index == 0:
        show(warning, sys.stderr)
    if section.gradient_checkpointing:
        use_gradient_checkpointing(parts.bundle.model)
    progress = progress or Progress(stage)
    timer = progress.timer = PhaseTimer(device_sync())
    progress.dataset = dataset
    callbacks = _callbacks(config, args, stage, progress, timer, stop)
    dev = None if parts.dev is None else DevScore(parts.dev, config, parts.loader)
    if dev is not None:
        callbacks.append(dev)
    bundle = parts.bundle
    visual = vision_token_ids(bundle.model)
    shared = TrainerParts(
        bundle=bundle,
        dataset=dataset,
        maker=SampleMaker(bundle, parts.loader, timer),
        loader=parts.loader,
        stage=stage,
        timer=timer,
        bad_steps=BadSteps(
            parts.folder.path, bundle.tokenizer, args.process_index, section.max_bad_steps, visual, progress.say
        ),
        callbacks=callbacks,
        reference=reference,
        feature_cache=feature_cache(config),
        questions_per_video=section.questions_per_video,
        layout=token_layout(section, config.model),
        attention=section.prefix_attention,
    )
    trainer = _trainer(config, section, shared, args)
    if dev is not None:
        dev.trainer = trainer
    return trainer


def _trainer(config: TrainConfig, section: TrainerSection, parts: TrainerParts, args: Any) -> StageTrainer:
    """Return the trainer of a method."""
    if isinstance(section, GrpoSection):
        return SpatialGRPOTrainer(
            parts,
            args,
            reward_funcs=_rewards(config),
            skip_zero_variance=section.skip_zero_variance,
            log_gradient_correlation=section.log_gradient_correlation,
        )
    return SpatialDPOTrainer(parts, args) if isinstance(section, DpoSection) else SpatialSFTTrainer(parts, args)


def _callbacks(
    config: TrainConfig, args: Any, stage: Stage, progress: Progress, timer: PhaseTimer, stop: StopOnSignal | None
) -> list[TrainerCallback]:
    """Return what logs, times and watches a stage."""
    callbacks: list[TrainerCallback] = [JsonLog(stage), progress, OptimizerClock(timer)]
    callbacks += [CheckShards(stage, config.launch.profile), CheckPrecision(config.launch.profile)]
    callbacks += make_trackers(config.trainer.stage(stage.number).report_to, progress.say)
    if config.launch.num_processes > 1:
        callbacks += [EqualCalls(timer), PhaseWatch(timer, args.process_index, config.launch.timeout_s)]
    if stop is not None:
        stop.every = buffer_steps(args)
        callbacks.append(stop)
    return callbacks


def feature_cache(config: TrainConfig) -> str | Path:
    """Return what `FeatureStore` takes: off, memory, or the folder of the disk cache."""
    if config.video.feature_cache != "disk":
        return config.video.feature_cache
    return Path(config.video.cache_dir or Path(config.run.dir) / "cache") / "features"


def stage_rows(parts: RunParts, number: int) -> Dataset:
    """Return the rows of a stage: all, or those of its question types (a curriculum: easy types first)."""
    types = parts.config.trainer.stage_types(number)
    if types is None:
        return parts.dataset
    kept = [i for i, name in enumerate(parts.dataset["question_type"]) if name in types]
    return parts.dataset.select(kept)


def _rewards(config: TrainConfig) -> list[Callable[..., list[float]]]:
    reward = config.reward
    bound = {"numeric": reward.numeric, "allow_empty": reward.allow_empty, "length_words": reward.length_words}
    return [load_reward(name, show_options=config.prompt.show_options, **bound) for name in config.reward_names()]


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


def _release(trainer: StageTrainer) -> None:
    """Take the engine's wrapping off the model, so that the next stage's trainer can wrap it anew."""
    trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
    trainer.accelerator.free_memory()
