"""A run is a list of stages, each a new trainer on the same model: build one, and find where it goes on."""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
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
from vsgrpo.memory.passes import Passes, plan_passes
from vsgrpo.modeling.bundle import ModelBundle, use_gradient_checkpointing
from vsgrpo.terminal import can_draw, counted, is_quiet, note, show
from vsgrpo.trackers import PROJECT
from vsgrpo.training.base import RunParts, StageTrainer
from vsgrpo.training.callbacks import DevScore, StopOnSignal
from vsgrpo.training.continuation import Checkpoint
from vsgrpo.training.distributed import CheckEngine, EqualCalls, check_backend, gather_numbers, name_layers
from vsgrpo.training.grpo import SpatialGRPOTrainer
from vsgrpo.training.launcher import another_failed, own_rank
from vsgrpo.training.live import LiveView
from vsgrpo.training.measure import PhaseTimer, probe_longest, wants_probe
from vsgrpo.training.progress import JsonLog, Progress, Stage
from vsgrpo.training.run_folder import RunFolder
from vsgrpo.training.samples import few_videos, stage_rows
from vsgrpo.training.sft_dpo import SpatialDPOTrainer, SpatialSFTTrainer
from vsgrpo.training.stage_checks import buffer_steps
from vsgrpo.training.trackers import open_trackers
from vsgrpo.training.waits import watched


@dataclass
class OpenStage:
    """A stage whose trainer is built.

    Attributes:
        stop: what a signal to this process does.
        start: the checkpoint folder to train from, None from the stage's beginning.
        is_done: nothing is left to train, the trainer holds the weights of the stage's end.
    """

    trainer: StageTrainer
    stop: StopOnSignal
    start: str | None = None
    is_done: bool = False


@contextmanager
def open_stage(
    parts: RunParts, stage: Stage, reference: nn.Module | None, resume: Checkpoint | None
) -> Iterator[OpenStage]:
    """Build a stage's trainer, try its largest microbatch, and find where it goes on; the caller trains it.

    Optimizer and schedule start anew at each stage; weights go on. When the block ends the engine's wrapping is off the
    model, so that the next stage's trainer can wrap it anew.

    Args:
        parts: of the run; the bundle holds the weights that the stage begins with, or those the run began with.
        reference: of GRPO and DPO, the model as the run began (None: adapter off), for all stages.
        resume: checkpoint of this stage to go on from.
    """
    config, folder = parts.config, parts.folder
    section = config.trainer.stage(stage.number)
    timer, rows = PhaseTimer(), stage_rows(config, parts.dataset, stage.number)
    draws = own_rank() == 0 and can_draw(sys.stderr) and not is_quiet()
    progress = LiveView(stage, timer, rows) if draws else Progress(stage, timer)
    every = buffer_steps(section) if isinstance(section, GrpoSection) else 1
    lost = partial(another_failed, folder.path)
    stop = StopOnSignal(every, progress.say, lost, config.launch.save_timeout_s)
    if config.launch.profile == "fsdp2":
        name_layers(parts.bundle.model)
    trainer: StageTrainer | None = None
    try:
        with watched(timer, config.launch, lambda: trainer.run_step if trainer else stage.steps_before):
            trainer = build_trainer(parts, stage, reference, progress, stop)
            check_backend(trainer.accelerator, config)
            if trainer.is_world_process_zero():
                note(trainer.passes.text(config, section, parts.rows))
            if wants_probe(config, section):
                found = probe_longest(trainer, section, stage_load(config, trainer.passes.section(section), ()))
                if trainer.is_world_process_zero():
                    note(found)
            folder.update_status(stage=stage.number)
            opened = OpenStage(trainer, stop)
            if resume is not None:
                _go_on(opened, resume, folder, every)
            yield opened
            if isinstance(trainer, SpatialGRPOTrainer) and trainer.served is not None:
                trainer.served.close()
    finally:
        stop.restore()
        progress.close()
    if not stop.stopped:
        trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
        trainer.accelerator.free_memory()


