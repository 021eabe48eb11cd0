"""A run is a list of stages, each a new trainer on the same model: build them, resume the right one, train in turn."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers.optimization import get_scheduler
from transformers.trainer_callback import TrainerCallback
from transformers.trainer_utils import SchedulerType

from vsgrpo.config.train import TrainConfig
from vsgrpo.config.trainer import DpoSection, GrpoSection
from vsgrpo.memory.load import token_layout
from vsgrpo.modeling.bundle import ModelBundle, use_gradient_checkpointing
from vsgrpo.rewards import load_reward
from vsgrpo.terminal import show
from vsgrpo.training.bad_steps import BadSteps
from vsgrpo.training.base import Stage, StageTrainer, TrainerParts
from vsgrpo.training.callbacks import DevScore, JsonLog, StopOnSignal, make_trackers
from vsgrpo.training.checkpoints import Checkpoint, RunFolder
from vsgrpo.training.distributed import CheckPrecision, CheckShards, EqualCalls, collective_timed_out, name_layers
from vsgrpo.training.dpo import SpatialDPOTrainer
from vsgrpo.training.engine import check_backend, trl_config
from vsgrpo.training.grpo import SpatialGRPOTrainer
from vsgrpo.training.launcher import another_failed
from vsgrpo.training.live import Progress, watch
from vsgrpo.training.preflight import buffer_steps
from vsgrpo.training.probe import probe_longest, wants_probe
from vsgrpo.training.rows import stage_rows
from vsgrpo.training.samplers import few_videos
from vsgrpo.training.samples import SampleMaker
from vsgrpo.training.sft import SpatialSFTTrainer
from vsgrpo.training.timing import OptimizerClock, PhaseTimer, PhaseWatch, device_sync
from vsgrpo.video.loader import VideoLoader


@dataclass(frozen=True)
class RunParts:
    """Parts that all stages of a run share."""

    config: TrainConfig
    bundle: ModelBundle
    dataset: Dataset
    loader: VideoLoader
    folder: RunFolder
    dev: Dataset | None = None


@dataclass(frozen=True)
class OpenStage:
    """A stage whose trainer is built.

    Attributes:
        trainer: of the stage.
        stop: what a signal to this process does.
        progress: the display of the stage.
        timeout_s: how long a process waits for another one.
        resume_from: the checkpoint folder to train from, None from the stage's beginning.
        is_done: nothing is left to train, the trainer holds the weights of the stage's end.
    """

    trainer: StageTrainer
    stop: StopOnSignal
    progress: Progress
    timeout_s: float
    resume_from: str | None = None
    is_done: bool = False

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Name the phase in which another process was waited for too long; give signals and terminal back."""
        try:
            yield
        except Exception as error:
            timed_out = collective_timed_out(error, self.trainer, self.timeout_s)
            if timed_out is None or self.trainer.accelerator.num_processes == 1:
                raise
            raise timed_out from error
        finally:
            self.stop.restore()
            self.progress.close()


def open_stages(parts: RunParts, checkpoint: Checkpoint | None = None) -> Iterator[OpenStage]:
    """Yield the stages, or what is left of them after `checkpoint`, each with a new trainer; the caller trains it.

    Optimizer and schedule start anew at each stage; weights go on. The reference of GRPO and DPO is the model as the
    run began (adapter off, or a frozen copy for full fine-tuning), for all stages, so that a resume finds the same one.

    Args:
        parts: of the run.
        checkpoint: to go on from; the bundle holds the weights the run began with.
    """
    config = parts.config
    reference = reference_model(config, parts.bundle)
    steps = checkpoint.number - checkpoint.step if checkpoint else 0
    for number in range(checkpoint.stage if checkpoint else 0, config.trainer.num_stages):
        stage = Stage(parts.folder, number, config.trainer.num_stages, steps, config.trainer.name)
        resume = checkpoint if checkpoint and checkpoint.stage == number else None
        opened = _open_stage(parts, stage, reference, resume)
        yield opened
        if resume and opened.is_done:
            steps += resume.step
        else:
            steps += opened.trainer.state.global_step
            _release(opened.trainer)


