"""What `vsgrpo eval` on VSI-Bench returns: JSON for programs, a table for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vsgrpo.evaluation.baselines import best_constants, chance_scores, constant_scores, most_frequent
from vsgrpo.evaluation.benchmark import Benchmark
from vsgrpo.evaluation.intervals import task_groups
from vsgrpo.evaluation.leak import Leak
from vsgrpo.evaluation.score_report import group_lines, interval_note
from vsgrpo.evaluation.score_table import Line, score_table
from vsgrpo.evaluation.vsibench_scores import Scores
from vsgrpo.report.evaluation_page import published_lines

SCHEMA_VERSION = 1
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
        """The table of the scorer whose numbers stand as `scores`."""
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
