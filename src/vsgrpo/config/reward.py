"""The `reward` section of `vsgrpo train grpo`: which rewards, their weights, and weights that change with the step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

from vsgrpo.rules import Count, Faults, Name, Section, at_least, choice

SCHEDULE_EXAMPLE = "for example reward.schedule={format: [[0, 1.0], [200, 0.0]]}"


@dataclass(frozen=True)
class RewardSection(Section, key="reward"):
    """Reward functions by name, their weights, and how numbers are rewarded."""

    names: list[Name] | None
    weights: list[Annotated[float, at_least(0)]] | None
    numeric: Annotated[str, choice("relative", "mra", "linear", "smooth", "log_ratio")]
    allow_empty: bool
    length_words: Count
    overlong_tokens: Count
    token_range: list[Count]
    schedule: dict[str, Any] | None

    def faults(self) -> Faults:
        if self.weights is not None and (self.names is None or len(self.weights) != len(self.names)):
            what = f"reward.weights={self.weights}: needs one number for each of reward.names={self.names}"
            yield what, "give both lists with equal length, or leave reward.weights=null"
        if self.weights is not None and not sum(self.weights) > 0:
            yield f"reward.weights={self.weights}: must sum to more than 0", "raise one weight"
        if self.names is not None and len({*self.names}) < len(self.names):
            what = f"reward.names={self.names}: one is in it twice"
            yield what, "name each once; reward.weights makes one count more"
        if self.names is not None and not self.names:
            yield "reward.names=[]: no reward, nothing to learn from", "set reward.names=[accuracy]"
        if len(self.token_range) != 2 or self.token_range[0] > self.token_range[1]:
            what = f"reward.token_range={self.token_range}: must be [fewest, most] tokens"
            yield what, "for example reward.token_range=[320,512]"
        if "map_published" in (self.names or ()) and {"accuracy", "mra", "map"} & {*(self.names or ())}:
            what = (
                f"reward.names={self.names}: map_published is the whole reward of an answer, accuracy and map included"
            )
            yield what, "leave accuracy, mra and map out"

    def schedule_faults(self, names: Sequence[str]) -> Faults:
        """Yield what is wrong with the schedule of a run whose rewards have these names."""
        if self.schedule == {}:
            yield "reward.schedule={}: no reward in it", "set reward.schedule=null"
        for name, points in (self.schedule or {}).items():
            where = f"reward.schedule.{name}={points}"
            if name not in names:
                yield f"{where}: no reward of this run is called so", f"there are: {', '.join(names)}"
            if not isinstance(points, list) or not points or not all(map(_is_point, points)):
                yield f"{where}: a list of [step, factor] is needed, both 0 or more", SCHEDULE_EXAMPLE
            if any(a[0] >= b[0] for a, b in pairwise(points)):
                yield f"{where}: steps must rise", SCHEDULE_EXAMPLE
        weights = self.weights or [1.0] * len(names)
        for step in sorted({point[0] for points in (self.schedule or {}).values() for point in points}):
            if not sum(self.scheduled(names, weights, step)) > 0:
                yield f"reward.schedule={self.schedule}: at step {step} all rewards weigh 0", "keep one above 0"

    def scheduled(self, names: Sequence[str], weights: Sequence[float], step: int) -> list[float]:
        """Return the weights at an optimizer step, counted over all stages.

        A factor follows straight lines between the points of its reward; before the first and after the last it stays.
        """
        found = []
        for name, weight in zip(names, weights, strict=True):
            points = (self.schedule or {}).get(name)
            found.append(weight if points is None else weight * _factor(points, step))
        return found


def _is_point(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 2 or any(type(x) not in (int, float) for x in value):
        return False
    return type(value[0]) is int and value[0] >= 0 and math.isfinite(value[1]) and value[1] >= 0


def _factor(points: Sequence[Sequence[float]], step: int) -> float:
    if step <= points[0][0]:
        return points[0][1]
    for (start, low), (end, high) in pairwise(points):
        if step <= end:
            return low + (high - low) * (step - start) / (end - start)
    return points[-1][1]
