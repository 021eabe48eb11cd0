"""Inputs and checks of a training run, before torch is imported: rows through the leak guard, models, all its files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from vsgrpo.config.train import TrainConfig
from vsgrpo.config.trainer import GrpoSection
from vsgrpo.data.frame_true import rows_of_run
from vsgrpo.data.inputs import media_files, model_files
from vsgrpo.data.leak_guard import read_checked_rows, worst
from vsgrpo.data.mix import DrawnSource, draw_mix
from vsgrpo.data.prompts import check_trainable
from vsgrpo.data.row import Row
from vsgrpo.data.row_numbers import SKETCHED_BYTES, RowNumbers, Rows, check_types, numbers_of, sketch_files, type_counts
from vsgrpo.data.rows import rebase
from vsgrpo.data.scene_files import scene_file
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.families import family_files
from vsgrpo.families.vision_record import other_rule
from vsgrpo.memory.passes import plan_passes
from vsgrpo.rules import module_file
from vsgrpo.terminal import counted, show
from vsgrpo.training.launcher import allows_tf32
from vsgrpo.training.reward_checks import check_rewards
from vsgrpo.training.servers import check_servable
from vsgrpo.training.stage_checks import check_stages


def row_files(config: TrainConfig) -> list[Path]:
    """Return the row files of data.path and data.mix, in that order."""
    return [Path(source.path) / f"{config.data.split}.jsonl" for source in config.data.sources()]


def load_rows(
    config: TrainConfig, say: Callable[[str], None] | None = None, drawn: list[DrawnSource] | None = None
) -> tuple[list[Row], str]:
    """Read the rows to train on through the leak guard; return them and the verdict.

    Args:
        say: is told which rows are left out because the frames shown do not make them true.
        drawn: what came from each source of data.mix is appended to it.

    Raises:
        DataError: no such folder, no rows left, or a benchmark room among them.
    """
    files = row_files(config)
    for number, file in enumerate(files):
        if not file.parent.is_dir():
            raise DataError(
                f"{'data.mix: ' if number else 'data.path='}{file.parent}: no such folder",
                hint="build one: vsgrpo build-data source.root=DIR output=DIR",
            )
    read = [read_checked_rows(file, allow_val_safe=config.data.allow_val_safe) for file in files]
    parts = [part for part, _ in read]
    check_types(files, [type_counts(part) for part in parts], config.data.types)
    types = config.data.kept_types
    if types is not None:
        parts = [[row for row in part if row.question_type in types] for part in parts]
    parts = [rows_of_run(config, part, file, say) for part, file in zip(parts, files, strict=True)]
    rows, base = parts[0][: config.data.limit], Path(config.data.path)
    if len(files) > 1:
        moved = [rebase(part, file.parent, base) for file, part in zip(files, parts, strict=True)]
        rows, found = draw_mix(moved, config.data.sources(), config.run.seed, config.data.limit)
        if drawn is not None:
            drawn += found
    return rows, worst([verdict for _, verdict in read])


def rows_of_plan(config: TrainConfig) -> tuple[list[Row], RowNumbers]:
    """Return the rows of a run with their numbers; of large files a part of the rows, and the numbers of all.

    Raises:
        VsgrpoError: as `load_rows`, of what was read.
    """
    files = row_files(config)
    if sum(file.stat().st_size for file in files if file.is_file()) <= SKETCHED_BYTES:
        drawn: list[DrawnSource] = []
        rows = load_rows(config, lambda text: show(text, sys.stderr), drawn)[0]
        return rows, replace(numbers_of(rows, config.prompt), mix=tuple(drawn))
    numbers, rows = sketch_files(files, config)
    return rows, numbers


def input_files(config: TrainConfig, rows: list[Row]) -> list[tuple[str, Path]]:
    """Return (kind, path) of all files that decide a run: rows, media, models, and modules of the user's own."""
    files = [("rows", file) for file in row_files(config)]
    base = Path(config.data.path)
    if config.trainer.dev_rows:
        dev = base / "dev.jsonl"
        rows = [*rows, *(read_checked_rows(dev, allow_val_safe=config.data.allow_val_safe)[0] if dev.is_file() else [])]
        files.append(("dev rows", dev))
    files += [*model_files("model", config.model.path), *model_files("adapter", config.model.adapter)]
    files += family_files(config.model.path)
    if config.uses_privileged():
        scenes = dict.fromkeys(scene_file(row, base) for row in rows)
        files += [("scene", file) for file in scenes if file is not None and file.is_file()]
    own = sorted(name for name in config.reward_names() if ":" in name) if config.trainer.name == "grpo" else []
    files += [("reward", file) for name in own if (file := module_file(name)) is not None]
    return [*files, *media_files(rows, base)]


def cache_folder(config: TrainConfig) -> Path:
    """Return video.cache_dir.

    Raises:
        ConfigError: it is not set; a run's own folder would be of no use to other runs.
    """
    if config.video.cache_dir is None:
        raise ConfigError("video.cache_dir=null: cache-videos needs a folder", hint="set video.cache_dir=PATH")
    return Path(config.video.cache_dir)


