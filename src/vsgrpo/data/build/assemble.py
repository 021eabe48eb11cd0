"""The end of a build: finished scans to balanced row files and manifest, and what to report to the user.

Balancing runs once over all rows in scan order, after the workers are done: the rows of a worker depend on its scan
alone, so the result is the same for any number of workers, shards and interruptions. Every choice is a hash of the
row's key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from vsgrpo.config.build import BalanceSection, BuildDataConfig
from vsgrpo.data.build.counterfactual import count_pairs, write_pairs
from vsgrpo.data.build.negatives import draw_zero_counts
from vsgrpo.data.build.scan import ScanOutcome
from vsgrpo.data.frame_true import ANSWER_AT, TRUE_AT, truth_lines, truth_of
from vsgrpo.data.leak_guard import check_rows
from vsgrpo.data.manifest import MANIFEST_NAME, Manifest, file_record, write_manifest
from vsgrpo.data.pairs import pair_of, pairs_name
from vsgrpo.data.row import LETTERS, Row
from vsgrpo.data.row_scan import AnswerLine, answer_lines, answer_table
from vsgrpo.data.rows import row_id, split_dev, write_rows
from vsgrpo.errors import RunError
from vsgrpo.scans.source import find_source

SPLITS = ("train", "dev")
MIN_ROWS = 50
"""Shares of fewer rows of a type say nothing: `max_share` leaves them alone."""
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
        dropped: "type: reason" -> rows left out by balancing.
        notes: sentences for the user.
        max_skipped: share of skipped scans that is still a success.
        num_objects, num_shown: objects asked about, and those the video shows (None where nobody looked).
        warnings: defect -> number, over all scans.
        answers: per split, one line per question type.
        frame_true: per split, type -> share of the rows that is true at each budget (`frame_true.TruthTally.table`).
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
    shard: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the summary as JSON."""
        return {**asdict(self), "out": str(self.out)}

    def table(self) -> str:
        """Return counts per type with entropy and best constant, then skipped scans with their reasons."""
        lines = []
        if self.shard is None:
            lines = answer_table(self.answers.get("train", []), self.answers.get("dev", []))
            lines += truth_lines(self.frame_true.get("train", {}))
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


def assemble(
    config: BuildDataConfig, refused: dict[str, int], out: Path, outcomes: list[ScanOutcome], reused: int
) -> BuildSummary:
    """Split into train and dev by room, balance, and write row files and manifest.

    Args:
        refused: reason -> number of scans left out by split and leak rules.
        outcomes: of all scans, in scan order; the row files depend on nothing else.
        reused: scans of these that an earlier, interrupted build has built.
    """
    with_rows = [outcome for outcome in outcomes if outcome.status == "done" and outcome.rows]
    split = split_dev({outcome.room for outcome in with_rows}, config.data.dev_fraction)
    notes = [split.note] if split.note and config.data.dev_fraction else []
    notes += [f"{o.scan_id} gave no question" for o in outcomes if o.status == "done" and not o.rows][:5]
    if config.data.split != "train":
        notes.append("rows of ScanNet val scans are in: training on them needs data.allow_val_safe=true")
    rows: dict[str, list[Row]] = {}
    pairs: dict[str, list[Row]] = {}
    dropped: Counter[str] = Counter()
    for name in SPLITS:
        part = [row for o in with_rows if (o.room in split.dev_rooms) == (name == "dev") for row in o.rows]
        part = [replace(row, split="dev") for row in part] if name == "dev" else part
        if config.video.frame_true != "flag":
            part, never = _without_untrue(part)
            dropped.update(never)
        rows[name], left_out = balance_rows(part, config.balance, config.run.seed)
        dropped.update(left_out)
        if config.data.min_count == 0 and rows[name]:
            complete = find_source(config.source.name).complete
            inventories = {outcome.scan_id: outcome.inventory for outcome in with_rows}
            zeros = draw_zero_counts(rows[name], inventories, complete, config.run.seed)
            rows[name] += zeros
            notes.append(f"{name}: {len(zeros)} questions count a category that is not in the room (answer 0)")
        where = str(out / f"{name}.jsonl")
        check_rows(rows[name], allow_val_safe=config.data.split != "train", where=where, base=out)
        write_rows(out / f"{name}.jsonl", rows[name])
        own = [row for o in with_rows if (o.room in split.dev_rooms) == (name == "dev") for row in o.pairs]
        if found := write_pairs(config, own, name, out):
            pairs[name] = found
            notes.append(f"{pairs_name(name)}: " + ", ".join(f"{n} {kind}" for kind, n in count_pairs(found).items()))
    answers = {name: answer_lines(part) for name, part in rows.items()}
    truth = {name: truth_of(part).table() for name, part in rows.items()}
    summary = _summary(
        config,
        outcomes,
        out=out,
        reused=reused,
        notes=notes,
        counts={name: {line.question_type: line.count for line in lines} for name, lines in answers.items()},
        refused=refused,
        dropped=dict(sorted(dropped.items())),
        answers=answers,
        frame_true=truth,
    )
    _write_manifest(config, outcomes, rows, pairs, summary)
    return summary


