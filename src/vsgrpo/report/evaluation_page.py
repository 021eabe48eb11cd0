"""report.html of an evaluation on VSI-Bench, and the scores of the paper beside it.

Scores beside controls and the paper, bars per task, calibration of numeric answers, confusion of directions, and the
worst misses with frames of their videos.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from vsgrpo.data.row import LETTERS, Row
from vsgrpo.files import write_atomic
from vsgrpo.report.page import TEMPLATES, calibration_svg, render, scores_svg
from vsgrpo.report.shown_media import pictures
from vsgrpo.spatial.question import UNITS
from vsgrpo.spatial.question_types import QUESTION_TYPES, table_columns, type_names
from vsgrpo.video.place import Place

NUM_MISSES = 20
_FARTHEST = 1000.0
"""Answers that are wrong by a larger factor are not in the chart of numbers: its axes would show nothing else."""
_NUM_FRAMES = 4
_FRAME_WIDTH = 240
_COLUMNS = ("Avg", "Count", "AbsDist", "ObjSize", "RoomSize", "RelDist", "RelDir", "Route", "Order")
"""The paper's columns, in the order of `_ROWS`."""
_ROWS = {
    "2b": {
        "vanilla": {
            "Qwen2-VL-2B": (23.3, 21.4, 3.4, 32.3, 31.1, 26.7, 27.7, 24.7, 18.9),
            "2B + SFT": (29.6, 29.6, 23.5, 47.4, 33.5, 26.9, 28.3, 28.8, 18.6),
            "2B + DPO": (23.9, 21.7, 3.7, 34.8, 32.4, 27.1, 28.5, 24.2, 18.6),
            "vsGRPO-2B": (35.4, 53.6, 29.0, 52.7, 43.4, 28.1, 30.9, 26.8, 18.9),
        },
        "think": {
            "Qwen2-VL-2B": (22.9, 18.4, 4.3, 31.5, 17.3, 28.3, 22.9, 26.2, 16.8),
            "2B + vsGRPO-T": (29.6, 35.0, 28.2, 34.7, 25.2, 28.0, 38.5, 28.5, 18.7),
        },
        "observe": {
            "Qwen2-VL-2B": (21.8, 16.8, 1.7, 32.7, 22.7, 28.8, 27.6, 26.2, 18.1),
            "2B + vsGRPO-O": (31.2, 34.6, 22.5, 44.8, 33.7, 29.4, 41.8, 26.8, 15.8),
        },
    },
    "7b": {
        "vanilla": {
            "Qwen2-VL-7B": (32.2, 39.4, 25.0, 25.8, 43.2, 32.6, 30.9, 27.8, 32.6),
            "7B + SFT": (38.1, 44.7, 27.6, 46.1, 50.4, 34.0, 35.7, 33.0, 33.4),
            "7B + DPO": (32.6, 39.1, 25.2, 26.5, 44.2, 32.6, 30.9, 29.3, 33.3),
            "vsGRPO-7B": (40.7, 59.9, 29.6, 50.8, 48.3, 35.4, 35.6, 34.0, 31.5),
        },
        "think": {"Qwen2-VL-7B": (31.3, 44.8, 26.1, 25.3, 23.4, 34.7, 30.9, 32.9, 31.5)},
        "observe": {"Qwen2-VL-7B": (32.0, 29.9, 19.0, 39.6, 32.0, 34.6, 40.0, 36.0, 24.4)},
    },
}
"""Model size -> prompt mode -> row -> percent: arXiv 2504.00883 Table 2 (and Table 1 for other modes)."""
_HIDDEN_SIZES = {1536: "2b", 3584: "7b"}


@dataclass(frozen=True)
class ReadAnswer:
    """A question, the answer of a model, and what was read of it.

    Attributes:
        value: the letter of an option or a finite number, None where nothing could be read.
        score: 0..1.
        media: (kind, path) of what was shown: one video.
    """

    row: Row
    text: str
    value: str | float | None
    score: float
    media: Sequence[Place]

    @property
    def reading(self) -> str:
        """What was read, as words."""
        if self.value is None:
            return "nothing readable"
        return _option(self.row, self.value) if isinstance(self.value, str) else f"{self.value:g}"

    @property
    def truth(self) -> str:
        """The right answer, as words."""
        if self.row.answer_kind != "number":
            return _option(self.row, self.row.ground_truth)
        return f"{self.row.ground_truth} {_unit(self.row.question_type)}".strip()


def write_evaluation_page(path: Path, results: Mapping[str, Any], answers: Sequence[ReadAnswer]) -> None:
    """Write the page of an evaluation.

    Args:
        results: the content of its results.json.
        answers: one per answered row; of several samples the first.
    """
    columns = [(task, name) for task, name in table_columns().items() if task in results["scores"]]
    marks, reader = _marks(results), results.get("reader") or {}
    page = render(
        TEMPLATES / "evaluation.html",
        results=results,
        tasks=columns,
        table=results["scores"],
        intervals=results["intervals"],
        lines=_table_lines(results),
        bars=scores_svg(columns, results["scores"], results["intervals"], marks),
        marks=marks,
        calibrations=_calibrations(answers),
        confusions=_confusions(answers),
        misses=[(item, *pictures(item.media, reader, _NUM_FRAMES, _FRAME_WIDTH)) for item in _worst(answers)],
    )
    write_atomic(path, page)


def model_size(family: str, hidden_size: int) -> str | None:
    """Return which of the paper's models has this width: "2b", "7b", or None (as for every Qwen2.5-VL)."""
    return _HIDDEN_SIZES.get(hidden_size) if family == "qwen2_vl" else None


