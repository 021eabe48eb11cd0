"""The end of a build: finished scans to row files, manifest and report, and what to tell the user."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vsgrpo.config.build_data import BuildDataConfig
from vsgrpo.data.build.answer_table import answer_lines
from vsgrpo.data.build.balance import Balance, balance_rows
from vsgrpo.data.build.scan import ScanOutcome
from vsgrpo.data.build.summary import BuildSummary
from vsgrpo.data.leakage import check_rows, split_dev
from vsgrpo.data.manifest import Manifest, file_record, write_manifest
from vsgrpo.data.row import Row
from vsgrpo.data.rows import write_rows

SPLITS = ("train", "dev")


def shard_summary(config: BuildDataConfig, out: Path, outcomes: list[ScanOutcome], reused: int) -> BuildSummary:
    """Return what one shard did; row files are `merge-data`'s matter."""
    build = config.build
    notes = [f"row files are written by `vsgrpo merge-data {out}` when all {build.num_shards} shards are done"]
    summary = _summary(config, out, outcomes, {}, reused, notes)
    return replace(summary, shard=f"{build.shard} of {build.num_shards}")


def assemble(
    config: BuildDataConfig, out: Path, outcomes: list[ScanOutcome], refused: dict[str, int], reused: int
) -> BuildSummary:
    """Split into train and dev by room, balance, write row files, manifest and report.

    `outcomes` are those of all scans, in scan order; the row files depend on nothing else.
    """
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
    summary = replace(
        _summary(config, out, outcomes, refused, reused, notes),
        counts={name: dict(sorted(Counter(row.question_type for row in part).items())) for name, part in rows.items()},
        dropped=dict(sorted(dropped.items())),
        answers={name: answer_lines(part) for name, part in rows.items()},
    )
    _write_manifest(config, out, outcomes, rows, summary)
    return summary


def _summary(
    config: BuildDataConfig,
    out: Path,
    outcomes: list[ScanOutcome],
    refused: dict[str, int],
    reused: int,
    notes: list[str],
) -> BuildSummary:
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
        refused=refused,
        notes=notes,
        max_skipped=config.build.max_skipped,
        num_objects=sum(outcome.num_objects for outcome in done),
        num_shown=sum(shown) if shown else None,
        warnings=dict(sorted(warnings.items())),
    )


def _write_manifest(
    config: BuildDataConfig,
    out: Path,
    outcomes: list[ScanOutcome],
    rows: dict[str, list[Row]],
    summary: BuildSummary,
) -> None:
    dataset = config.dataset
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
