"""Both scores of maps, beside those of a map that needs no eyes: one point of each category in the centre."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vsgrpo.spatial.maps import centred, published_score, read_map, strict_score
from vsgrpo.terminal import counted

MapScores = dict[str, float]


def map_scores(truths: Sequence[str], read: Sequence[str | None]) -> MapScores:
    """Return the mean scores 0..1 of maps read ("strict", "published"), of blind ones, and "n"; {} without maps.

    Args:
        truths: the true map of each answer.
        read: the maps that a scorer reads in the answers, None for none.
    """
    if not truths:
        return {}
    said = [None if text is None else read_map(text) for text in read]
    pairs = list(zip(said, [read_map(truth) or {} for truth in truths], strict=True))
    return {
        "n": len(pairs),
        "strict": float(np.mean([strict_score(*pair) for pair in pairs])),
        "published": float(np.mean([published_score(*pair) for pair in pairs])),
        "blind_strict": float(np.mean([strict_score(centred(truth, one_each=True), truth) for _, truth in pairs])),
        "blind_published": float(np.mean([published_score(centred(truth, True), truth) for _, truth in pairs])),
    }


def map_lines(by_scorer: Mapping[str, MapScores]) -> list[str]:
    """Return a line per scorer with both scores of its maps times 100; none where no map was asked for."""
    lines = []
    for scorer, found in by_scorer.items():
        shown = {name: f"{100 * value:.1f}" for name, value in found.items()}
        if found:
            lines.append(
                f"maps ({scorer} scorer, {counted(int(found['n']), 'answer')}): strict {shown['strict']}, published "
                f"{shown['published']}; one point of each category in the centre: strict {shown['blind_strict']}, "
                f"published {shown['blind_published']}"
            )
    return lines
