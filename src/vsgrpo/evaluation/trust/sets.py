"""The sets of rows that the trust report scores: all, those true for the frames shown, those that text does not answer.

A set leaves rows out by what they are, never by what the model said to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vsgrpo.audit.measure import Audit
from vsgrpo.data.frame_true import is_true_at
from vsgrpo.data.row import Row
from vsgrpo.evaluation.trust.revsi_rules import Verdicts, obeying, rule_table
from vsgrpo.terminal import counted

FULL = "full"


@dataclass(frozen=True)
class RowSet:
    """Some of the rows.

    Attributes:
        name: heading of its columns.
        about: what is left out, and why.
        ids: of the rows in it.
    """

    name: str
    about: str
    ids: frozenset[str]


def row_sets(rows: Sequence[Row], audit: Audit, frames: int, verdicts: Verdicts | None = None) -> list[RowSet]:
    """Return all rows first, then every part of them that is known here and leaves something out.

    Args:
        audit: of these rows (`row_scores` by key).
        frames: shown to the model.
        verdicts: what the rules of ReVSI say of these rows.
    """
    every = frozenset(row.id for row in rows)
    sets = [RowSet(FULL, "all rows that every arm answered", every)]
    truth = {row.id: is_true_at(row, frames) for row in rows}
    if unknown := sum(found is None for found in truth.values()):
        note = f"; {counted(unknown, 'row does not say and is', 'rows do not say and are')} left out too"
    else:
        note = ""
    kept = [name for name, found in truth.items() if found]
    about = f"rows whose answer the {counted(frames, 'frame shown makes', 'frames shown make')} true{note}"
    sets.append(RowSet(f"frame-true at {frames}", about, frozenset(kept)))
    if all(isinstance(row.extra.get("pruned"), bool) for row in rows):
        ids = frozenset(row.id for row in rows if not row.extra["pruned"])
        sets.append(RowSet("the benchmark's own pruning", "rows that its column `pruned` keeps", ids))
    pruned = pruned_by_text(rows, audit)
    about = "of each question type the rows that text answers best are left out, until text has no more than constants"
    sets.append(RowSet("audit-pruned", about, frozenset(row.id for row in rows if row.key not in pruned)))
    if verdicts:
        sets.append(RowSet("ReVSI rules", _about_rules(verdicts), obeying(verdicts)))
    return [sets[0], *(item for item in sets[1:] if item.ids and item.ids != every)]


def _about_rules(verdicts: Verdicts) -> str:
    rules = rule_table(verdicts)
    broken = ", ".join(f"{rule['broken']} {rule['rule']}" for rule in rules if rule["broken"])
    unknown = sum(None in found.values() for found in verdicts.values())
    kept = f"; kept: {counted(unknown, 'row')} without what a rule needs (boxes)" if unknown else ""
    return f"rows that break no rule of ReVSI; left out: {broken}{kept}"


def pruned_by_text(rows: Sequence[Row], audit: Audit) -> set[str]:
    """Return the keys of the rows to leave out so that text alone scores no more than constants or chance, per type.

    Rows go in the order in which the audit lists them, the most exploitable first.
    """
    kinds = {row.key: row.question_type for row in rows}
    ranked: dict[str, list[str]] = {}
    for key in audit.row_scores:
        ranked.setdefault(kinds[key], []).append(key)
    pruned: set[str] = set()
    for kind, own in ranked.items():
        pruned.update(own[: num_pruned([audit.row_scores[key] for key in own], audit.types[kind].floor)])
    return pruned


def num_pruned(scores: Sequence[float], floor: float) -> int:
    """Return how many of the first scores to leave out so that the mean of the others is at most `floor`.

    Args:
        scores: highest first.
    """
    values = np.asarray(scores)
    left = values[::-1].cumsum()[::-1] / np.arange(len(values), 0, -1)  # mean of this one and all that follow
    low = np.flatnonzero(left <= floor + 1e-12)
    return int(low[0]) if len(low) else len(values)


def mask(ids: Sequence[str], kept: Iterable[str]) -> NDArray[np.bool_]:
    """Return (N,): whether each id is among those kept."""
    found = set(kept)
    return np.array([name in found for name in ids], dtype=bool)
