"""Rows of a benchmark that the frames shown do not make true, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from vsgrpo.data.frame_true import ANSWER_AT, is_true_at
from vsgrpo.data.row import Row
from vsgrpo.spatial.question_types import QUESTION_TYPES
from vsgrpo.terminal import counted

NUM_SHOWN = 12


def untrue_rows(rows: Sequence[Row], frames: int) -> dict[str, Any]:
    """Return how many rows are true, are not and do not say, by type, and some that are not, with the reason."""
    known = {row.id: is_true_at(row, frames) for row in rows}
    wrong = [row for row in rows if known[row.id] is False]
    by_type: dict[str, Counter[str]] = {}
    for row in rows:
        name = {True: "true", False: "untrue", None: "unknown"}[known[row.id]]
        by_type.setdefault(row.question_type, Counter())[name] += 1
    return {
        "frames": frames,
        "types": {kind: {n: by_type[kind][n] for n in ("true", "untrue", "unknown")} for kind in sorted(by_type)},
        "rows": [
            {
                "id": row.id,
                "question_type": row.question_type,
                "scene": f"{row.dataset}/{row.scene_name}",
                "question": row.question,
                "answer": row.answer,
                "why": _why(row, frames),
            }
            for row in _spread(wrong)[:NUM_SHOWN]
        ],
    }


def _why(row: Row, frames: int) -> str:
    other = row.extra.get(ANSWER_AT, {}).get(str(frames))
    if other is not None:
        return f"{counted(frames, 'frame shows', 'frames show')} {other}"
    return QUESTION_TYPES[row.question_type].untrue


def _spread(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with the types in turn."""
    place: Counter[str] = Counter()
    keyed = []
    for row in rows:
        keyed.append((place[row.question_type], row.question_type, row))
        place[row.question_type] += 1
    return [row for _, _, row in sorted(keyed, key=lambda item: item[:2])]
