"""What the studies of `model=small_lm` share: commands as a user types them, CPU seconds of a run, tables in a page."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vsgrpo.data.rows import read_rows
from vsgrpo.report.run_folder import drop_redone

TASKS = {"object_counting": "count", "room_size_estimation": "room size"}
"""Question types of the demo's rooms, and their names in tables."""


def processor() -> str:
    """Return the name of this machine's processor: CPU seconds compare on one kind only."""
    found = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M)
    return found[1] if found else platform.machine()


def once_per_key(settings: Sequence[str]) -> list[str]:
    """Return KEY=VALUE words, of each key the last."""
    return list({word.partition("=")[0]: word for word in settings}.values())


def vsgrpo(*arguments: str) -> list[str]:
    """Return the command line of a `vsgrpo` command, shown."""
    print("+ vsgrpo " + " ".join(arguments), file=sys.stderr, flush=True)
    return [sys.executable, "-m", "vsgrpo.cli", *arguments]


def rows_hash(folder: Path) -> str:
    """Return a short hash of the questions and answers of a built dataset: another version may build others."""
    asked = sorted((row.id, row.question, row.answer) for row in read_rows(folder / "train.jsonl"))
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:12]


def of_same_rows(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines of runs whose datasets (`rows`: hash by name) are those of the newest line that names them."""
    known = [line for line in lines if "rows" in line]
    newest = {name: rows for line in known for name, rows in line["rows"].items()}
    return [line for line in known if all(newest[name] == rows for name, rows in line["rows"].items())]


def log_lines(run: Path) -> list[dict[str, Any]]:
    """Return the training lines of a run's log, each with the CPU seconds of its step as `step_cpu`.

    `cpu_seconds` begins anew with every process; steps that a resumed run did again count once.
    """
    path, before = run / "log.jsonl", 0.0
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    for line in lines:
        line["step_cpu"] = line["cpu_seconds"] - (before if line["cpu_seconds"] >= before else 0.0)
        before = line["cpu_seconds"]
    return drop_redone(line for line in lines if "loss" in line)


def spent(run: Path) -> float:
    """Return the CPU seconds of a run's steps so far."""
    return sum(line["step_cpu"] for line in log_lines(run))


def last_checkpoint(run: Path) -> Path | None:
    """Return the checkpoint of the highest step."""
    found = [(int(path.name.partition("-")[2]), path) for path in run.glob("checkpoint-*") if path.is_dir()]
    return max(found)[1] if found else None


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]]) + "\n"


def percent(values: Sequence[float]) -> str:
    """Return a share with the ends of its interval, in percent."""
    value, low, high = (100 * x for x in values)
    return f"{value:.0f} ({low:.0f}..{high:.0f})"


def write_between(page: Path, marks: tuple[str, str], parts: Sequence[str]) -> None:
    """Write parts between the marks of a page; what is written by hand before and after them stays."""
    text = page.read_text(encoding="utf-8")
    before, after = text.partition(marks[0])[0], text.partition(marks[1])[2]
    page.write_text(before + marks[0] + "\n" + "\n".join(parts) + "\n" + marks[1] + after, encoding="utf-8")
