"""What a finished run has made: printed by `vsgrpo train` on stdout, for people or (--json) for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vsgrpo.launch.seeds import last_values
from vsgrpo.records import read_jsonl
from vsgrpo.training.launcher import own_rank
from vsgrpo.training.run_folder import read_status


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        run_dir, final: its folder and its trained model.
        step: optimizer steps made.
        metrics: means of the last lines of log.jsonl, see `seeds.last_values`.
        best: the checkpoint that scored best on dev.jsonl, {checkpoint, dev_score}; None where none was scored.
    """

    run_dir: str
    final: str
    step: int
    metrics: dict[str, float]
    best: dict[str, Any] | None

    def table(self) -> str:
        """Return the line for people."""
        return f"trained: {self.final}"

    def to_json(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)


def run_result(run_dir: Path) -> RunResult | None:
    """Return what a run has made; None where it is not done, or another process of it reports."""
    status = read_status(run_dir)
    if own_rank() or status.get("status") != "done":
        return None
    log = run_dir / "log.jsonl"
    steps = [int(record.get("step", 0)) for _, record in read_jsonl(log)] if log.is_file() else []
    metrics = last_values(log) if log.is_file() else {}
    return RunResult(str(run_dir), str(run_dir / "final"), max(steps, default=0), metrics, status.get("best"))
