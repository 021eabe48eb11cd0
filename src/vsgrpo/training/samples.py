"""Samples on their way through a step: prompt tokens, media, features and completion, then a line of completions.jsonl.

Text and media stay apart: token ids come from the row's text and the media's numbers of tokens, frames become features
by the vision tower. Samples travel in batches as plain Python lists of shared references, because TRL permutes and
slices lists row by row, while flat pixel arrays would be cut as if they were rows.
"""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from hashlib import blake2b
from itertools import groupby
from typing import Any

import numpy as np
from datasets import Dataset
from torch import Tensor
from torch.utils.data import Sampler

from vsgrpo.config.train import TrainConfig
from vsgrpo.modeling.bundle import MediaFeatures, ModelBundle
from vsgrpo.modeling.prompt import encode_prompt
from vsgrpo.modeling.tree import Prompt, Tree, build_trees
from vsgrpo.modeling.vision import FeatureStore
from vsgrpo.terminal import show
from vsgrpo.training.measure import PhaseTimer
from vsgrpo.video.budget import Medium
from vsgrpo.video.loader import BadVideo, VideoInputs, VideoLoader

COMPLETIONS_SCHEMA_VERSION = 1
END_OF_TURN = "<|im_end|>"
MAX_CACHED_PROMPTS = 8192


@dataclass
class Sample:
    """One completion (or the place of one) of one row.

    Attributes:
        row_key: dataset/id, with `#k` where a row occurs again.
        index: number of the completion in its group.
        media: decoded frames, shared by all samples that show them; None where a file turned out bad (on_bad=skip), and
            where a process has no row for a microbatch that others have rows for (`sft_dpo.DealtBatches`).
            Such a sample goes through every pass with its text alone, so that all processes make the same calls, and
            counts nowhere.
        features: of the frozen tower, one per medium, filled before the rollout; None where the tower is trained (they
            change with every update and are computed in each pass).
        completion: token ids, EOS included where produced.
        logprobs: of the completion's tokens, where a server drew them.
        rewards: of each reward function, where they were scored ahead of the others (`group_filter`).
        reward: weighted sum of the reward functions; None where there is none.
        teacher, taught: prompt of the teacher, and its log-probs of the completion's tokens, where it teaches (GPD).
    """

    row_key: str
    index: int
    prompt: Prompt
    media: tuple[VideoInputs, ...] | None
    features: tuple[MediaFeatures, ...] | None = None
    completion: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    rewards: tuple[float, ...] = ()
    reward: float | None = None
    teacher: Prompt | None = None
    taught: Tensor | None = None


class TeacherSample(Sample):
    """A completion behind a prompt that says more than the model may see: it is scored, nothing is drawn from it."""


