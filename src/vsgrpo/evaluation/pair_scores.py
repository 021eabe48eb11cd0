"""Do answers follow the video? Scores of pairs of rows about a video and its edited version (`data.pairs`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vsgrpo.data.pairs import find_pairs
from vsgrpo.data.row import Row, number_of

Read = Mapping[str, str | float | None]
"""Id of an answered row -> the letter or the number that a scorer reads (`scores.read_first`), None for none."""
_RATES = ("pair_accuracy", "edited_accuracy", "stale_rate", "flip_rate")


@dataclass(frozen=True)
class PairOutcome:
    """What became of one pair.

    Attributes:
        kind: see `data.pairs.KINDS`.
        question_type: of both rows.
        scene: dataset/room, for intervals by scene.
        original_right, edited_right: the letter is the right one, or exactly the number.
        stale: the edited video got the right answer of the original one, which is wrong for it.
        flipped: the two answers are not the same.
    """

    kind: str
    question_type: str
    scene: str
    original_right: bool
    edited_right: bool
    stale: bool
    flipped: bool

    @property
    def both_right(self) -> bool:
        """Whether the pair counts for the pair accuracy."""
        return self.original_right and self.edited_right


def pair_outcomes(rows: Iterable[Row], read: Read) -> list[PairOutcome]:
    """Return the outcome of every pair of rows that are both answered."""
    outcomes = []
    for pair in find_pairs(rows):
        first, second = pair.original, pair.edited
        if first.id not in read or second.id not in read:
            continue
        said, right = [read[row.id] for row in (first, second)], [_truth(row) for row in (first, second)]
        outcomes.append(
            PairOutcome(
                kind=pair.kind,
                question_type=second.question_type,
                scene=f"{second.dataset}/{second.room}",
                original_right=said[0] == right[0],
                edited_right=said[1] == right[1],
                stale=said[1] == right[0] != right[1],
                flipped=said[0] != said[1],
            )
        )
    return outcomes


def _truth(row: Row) -> str | float | None:
    return row.ground_truth if row.answer_kind == "choice" else number_of(row.ground_truth, row.question_type)


def pair_scores(outcomes: Sequence[PairOutcome]) -> dict[str, dict[str, Any]]:
    """Return kind -> its rates, 0..1, of the kinds that occur.

    n: pairs. pair_accuracy: both answers right. edited_accuracy: the edited video's answer right (query_drop: the share
    of exact zeros). stale_rate: the edited video answered with the old number; None for placebo pairs, whose number
    stays. flip_rate: the two answers differ (of placebo pairs none should). types: the same by question type, where the
    pairs of the kind are of several.
    """
    table: dict[str, dict[str, Any]] = {}
    for kind in dict.fromkeys(outcome.kind for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.kind == kind]
        types = sorted({outcome.question_type for outcome in own})
        by_type = {name: _rates([o for o in own if o.question_type == name]) for name in types if len(types) > 1}
        table[kind] = {**_rates(own), "types": by_type}
    return table


def _rates(outcomes: Sequence[PairOutcome]) -> dict[str, Any]:
    stays = outcomes[0].kind == "placebo"
    return {
        "n": len(outcomes),
        "pair_accuracy": _share(outcome.both_right for outcome in outcomes),
        "edited_accuracy": _share(outcome.edited_right for outcome in outcomes),
        "stale_rate": None if stays else _share(outcome.stale for outcome in outcomes),
        "flip_rate": _share(outcome.flipped for outcome in outcomes),
    }


def pair_lines(table: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the printed table of `pair_scores`, in percent; empty without pairs."""
    if not table:
        return []
    rows = []
    for kind, rates in table.items():
        rows += [(kind, rates), *((f"  {name}", part) for name, part in rates.get("types", {}).items())]
    width = max(11, *(len(name) for name, _ in rows))
    lines = [f"{'pairs':<{width}}  {'n':>5}" + "".join(f"  {name.replace('_', ' '):>15}" for name in _RATES)]
    for label, rates in rows:
        cells = ("-" if rates[name] is None else f"{100 * rates[name]:.1f}" for name in _RATES)
        lines.append(f"{label:<{width}}  {rates['n']:>5}" + "".join(f"  {cell:>15}" for cell in cells))
    return lines


def _share(values: Iterable[bool]) -> float:
    found = list(values)
    return sum(found) / len(found)
