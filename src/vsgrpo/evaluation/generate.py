"""Answer questions about videos and images: load a model, run the vision tower once per video, decode in batches.

All questions of a video are always handed to one rollout call, which reads them behind one video prefix (the prefix
tree). Under a launcher (`accelerate launch`, torchrun) every process answers videos of its own.

Phases as everywhere: decode (video files), vision (the tower), generate (prefill and decoding together).
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from vsgrpo.data.row import Row
from vsgrpo.errors import DataError
from vsgrpo.evaluation.benchmark import PromptSettings
from vsgrpo.evaluation.decoding import Decoding
from vsgrpo.evaluation.predictions import Ledger, Media, VideoQuestions, plan_chunks
from vsgrpo.evaluation.unsure import Drawn, draw_unsure
from vsgrpo.files import write_atomic
from vsgrpo.modeling.bundle import ModelBundle, base_model, vision_token_ids
from vsgrpo.modeling.load import device_line, load, own_device
from vsgrpo.modeling.logps import logps
from vsgrpo.modeling.prompt import Turn, encode_prompt
from vsgrpo.modeling.rollout import rollout
from vsgrpo.modeling.sampling import Sampling
from vsgrpo.modeling.tree import Prompt, build_trees
from vsgrpo.modeling.vision import FeatureStore
from vsgrpo.terminal import Progress, counted, note
from vsgrpo.video.budget import VisionBudget
from vsgrpo.video.loader import VideoInputs, VideoLoader
from vsgrpo.video.place import place_name

if TYPE_CHECKING:
    from vsgrpo.config.evaluate import EvalConfig


NUM_PROMPTS_KEPT = 50
CONTROL_SECONDS = 60.0
"""Length of every video in controls that must not tell its own."""


@dataclass(frozen=True)
class Asked:
    """The questions of one arm: which rows about which media, where the answers go, what is shown (`arms.VIEWS`)."""

    groups: Sequence[VideoQuestions]
    predictions: Path
    view: str = "own"


@dataclass(frozen=True)
class Processes:
    """This process's rank and device, and how many processes answer together."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=own_device)

    @classmethod
    def join(cls) -> Self:
        """Join the processes of the launcher that set RANK and WORLD_SIZE; the first says what it computes on."""
        found = cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
        if found.is_first:
            note(device_line(found.device))
        if found.world > 1 and not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo", timeout=timedelta(days=1))  # videos differ in work
        return found

    @property
    def is_first(self) -> bool:
        """Whether this process does what is done once for all."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for the others."""
        if self.world > 1:
            torch.distributed.barrier()


def open_generator(
    config: EvalConfig,
    budget: VisionBudget,
    device: torch.device,
    tiny_folder: Path,
    prompt: PromptSettings,
    text_of: Callable[[Row], Turn] | None = None,
    kept: dict[Any, Any] | None = None,
) -> Generator:
    """Load the model of a config (see `modeling.load.load`) and return what answers questions with it.

    Args:
        tiny_folder: where `tiny` and `tiny_2_5` are, or are built untrained.
        prompt, text_of: as `Generator`.
        kept: model and frames of the evaluation before, used where this one asks for the same; this one's are left
            there.
    """
    model, video, kept = config.model, config.video, {} if kept is None else kept
    if taken := model.dtype_note():
        note(taken.removeprefix("; "))
    options = {"dtype": model.dtype, "attn": model.attn_implementation, "offline": model.offline}
    options |= {"text_after_video": model.text_after_video, "vision_marks": config.prompt.vision_marks}
    wanted = (model.path, model.adapter, *options.items())
    if wanted not in kept:
        kept.clear()
        note(f"loading model: {model.adapter or model.path}")
        kept[wanted] = load(model.path, model.adapter, device=device, tiny_folder=tiny_folder, **options)
    cache_dir = video.cache_dir or (str(Path(config.run.dir) / "cache") if video.frame_cache == "disk" else None)
    frames = {"frame_cache": video.frame_cache, "cache_dir": cache_dir}
    shown = (budget, video.backend, video.timeout_s, *frames.items())
    if shown not in kept:
        bundle = kept.pop(wanted)
        kept.clear()
        kept |= {wanted: bundle, shown: VideoLoader(budget, video.backend, video.timeout_s, **frames)}
    return Generator(kept[wanted], kept[shown], prompt, Decoding.of(config), config.prompt.system, text_of)