class SampleMaker:
    """Turns table rows into samples: decodes each video and image of a batch once, tokenises each prompt once.

    Args:
        loader: decodes and resizes; keeps frames where its cache says so.
    """

    def __init__(self, bundle: ModelBundle, loader: VideoLoader, timer: PhaseTimer) -> None:
        self._bundle = bundle
        self._loader = loader
        self._timer = timer
        self._prompts: OrderedDict[tuple[Any, ...], tuple[int, ...]] = OrderedDict()
        self._bad: set[str] = set()
        self.store: FeatureStore | None = None
        """Videos and images whose features it has are not decoded."""

    def medium(self, path: str, kind: str) -> Medium:
        """Return kind, grid, tokens and timing of a file from its header.

        Raises:
            DataError: it cannot be read.
        """
        return self._loader.medium(path, kind)

    def make(self, rows: Sequence[Mapping[str, Any]], indices: Sequence[int]) -> list[Sample]:
        """Return one sample per row; `indices` are their numbers in the group."""
        with self._timer.phase("decode"):
            wanted = dict.fromkeys((item["kind"], item["path"]) for row in rows for item in row["media"])
            loaded = {place: self._load(*place) for place in wanted}
            known: dict[str, tuple[Prompt, tuple[VideoInputs, ...] | None]] = {}
            for row in rows:
                if row["row_key"] not in known:
                    found = [item for m in row["media"] if (item := loaded[m["kind"], m["path"]]) is not None]
                    # A question is asked with all it shows, or not.
                    media = tuple(found) if len(found) == len(row["media"]) else None
                    known[row["row_key"]] = (self.prompt(row["prompt"], row["system"], media or ()), media)
        return [Sample(row["row_key"], index, *known[row["row_key"]]) for row, index in zip(rows, indices, strict=True)]

    def make_answered(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[Sample]:
        """Return a sample for each answer in `columns` of each row, neighbours; it ends with `<|im_end|>`."""
        samples = self.make([row for row in rows for _ in columns], [*range(len(columns))] * len(rows))
        tokenizer = self._bundle.tokenizer
        texts = [self._bundle.without_opening(row[name]) for row in rows for name in columns]
        end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
        for sample, answer in zip(samples, tokenizer(texts, add_special_tokens=False)["input_ids"], strict=True):
            sample.completion = (*answer, end)
        return samples

    def make_filler(self, row: Mapping[str, Any], columns: Sequence[str]) -> list[Sample]:
        """Return `make_answered` of one row without its media: like a row whose video is bad, it counts nowhere."""
        samples = self.make_answered([{**row, "media": []}], columns)
        for sample in samples:
            sample.media = None
        return samples

    def _load(self, kind: str, path: str) -> VideoInputs | None:
        try:
            if self.store is not None and self._loader.key(path, kind) in self.store:
                return self._loader.undecoded(path, kind)
            return self._loader.load(path, kind)
        except BadVideo as error:
            if path not in self._bad:
                self._bad.add(path)
                show(f"skipped {kind}: {error.message}", sys.stderr)
                self._loader.check_quarantine()
            return None

    def prompt(self, text: str, system: str | None, media: Sequence[VideoInputs]) -> Prompt:
        """Return the prompt of a user turn with this text behind these media."""
        shown = [item.medium for item in media]
        written = self._bundle.family.written  # equal sizes at other times are another prompt
        key = (text, system, *((item.kind, item.num_tokens, written(item)) for item in shown))
        ids = self._prompts.pop(key, None)
        if ids is None:
            ids = tuple(encode_prompt(self._bundle, text, shown, system))
            if len(self._prompts) >= MAX_CACHED_PROMPTS:
                self._prompts.popitem(last=False)
        self._prompts[key] = ids
        return Prompt(ids, tuple(item.key for item in media))


def compute_features(
    samples: Sequence[Sample], store: FeatureStore, timer: PhaseTimer, *, grad: bool = False
) -> dict[str, MediaFeatures]:
    """Return the features of the samples' media by key, the tower run once per video or image that has none yet.

    Args:
        grad: keep the graph through the tower (a tower that is trained, in the update pass).
    """
    features: dict[str, MediaFeatures] = {}
    missing: dict[str, VideoInputs] = {}
    shown = 0
    for sample in samples:
        shown += len(sample.media or ())
        if sample.features is not None:
            features |= zip((item.key for item in sample.media or ()), sample.features, strict=True)
        else:
            missing |= {item.key: item for item in sample.media or ()}
    timer.count("videos/plain", shown)
    if missing:
        before = store.num_videos
        with timer.phase("vision"):
            features |= store.features(list(missing.values()), grad=grad)
        timer.count("videos/computed", store.num_videos - before)
    return features


def completion_record(step: int, row: Mapping[str, Any], sample: Sample, text: str, advantage: float) -> dict[str, Any]:
    """Return a line of completions.jsonl."""
    return {
        "schema_version": COMPLETIONS_SCHEMA_VERSION,
        "step": step,
        "id": sample.row_key,
        "question_type": row["question_type"],
        "index": sample.index,
        "completion": text,
        "num_tokens": len(sample.completion),
        "answer": row["answer"],
        "reward": sample.reward,
        "advantage": round(advantage, 4),
    }


def sample_trees(samples: Sequence[Sample], layout: str) -> list[Tree]:
    """Return trees whose leaves, in order, are the samples' completions; neighbours of one prompt form a group.

    A group torn by microbatching becomes two groups: still exact, only less is shared.
    """
    groups = [list(group) for _, group in groupby(samples, key=lambda sample: sample.row_key)]
    return build_trees(
        [group[0].prompt for group in groups], [[s.completion for s in group] for group in groups], layout == "tree"
    )


MIN_VIDEOS_PER_STEP = 8
"""Questions of one video pull in related directions; below this many videos an update rests on too few scenes."""


def epoch_order(
    videos: Sequence[str], questions_per_video: int, seed: int, epoch: int, types: Sequence[str] | None = None
) -> list[int]:
    """Return a permutation of the row numbers for one epoch.

    The rows of each video are shuffled, dealt out over question types in turn, and cut into chunks of at most
    `questions_per_video`, then the chunks are shuffled: with 1 this is a plain permutation of the rows.

    Args:
        videos: the video of each row.
        types: the question type of each row; a chunk holds as many types as the rows of its video allow in this deal.
    """
    digest = blake2b(f"order/{seed}/{epoch}".encode(), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "big"))
    of_video: dict[str, list[int]] = {}
    for row, video in enumerate(videos):
        of_video.setdefault(video, []).append(row)
    chunks: list[list[int]] = []
    for rows in of_video.values():
        mixed = [rows[int(i)] for i in rng.permutation(len(rows))]
        if types is not None and questions_per_video > 1:
            mixed = _deal([types[row] for row in mixed], mixed)
        chunks += [mixed[i : i + questions_per_video] for i in range(0, len(mixed), questions_per_video)]
    return [row for i in rng.permutation(len(chunks)) for row in chunks[i]]


