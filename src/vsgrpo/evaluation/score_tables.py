"""Scores on VSI-Bench for programs (JSON) and for people (tables), beside those of answers that need no model.

Columns and their order are the paper's, one row per model or control. Predictions are also written as a sample log of
lmms-eval, so that its vsibench aggregation can check our numbers, in an environment of its own (lmms-eval 0.7 needs
another antlr4 than Hydra does):

    from lmms_eval.tasks.vsibench.utils import vsibench_aggregate_overall
    vsibench_aggregate_overall([json.loads(line)["vsibench_overall"] for line in open("lmms_samples.jsonl")])
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vsgrpo.data.prompts import option_lines
from vsgrpo.data.row import Row
from vsgrpo.errors import DataError
from vsgrpo.evaluation.accuracy import Published
from vsgrpo.evaluation.benchmark import Benchmark, PromptSettings
from vsgrpo.evaluation.constants import best_constants, chance_scores, constant_scores, most_frequent
from vsgrpo.evaluation.intervals import Interval, task_groups
from vsgrpo.evaluation.leak import Leak
from vsgrpo.evaluation.map_scores import map_lines
from vsgrpo.evaluation.pair_scores import pair_lines
from vsgrpo.evaluation.results import RESULTS_NAME, SCHEMA_VERSION, read_results
from vsgrpo.evaluation.scores import Scores, row_item, scored_text
from vsgrpo.files import write_atomic
from vsgrpo.report.evaluation_page import published_lines
from vsgrpo.spatial.question_types import table_columns
from vsgrpo.spatial.scoring import score
from vsgrpo.terminal import counted

WITHOUT_MODEL = ("chance", "most frequent", "best constant")
NUM_VSIBENCH_ROWS = 5130
"""Rows of the whole benchmark; fewer answered rows are never called VSI-Bench."""
TIMED_NOTE = (
    "this model is told the times of frames: blank and first_frame are shown at those of a video of a minute, timing "
    "and shuffled at those of the video"
)


@dataclass(frozen=True)
class VsiBenchReport:
    """One evaluation: scores and everything that decided them."""

    benchmark: Benchmark
    scores: Scores
    leak: Leak
    settings: dict[str, Any]
    errors: dict[str, str]
    """id -> why it is unanswered."""
    scorer: str
    shown: Mapping[str, Scores] = field(default_factory=dict)
    """control (blind, blank, timing, first_frame, shuffled) -> its scores."""
    pairs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """kind of edited video -> do answers follow it (`pair_scores`); empty without such rows."""
    part: str = ""
    """Name of the published part that the rows are; "" for all of it, and for other rows."""
    published: tuple[Published, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def table_of_scorer(self) -> dict[str, float]:
        """The table of the scorer whose numbers are `scores` in results.json."""
        return self.scores.tables[self.scorer]

    def title(self) -> str:
        """Name what was scored: "VSI-Bench" only where every row of it was answered."""
        answered, total = self.scores.num_answered, self.benchmark.num_rows
        official, subset = self.benchmark.official, self.settings["benchmark"].get("subset", "full")
        if official and subset == "full" and answered == total == NUM_VSIBENCH_ROWS:
            return "VSI-Bench"
        if self.part and answered == total:
            return self.part
        kind = "rows of VSI-Bench's form" if official else "rows"
        kind = kind if subset == "full" else f"{subset} {kind}"
        return f"{answered} of {total} {kind} in {self.benchmark.file.name}"

    def controls(self) -> dict[str, dict[str, float]]:
        """Return the scores that need no eyes, on the answered rows: constants and chance, then the controls asked for.

        The constants are chosen on the very rows they are scored on: no model that ignores the video does better than
        the best constant by one answer per type.
        """
        rows = [row for row in self.benchmark.rows if row.id in self.scores.by_row["official"]]
        shown = self.settings["prompt"]["show_options"]
        controls = {
            "chance": chance_scores(rows),
            "most frequent": constant_scores(rows, most_frequent(rows, shown)),
            "best constant": constant_scores(rows, best_constants(rows, shown)),
            **{name: scores.tables[self.scorer] for name, scores in self.shown.items()},
        }
        return {name: scores for name, scores in controls.items() if scores}

    def to_json(self) -> dict[str, Any]:
        """Return the content of results.json; scores are 0..1."""
        return {
            "schema_version": SCHEMA_VERSION,
            "title": self.title(),
            "scorer": self.scorer,
            "scores": self.table_of_scorer,
            "headline": "macro",
            "micro": self.scores.micro[self.scorer],
            "macro": self.table_of_scorer["overall"],
            "micro_interval": self.scores.micro_intervals[self.scorer],
            "intervals": self.scores.intervals[self.scorer],
            "groups": task_groups(self.table_of_scorer),
            "controls": self.controls(),
            "control_intervals": {name: scores.intervals[self.scorer] for name, scores in self.shown.items()},
            "scorers": self.scores.tables,
            "scorer_intervals": self.scores.intervals,
            "sampling": self.scores.sampling,
            "sampling_intervals": self.scores.sampling_intervals,
            "published": [row.to_json() for row in self.published],
            "notes": list(self.notes),
            "n": self.scores.num_answered,
            "n_by_task": self.scores.num_by_task,
            "num_rows": self.benchmark.num_rows,
            "unanswered": [{"id": name, "reason": self.errors.get(name)} for name in self.scores.unanswered],
            "unmapped": self.scores.num_unmapped,
            "unread": self.scores.num_unread,
            "num_scenes": self.scores.num_scenes,
            **({"maps": self.scores.maps} if any(self.scores.maps.values()) else {}),
            **({"pairs": self.pairs} if self.pairs else {}),
            "leak": self.leak.to_json(),
            "benchmark": {
                "file": str(self.benchmark.file),
                "format": "vsibench" if self.benchmark.official else "rows",
                **self.settings["benchmark"],
            },
            **{name: value for name, value in self.settings.items() if name not in ("schema_version", "benchmark")},
        }

    def table(self) -> str:
        """Return the table and, below it, everything a reader must know before quoting it."""
        vision, prompt, decoding = self.settings["vision"], self.settings["prompt"], self.settings["decoding"]
        samples = f"{counted(decoding['num_samples'], 'sample')} at T={decoding['temperature']:g}"
        how = "greedy" if decoding["temperature"] == 0 else samples
        title = (
            f"{self.title()} | {self.scorer} scorer | {how} | {counted(vision['num_frames'], 'frame')}, at most "
            f"{vision['max_pixels']} pixels | prompt {prompt['mode']}, {prompt['wording']} wording, options "
            f"{'shown' if prompt['show_options'] else 'not shown'} | leak: {self.leak.verdict}"
        )
        title += " | text after a video: library" if self.settings.get("text_after_video") == "library" else ""
        title += f" | engine: {engine}" if (engine := self.settings.get("engine", "own")) != "own" else ""
        if thought := self.settings.get("thought"):
            title += f" | thought over: {thought['n']} of {thought['of']}"
        name = self.settings["model"]["adapter"] or self.settings["model"]["path"]
        name = f"{name} (shuffled videos)" if self.settings["video"] == "shuffled" else name
        table = self.table_of_scorer
        rows: list[Line] = [(name, table, self.scores.intervals[self.scorer])]
        rows += [(f"  {s} scorer", other) for s, other in self.scores.tables.items() if s != self.scorer]
        rows += [(f"  {how}", found) for how, found in self.scores.sampling.get(self.scorer, {}).items()]
        rows += [(control, found) for control, found in self.controls().items()]
        papers = published_lines(self.settings["model"]["size"], prompt["mode"]) if self.benchmark.official else []
        rows += papers
        rows += [
            (f"ours - {paper}", {t: table[t] - v for t, v in found.items() if t in table}) for paper, found in papers
        ]
        lines = [score_table(rows, self.scores.num_by_task, title), *group_lines(self.scores)]
        lines += [f"published: {row.name}: {100 * row.overall:.1f} ({row.source})" for row in self.published]
        lines += [
            micro_line(self.scores),
            *(f"note: {note}" for note in self.notes),
            f"note: {interval_note(self.scores.num_scenes)}",
        ]
        if papers and not self.title().startswith("VSI-Bench"):
            lines.append("note: the paper's numbers are of the whole of VSI-Bench, ours are not")
        if self.settings["model"].get("timed") and self.shown:
            lines.append(f"note: {TIMED_NOTE}")
        lines += [f"note: {note}" for note in self.leak.notes()]
        if self.scores.num_unmapped:
            unmapped = counted(self.scores.num_unmapped, "answer matches", "answers match")
            lines.append(f"note: {unmapped} no option of the question (scored 0)")
        if self.scores.unanswered:
            unanswered = counted(len(self.scores.unanswered), "question is", "questions are")
            lines.append(f"note: {unanswered} unanswered and left out of the scores:")
            lines += [f"  {reason}" for reason in sorted(set(self.errors.values()))]
        return "\n".join([*lines, *map_lines(self.scores.maps), *pair_lines(self.pairs)])


def compare_table(named: Sequence[tuple[str, Path | str]], title: str = "") -> str:
    """Return the table of evaluations (name, output folder), the best constant and chance first.

    Raises:
        DataError: a folder without results, or evaluations of different rows.
    """
    results = [(name, read_results(folder), folder) for name, folder in named]
    first = results[0][1]
    for _, result, folder in results:
        if result["benchmark"]["rows"] != first["benchmark"]["rows"] or result["n"] != first["n"]:
            problem = f"{Path(folder) / RESULTS_NAME}: {result['title']}: other rows than {first['title']}"
            raise DataError(problem, "compare evaluations of the same rows")
    blind = [(name, first["controls"][name]) for name in WITHOUT_MODEL if name in first["controls"]]
    lines = [*blind, *((name, result["scores"], result.get("intervals", {})) for name, result, _ in results)]
    table = score_table(lines, first["n_by_task"], title or first["title"])
    verdicts = [(name, result.get("leak", {}).get("verdict", "unknown")) for name, result, _ in results]
    notes = [f"note: leak check of {name}: {verdict}" for name, verdict in verdicts if verdict != "clean"]
    return "\n".join([table, *notes])


def interval_note(num_scenes: int) -> str:
    """Say what the intervals of a table are."""
    return f"ranges are 95 % intervals: 1,000 resamples of {counted(num_scenes, 'scene')}"


def micro_line(scores: Scores) -> str:
    """Return the means over questions, which the tables, whose overall is the mean of the tasks, do not have."""
    found = [f"{s} {_cell(scores.micro[s])} ({_range(scores.micro_intervals[s])})" for s in scores.micro]
    return f"overall is macro, the mean of the tasks; micro, the mean over questions: {', '.join(found)}"


def group_lines(scores: Scores) -> list[str]:
    """Return the lines about trained and held-out tasks, where both are there."""
    groups = scores.groups()
    if len(groups["official"]) < 2:
        return []
    shown = {"trained_tasks": "trained tasks", "held_out_tasks": "held out (route, order)"}
    return [
        f"{text}: " + ", ".join(f"{scorer} {100 * groups[scorer][name]:.1f}" for scorer in groups)
        for name, text in shown.items()
    ]


Line = tuple[str, Mapping[str, float]] | tuple[str, Mapping[str, float], Mapping[str, Interval]]


def score_table(lines: Sequence[Line], counts: Mapping[str, int] | None = None, title: str = "") -> str:
    """Return a table of scores (0..1, shown times 100): one line per (name, scores), tasks that none has left out.

    Intervals, if given, are in a line below their scores. `counts` (rows per task) become a last line "n". Boxes
    where stdout is a terminal, else plain columns that other programs can cut.
    """
    tasks = {task: name for task, name in table_columns().items() if any(task in line[1] for line in lines)}
    body = []
    for name, scores, *rest in lines:
        body.append([name, *(_cell(scores.get(task)) for task in tasks)])
        for intervals in rest:
            body.append(["", *(_range(intervals.get(task)) for task in tasks)])
    if counts is not None:
        body.append(["n", *(str(counts.get(task, sum(counts.values()) if task == "overall" else 0)) for task in tasks)])
    header = ["", *tasks.values()]
    return _boxed(header, body, title) if sys.stdout.isatty() else _plain(header, body, title)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _range(interval: Interval | None) -> str:
    return "" if interval is None else f"{100 * interval[0]:.1f}..{100 * interval[1]:.1f}"


def _plain(header: list[str], body: list[list[str]], title: str) -> str:
    rows = [header, *body]
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = ["  ".join([line[0].ljust(first), *map(str.rjust, line[1:], others)]).rstrip() for line in rows]
    return "\n".join([title, *lines] if title else lines)


def _boxed(header: list[str], body: list[list[str]], title: str) -> str:
    table = Table(title=title or None, title_justify="left")
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=True)
    for line in body:
        table.add_row(*line)
    console = Console(force_terminal=True)
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip("\n")


METRICS = (
    "vsibench_overall",
    "obj_appearance_order_accuracy",
    "object_abs_distance_mra",
    "object_counting_mra",
    "object_rel_distance_accuracy",
    "object_size_estimation_mra",
    "room_size_estimation_mra",
    "route_planning_accuracy",
    "object_rel_direction_accuracy",
)


def write_lmms_samples(
    path: Path,
    rows: Sequence[Row],
    predictions: Mapping[str, Sequence[str | None]],
    prompt: PromptSettings,
    text_of: Callable[[Row], str],
) -> int:
    """Write the sample log of the answered rows (of several samples the first) and return how many they are.

    Args:
        text_of: a row -> the text that it was asked with.
    """
    lines = []
    for number, row in enumerate(rows):
        text = next((text for text in predictions.get(row.id, ()) if text is not None), None)
        if text is not None:
            sample = {**_sample(number, row, text, prompt), "input": text_of(row)}
            lines.append(json.dumps(sample, ensure_ascii=False) + "\n")
    write_atomic(path, "".join(lines))
    return len(lines)


def logged_question(row: Row) -> dict[str, Any]:
    """Return what sample logs call a row: its id as a number where it is one, its scene, and the question."""
    return {
        "id": int(row.id) if row.id.isdecimal() else row.id,
        "dataset": row.dataset,
        "scene_name": row.scene_name,
        "question_type": row.question_type,
        "question": row.question,
    }


def _sample(number: int, row: Row, text: str, prompt: PromptSettings) -> dict[str, Any]:
    read = scored_text(row_item(row, (text,)), text, prompt) or ""
    options = None if row.options is None else option_lines(row.options)
    doc = {**logged_question(row), "ground_truth": row.ground_truth, "options": options}
    identity = hashlib.sha256(json.dumps(doc, indent=2, ensure_ascii=False).encode()).hexdigest()
    metrics = {"choice": "accuracy", "map": "map"}
    metric = metrics.get(row.answer_kind, "MRA:.5:.95:.05")
    scored = {**doc, "prediction": read, metric: score("lmms", row.question_type, read, row.ground_truth)}
    return {
        "doc_id": number,
        "target": row.ground_truth,
        "filtered_resps": read,
        "resps": [text],
        "doc_hash": identity,
        **dict.fromkeys(METRICS, scored),
    }
