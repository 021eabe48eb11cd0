"""Do answers follow the video? Scores of pairs of rows about a video and its edited version (`data.pairs`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vsgrpo.data.pairs import find_pairs
from vsgrpo.data.row import Row, number_of
from vsgrpo.spatial.answers import read_number


@dataclass(frozen=True)
class PairOutcome:
    """What became of one pair.

    Attributes:
        kind: see `data.pairs.KINDS`.
        scene: dataset/room, for intervals by scene.
        original_right, edited_right: the number is the right one, exactly.
        stale: the edited video got the right number of the original one, which is wrong for it.
        flipped: the two answers are not the same number.
    """

    kind: str
    scene: str
    original_right: bool
    edited_right: bool
    stale: bool
    flipped: bool

    @property
    def both_right(self) -> bool:
        """Whether the pair counts for the pair accuracy."""
        return self.original_right and self.edited_right


def pair_outcomes(rows: Iterable[Row], answers: Mapping[str, str], scorer: str = "official") -> list[PairOutcome]:
    """Return the outcome of every pair of rows that are both answered.

    Args:
        answers: id -> text of the model.
        scorer: whose reading of numbers, one of `spatial.answers.SCORERS`.
    """
    outcomes = []
    for pair in find_pairs(rows):
        first, second = pair.original, pair.edited
        if first.id not in answers or second.id not in answers:
            continue
        said = [read_number(scorer, row.question_type, answers[row.id]) for row in (first, second)]
        right = [number_of(row.ground_truth, row.question_type) for row in (first, second)]
        outcomes.append(
            PairOutcome(
                kind=pair.kind,
                scene=f"{second.dataset}/{second.room}",
                original_right=said[0] == right[0],
                edited_right=said[1] == right[1],
                stale=said[1] == right[0] != right[1],
                flipped=said[0] != said[1],
            )
        )
    return outcomes


def pair_scores(outcomes: Sequence[PairOutcome]) -> dict[str, dict[str, Any]]:
    """Return kind -> its rates, 0..1, of the kinds that occur.

    n: pairs. pair_accuracy: both answers right. edited_accuracy: the edited video's answer right (query_drop: the share
    of exact zeros). stale_rate: the edited video answered with the old number; None for placebo pairs, whose number
    stays. flip_rate: the two answers differ (of placebo pairs none should).
    """
    table = {}
    for kind in dict.fromkeys(outcome.kind for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.kind == kind]
        table[kind] = {
            "n": len(own),
            "pair_accuracy": _share(outcome.both_right for outcome in own),
            "edited_accuracy": _share(outcome.edited_right for outcome in own),
            "stale_rate": None if kind == "placebo" else _share(outcome.stale for outcome in own),
            "flip_rate": _share(outcome.flipped for outcome in own),
        }
    return table


def pair_lines(table: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the printed table of `pair_scores`, in percent; empty without pairs."""
    if not table:
        return []
    names = ("pair_accuracy", "edited_accuracy", "stale_rate", "flip_rate")
    lines = [f"{'pairs':<11}  {'n':>5}" + "".join(f"  {name.replace('_', ' '):>15}" for name in names)]
    for kind, rates in table.items():
        cells = ("-" if rates[name] is None else f"{100 * rates[name]:.1f}" for name in names)
        lines.append(f"{kind:<11}  {rates['n']:>5}" + "".join(f"  {cell:>15}" for cell in cells))
    return lines


def _share(values: Iterable[bool]) -> float:
    found = list(values)
    return sum(found) / len(found)
