"""The share of right answers, overall and by question type: the score of a benchmark that has no other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vsgrpo.evaluation.leak import Leak
from vsgrpo.evaluation.results import SCHEMA_VERSION


@dataclass(frozen=True)
class Accuracy:
    """Scores of one set of answers.

    Attributes:
        name: of the row file.
        num_rows: questions in it.
        correct: id -> score of an answered question: right or wrong, or 0..1.
        by_type: question type -> (sum of the scores, answered questions).
    """

    name: str
    num_rows: int
    correct: Mapping[str, float]
    by_type: Mapping[str, tuple[float, int]]

    @property
    def overall(self) -> float:
        """Mean score of the answered questions, 0..1."""
        return sum(self.correct.values()) / len(self.correct)

    def scores(self) -> dict[str, float]:
        """Return the mean score 0..1 overall and by question type."""
        return {"overall": self.overall, **{name: total / n for name, (total, n) in self.by_type.items()}}

    def scorer(self) -> str:
        """Name the scorer."""
        return "right or wrong"

    def title(self) -> str:
        """Name what was scored."""
        return f"{len(self.correct)} of {self.num_rows} questions in {self.name} | {self.scorer()}"

    def to_json(self) -> dict[str, Any]:
        """Return means 0..1, overall and by question type."""
        return {
            "title": self.title(),
            "overall": self.overall,
            "n": len(self.correct),
            "num_rows": self.num_rows,
            "question_types": accuracy_cells(self.by_type),
            "correct": dict(self.correct),
        }

    def table(self) -> str:
        """Return the means overall and by question type, in percent."""
        lines = [self.title(), f"{'overall':<34}{100 * self.overall:>8.1f}{len(self.correct):>6}"]
        lines += [f"  {name:<32}{100 * total / n:>8.1f}{n:>6}" for name, (total, n) in self.by_type.items()]
        return "\n".join(lines)


def accuracy_cells(counts: Mapping[str, tuple[float, int]]) -> dict[str, dict[str, float]]:
    """Return name -> (sum of scores, number) as results.json has them."""
    return {name: {"accuracy": total / n, "correct": total, "total": n} for name, (total, n) in counts.items()}


@dataclass(frozen=True)
class AccuracyReport:
    """One evaluation: its accuracy, that of the controls, and what decided them."""

    main: Accuracy
    controls: Mapping[str, Accuracy]
    leak: Leak
    settings: Mapping[str, Any]
    errors: Mapping[str, str]
    """id -> why it is unanswered."""
    num_cut_off: int
    """Answers that reached decoding.max_new_tokens: most of them are unfinished."""

    def to_json(self) -> dict[str, Any]:
        """Return the content of results.json; `scores` and what follows it are read by reports and model cards."""
        return {
            "schema_version": SCHEMA_VERSION,
            **self.main.to_json(),
            "scores": self.main.scores(),
            "scorer": self.main.scorer(),
            "controls": {name: {"overall": accuracy.overall} for name, accuracy in self.controls.items()},
            "leak": self.leak.to_json(),
            "cut_off": self.num_cut_off,
            "unanswered": [{"id": name, "reason": reason} for name, reason in self.errors.items()],
            **{name: value for name, value in self.settings.items() if name != "schema_version"},
        }

    def table(self) -> str:
        """Return the accuracy, the controls below it, and what a reader must know before quoting it."""
        lines = [self.main.table()]
        lines += [f"control {name:<12} {100 * accuracy.overall:.1f}" for name, accuracy in self.controls.items()]
        lines += [f"note: {note}" for note in self.leak.notes()]
        if self.num_cut_off:
            limit = self.settings["decoding"]["max_new_tokens"]
            lines.append(f"note: {self.num_cut_off} answers were cut off at decoding.max_new_tokens={limit}")
        if self.errors:
            lines.append(f"note: {len(self.errors)} questions are unanswered and left out of the scores:")
            lines += [f"  {reason}" for reason in sorted(set(self.errors.values()))[:5]]
        return "\n".join(lines)
