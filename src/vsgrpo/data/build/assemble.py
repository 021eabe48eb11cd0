"""The end of a build: finished scans to row files and manifest, and what to report to the user."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vsgrpo.data.build.answers import AnswerLine, Balance, answer_lines, answer_table, balance_rows
from vsgrpo.data.build.folder import Plan
from vsgrpo.data.build.scan import ScanOutcome
from vsgrpo.data.leak_guard import check_rows
from vsgrpo.data.manifest import MANIFEST_NAME, Manifest, file_record, write_manifest
from vsgrpo.data.row import Row
from vsgrpo.data.rows import split_dev, write_rows
from vsgrpo.errors import RunError

SPLITS = ("train", "dev")

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
                f"{name.removeprefix(DROPPED)} {n}"
                for name, n in self.warnings.items()
                if name.startswith(DROPPED) == is_object
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


def assemble(plan: Plan, out: Path, outcomes: list[ScanOutcome], reused: int) -> BuildSummary:
    """Split into train and dev by room, balance, and write row files and manifest.

    `outcomes` are those of all scans, in scan order; the row files depend on nothing else.
    """
    config = plan.config
    with_rows = [outcome for outcome in outcomes if outcome.status == "done" and outcome.rows]
    split = split_dev({outcome.room for outcome in with_rows}, config.data.dev_fraction)
    notes = [split.note] if split.note and config.data.dev_fraction else []
    notes += [f"{o.scan_id} gave no question" for o in outcomes if o.status == "done" and not o.rows][:5]
    if config.data.split != "train":
        notes.append("rows of ScanNet val scans are in: training on them needs data.allow_val_safe=true")
    section = config.balance
    balance = Balance(section.letters, section.weights, section.max_share, config.run.seed)
    rows: dict[str, list[Row]] = {}
    dropped: Counter[str] = Counter()
    for name in SPLITS:
        part = [row for o in with_rows if (o.room in split.dev_rooms) == (name == "dev") for row in o.rows]
        part = [replace(row, split="dev") for row in part] if name == "dev" else part
        rows[name], left_out = balance_rows(part, balance)
        dropped.update(left_out)
        where = str(out / f"{name}.jsonl")
        check_rows(rows[name], allow_val_safe=config.data.split != "train", where=where, base=out)
        write_rows(out / f"{name}.jsonl", rows[name])
    answers = {name: answer_lines(part) for name, part in rows.items()}
    summary = replace(
        _summary(plan, out, outcomes, reused, notes),
        counts={name: {line.question_type: line.count for line in lines} for name, lines in answers.items()},
        refused=plan.refused,
        dropped=dict(sorted(dropped.items())),
        answers=answers,
    )
    _write_manifest(plan, outcomes, rows, summary)
    return summary


def shard_summary(plan: Plan, out: Path, outcomes: list[ScanOutcome], reused: int) -> BuildSummary:
    """Return what one shard did; `merge-data` writes the row files."""
    build = plan.config.build
    note = f"row files are written by `vsgrpo merge-data {out}` when all {build.num_shards} shards are done"
    return replace(_summary(plan, out, outcomes, reused, [note]), shard=f"{build.shard} of {build.num_shards}")


def _summary(plan: Plan, out: Path, outcomes: list[ScanOutcome], reused: int, notes: list[str]) -> BuildSummary:
    done = [outcome for outcome in outcomes if outcome.status == "done"]
    shown = [outcome.num_shown for outcome in done if outcome.num_shown is not None]
    warnings: Counter[str] = Counter()
    for outcome in done:
        warnings.update(outcome.warnings)
    return BuildSummary(
        out=out,
        counts={name: {} for name in SPLITS},
        done=len(done),
        reused=reused,
        skipped={outcome.scan_id: outcome.reason for outcome in outcomes if outcome.status == "skipped"},
        refused={},
        notes=notes,
        max_skipped=plan.config.build.max_skipped,
        num_objects=sum(outcome.num_objects for outcome in done),
        num_shown=sum(shown) if shown else None,
        warnings=dict(sorted(warnings.items())),
    )


def _write_manifest(plan: Plan, outcomes: list[ScanOutcome], rows: dict[str, list[Row]], summary: BuildSummary) -> None:
    config, out, dataset = plan.config, summary.out, plan.config.dataset
    scans: dict[str, dict[str, Any]] = {}
    for outcome in outcomes:
        keep = {"reason": outcome.reason} if outcome.status == "skipped" else {}
        if outcome.status == "done":
            keep = {name: getattr(outcome, name) for name in ("num_objects", "num_shown", "num_frames", "warnings")}
        scans[outcome.scan_id] = {"status": outcome.status, "room": outcome.room, **keep}
    names = [f"{name}.jsonl" for name in SPLITS]
    if config.video.source != "none":
        names += [f"videos/{dataset}/{outcome.scan_id}.mp4" for outcome in outcomes if outcome.status == "done"]
    write_manifest(
        out,
        Manifest(
            version=version("vsgrpo"),
            dataset=dataset,
            config=asdict(config),
            seed=config.run.seed,
            scans=scans,
            rooms={name: sorted({row.room for row in part}) for name, part in rows.items()},
            counts={
                "questions": summary.counts,
                "answers": {name: [asdict(line) for line in lines] for name, lines in summary.answers.items()},
                "warnings": summary.warnings,
                "refused": summary.refused,
                "dropped": summary.dropped,
                "skipped": len(summary.skipped),
                "video_source": config.video.source,
            },
            files={name: file_record(out / name) for name in names},
            notes=summary.notes,
        ),
    )
