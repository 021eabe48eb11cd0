"""What `vsgrpo score` hands back: JSON for programs, a table for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vsgrpo.evaluation.intervals import Interval
from vsgrpo.evaluation.score_table import Line, score_table
from vsgrpo.evaluation.vsibench_scores import Item, Scores
from vsgrpo.spatial.answers import SCORERS


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
