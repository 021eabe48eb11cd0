"""95 % intervals of every number in a table: the bootstrap over scenes, vectorised.

Questions about one scene are answered from one video, so they err together; resampling single questions would give
intervals that are too narrow. Whole scenes are drawn with replacement, and the table is computed anew each time.

Legend: R resamples, S scenes, K question types, C columns (scorers and other ways to score the same rows), N names.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from vsgrpo.spatial.question_types import QUESTION_TYPES, table_tasks, type_names

NUM_RESAMPLES = 1000
_SEED = 0
_CHUNK_CELLS = 2_000_000

Interval = tuple[float, float]
Name = TypeVar("Name", bound=Hashable)


def grouped_tasks() -> dict[str, list[str]]:
    """Return "trained_tasks" and "held_out_tasks", which VSI-100k never trains.

    Source: arXiv 2504.00883 reports the held-out tasks as generalisation.
    """
    held_out = {task for task, types in table_tasks().items() if QUESTION_TYPES[types[0]].held_out}
    trained = [task for task in table_tasks() if task not in held_out]
    return {"trained_tasks": trained, "held_out_tasks": [task for task in table_tasks() if task in held_out]}


def task_groups(table: Mapping[str, float]) -> dict[str, float]:
    """Return the unweighted mean of the trained tasks and of the held-out ones, of those that the table has."""
    groups = {name: [table[task] for task in members if task in table] for name, members in grouped_tasks().items()}
    return {name: float(np.mean(values)) for name, values in groups.items() if values}


def scene_intervals(
    columns: Mapping[Name, np.ndarray],
    question_types: Sequence[str],
    scenes: Sequence[str],
    num_resamples: int = NUM_RESAMPLES,
) -> dict[Name, dict[str, Interval]]:
    """Return the 2.5 % and 97.5 % points of each column's table over resamples of whole scenes.

    All columns see the same resamples, and a table is linear in the row scores: the interval of a paired difference
    is the interval of the column of differences. Deterministic.

    Args:
        columns: name -> (rows,) scores.
        question_types: per row, a name of `QUESTION_TYPES`.
        scenes: per row.

    Returns:
        column -> task, "overall" or group -> (low, high); names that no row belongs to are left out.
    """
    codes, num_scenes = _codes(scenes)
    index_of = {name: index for index, name in enumerate(type_names())}
    cells = codes * len(index_of) + np.array([index_of[name] for name in question_types])
    size = num_scenes * len(index_of)
    counts = np.bincount(cells, minlength=size).reshape(num_scenes, len(index_of)).astype(float)
    sums = [np.bincount(cells, weights=values, minlength=size).reshape(num_scenes, -1) for values in columns.values()]
    drawn = _resample(np.hstack([counts, *sums]), num_resamples)  # (R, (1 + C) K)
    drawn = drawn.reshape(num_resamples, 1 + len(columns), len(index_of))
    with np.errstate(invalid="ignore", divide="ignore"):
        tables = _tables(drawn[:, 1:] / drawn[:, :1])  # (R, C, N)
    found: dict[Name, dict[str, Interval]] = {}
    for index, column in enumerate(columns):
        found[column] = {}
        for place, name in enumerate((*table_tasks(), "overall", *grouped_tasks())):
            values = tables[:, index, place]
            values = values[~np.isnan(values)]
            if len(values):
                low, high = np.percentile(values, [2.5, 97.5])
                found[column][name] = (float(low), float(high))
    return found


def _codes(scenes: Sequence[str]) -> tuple[np.ndarray, int]:
    index: dict[str, int] = {}
    codes = np.array([index.setdefault(scene, len(index)) for scene in scenes])
    return codes, len(index)


def _resample(cells: np.ndarray, num_resamples: int) -> np.ndarray:
    """Return the sums of each column of `cells` (S, columns) over `num_resamples` draws of S rows: (R, columns)."""
    rng = np.random.default_rng(_SEED)
    num_scenes = len(cells)
    step = max(1, _CHUNK_CELLS // num_scenes)
    parts = []
    for start in range(0, num_resamples, step):
        size = min(step, num_resamples - start)
        draws = rng.integers(0, num_scenes, (size, num_scenes)) + num_scenes * np.arange(size)[:, None]
        weights = np.bincount(draws.ravel(), minlength=size * num_scenes).reshape(size, num_scenes)
        parts.append(weights.astype(float) @ cells)
    return np.vstack(parts)


def _tables(means: np.ndarray) -> np.ndarray:
    """Turn means per question type (..., K), nan where there is no row, into tables (..., N), as `aggregate` does."""
    of_type = {name: means[..., index] for index, name in enumerate(type_names())}
    table = {task: _mean([of_type[name] for name in types]) for task, types in table_tasks().items()}
    groups = [_mean([table[task] for task in members]) for members in grouped_tasks().values()]
    return np.stack([*table.values(), _mean(list(table.values())), *groups], axis=-1)


def _mean(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean over the parts that are not nan, nan where all are."""
    stacked = np.stack(parts)
    there = ~np.isnan(stacked)
    return np.where(there, stacked, 0).sum(axis=0) / there.sum(axis=0)
