"""Checked rows, the loader of their videos, and the flat tables that a run trains on and scores itself on.

The tables are flat: Arrow fills nested dicts with nulls, and Qwen's chat template takes a null `video` entry of a text
part for a video. Messages are built from the columns inside the trainer.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from vsgrpo.config.evaluate import PromptSection
from vsgrpo.config.train import TrainConfig
from vsgrpo.data.pairs import pair_names
from vsgrpo.data.prompts import asked_text, target_text, wrong_answer
from vsgrpo.data.row import Row
from vsgrpo.data.scene_files import boxes_text, scenes_of
from vsgrpo.errors import DataError, SetupError
from vsgrpo.families import budget_of
from vsgrpo.modeling.load import device_line, load
from vsgrpo.modeling.vision import FeatureStore
from vsgrpo.terminal import counted, note, show
from vsgrpo.training.distributed import merged
from vsgrpo.training.launcher import own_rank
from vsgrpo.training.preflight import cache_folder, check_caching, check_enough_rows, load_rows
from vsgrpo.training.row_columns import CARRIED, PRIVILEGED, carried, custom_names
from vsgrpo.video.cache import DiskCache
from vsgrpo.video.loader import BadVideo, VideoLoader
from vsgrpo.video.place import FilePlace

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

    What one process cannot read, all leave out: each has its own decoder, which may be late where another's is not, and
    rows that differ would be other steps.

    Raises:
        DataError: one is bad under video.on_bad=error, more than video.max_quarantined of them are, or no row is left.
        ConfigError: too few rows are left for a rollout buffer.
    """
    base = Path(config.data.path)
    bad: dict[FilePlace, str] = {}
    places = dict.fromkeys(place for row in rows for place in row.media_paths(base))
    if loader.max_quarantined is None:  # a second look, at fewer files, allows no fewer of them
        loader.max_quarantined = int(config.video.max_quarantined * len(places))
    for place in places:
        kind, path, *clip = place
        try:
            loader.medium(path, kind, *clip)
        except BadVideo as error:
            bad[place] = error.message
    bad = merged(bad)
    for (kind, path, *_), message in bad.items():
        loader.quarantine.setdefault(os.path.abspath(path), message)
        if own_rank() == 0:
            show(f"skipped {kind}: {message}", sys.stderr)
    loader.check_quarantine()
    kept = [row for row in rows if not any(place in bad for place in row.media_paths(base))]
    if not kept:
        raise DataError(
            f"{base}: none of {counted(len(bad), 'video or image', 'videos and images')} can be read",
            hint="build the dataset again",
        )
    check_enough_rows(config, kept)
    return kept


def rows_to_dataset(
    rows: Sequence[Row],
    base: Path,
    prompt: PromptSection,
    *,
    targets: bool = False,
    rejected_seed: int | None = None,
    privileged: Mapping[str, str | None] | None = None,
) -> Dataset:
    """Return one table row per question, in order.

    Columns: `prompt` (the text after the media), `system`, `row_key` (dataset/id, with `#k` where a row occurs again:
    sampling noise is keyed by it), `media` (a list of {kind, path}), `video` (its paths, one a line: rows that show the
    same are neighbours in an epoch), `prompt_mode`, and of the row what reward functions may ask for: `row_columns` are
    those of any type (`row_columns.with_columns`). `pair` where rows are in pairs: a name that both rows of one share,
    None for others; these are neighbours, too.

    Args:
        base: the folder of the row file; media paths are relative to it.
        targets: add the column `target`, the text SFT and DPO train the model to say.
        rejected_seed: add the column `rejected`, the text of a wrong answer: the row's own, or drawn with this seed.
        privileged: add the column `privileged`, the text that a teacher reads (`training.privileged`): row key -> text.

    Raises:
        DataError: (targets in a tagged mode) without reasoning, or (rejected) without a wrong answer.
    """
    pairs = pair_names(rows)
    seen: Counter[str] = Counter()
    names = custom_names(rows)
    table: list[dict[str, Any]] = []
    for row in rows:
        media = [{"kind": kind, "path": str(path)} for kind, path in row.media_paths(base)]
        given = {
            "prompt": asked_text(row, prompt),
            "system": prompt.system,
            "row_key": f"{row.key}#{seen[row.key]}" if seen[row.key] else row.key,
            "media": media,
            "video": "\n".join(item["path"] for item in media),
            "prompt_mode": prompt.mode,
            **{name: getattr(row, name) for name in ROW_COLUMNS},
            "options": None if row.options is None else list(row.options),
            CARRIED: carried(row, names),
        }
        if pairs:
            given["pair"] = pairs.get(row.key)
        if privileged is not None:
            given[PRIVILEGED] = privileged.get(row.key)
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
    base, given = Path(config.data.path), {"targets": method != "grpo", "rejected_seed": rejected_seed}
    if config.uses_privileged():
        given["privileged"] = {key: boxes_text(scene) for key, scene in scenes_of(rows, base).items()}
    return rows_to_dataset(rows, base, config.prompt, **given)


