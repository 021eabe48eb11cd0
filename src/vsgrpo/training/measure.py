"""Seconds of a step by phase, bytes at the peak, and the largest microbatch, tried before training."""

from __future__ import annotations

import random
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from vsgrpo.config.launching import WHOLE
from vsgrpo.config.train import TrainConfig
from vsgrpo.config.trainer import TrainerSection
from vsgrpo.errors import RunError, first_line
from vsgrpo.modeling.logps import logps
from vsgrpo.modeling.prompt import encode_prompt
from vsgrpo.modeling.rollout import rollout
from vsgrpo.modeling.tree import Prompt, TokenCount, build_trees
from vsgrpo.modeling.vision import FeatureStore, is_tower_trained
from vsgrpo.video.budget import Medium, VisionBudget
from vsgrpo.video.loader import VideoInputs, VideoLoader

if TYPE_CHECKING:
    from vsgrpo.memory.load import Load

PHASES = ("decode", "vision", "prefill", "generate", "reward", "reference", "update", "optimizer", "save")


class HostEdge:
    """A point in time between phases of a process that computes on the host; `torch.cuda.Event` is that of a GPU."""

    def __init__(self) -> None:
        self._at = time.perf_counter()

    def query(self) -> bool:
        """Return whether the point is passed."""
        return True

    def elapsed_time(self, later: HostEdge) -> float:
        """Return the milliseconds to a later point."""
        return 1e3 * (later._at - self._at)


def edge_now() -> Any:
    """Return the point in time at which all work that was queued so far is done."""
    if not torch.cuda.is_initialized():  # a run on the CPU must not take memory of a GPU
        return HostEdge()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


class PhaseTimer:
    """Seconds per phase, exclusive: while an inner phase runs, the clock of the outer one is stopped, so phases add up.

    Work on a GPU counts in the phase that queued it. Nobody waits for it: the seconds of what it has not yet done come
    with the next `take`. Counts of work are kept beside the seconds.
    """

    def __init__(self) -> None:
        self._running: list[str] = []
        self._edges: deque[tuple[str | None, Any]] = deque()
        """Edges whose seconds nobody has taken, each with the phase that runs from there on."""
        self._since = time.perf_counter()
        self._ended: str | None = None
        self._counts: dict[str, int] = {}
        self._taken = time.perf_counter()
        self.failed_in: str | None = None
        """The innermost phase that an exception left first."""

    @property
    def running(self) -> tuple[str | None, float]:
        """The innermost phase that runs, None between phases, and when it last began to (`time.perf_counter`)."""
        return (self._running[-1] if self._running else None), self._since

    def place(self) -> str:
        """Say where this process is, or failed: in a phase, after one, or before the first."""
        phase = self.failed_in or self.running[0]
        if phase is not None:
            return f"in phase {phase}"
        return "in set-up" if self._ended is None else f"after phase {self._ended}"

    def is_in(self, phase: str) -> bool:
        """Return whether this phase, or one inside it, is running."""
        return phase in self._running

    def start(self, phase: str) -> None:
        """Start a phase; the clock of the one that ran is stopped until this one ends."""
        if phase not in PHASES:
            raise ValueError(f"{phase}: not one of {PHASES}")
        self._running.append(phase)
        self._mark()

    def stop(self) -> None:
        """Stop the phase started last."""
        self._ended = self._running.pop()
        self._mark()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a block."""
        self.start(name)
        try:
            yield
        except BaseException:
            self.failed_in = self.failed_in or name
            raise
        finally:
            self.stop()

    def take(self) -> dict[str, float]:
        """Return the seconds of each phase since the last call, in the order of `PHASES`."""
        self._mark()
        seconds: dict[str, float] = {}
        while len(self._edges) > 1 and self._edges[1][1].query():
            phase, edge = self._edges.popleft()
            later = self._edges[0][1]
            if phase is not None and type(edge) is type(later):  # the GPU was first used in between
                seconds[phase] = seconds.get(phase, 0.0) + edge.elapsed_time(later) / 1e3
        return {phase: seconds[phase] for phase in PHASES if phase in seconds}

    def count(self, name: str, amount: int) -> None:
        """Add to a count of work."""
        self._counts[name] = self._counts.get(name, 0) + amount

    def count_tokens(self, tokens: TokenCount) -> None:
        """Add the language model's tokens of one pass, beside what a plain step would compute."""
        self.count("tokens/computed", tokens.computed)
        self.count("tokens/plain", tokens.plain)

    def take_counts(self) -> dict[str, int]:
        """Return the counts since the last call, and start from zero."""
        counts, self._counts = self._counts, {}
        return counts

    def take_summary(self) -> dict[str, Any]:
        """Return what `summarize` takes: phases, counts and wall seconds since the last call, and the memory's peak."""
        now, since = time.perf_counter(), self._taken
        self._taken = now
        return {"phases": self.take(), "counts": self.take_counts(), "seconds": now - since, "peak": peak_memory()}

    def _mark(self) -> None:
        self._edges.append((self._running[-1] if self._running else None, edge_now()))
        self._since = time.perf_counter()


