"""Answer questions about videos and images: load a model, run the vision tower once per video, decode in batches.

All questions of a video are always handed to one rollout call, which reads them behind one video prefix (the prefix
tree). Under a launcher (`accelerate launch`, torchrun) every process answers videos of its own.

Phases as everywhere: decode (video files), vision (the tower), generate (prefill and decoding together).
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from vsgrpo.data.prompts import question_text
from vsgrpo.data.row import Row
from vsgrpo.errors import DataError
from vsgrpo.evaluation.predictions import Ledger, Media, VideoQuestions, plan_chunks
from vsgrpo.evaluation.score import PromptSettings
from vsgrpo.families import TINY
from vsgrpo.families.model_path import budget_of
from vsgrpo.files import write_atomic
from vsgrpo.modeling.bundle import ModelBundle, base_model, vision_token_ids
from vsgrpo.modeling.device import device_line, own_device
from vsgrpo.modeling.model import load_for_eval
from vsgrpo.modeling.prompt import encode_prompt
from vsgrpo.modeling.quiet import quiet_libraries
from vsgrpo.modeling.rollout import rollout
from vsgrpo.modeling.sampling import Sampling
from vsgrpo.modeling.save import VISION_FILE, recorded_vision
from vsgrpo.modeling.tree import Prompt
from vsgrpo.modeling.vision import FeatureStore
from vsgrpo.progress import Progress
from vsgrpo.terminal import show
from vsgrpo.video.budget import VisionBudget
from vsgrpo.video.loader import VideoInputs, VideoLoader


@dataclass(frozen=True)
class Decoding:
    """Greedy at temperature 0 (one sample), else `num_samples` keyed samples per question (step 0)."""

    temperature: float = 0.0
    num_samples: int = 1
    max_new_tokens: int = 16
    batch_size: int = 32
    seed: int = 42
    layout: str = "tree"
    """tree: questions of a video share its prefix; plain: every prompt on its own. The same answers in fp32."""


VIEWS = ("own", "first_frame", "blank", "none")
"""What of a video is shown: all of it; its first frame all the time; mid-grey frames; nothing, the question alone."""
NUM_PROMPTS_KEPT = 50


class Processes:
    """The processes of this evaluation: one, or those of the launcher that set RANK and WORLD_SIZE."""

    def __init__(self) -> None:
        self.rank, self.world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self.device = own_device()
        if self.rank == 0:
            show(device_line(self.device), sys.stderr)
        if self.world > 1 and not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo", timeout=timedelta(days=1))  # videos differ in work

    def barrier(self) -> None:
        """Wait for the others."""
        if self.world > 1:
            torch.distributed.barrier()


@dataclass
class Clock:
    """Seconds per phase of one chunk."""

    decode: float = 0.0
    vision: float = 0.0
    generate: float = 0.0


def load_evaluated(
    path: str,
    adapter: str | None,
    *,
    dtype: str,
    attn: str,
    offline: bool,
    tiny_folder: Path,
    device: torch.device | None = None,
) -> ModelBundle:
    """Load a model to evaluate onto `device`. `tiny` and `tiny_2_5` are built untrained into `tiny_folder`.

    Raises:
        ConfigError, DataError: as `modeling.model`.
    """
    quiet_libraries()
    bundle = load_for_eval(path, adapter, dtype=dtype, attn=attn, offline=offline, tiny_folder=tiny_folder)
    if device is not None:
        bundle.model.to(device)
    return bundle


def vision_budget(folders: Sequence[str | None], given: Mapping[str, int | None]) -> VisionBudget:
    """Return the budget to evaluate with: what is given, else what the first of `folders` records, else the defaults.

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
    recorded = [found for folder in models if (found := recorded_vision(Path(folder))) is not None]
    values, source = recorded[0] if recorded else ({}, None)
    chosen = {name: value for name, value in given.items() if value is not None}
    budget = budget_of(models[-1] if models else None, {**values, **chosen})
    untold = [name for name in ("num_frames", "min_pixels", "max_pixels") if name not in chosen]
    if models and models[0] not in TINY and untold and source != Path(models[0]) / VISION_FILE:
        told = ", ".join(f"video.{name}={getattr(budget, name)}" for name in untold)
        whence = f"taken from {source}" if source else "the defaults, whatever it was trained with"
        if os.environ.get("RANK", "0") == "0":
            show(f"note: {models[0]}: no {VISION_FILE}: {told} ({whence})", sys.stderr)
    return budget


