"""report.html of an evaluation, for the eye: one file, no network, light and dark.

Scores beside controls and the paper, bars per task, calibration of numeric answers, confusion of directions, and the
worst misses with frames of their videos.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path
from typing import Any

from vsgrpo.data.row import LETTERS, Row
from vsgrpo.evaluation.benchmark import PromptSettings
from vsgrpo.evaluation.charts import bars_svg, calibration_svg, confusion_table
from vsgrpo.evaluation.predictions import Media
from vsgrpo.evaluation.published import published_lines
from vsgrpo.evaluation.vsibench_report import VsiBenchReport
from vsgrpo.evaluation.vsibench_scores import read_answer, row_item, scored_text
from vsgrpo.files import write_atomic
from vsgrpo.spatial.question import UNITS
from vsgrpo.spatial.question_types import QUESTION_TYPES, table_columns, type_names
from vsgrpo.video.examine import stills_or_reason

NUM_MISSES = 20
_NUM_FRAMES = 4
_FRAME_WIDTH = 240


def write_html(
    path: Path,
    report: VsiBenchReport,
    answers: Mapping[str, Sequence[str | None]],
    media_of: Callable[[Row], Media],
    backend: str,
    timeout_s: float | None,
) -> None:
    """Write the report of an evaluation.

    Args:
        answers: id -> one text per sample; charts and misses show the first.
        media_of: what each row was shown: one video.
        backend, timeout_s: how to read frames.
    """
    from jinja2 import Environment, select_autoescape

    prompt = PromptSettings(**{name: report.settings["prompt"][name] for name in ("mode", "wording", "show_options")})
    shown = [(row, text) for row in report.benchmark.rows for text in [next(iter(answers.get(row.id, ())), None)]]
    shown = [(row, text) for row, text in shown if text is not None]
    read = [(row, text, _read(report.scorer, row, text, prompt)) for row, text in shown]
    template = (files("vsgrpo.evaluation") / "templates" / "report.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=select_autoescape(default=True, default_for_string=True), trim_blocks=True)
    table = report.table_of_scorer
    columns = [(task, name) for task, name in table_columns().items() if task in table]
    text = environment.from_string(template).render(
        report=report,
        settings=report.settings,
        tasks=columns,
        table=table,
        intervals=report.scores.intervals[report.scorer],
        lines=_table_lines(report),
        groups=report.scores.groups()[report.scorer],
        bars=bars_svg(columns, table, report.scores.intervals[report.scorer], _marks(report)),
        marks=_marks(report),
        calibrations=_calibrations(read),
        confusions=_confusions(read),
        misses=_misses(read, report.scores.by_row[report.scorer], media_of, backend, timeout_s),
    )
    write_atomic(path, text)


def _read(scorer: str, row: Row, text: str, prompt: PromptSettings) -> str | float | None:
    """Return the letter of an option or the finite number that the scorer read, None for none."""
    item = row_item(row, (text,))
    value = read_answer(scorer, item, text, scored_text(item, text, prompt), prompt.show_options)
    if isinstance(value, str):
        return value if value in LETTERS[: len(row.options or ())] else None
    return value if value is not None and math.isfinite(value) else None


def _table_lines(report: VsiBenchReport) -> list[tuple[str, dict[str, float], str]]:
    """Return (name, table, CSS class) of what stands below our own line."""
    lines = [(f"{s} scorer", table, "soft") for s, table in report.scores.tables.items() if s != report.scorer]
    lines += [(how, table, "") for how, table in report.scores.sampling.get(report.scorer, {}).items()]
    lines += [(name, table, "") for name, table in report.controls().items()]
    for name, paper in _papers(report):
        own = report.table_of_scorer
        lines.append((f"{name} (paper)", paper, ""))
        lines.append(
            (f"ours \u2212 {name}", {task: own[task] - value for task, value in paper.items() if task in own}, "sign")
        )
    return lines


def _papers(report: VsiBenchReport) -> list[tuple[str, dict[str, float]]]:
    settings = report.settings
    return published_lines(settings["model"]["size"], settings["prompt"]["mode"]) if report.benchmark.official else []


def _marks(report: VsiBenchReport) -> Sequence[tuple[str, str, Mapping[str, float]]]:
    controls = report.controls()
    marks = [("m1", "best constant", controls["best constant"])]
    marks += [
        (f"m{2 + i}", name, controls[name])
        for i, name in enumerate(("chance", "blind", "shuffled"))
        if name in controls
    ]
    return marks + [("m5", f"{name} (paper)", table) for name, table in _papers(report)[-1:]]


def _calibrations(read: Sequence[tuple[Row, str, Any]]) -> list[dict[str, Any]]:
    """Return per type of numbers its chart, how many answers are in it and how many are not."""
    found = []
    for name in type_names("number"):
        values = [(float(row.ground_truth), value) for row, _, value in read if row.question_type == name]
        pairs = [(truth, value) for truth, value in values if value is not None and value > 0]
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


def _confusions(read: Sequence[tuple[Row, str, Any]]) -> list[tuple[str, list[str], list[Any]]]:
    """Return per type of fixed words (name, predicted words, rows of the confusion)."""
    found = []
    for kind in [kind.name for kind in QUESTION_TYPES.values() if kind.words is not None]:
        pairs = []
        for row, _, letter in read:
            if row.question_type == kind and row.options is not None:
                said = "" if letter is None else row.options[LETTERS.index(letter)]
                pairs.append((row.options[LETTERS.index(row.ground_truth)], said))
        if pairs:
            found.append((kind.rpartition("_")[2], *confusion_table(pairs)))
    return found


def _misses(
    read: Sequence[tuple[Row, str, Any]],
    scores: Mapping[str, float],
    media_of: Callable[[Row], Media],
    backend: str,
    timeout_s: float | None,
) -> list[dict[str, Any]]:
    """Return the worst answers, the worst of each type in turn, with frames of what was shown."""

    def badness(entry: tuple[Row, str, Any]) -> float:
        row, _, value = entry
        if row.answer_kind != "number":
            return 1.0 - scores[row.id]
        return 50.0 if value is None or value <= 0 else abs(math.log(value / float(row.ground_truth)))

    by_type: dict[str, list[tuple[Row, str, Any]]] = {}
    for entry in read:
        if scores[entry[0].id] < 0.5:
            by_type.setdefault(entry[0].question_type, []).append(entry)
    ordered = [sorted(by_type[kind], key=badness, reverse=True) for kind in sorted(by_type)]
    turns = [entry for turn in zip_longest(*ordered) for entry in turn if entry is not None]
    misses = []
    for row, text, value in turns[:NUM_MISSES]:
        frames, problem = stills_or_reason(media_of(row)[0][1], "video", _NUM_FRAMES, backend, timeout_s, _FRAME_WIDTH)
        said = "nothing readable" if value is None else f"{value:g}" if isinstance(value, float) else _word(row, value)
        misses.append(
            {
                "row": row,
                "text": text,
                "said": said,
                "truth": f"{row.ground_truth} {_unit(row.question_type)}".strip()
                if row.answer_kind == "number"
                else _word(row, row.ground_truth),
                "score": scores[row.id],
                "frames": frames,
                "problem": problem,
            }
        )
    return misses


def _unit(question_type: str) -> str:
    """Return the unit of a type's answers as people write it, "" for none."""
    return UNITS.get(QUESTION_TYPES[question_type].unit or "", "")


def _word(row: Row, letter: str) -> str:
    return f"{letter}. {row.options[LETTERS.index(letter)]}" if row.options else letter
