"""How many rows go through one forward and backward, by tokens and memory, and what a stage needs when it runs so.

A row is a completion (GRPO), an answer (SFT) or a pair of them (DPO). An update and a rollout buffer hold the rows that
per_device_train_batch_size and gradient_accumulation_steps say; here they are only dealt out over passes anew. A
loss that is a sum over the update's rows stays the same up to the order of sums; others keep their microbatches.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vsgrpo.config.train import TrainConfig
from vsgrpo.config.trainer import GrpoSection, TrainerSection
from vsgrpo.data.row_numbers import Rows
from vsgrpo.devices import visible_gpus
from vsgrpo.errors import ConfigError
from vsgrpo.families import model_shape
from vsgrpo.memory.estimate import GIB, Estimate, estimate, reference_bytes
from vsgrpo.memory.load import Load, stage_load
from vsgrpo.terminal import counted

PASS_TOKENS = 32_768
"""Tokens of a pass on a GPU at most, where no key says so: more fill it no better (ours)."""


@dataclass(frozen=True)
class Passes:
    """Rows of one pass of a process.

    Attributes:
        update: with gradient.
        scored: without (GRPO's reference and its policy before an update).
    """

    update: int
    scored: int

    def section(self, section: TrainerSection) -> TrainerSection:
        """Return the section with a pass as its microbatch; update and buffer hold the same rows."""
        batch = section.per_device_train_batch_size
        changes: dict[str, object] = {
            "per_device_train_batch_size": self.update,
            "gradient_accumulation_steps": section.gradient_accumulation_steps * batch // self.update,
        }
        if "steps_per_generation" in section.hf:
            steps = section.hf["steps_per_generation"] * batch // self.update
            changes["hf"] = {**section.hf, "steps_per_generation": steps}
        return dataclasses.replace(section, **changes)  # type: ignore[arg-type]

    def text(self, config: TrainConfig, section: TrainerSection, rows: Rows) -> str:
        """Return one line: what one pass is, beside the microbatches that were asked for."""
        batch, own = section.per_device_train_batch_size, self.section(section)
        noun = {"grpo": "completions", "sft": "answers", "dpo": "pairs of answers"}[section.name]
        tokens = stage_load(config, own, rows).update_tokens
        count = own.gradient_accumulation_steps
        text = (
            f"update: {counted(section.gradient_accumulation_steps, 'microbatch', 'microbatches')} of "
            f"{batch} {noun} in {count} pass{'es' if count > 1 else ''} of up to {tokens:,} tokens"
        )
        if isinstance(section, GrpoSection) and self.scored != self.update:
            text += f"; {self.scored} {noun} a pass without gradient"
        return text


def why_as_configured(section: TrainerSection) -> str | None:
    """Return what of a stage's loss is of a microbatch, so that microbatches must stay; None where nothing is."""
    if not isinstance(section, GrpoSection):
        return None
    if section.loss_type == "bnpo":
        return "trainer.loss_type=bnpo is a mean over a microbatch"
    if section.top_entropy_quantile < 1:
        return f"trainer.top_entropy_quantile={section.top_entropy_quantile} is a share of a microbatch's tokens"
    return "trainer.skip_zero_variance=true leaves microbatches out" if section.skip_zero_variance else None


def plan_passes(config: TrainConfig, number: int, rows: Rows = ()) -> Passes:
    """Deal the updates of stage `number` out over passes: by trainer.tokens_per_pass, else by the memory of a GPU.

    With the key, passes are the largest that hold no more tokens in the worst case. Without, on a GPU whose memory is
    known, the largest that fit by estimate, at most `PASS_TOKENS`; a microbatch that does not fit is cut. On a CPU, and
    where the loss knows microbatches (`GrpoSection.why_microbatches_count`), they stay as they are.

    Raises:
        ConfigError: one row alone has more tokens than trainer.tokens_per_pass.
    """
    section = config.stage_sections()[number]
    batch, limit = section.per_device_train_batch_size, section.tokens_per_pass
    shape, available = model_shape(config.model.path), device_memory(config)
    if limit is None and (config.launch.on_cpu or shape is None or available is None):
        return Passes(batch, batch)

    def load_of(count: int) -> Load:
        return stage_load(config, Passes(count, count).section(section), rows)

    def fits(count: int) -> bool:
        load = load_of(count)
        if limit is not None:
            return load.scored_tokens <= limit
        assert shape is not None and available is not None
        found = estimate(config, Passes(count, count).section(section), shape, load)
        return found.total <= available[0] and (count <= batch or load.scored_tokens <= PASS_TOKENS)

    why = why_as_configured(section)
    if why is not None and limit is not None:
        raise ConfigError(f"trainer.tokens_per_pass={limit}: {why}", hint="leave trainer.tokens_per_pass=null")
    update = batch if why is not None else next(filter(fits, _sizes(section)), 0)
    if not update and limit is not None:
        least = load_of(1).scored_tokens
        raise ConfigError(
            f"trainer.tokens_per_pass={limit}: one row of this stage has up to {least} tokens",
            hint=f"set trainer.tokens_per_pass={least} or more, or lower video.num_frames or the length of answers",
        )
    update = update or batch  # nothing fits by estimate: as configured, with the warning that says so
    scored = update
    if isinstance(section, GrpoSection):
        load, most = load_of(update), limit or PASS_TOKENS
        room = None if shape is None or limit else max(estimate(config, section, shape, load).phases.values())
        for count in range(2 * update, load.drawn + 1, update):
            wider = stage_load(config, dataclasses.replace(section, per_device_train_batch_size=count), rows)
            too_large = room and shape and reference_bytes(config, section, shape, wider) > room
            if wider.scored_tokens > most or too_large:
                break
            scored = count
    return Passes(update, scored)


def _sizes(section: TrainerSection) -> Iterator[int]:
    """Yield rows of a pass that deal an update and a buffer out evenly: several microbatches, one, or parts of one.

    Parts hold whole groups; torn ones come last.
    """
    batch, group, steps = section.per_device_train_batch_size, 1, section.gradient_accumulation_steps
    if isinstance(section, GrpoSection):
        group = section.num_generations
        steps = math.gcd(steps, int(section.hf.get("steps_per_generation") or steps))
    yield from (batch * n for n in _divisors(steps))
    smaller = [n for n in _divisors(batch) if n < batch]
    yield from (n for n in smaller if n % group == 0)
    yield from (n for n in smaller if n < group)


def _divisors(number: int) -> list[int]:
    return [n for n in range(number, 0, -1) if number % n == 0]


def estimate_run(config: TrainConfig, rows: Rows = ()) -> Estimate | None:
    """Return the estimate of the stage that needs most, in its passes; None where the model's sizes are not at hand."""
    shape = model_shape(config.model.path)
    if shape is None:
        return None
    sections = [plan_passes(config, n, rows).section(section) for n, section in enumerate(config.stage_sections())]
    found = [estimate(config, section, shape, stage_load(config, section, rows)) for section in sections]
    return max(found, key=lambda item: item.total)


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
