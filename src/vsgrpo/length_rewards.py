"""Rewards that look at how long a completion is: words of the thought, or tokens.

Called as those of `rewards`, with the columns of the rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from vsgrpo.rewards import Completions, accuracy_reward, thought_of, with_modes

_RIGHT = 0.1
"""Accuracy above which a completion counts as right (Video-R1's code)."""


def length_reward(
    completions: Completions, *, prompt_mode: str | Sequence[str] = "vanilla", length_words: int = 32, **columns: Any
) -> list[float]:
    """Return how far the thought reaches `length_words` words: min(1, words / length_words), 0 in a wrong format.

    The paper adds such a reward against empty thoughts (and then sees repeated tags). Its form is not printed:
    Deviation: ours counts different words, and within the one block that the format allows, so that neither repeated
    tags nor repeated words pay. Vanilla mode thinks nothing: 1 for all, which leaves advantages as they are.
    """
    rewards = []
    for text, mode in with_modes(completions, prompt_mode):
        words = set() if mode == "vanilla" else set((thought_of(text, mode) or "").casefold().split())
        rewards.append(1.0 if mode == "vanilla" else min(1.0, len(words) / length_words))
    return rewards


def overlong_reward(
    completions: Completions,
    *,
    completion_ids: Sequence[Sequence[int]],
    max_completion_length: int,
    overlong_tokens: int = 32,
    **columns: Any,
) -> list[float]:
    """Return 0 for completions that end early enough, down to -1 for those as long as they may be.

    The last `overlong_tokens` before the limit cost 1 / overlong_tokens each: a completion of n tokens earns
    min(0, (limit - overlong_tokens - n) / overlong_tokens), at least -1.

    Source: arXiv 2503.14476 (DAPO), soft overlong punishment; there 4,096 of 20,480 tokens.
    """
    free = max_completion_length - overlong_tokens
    return [max(-1.0, min(0.0, (free - len(ids)) / overlong_tokens)) for ids in completion_ids]


def token_range_reward(
    completions: Completions,
    *,
    completion_ids: Sequence[Sequence[int]],
    row_key: Sequence[str],
    token_range: Sequence[int] = (320, 512),
    **columns: Any,
) -> list[float]:
    """Return 1 for completions of `token_range` tokens (both ends count) that answer well, else 0: a bonus.

    Well is an accuracy above 0.1, and another completion of the group must answer well too, so that no length pays by
    itself. Video-R1's weight is 0.2.

    Source: arXiv 2503.21776 (Video-R1), length reward; the bounds 0.1 and two completions are those of its code.

    Args: `row_key` of each completion, equal ones are a group; what `accuracy_reward` needs.
    """
    right = [score > _RIGHT for score in accuracy_reward(completions, **columns)]
    groups: dict[str, int] = defaultdict(int)
    for key, good in zip(row_key, right, strict=True):
        groups[key] += good
    low, high = token_range
    places = zip(row_key, right, completion_ids, strict=True)
    return [float(good and groups[key] > 1 and low <= len(ids) <= high) for key, good, ids in places]