FEATURES_FOLDER = "features"
"""Inside video.cache_dir; frames lie beside it."""
GIB = 1 << 30


@dataclass
class CacheSummary:
    """Counts of one call."""

    num_videos: int = 0
    num_decoded: int = 0
    num_through_tower: int = 0
    num_bad: int = 0
    num_corrupt: int = 0
    num_evicted: int = 0
    entries: int = 0
    gib: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)

    def table(self) -> str:
        """Return lines for people."""
        broken = f"{self.num_bad} bad, {counted(self.num_corrupt, 'broken entry', 'broken entries')} made anew"
        return "\n".join(
            [
                f"videos and images {self.num_videos} ({broken})",
                f"decoded           {self.num_decoded}",
                f"through the tower {self.num_through_tower}",
                f"evicted           {counted(self.num_evicted, 'entry', 'entries')}",
                f"in the cache      {counted(self.entries, 'entry', 'entries')}, {self.gib:.3f} GiB",
            ]
        )


def cache_videos(config: TrainConfig, rows: Sequence[Row] | None = None) -> CacheSummary:
    """Fill the caches that `config.video` keeps on disk with all videos of the rows, one process per GPU.

    What is there already is left alone, so a call can be repeated, and several may run at once.

    Args:
        rows: of `preflight.load_rows`, where they have been read already.

    Raises:
        ConfigError: no cache on disk is asked for, no folder for it, or the tower is trained.
        DataError: no rows, or none of the videos can be used.
        SetupError: the disk has less room than the features need.
    """
    folder = check_caching(config)
    wants_features = config.video.feature_cache == "disk"
    rows = load_rows(config)[0] if rows is None else rows
    base = Path(config.data.path)
    paths = list(dict.fromkeys(place for row in rows for place in row.media_paths(base)))
    num_gpus = torch.cuda.device_count() if wants_features and not config.launch.on_cpu else 0
    if wants_features:
        note(device_line("cuda" if num_gpus else "cpu") + f", {max(1, num_gpus)} at a time")
    if num_gpus <= 1:
        summary = _fill(config, folder, paths, "cuda" if num_gpus else "cpu")
    else:
        summary = _fill_on_gpus(config, folder, paths, num_gpus)
    if summary.num_bad == len(paths):
        raise DataError(
            f"{base}: none of {counted(len(paths), 'video')} can be used", hint="`vsgrpo check-data` names the faults"
        )
    return _with_size(summary, folder)


def evict_videos(config: TrainConfig, max_gib: float) -> CacheSummary:
    """Shrink frames and features together to `max_gib`, what was unused for longest first; 0 empties the caches."""
    folder = cache_folder(config)
    summary = CacheSummary()
    left = int(max_gib * GIB)
    # Features first in line for room: they spare the decoder as well as the tower.
    for part in (folder / FEATURES_FOLDER, folder):
        cache = DiskCache(part)
        summary.num_evicted += cache.evict(left)
        left = max(0, left - cache.size()[1])
    return _with_size(summary, folder)


def _with_size(summary: CacheSummary, folder: Path) -> CacheSummary:
    sizes = [DiskCache(part).size() for part in (folder, folder / FEATURES_FOLDER)]
    summary.entries = sum(entries for entries, _ in sizes)
    summary.gib = sum(size for _, size in sizes) / GIB
    return summary