def _deal(kinds: Sequence[str], rows: Sequence[int]) -> list[int]:
    """Order rows such that the n-th rows of all types come before the (n + 1)-th of any."""
    counts: Counter[str] = Counter()
    turns = []
    for place, (kind, row) in enumerate(zip(kinds, rows, strict=True)):
        turns.append((counts[kind], place, row))
        counts[kind] += 1
    return [row for _, _, row in sorted(turns)]


def few_videos(rows_per_step: int, questions_per_video: int) -> str | None:
    """Return a warning where the rows of one optimizer step can come from fewer than `MIN_VIDEOS_PER_STEP` videos."""
    videos = rows_per_step // questions_per_video
    if questions_per_video == 1 or videos >= MIN_VIDEOS_PER_STEP:
        return None
    return (
        f"trainer.questions_per_video={questions_per_video}: the {rows_per_step} questions of an optimizer step may be "
        f"of {max(videos, 1)} videos; below {MIN_VIDEOS_PER_STEP} their gradients are alike "
        "(raise trainer.gradient_accumulation_steps)"
    )


@dataclass(eq=False)
class VideoSampler(Sampler[int]):
    """Every row once an epoch, rows of one video side by side (SFT and DPO).

    Attributes:
        videos: the video of each row.
        epoch: asked when an iteration starts.
        types: the question type of each row.
    """

    videos: Sequence[str]
    _: KW_ONLY
    questions_per_video: int
    seed: int
    epoch: Callable[[], int]
    types: Sequence[str] | None = None

    def order(self, epoch: int) -> list[int]:
        """Return the row numbers of an epoch."""
        return epoch_order(self.videos, self.questions_per_video, self.seed, epoch, self.types)

    def __iter__(self) -> Iterator[int]:
        return iter(self.order(self.epoch()))

    def __len__(self) -> int:
        return len(self.videos)


@dataclass(eq=False)
class RolloutSampler(VideoSampler):
    """Rows of GRPO rollout buffers: `prompts_per_buffer` rows `num_generations` times each, all that `repeats` times.

    The Trainer hands process p the p-th contiguous part of a buffer, and the trainer cuts that part into microbatches
    in order. So the groups are laid out such that microbatch m of all processes together is the m-th part of the
    epoch's order: the groups that meet in one update do not depend on the number of processes. What TRL does after
    generation (a shuffle of single completions, which tears groups) is not needed: the order is a keyed permutation
    before it. Rows that do not fill a last buffer wait for the next epoch, as in TRL.

    Attributes:
        repeats: how often the trainer draws one buffer (TRL draws it once for every microbatch and iteration).
        num_processes: processes that share a buffer.
        num_microbatches: microbatches of one process in a buffer.
        whole_groups: False where a microbatch cannot hold whole groups; the order is then left as drawn.
    """

    _: KW_ONLY
    num_generations: int
    prompts_per_buffer: int
    repeats: int
    num_processes: int = 1
    num_microbatches: int = 1
    whole_groups: bool = True

    def __post_init__(self) -> None:
        parts = self.num_processes * self.num_microbatches
        self._positions = list(range(self.prompts_per_buffer))
        if self.whole_groups and self.prompts_per_buffer % parts == 0:
            size = self.prompts_per_buffer // parts
            self._positions = [
                (microbatch * self.num_processes + process) * size + group
                for process in range(self.num_processes)
                for microbatch in range(self.num_microbatches)
                for group in range(size)
            ]

    def buffers(self, epoch: int) -> list[list[int]]:
        """Return the rows of each buffer of an epoch, in the order the processes take them."""
        order, size = self.order(epoch), self.prompts_per_buffer
        full = [order[i : i + size] for i in range(0, len(order) - size + 1, size)]
        return [[rows[position] for position in self._positions] for rows in full]

    def __iter__(self) -> Iterator[int]:
        for rows in self.buffers(self.epoch()):
            yield from [row for row in rows for _ in range(self.num_generations)] * self.repeats

    def __len__(self) -> int:
        buffers = len(self.videos) // self.prompts_per_buffer
        return buffers * self.prompts_per_buffer * self.num_generations * self.repeats


def stage_rows(config: TrainConfig, dataset: Dataset, number: int) -> Dataset:
    """Return the rows of a stage: all, or those of its question types (a curriculum: easy types first)."""
    types = config.trainer.stage_types(number)
    if types is None:
        return dataset
    kept = [i for i, name in enumerate(dataset["question_type"]) if name in types]
    return dataset.select(kept)
