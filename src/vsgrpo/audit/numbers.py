"""Numbers answered from the categories that a question names: no video, no scene.

The answer is the number with the highest expected score, argmax_c sum_i w_i MRA(c, y_i), over the training answers y_i;
w_i is 1 for a question about the same categories, 0.1 for one that shares a category, and 3 / n for any.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from vsgrpo.audit.rows import AuditRow, slots_of
from vsgrpo.spatial.question_types import tolerance_of
from vsgrpo.spatial.scoring import TOLERANCES

SHARED_WEIGHT = 0.1
ANY_WEIGHT = 3.0
_WIDE = 400
_NUM_CANDIDATES = 160

Array = NDArray[np.float64]


class NumberTexts:
    """The number questions of one type, read once.

    Attributes:
        truth: (N,) their answers.
        keys: what each question names, one text per different set of categories, sorted.
        key_of: (N,) place in `keys`.
        names: (keys, categories), 1 where the key names the category.
    """

    def __init__(self, rows: Sequence[AuditRow]) -> None:
        self.truth = np.array([float(row.answer) for row in rows])
        named = [tuple(sorted(set(slots.values()))) for slots in slots_of([row.question for row in rows])]
        self.keys = sorted(set(named))
        place = {key: k for k, key in enumerate(self.keys)}
        self.key_of = np.array([place[key] for key in named])
        words = {word: k for k, word in enumerate(sorted({word for key in self.keys for word in key}))}
        pairs = [(k, words[word]) for k, key in enumerate(self.keys) for word in key]
        shape = (len(self.keys), len(words))
        at = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        self.names = sparse.csr_array((np.ones(at.shape[1]), (at[0], at[1])), shape=shape)
        self._values = np.unique(self.truth)
        self._candidates = candidates(self.truth)
        self._score = partial(score_table, tolerance=tolerance_of(rows[0].question_type) if rows else None)
        self._table = self._score(self._candidates, self._values)

    def predict(self, truth: NDArray[Any], fit: NDArray[np.int64], use: NDArray[np.int64]) -> dict[str, Array]:
        """Return model -> score of each row of `use`, learned from the rows of `fit`; `truth` may be permuted."""
        value_of = np.searchsorted(self._values, truth)
        of_all = np.bincount(value_of[fit], minlength=len(self._values)).astype(float)
        constant = self._table @ of_all
        best = np.full(len(use), constant.argmax())
        if len(self.keys) > 1:  # else the text says nothing
            weights = self._counted(value_of, fit, len(self._values)) + ANY_WEIGHT / len(fit) * of_all
            best = (self._table @ weights.T).argmax(axis=0)[self.key_of[use]]
        return {
            "constant": self._table[constant.argmax(), value_of[use]],
            "category": self._table[best, value_of[use]],
        }

    def _counted(self, group: NDArray[np.int64], fit: NDArray[np.int64], num: int) -> Array:
        """Return (keys, num): how many rows of `fit` are about the key in each group, with those that share a name."""
        at = (self.key_of[fit], group[fit])
        same = sparse.csr_array((np.ones(len(fit)), at), shape=(len(self.keys), num)).toarray()
        shared = self.names @ (self.names.T @ same) - self.names.sum(axis=1)[:, None] * same
        return same + SHARED_WEIGHT * shared

    def beliefs(self, bins: NDArray[np.int64], fit: NDArray[np.int64], use: NDArray[np.int64]) -> list[Array]:
        """Return of each row of `use` the probability of each bin of answers, learned from the rows of `fit`.

        Args:
            bins: (N,) the bin of each row's answer.
        """
        num = int(bins.max()) + 1
        shares = np.bincount(bins[fit], minlength=num) / len(fit)
        counted = self._counted(bins, fit, num) + ANY_WEIGHT * shares
        return list((counted / counted.sum(axis=1, keepdims=True))[self.key_of[use]])

    def scores_by_weight(self, weights: Array, fit: NDArray[np.int64], use: NDArray[np.int64]) -> Array:
        """Return the score of each row of `use` by `weights` (use, fit) of the answers of the rows of `fit`."""
        value_of = np.searchsorted(self._values, self.truth)
        best = (self._table[:, value_of[fit]] @ weights.T).argmax(axis=0)
        return self._table[best, value_of[use]]

    def best_constant(self, rows: NDArray[np.int64]) -> tuple[float, float]:
        """Return the number that scores best as the answer to all of some rows, and that score."""
        counts = np.bincount(np.searchsorted(self._values, self.truth[rows]), minlength=len(self._values))
        scores = self._table @ counts / len(rows)
        return float(self._candidates[scores.argmax()]), float(scores.max())

    def chance(self, truth: NDArray[Any]) -> float:
        """Return the expected score of another row's answer."""
        counts = np.bincount(np.searchsorted(self._values, truth), minlength=len(self._values)).astype(float)
        table = self._score(self._values, self._values)
        n = len(truth)
        return float((counts @ table @ counts - counts.sum()) / (n * (n - 1))) if n > 1 else 0.0

    def permuted(self, rng: np.random.Generator) -> Array:
        """Return the answers in another order."""
        return rng.permutation(self.truth)


def candidates(truth: Array) -> Array:
    """Return the numbers to choose from: every whole number of the range, else 160 at even ratios."""
    low, high = truth.min(), truth.max()
    if (truth == np.round(truth)).all() and high - low < _WIDE:
        return np.arange(low, high + 1)
    positive = truth[truth > 0]
    if not len(positive):
        return np.zeros(1)
    spread = np.exp(np.linspace(np.log(positive.min()), np.log(positive.max()), _NUM_CANDIDATES))
    return np.unique(np.concatenate([np.round(spread, 2), truth[truth == 0][:1]]))


def score_table(predictions: Array, truths: Array, tolerance: float | None = None) -> Array:
    """Return (P, T): the score of each prediction for each truth (`scoring.score_number`).

    Mean relative accuracy, of which a truth of 0 wants exactly 0; with a tolerance 1 within it, else 0.
    """
    if tolerance is not None:
        return (np.abs(predictions[:, None] - truths) <= tolerance).astype(float)
    is_zero = truths == 0
    divisor = np.where(is_zero, 1.0, truths)
    error = np.abs(predictions[:, None] - truths) / divisor
    error = np.where(is_zero, np.where(predictions[:, None] == 0, 0.0, np.inf), error)
    return (error[:, :, None] <= TOLERANCES).mean(axis=2)
