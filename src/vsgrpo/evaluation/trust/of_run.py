"""The trust report of an evaluation that has just answered its rows."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vsgrpo.evaluation.benchmark import Benchmark, Report
from vsgrpo.evaluation.results import Answers
from vsgrpo.terminal import show

if TYPE_CHECKING:
    from vsgrpo.config.evaluate import EvalConfig
    from vsgrpo.evaluation.trust.training import TrainingRows


def rows_for_trust(config: EvalConfig) -> TrainingRows | None:
    """Return what the trust report says of the training rows, before anything is answered; None without a report."""
    if not config.trust.report or os.environ.get("RANK", "0") != "0":
        return None
    from vsgrpo.evaluation.trust.training import training_rows

    return training_rows(config.model.path, config.model.adapter, config.trust.train)


def write_trust_of_run(
    config: EvalConfig, benchmark: Benchmark, report: Report, answers: Answers, frames: int, train: TrainingRows
) -> None:
    """Write trust.json and trust.html, and say on stderr what is in them."""
    from vsgrpo.evaluation.scores import read_first
    from vsgrpo.evaluation.trust.report import trust_content, trust_lines, write_trust

    model, found = config.model, report.to_json()
    names = {"title": str(found["title"]), "model": model.adapter or model.path, "scorer": str(found["scorer"])}
    content = trust_content(
        benchmark.rows,
        {name: benchmark.row_scores(texts, names) for name, texts in answers.by_control.items()},
        train,
        frames,
        names,
        {
            name: read_first(names["scorer"], benchmark.rows, texts, benchmark.prompt)
            for name, texts in answers.by_control.items()
        },
        benchmark.file.parent,
    )
    page = write_trust(Path(config.run.dir), content)
    show("\n".join([*trust_lines(content), f"trust report: {page}"]), sys.stderr)
