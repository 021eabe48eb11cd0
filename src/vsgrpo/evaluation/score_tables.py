"""Scores for programs (JSON) and for people (tables): of `vsgrpo eval` on VSI-Bench, of `vsgrpo score`, of two files.

Columns and their order are the paper's, one row per model or control.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vsgrpo.errors import DataError
from vsgrpo.evaluation.benchmark import Benchmark
from vsgrpo.evaluation.intervals import Interval, task_groups
from vsgrpo.evaluation.leak import Leak
from vsgrpo.evaluation.results import RESULTS_NAME, SCHEMA_VERSION, read_results
from vsgrpo.evaluation.scores import Item, Scores, best_constants, chance_scores, constant_scores, most_frequent
from vsgrpo.report.evaluation_page import published_lines
from vsgrpo.spatial.answers import SCORERS
from vsgrpo.spatial.question_types import table_columns

WITHOUT_MODEL = ("chance", "most frequent", "best constant")
NUM_VSIBENCH_ROWS = 5130
"""Rows of the whole benchmark; fewer answered rows are never called VSI-Bench."""


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
    """control (blind, blank, first_frame, shuffled) -> its scores."""

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
            "intervals": self.scores.intervals[self.scorer],
            "groups": task_groups(self.table_of_scorer),
            "controls": self.controls(),
            "control_intervals": {name: scores.intervals[self.scorer] for name, scores in self.shown.items()},
            "scorers": self.scores.tables,
            "scorer_intervals": self.scores.intervals,
            "sampling": self.scores.sampling,
            "sampling_intervals": self.scores.sampling_intervals,
            "n": self.scores.num_answered,
            "n_by_task": self.scores.num_by_task,
            "num_rows": self.benchmark.num_rows,
            "unanswered": [{"id": name, "reason": self.errors.get(name)} for name in self.scores.unanswered],
            "unmapped": self.scores.num_unmapped,
            "unread": self.scores.num_unread,
            "num_scenes": self.scores.num_scenes,
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
        samples = f"{decoding['num_samples']} samples at T={decoding['temperature']:g}"
        how = "greedy" if decoding["temperature"] == 0 else samples
        title = (
            f"{self.title()} | {self.scorer} scorer | {how} | {vision['num_frames']} frames, at most "
            f"{vision['max_pixels']} pixels | prompt {prompt['mode']}, {prompt['wording']} wording, options "
            f"{'shown' if prompt['show_options'] else 'not shown'} | leak: {self.leak.verdict}"
        )
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
        lines.append(f"note: {interval_note(self.scores.num_scenes)}")
        if papers and not self.title().startswith("VSI-Bench"):
            lines.append("note: the paper's numbers are of the whole of VSI-Bench, ours are not")
        lines += [f"note: {note}" for note in self.leak.notes()]
        if self.scores.num_unmapped:
            lines.append(f"note: {self.scores.num_unmapped} answers are none of their question's options (scored 0)")
        if self.scores.unanswered:
            lines.append(f"note: {len(self.scores.unanswered)} questions are unanswered and left out of the scores:")
            lines += [f"  {reason}" for reason in sorted(set(self.errors.values()))]
        return "\n".join(lines)


def compare_table(named: Sequence[tuple[str, Path | str]], title: str = "") -> str:
    """Return the table of evaluations (name, output folder), the best constant and chance first.

    Raises:
        DataError: a folder without results, or evaluations of different rows.
    """
    results = [(name, read_results(folder), folder) for name, folder in named]
    if not results:
        raise ValueError("nothing to compare")
    first = results[0][1]
    for _, result, folder in results:
        if result["benchmark"]["rows"] != first["benchmark"]["rows"] or result["n"] != first["n"]:
            raise DataError(
                f"{Path(folder) / RESULTS_NAME}: {result['title']}: other rows than {first['title']}",
                "compare evaluations of the same rows",
            )
    blind = [(name, first["controls"][name]) for name in WITHOUT_MODEL if name in first["controls"]]
    lines = [*blind, *((name, result["scores"], result.get("intervals", {})) for name, result, _ in results)]
    table = score_table(lines, first["n_by_task"], title or first["title"])
    verdicts = [(name, result.get("leak", {}).get("verdict", "unknown")) for name, result, _ in results]
    notes = [f"note: leak check of {name}: {verdict}" for name, verdict in verdicts if verdict != "clean"]
    return "\n".join([table, *notes])


@dataclass(frozen=True)
class ScoreReport:
    """Scores of one predictions file."""

    name: str
    scores: Scores
    items: tuple[Item, ...]
    notes: tuple[str, ...] = ()

    @property
    def num_rows(self) -> int:
        """Rows asked about."""
        return len(self.items)

    def to_json(self) -> dict[str, Any]:
        """Return {scorer: {task: 0..1, "overall"}, "n", "unanswered": how many, "intervals", ...}."""
        scores = self.scores
        return {
            **scores.tables,
            "n": scores.num_answered,
            "unanswered": len(scores.unanswered),
            "intervals": scores.intervals,
            "groups": scores.groups(),
            **(
                {"sampling": scores.sampling, "sampling_intervals": scores.sampling_intervals}
                if scores.sampling
                else {}
            ),
            "n_by_task": scores.num_by_task,
            "num_rows": self.num_rows,
            "num_scenes": scores.num_scenes,
            "unanswered_ids": list(scores.unanswered),
            "unread": scores.num_unread,
            "unmapped": scores.num_unmapped,
            "notes": list(self.notes),
        }

    def table(self) -> str:
        """Return the table of all scorers; says so where rows are unanswered."""
        scores = self.scores
        title = f"{self.name}: {scores.num_answered} of {self.num_rows} rows answered"
        lines: list[Line] = []
        for scorer in SCORERS:
            lines.append((scorer, scores.tables[scorer], scores.intervals[scorer]))
            for how, table in scores.sampling.get(scorer, {}).items():
                lines.append((f"{scorer} {how}", table, scores.sampling_intervals[scorer][how]))
        text = [score_table(lines, scores.num_by_task, title), *group_lines(scores)]
        text += [f"note: {note}" for note in (interval_note(scores.num_scenes), *self.notes)]
        return "\n".join(text)


@dataclass(frozen=True)
class DifferenceReport:
    """The paired difference of two predictions files over the rows that both answered."""

    names: tuple[str, str]
    tables: tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]
    intervals: dict[str, dict[str, Interval]]
    num_common: int
    num_left_out: int
    num_scenes: int

    def differences(self) -> dict[str, dict[str, float]]:
        """Return per scorer and task: first minus second."""
        first, second = self.tables
        return {s: {task: first[s][task] - second[s][task] for task in first[s]} for s in SCORERS}

    def to_json(self) -> dict[str, Any]:
        """Return both tables, their difference (first minus second) and its 95 % interval."""
        return {
            "first": {"name": self.names[0], **self.tables[0]},
            "second": {"name": self.names[1], **self.tables[1]},
            "difference": self.differences(),
            "intervals": self.intervals,
            "n": self.num_common,
            "left_out": self.num_left_out,
            "num_scenes": self.num_scenes,
        }

    def table(self) -> str:
        """Return the table of both files and their difference per scorer."""
        lines: list[Line] = []
        for scorer in SCORERS:
            lines += [(f"{scorer}: {name}", self.tables[i][scorer]) for i, name in enumerate(self.names)]
            lines.append((f"{scorer}: difference", self.differences()[scorer], self.intervals[scorer]))
        title = f"{self.names[0]} minus {self.names[1]}: {self.num_common} rows that both answered"
        text = [score_table(lines, None, title), f"note: {interval_note(self.num_scenes)}"]
        if self.num_left_out:
            text.append(f"note: {self.num_left_out} rows that only one of them answered are left out")
        return "\n".join(text)


def interval_note(num_scenes: int) -> str:
    """Say what the intervals of a table are."""
    return f"ranges are 95 % intervals: 1,000 resamples of {num_scenes} scenes"


def group_lines(scores: Scores) -> list[str]:
    """Return the lines about trained and held-out tasks, where both are there."""
    groups = scores.groups()
    if len(groups["official"]) < 2:
        return []
    shown = {"trained_tasks": "six trained tasks", "held_out_tasks": "held out (route, order)"}
    return [
        f"{text}: " + ", ".join(f"{scorer} {100 * groups[scorer][name]:.1f}" for scorer in SCORERS)
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
    widths = [max(len(line[i]) for line in [header, *body]) for i in range(len(header))]
    lines = [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]).rstrip()
        for line in [header, *body]
    ]
    return "\n".join([title, *lines] if title else lines)


def _boxed(header: list[str], body: list[list[str]], title: str) -> str:
    table = Table(title=title or None, title_justify="left")
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=True)
    for line in body:
        table.add_row(*line)
    console = Console(file=io.StringIO(), force_terminal=True, width=Console().width)
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip("\n")
