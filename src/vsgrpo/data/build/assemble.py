"""The end of a build: finished scans to balanced row files and manifest, and what to report to the user.

Balancing (`balance`) runs once over all rows in scan order, after the workers are done: the rows of a worker depend on
its scan alone, so the result is the same for any number of workers, shards and interruptions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from vsgrpo.audit.measure import Audit, audit_rows
from vsgrpo.audit.tables import audit_json, audit_lines
from vsgrpo.config.build import BuildDataConfig
from vsgrpo.data.audit_rows import audit_rows_of
from vsgrpo.data.build.balance import balance_by_text, balance_rows
from vsgrpo.data.build.counterfactual import count_pairs, write_pairs
from vsgrpo.data.build.negatives import draw_zero_counts
from vsgrpo.data.build.scan import ScanOutcome
from vsgrpo.data.build.tally import count_sources, source_lines
from vsgrpo.data.frame_true import ANSWER_AT, TRUE_AT, truth_lines, truth_of
from vsgrpo.data.kept_out import kept_json, kept_line
from vsgrpo.data.leak_guard import check_rows
from vsgrpo.data.manifest import MANIFEST_NAME, Manifest, file_record, write_manifest
from vsgrpo.data.pairs import pair_of, pairs_name
from vsgrpo.data.row import Row
from vsgrpo.data.row_scan import AnswerLine, answer_lines, answer_table
from vsgrpo.data.rows import split_dev, write_rows
from vsgrpo.errors import RunError
from vsgrpo.terminal import counted

SPLITS = ("train", "dev")
DROPPED = "dropped_"
"""Prefix of the counters of objects left out (`ScannetScan.scene`); the other counters are defects."""


@dataclass(frozen=True, kw_only=True)
class BuildSummary:
    """What a build did.

    Attributes:
        out: the dataset folder.
        counts: per split and question type.
        done: scans built (`reused` of them by an earlier, interrupted build).
        skipped: scan id -> reason.
        refused: reason -> number of scans left out by split and leak rules.
        dropped: "type: reason" -> questions and rows left out, by rules of the mode, by frames, by balancing.
        notes: sentences for the user.
        max_skipped: share of skipped scans that is still a success.
        num_objects, num_shown: objects asked about, and those the video shows (None where nobody looked).
        warnings: defect -> number, over all scans.
        answers: per split, one line per question type.
        frame_true: per split, type -> share of the rows that is true at each budget (`frame_true.TruthTally.table`).
        candidates: question type -> questions before anything was left out.
        audit: what the text of the train rows gives away.
        sources: counts per source (`tally.count_sources`).
        shard: "k of N" where this was one shard and no row file was written.
    """

    out: Path
    counts: dict[str, dict[str, int]] = field(default_factory=lambda: {name: {} for name in SPLITS})
    done: int
    reused: int
    skipped: dict[str, str]
    refused: dict[str, int] = field(default_factory=dict)
    notes: list[str]
    max_skipped: float
    num_objects: int
    num_shown: int | None
    dropped: dict[str, int] = field(default_factory=dict)
    warnings: dict[str, int] = field(default_factory=dict)
    answers: dict[str, list[AnswerLine]] = field(default_factory=dict)
    frame_true: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    candidates: dict[str, int] = field(default_factory=dict)
    audit: Audit | None = None
    sources: list[dict[str, Any]] = field(default_factory=list)
    shard: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the summary as JSON."""
        audit = None if self.audit is None else audit_json(self.audit)
        return {**asdict(replace(self, audit=None)), "out": str(self.out), "audit": audit}

    def table(self) -> str:
        """Return counts per type with entropy and best constant, then skipped scans with their reasons."""
        lines = []
        if self.shard is None:
            lines = answer_table(self.answers.get("train", []), self.answers.get("dev", []))
            lines += truth_lines(self.frame_true.get("train", {}))
        if self.audit is not None:
            lines += ["what the text of the train questions gives away (vsgrpo audit):", *audit_lines(self.audit)]
        reused = f" ({self.reused} from an earlier run)" if self.reused else ""
        what = f"shard {self.shard}" if self.shard else "scans"
        lines.append(f"{what}: {self.done} built{reused}, {len(self.skipped)} skipped -> {self.out}")
        lines += source_lines(self.sources)
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
        lines += [f"left out: {counted(number, 'scan')}: {reason}" for reason, number in self.refused.items()]
        lines += _dropped_lines(self.dropped, self.candidates)
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
                f"{len(self.skipped)} of {counted(self.done + len(self.skipped), 'scan')} skipped, more than "
                f"build.max_skipped={self.max_skipped}",
                hint=f"reasons are {where}; the other scans are written",
            )


