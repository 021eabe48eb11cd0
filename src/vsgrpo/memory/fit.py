"""Say before a run what it will need, and refuse or warn where that is not there."""

from __future__ import annotations

from pathlib import Path

from vsgrpo.config import GrpoSection, TrainConfig
from vsgrpo.config.compose import NOT_GIVEN
from vsgrpo.data.row_numbers import RowNumbers, Rows
from vsgrpo.devices import visible_gpus
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.families import model_shape
from vsgrpo.memory.disk import DiskNeed, disk_need, free_bytes, main_memory, rows_per_step
from vsgrpo.memory.estimate import GIB, Estimate, estimate_run
from vsgrpo.memory.load import Tokens, longest_sample


def plan_lines(config: TrainConfig, rows: Rows) -> list[str]:
    """Return tokens, batch, features, memory and disk of a run, one line each."""
    video, trainer = config.video, config.trainer
    tokens = longest_sample(config, trainer, rows)
    samples = trainer.per_device_train_batch_size * trainer.gradient_accumulation_steps * config.launch.num_processes
    questions = rows_per_step(config)
    lines = [
        f"video tokens per sample: at most {tokens.video} ({video.num_frames} frames, {video.max_pixels} pixels, up to "
        "2:1)",
        *_image_lines(tokens, config.image.max_pixels),
        f"text tokens per sample: about {tokens.text}, at most {tokens.text_bytes} (one per byte)",
        f"tokens per completion: at most {tokens.completion}",
    ]
    if isinstance(trainer, GrpoSection):
        lines.append(f"global batch: {samples} completions = {questions} questions x {trainer.num_generations}")
    else:
        lines.append(f"global batch: {samples} answers")
    if rows:
        lines.append(f"rows: {len(rows)}; steps per epoch: {max(1, len(rows) // questions)}")
        if isinstance(rows, RowNumbers) and rows.looked_at:
            lines.append(f"rows looked at: {rows.looked_at}; a run, and vsgrpo check-data, read all")
    shape = model_shape(config.model.path)
    if shape is None:
        return [*lines, f"memory and disk: not estimated, no config.json of model.path={config.model.path} is at hand"]
    found = estimate_run(config, rows)
    assert found is not None
    lines.append(_features_line(config, found, shape.hidden))
    lines += memory_lines(found)
    lines.append(_disk_line(disk_need(config, shape, rows)))
    return lines


def _image_lines(tokens: Tokens, max_pixels: int) -> list[str]:
    """Return the line on image tokens, where rows show images."""
    if not tokens.images:
        return []
    total = tokens.images * tokens.image
    return [f"image tokens per sample: at most {total} ({tokens.images} x {tokens.image}, {max_pixels} pixels)"]


def _features_line(config: TrainConfig, found: Estimate, width: int) -> str:
    tokens, cache = found.load.tokens, config.video.feature_cache
    token = width * (2 if config.trainer.bf16 or config.model.dtype == "bfloat16" else 4)
    if not config.model.freeze_vision:
        return "features: computed in every pass, the vision tower is trained"
    of = f"{tokens.num_videos} videos" if tokens.known else f"{tokens.num_videos} videos (ScanNet's training scans)"
    where = {"off": "not kept", "memory": "kept in device memory", "disk": "kept on disk"}[cache]
    sizes = f"{tokens.visual * token / 2**20:.1f} MiB a sample, {tokens.dataset * token / GIB:.1f} GiB for {of}"
    return f"features: {sizes}, {where}"


def memory_lines(found: Estimate) -> list[str]:
    """Return the estimate as two lines: its sum, and its parts."""
    state = ", ".join(f"{name} {size / GIB:.2f}" for name, size in found.state.items())
    phases = ", ".join(f"{name} {size / GIB:.2f}" for name, size in found.phases.items())
    return [
        f"memory of one process: about {found.total / GIB:.1f} GiB (estimated; {found.parameters:,} parameters, "
        f"{found.trained:,} trained; {found.load.update_tokens} tokens in a microbatch)",
        f"  GiB that stay: {state}; while they last: {phases}",
    ]