def published_lines(size: str | None, mode: str) -> list[tuple[str, dict[str, float]]]:
    """Return the paper's rows (0..1) for a model size and evaluation mode; none for a model the paper has not."""
    rows = _ROWS.get(size or "", {}).get(mode, {})
    names = [task for column in _COLUMNS for task, heading in table_columns().items() if heading == column]
    return [(name, {t: value / 100 for t, value in zip(names, row, strict=True)}) for name, row in rows.items()]


def papers_of(results: Mapping[str, Any]) -> list[tuple[str, dict[str, float]]]:
    """Return the paper's rows to put beside a results.json; none unless its rows are in VSI-Bench's own form."""
    if results["benchmark"].get("format") != "vsibench":
        return []
    return published_lines(results["model"].get("size"), results["prompt"]["mode"])


def _table_lines(results: Mapping[str, Any]) -> list[tuple[str, Mapping[str, float], str]]:
    """Return (name, table, CSS class) of the lines below our own."""
    own = results["scores"]
    lines = [(f"{s} scorer", table, "soft") for s, table in results["scorers"].items() if s != results["scorer"]]
    lines += [(how, table, "") for how, table in results["sampling"].get(results["scorer"], {}).items()]
    lines += [(name, table, "") for name, table in results["controls"].items()]
    if maps := results.get("maps", {}).get(results["scorer"]):
        shown = (("published map score", "published"), ("of a blind map", "blind_published"))
        lines += [(name, dict.fromkeys(type_names("map"), maps[key]), "soft") for name, key in shown]
    for name, paper in papers_of(results):
        difference = {task: own[task] - value for task, value in paper.items() if task in own}
        lines += [(f"{name} (paper)", paper, ""), (f"ours \u2212 {name}", difference, "sign")]
    return lines


def _marks(results: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, float]]]:
    """Return (CSS class, name, table) of the controls and the row of the paper that the bars are marked with."""
    names = ("best constant", "chance", "blind", "shuffled")
    controls = results["controls"]
    marks = [(f"m{number}", name, controls[name]) for number, name in enumerate(names, 1) if name in controls]
    return marks + [("m5", f"{name} (paper)", table) for name, table in papers_of(results)[-1:]]


def _calibrations(answers: Sequence[ReadAnswer]) -> list[dict[str, Any]]:
    """Return per type of numbers its chart, how many answers are in it and how many are not."""
    found = []
    for name in type_names("number"):
        values = [(float(item.row.ground_truth), item.value) for item in answers if item.row.question_type == name]
        pairs = [(t, v) for t, v in values if isinstance(v, float) and min(v, t) > 0 and _ratio(t, v) <= _FARTHEST]
        if not values:
            continue
        ratios = sorted(math.log2(value / truth) for truth, value in pairs)
        found.append(
            {
                "name": QUESTION_TYPES[name].column,
                "unit": _unit(name),
                "svg": calibration_svg(pairs, name) if pairs else "",
                "num": len(pairs),
                "left_out": len(values) - len(pairs),
                "factor": 2 ** ratios[len(ratios) // 2] if pairs else None,
            }
        )
    return found


def _confusions(answers: Sequence[ReadAnswer]) -> list[tuple[str, list[str], list[Any]]]:
    """Return per type of fixed words (name, predicted words, rows of the confusion)."""
    found = []
    for kind in [kind.name for kind in QUESTION_TYPES.values() if kind.words is not None]:
        pairs = []
        for item in answers:
            options = item.row.options
            if item.row.question_type == kind and options is not None:
                said = options[LETTERS.index(item.value)] if isinstance(item.value, str) else ""
                pairs.append((options[LETTERS.index(item.row.ground_truth)], said))
        if pairs:
            found.append((kind.rpartition("_")[2], *confusion_table(pairs)))
    return found


def confusion_table(pairs: Sequence[tuple[str, str]]) -> tuple[list[str], list[tuple[str, list[tuple[int, float]]]]]:
    """Return (predicted words, [(true word, [(count, share of the row)])]) of (true, predicted) words, sorted.

    The predicted word "" (nothing could be read) comes last, and only if it occurs.
    """
    counts, totals = Counter(pairs), Counter(true for true, _ in pairs)
    words = sorted({word for pair in pairs for word in pair} - {""})
    columns = [*words, *([""] if any(predicted == "" for _, predicted in pairs) else [])]
    rows = [
        (true, [(counts[true, word], counts[true, word] / totals[true]) for word in columns])
        for true in words
        if totals[true]
    ]
    return columns, rows


def _worst(answers: Sequence[ReadAnswer]) -> list[ReadAnswer]:
    """Return the worst answers, the worst of each type in turn."""

    def badness(item: ReadAnswer) -> float:
        if item.row.answer_kind != "number":
            return 1.0 - item.score
        value, truth = item.value if isinstance(item.value, float) else 0.0, float(item.row.ground_truth)
        return _ratio(truth, value) if min(value, truth) > 0 else math.inf

    by_type: dict[str, list[ReadAnswer]] = {}
    for item in answers:
        if item.score < 0.5:
            by_type.setdefault(item.row.question_type, []).append(item)
    ordered = [sorted(by_type[kind], key=badness, reverse=True) for kind in sorted(by_type)]
    return [item for turn in zip_longest(*ordered) for item in turn if item is not None][:NUM_MISSES]


def _ratio(truth: float, value: float) -> float:
    """Return by what factor a number above 0 is too high or too low; infinity where no float holds it."""
    return max(value, truth) / low if (low := min(value, truth)) >= sys.float_info.min else math.inf


def _unit(question_type: str) -> str:
    """Return the unit of a type's answers as people write it, "" for none."""
    return UNITS.get(QUESTION_TYPES[question_type].unit or "", "")


def _option(row: Row, letter: str) -> str:
    return f"{letter}. {row.options[LETTERS.index(letter)]}" if row.options else letter