class Generator:
    """Answers questions with one model, prompt form and way of decoding.

    Args:
        system: system turn, see `modeling.prompt.encode_prompt`.
        text_of: the user turn of a row, see `modeling.prompt.Turn`; None: in the form of `prompt`.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        loader: VideoLoader,
        prompt: PromptSettings,
        decoding: Decoding,
        system: str | None = None,
        text_of: Callable[[Row], Turn] | None = None,
    ) -> None:
        self.bundle = bundle
        self.loader = loader
        bundle.check_mode(prompt.mode)
        loader.timed_for = bundle.family.timed_label
        self.store = FeatureStore(bundle, "memory")
        self.prompt = prompt
        self.decoding = decoding
        self.system = system
        self.text_of = text_of or prompt.text
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

    def run(self, arms: Sequence[Asked], timing: Path, processes: Processes = Processes()) -> None:
        """Answer all questions of all arms, appending to their files chunk by chunk; chunks that are there are kept.

        Chunks are taken in the order of their videos, whatever their arm: a video is decoded once, and its features are
        kept while an arm needs them. A video or image that fails to decode leaves its rows null, with the reason.

        Args:
            timing: one line per chunk, {"videos", "questions", seconds per phase}.

        Raises:
            DataError: a file of predictions holds answers to other questions.
        """
        plans = [plan_chunks(arm.groups, self.decoding.batch_size) for arm in arms]
        ledgers = [
            Ledger(arm.predictions, chunks, self.decoding.num_samples, processes.rank, processes.world)
            for arm, chunks in zip(arms, plans, strict=True)
        ]
        if processes.is_first:
            for ledger in ledgers:
                ledger.merge()
        processes.barrier()
        pending = [(plans[k][index][0].media, k, index) for k, each in enumerate(ledgers) for index in each.pending()]
        jobs = [(arms[k], ledgers[k], plans[k][index]) for _, k, index in sorted(pending)]
        self._left = Counter((arm.view, group.media) for arm, _, chunk in jobs for group in chunk)
        total = sum(len(group.rows) for _, _, chunk in jobs for group in chunk)
        progress = Progress("questions", total, f"answers of up to {counted(self.decoding.max_new_tokens, 'token')}")
        for arm, ledger, chunk in jobs:
            clock = {"decode": 0.0, "vision": 0.0, "generate": 0.0}
            ledger.add(self._answer(chunk, clock, arm.view))
            questions = sum(len(group.rows) for group in chunk)
            seconds = {name: round(value, 4) for name, value in clock.items()}
            with timing.open("a", encoding="utf-8") as stream:
                line = {"videos": len(chunk), "questions": questions, **seconds}
                stream.write(json.dumps(line if arm.view == "own" else {**line, "view": arm.view}) + "\n")
            for _ in range(questions if progress.total > 1 else 0):
                progress.advance()
        processes.barrier()
        if processes.is_first:
            for ledger in ledgers:
                ledger.merge()

    def write_prompts(self, groups: Sequence[VideoQuestions], path: Path, view: str = "own") -> None:
        """Write all that reaches the model for the first rows: rendered prompt, frames, grid, token counts.

        Runs of placeholders are written as `<|video_pad|> x N`. A video or image that cannot be read is named instead.
        """
        rows = [(row, () if view == "none" else group.media) for group in groups for row in group.rows]
        lines = []
        for row, media in rows[:NUM_PROMPTS_KEPT]:
            paths = ", ".join(map(place_name, media)) or None
            line: dict[str, Any] = {"id": row.id, "view": view, "video": paths}
            try:
                shown = [self.loader.medium(path, kind, *clip) for kind, path, *clip in media]
            except DataError as error:
                lines.append({**line, "error": error.message})
                continue
            ids = encode_prompt(self.bundle, self.text_of(row), shown, self.system)
            patch = self.loader.budget.temporal_patch
            frames = [item.grid_thw[0] * patch if item.kind == "video" else 1 for item in shown]
            grids = [list(item.grid_thw) for item in shown] or [[0, 0, 0]]
            num_tokens = sum(item.num_tokens for item in shown)
            line |= {"frames": sum(frames), "grid_thw": grids[0] if len(grids) == 1 else grids}
            prompt = self._short(self.bundle.tokenizer.decode(ids))
            lines.append({**line, "num_video_tokens": num_tokens, "num_tokens": len(ids), "prompt": prompt})
        write_atomic(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))

    def _short(self, prompt: str) -> str:
        """Write runs of placeholders as their number."""
        processor = self.bundle.processor
        for token in (processor.image_token_id, processor.video_token_id):
            pad = self.bundle.tokenizer.decode([token])
            prompt = re.sub(f"(?:{re.escape(pad)})+", lambda m, pad=pad: f"{pad} x {len(m[0]) // len(pad)}", prompt)
        return prompt

    def _answer(self, chunk: Sequence[VideoQuestions], clock: dict[str, float], view: str) -> list[dict[str, Any]]:
        """Return the lines of one chunk, in row order."""
        began = time.perf_counter()
        shown: dict[Media, tuple[VideoInputs, ...]] = {}
        errors: dict[Media, str] = {}
        for group in chunk:
            wanted = () if view == "none" else group.media
            try:
                loaded = (self.loader.load(path, kind, *clip) for kind, path, *clip in wanted)
                shown[group.media] = tuple(view_of(item, view) for item in loaded)
            except DataError as error:
                errors[group.media] = error.message
        clock["decode"] = time.perf_counter() - began
        asked = [(row, shown[group.media]) for group in chunk if group.media in shown for row in group.rows]
        completions = iter(self._generate(asked, clock))
        self._forget(shown, view)
        records = []
        for group in chunk:
            for row in group.rows:
                for sample in range(self.decoding.num_samples):
                    drawn = next(completions) if group.media in shown else None
                    records.append(self._record(row, sample, drawn, errors.get(group.media)))
        return records

    def _forget(self, shown: Mapping[Media, tuple[VideoInputs, ...]], view: str) -> None:
        """Drop features that no later chunk needs; grey frames of one size are the same for all videos, and stay."""
        self._left.subtract((view, media) for media in shown)
        if view in ("own", "first_frame"):
            done = [items for media, items in shown.items() if not self._left[view, media]]
            self.store.forget(item.key for items in done for item in items)

    def _generate(self, asked: Sequence[tuple[Row, tuple[VideoInputs, ...]]], clock: dict[str, float]) -> list[Drawn]:
        if not asked:
            return []
        began = time.perf_counter()
        features = self.store.features([item for _, media in asked for item in media])
        clock["vision"] = time.perf_counter() - began
        began = time.perf_counter()
        prompts = [self._prompt(row, media) for row, media in asked]
        keys = [(row.key, sample) for row, _ in asked for sample in range(self.decoding.num_samples)]
        layout, model = self.decoding.layout, self.bundle.model
        size = None if layout == "tree" else self.decoding.batch_size

        def draw(prompts: Sequence[Prompt], keys: Sequence[tuple[str, int]]) -> list[list[int]]:
            return rollout(model, prompts, features, keys, self.sampling, layout=layout, prompts_per_pass=size)

        @torch.no_grad()
        def score(prompts: Sequence[Prompt], completions: Sequence[Sequence[int]]) -> list[float]:
            trees = build_trees(prompts, [[completion] for completion in completions], layout == "tree")
            return [rows.mean().exp().item() for rows, _ in logps(model, trees, features, layout=layout)]

        if (below := self.decoding.think_below) is None:
            found = [Drawn(tokens, self.prompt.mode) for tokens in draw(prompts, keys)]
        else:
            first = [self._prompt(row, media, "vanilla") for row, media in asked]
            rows = [row for row, _ in asked]
            found = draw_unsure(rows, {"vanilla": first, "think": prompts}, below, draw, score)
        clock["generate"] = time.perf_counter() - began
        return found

    def _prompt(self, row: Row, media: Sequence[VideoInputs], mode: str | None = None) -> Prompt:
        shown = [item.medium for item in media]
        text = self.text_of(row) if mode is None else replace(self.prompt, mode=mode).text(row)
        ids = encode_prompt(self.bundle, text, shown, self.system)
        return Prompt(tuple(ids), tuple(item.key for item in media))

    def _record(self, row: Row, sample: int, drawn: Drawn | None, error: str | None) -> dict[str, Any]:
        record: dict[str, Any] = {"id": row.id}
        if self.decoding.num_samples > 1:
            record["sample"] = sample
        if drawn is None:
            found = {"prediction": None, "prompt_mode": self.prompt.mode, "num_tokens": 0}
            return record | found | ({} if error is None else {"error": error})
        texts = self.bundle.answers([drawn.tokens, *([drawn.first] if drawn.first is not None else [])])
        if drawn.mode != self.prompt.mode and self.prompt.answer_mode != "vanilla":
            texts[0] = f"<answer>{texts[0]}</answer>"  # where answers are read from tags
        record |= {"prediction": texts[0], "prompt_mode": drawn.mode, "num_tokens": len(drawn.tokens)}
        if drawn.probability is not None:
            record |= {"first_answer": texts[-1]} if drawn.first is not None else {}
            record |= {"first_probability": drawn.probability}
        return record


PLAIN = {"blank": 127, "timing": 127, "black": 0}
"""View without a picture -> the value of all its pixels."""


def view_of(video: VideoInputs, view: str) -> VideoInputs:
    """Return what a control shows of a video: as many frames, so that the prompt stays the same.

    Its key names all that features and positions depend on: the size, the kind and the times of patches.
    """
    if view == "own":
        return video
    medium = video.medium if view == "timing" else video.medium.lasting(CONTROL_SECONDS)
    level = PLAIN.get(view)
    frames = video.frames[:1].expand_as(video.frames) if level is None else torch.full_like(video.frames, level)
    name = "black" if view == "black" else "blank"
    key = f"{video.key} {view}" if level is None else f"{name} {tuple(frames.shape)} {medium}"
    return replace(video, key=key, frames=frames.contiguous(), medium=medium)


def hidden_size(bundle: ModelBundle) -> int:
    """Return the width of the language model."""
    return base_model(bundle.model).config.text_config.hidden_size


def eos_ids(bundle: ModelBundle) -> tuple[int, ...]:
    """Return the ids that end an answer: the generation config's and the tokenizer's own."""
    configured = bundle.model.generation_config.eos_token_id
    ids = {configured} if isinstance(configured, int) else set(configured or ())
    return tuple(sorted(ids | {bundle.tokenizer.eos_token_id}))
