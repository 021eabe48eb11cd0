"""Advantages divided by a moving spread of rewards per question type (EMA-GRPO), beside TRL's `scale_rewards`.

GRPO divides by the spread of each group, so a group of nearly equal rewards counts as much as one of right and wrong
answers; without a division types whose rewards spread widely drown the others. EMA-GRPO (arXiv 2512.03043) divides by
the spread of the rewards of a type, averaged over the steps before.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

from vsgrpo.files import write_atomic
from vsgrpo.records import read_record

STATE_FILE = "reward_spread.json"
SCHEMA_VERSION = 1
MIN_SPREAD = 1e-3
_SHAPE = {"moments": {str: {"mean": (int, float), "square": (int, float)}}}
GUARD = 5.0
"""Largest advantage; a group with a larger one is divided by its own spread."""
EPSILON = 1e-4
"""Added to the spread of a group, as TRL does."""


class TypeSpread:
    """Moving first and second moment of the rewards of each question type; one state for all processes.

    Args:
        decay: weight of the past in a step, in [0, 1).
    """

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self.moments: dict[str, tuple[float, float]] = {}

    def update(self, types: Sequence[str], rewards: Sequence[float]) -> None:
        """Average the rewards of a step in; the first step of a type sets its moments."""
        for kind in dict.fromkeys(types):
            own = [reward for other, reward in zip(types, rewards, strict=True) if other == kind]
            new = (fmean(own), fmean(reward * reward for reward in own))
            old = self.moments.get(kind, new)
            kept = self._decay
            self.moments[kind] = (kept * old[0] + (1 - kept) * new[0], kept * old[1] + (1 - kept) * new[1])

    def spread(self, kind: str) -> float:
        """Return the deviation of a type's rewards, at least MIN_SPREAD."""
        mean, square = self.moments[kind]
        return max(math.sqrt(max(square - mean * mean, 0.0)), MIN_SPREAD)

    def advantages(
        self, rewards: Sequence[float], types: Sequence[str], seen: Sequence[bool], num_generations: int
    ) -> list[float]:
        """Average a step's rewards in, then return (reward - mean of the group) / spread of the type.

        A group in which one would be beyond +-GUARD is divided by its own deviation, as in GRPO.

        Args:
            rewards: of the rollout buffer of all processes, neighbours form groups.
            types: question types.
            seen: False for dead rows: they count nowhere and get 0.
            num_generations: rows of a group.

        Source: arXiv 2512.03043, with decay, order (the step's own rewards are averaged in first), MIN_SPREAD and GUARD
        of its released code.
        """
        live = [i for i, good in enumerate(seen) if good]
        self.update([types[i] for i in live], [rewards[i] for i in live])
        found = [0.0] * len(rewards)
        for start in range(0, len(rewards), num_generations):
            group = [i for i in range(start, start + num_generations) if seen[i]]
            if len(group) < 2:
                continue
            mean = fmean(rewards[i] for i in group)
            scale = self.spread(types[group[0]])
            if max(abs(rewards[i] - mean) for i in group) > GUARD * scale:
                scale = stdev(rewards[i] for i in group) + EPSILON
            for i in group:
                found[i] = (rewards[i] - mean) / scale
        return found

    def metrics(self) -> dict[str, float]:
        """Return the spread of each type seen so far, as logged."""
        return {f"reward_spread/{kind}": self.spread(kind) for kind in sorted(self.moments)}

    def save(self, folder: Path) -> None:
        """Write the state into a checkpoint."""
        moments = {kind: {"mean": mean, "square": square} for kind, (mean, square) in sorted(self.moments.items())}
        state = {"schema_version": SCHEMA_VERSION, "decay": self._decay, "moments": moments}
        write_atomic(folder / STATE_FILE, json.dumps(state, indent=1) + "\n")

    def load(self, folder: Path) -> None:
        """Take the state of a checkpoint.

        Raises:
            DataError: the checkpoint has none, or a broken one.
        """
        hint = "checkpoints of a run with trainer.scale_rewards=ema hold it: go on from another one"
        state = read_record(folder / STATE_FILE, _SHAPE, hint, schema_version=SCHEMA_VERSION)
        self.moments = {kind: (pair["mean"], pair["square"]) for kind, pair in state["moments"].items()}
