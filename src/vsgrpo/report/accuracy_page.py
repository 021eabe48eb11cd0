"""report.html of an evaluation whose answers have one score each: its table, published rows, wrong answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vsgrpo.data.row import Row
from vsgrpo.files import write_atomic
from vsgrpo.report.page import TEMPLATES, render
from vsgrpo.report.shown_media import pictures
from vsgrpo.video.place import Place

NUM_WRONG = 20
_NUM_FRAMES = 4
_FRAME_WIDTH = 240


@dataclass(frozen=True)
class Judged:
    """An answered question.

    Attributes:
        text: the answer.
        read: the letter or number that was read of it; None for nothing, or where all of it was judged.
        score: 0..1.
        media: what was shown: (kind, path), of a clip its start and end too.
    """

    row: Row
    text: str
    read: str | float | None
    score: float
    media: tuple[Place, ...]


def write_accuracy_page(path: Path, results: Mapping[str, Any], answers: Sequence[Judged]) -> None:
    """Write the page.

    Args:
        results: the content of results.json.
        answers: one per answered row.
    """
    wrong = [item for item in answers if item.score < 0.5]
    shown = [wrong[i * len(wrong) // min(len(wrong), NUM_WRONG)] for i in range(min(len(wrong), NUM_WRONG))]
    parts = {"task": results["tasks"], "question type": results["question_types"], **results["groups"]}
    if results["tasks"].keys() == results["question_types"].keys():
        del parts["task"]
    reader = results.get("reader") or {}
    page = render(
        TEMPLATES / "accuracy.html",
        results=results,
        parts=parts,
        columns=[task for task in results["tasks"] if any(task in row["tasks"] for row in results["published"])],
        num_wrong=len(wrong),
        wrong=[(item, *pictures(item.media, reader, _NUM_FRAMES, _FRAME_WIDTH)) for item in shown],
    )
    write_atomic(path, page)