def group_by_media(rows: Sequence[Row], media_of: Callable[[Row], Media]) -> list[VideoQuestions]:
    """Return the rows by the video or images they are shown, sorted by path, rows in the order given."""
    groups: dict[Media, list[Row]] = {}
    for row in rows:
        groups.setdefault(media_of(row), []).append(row)
    return [VideoQuestions(media, tuple(groups[media])) for media in sorted(groups)]


class Generator:
    """Answers questions with one model, prompt form and way of decoding.

    Args:
        system: system turn, see `modeling.prompt.encode_prompt`.
        text_of: the text of a row's user turn; None: `question_text` in the form of `prompt`.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        loader: VideoLoader,
        prompt: PromptSettings,
        decoding: Decoding,
        system: str | None = None,
        text_of: Callable[[Row], str] | None = None,
    ) -> None:
        self.bundle = bundle
        self.loader = loader
        loader.timed_for = bundle.family.timed_label
        self.store = FeatureStore(bundle)
        self.prompt = prompt
        self.decoding = decoding
        self.system = system
        self.text_of = text_of or (lambda row: question_text(row, prompt.mode, prompt.wording, prompt.show_options))
        greedy = decoding.temperature == 0
        self.sampling = Sampling(
            seed=decoding.seed,
            step=0,
            max_new_tokens=decoding.max_new_tokens,
            eos_ids=eos_ids(bundle),
            temperature=1.0 if greedy else decoding.temperature,
            suppress=vision_token_ids(bundle.model),
            greedy=greedy,
        )

    def run(
        self,
        groups: Sequence[VideoQuestions],
        predictions: Path,
        timing: Path,
        view: str = "own",
        processes: Processes | None = None,
    ) -> None:
        """Answer all questions, appending to `predictions` chunk by chunk; chunks already there are not repeated.

        A video or image that fails to decode leaves its rows unanswered (prediction null and the reason).

        Args:
            timing: one line per chunk, {"videos", "questions", seconds per phase}.
            view: one of `VIEWS`.
            processes: None for this process alone.

        Raises:
            DataError: `predictions` holds answers to other questions.
        """
        rank, world = (processes.rank, processes.world) if processes else (0, 1)
        chunks = plan_chunks(groups, self.decoding.batch_size)
        ledger = Ledger(predictions, chunks, self.decoding.num_samples, rank, world)
        if rank == 0:
            ledger.merge()
        if processes:
            processes.barrier()
        pending = ledger.pending()
        progress = Progress("questions", sum(len(group.rows) for index in pending for group in chunks[index]))
        for index in pending:
            clock = Clock()
            ledger.add(self._answer(chunks[index], clock, view))
            questions = sum(len(group.rows) for group in chunks[index])
            seconds = {name: round(value, 4) for name, value in asdict(clock).items()}
            with timing.open("a", encoding="utf-8") as stream:
                line = {"videos": len(chunks[index]), "questions": questions, **seconds}
                stream.write(json.dumps(line if view == "own" else {**line, "view": view}) + "\n")
            for _ in range(questions):
                progress.advance()
        if processes:
            processes.barrier()
        if rank == 0:
            ledger.merge()

    def write_prompts(self, groups: Sequence[VideoQuestions], path: Path, view: str = "own") -> None:
        """Write all that reaches the model for the first rows: rendered prompt, frames, grid, token counts.

        Runs of placeholders are written as `<|video_pad|> x N`. A video or image that cannot be read is named instead.
        """
        rows = [(row, () if view == "none" else group.media) for group in groups for row in group.rows]
        lines = []
        for row, media in rows[:NUM_PROMPTS_KEPT]:
            line: dict[str, Any] = {"id": row.id, "view": view}
            line["video"] = ", ".join(str(path) for _, path in media) or None
            try:
                shown = [self.loader.medium(path, kind) for kind, path in media]
            except DataError as error:
                lines.append({**line, "error": error.message})
                continue
            ids = encode_prompt(self.bundle.processor, self.text_of(row), shown, self.system)
            frames = [self.loader.budget.sampled_frames if item.kind == "video" else 1 for item in shown]
            grids = [list(item.grid_thw) for item in shown] or [[0, 0, 0]]
            num_tokens = sum(item.num_tokens for item in shown)
            line |= {"frames": sum(frames), "grid_thw": grids[0] if len(grids) == 1 else grids}
            prompt = self._short(self.bundle.tokenizer.decode(ids))
            lines.append(
                {
                    **line,
                    "num_video_tokens": num_tokens,
                    "num_tokens": len(ids),
                    "prompt": prompt,
                }
            )
        write_atomic(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))

    def _short(self, prompt: str) -> str:
        """Write runs of placeholders as their number."""
        processor = self.bundle.processor
        for token in (processor.image_token_id, processor.video_token_id):
            pad = self.bundle.tokenizer.decode([token])
            prompt = re.sub(f"(?:{re.escape(pad)})+", lambda m, pad=pad: f"{pad} x {len(m[0]) // len(pad)}", prompt)
        return prompt

    def _answer(self, chunk: Sequence[VideoQuestions], clock: Clock, view: str) -> list[dict[str, Any]]:
        """Return the lines of one chunk, in row order."""
        began = time.perf_counter()
        shown: dict[Media, tuple[VideoInputs, ...]] = {}
        errors: dict[Media, str] = {}
        for group in chunk:
            wanted = () if view == "none" else group.media
            try:
                shown[group.media] = tuple(_viewed(self.loader.load(path, kind), view) for kind, path in wanted)
            except DataError as error:
                errors[group.media] = error.message
        clock.decode = time.perf_counter() - began
        asked = [(row, shown[group.media]) for group in chunk if group.media in shown for row in group.rows]
        completions = iter(self._generate(asked, clock))
        records = []
        for group in chunk:
            for row in group.rows:
                for sample in range(self.decoding.num_samples):
                    tokens = next(completions) if group.media in shown else None
                    records.append(self._record(row, sample, tokens, errors.get(group.media)))
        return records

    def _generate(self, asked: Sequence[tuple[Row, tuple[VideoInputs, ...]]], clock: Clock) -> list[list[int]]:
        if not asked:
            return []
        began = time.perf_counter()
        features = self.store.features([item for _, media in asked for item in media])
        clock.vision = time.perf_counter() - began
        began = time.perf_counter()
        prompts = [self._prompt(row, media) for row, media in asked]
        keys = [(row.key, sample) for row, _ in asked for sample in range(self.decoding.num_samples)]
        layout = self.decoding.layout
        completions = rollout(
            self.bundle.model,
            prompts,
            features,
            keys,
            self.sampling,
            layout=layout,
            prompts_per_pass=None if layout == "tree" else self.decoding.batch_size,
        )
        clock.generate = time.perf_counter() - began
        return completions

    def _prompt(self, row: Row, media: Sequence[VideoInputs]) -> Prompt:
        shown = [item.medium for item in media]
        ids = encode_prompt(self.bundle.processor, self.text_of(row), shown, self.system)
        return Prompt(tuple(ids), tuple(item.key for item in media))

    def _record(self, row: Row, sample: int, tokens: list[int] | None, error: str | None) -> dict[str, Any]:
        record: dict[str, Any] = {"id": row.id}
        if self.decoding.num_samples > 1:
            record["sample"] = sample
        text = None if tokens is None else self.bundle.tokenizer.decode(tokens, skip_special_tokens=True)
        record |= {"prediction": text, "prompt_mode": self.prompt.mode, "num_tokens": len(tokens or ())}
        return record if error is None else {**record, "error": error}


def _viewed(video: VideoInputs, view: str) -> VideoInputs:
    """Return what a control shows of a video: as many frames, so that the prompt stays the same.

    Its key names all that features and positions depend on: the size, the kind and the seconds of each patch.
    """
    if view == "own":
        return video
    frames = torch.full_like(video.frames, 127) if view == "blank" else video.frames[:1].expand_as(video.frames)
    blank = f"blank {tuple(frames.shape)} {video.medium}"
    key = blank if view == "blank" else f"{video.key} {view}"
    return replace(video, key=key, frames=frames.contiguous())


def hidden_size(bundle: ModelBundle) -> int:
    """Return the width of the language model."""
    return base_model(bundle.model).config.text_config.hidden_size


def eos_ids(bundle: ModelBundle) -> tuple[int, ...]:
    """Return the ids that end an answer: the generation config's and the tokenizer's own."""
    configured = bundle.model.generation_config.eos_token_id
    ids = {configured} if isinstance(configured, int) else set(configured or ())
    return tuple(sorted(ids | {bundle.tokenizer.eos_token_id}))
