"""Bytes on disk that a training run will write: checkpoints, final/, caches; and what is free there."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from vsgrpo.config import GrpoSection, TrainConfig
from vsgrpo.data.row_numbers import Rows
from vsgrpo.families.family import ModelShape
from vsgrpo.memory.estimate import trained_parameters, weight_bytes
from vsgrpo.memory.load import longest_sample


@dataclass(frozen=True)
class DiskNeed:
    """Bytes; `checkpoints` counts those kept and the one being written, `caches` those of videos not met before."""

    checkpoint: int
    checkpoints: int
    final: int
    caches: int

    @property
    def run(self) -> int:
        """Bytes under RUN_DIR, caches apart."""
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
    caches = 0
    if config.video.frame_cache == "disk":
        caches += tokens.num_videos * config.video.num_frames * config.video.max_pixels * 3
    if config.video.feature_cache == "disk":
        caches += tokens.dataset * shape.hidden * (2 if config.autocasts(config.trainer) else width)
    return DiskNeed(checkpoint, num_checkpoints(config, len(rows)), final, caches)


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
    per_step = rows_per_step(config, stage)
    return math.ceil(num_rows * section.num_train_epochs / per_step)


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


def main_memory() -> int | None:
    """Return the bytes of memory of this machine, or of this process's control group if that is less."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limit = Path(file).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if limit.isdigit():
            total = min(total, int(limit))
    return total
