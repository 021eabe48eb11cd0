"""The numbers of the trust report: two means, their intervals, paired gaps, and removals at random.

micro is the mean of all rows, macro the mean of the eight tasks ("overall" of a table). Whole scenes are resampled and
have their signs flipped, since the questions about one video err together.

Legend: N rows, S scenes, F flips, C columns.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vsgrpo.evaluation.intervals import Interval, resample_scenes, scene_intervals
from vsgrpo.evaluation.scores import task_table
from vsgrpo.spatial.question_types import QUESTION_TYPES

NUM_FLIPS = 10_000
NUM_REMOVALS = 10
MICRO, MACRO = "micro", "macro"
_CHUNK_CELLS = 4_000_000
_EQUAL = 1e-9
"""Share of the largest possible sum by which two sums differ that are equal, and added in other orders."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Answered:
    """The rows that every arm answered, and what each arm scored on them.

    Attributes:
        ids: unique, in the order of the benchmark.
        kinds: question type of each.
        scenes: scene of each.
        arms: name of an arm -> (N,) scores, 0..1.
    """

    ids: tuple[str, ...]
    kinds: tuple[str, ...]
    scenes: tuple[str, ...]
    arms: Mapping[str, Floats]

    def only(self, kept: NDArray[np.bool_]) -> Answered:
        """Return the rows of a mask (N,)."""
        places = np.flatnonzero(kept).tolist()
        return Answered(
            tuple(self.ids[place] for place in places),
            tuple(self.kinds[place] for place in places),
            tuple(self.scenes[place] for place in places),
            {name: values[kept] for name, values in self.arms.items()},
        )


def join_arms(
    rows: Sequence[tuple[str, str, str]], by_arm: Mapping[str, Mapping[str, float]]
) -> tuple[Answered, dict[str, int]]:
    """Join the scores of arms on the id; return the rows that all have, and how many each arm lacks.

    Args:
        rows: (id, question type, scene) in the order of the benchmark.
        by_arm: name of an arm -> id -> score.
    """
    common = [row for row in rows if all(row[0] in scores for scores in by_arm.values())]
    lacks = {name: sum(row[0] not in scores for row in rows) for name, scores in by_arm.items()}
    ids, kinds, scenes = zip(*common, strict=True) if common else ((), (), ())
    arms = {name: np.array([scores[i] for i in ids], dtype=float) for name, scores in by_arm.items()}
    return Answered(ids, kinds, scenes, arms), lacks


def means(kinds: Sequence[str], scores: Floats) -> dict[str, float]:
    """Return "micro", "macro" and the tasks of one column of scores."""
    table = task_table(kinds, scores)
    macro = table.pop("overall")
    return {MICRO: float(scores.mean()), MACRO: macro, **table}


def intervals(columns: Mapping[str, Floats], kinds: Sequence[str], scenes: Sequence[str]) -> dict[str, Any]:
    """Return column -> "micro", "macro" or task -> 95 % interval over resamples of whole scenes, all the same ones."""
    found = scene_intervals(columns, kinds, scenes)
    codes = _codes(scenes)
    sums = [np.bincount(codes, weights=values) for values in (np.ones(len(codes)), *columns.values())]
    drawn = resample_scenes(np.stack(sums, axis=1))  # (R, 1 + C): those of `scene_intervals`, which draws alike
    micro: dict[str, Interval] = {}
    for name, values in zip(columns, (drawn[:, 1:] / drawn[:, :1]).T, strict=True):
        low, high = np.percentile(values, [2.5, 97.5])
        micro[name] = (float(low), float(high))
    return {
        name: {MICRO: micro[name], MACRO: table["overall"], **{t: ends for t, ends in table.items() if t in _tasks()}}
        for name, table in found.items()
    }


def _tasks() -> set[str]:
    return {kind.task for kind in QUESTION_TYPES.values()}


def _codes(names: Sequence[str]) -> NDArray[np.intp]:
    return np.unique(np.asarray(names, dtype=object).astype(str), return_inverse=True)[1]