def _open_stage(parts: RunParts, stage: Stage, reference: nn.Module | None, resume: Checkpoint | None) -> OpenStage:
    """Build a stage's trainer, try its largest microbatch, and find where it goes on."""
    config, folder = parts.config, parts.folder
    section = config.trainer.stage(stage.number)
    rows = stage_rows(config, parts.dataset, stage.number)
    progress = watch(stage, PhaseTimer(device_sync()), rows)
    stop = StopOnSignal(
        every=buffer_steps(section) if isinstance(section, GrpoSection) else 1,
        say=progress.say,
        lost=lambda: another_failed(folder.path),
        save_timeout_s=config.launch.save_timeout_s,
    )
    if config.launch.profile == "fsdp2":
        name_layers(parts.bundle.model)
    trainer = build_trainer(parts, stage, reference, progress, stop)
    check_backend(trainer.accelerator, config)
    is_main = trainer.is_world_process_zero()
    if wants_probe(config, section):
        found = probe_longest(trainer, config, section, parts.loader, rows)
        if is_main:
            show(found.line(), sys.stderr)
    folder.update_status(stage=stage.number)
    opened = OpenStage(trainer, stop, progress, config.launch.timeout_s)
    if resume is None:
        return opened
    total = total_steps(trainer)
    if resume.step >= total:
        trainer._load_from_checkpoint(str(resume.path))
        return replace(opened, is_done=True)
    start = on_boundary(resume, folder, stop.every)
    if is_main and total > start.max_steps:
        show(lengthened(trainer.args, start, total, stop.every), sys.stderr)
    return replace(opened, resume_from=str(start.path))


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
    config, bundle = parts.config, parts.bundle
    section = config.trainer.stage(stage.number)
    args: Any = trl_config(config, stage.number)
    rows_per_step = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    if isinstance(section, GrpoSection):
        rows_per_step //= section.num_generations
    warning = few_videos(rows_per_step, section.questions_per_video)
    if warning and args.process_index == 0:
        show(warning, sys.stderr)
    if section.gradient_checkpointing:
        use_gradient_checkpointing(bundle.model)
    rows = stage_rows(config, parts.dataset, stage.number)
    progress = progress or Progress(stage, PhaseTimer(device_sync()), rows)
    timer = progress.timer
    shared = TrainerParts(
        bundle=bundle,
        dataset=rows,
        maker=SampleMaker(bundle, parts.loader, timer),
        loader=parts.loader,
        stage=stage,
        timer=timer,
        bad_steps=BadSteps(parts.folder.path, bundle, args.process_index, section.max_bad_steps, progress.say),
        callbacks=_callbacks(config, stage, args.process_index, progress, stop),
        reference=reference,
        feature_cache=feature_cache(config),
        questions_per_video=section.questions_per_video,
        layout=token_layout(section, config.model),
        attention=section.prefix_attention,
    )
    if isinstance(section, GrpoSection):
        options = {
            "skip_zero_variance": section.skip_zero_variance,
            "log_gradient_correlation": section.log_gradient_correlation,
        }
        trainer = SpatialGRPOTrainer(shared, args, reward_funcs=_rewards(config), **options)
    else:
        trainer = (SpatialDPOTrainer if isinstance(section, DpoSection) else SpatialSFTTrainer)(shared, args)
    if parts.dev is not None:
        trainer.add_callback(DevScore(trainer, parts.dev, config))
    return trainer


def _callbacks(
    config: TrainConfig, stage: Stage, process: int, progress: Progress, stop: StopOnSignal | None
) -> list[TrainerCallback]:
    """Return what logs, times and watches a stage."""
    launch, timer = config.launch, progress.timer
    callbacks: list[TrainerCallback] = [JsonLog(stage), progress, OptimizerClock(timer)]
    callbacks += [CheckShards(stage.folder, launch.profile), CheckPrecision(launch.profile)]
    callbacks += make_trackers(config.trainer.stage(stage.number).report_to, progress.say)
    if launch.num_processes > 1:
        callbacks += [EqualCalls(timer), PhaseWatch(timer, process, launch.timeout_s)]
    return callbacks if stop is None else [*callbacks, stop]


def feature_cache(config: TrainConfig) -> str | Path:
    """Return what `FeatureStore` takes: off, memory, or the folder of the disk cache."""
    if config.video.feature_cache != "disk":
        return config.video.feature_cache
    return Path(config.video.cache_dir or Path(config.run.dir) / "cache") / "features"


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
