"""An evaluation in the trackers of `report_to`: scores, a table of answers with frames, and the page."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vsgrpo.config.evaluate import EvalConfig
from vsgrpo.errors import VsgrpoError, first_line
from vsgrpo.evaluation.benchmark import Benchmark
from vsgrpo.evaluation.results import REPORT_NAME, Answers
from vsgrpo.report.shown_media import frames_of, spread_media
from vsgrpo.terminal import show
from vsgrpo.trackers import Table, contact_sheet, send_evaluation
from vsgrpo.video.place import Place

ANSWER_ROWS = 64
"""Most rows of the table of answers, evenly spread over the benchmark."""
ANSWER_FRAMES = 4
ANSWER_COLUMNS = ("id", "question_type", "frames", "question", "answer", "prediction", "score")
_SETTINGS = ("title", "model", "vision", "text_after_video", "prompt", "decoding", "benchmark", "leak")


def report_evaluation(config: EvalConfig, benchmark: Benchmark, answers: Answers, result: Mapping[str, Any]) -> None:
    """Send scores, answers and page to each tracker; one that fails costs a warning, the results are written."""
    if not config.report_to:
        return
    folder = Path(config.run.dir)
    name = config.run.name or folder.name
    page = folder / REPORT_NAME
    settings = {key: result[key] for key in _SETTINGS if key in result}
    tables = [score_table(result), answer_table(config, benchmark, answers, result)]
    for tracker in config.report_to:
        try:
            send_evaluation(tracker, folder, name, settings, score_values(result), tables, page)
        except Exception as error:  # a tracker's own, of any kind
            show(f"warning: report_to={tracker}: {first_line(error)}; {folder} has all of it", sys.stderr)


def score_values(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of results.json by the names that trackers get."""
    scorers = result.get("scorers") or {"score": result["scores"]}
    values = {f"eval/{scorer}/{task}": value for scorer, table in scorers.items() for task, value in table.items()}
    for task, (low, high) in result.get("intervals", {}).items():
        values |= {f"eval/low/{task}": low, f"eval/high/{task}": high}
    for control, table in result["controls"].items():
        values |= {f"eval/controls/{control}/{task}": value for task, value in table.items()}
    return {**values, "eval/n": result["n"]}


def score_table(result: Mapping[str, Any]) -> Table:
    """Return one row per task: its scores by each scorer, the interval, and the controls."""
    scorers = result.get("scorers") or {"score": result["scores"]}
    intervals, controls = result.get("intervals", {}), result["controls"]
    columns = ["task", *scorers, *(["low", "high"] if intervals else []), *controls]
    rows = []
    for task in result["scores"]:
        row = [task, *(table.get(task) for table in scorers.values())]
        row += list(intervals.get(task, (None, None))) if intervals else []
        rows.append([*row, *(table.get(task) for table in controls.values())])
    return Table("eval/scores", columns, rows)


def answer_table(config: EvalConfig, benchmark: Benchmark, answers: Answers, result: Mapping[str, Any]) -> Table:
    """Return questions, evenly spread over the benchmark, with the answers given, their scores and some frames."""
    given = answers.by_control[""]
    scores = benchmark.row_scores(given, result)
    asked = [row for row in benchmark.rows if given.get(row.id, [None])[0] is not None]
    count = min(len(asked), ANSWER_ROWS)
    chosen = [asked[i * len(asked) // count] for i in range(count)]
    sheets: dict[Any, Any] = {}
    rows = []
    for row in chosen:
        media = tuple(answers.media_of(row))
        if media not in sheets:
            sheets[media] = _sheet(media, config)
        frames = sheets[media]
        cells = (row.id, row.question_type, frames, row.question, row.answer, given[row.id][0], scores.get(row.id))
        rows.append(cells)
    return Table("eval/answers", ANSWER_COLUMNS, rows)


def _sheet(media: Sequence[Place], config: EvalConfig) -> Any:
    """Return frames of what a question shows as one picture, None where a file cannot be read."""
    frames: list[Any] = []
    try:
        for place in spread_media(media):
            frames += frames_of(place, ANSWER_FRAMES, timeout_s=config.video.timeout_s)
    except VsgrpoError:
        return None
    return contact_sheet(frames)