def check_caching(config: TrainConfig) -> Path:
    """Return the folder that cache-videos fills.

    Raises:
        ConfigError: no cache on disk is asked for, no folder for it, or the tower is trained.
    """
    folder = cache_folder(config)
    wants_features = config.video.feature_cache == "disk"
    if not wants_features and config.video.frame_cache != "disk":
        raise ConfigError(
            "video.feature_cache=off video.frame_cache=off: nothing to fill", hint="set one of them to disk"
        )
    if wants_features and config.model.tune == "full" and not config.model.freeze_vision:
        raise ConfigError(
            "model.freeze_vision=false: features of a tower that is trained change with every step",
            hint="set video.feature_cache=off video.frame_cache=disk",
        )
    return folder


def check_plan(config: TrainConfig) -> RowNumbers:
    """Check a configuration, and its rows where they are there already; return the numbers of the rows.

    Raises:
        VsgrpoError: what is wrong on every machine.
    """
    check_stages(config)
    rows, numbers = [], RowNumbers()
    if row_files(config)[0].is_file():
        rows, numbers = rows_of_plan(config)
    for number in range(config.trainer.num_stages):
        plan_passes(config, number, numbers)
    check_run(config, rows, numbers.types)
    if rows:
        check_enough_rows(config, numbers)
    return numbers


def warnings_of(config: TrainConfig) -> Iterator[str]:
    """Yield what a run may do and nobody would want without knowing."""
    if (other := other_rule(config)) is not None:
        yield other
    if isinstance(config.trainer, GrpoSection) and config.trainer.beta == 0:
        yield "trainer.beta=0: without the KL term the paper's runs collapsed (arXiv 2504.00883)"
    if not config.launch.on_cpu and allows_tf32(config):
        yield (
            "trainer.bf16=false: beside the weights in bfloat16 the adapters compute in float32 (TF32): about an "
            "eighth more for a GPU (estimated); set trainer.bf16=true"
        )
    longest = 2 * config.rollout.vllm.timeout_s + config.rollout.vllm.startup_timeout_s
    if config.uses_servers() and config.launch.num_processes > 1 and longest >= config.launch.timeout_s:
        yield (
            f"launch.timeout_s={config.launch.timeout_s:g}: a server that is frozen is waited for up to {longest:g} s "
            "(2 x rollout.vllm.timeout_s + rollout.vllm.startup_timeout_s), and the other processes give up before, "
            f"without a checkpoint of that step; set launch.timeout_s={longest + 600:g}"
        )


def check_run(config: TrainConfig, rows: Sequence[Row], types: Iterable[str] | None = None) -> None:
    """Refuse rewards and rows that could not be trained with.

    Args:
        types: question types that occur, where `rows` are a part of the run's only.

    Raises:
        ConfigError: an unknown reward, or a stage without rows.
        DataError: a row without the thought or the wrong answer that the method needs.
    """
    present = {row.question_type for row in rows} if types is None else set(types)
    for number, stage in enumerate(config.trainer.stages or [] if rows else []):
        if stage.get("types") and not present & set(config.trainer.stage_types(number) or ()):
            raise ConfigError(
                f"trainer.stages[{number}].types={stage['types']}: no row is of these types",
                hint=f"there are: {', '.join(sorted(present))}",
            )
    dev = Path(config.data.path) / "dev.jsonl"
    if config.trainer.dev_rows and rows and not dev.is_file():
        raise DataError(
            f"{dev}: no such file, trainer.dev_rows={config.trainer.dev_rows} scores on it",
            hint="build the data with data.dev_fraction above 0, or set trainer.dev_rows=0",
        )
    check_servable(config)
    if config.trainer.name == "grpo":
        check_rewards(config, rows, present)
    else:
        check_targets(config, rows)


def check_enough_rows(config: TrainConfig, rows: Rows) -> None:
    """Raise ConfigError where a stage's rows do not fill one rollout buffer of all processes."""
    present = type_counts(rows)
    for number, section in enumerate(config.stage_sections()):
        types = config.trainer.stage_types(number)
        count = len(rows) if types is None else sum(present.get(name, 0) for name in set(types))
        if not isinstance(section, GrpoSection):
            continue
        steps = int(section.hf.get("steps_per_generation") or section.gradient_accumulation_steps)
        one = section.per_device_train_batch_size * config.launch.num_processes
        needed = one * steps // section.num_generations
        if count < needed:
            where = f"trainer.stages[{number}]: " if config.trainer.stages else ""
            fits = count * section.num_generations // one
            while fits and section.per_device_train_batch_size * fits % section.num_generations:
                fits -= 1
            most = (
                f"trainer.gradient_accumulation_steps={fits}" if fits else "trainer.per_device_train_batch_size lower"
            )
            raise ConfigError(
                f"{where}data.path={config.data.path} has {counted(count, 'row')}: one rollout buffer takes {needed} "
                f"({counted(one * steps, 'completion')} of all processes / {section.num_generations})",
                hint=f"set {most}, or build more data",
            )


def check_targets(config: TrainConfig, rows: Sequence[Row]) -> None:
    """Make every row say what it would be trained to say (SFT and DPO), and for DPO its wrong answer too."""
    prompt = config.prompt
    without = [row.key for row in rows if row.reasoning is None] if prompt.mode != "vanilla" else []
    if without:
        raise DataError(
            f"{without[0]}: reasoning=null: prompt.mode={prompt.mode} trains {config.trainer.name} on it "
            f"({len(without)} of {counted(len(rows), 'row has', 'rows have')} none)",
            hint="write thoughts with `vsgrpo build-cot` or data.reasoning=template (demo), or set prompt=vanilla",
        )
    for row in rows:
        check_trainable(row, config)