def _fill_on_gpus(config: TrainConfig, folder: Path, paths: Sequence[FilePlace], num_gpus: int) -> CacheSummary:
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    workers = [
        context.Process(target=_fill_part, args=(config, folder, paths[rank::num_gpus], f"cuda:{rank}", results))
        for rank in range(num_gpus)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    total = CacheSummary()
    for number, worker in enumerate(workers):
        try:
            part = results.get(timeout=1) if worker.exitcode == 0 else None
        except queue.Empty:
            part = None
        if part is None:
            raise SetupError(f"cuda:{number}: its process ended with {worker.exitcode}", hint="see its message above")
        for name in ("num_videos", "num_decoded", "num_through_tower", "num_bad", "num_corrupt"):
            setattr(total, name, getattr(total, name) + getattr(part, name))
    return total


def _fill_part(config: TrainConfig, folder: Path, paths: Sequence[FilePlace], device: str, results: Any) -> None:
    results.put(_fill(config, folder, paths, device))


def _fill(config: TrainConfig, folder: Path, paths: Sequence[FilePlace], device: str) -> CacheSummary:
    video = config.video
    frame_cache = "disk" if video.frame_cache == "disk" else "off"
    loader = make_loader(config, frame_cache=frame_cache, cache_dir=folder, on_bad="error")
    store = _make_store(config, folder, device) if video.feature_cache == "disk" else None
    summary = CacheSummary(num_videos=len(paths))
    good = []
    tokens = 0
    for kind, path, *clip in paths:
        try:
            tokens += loader.medium(path, kind, *clip).num_tokens
            good.append((kind, path, *clip))
        except DataError as error:
            _note_bad(summary, error)
    if store is not None:
        _check_room(store, folder, tokens, len(good))
    for number, (kind, path, *clip) in enumerate(good, 1):
        try:
            with torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=config.autocasts(config.trainer)):
                if store is None:
                    loader.load(path, kind, *clip)
                elif loader.key(path, kind, *clip) not in store or video.frame_cache == "disk":
                    store.features([loader.load(path, kind, *clip)])
        except DataError as error:
            _note_bad(summary, error)
        if number % 100 == 0 or number == len(good):
            note(f"{device}: {number} of {counted(len(good), 'video or image', 'videos and images')}")
    summary.num_decoded = loader.num_decoded
    summary.num_corrupt = loader.cache.num_corrupt
    if store is not None and store.disk is not None:
        summary.num_through_tower = store.num_videos
        summary.num_corrupt += store.disk.num_corrupt
    return summary


def _make_store(config: TrainConfig, folder: Path, device: str) -> FeatureStore:
    model = config.model
    bundle = load(
        model.path,
        model.adapter,
        tune="none",
        dtype=config.weight_dtype(),
        attn=model.attn_implementation,
        offline=model.offline,
        device=device,
        tiny_folder=folder / "tiny",
        seed=config.run.seed,
    )
    return FeatureStore(bundle, cache=folder / FEATURES_FOLDER)


def _check_room(store: FeatureStore, folder: Path, num_tokens: int, num_videos: int) -> None:
    """Say how much the features take, and refuse to begin where they cannot fit."""
    bundle = store.bundle
    width = bundle.family.shape_of(bundle.model.config.to_dict()).feature_width
    needed = num_tokens * width * bundle.model.dtype.itemsize
    free = shutil.disk_usage(folder).free
    show(
        f"features of {counted(num_videos, 'video or image', 'videos and images')}: "
        f"{counted(num_tokens, 'token')} x {width}, {needed / GIB:.3f} GiB; "
        f"{free / GIB:.1f} GiB free in {folder}",
        sys.stderr,
    )
    if needed > free + DiskCache(folder / FEATURES_FOLDER).size()[1]:
        raise SetupError(
            f"video.cache_dir={folder}: {needed / GIB:.1f} GiB of features, {free / GIB:.1f} GiB free",
            hint="choose another folder, fewer frames (video.num_frames) or pixels (video.max_pixels)",
        )


def _note_bad(summary: CacheSummary, error: DataError) -> None:
    summary.num_bad += 1
    show(f"bad video: {error.message}", sys.stderr)
