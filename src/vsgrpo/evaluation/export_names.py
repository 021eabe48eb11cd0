"""What benchmarks are called in lmms-eval's logs and on the EASI leaderboard.

Source: lmms-eval 75571cf (lmms_eval/tasks/*/*.yaml), EASI 0c1a41e (scripts/submissions/backends/lmmseval.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ExportNames:
    """Names of one benchmark, or of a part of it.

    Attributes:
        task: of lmms-eval; {NAME} in it is that of the rows' `extra`.
        overall: lmms-eval's metric of the overall score.
        mean: the cell of our table that it is: "overall" (the quoted mean), "micro", "macro" or one of `metrics`.
        metrics: further metric -> its cell: "tasks/NAME", "question_types/NAME", "GROUP/NAME"; or, where our table
            scores several rows as one, the mean over rows, "rows/overall" or "rows/QUESTION TYPE".
        scale: of lmms-eval's values: 1, or 100 where they are percentages.
        video_task: lmms-eval's task of questions about a video, where it is another one.
        above_chance: a line of the sample log has the parts of the chance-adjusted mean.
        easi: key on the leaderboard; "" where it does not list the benchmark.
        easi_task: the task that the leaderboard's script looks for, where it is another one.
        easi_scores: name of a partial score there -> metric.
        part: subset of the benchmark, version of its file, or harness that the names are of; "" for the rest.
    """

    task: str
    overall: str
    mean: str = "overall"
    metrics: Mapping[str, str] = field(default_factory=dict)
    scale: float = 1.0
    video_task: str = ""
    above_chance: bool = False
    easi: str = ""
    easi_task: str = ""
    easi_scores: Mapping[str, str] = field(default_factory=dict)
    part: str = ""


DEFAULT = "overall"
"""lmms-eval's metric of a benchmark that it lacks."""


def suffixed(group: str, names: Iterable[str], suffix: str) -> dict[str, str]:
    """Return metric (name and suffix) -> cell of a group of our table, for `ExportNames.metrics`."""
    return {f"{name}{suffix}": f"{group}/{name}" for name in names}


def export_names(named: Sequence[ExportNames], benchmark: str, *parts: str) -> ExportNames:
    """Return the names of the first of a benchmark's parts that has its own, else of the benchmark.

    Args:
        named: `Benchmark.export_names`.
        benchmark: its name, which is its task where `named` is empty.
    """
    by_part = {names.part: names for names in named}
    found = (by_part[part] for part in (*filter(None, parts), "") if part in by_part)
    return next(found, ExportNames(benchmark.replace(":", "."), DEFAULT))
