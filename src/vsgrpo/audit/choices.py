"""Choices answered from words: how often an option was right beside the same words in other scenes.

Of each option, the rate of being right (smoothed towards 1 / options with weight 4) is counted for several keys: the
word, the word with each slot of the question, the word with each pair of slots; of options with several parts (routes)
their first and last part, too. The option with the highest sum of rates is taken. Options that are orders of the same
things are compared by precedence: sum of log((n_ab + 1) / (n_ba + 1)) over their pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vsgrpo.audit.folds import NUM_FOLDS, scene_folds
from vsgrpo.audit.rows import AuditRow, slots_of

SMOOTHING = 4.0
_EQUAL = 1e-12
_RIDGE = 1.0
_MAX_STEPS = 25
_INNER_SEED = 1000
"""Folds inside the training folds are cut in another way."""

Array = NDArray[np.float64]
Places = NDArray[np.int64]


class ChoiceTexts:
    """The choice questions of one type, read once. Options lie flat, those of a row side by side.

    Attributes:
        truth: (N,) place of the right option of each row.
        num_options: (N,).
        is_order: the options are orders of the same things.
    """

    def __init__(self, rows: Sequence[AuditRow]) -> None:
        self.truth = np.array([row.right for row in rows], dtype=np.int64)
        words = [tuple(word.strip().lower() for word in row.options or ()) for row in rows]
        self.num_options = np.array([len(item) for item in words])
        self._scenes = [row.scene for row in rows]
        self._start = np.concatenate([[0], np.cumsum(self.num_options)])
        self._row_of = np.repeat(np.arange(len(rows)), self.num_options)
        self._base = 1.0 / self.num_options[self._row_of]
        self._has_letters = all(row.has_letters for row in rows)
        self.is_order = all(_are_orders(item) for item in words)
        self._pairs = _pair_codes(words) if self.is_order else None
        slots = slots_of([row.question for row in rows])
        keyed = [dict(_keys(word, item, own)) for item, own in zip(words, slots, strict=True) for word in item]
        names = list(dict.fromkeys(name for keys in keyed for name in keys))  # "word" first
        self._codes = [_codes([keys.get(name) for keys in keyed]) for name in names]
        self._word = _codes([word for item in words for word in item])

    def predict(self, truth: NDArray[Any], fit: Places, use: Places) -> dict[str, Array]:
        """Return model -> score of each row of `use`, learned from the rows of `fit`; `truth` may be permuted."""
        flat = self.options_of(fit)
        right = self.is_right(truth)
        if self._has_letters:
            letters = np.bincount(truth[fit], minlength=int(self.num_options.max())).astype(float)
            constant = letters[self.place_of_option]
        else:
            constant = np.bincount(self._word[flat], right[flat], minlength=self._word.max() + 1)[self._word]
        scores = {"constant": constant, "word": self._rates(right, flat, self._codes[:1])}
        scores["category"] = self._precedence(truth, fit) if self.is_order else self._rates(right, flat, self._codes)
        return {name: self.hits(score, truth, use) for name, score in scores.items()}

    def beliefs(self, truth: Places, fit: Places, use: Places) -> list[Array]:
        """Return of each row of `use` the probability of each of its options, learned from the rows of `fit`.

        A conditional logit over the log of each rate (of orders, over their precedence). Its weights are learned on
        rates that come from other scenes, so a key that tells nothing gets no weight and the probabilities are honest:
        sums of rates alone say too much, and rows thinned by them could be answered by the opposite.
        """
        right = self.is_right(truth)
        inner = scene_folds([self._scenes[k] for k in fit], _INNER_SEED)
        features = self.features(truth, fit)
        learned = np.zeros_like(features)
        for fold in range(NUM_FOLDS):
            own = self.options_of(fit[inner == fold])
            learned[own] = self.features(truth, fit[inner != fold])[own]
        flat = self.options_of(fit)
        weights = fit_logit(learned[flat], right[flat], self.num_options[fit])
        share = softmax_of(features @ weights, self._start)
        return [share[self._start[k] : self._start[k + 1]] for k in use]

    def features(self, truth: NDArray[Any], fit: Places) -> Array:
        """Return (options, features): per key the log of its rate over 1 / options; of orders, their precedence."""
        if self.is_order:
            return self._precedence(truth, fit)[:, None]
        flat, right = self.options_of(fit), self.is_right(truth)
        return np.stack([np.log1p(self._rate(right, flat, codes) / self._base) for codes in self._codes], axis=1)

    def chance(self, truth: NDArray[Any]) -> float:
        """Return the score of an option drawn at random."""
        return float((1.0 / self.num_options).mean())

    def permuted(self, rng: np.random.Generator) -> Places:
        """Return the letters in another order, among the rows of as many options."""
        truth = self.truth.copy()
        for number in np.unique(self.num_options):
            own = np.flatnonzero(self.num_options == number)
            truth[own] = rng.permutation(truth[own])
        return truth

    @property
    def place_of_option(self) -> Places:
        """Place of each option in its row: 0 for the first."""
        return np.arange(len(self._row_of)) - self._start[self._row_of]

    def options_of(self, rows: Places) -> Places:
        """Return the places of the options of some rows."""
        chosen = np.zeros(len(self.truth), dtype=bool)
        chosen[rows] = True
        return np.flatnonzero(chosen[self._row_of])

    def is_right(self, truth: Places) -> Array:
        """Return of each option 1 if it is the right one of its row, else 0."""
        right = np.zeros(self._start[-1])
        right[self._start[:-1] + truth] = 1.0
        return right

    def _rates(self, right: Array, flat: Places, keys: Sequence[Places]) -> Array:
        """Return of each option the sum over keys of (rate of being right - 1 / options)."""
        return np.sum([self._rate(right, flat, codes) for codes in keys], axis=0)

    def _rate(self, right: Array, flat: Places, codes: Places) -> Array:
        """Return of each option (rate of being right - 1 / options) by one key; 0 where it does not have the key."""
        shown = np.bincount(codes[flat], minlength=codes.max() + 1)
        hits = np.bincount(codes[flat], right[flat], minlength=codes.max() + 1)
        rate = (hits[codes] + SMOOTHING * self._base) / (shown[codes] + SMOOTHING) - self._base
        return np.where(codes == 0, 0.0, rate)

    def _precedence(self, truth: Places, fit: Places) -> Array:
        assert self._pairs is not None
        before, after = self._pairs
        right = (self._start[:-1] + truth)[fit]
        counts = np.bincount(before[right].ravel(), minlength=max(before.max(), after.max()) + 1)
        return np.log((counts[before] + 1.0) / (counts[after] + 1.0)).sum(axis=1)

    def hits(self, score: NDArray[Any], truth: Places, use: Places) -> Array:
        """Return of each row whether its right option has the highest score; equals share it."""
        best = np.maximum.reduceat(score, self._start[:-1])[self._row_of]
        is_best = score >= best - _EQUAL
        number = np.add.reduceat(is_best.astype(float), self._start[:-1])
        return (is_best[self._start[:-1] + truth] / number)[use]


def softmax_of(utility: Array, start: Places) -> Array:
    """Return the share of each option among those of its row; `start`: where rows begin, and the end."""
    row_of = np.repeat(np.arange(len(start) - 1), np.diff(start))
    weight = np.exp(utility - np.maximum.reduceat(utility, start[:-1])[row_of])
    return weight / np.add.reduceat(weight, start[:-1])[row_of]


def fit_logit(features: Array, right: Array, num_options: Places) -> Array:
    """Return the weights of a conditional logit with a ridge of 1, by Newton's method.

    Args:
        features: (options, F), the options of a row side by side.
        right: (options,) 1 for the right option of a row.
        num_options: (rows,).
    """
    start = np.concatenate([[0], np.cumsum(num_options)])
    weights = np.zeros(features.shape[1])
    for _ in range(_MAX_STEPS):
        share = softmax_of(features @ weights, start)
        gradient = features.T @ (right - share) - _RIDGE * weights
        mean = np.add.reduceat(share[:, None] * features, start[:-1], axis=0)
        curvature = (features * share[:, None]).T @ features - mean.T @ mean + _RIDGE * np.eye(len(weights))
        step = np.linalg.solve(curvature, gradient)
        weights += step
        if np.abs(step).max() < 1e-6:
            break
    return weights


def parts_of(word: str) -> list[str]:
    """Return the parts of an option between commas."""
    return [part.strip() for part in word.split(",")]


def _are_orders(words: Sequence[str]) -> bool:
    things = {tuple(sorted(parts_of(word))) for word in words}
    return len(things) == 1 and len(next(iter(things))) > 1


def _keys(word: str, words: Sequence[str], slots: dict[str, str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield "word", (word,)
    yield "options", (str(len(words)), word)
    parts = parts_of(word)
    if len(parts) > 1 or any("," in other for other in words):  # a route: its turns
        yield "first", (parts[0],)
        yield "last", (parts[-1],)
        yield "slots first", (*slots.values(), parts[0])
        return
    for name, text in slots.items():
        yield name, (text, word)
    for one, other in combinations(slots, 2):
        yield f"{one} {other}", (slots[one], slots[other], word)


def _codes(keys: Sequence[object]) -> Places:
    """Return a number per key, equal for equal keys; 0 for None."""
    known: dict[object, int] = {None: 0}
    return np.array([known.setdefault(key, len(known)) for key in keys], dtype=np.int64)


def _pair_codes(words: Sequence[Sequence[str]]) -> tuple[Places, Places]:
    """Return of each option the codes of its ordered pairs and of the pairs turned round, (options, pairs).

    Orders of fewer things repeat the pair of nothing with itself, which is as often before as after.
    """
    listed = [list(combinations(parts_of(word), 2)) for item in words for word in item]
    width = max(map(len, listed))
    known: dict[tuple[str, str], int] = {("", ""): 0}
    codes = np.zeros((2, len(listed), width), dtype=np.int64)
    for k, pairs in enumerate(listed):
        for j, (a, b) in enumerate(pairs):
            codes[0, k, j] = known.setdefault((a, b), len(known))
            codes[1, k, j] = known.setdefault((b, a), len(known))
    return codes[0], codes[1]
