"""How far log-probs of servers are from ours: rounding makes it small, other weights, features or positions large."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vsgrpo.errors import RunError

CAUSES = (
    "the servers have another model, older weights, features of another vision tower, or place text after a video "
    "otherwise; bfloat16 on one side alone explains about 0.006"
)


def mean_gap(sampled: Sequence[Sequence[float]], scored: Sequence[Sequence[float]]) -> float:
    """Return the mean distance of log-probs per token.

    Args:
        sampled: of servers, one for each token of each completion.
        scored: ours, of the same tokens.
    """
    apart = [abs(a - b) for row, own in zip(sampled, scored, strict=True) for a, b in zip(row, own, strict=True)]
    return sum(apart) / len(apart) if apart else 0.0


def check_gap(gap: float, limit: float, where: str, key: str) -> None:
    """Refuse log-probs that are too far from ours.

    Args:
        gap: `mean_gap`; one that is no number is too far.
        where: what was compared, for the message.
        key: name of the limit's key.

    Raises:
        RunError: it is above the limit.
    """
    if not (math.isfinite(gap) and gap <= limit):
        raise RunError(f"{where}: log-probs of the servers are {gap:.3g} from ours ({key}={limit:g})", CAUSES)
