"""The same run under several seeds, `run.seed=[0,1,2]`, one after another, with mean and spread at the end."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from vsgrpo.errors import ConfigError
from vsgrpo.files import write_atomic
from vsgrpo.records import read_jsonl

SEEDS_SCHEMA_VERSION = 1
METRICS = ("reward", "rewards/accuracies", "rewards/margins", "loss", "kl", "entropy", "best_dev_score", "cpu_seconds")
"""Columns of the table over several seeds, of log.jsonl where it has them."""
LAST_LINES = 5
"""A value is the mean over so many of its last log lines; a single one is noise."""


def seed_list(overrides: Sequence[str]) -> list[int] | None:
    """Return the seeds of `run.seed=[..]` (the last one given), None where it is a single number or not there.

    Raises:
        ConfigError: not a list of different whole numbers.
    """
    given = [item.partition("=")[2] for item in overrides if item.startswith("run.seed=")]
    if not given or not given[-1].startswith("["):
        return None
    text = given[-1]
    if not re.fullmatch(r"\[\s*\d+\s*(,\s*\d+\s*)*\]", text):
        raise ConfigError(f"run.seed={text}: a list of whole numbers is needed", hint="for example run.seed=[0,1,2]")
    seeds = [int(part) for part in text.strip("[]").split(",")]
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"run.seed={text}: a seed is given twice", hint="name each seed once")
    return seeds


def of_seed(overrides: Sequence[str], seed: int, folder: Path) -> list[str]:
    """Return the overrides of one seed's run: its own seed, and FOLDER/seedN as run folder."""
    kept = [item for item in overrides if item.partition("=")[0] not in ("run.seed", "output", "run.dir")]
    return [*kept, f"run.seed={seed}", f"run.dir={folder / f'seed{seed}'}"]


def run_seeds(
    seeds: Sequence[int],
    folder: Path,
    start: Callable[[int, Path, bool], int],
    *,
    resume: bool,
    is_longer: Callable[[Path], bool] = lambda run: False,
) -> tuple[int, str]:
    """Run all seeds in turn; return the exit code and the table.

    Args:
        seeds: of the runs.
        folder: gets seedN/ for each and seeds.json.
        start: (seed, run folder, resume) -> exit code of one run.
        resume: leave finished runs alone and go on with the one that was stopped.
        is_longer: whether a finished run is to go on.
    """
    for seed in seeds:
        run = folder / f"seed{seed}"
        if resume and (run / "final").is_dir() and not is_longer(run):
            continue
        code = start(seed, run, resume and (run / "config.yaml").is_file())
        if code:
            return code, ""
    found = {seed: last_values(folder / f"seed{seed}" / "log.jsonl") for seed in seeds}
    record = {"schema_version": SEEDS_SCHEMA_VERSION, "seeds": found, "summary": summary(list(found.values()))}
    write_atomic(folder / "seeds.json", json.dumps(record, indent=1) + "\n")
    return 0, table(found)


def last_values(log: Path) -> dict[str, float]:
    """Return each metric's mean over its last lines in log.jsonl."""
    series: dict[str, list[float]] = {}
    for _, record in read_jsonl(log):
        for name in METRICS:
            if isinstance(record.get(name), int | float):
                series.setdefault(name, []).append(record[name])
    single = ("best_dev_score", "cpu_seconds")  # running totals: the last one counts
    return {name: statistics.fmean(v[-1:] if name in single else v[-LAST_LINES:]) for name, v in series.items()}


def summary(values: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return mean and spread (sample standard deviation, 0 for one run) of each metric that all runs have."""
    names = [name for name in METRICS if all(name in value for value in values)]
    columns = {name: [value[name] for value in values] for name in names}
    return {
        name: {"mean": statistics.fmean(column), "spread": statistics.stdev(column) if len(column) > 1 else 0.0}
        for name, column in columns.items()
    }


def table(found: dict[int, dict[str, float]]) -> str:
    """Return one line per seed, then mean and spread."""
    totals = summary(list(found.values()))
    body = [["seed", *totals]]
    body += [[str(seed), *(f"{value[name]:.4g}" for name in totals)] for seed, value in found.items()]
    body += [[kind, *(f"{total[kind]:.4g}" for total in totals.values())] for kind in ("mean", "spread")]
    widths = [max(len(line[i]) for line in body) for i in range(len(body[0]))]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in body)
