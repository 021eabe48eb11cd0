"""T-GRPO: a bonus for questions that are answered better from a video than from its frames in another order.

For each question `trainer.temporal_generations` further completions are drawn whose prompt shows the temporal patches
of its videos (pairs of frames) in another order. Nothing is decoded again, and with a frozen tower nothing goes through
it again: it attends within a patch only, so the features of shuffled patches are the shuffled features. These
completions are not trained on.

Source: arXiv 2503.21776 (Video-R1). Deviation: pairs of frames are shuffled, because a pair is one token grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from itertools import pairwise
from statistics import fmean
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor

from vsgrpo.modeling.bundle import MediaFeatures
from vsgrpo.training.group_filter import draw_scored
from vsgrpo.training.samples import Sample
from vsgrpo.video.loader import UndecodedVideo, VideoInputs

ABOVE = 0.1
"""Accuracy above which a completion gets the bonus (arXiv 2503.21776)."""


def patch_order(key: str, count: int, seed: int, step: int) -> list[int]:
    """Return an order of a video's temporal patches, never their own, keyed by (seed, step, video).

    Args:
        count: of patches, 2 or more.
    """
    digest = blake2b(f"shuffled/{seed}/{step}/{key}".encode(), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "big"))
    while True:
        order = [int(place) for place in rng.permutation(count)]
        if any(a > b for a, b in pairwise(order)):
            return order


def in_order(rows: Tensor, order: Sequence[int]) -> Tensor:
    """Return (T, ...) frames or (N, D) features with the temporal patches in another order."""
    return rows.unflatten(0, (len(order), -1))[list(order)].flatten(0, 1)


def shuffled_sample(sample: Sample, index: int, seed: int, step: int) -> Sample | None:
    """Return a sample of the same question about shuffled videos, None where it shows none that can be shuffled.

    Args:
        index: its number in the group, which keys its noise.
    """
    orders = {
        item.key: patch_order(item.key, item.medium.grid_thw[0], seed, step)
        for item in sample.media or ()
        if item.medium.grid_thw[0] > 1
    }
    if not orders:
        return None
    media = tuple(_shuffled(item, orders[item.key]) if item.key in orders else item for item in sample.media or ())
    features = sample.features
    if features is not None:
        features = tuple(
            MediaFeatures(in_order(own.tensor, orders[item.key]), own.medium) if item.key in orders else own
            for own, item in zip(features, sample.media or (), strict=True)
        )
    prompt = replace(sample.prompt, videos=tuple(item.key for item in media))
    return Sample(sample.row_key, index, prompt, media, features)


def _shuffled(video: VideoInputs, order: Sequence[int]) -> VideoInputs:
    return UndecodedVideo(f"{video.key} in order {order}", lambda: in_order(video.frames, order), video.medium)


def temporal_bonus(
    accuracies: Sequence[float], shuffled: Sequence[Sequence[float]], num_generations: int, ratio: float
) -> list[float]:
    """Return 1 for completions that earn the bonus, else 0.

    A group earns it where its mean accuracy is at least `ratio` times that of its shuffled completions; of the group,
    completions with an accuracy above ABOVE get it.

    Args:
        accuracies: of all completions, neighbours form groups; NaN of dead rows and of rows that have none.
        shuffled: accuracies of each group's shuffled completions; empty: there are none, no bonus.
        num_generations: completions of a group.
    """
    found = [0.0] * len(accuracies)
    for group, others in enumerate(shuffled):
        places = range(group * num_generations, (group + 1) * num_generations)
        own, others = [accuracies[i] for i in places if accuracies[i] == accuracies[i]], [x for x in others if x == x]
        if own and others and fmean(own) >= ratio * fmean(others):
            for i in places:
                found[i] = float(accuracies[i] > ABOVE)
    return found


class ShuffledArm:
    """Draws and scores the shuffled completions of a rollout buffer.

    Args:
        count: for each question.
        ratio: see `temporal_bonus`.
    """

    def __init__(self, count: int, ratio: float) -> None:
        self._count, self._ratio = count, ratio

    def bonus(self, trainer: Any, rows: Sequence[dict[str, Any]], samples: Sequence[Sample], rewards: Tensor) -> Tensor:
        """Return the bonus, 1 or 0, of the completions of all processes; all processes call it.

        Args:
            rows, samples: of this process, drawn.
            rewards: (completions of all processes, functions); the first function is the accuracy.
        """
        size, step = trainer.num_generations, trainer.run_step
        starts = range(0, len(samples), size)
        places = [(start, size + k) for start in starts for k in range(self._count)]
        made = [(start, shuffled_sample(samples[start], k, trainer.args.seed, step)) for start, k in places]
        drawn = [(start, sample) for start, sample in made if sample is not None]
        asked = [rows[start] for start, _ in drawn]
        draw_scored(trainer, asked, [sample for _, sample in drawn], (rows[0], samples[0]))
        shuffled = gather_object([[s.rewards[0] for own, s in drawn if own == start] for start in starts])
        accuracies = rewards[:, 0].tolist()
        found = temporal_bonus(accuracies, shuffled, size, self._ratio)
        scored = [x for x in accuracies if x == x]
        others = [x for group in shuffled for x in group if x == x]
        metrics = trainer._metrics["train"]
        if scored and others:
            metrics["temporal/ordered"].append(fmean(scored))
            metrics["temporal/shuffled"].append(fmean(others))
        return torch.tensor(found, device=rewards.device)