def _dropped_lines(dropped: Mapping[str, int], candidates: Mapping[str, int]) -> list[str]:
    """Return one line per question type with the rows left out of it, by reason."""
    by_type: dict[str, list[str]] = {}
    for what, number in dropped.items():
        name, _, reason = what.partition(": ")
        by_type.setdefault(name, []).append(f"{reason} {number}")
    return [
        f"left out of {candidates.get(name, '?')} candidates of {name}: {', '.join(reasons)}"
        for name, reasons in by_type.items()
    ]


def assemble(
    config: BuildDataConfig, refused: Sequence[Mapping[str, int]], out: Path, outcomes: list[ScanOutcome], reused: int
) -> BuildSummary:
    """Split into train and dev by room, balance, and write row files and manifest.

    Args:
        refused: per source, reason -> number of scans left out by split and leak rules.
        outcomes: of all scans, in scan order; the row files depend on nothing else.
        reused: scans of these that an earlier, interrupted build has built.
    """
    with_rows = [outcome for outcome in outcomes if outcome.status == "done" and outcome.rows]
    split = split_dev({_room_of(config, outcome) for outcome in with_rows}, config.data.dev_fraction)
    allow_val_safe = any(part.split != "train" for part in config.parts)
    notes = [split.note] if split.note and config.data.dev_fraction else []
    notes += [f"{o.scan_id} gave no question" for o in outcomes if o.status == "done" and not o.rows][:5]
    notes += ["rows of val scans are in: training on them needs data.allow_val_safe=true"] if allow_val_safe else []
    notes += kept_line(config.data.keep_out)
    every, dropped = _rows_to_choose_from(config, outcomes)
    before = Counter(what.partition(": ")[0] for what in dropped.elements())
    chosen = balance_by_text(every, config.data.mode, config.balance, config.run.seed)
    notes += _too_small_note(chosen.too_small)
    rows: dict[str, list[Row]] = {}
    pairs: dict[str, list[Row]] = {}
    dropped.update(chosen.dropped)
    for name in SPLITS:
        is_dev = name == "dev"
        part = [r for r in chosen.rows if (config.name_in(r.dataset, r.room) in split.dev_rooms) == is_dev]
        part = [replace(row, split="dev") for row in part] if is_dev else part
        rows[name], left_out = balance_rows(part, config.balance, config.run.seed)
        dropped.update(left_out)
        if config.data.min_count == 0 and rows[name]:
            zeros = _zero_counts(config, rows[name], with_rows)
            rows[name] += zeros
            questions = counted(len(zeros), "question counts", "questions count")
            notes.append(f"{name}: {questions} a category that is not in the room (answer 0)")
        where = str(out / f"{name}.jsonl")
        check_rows(rows[name], allow_val_safe=allow_val_safe, where=where, base=out)
        write_rows(out / f"{name}.jsonl", rows[name])
        own = [row for o in with_rows if (_room_of(config, o) in split.dev_rooms) == is_dev for row in o.pairs]
        if found := write_pairs(config, own, name, out):
            pairs[name] = found
            notes.append(f"{pairs_name(name)}: " + ", ".join(f"{n} {kind}" for kind, n in count_pairs(found).items()))
    answers = {name: answer_lines(part) for name, part in rows.items()}
    summary = _summary(
        config,
        outcomes,
        out=out,
        reused=reused,
        notes=notes,
        counts={name: {line.question_type: line.count for line in lines} for name, lines in answers.items()},
        refused=dict(sum((Counter(part) for part in refused), Counter[str]())),
        sources=count_sources(config, refused, outcomes, rows),
        dropped=dict(sorted(dropped.items())),
        answers=answers,
        frame_true={name: truth_of(part).table() for name, part in rows.items()},
        candidates=dict(sorted((before + Counter(chosen.candidates)).items())),
        audit=audit_rows(audit_rows_of(rows["train"])),
    )
    _write_manifest(config, outcomes, rows, pairs, summary)
    return summary


def _room_of(config: BuildDataConfig, outcome: ScanOutcome) -> str:
    return config.name_in(config.parts[outcome.part].dataset, outcome.room)


def _zero_counts(config: BuildDataConfig, rows: Sequence[Row], outcomes: Sequence[ScanOutcome]) -> list[Row]:
    """Return questions about what is not there, drawn for each data set by itself: their names differ."""
    found = []
    for dataset in dict.fromkeys(row.dataset for row in rows):
        own = [row for row in rows if row.dataset == dataset]
        inventories = {o.scan_id: o.inventory for o in outcomes if config.parts[o.part].dataset == dataset}
        found += draw_zero_counts(own, inventories, config.source_of(dataset).complete, config.run.seed)
    return found


def _rows_to_choose_from(config: BuildDataConfig, outcomes: Sequence[ScanOutcome]) -> tuple[list[Row], Counter[str]]:
    """Return the rows of all scans, and "type: reason" -> those that rules of the mode or the frames leave out."""
    rows, dropped = [row for outcome in outcomes for row in outcome.rows], Counter[str]()
    for outcome in outcomes:
        dropped.update(outcome.left_out)
    if config.video.frame_true != "flag":
        rows, untrue = _without_untrue(rows)
        dropped.update(untrue)
    return rows, dropped


