"""Positions of a prompt, token by token, by both rules of model.text_after_video: what ours are held against.

Imports nothing of ours. Sources: arXiv 2409.12191 section 2.1 and transformers pull request 35569 (published).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Grid = tuple[int, int, int]


def token_positions(
    ids: Sequence[int],
    placeholders: Sequence[int],
    media: Sequence[tuple[Grid, float | None]],
    rule: str,
    per_second: int | None = None,
) -> Tensor:
    """Return (3, L) positions.

    Args:
        placeholders: ids that stand for a token of a video or image.
        media: grid (temporal patches, rows and columns of patches; 2 x 2 of these make a token) and seconds per
            temporal patch of each, in order.
        rule: `published`: text goes on 1 after the farthest position of a video on any axis; `library`: at the video's
            start plus the longer of its rows and columns.
        per_second: positions per second of video; None: one per temporal patch.
    """
    columns: list[tuple[int, int, int]] = []
    at, coming = 0, iter(media)
    while len(columns) < len(ids):
        if ids[len(columns)] not in placeholders:
            columns.append((at, at, at))
            at += 1
            continue
        (times, high, wide), seconds = next(coming)
        rows, cols = high // 2, wide // 2
        step = 1.0 if per_second is None or seconds is None else torch.tensor(seconds) * per_second
        own = [
            (at + int(step * t), at + row, at + col) for t in range(times) for row in range(rows) for col in range(cols)
        ]
        columns += own
        at = 1 + max(max(column) for column in own) if rule == "published" else at + max(rows, cols)
    return torch.tensor(columns).T
