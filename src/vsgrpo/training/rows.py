"""Checked rows, the loader of their videos, and the flat tables that a run trains on and scores itself on.

The tables are flat: Arrow fills nested dicts with nulls, and Qwen's chat template takes a null `video` entry of a text
part for a video. Messages are built from the columns inside the trainer.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from vsgrpo.config.evaluate import PromptSection
from vsgrpo.config.train import TrainConfig
from vsgrpo.data.leak_guard import Links, name_some, read_checked_rows
from vsgrpo.data.manifest import TrainingManifest, rooms_of
from vsgrpo.data.prompts import question_text, target_text, wrong_answer
from vsgrpo.data.room_ids import room_label
from vsgrpo.data.row import Row
from vsgrpo.data.rows import read_rows
from vsgrpo.errors import DataError
from vsgrpo.families import budget_of
from vsgrpo.terminal import show
from vsgrpo.training.preflight import check_enough_rows
from vsgrpo.video.loader import BadVideo, VideoLoader

ROW_COLUMNS = ("dataset", "scene_name", "question_type", "question", "ground_truth", "answer", "answer_kind", "unit")


def make_loader(config: TrainConfig, **changes: Any) -> VideoLoader:
    """Return the loader of the config's vision budget; `changes` are other settings of it than the config's."""
    video = config.video
    settings = {
        "backend": video.backend,
        "timeout_s": video.timeout_s,
        "frame_cache": video.frame_cache,
        "cache_dir": video.cache_dir or Path(config.run.dir) / "cache",
        "on_bad": video.on_bad,
    }
    return VideoLoader(budget_of(config.model.path, config.vision()), **settings | changes)


def readable_rows(config: TrainConfig, rows: list[Row], loader: VideoLoader) -> list[Row]:
    """Leave out the rows of videos and images whose header cannot be read (video.on_bad=skip), and say which.

    Raises:
        DataError: one is bad under video.on_bad=error, more than video.max_quarantined of them are, or no row is left.
        ConfigError: too few rows are left for a rollout buffer.
    """
    base = Path(config.data.path)
    bad: dict[tuple[str, Path], str] = {}
    places = dict.fromkeys(place for row in rows for place in row.media_paths(base))
    if loader.max_quarantined is None:  # a second look, at fewer files, allows no fewer of them
        loader.max_quarantined = int(config.video.max_quarantined * len(places))
    for kind, path in places:
        try:
            loader.medium(path, kind)
        except BadVideo as error:
            bad[kind, path] = error.message
    for (kind, _), message in bad.items():
        show(f"skipped {kind}: {message}", sys.stderr)
    loader.check_quarantine()
    kept = [row for row in rows if not any(place in bad for place in row.media_paths(base))]
    if not kept:
        raise DataError(f"{base}: none of {len(bad)} videos and images can be read", hint="build the dataset again")
    check_enough_rows(config, kept)
    return kept


def rows_to_dataset(
    rows: Sequence[Row], base: Path, prompt: PromptSection, *, targets: bool = False, rejected_seed: int | None = None
) -> Dataset:
    """Return one table row per question, in order.

    Columns: `prompt` (the text after the media), `system`, `row_key` (dataset/id, with `#k` where a row occurs again:
    sampling noise is keyed by it), `media` (a list of {kind, path}), `video` (its paths, one a line: rows that show the
    same are neighbours in an epoch), `prompt_mode`, and of the row what reward functions may ask for.

    Args:
        base: the folder of the row file; media paths are relative to it.
        targets: add the column `target`, the text SFT and DPO train the model to say.
        rejected_seed: add the column `rejected`, the text of a wrong answer: the row's own, or drawn with this seed.

    Raises:
        DataError: (targets in a tagged mode) without reasoning, or (rejected) without a wrong answer.
    """
    seen: Counter[str] = Counter()
    table: list[dict[str, Any]] = []
    for row in rows:
        media = [{"kind": kind, "path": str(path)} for kind, path in row.media_paths(base)]
        given = {
            "prompt": question_text(row, prompt.mode, prompt.wording, prompt.show_options),
            "system": prompt.system,
            "row_key": f"{row.key}#{seen[row.key]}" if seen[row.key] else row.key,
            "media": media,
            "video": "\n".join(item["path"] for item in media),
            "prompt_mode": prompt.mode,
            **{name: getattr(row, name) for name in ROW_COLUMNS},
            "options": None if row.options is None else list(row.options),
        }
        if targets:
            given["target"] = target_text(row, prompt.mode, prompt.show_options)
        if rejected_seed is not None:
            wrong = wrong_answer(row, rejected_seed)
            given["rejected"] = target_text(row, prompt.mode, prompt.show_options, wrong)
        seen[row.key] += 1
        table.append(given)
    return Dataset.from_list(table)


def training_table(config: TrainConfig, rows: Sequence[Row]) -> Dataset:
    """Return the table of a run, with the answers that its method trains on."""
    method = config.trainer.name
    rejected_seed = config.run.seed if method == "dpo" else None
    base = Path(config.data.path)
    return rows_to_dataset(rows, base, config.prompt, targets=method != "grpo", rejected_seed=rejected_seed)


def stage_rows(config: TrainConfig, dataset: Dataset, number: int) -> Dataset:
    """Return the rows of a stage: all, or those of its question types (a curriculum: easy types first)."""
    types = config.trainer.stage_types(number)
    if types is None:
        return dataset
    kept = [i for i, name in enumerate(dataset["question_type"]) if name in types]
    return dataset.select(kept)


def dev_dataset(config: TrainConfig) -> Dataset | None:
    """Return trainer.dev_rows rows of dev.jsonl, evenly spread over it; None where none are wanted.

    Raises:
        DataError: there is no dev.jsonl, or it is empty.
    """
    if config.trainer.dev_rows == 0:
        return None
    base = Path(config.data.path)
    rows, _ = read_checked_rows(base / "dev.jsonl", allow_val_safe=config.data.allow_val_safe)
    if not rows:
        raise DataError(
            f"{base / 'dev.jsonl'}: no rows to score on",
            hint="build the data with data.dev_fraction above 0, or set trainer.dev_rows=0",
        )
    return rows_to_dataset(spread(rows, config.trainer.dev_rows), base, config.prompt)


def dev_overlap(config: TrainConfig, manifest: TrainingManifest) -> str | None:
    """Say how many rooms of dev.jsonl the run, or a model it starts from, trains on; None where none are.

    The dev score then is of rooms that the model knows.
    """
    base = Path(config.data.path)
    if config.trainer.dev_rows == 0:
        return None
    links = Links(base)
    rooms = {room for row in read_rows(base / "dev.jsonl") for room in rooms_of(row, *links(row))}
    known = sorted(room_label(*room) for room in rooms & manifest.known_rooms())
    if not known:
        return None
    return f"{len(known)} of {len(rooms)} rooms of dev.jsonl are trained on ({name_some(known)}): its scores say little"


def spread(rows: Sequence[Row], count: int) -> list[Row]:
    """Return `count` rows at even distances, all of them where there are no more."""
    if len(rows) <= count:
        return list(rows)
    return [rows[i * len(rows) // count] for i in range(count)]
