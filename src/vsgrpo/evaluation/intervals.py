"""95 % intervals of score tables by resampling scenes, and the groups of tasks that are averaged apart."""

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
    held_out = [task for task, types in table_tasks().items() if QUESTION_TYPES[types[0]].held_out]
    return {"trained_tasks": [task for task in table_tasks() if task not in held_out], "held_out_tasks": held_out}


def task_groups(table: Mapping[str, float]) -> dict[str, float]:
    """Return the unweighted mean of the trained tasks and of the held-out ones, of those that the table has."""
    groups = {name: [table[task] for task in members if task in table] for name, members in grouped_tasks().items()}
    return {name: float(np.mean(values)) for name, values in groups.items() if values}


def scene_intervals(
    columns: Mapping[Name, np.ndarray], question_types: Sequence[str], scenes: Sequence[str]
) -> dict[Name, dict[str, Interval]]:
    """Return the 2.5 % and 97.5 % points of each column's table over resamples of whole scenes.

    Questions about one scene are answered from one video, so they err together; resampling single questions would give
    intervals that are too narrow. All columns see the same resamples, and a table is linear in the row scores: the
    interval of a paired difference is the interval of the column of differences. Deterministic.

    Legend: R resamples, S scenes, K question types, C columns (ways to score the same rows), N names.

    Args:
        columns: name -> (rows,) scores.
        question_types: per row, a name of `QUESTION_TYPES`.
        scenes: per row.

    Returns:
        column -> task, "overall" or group -> (low, high); names that no row belongs to are left out.
    """
    place_of = {scene: place for place, scene in enumerate(dict.fromkeys(scenes))}
    kind_of = {name: place for place, name in enumerate(type_names())}
    cells = [place_of[s] * len(kind_of) + kind_of[k] for s, k in zip(scenes, question_types, strict=True)]
    size = len(place_of) * len(kind_of)
    sums = [np.bincount(cells, weights=values, minlength=size) for values in (np.ones(len(cells)), *columns.values())]
    drawn = resample_scenes(np.hstack([values.reshape(len(place_of), -1) for values in sums]))  # (R, (1 + C) K)
    drawn = drawn.reshape(NUM_RESAMPLES, 1 + len(columns), len(kind_of))
    with np.errstate(invalid="ignore", divide="ignore"):
        tables = _tables(drawn[:, 1:] / drawn[:, :1])  # (R, C, N)
    names = (*table_tasks(), "overall", *grouped_tasks())
    found: dict[Name, dict[str, Interval]] = {}
    for column, table in zip(columns, tables.transpose(1, 2, 0), strict=True):
        known = {name: values[~np.isnan(values)] for name, values in zip(names, table, strict=True)}
        points = {name: np.percentile(values, [2.5, 97.5]) for name, values in known.items() if len(values)}
        found[column] = {name: (float(low), float(high)) for name, (low, high) in points.items()}
    return found


def mean_intervals(columns: Mapping[Name, np.ndarray], scenes: Sequence[str]) -> dict[Name, Interval]:
    """Return the 2.5 % and 97.5 % points of each column's mean over rows, over resamples of whole scenes."""
    place_of = {scene: place for place, scene in enumerate(dict.fromkeys(scenes))}
    places = np.array([place_of[scene] for scene in scenes])
    sums = [np.bincount(places, values) for values in (np.ones(len(places)), *columns.values())]
    drawn = resample_scenes(np.stack(sums, axis=1))
    points = np.percentile(drawn[:, 1:] / drawn[:, :1], [2.5, 97.5], axis=0)
    return {name: (float(low), float(high)) for name, low, high in zip(columns, *points, strict=True)}


def resample_scenes(cells: np.ndarray) -> np.ndarray:
    """Return the sums of each column of `cells` (S, columns) over draws of S rows: (R, columns)."""
    rng = np.random.default_rng(_SEED)
    num_scenes = len(cells)
    step = max(1, _CHUNK_CELLS // num_scenes)
    parts = []
    for start in range(0, NUM_RESAMPLES, step):
        size = min(step, NUM_RESAMPLES - start)
        draws = rng.integers(0, num_scenes, (size, num_scenes)) + num_scenes * np.arange(size)[:, None]
        weights = np.bincount(draws.ravel(), minlength=size * num_scenes).reshape(size, num_scenes)
        parts.append(weights.astype(float) @ cells)
    return np.vstack(parts)


def _tables(means: np.ndarray) -> np.ndarray:
    """Turn means per question type (..., K), nan where there is no row, into tables (..., N), as `aggregate` does."""
    of_type = {name: means[..., index] for index, name in enumerate(type_names())}
    table = {task: mean_of_known([of_type[name] for name in types]) for task, types in table_tasks().items()}
    groups = [mean_of_known([table[task] for task in members]) for members in grouped_tasks().values()]
    return np.stack([*table.values(), mean_of_known(list(table.values())), *groups], axis=-1)


def mean_of_known(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean over the parts that are not nan, nan where all are."""
    stacked = np.stack(parts)
    there = ~np.isnan(stacked)
    return np.where(there, stacked, 0).sum(axis=0) / there.sum(axis=0)