def peak_memory() -> int:
    """Return the most bytes that this process has had on its GPU, or in main memory where it uses none."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    kilo = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilo


def summarize(summaries: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Put the summaries of all processes into log entries.

    Returns:
        time/PHASE: mean seconds of the processes; time_max/PHASE: of the slowest one (several processes only); counts:
        summed; tokens/second: tokens computed by all, over the wall seconds; memory/peak_gib: of the fullest process.
    """
    phases = [phase for phase in PHASES if any(phase in item["phases"] for item in summaries)]
    spent = {phase: [item["phases"].get(phase, 0.0) for item in summaries] for phase in phases}
    logs: dict[str, float] = {f"time/{phase}": sum(spent[phase]) / len(summaries) for phase in phases}
    if len(summaries) > 1:
        logs |= {f"time_max/{phase}": max(spent[phase]) for phase in phases}
    for name in dict.fromkeys(name for item in summaries for name in item["counts"]):
        logs[name] = sum(item["counts"].get(name, 0) for item in summaries)
    seconds = max(item["seconds"] for item in summaries)
    if "tokens/computed" in logs:
        logs["tokens/second"] = logs["tokens/computed"] / max(seconds, 1e-9)
    logs["memory/peak_gib"] = max(item["peak"] for item in summaries) / 2**30
    return logs


DRAWN_TOKENS = 2
"""Tokens drawn of each completion in the rollout: the prompts take the memory, drawing adds little per token."""
BlankPrompt = tuple[tuple[int, ...], list[VideoInputs]]
"""Token ids of a prompt, and blank frames of its media's size."""


def wants_probe(config: TrainConfig, section: TrainerSection) -> bool:
    """Tell whether trainer.probe_longest asks for it: `auto` does where a GPU holds the whole model."""
    if section.probe_longest == "auto":
        return not config.launch.on_cpu and config.launch.profile in WHOLE
    return section.probe_longest == "on"


def probe_longest(trainer: Any, section: TrainerSection, load: Load) -> str:
    """Run the largest microbatch of a stage once and forget it; return what was tried and what it took, in words.

    It works on blank frames of the size of the longest samples, keeps nothing and leaves all random states as they
    were: a run is the same with and without it. Engines that shard weights reduce gradients inside backward, so there
    the estimate (`memory/`) has to do.

    Args:
        trainer: a `StageTrainer` that is not yet training; its model is on its device, without an engine around it.
        load: work of this process in the stage.

    Raises:
        RunError: out of memory, naming what was tried and the keys to lower.
    """
    longest = _longest_rows(
        trainer.train_dataset, trainer.loader, trainer.bundle.family.written, load.trees * load.questions
    )
    ids = [tuple(encode_prompt(trainer.bundle, row["prompt"], row["shown"], row["system"])) for row in longest]
    media = [blank_media(row["shown"], trainer.loader.budget) for row in longest]
    prompt_tokens = max(map(len, ids))
    completion = load.tokens.completion
    if not load.drawn:
        completion = max(len(trainer.bundle.tokenizer(row["target"])["input_ids"]) for row in longest) + 1
    start = time.monotonic()
    tried = f"prompts of {prompt_tokens} tokens, completions of {completion}"
    try:
        with _unchanged(trainer):
            tokens = _run(trainer, section, load, list(zip(ids, media, strict=True)), completion)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "allocate" not in str(error):
            raise
        raise RunError(
            f"out of memory on the largest microbatch of this stage ({tried}): {first_line(error)}",
            hint="set trainer.gradient_checkpointing=true, or lower trainer.per_device_train_batch_size, "
            "trainer.gradient_accumulation_steps or video.num_frames",
        ) from error
    took = f"{time.monotonic() - start:.1f} s, peak {peak_memory() / 2**30:.2f} GiB"
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return (
        f"largest microbatch tried: prompts of up to {prompt_tokens} tokens, {tokens} tokens in a forward and "
        f"backward, {took}"
    )


