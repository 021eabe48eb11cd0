"""`vsgrpo doctor`: what would fail on this machine, and how to mend it. Works when torch or trl is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vsgrpo.doctor import libraries, machine
from vsgrpo.doctor.findings import Finding, Report
from vsgrpo.doctor.run import run

__all__ = ["Finding", "Report", "examine"]


def examine(words: Sequence[str] = (), config_dir: Path | None = None) -> Report:
    """Run all checks; `words` may be those of a training run, or name source.root (see `run.run`)."""
    report = Report()
    checks = (machine.python, libraries.packages, machine.processor, machine.gpus, libraries.decoders)
    for check in (*checks, libraries.deepspeed, machine.disk, libraries.wandb):
        report.findings += check()
    report.findings += run(words, config_dir)
    return report