def _disk_line(need: DiskNeed) -> str:
    caches = f", caches {need.caches / GIB:.1f} GiB" if need.caches else ""
    return (
        f"disk: {need.checkpoints} x {need.checkpoint / GIB:.2f} GiB of checkpoints, final/ {need.final / GIB:.2f} GiB"
        f"{caches}"
    )


def device_memory(config: TrainConfig) -> tuple[float, str] | None:
    """Return the bytes that one process may use and where they were read; None: known on the device only."""
    launch = config.launch
    if launch.device_memory_gb is not None:
        return launch.device_memory_gb * GIB, "launch.device_memory_gb"
    if not launch.on_cpu:
        memory = visible_gpus().smallest_memory()
        return None if memory is None else (float(memory), "on the smallest GPU")
    memory, sharers = main_memory(), launch.num_processes // launch.num_machines
    if memory is None:
        return None
    return memory / sharers, "of this machine" if sharers == 1 else f"of this machine for each of {sharers} processes"


def check_memory(found: Estimate | None, available: float, where: str) -> str | None:
    """Refuse what cannot fit; return a warning where the estimate says that it may not.

    Raises:
        ConfigError: weights, gradients and optimizer alone are more than the device has.
    """
    if found is None:
        return None
    have = f"{available / GIB:.1f} GiB {where}"
    if found.fixed > available:
        raise ConfigError(
            f"weights, gradients and optimizer of one process take {found.fixed / GIB:.1f} GiB, there are {have}",
            hint="choose launch=zero3 or launch=zero3_offload, model.tune=lora, or a smaller model",
        )
    if found.total > available:
        return f"warning: about {found.total / GIB:.1f} GiB of memory needed, there are {have}: {advice(found)}"
    return None


def advice(found: Estimate) -> str:
    """Return which key to turn first, by what is largest."""
    phase = found.largest_phase
    if found.state.get("cached features", 0) > found.phases[phase]:
        return "set video.feature_cache=disk"
    if phase == "update":
        return (
            "set trainer.gradient_checkpointing=true, or lower trainer.per_device_train_batch_size or video.num_frames"
        )
    return "lower trainer.gradient_accumulation_steps (videos of one rollout) or video.num_frames"


def check_disk(config: TrainConfig, rows: Rows, *, resume: bool = False) -> list[str]:
    """Refuse a run whose checkpoints cannot be kept on its disk; return warnings about caches.

    A resumed run has written some of it before: it is warned only.

    Raises:
        DataError: naming what is needed, what is free, and the keys to turn.
    """
    shape = model_shape(config.model.path)
    if shape is None or config.run.dir == NOT_GIVEN:
        return []
    need, free = disk_need(config, shape, rows), free_bytes(Path(config.run.dir))
    warnings = []
    if need.run > free:
        message = (
            f"run.dir={config.run.dir}: {need.checkpoints} checkpoints of {need.checkpoint / GIB:.2f} GiB and final/ "
            f"of {need.final / GIB:.2f} GiB take {need.run / GIB:.1f} GiB, {free / GIB:.1f} GiB are free"
        )
        hint = "lower trainer.save_total_limit, raise trainer.save_steps, or choose another output=DIR"
        if not resume:
            raise DataError(message, hint=hint)
        warnings.append(f"warning: {message} ({hint})")
    folder = Path(config.video.cache_dir or config.run.dir)
    free = free_bytes(folder)
    if need.caches > free:
        warnings.append(
            f"warning: caches of all videos take {need.caches / GIB:.1f} GiB, {free / GIB:.1f} GiB are free in "
            f"{folder}: set video.cache_dir, or video.feature_cache=memory"
        )
    return warnings