def _longest_rows(
    rows: Dataset, loader: VideoLoader, written: Callable[[Medium], str], count: int
) -> list[dict[str, Any]]:
    """Return the `count` rows with the most tokens, repeated where there are fewer; `shown` are the media of each."""
    shown = [[(item["path"], item["kind"]) for item in media] for media in rows["media"]]
    sizes = {place: loader.medium(*place) for place in dict.fromkeys(chain.from_iterable(shown))}
    texts = [rows[name] for name in ("prompt", "target") if name in rows.column_names]
    lengths = [  # each digit of a time is a token
        sum(sizes[place].num_tokens + len(written(sizes[place])) for place in places)
        + sum(len(text.encode()) for text in text_of) / 4
        for places, *text_of in zip(shown, *texts, strict=True)
    ]
    order = sorted(range(len(lengths)), key=lambda number: (-lengths[number], number))[:count]
    most = [{**rows[number], "shown": [sizes[place] for place in shown[number]]} for number in order]
    return [most[i % len(most)] for i in range(count)]


def blank_media(shown: Sequence[Medium], budget: VisionBudget) -> list[VideoInputs]:
    """Return black frames for each medium, with keys that differ where kind or grid differ."""
    media = []
    for number, medium in enumerate(shown):
        (num_patches, rows, columns), is_image = medium.grid_thw, medium.kind == "image"
        num_frames = 1 if is_image else budget.temporal_patch * num_patches
        frames = torch.zeros((num_frames, 3, budget.patch * rows, budget.patch * columns), dtype=torch.uint8)
        timed = replace(medium, seconds_per_patch=None if is_image else 1.0)
        media.append(VideoInputs(f"{number} {medium.kind} {medium.grid_thw}", frames, timed))
    return media


def _run(trainer: Any, section: TrainerSection, load: Load, prompts: list[BlankPrompt], completion: int) -> int:
    """Tower, rollout, forward and backward; return the tokens of the forward."""
    model, store = trainer.bundle.model, FeatureStore(trainer.bundle)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # The optimizer's moments do not exist yet: hold their place.
    moments = [torch.empty_like(parameter) for parameter in trained for _ in range(section.num_moments)]
    if load.drawn and trainer.served is None:
        _roll_out(trainer, load, prompts[0], store)
    used = [name_media(prompt, f"video {i // load.questions}") for i, prompt in enumerate(prompts)]
    ids = [token % 100 for token in range(completion)]  # any text will do
    trees = build_trees([prompt for prompt, _ in used], [[ids] * load.group] * len(used), load.layout == "tree")
    media = {item.key: item for _, shown in used for item in shown}
    with trainer.accelerator.autocast():
        features = store.features(list(media.values()), grad=is_tower_trained(model))
        options = {"attention": section.prefix_attention, "chunk": section.logps_chunk}
        rows = logps(model, trees, features, entropy=True, layout=load.layout, **options)
    scores: list[Tensor] = [score for score, _ in rows]
    (-torch.cat(scores).mean()).backward()
    del moments
    prefix = sum(len(tree.prefix) for tree in trees)
    return prefix + sum(len(q.token_ids) - 1 + load.group * completion for tree in trees for q in tree.questions)


def name_media(prompt: BlankPrompt, name: str) -> tuple[Prompt, list[VideoInputs]]:
    """Name a prompt's media: questions of one tree show the same where kind and size are equal, others never do."""
    ids, media = prompt
    named = [replace(item, key=f"{name} {item.key}") for item in media]
    return Prompt(ids, tuple(item.key for item in named)), named


def _roll_out(trainer: Any, load: Load, prompt: BlankPrompt, store: FeatureStore) -> None:
    """Read as many of the longest prompt as a buffer holds, each with media of its own, and draw a few tokens."""
    count = load.buffer_questions
    shown = [name_media(prompt, f"buffer {i}") for i in range(count)]
    sampling = trainer._sampling()
    short = replace(sampling, eos_ids=(), max_new_tokens=min(DRAWN_TOKENS, sampling.max_new_tokens))
    with torch.no_grad(), trainer.accelerator.autocast():
        features = store.features([item for _, media in shown for item in media])
        keys = [(f"probe {i}", g) for i in range(count) for g in range(load.drawn // count)]
        rollout(trainer.bundle.model, [p for p, _ in shown], features, keys, short, layout=load.drawing_layout)


@contextmanager
def _unchanged(trainer: Any) -> Iterator[None]:
    """Give back random states, gradients and modes as they were."""
    model = trainer.bundle.model
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    states = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        with torch.random.fork_rng(devices=devices):
            model.train()
            yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, mode in modes:
            module.training = mode
        random.setstate(states[0])
        np.random.set_state(states[1])
