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

from vsgrpo.audit.rows import AuditRow, slots_of

SMOOTHING = 4.0
_EQUAL = 1e-12

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
        self._start = np.concatenate([[0], np.cumsum(self.num_options)])
        self._row_of = np.repeat(np.arange(len(rows)), self.num_options)
        self._base = 1.0 / self.num_options[self._row_of]
        self._has_letters = all(row.has_letters for row in rows)
        self.is_order = all(_are_orders(item) for item in words)
        self._pairs = _pair_codes(words) if self.is_order else None
        slots = slots_of([row.question for row in rows])
        keyed = [dict(_keys(word, item, own)) for item, own in zip(words, slots, strict=True) for word in item]
        names = sorted({name for keys in keyed for name in keys})
        self._codes = [_codes([keys.get(name) for keys in keyed]) for name in names]
        self._word = _codes([word for item in words for word in item])

    def predict(self, truth: NDArray[Any], fit: Places, use: Places) -> dict[str, Array]:
        """Return model -> score of each row of `use`, learned from the rows of `fit`; `truth` may be permuted."""
        flat = self._flat(fit)
        right = self._is_right(truth)
        if self._has_letters:
            letters = np.bincount(truth[fit], minlength=int(self.num_options.max())).astype(float)
            constant = letters[np.arange(len(right)) - self._start[self._row_of]]
        else:
            constant = np.bincount(self._word[flat], right[flat], minlength=self._word.max() + 1)[self._word]
        score = self._precedence(truth, fit) if self.is_order else self._rates(right, flat)
        return {"constant": self._hits(constant, truth, use), "category": self._hits(score, truth, use)}

    def beliefs(self, truth: NDArray[Any], fit: Places, use: Places) -> list[Array]:
        """Return of each row of `use` the probability of each of its options, learned from the rows of `fit`.

        Rates add up to the odds of an option; of an order the ratios of precedence do, as a log-linear model has it.
        """
        if self.is_order:
            score = self._precedence(truth, fit) / np.maximum(1, self._pairs[0].shape[1]) if self._pairs else 0
            weight = np.exp(score)
        else:
            weight = np.maximum(self._base + self._rates(self._is_right(truth), self._flat(fit)), 1e-3)
        total = np.add.reduceat(weight, self._start[:-1])[self._row_of]
        share = weight / total
        return [share[self._start[k] : self._start[k + 1]] for k in use]

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

    def _flat(self, rows: Places) -> Places:
        chosen = np.zeros(len(self.truth), dtype=bool)
        chosen[rows] = True
        return np.flatnonzero(chosen[self._row_of])

    def _is_right(self, truth: Places) -> Array:
        right = np.zeros(self._start[-1])
        right[self._start[:-1] + truth] = 1.0
        return right

    def _rates(self, right: Array, flat: Places) -> Array:
        """Return of each option the sum over keys of (rate of being right - 1 / options)."""
        total = np.zeros(len(right))
        for codes in self._codes:
            shown = np.bincount(codes[flat], minlength=codes.max() + 1)
            hits = np.bincount(codes[flat], right[flat], minlength=codes.max() + 1)
            rate = (hits[codes] + SMOOTHING * self._base) / (shown[codes] + SMOOTHING) - self._base
            total += np.where(codes == 0, 0.0, rate)  # code 0: a key that this option does not have
        return total

    def _precedence(self, truth: Places, fit: Places) -> Array:
        assert self._pairs is not None
        before, after = self._pairs
        right = (self._start[:-1] + truth)[fit]
        counts = np.bincount(before[right].ravel(), minlength=max(before.max(), after.max()) + 1)
        return np.log((counts[before] + 1.0) / (counts[after] + 1.0)).sum(axis=1)

    def _hits(self, score: NDArray[Any], truth: Places, use: Places) -> Array:
        """Return of each row whether its right option has the highest score; equals share it."""
        best = np.maximum.reduceat(score, self._start[:-1])[self._row_of]
        is_best = score >= best - _EQUAL
        number = np.add.reduceat(is_best.astype(float), self._start[:-1])
        return (is_best[self._start[:-1] + truth] / number)[use]


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
