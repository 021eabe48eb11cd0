"""report.html of an evaluation whose answers have one score each: by question type, controls, wrong answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vsgrpo.data.row import Place, Row
from vsgrpo.files import write_atomic
from vsgrpo.report.page import TEMPLATES, pictures, render

NUM_WRONG = 20
_NUM_FRAMES = 4
_FRAME_WIDTH = 240
Answered = tuple[Row, str, float, Sequence[Place]]
"""A row, the answer to it, its score 0..1, and what was shown: (kind, path), of a clip its start and end too."""


def write_accuracy_page(path: Path, results: Mapping[str, Any], answers: Sequence[Answered]) -> None:
    """Write the page.

    Args:
        results: the content of results.json.
        answers: one per answered row.
    """
    wrong = [item for item in answers if item[2] < 0.5]
    shown = [wrong[i * len(wrong) // min(len(wrong), NUM_WRONG)] for i in range(min(len(wrong), NUM_WRONG))]
    counts: dict[str, int] = {}
    for row, *_ in answers:
        counts[row.question_type] = counts.get(row.question_type, 0) + 1
    reader = results.get("reader") or {}
    page = render(
        TEMPLATES / "accuracy.html",
        results=results,
        counts=counts,
        num_wrong=len(wrong),
        wrong=[(row, text, *pictures(media, reader, _NUM_FRAMES, _FRAME_WIDTH)) for row, text, _, media in shown],
    )
    write_atomic(path, page)
