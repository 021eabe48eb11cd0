"""Which rows of a benchmark obey the rules of ReVSI: judged by their text, and by boxes where they have any.

Boxes are those of the dataset folder of our own rows (`data.scene_files`). Rows of VSI-Bench have none: its directions
are judged by their names alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vsgrpo.audit.rows import slots_of
from vsgrpo.data.row import Row
from vsgrpo.spatial.question_types import QUESTION_TYPES
from vsgrpo.spatial.revsi import RULES, Asked, boxes_of
from vsgrpo.spatial.scene import Scene

Verdicts = dict[str, dict[str, bool | None]]
"""Id of a row -> rule that is about its type -> whether the row breaks it; None: what it needs is not known."""


def judge_rows(rows: Sequence[Row], scenes: Mapping[str, Scene]) -> Verdicts:
    """Return what the rules of ReVSI say of each row.

    Args:
        scenes: key of a row -> its scene, where it is known.
    """
    slots: dict[str, dict[str, str]] = {}
    for name in {row.question_type for row in rows}:
        own = [row for row in rows if row.question_type == name]
        slots |= dict(zip((row.id for row in own), slots_of([row.question for row in own]), strict=True))
    verdicts: Verdicts = {}
    for row in rows:
        asked = _asked(row, slots[row.id], scenes.get(row.key))
        about = [] if asked is None else [rule for rule in RULES if rule.about(asked.kind)]
        verdicts[row.id] = {rule.name: rule.is_broken(asked) for rule in about if asked is not None}
    return verdicts


def _asked(row: Row, slots: Mapping[str, str], scene: Scene | None) -> Asked | None:
    """Return what the rules look at, None of types of other projects."""
    kind = QUESTION_TYPES.get(row.question_type)
    if kind is None or row.answer_kind != kind.answer_kind:
        return None
    names = {*slots.values(), *(item["category"] for item in row.objects)}
    if kind.words is None:
        names.update(part.strip().lower() for option in row.options or () for part in option.split(","))
    boxes = None if scene is None else boxes_of(scene, [item["instance_id"] for item in row.objects])
    return Asked(kind, frozenset(names) or None, row.ground_truth, boxes)


def obeying(verdicts: Verdicts) -> frozenset[str]:
    """Return the ids of the rows that break no rule, as far as that is known."""
    return frozenset(name for name, found in verdicts.items() if not any(found.values()))


def rule_table(verdicts: Verdicts) -> list[dict[str, Any]]:
    """Return the rules with the number of rows that each is about, that break it, and of which it is not known."""
    table = []
    for rule in RULES:
        said = [found[rule.name] for found in verdicts.values() if rule.name in found]
        table.append({"rule": rule.name, "n": len(said), "broken": said.count(True), "unknown": said.count(None)})
    return table