def _go_on(opened: OpenStage, newest: Checkpoint, folder: RunFolder, every: int) -> None:
    """Find the checkpoint to go on from, or load the weights of a stage that is over.

    Only the last step of a stage can lie inside a rollout buffer (`every` steps): where the stage is longer now, it
    goes on from an earlier checkpoint.
    """
    trainer, total = opened.trainer, total_steps(opened.trainer)
    if trainer.num_repeated and trainer.is_world_process_zero():
        note(
            f"stage {newest.stage}: the run began with a version whose processes fill the last microbatch of an epoch "
            f"with rows again; it goes on so: {trainer.num_repeated} of {len(trainer.train_dataset)} count twice"
        )
    if newest.step >= total:
        trainer._load_from_checkpoint(str(newest.path))
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, DevScore):
                callback.score_missed(newest.number)
        opened.is_done = True
        return
    ends = (c for c in folder.checkpoints() if c.stage == newest.stage and c.step % every == 0)
    start = next(ends, newest)
    opened.start = str(start.path)
    if trainer.is_world_process_zero() and total > start.max_steps:
        note(lengthened(trainer.args, start, total, every))


def total_steps(trainer: StageTrainer) -> int:
    """Return how many optimizer steps a stage has."""
    args = trainer.args
    if args.max_steps > 0:
        return args.max_steps
    return trainer.set_initial_training_values(args, trainer.get_train_dataloader())[-1]


def lengthened(args: Any, start: Checkpoint, total: int, every: int) -> str:
    """Say that a stage got longer, and what is not as if it had been that long from the beginning."""
    text = f"stage {start.stage} goes on at step {start.step} to {counted(total, 'step')}, it had {start.max_steps}"
    before, now = (_rates(args, steps, start.step + 1) for steps in (start.max_steps, total))
    apart = [step for step in range(start.step) if before[step] != now[step]]
    reasons = []
    if apart:
        which = f"steps {apart[0] + 1}-{apart[-1] + 1}" if len(apart) > 1 else f"step {apart[0] + 1}"
        reasons.append(
            f"trainer.lr_scheduler_type={SchedulerType(args.lr_scheduler_type).value}: the learning rates of {which} "
            f"were those of {counted(start.max_steps, 'step')}; step {start.step + 1} now has {now[-1]:.3g} instead of "
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
    planned = plan_passes(config, stage.number, parts.rows)
    if parts.folder.repeats_rows and config.launch.num_processes > 1 and not isinstance(section, GrpoSection):
        # Larger passes would repeat more rows than the run did so far.
        planned = Passes(*(min(size, section.per_device_train_batch_size) for size in (planned.update, planned.scored)))
    # Devices may differ: the smallest decides for all.
    passes = Passes(min(gather_numbers(planned.update)), min(gather_numbers(planned.scored)))
    args: Any = trl_config(config, stage.number, passes)
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
    engine = CheckEngine(stage.folder, launch.profile, launch.timeout_s)
    callbacks: list[TrainerCallback] = [JsonLog(stage), progress, engine]
    callbacks += open_trackers(section.report_to, stage, say)
    if launch.num_processes > 1:
        callbacks.append(EqualCalls(timer))
    if stop is not None:
        callbacks.append(stop)
    make = {"grpo": SpatialGRPOTrainer, "sft": SpatialSFTTrainer, "dpo": SpatialDPOTrainer}[section.name]
    trainer = make(parts, stage, args, progress=progress, reference=reference, callbacks=callbacks)
    trainer.passes = passes
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


def trl_config(
    config: TrainConfig, number: int = 0, passes: Passes | None = None
) -> GRPOConfig | SFTConfig | DPOConfig:
    """Return TRL's configuration of stage `number`; its microbatches are `passes`, None: as configured.

    Gradient checkpointing is not passed on: `modeling.bundle.use_gradient_checkpointing` switches it on for the
    language model alone. Checkpoints are counted and dropped by `RunFolder`, over all stages.

    Raises:
        ConfigError: TRL refuses a combination of values.
    """
    section = config.trainer.stage(number)
    section = section if passes is None else passes.section(section)
    names = {field.name for field in dataclasses.fields(section)} - {*NO_TRL_FIELD, *OURS_BUT_NOT_PASSED}
    values = {name: getattr(section, name) for name in names} | section.hf | _fixed(config)
    values["bf16"] = config.autocasts(section)
    if section.name == "grpo":
        values |= {"disable_dropout": False, "reward_weights": config.reward_weights(section)}
        if values["scale_rewards"] == "ema":  # ours (training.advantages)
            values["scale_rewards"] = "none"
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
        "report_to": "none",  # see `training.trackers`
        "project": PROJECT,
        "logging_nan_inf_filter": False,
        "average_tokens_across_devices": True,
        "disable_tqdm": True,
    }
