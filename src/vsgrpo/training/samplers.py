"""Order in which rows are trained on, keyed by (run seed, epoch): a resumed run sees the same order.

The stock samplers draw from a generator that a resume starts anew; here the order of an epoch is a function of its
number alone. Questions of one video stay side by side where asked, so that its features and prefix are computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from hashlib import blake2b

import numpy as np
from torch.utils.data import Sampler

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
    counts: dict[str, int] = {}
    turns = []
    for place, (kind, row) in enumerate(zip(kinds, rows, strict=True)):
        turns.append((counts.get(kind, 0), place, row))
        counts[kind] = counts.get(kind, 0) + 1
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
