"""Inputs of a training run: rows through the leak guard, models, and every file that decides the run; no torch."""

from __future__ import annotations

from pathlib import Path

from vsgrpo.config.train import TrainConfig
from vsgrpo.data.inputs import media_files, model_files
from vsgrpo.data.leak_guard import read_checked_rows, worst
from vsgrpo.data.row import Row
from vsgrpo.data.row_numbers import SKETCHED_BYTES, RowNumbers, numbers_of, sketch_files
from vsgrpo.data.rows import draw_mix, rebase
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.families import family_files
from vsgrpo.memory.load import text_settings
from vsgrpo.rules import module_file


def row_files(config: TrainConfig) -> list[Path]:
    """Return the row files of data.path and data.mix, in that order."""
    return [Path(folder) / f"{config.data.split}.jsonl" for folder, _ in config.data.folders()]


def load_rows(config: TrainConfig) -> tuple[list[Row], str]:
    """Read the rows to train on through the leak guard; return them and the verdict.

    Raises:
        DataError: no such folder, no rows left, or a benchmark room among them.
    """
    files = row_files(config)
    parts, verdicts = [], []
    for file in files:
        if not file.parent.is_dir():
            raise DataError(
                f"data.path={file.parent}: no such folder",
                hint="build one: vsgrpo build-data source.root=DIR output=DIR",
            )
        part, verdict = read_checked_rows(file, allow_val_safe=config.data.allow_val_safe)
        parts.append(part)
        verdicts.append(verdict)
    present = sorted({row.question_type for part in parts for row in part})
    where = ", ".join(map(str, files))
    for name in config.data.types or []:
        if name not in present:
            raise ConfigError(f"data.types: {name} is not in {where}", hint=f"there are: {', '.join(present)}")
    if config.data.types is not None:
        parts = [[row for row in part if row.question_type in config.data.types] for part in parts]
    for file, part in zip(files, parts, strict=True):
        if not part:
            raise DataError(f"{file}: no rows to train on", hint="build-data reports why scans gave no questions")
    rows, base = parts[0], Path(config.data.path)
    if len(files) > 1:
        weights = [weight for _, weight in config.data.folders()]
        moved = [rebase(part, file.parent, base) for file, part in zip(files, parts, strict=True)]
        rows = draw_mix(list(zip(moved, weights, strict=True)), config.run.seed)
    return rows[: config.data.limit], worst(verdicts)


def rows_of_plan(config: TrainConfig) -> tuple[list[Row], RowNumbers]:
    """Return the rows of a run with their numbers; of large files a part of the rows, and the numbers of all.

    Raises:
        VsgrpoError: as `load_rows`, of what was read.
    """
    files, texts = row_files(config), text_settings(config)
    if sum(file.stat().st_size for file in files if file.is_file()) <= SKETCHED_BYTES:
        rows = load_rows(config)[0]
        return rows, numbers_of(rows, texts)
    weighted = list(zip(files, (weight for _, weight in config.data.folders()), strict=True))
    allow_val_safe = config.data.allow_val_safe
    numbers, rows = sketch_files(weighted, texts, config.data.types, config.data.limit, allow_val_safe=allow_val_safe)
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
