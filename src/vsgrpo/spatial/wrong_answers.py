"""Wrong but plausible answers, for preference pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from vsgrpo.spatial.answers import official_number
from vsgrpo.spatial.maps import map_text, read_map, strict_score, wrong_map
from vsgrpo.spatial.scoring import ROUNDING, exact_match

FACTORS = ((0.25, 0.75), (1.3, 1.75))
"""A wrong number is the right one times a factor from one of these ranges, each as likely as the other."""
MIN_ERROR = 0.2
"""A wrong number is at least this share of the right one away from it."""
DIRECTIONS = ("left", "right", "back", "front", "front-left", "front-right", "back-left", "back-right")
_DRAWS = 16


def rejected_answer(
    answer: str, answer_kind: str, options: Sequence[str] | None, *, seed: int, key: str, tolerance: float | None = None
) -> str | None:
    """Return a wrong answer that reads like the right one, never equal to it under the scorers.

    Source: arXiv 2504.00883 section 5.1 (the right answer changed to a wrong one). Deviation: how it was changed is not
    printed; the kinds below are ours. Margin of 20 %: VLM-3R's distractors.
    Numbers: scaled by `FACTORS` and rounded to the decimals of the answer, positive, at least `MIN_ERROR` away; drawn
    again where rounding takes it back, at last one unit of the last decimal larger. Choices: another candidate of the
    question. Directions without candidates: another direction of the same fineness. Maps: turned or mirrored.

    Args:
        answer: the right answer: a word, number text > 0 or a map.
        answer_kind: "number", "choice", "text" or "map".
        options: the candidates, right one included.
        seed: of the run or build.
        key: names the question.
        tolerance: of the question's type: a wrong number is farther away, too.

    Returns:
        None where there is no wrong answer to give: a text without candidates that is neither number nor direction.
    """
    digest = blake2b(f"{seed}\0rejected\0{key}".encode(), digest_size=16).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "big"))
    if answer_kind == "map":
        truth = read_map(answer) or {}
        other = wrong_map(truth, rng)
        return map_text(other) if strict_score(other, truth) < 1 else None
    if answer_kind == "number" or (options is None and _is_positive(answer)):
        return _wrong_number(answer, rng, tolerance or 0.0)
    candidates = options if options is not None else _directions_like(answer)
    wrong = [word for word in candidates if exact_match(word, answer) == 0.0]
    return wrong[int(rng.integers(len(wrong)))] if wrong else None


def _is_positive(answer: str) -> bool:
    number = official_number(answer) if " " not in answer.strip() else None
    return number is not None and math.isfinite(number) and number > 0


def _wrong_number(answer: str, rng: np.random.Generator, tolerance: float) -> str:
    right = float(answer)
    # "1e2" has no decimals of its own
    decimals = 0 if "e" in answer.lower() else len(answer.strip().partition(".")[2])
    for _ in range(_DRAWS):
        low, high = FACTORS[int(rng.integers(len(FACTORS)))]
        text = f"{right * rng.uniform(low, high):.{decimals}f}"
        error = abs(float(text) - right)
        if float(text) > 0 and error >= MIN_ERROR * right and not (tolerance and error <= tolerance + ROUNDING):
            return text
    return f"{right + 2 * tolerance + 10.0**-decimals:.{decimals}f}"


def _directions_like(answer: str) -> list[str]:
    """Return the directions as fine as `answer` ("left" and "front-left" are not mixed); none for other words."""
    word = answer.strip().removesuffix(".").casefold()
    return [name for name in DIRECTIONS if ("-" in name) == ("-" in word)] if word in DIRECTIONS else []
