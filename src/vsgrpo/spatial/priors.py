"""What can be scored without eyes: the best constant answer and how even the answers are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

# The thresholds of `scoring.mra`, as tolerances; a test keeps both equal.
TOLERANCES = 1 - np.linspace(0.5, 0.95, 10)
_MAX_CANDIDATES = 20_000


def best_number(texts: Iterable[str] | Mapping[str, int]) -> tuple[str, float]:
    """Return the constant with the highest mean MRA over number texts, and that score.

    Candidates are the multiples of the finest decimal place among the texts, between their smallest and largest (where
    that is more than 20,000, the texts' own values); the smallest of equals wins.

    Args:
        texts: as they come, or text -> how often.

    Raises:
        ValueError: no texts, or one that is not a positive number.
    """
    found = Counter(texts)
    places = max(len(text.partition(".")[2]) if "e" not in text.lower() else 1 for text in found)
    truths, place_of = np.unique(np.array([float(text) for text in found]), return_inverse=True)
    counts = np.bincount(place_of, weights=list(found.values())).astype(int)
    if not (np.isfinite(truths).all() and truths[0] > 0):
        raise ValueError(f"best_number: {truths[0]}: positive numbers are needed")
    scale = 10**places
    low, high = round(truths[0] * scale), round(truths[-1] * scale)
    values = np.arange(low, high + 1) / scale if high - low < _MAX_CANDIDATES else truths
    totals = np.concatenate([[0], np.cumsum(counts)])
    right = np.zeros(len(values))
    for tolerance in TOLERANCES:
        first, last = _within(truths, values, tolerance)
        right += totals[last] - totals[first]
    place = int(np.argmax(right))
    return f"{values[place]:.{places}f}", float(right[place] / (len(TOLERANCES) * totals[-1]))


def _within(truths: np.ndarray, values: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Return first and last + 1 of the sorted truths t with |value - t| / t <= tolerance, per value."""

    def is_right(places: np.ndarray) -> np.ndarray:
        inside = (places >= 0) & (places < len(truths))
        t = truths[np.clip(places, 0, len(truths) - 1)]
        return inside & (np.abs(values - t) / t <= tolerance)

    # The bounds are rounded otherwise than the rule: a truth on the edge may be one place off.
    first = np.searchsorted(truths, values / (1 + tolerance), side="left")
    last = np.searchsorted(truths, values / (1 - tolerance), side="right")
    first = np.where(is_right(first - 1), first - 1, np.where(is_right(first) | (first >= last), first, first + 1))
    last = np.where(is_right(last), last + 1, np.where(is_right(last - 1) | (first >= last), last, last - 1))
    return first, np.maximum(first, last)


def best_word(words: Iterable[str] | Mapping[str, int]) -> tuple[str, float]:
    """Return the most frequent word (the alphabetically first of equals) and its share.

    Args:
        words: as they come, or word -> how often.

    Raises:
        ValueError: no words.
    """
    counts = Counter(words)
    if not counts:
        raise ValueError("best_word: no words")
    word = min(counts, key=lambda text: (-counts[text], text))
    return word, counts[word] / counts.total()


def entropy_bits(words: Iterable[str] | Mapping[str, int]) -> float:
    """Return the entropy in bits of the words' shares: 0 for one word, 2 for four equally frequent ones."""
    counts = Counter(words)
    total = counts.total()
    return sum(-n / total * math.log2(n / total) for n in counts.values()) + 0.0
