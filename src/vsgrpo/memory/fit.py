"""Will a run fit: its needs in memory and on disk as lines, refused or warned of where the machine has less."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from vsgrpo.config.compose import NOT_GIVEN
from vsgrpo.config.train import TrainConfig
from vsgrpo.config.trainer import GrpoSection
from vsgrpo.data.mix import mix_lines
from vsgrpo.data.row_numbers import RowNumbers, Rows
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.families import budget_of, model_shape
from vsgrpo.families.family import ModelShape
from vsgrpo.memory.estimate import GIB, Estimate, trained_parameters, weight_bytes
from vsgrpo.memory.load import Tokens, longest_sample
from vsgrpo.memory.passes import estimate_run, plan_passes
from vsgrpo.terminal import counted


@dataclass(frozen=True)
class DiskNeed:
    """Bytes; `checkpoints` counts those kept and the one being written, `caches` those of videos not met before.

    `served`: weights that servers read, those of a step and of the one before. They are under RUN_DIR, or where
    rollout.vllm.sync_dir says.
    """

    checkpoint: int
    checkpoints: int
    final: int
    caches: int
    served: int = 0

    @property
    def run(self) -> int:
        """Bytes of checkpoints and final/."""
        return self.checkpoint * self.checkpoints + self.final


def disk_need(config: TrainConfig, shape: ModelShape, rows: Rows = ()) -> DiskNeed:
    """Add up what the run writes. Logs and completions (kilobytes a step) are left out."""
    trained, whole = trained_parameters(config, shape), shape.num_parameters()
    width = weight_bytes(config)
    engine = config.launch.profile.startswith("zero")
    lora = config.model.tune == "lora"
    own = 4 if lora else width
    # An adapter, or whole weights; the optimizer's moments, and under DeepSpeed a float32 master copy.
    moments = max(section.num_moments for section in config.stage_sections())
    checkpoint = (trained * 4 if lora else whole * width) + trained * (4 + 4 * moments if engine else moments * own)
    final = whole * width if not lora else whole * 4 if config.merges() else trained * 4
    tokens = longest_sample(config, config.trainer, rows)
    budget, caches = budget_of(config.model.path, config.vision()), 0
    if config.video.frame_cache == "disk":
        caches += tokens.num_videos * budget.sampled_frames * budget.pixels()[1] * 3
    if config.video.feature_cache == "disk":
        caches += tokens.dataset * shape.feature_width * (2 if config.autocasts(config.trainer) else width)
    served = 0
    if config.uses_servers():  # an adapter, or whole weights: what merging writes of adapters is float32
        adapter = config.rollout.vllm.sync == "lora"
        served = 2 * (trained * 4 if adapter else whole * (4 if lora else width))
    return DiskNeed(checkpoint, num_checkpoints(config, len(rows)), final, caches, served)


def num_checkpoints(config: TrainConfig, num_rows: int) -> int:
    """Return how many checkpoints lie on disk at the most: those kept, the best one, the one being written."""
    steps = sum(planned_steps(config, stage, num_rows) for stage in range(config.trainer.num_stages))
    written = max(1, steps // config.trainer.save_steps)
    limit = config.trainer.save_total_limit
    if limit is None:
        return written
    return min(written, limit + 1 + (config.trainer.dev_rows > 0))


def planned_steps(config: TrainConfig, stage: int, num_rows: int) -> int:
    """Return the optimizer steps of a stage; 0 where they depend on rows that are not at hand."""
    section = config.stage_sections()[stage]
    if section.max_steps > 0:
        return section.max_steps
    return math.ceil(section.num_train_epochs * steps_per_epoch(config, stage, num_rows))


def steps_per_epoch(config: TrainConfig, stage: int, num_rows: int) -> int:
    """Return the optimizer steps of an epoch: SFT and DPO end it with a short one, GRPO has whole buffers only."""
    section = config.stage_sections()[stage]
    if not isinstance(section, GrpoSection):
        return math.ceil(num_rows / rows_per_step(config, stage))
    steps = section.gradient_accumulation_steps
    per_buffer = int(section.hf.get("steps_per_generation") or steps)
    samples = section.per_device_train_batch_size * config.launch.num_processes * per_buffer
    buffers = num_rows // max(1, samples // section.num_generations)
    return math.ceil(buffers * per_buffer * section.num_iterations / steps)


def rows_per_step(config: TrainConfig, stage: int = 0) -> int:
    """Return the rows of one optimizer step, of all processes."""
    section = config.stage_sections()[stage]
    samples = section.per_device_train_batch_size * section.gradient_accumulation_steps * config.launch.num_processes
    return max(1, samples // section.num_generations) if isinstance(section, GrpoSection) else samples


def free_bytes(folder: Path) -> int:
    """Return what is free on the file system where `folder` is or would be made."""
    path = Path(os.path.expanduser(folder)).absolute()
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def plan_lines(config: TrainConfig, rows: Rows) -> list[str]:
    """Return tokens, batch, features, memory and disk of a run, one line each."""
    trainer = config.trainer
    tokens, budget = longest_sample(config, trainer, rows), budget_of(config.model.path, config.vision())
    samples = trainer.per_device_train_batch_size * trainer.gradient_accumulation_steps * config.launch.num_processes
    questions = rows_per_step(config)
    lines = [
        f"video tokens per sample: at most {tokens.video} ({counted(budget.num_frames, 'frame')}, "
        f"{budget.pixels()[1]} pixels, up to 2:1)",
        *_image_lines(tokens, budget.pixels("image")[1]),
        f"text tokens per sample: about {tokens.text}, at most {tokens.text_bytes} (one per byte)",
        f"tokens per completion: at most {tokens.completion}",
    ]
    if isinstance(trainer, GrpoSection):
        lines.append(
            f"global batch: {counted(samples, 'completion')} = {counted(questions, 'question')} x "
            f"{trainer.num_generations}"
        )
    else:
        lines.append(f"global batch: {counted(samples, 'answer')}")
    for number, section in enumerate(config.stage_sections()):
        where = f"stage {number}, " if config.trainer.stages else ""
        lines.append(where + plan_passes(config, number, rows).text(config, section, rows))
        if isinstance(section, GrpoSection):
            lines.append(where + config.rollout.text(section))
    if rows:
        lines += mix_lines(rows.mix) if isinstance(rows, RowNumbers) else []
        lines.append(f"rows: {len(rows)}; steps per epoch: {steps_per_epoch(config, 0, len(rows))}")
        if isinstance(rows, RowNumbers) and rows.looked_at:
            lines.append(f"rows looked at: {rows.looked_at}; a run, and vsgrpo check-data, read all")
    shape = model_shape(config.model.path)
    if shape is None:
        return [*lines, f"memory and disk: not estimated, no config.json of model.path={config.model.path} is at hand"]
    found = estimate_run(config, rows)
    assert found is not None
    lines.append(_features_line(config, found, shape.feature_width))
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
    of = counted(tokens.num_videos, "video") + ("" if tokens.known else " (ScanNet's training scans)")
    where = {"off": "not kept", "memory": "kept in device memory", "disk": "kept on disk"}[cache]
    sizes = f"{tokens.visual * token / 2**20:.1f} MiB a sample, {tokens.dataset * token / GIB:.1f} GiB for {of}"
    return f"features: {sizes}, {where}"


def memory_lines(found: Estimate) -> list[str]:
    """Return the estimate as two lines: its sum, and its parts."""
    state = ", ".join(f"{name} {size / GIB:.2f}" for name, size in found.state.items())
    phases = ", ".join(f"{name} {size / GIB:.2f}" for name, size in found.phases.items())
    return [
        f"memory of one process: about {found.total / GIB:.1f} GiB (estimated; {found.parameters:,} parameters, "
        f"{found.trained:,} trained; {found.load.update_tokens} tokens in a pass)",
        f"  GiB that stay: {state}; while they last: {phases}",
    ]


def _disk_line(need: DiskNeed) -> str:
    caches = f", weights for servers {need.served / GIB:.2f} GiB" if need.served else ""
    caches += f", caches {need.caches / GIB:.1f} GiB" if need.caches else ""
    return (
        f"disk: {need.checkpoints} x {need.checkpoint / GIB:.2f} GiB of checkpoints, final/ {need.final / GIB:.2f} GiB"
        f"{caches}"
    )


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
    if phase == "teacher":
        return "lower trainer.tokens_per_pass, or set trainer.gpd_weight=0"
    if phase == "update":
        return "set trainer.gradient_checkpointing=true, or lower trainer.tokens_per_pass or video.num_frames"
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
    need, apart = disk_need(config, shape, rows), config.rollout.vllm.sync_dir
    parts = f"{counted(need.checkpoints, 'checkpoint')} of {need.checkpoint / GIB:.2f} GiB and final/ of "
    parts += f"{need.final / GIB:.2f} GiB"
    hint = "lower trainer.save_total_limit, raise trainer.save_steps, or choose another output=DIR"
    needs = [("run.dir", config.run.dir, need.run, parts, hint)]
    served = f"two copies of the weights for servers, of {need.served / 2 / GIB:.2f} GiB,"
    if need.served and apart is None:
        needs = [("run.dir", config.run.dir, need.run + need.served, f"{parts}, and {served}", hint)]
    elif need.served:
        needs.append(("rollout.vllm.sync_dir", str(apart), need.served, served, "choose another folder"))
    warnings = []
    for key, place, size, what, way_out in needs:
        if size <= (free := free_bytes(Path(place))):
            continue
        message = f"{key}={place}: {what} take {size / GIB:.1f} GiB, {free / GIB:.1f} GiB are free"
        if not resume:
            raise DataError(message, hint=way_out)
        warnings.append(f"warning: {message} ({way_out})")
    folder = Path(config.video.cache_dir or config.run.dir)
    free = free_bytes(folder)
    if need.caches > free:
        warnings.append(
            f"warning: caches of all videos take {need.caches / GIB:.1f} GiB, {free / GIB:.1f} GiB are free in "
            f"{folder}: set video.cache_dir, or video.feature_cache=memory"
        )
    return warnings
