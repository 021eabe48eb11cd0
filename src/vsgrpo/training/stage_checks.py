"""Checks of a run's stages that need no rows: groups that fit buffers, checkpoints between them, what is shared."""

from __future__ import annotations

import math

from vsgrpo.config.launching import WHOLE
from vsgrpo.config.train import TrainConfig
from vsgrpo.config.trainer import GrpoSection, TrainerSection
from vsgrpo.errors import ConfigError
from vsgrpo.terminal import counted


def check_stages(config: TrainConfig) -> None:
    """Refuse, in every stage, what cannot be shared, groups that fit no buffer, and checkpoints inside a buffer."""
    for number, section in enumerate(config.stage_sections()):
        where = f"trainer.stages[{number}]: " if config.trainer.stages else ""
        _check_sharing(section, config, where)
        _check_graph(section, config, where)
        if isinstance(section, GrpoSection):
            _check_groups(section, where.replace(": ", ".") or "trainer.")
            _check_saves(section, where)


def _check_groups(section: GrpoSection, where: str) -> None:
    """Raise ConfigError unless whole groups fit a process's rollout buffer; name the nearest values."""
    group, batch = section.num_generations, section.per_device_train_batch_size
    steps = section.gradient_accumulation_steps
    if batch * steps % group == 0:
        return
    divisors = [n for n in range(2, batch * steps + 1) if batch * steps % n == 0]
    groups = {max((n for n in divisors if n < group), default=0), min((n for n in divisors if n > group), default=0)}
    choices = {
        "trainer.per_device_train_batch_size": multiples_around(batch, group // math.gcd(group, steps)),
        "trainer.gradient_accumulation_steps": multiples_around(steps, group // math.gcd(group, batch)),
        "trainer.num_generations": sorted(groups - {0}),
    }
    texts = [f"{key}={' or '.join(map(str, values))}" for key, values in choices.items() if values]
    raise ConfigError(
        f"{where}num_generations={group}: does not divide per_device_train_batch_size={batch} x "
        f"gradient_accumulation_steps={steps} = {counted(batch * steps, 'completion')} of a process",
        hint="set " + ", or ".join(texts),
    )


def _check_saves(section: GrpoSection, where: str) -> None:
    """Raise ConfigError where a checkpoint would fall inside a rollout buffer, which is not saved."""
    every = buffer_steps(section)
    if section.save_steps % every:
        choices = " or ".join(map(str, multiples_around(section.save_steps, every)))
        raise ConfigError(
            f"{where}trainer.save_steps={section.save_steps}: a rollout buffer lasts "
            f"{counted(every, 'optimizer step')}, a checkpoint inside it cannot be resumed exactly",
            hint=f"set trainer.save_steps={choices}",
        )


def multiples_around(value: int, divisor: int) -> list[int]:
    """Return the positive multiples of `divisor` next to `value`, itself if it is one."""
    below, above = value // divisor * divisor, math.ceil(value / divisor) * divisor
    return sorted({n for n in (below, above) if n})


def buffer_steps(section: GrpoSection) -> int:
    """Return after how many optimizer steps a rollout buffer and an update end together.

    A buffer serves steps_per_generation * num_iterations microbatches, an update takes gradient_accumulation_steps of
    them; the two meet after buffer / gcd(buffer, accumulation) updates.
    """
    accumulation = section.gradient_accumulation_steps
    buffer = int(section.hf.get("steps_per_generation") or accumulation) * section.num_iterations
    return buffer // math.gcd(buffer, accumulation)


def _check_sharing(section: TrainerSection, config: TrainConfig, where: str = "") -> None:
    """Refuse what could not share although it was asked for: shared_prefix=on, or features on disk that change.

    (`auto` shares where it can, `memory` is off by itself where the tower is trained.)
    """
    model = config.model
    if config.video.feature_cache == "disk" and not model.freeze_vision:
        raise ConfigError(
            "video.feature_cache=disk: the vision tower is trained (model.freeze_vision=false), its features change",
            hint="set model.freeze_vision=true, or video.feature_cache=off",
        )
    if section.shared_prefix != "on":
        return
    if model.attn_implementation != "sdpa":
        raise ConfigError(
            f"model.attn_implementation={model.attn_implementation}: the kernels of a shared prefix need sdpa",
            hint="set model.attn_implementation=sdpa, or trainer.shared_prefix=off",
        )
    if model.tune == "lora" and model.lora.dropout > 0:
        raise ConfigError(
            f"model.lora.dropout={model.lora.dropout}: a shared prefix would draw one mask for all its completions",
            hint="set model.lora.dropout=0, or trainer.shared_prefix=off",
        )
    if isinstance(section, GrpoSection) and section.per_device_train_batch_size % section.num_generations:
        batch, group = section.per_device_train_batch_size, section.num_generations
        raise ConfigError(
            f"{where}trainer.per_device_train_batch_size={batch}: tears groups of num_generations={group} apart, "
            "trainer.shared_prefix=on shares within a microbatch",
            hint=f"set trainer.per_device_train_batch_size={(batch // group + 1) * group}, or shared_prefix=auto",
        )


def _check_graph(section: TrainerSection, config: TrainConfig, where: str = "") -> None:
    """Refuse a recorded decode step where none can be: without a GPU, with sharded weights, on another attention."""
    if not isinstance(section, GrpoSection) or not section.decode_graph:
        return
    launch, attention, way_out = config.launch, config.model.attn_implementation, "set trainer.decode_graph=false"
    what = f"{where}trainer.decode_graph=true"
    if launch.on_cpu:
        raise ConfigError(f"{what}: GPU only, launch={launch.profile} computes on a CPU", hint=way_out)
    if launch.profile not in WHOLE:
        raise ConfigError(
            f"{what}: launch={launch.profile} wraps or shards the weights", hint=f"{way_out}, or launch=ddp"
        )
    if attention != "sdpa":
        raise ConfigError(f"{what}: model.attn_implementation={attention} looks at masks on the host", hint=way_out)
