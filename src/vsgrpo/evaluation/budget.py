"""The vision budget of an evaluation: as given, else as the model was trained, else the defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vsgrpo.errors import ConfigError
from vsgrpo.evaluation.benchmark import Benchmark
from vsgrpo.families import BUILT, budget_of
from vsgrpo.families.vision_record import VISION_FILE, find_vision
from vsgrpo.terminal import note
from vsgrpo.video.budget import VisionBudget

if TYPE_CHECKING:
    from vsgrpo.config.evaluate import EvalConfig


def check_own_frames(config: EvalConfig, kind: type[Benchmark]) -> None:
    """Refuse video.num_frames where the harness has a number of its own; ConfigError by key."""
    harness, given = config.benchmark.harness, config.video.num_frames
    if given is None or (own := kind.own_frames.get(harness)) is None:
        return
    how = (
        f"benchmark={config.benchmark.name} benchmark.harness={harness} shows {own} frames of all videos of a question"
    )
    with_own = [f"{name} ({number} frames)" for name, number in kind.own_frames.items() if number != own]
    without = [f"{name} (video.num_frames of each clip)" for name in kind.harnesses if name not in kind.own_frames]
    way_out = " or ".join([*with_own, *without])
    hint = f"leave it out (in an entry of a suite: null), or set benchmark.harness to {way_out}"
    raise ConfigError(f"video.num_frames={given}: {how}", hint=hint)


def vision_budget(folders: Sequence[str | None], given: Mapping[str, int | None]) -> VisionBudget:
    """Return the budget to evaluate with: what is given, else what `find_vision` finds, else the defaults.

    One line on stderr says so where the model itself (the first of `folders`) has no vision.json and not all of a
    video's budget is given.

    Args:
        folders: the adapter and the model: folders, hub ids, `tiny`, or None.
        given: by the names of `VisionBudget`; None: not given.

    Raises:
        ConfigError: values out of range, by key.
        DataError: a broken vision.json or config.yaml.
    """
    models = [folder for folder in folders if folder is not None]
    recorded = find_vision(*models)
    values, source = (recorded.budget, recorded.source) if recorded else ({}, None)
    chosen = {name: value for name, value in given.items() if value is not None}
    budget = budget_of(models[-1] if models else None, {**values, **chosen})
    missing = [name for name in ("num_frames", "min_pixels", "max_pixels") if name not in chosen]
    is_first = os.environ.get("RANK", "0") == "0"
    if is_first and models and models[0] not in BUILT and missing and source != Path(models[0]) / VISION_FILE:
        values = ", ".join(f"video.{name}={getattr(budget, name)}" for name in missing)
        origin = f"taken from {source}" if source else "the defaults, whatever it was trained with"
        note(f"note: {models[0]}: no {VISION_FILE}: {values} ({origin})")
    return budget
