"""The page of a sweep: what each run was set to and came to, then the curves of the first runs laid over each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vsgrpo.paths import inside
from vsgrpo.records import RUN_STATUS, read_record
from vsgrpo.report.page import NUM_COLORS
from vsgrpo.report.run_folder import Run, end_mean, read_run
from vsgrpo.report.run_page import COMPARE_NAME, write_report

SWEEP_NAME = "sweep.json"
_SHAPE = {"schema_version": int, "fixed": [str], "runs": [{"name": str, "values": {str: str}}]}
_METRICS = ("reward", "dev_score", "rewards/accuracies", "loss", "kl", "entropy")
"""Columns: means over the last quarter of the log, where a run has them."""


@dataclass(frozen=True)
class SweepReport:
    """What came of a sweep.

    Attributes:
        path: of the page; None where no run has logged a step.
        columns: of `rows`: swept keys, status, steps, metrics, evaluations.
        rows: run name -> one cell for each column, None where a run has none.
        errors: run name -> why it failed, as run.json says.
        alarms: run name -> sentences.
    """

    path: Path | None
    columns: list[str]
    rows: dict[str, list[Any]]
    errors: dict[str, str]
    alarms: dict[str, list[str]]

    def table(self) -> str:
        """Return one line per run, then why runs failed, alarms, and where the page is."""
        body = [["run", *self.columns], *([name, *map(cell_text, row)] for name, row in self.rows.items())]
        widths = [max(len(line[i]) for line in body) for i in range(len(body[0]))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in body
        ]
        lines += [f"{name}: failed: {text}" for name, text in self.errors.items()]
        lines += [f"{name}: {text}" for name, found in self.alarms.items() for text in found]
        return "\n".join([*lines, f"compared: {self.path}" if self.path else "no run has logged a step: no page"])

    def to_json(self) -> dict[str, Any]:
        """Return path, runs with their values by column, errors and alarms."""
        runs = {name: dict(zip(self.columns, row, strict=True)) for name, row in self.rows.items()}
        return {"path": str(self.path), "runs": runs, "errors": self.errors, "alarms": self.alarms}


def cell_text(value: Any) -> str:
    """Return a cell as text."""
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def write_sweep_report(folder: Path, output: Path | None = None) -> SweepReport:
    """Write compare.html of a sweep into its folder (or to `output`); runs may be unfinished.

    Raises:
        DataError: sweep.json is broken, or `output` is there and no page.
    """
    record = read_record(folder / SWEEP_NAME, _SHAPE, "run `vsgrpo train ... --sweep` again")
    names = [item["name"] for item in record["runs"]]
    folders = {name: inside(folder, name) for name in names}
    values = {item["name"]: item["values"] for item in record["runs"]}
    keys = list(dict.fromkeys(key for given in values.values() for key in given))
    runs = {name: run for name in names if (run := _read(folders[name], name)) is not None}
    states = {name: _status(folders[name]) for name in names}
    metrics = [name for name in _METRICS if any(name in run.curves for run in runs.values())]
    scored = list(dict.fromkeys(name for run in runs.values() for name, _ in run.evaluations))
    columns = [*keys, "status", "steps", *metrics, *(f"{name} score" for name in scored)]
    rows: dict[str, list[Any]] = {}
    for name in names:
        run = runs.get(name)
        cells: list[Any] = [values[name].get(key) for key in keys]
        cells += [states[name].get("status", "not started"), run.num_steps if run else None]
        cells += [_finite(end_mean(run.curves.get(metric, []))) if run else None for metric in metrics]
        rows[name] = [*cells, *_scores(run, scored)]
    errors = {name: str(state["error"]) for name, state in states.items() if state.get("status") == "failed"}
    path, alarms = None, {}
    if runs:
        shown = [run.folder for run in runs.values()][:NUM_COLORS]
        table = {"columns": columns, "rows": rows, "errors": errors, "cell": cell_text, "num_shown": len(shown)}
        report = write_report(shown, output or folder / COMPARE_NAME, sweep=table)
        path, alarms = report.path, {name: found for name, found in report.alarms.items() if found}
    return SweepReport(path, columns, rows, errors, alarms)


def _read(folder: Path, name: str) -> Run | None:
    """Read a run of the sweep, None where it has not logged anything."""
    log = folder / "log.jsonl"
    return read_run(folder, name) if log.is_file() and log.stat().st_size else None


def _status(folder: Path) -> Mapping[str, Any]:
    path = folder / "run.json"
    return read_record(path, RUN_STATUS, "put a copy back, or run the sweep again") if path.is_file() else {}


def _scores(run: Run | None, names: Sequence[str]) -> list[float | None]:
    results = dict(run.evaluations) if run else {}
    return [results.get(name, {}).get("scores", {}).get("overall") for name in names]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
