"""What a build did: counts, skipped scans and notes, as a table for the user and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vsgrpo.data.build.answer_table import AnswerLine, answer_table
from vsgrpo.data.manifest import MANIFEST_NAME
from vsgrpo.errors import RunError

DROPPED = "dropped_"
"""Prefix of the counters of objects left out (`ScannetScan.scene`); the other counters are defects."""


@dataclass(frozen=True)
class BuildSummary:
    """What a build did.

    Attributes:
        out: the dataset folder.
        counts: per split and question type.
        done: scans built (`reused` of them by an earlier, interrupted build).
        skipped: scan id -> reason.
        refused: reason -> number of scans left out by split and leak rules.
        dropped: "type: reason" -> rows left out by balancing.
        notes: sentences for the user.
        max_skipped: share of skipped scans that is still a success.
        num_objects, num_shown: objects asked about, and those the video shows (None where nobody looked).
        warnings: defect -> number, over all scans.
        answers: per split, one line per question type.
        shard: "k of N" where this was one shard and no row file was written.
    """

    out: Path
    counts: dict[str, dict[str, int]]
    done: int
    reused: int
    skipped: dict[str, str]
    refused: dict[str, int]
    notes: list[str]
    max_skipped: float
    num_objects: int
    num_shown: int | None
    dropped: dict[str, int] = field(default_factory=dict)
    warnings: dict[str, int] = field(default_factory=dict)
    answers: dict[str, list[AnswerLine]] = field(default_factory=dict)
    shard: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the summary as JSON."""
        return {**asdict(self), "out": str(self.out)}

    def table(self) -> str:
        """Return counts per type with entropy and best constant, then skipped scans with their reasons."""
        lines = []
        if self.shard is None:
            lines = answer_table(self.answers.get("train", []), self.answers.get("dev", []))
        reused = f" ({self.reused} from an earlier run)" if self.reused else ""
        what = f"shard {self.shard}" if self.shard else "scans"
        lines.append(f"{what}: {self.done} built{reused}, {len(self.skipped)} skipped -> {self.out}")
        if self.num_shown is not None:
            share = 100 * self.num_shown / max(self.num_objects, 1)
            lines.append(f"objects: {self.num_objects}, shown by the videos: {self.num_shown} ({share:.0f} %)")
        for text, is_object in (("defects survived", False), ("objects left out", True)):
            some = [
                f"{name.removeprefix(DROPPED)} {n}" for name, n in self.warnings.items() if _is_drop(name) == is_object
            ]
            lines += [f"{text}: {', '.join(some)}"] if some else []
        lines += [f"left out: {number} scans: {reason}" for reason, number in self.refused.items()]
        lines += [f"left out: {number} rows: {reason}" for reason, number in self.dropped.items()]
        lines += [f"skipped {scan}: {reason}" for scan, reason in list(self.skipped.items())[:20]]
        if len(self.skipped) > 20:
            lines.append(f"... and {len(self.skipped) - 20} more: see {self.out / MANIFEST_NAME}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def raise_if_failed(self) -> None:
        """Raise RunError if more scans were skipped than build.max_skipped allows."""
        share = len(self.skipped) / max(self.done + len(self.skipped), 1)
        if share > self.max_skipped:
            where = "above" if self.shard else f"above and in {self.out / MANIFEST_NAME}"
            raise RunError(
                f"{len(self.skipped)} of {self.done + len(self.skipped)} scans skipped, more than "
                f"build.max_skipped={self.max_skipped}",
                hint=f"reasons are {where}; the other scans are written",
            )


def _is_drop(name: str) -> bool:
    return name.startswith(DROPPED)