def _without_untrue(rows: Sequence[Row]) -> tuple[list[Row], Counter[str]]:
    """Leave out rows that were judged and are true at no budget, with no answer; return the rest and how many."""
    kept = [row for row in rows if row.extra.get(TRUE_AT) != [] or row.extra.get(ANSWER_AT)]
    left_out = Counter(row.question_type for row in rows) - Counter(row.question_type for row in kept)
    return kept, Counter({f"{kind}: video.frame_true": number for kind, number in left_out.items()})


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
        skipped={outcome.scan_id: outcome.reason for outcome in outcomes if outcome.status == "skipped"},
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
    out, dataset = summary.out, config.dataset
    scans: dict[str, dict[str, Any]] = {}
    for outcome in outcomes:
        keep = {"reason": outcome.reason} if outcome.status == "skipped" else {}
        if outcome.status == "done":
            keep = {name: getattr(outcome, name) for name in ("num_objects", "num_shown", "num_frames", "warnings")}
        scans[outcome.scan_id] = {"status": outcome.status, "room": outcome.room, **keep}
    names = [f"{name}.jsonl" for name in SPLITS]
    if config.video.source != "none":
        names += [f"videos/{dataset}/{outcome.scan_id}.mp4" for outcome in outcomes if outcome.status == "done"]
    names += [pairs_name(name) for name in pairs]
    edited = (item["path"] for part in pairs.values() for row in part if pair_of(row) for item in row.media)
    names += list(dict.fromkeys(edited))
    write_manifest(
        out,
        Manifest(
            dataset=dataset,
            config=asdict(config),
            seed=config.run.seed,
            scans=scans,
            rooms={name: sorted({row.room for row in part}) for name, part in rows.items()},
            counts={
                "questions": summary.counts,
                "answers": {name: [asdict(line) for line in lines] for name, lines in summary.answers.items()},
                "frame_true": summary.frame_true,
                "pairs": {name: count_pairs(part) for name, part in pairs.items()},
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


def balance_rows(rows: Sequence[Row], balance: BalanceSection, seed: int) -> tuple[list[Row], dict[str, int]]:
    """Return the balanced rows, order kept, and how many were dropped by "type: reason".

    `weights` is the share of a type's rows to keep. `max_share` is the largest share of one answer (the word or number,
    not the letter) among a type's rows: rows of a more frequent answer are dropped, but never below an even spread over
    the answers there are. `letters` puts the right option at a letter used least so far (VSI-Bench's own rule, over the
    whole file). Another seed drops other rows.
    """
    dropped: Counter[str] = Counter()
    for rule, find_excess in (("weights", _excess_of_weights), ("max_share", _excess_of_shares)):
        excess = find_excess(rows, getattr(balance, rule), seed)
        dropped.update(f"{row.question_type}: balance.{rule}" for row in rows if row.key in excess)
        rows = [row for row in rows if row.key not in excess]
    return (_spread_letters(rows, seed) if balance.letters else list(rows)), dict(sorted(dropped.items()))


def _excess_of_weights(rows: Sequence[Row], weights: Mapping[str, float | None], seed: int) -> set[str]:
    """Return the keys of the rows that the weight of their type leaves out."""
    weighted = ((row, weights.get(row.question_type)) for row in rows)
    return {row.key for row, weight in weighted if weight is not None and _place(row, seed, "weight") >= weight}


def _excess_of_shares(rows: Sequence[Row], max_share: Mapping[str, float | None], seed: int) -> set[str]:
    """Return the keys of the rows above their answer's share."""
    groups: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        groups.setdefault(row.question_type, {}).setdefault(row.answer, []).append(row)
    excess: set[str] = set()
    for question_type, answers in groups.items():
        if (share := max_share.get(question_type)) is not None:
            limits = share_limits({answer: len(group) for answer, group in answers.items()}, share)
            for answer, group in answers.items():
                ranked = sorted(group, key=lambda row: _place(row, seed, "share"))
                excess.update(row.key for row in ranked[limits[answer] :])
    return excess


def share_limits(counts: Mapping[str, int], share: float) -> dict[str, int]:
    """Return how many of each answer to keep, so that none is more than `share` of what is kept, and as many as can be.

    With fewer than MIN_ROWS rows or one answer only, all. A share below 1 / number of answers is taken as that.

    With the bound m on every answer, sum(min(count, m)) >= m / share must hold; the largest such m is taken.
    """
    if sum(counts.values()) < MIN_ROWS or len(counts) < 2:
        return dict(counts)
    share = max(share, 1 / len(counts))
    low, high = 1, max(counts.values())
    while low < high:  # kept / m falls with m: bisect
        middle = (low + high + 1) // 2
        if middle <= share * sum(min(count, middle) for count in counts.values()) + 1e-9:
            low = middle
        else:
            high = middle - 1
    return {answer: min(count, low) for answer, count in counts.items()}


def _spread_letters(rows: Sequence[Row], seed: int) -> list[Row]:
    """Move each right option to one of the letters used least so far, per type and number of options."""
    used: dict[tuple[str, int], list[int]] = {}
    out = []
    for row in rows:
        if row.answer_kind != "choice" or row.options is None:
            out.append(row)
            continue
        counts = used.setdefault((row.question_type, len(row.options)), [0] * len(row.options))
        least = [place for place, count in enumerate(counts) if count == min(counts)]
        place = least[int(_place(row, seed, "letter") * len(least))]
        counts[place] += 1
        out.append(with_answer_at(row, place))
    return out


def with_answer_at(row: Row, place: int) -> Row:
    """Return the row with its right option at `place`, swapped with the option there.

    A question that lists its options in order (relative distance) lists them in the new order, and its id follows.
    """
    assert row.options is not None
    old = LETTERS.index(row.ground_truth)
    if old == place:
        return row
    order = list(range(len(row.options)))
    order[old], order[place] = order[place], order[old]
    options = tuple(row.options[k] for k in order)
    question, objects = row.question, row.objects
    if question.count(", ".join(row.options)) == 1:
        question = question.replace(", ".join(row.options), ", ".join(options))
    fixed = len(objects) - len(options)
    if fixed >= 0 and [item["category"] for item in objects[fixed:]] == list(row.options):
        objects = (*objects[:fixed], *(objects[fixed + k] for k in order))
    same = question == row.question
    return replace(
        row,
        id=row.id if same else row_id(row.dataset, row.scene_name, row.question_type, question),
        question=question,
        options=options,
        ground_truth=LETTERS[place],
        objects=objects,
    )


def _place(row: Row, seed: int, purpose: str) -> float:
    """Return a number in [0, 1) that depends on the row, the seed and the purpose alone."""
    digest = blake2b(f"{seed}\0{purpose}\0{row.key}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53
