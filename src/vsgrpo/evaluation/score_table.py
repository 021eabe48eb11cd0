"""Tables of scores: columns and order as in the paper, one row per model or control."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from vsgrpo.spatial.question_types import table_columns

Interval = tuple[float, float]
Line = tuple[str, Mapping[str, float]] | tuple[str, Mapping[str, float], Mapping[str, Interval]]


def score_table(lines: Sequence[Line], counts: Mapping[str, int] | None = None, title: str = "") -> str:
    """Return a table of scores (0..1, shown times 100): one line per (name, scores), tasks that none has left out.

    Intervals, where given, stand in a line below their scores. `counts` (rows per task) become a last line "n". Boxes
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