def macro_weights(kinds: Sequence[str]) -> Floats:
    """Return (N,) weights by which row scores sum up to the macro mean: 1 / (tasks * types of the task * rows)."""
    counts = Counter(kinds)
    types_in = Counter(QUESTION_TYPES[kind].task for kind in counts)
    return np.array([1 / (len(types_in) * types_in[QUESTION_TYPES[kind].task] * counts[kind]) for kind in kinds])


def sign_flip_p(differences: Floats, scenes: Sequence[str], seed: int = 0) -> float:
    """Return the two-sided p of a paired difference: the signs of the sums of whole scenes are flipped at random.

    (1 + flips whose sum is at least as far from 0 as the one seen) / (1 + flips): never 0 (Phipson and Smyth 2010).

    Args:
        differences: (N,) paired differences, weighted where their sum is to be a weighted one.
    """
    sums = np.bincount(_codes(scenes), weights=differences)
    seen = abs(sums.sum()) - _EQUAL * np.abs(sums).sum()
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK_CELLS // len(sums))
    as_far = 0
    for start in range(0, NUM_FLIPS, step):
        signs = rng.integers(0, 2, (min(step, NUM_FLIPS - start), len(sums)), dtype=np.int8) * 2 - 1  # (F, S)
        as_far += int((np.abs(signs @ sums) >= seen).sum())
    return (1 + as_far) / (1 + NUM_FLIPS)


def gap(answered: Answered, first: str, second: str) -> dict[str, Any]:
    """Return first minus second, paired: "micro", "macro" and tasks, their intervals, and p of both means."""
    difference = answered.arms[first] - answered.arms[second]
    weights = macro_weights(answered.kinds)
    return {
        "value": means(answered.kinds, difference),
        "interval": intervals({"": difference}, answered.kinds, answered.scenes)[""],
        "p": {
            MICRO: sign_flip_p(difference, answered.scenes),
            MACRO: sign_flip_p(difference * weights, answered.scenes),
        },
    }


def removals(answered: Answered, arm: str, num_removed: int) -> dict[str, Any]:
    """Return what an arm scores once `num_removed` rows are removed at random, ten times: mean and deviation.

    Removal r draws with `default_rng(r)` over the ids in the order of their text.
    """
    order = np.argsort(np.asarray(answered.ids, dtype=object).astype(str), kind="stable")
    kinds, scores = [answered.kinds[place] for place in order], answered.arms[arm][order]
    found: list[dict[str, float]] = []
    for seed in range(NUM_REMOVALS):
        kept = np.ones(len(order), dtype=bool)
        kept[np.random.default_rng(seed).choice(len(order), num_removed, replace=False)] = False
        found.append(means([kind for kind, keep in zip(kinds, kept, strict=True) if keep], scores[kept]))
    by_mean = {mean: [each[mean] for each in found] for mean in (MICRO, MACRO)}
    return {mean: {"mean": statistics.mean(v), "sd": statistics.stdev(v)} for mean, v in by_mean.items()}


def drop(answered: Answered, kept: NDArray[np.bool_], arm: str) -> dict[str, Any]:
    """Return how far an arm falls from all rows to those of a mask, beside removals at random of as many rows.

    Keys: "full", "kept", "drop" (full - kept) and "random" (full - what is left at random: mean and deviation), each
    for both means; "removed" rows.
    """
    full = means(answered.kinds, answered.arms[arm])
    part = answered.only(kept)
    left = means(part.kinds, part.arms[arm])
    num_removed = int((~kept).sum())
    random = removals(answered, arm, num_removed)
    return {
        "removed": num_removed,
        "full": {mean: full[mean] for mean in (MICRO, MACRO)},
        "kept": {mean: left[mean] for mean in (MICRO, MACRO)},
        "drop": {mean: full[mean] - left[mean] for mean in (MICRO, MACRO)},
        "random": {
            mean: {"mean": full[mean] - random[mean]["mean"], "sd": random[mean]["sd"]} for mean in (MICRO, MACRO)
        },
    }
