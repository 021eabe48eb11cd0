"""Pairs of rows: one question about a video and about an edited one (`counterfactual.*` of build-data).

The edited row names the original in `extra.pair`: {"kind", "original" (its id), "old_answer", "removed" (category and
instance_id of the object taken out, and the frame that shows it best; of query_drop no instance)}.

Kinds: `removal`, one of the objects counted is taken out of the mesh, the answer changes; `placebo`, an object that the
question does not name is taken out, the answer stays (of a count one of about the same size); `query_drop`, the same
walk by those of its frames that show none of the category: the answer is 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vsgrpo.data.row import Row, RowError

PAIR = "pair"
KINDS = ("removal", "placebo", "query_drop")
_TEXTS = ("kind", "original", "old_answer")
_HINT = "as build-data writes it, see docs/trust.md"


@dataclass(frozen=True)
class Pair:
    """A question about a video and about its edited version."""

    kind: str
    original: Row
    edited: Row

    @property
    def answer_changes(self) -> bool:
        """Whether the edited video has another answer."""
        return self.original.answer != self.edited.answer


def pairs_name(split: str) -> str:
    """Return the name of the row file of a split's pairs: originals and edited rows."""
    return f"{split}_pairs.jsonl"


def pair_of(row: Row, where: str = "") -> dict[str, Any] | None:
    """Return the pair that an edited row names, None of other rows.

    Raises:
        RowError: not in the form that build-data writes.
    """
    pair = row.extra.get(PAIR)
    if pair is None:
        return None
    if not isinstance(pair, dict) or not all(isinstance(pair.get(name), str) for name in _TEXTS):
        rule = 'must be {"kind", "original", "old_answer"}'
        raise RowError(where or f"row {row.key}", f"extra.{PAIR}", rule, _HINT, value=pair)
    if pair["kind"] not in KINDS:
        rule = f"must be one of {', '.join(KINDS)}"
        raise RowError(where or f"row {row.key}", f"extra.{PAIR}.kind", rule, _HINT, value=pair["kind"])
    return pair


def pair_names(rows: Iterable[Row]) -> dict[str, str]:
    """Return the key of every row in a pair -> a name that the rows of the pair share: the key of the original."""
    names: dict[str, str] = {}
    for pair in find_pairs(rows):
        names[pair.original.key] = names[pair.edited.key] = pair.original.key
    return names


def find_pairs(rows: Iterable[Row]) -> list[Pair]:
    """Return the pairs whose rows are both there, in the order of the edited rows.

    Raises:
        RowError: as `pair_of`.
    """
    rows = list(rows)
    by_id = {(row.dataset, row.id): row for row in rows}
    found = []
    for row in rows:
        if (pair := pair_of(row)) is not None and (original := by_id.get((row.dataset, pair["original"]))) is not None:
            found.append(Pair(pair["kind"], original, row))
    return found