def _without_untrue(rows: Sequence[Row]) -> tuple[list[Row], Counter[str]]:
    """Leave out rows that were judged and are true at no budget, with no answer; return the rest and how many."""
    kept = [row for row in rows if row.extra.get(TRUE_AT) != [] or row.extra.get(ANSWER_AT)]
    left_out = Counter(row.question_type for row in rows) - Counter(row.question_type for row in kept)
    return kept, Counter({f"{kind}: video.frame_true": number for kind, number in left_out.items()})


def _too_small_note(too_small: dict[str, str]) -> list[str]:
    """Return one sentence for types that are not balanced by their text, none where there is no such type."""
    if not too_small:
        return []
    named = ", ".join(f"{name} ({reason})" for name, reason in list(too_small.items())[:3])
    more = f" and {counted(len(too_small) - 3, 'more type')}" if len(too_small) > 3 else ""
    return [f"not balanced by text (balance.mode=text), too few rows or rooms: {named}{more}"]


def _key_of(config: BuildDataConfig, outcome: ScanOutcome) -> str:
    return config.name_in(config.parts[outcome.part].dataset, outcome.scan_id)


def shard_summary(config: BuildDataConfig, out: Path, outcomes: list[ScanOutcome], reused: int) -> BuildSummary:
    """Return what one shard did; `merge-data` writes the row files."""
    shard, num_shards = config.build.shard, config.build.num_shards
    note = f"row files are written by `vsgrpo merge-data {out}` when all {num_shards} shards are done"
    return _summary(config, outcomes, out=out, reused=reused, notes=[note], shard=f"{shard} of {num_shards}")


def _summary(config: BuildDataConfig, outcomes: list[ScanOutcome], **given: Any) -> BuildSummary:
    """Return the summary with what the outcomes say; `given` are its other fields."""
    done = [outcome for outcome in outcomes if outcome.status == "done"]
    shown = [outcome.num_shown for outcome in done if outcome.num_shown is not None]
    warnings: Counter[str] = Counter()
    for outcome in done:
        warnings.update(outcome.warnings)
    return BuildSummary(
        done=len(done),
        skipped={_key_of(config, outcome): outcome.reason for outcome in outcomes if outcome.status == "skipped"},
        max_skipped=config.build.max_skipped,
        num_objects=sum(outcome.num_objects for outcome in done),
        num_shown=sum(shown) if shown else None,
        warnings=dict(sorted(warnings.items())),
        **given,
    )


def _write_manifest(
    config: BuildDataConfig,
    outcomes: list[ScanOutcome],
    rows: dict[str, list[Row]],
    pairs: dict[str, list[Row]],
    summary: BuildSummary,
) -> None:
    out = summary.out
    scans: dict[str, dict[str, Any]] = {}
    for outcome in outcomes:
        keep = {"reason": outcome.reason} if outcome.status == "skipped" else {}
        if outcome.status == "done":
            keep = {name: getattr(outcome, name) for name in ("num_objects", "num_shown", "num_frames", "warnings")}
        scans[_key_of(config, outcome)] = {"status": outcome.status, "room": outcome.room, **keep}
    names = [f"{name}.jsonl" for name in SPLITS]
    if config.video.source != "none":
        names += [
            f"videos/{config.parts[outcome.part].dataset}/{outcome.scan_id}.mp4"
            for outcome in outcomes
            if outcome.status == "done"
        ]
    names += [pairs_name(name) for name in pairs]
    edited = (item["path"] for part in pairs.values() for row in part if pair_of(row) for item in row.media)
    names += list(dict.fromkeys(edited))
    write_manifest(
        out,
        Manifest(
            dataset=config.dataset,
            config=asdict(config),
            seed=config.run.seed,
            scans=scans,
            rooms={
                name: sorted({config.name_in(row.dataset, row.room) for row in part}) for name, part in rows.items()
            },
            counts={
                "questions": summary.counts,
                "answers": {name: [asdict(line) for line in lines] for name, lines in summary.answers.items()},
                "frame_true": summary.frame_true,
                "pairs": {name: count_pairs(part) for name, part in pairs.items()},
                "audit": None if summary.audit is None else audit_json(summary.audit),
                "candidates": summary.candidates,
                "warnings": summary.warnings,
                "refused": summary.refused,
                "sources": summary.sources,
                "dropped": summary.dropped,
                "skipped": len(summary.skipped),
                **kept_json(config.data.keep_out),
                "video_source": config.video.source,
            },
            files={name: file_record(out / name) for name in names},
            notes=summary.notes,
        ),
    )
