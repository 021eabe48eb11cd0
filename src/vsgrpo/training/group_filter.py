"""Groups without anything to learn from, drawn anew with other questions before rewards and loss are taken.

A group whose completions all earn the same has advantage 0: dynamic sampling (DAPO, arXiv 2503.14476 section 3.2) draws
others instead. Deviation: DAPO draws until the batch is full; here at most `rounds` times, what is left stays.

All processes decide alike, from the rewards of all, and new questions are keyed by (run seed, step) and by the question
whose place they take: a run that goes on, or one on another number of processes, draws the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object

from vsgrpo.training.samples import Sample

EQUAL = 1e-6
"""Rewards closer than this are the same."""


def poor_groups(
    rewards: Sequence[float], seen: Sequence[bool], num_generations: int, low: float, high: float
) -> list[int]:
    """Return the numbers of groups whose live rows earn all the same, or whose mean is outside [low, high].

    A group with fewer than two live rows is poor.

    Args:
        rewards: weighted sums of the rollout buffer of all processes, neighbours form groups.
        seen: False for dead rows.
        num_generations: rows of a group.
    """
    found = []
    for group, start in enumerate(range(0, len(rewards), num_generations)):
        live = [rewards[i] for i in range(start, start + num_generations) if seen[i]]
        mean = sum(live) / max(len(live), 1)
        if len(live) < 2 or max(live) - min(live) < EQUAL or not low <= mean <= high:
            found.append(group)
    return found


def other_rows(keys: Sequence[str], used: Collection[str], seed: int, step: int) -> Iterator[int]:
    """Yield numbers of rows that are not in the buffer, in an order keyed by (seed, step).

    Args:
        keys: row keys of the whole table.
        used: row keys of the buffer.
    """
    digest = blake2b(f"group filter/{seed}/{step}".encode(), digest_size=8).digest()
    order = np.random.default_rng(int.from_bytes(digest, "big")).permutation(len(keys))
    return (int(i) for i in order if keys[i] not in used)


class GroupFilter:
    """Draws poor groups anew.

    Args:
        low, high: mean rewards that a group may have.
        rounds: how often a buffer's poor groups are drawn anew.
    """

    def __init__(self, low: float, high: float, rounds: int) -> None:
        self._low, self._high, self._rounds = low, high, rounds

    def fill(
        self, trainer: Any, rows: list[dict[str, Any]], samples: list[Sample]
    ) -> tuple[list[dict[str, Any]], list[Sample]]:
        """Return rows and samples of this process with completions and rewards, poor groups replaced.

        All processes call it. Logged: groups of the buffer drawn anew for one of its places (`group_filter/redrawn`, a
        group per place and round), places that stay poor (`group_filter/left`).
        """
        rows, samples, size = list(rows), list(samples), trainer.num_generations
        first = trainer.accelerator.process_index * len(rows)
        places = list(range(len(rows)))
        keys = gather_object([row["row_key"] for row in rows])
        fresh = other_rows(trainer.row_keys(), set(keys), trainer.args.seed, trainer.run_step)
        redrawn, groups = 0, len(rows) * trainer.accelerator.num_processes // size
        for attempt in range(self._rounds + 1):
            drawn = [rows[i] for i in places], [samples[i] for i in places]
            draw_scored(trainer, *drawn, (rows[0], samples[0]))
            # Places are numbered by process; the questions that had them first are not.
            poor = sorted(self._poor(trainer, samples), key=lambda group: keys[group * size])
            chosen = dict(zip(poor, fresh, strict=False)) if attempt < self._rounds else {}
            if not chosen:
                break
            redrawn += len(chosen)
            places = [i for i in range(len(rows)) if (first + i) // size in chosen]
            self._replace(trainer, rows, samples, {i: chosen[(first + i) // size] for i in places}, first)
        metrics = trainer._metrics["train"]
        metrics["group_filter/redrawn"].append(redrawn / groups)
        metrics["group_filter/left"].append(len(poor) / groups)
        return rows, samples

    def _poor(self, trainer: Any, samples: Sequence[Sample]) -> list[int]:
        weights = trainer.reward_weights.tolist()
        own = [
            (sum(w * r for w, r in zip(weights, sample.rewards, strict=True) if r == r), sample.media is not None)
            for sample in samples
        ]
        totals, seen = zip(*gather_object(own), strict=True)
        return poor_groups(totals, seen, trainer.num_generations, self._low, self._high)

    @staticmethod
    def _replace(
        trainer: Any, rows: list[dict[str, Any]], samples: list[Sample], chosen: Mapping[int, int], first: int
    ) -> None:
        """Put other rows of the table, and samples of them without completions, to these places."""
        new = {i: dict(trainer.train_dataset[number]) for i, number in chosen.items()}
        indices = [(first + i) % trainer.num_generations for i in new]
        for i, sample in zip(new, trainer._maker.make(list(new.values()), indices), strict=True):
            rows[i], samples[i] = new[i], sample


def draw_scored(
    trainer: Any, rows: Sequence[dict[str, Any]], samples: Sequence[Sample], spare: tuple[dict[str, Any], Sample]
) -> None:
    """Draw completions of samples, and score them into their `rewards`.

    All processes call it; they draw and score equally many: a forward of sharded weights is a collective call. Where a
    process has fewer samples, copies of `spare` fill up, whose results are left out.
    """
    count = max(gather_object([len(samples)]))
    if not count:
        return
    missing = count - len(samples)
    drawn = [*samples, *(replace(spare[1]) for _ in range(missing))]
    trainer.draw(drawn)
    scored = trainer.score([*rows, *[spare[0]] * missing], drawn)
    start = trainer.accelerator.process_index * count
    for sample, rewards in zip(samples, scored[start : start + count].tolist(), strict=False):
        sample.rewards = tuple(rewards)


def gathered_rewards(trainer: Any, samples: Sequence[Sample]) -> torch.Tensor:
    """Return the rewards (rows of all processes, functions) that samples have already."""
    own = torch.tensor([sample.rewards for sample in samples], device=trainer.accelerator.device)
    return trainer.accelerator.gather(own)
