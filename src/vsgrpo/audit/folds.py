"""Folds of whole scenes, and intervals by resampling scenes: both the same on every machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

NUM_FOLDS = 5
_RESAMPLES = 1000

Interval = tuple[float, float]


def scene_folds(scenes: Sequence[str], seed: int, num_folds: int = NUM_FOLDS) -> NDArray[np.int64]:
    """Return the fold of each row: scenes in the order of their hash, in turn to the fold with the fewest rows."""
    size = Counter(scenes)
    load = [0] * num_folds
    fold: dict[str, int] = {}
    for scene in sorted(size, key=lambda name: blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest()):
        fold[scene] = load.index(min(load))
        load[fold[scene]] += size[scene]
    return np.array([fold[scene] for scene in scenes], dtype=np.int64)


def scene_interval(scores: NDArray[np.float64], scenes: Sequence[str]) -> Interval:
    """Return the 95 % interval of the mean score, over 1,000 resamples of scenes."""
    codes = np.unique(np.asarray(scenes), return_inverse=True)[1]
    sums, counts = np.bincount(codes, scores), np.bincount(codes)
    drawn = np.random.default_rng(0).integers(0, len(sums), (_RESAMPLES, len(sums)))
    low, high = np.percentile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), [2.5, 97.5])
    return float(low), float(high)
