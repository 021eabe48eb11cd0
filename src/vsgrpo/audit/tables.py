"""The audit as text for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vsgrpo.audit.folds import Interval
from vsgrpo.audit.measure import Audit
from vsgrpo.audit.transfer import Transfer
from vsgrpo.spatial.question_types import table_tasks
from vsgrpo.terminal import counted

MAX_TRANSFER = 0.05
"""A training set whose text scores more than this above the benchmark's constants teaches text."""
_SHOWN_ROWS = 3
_SHOWN_FIXED = 6


@dataclass(frozen=True)
class AuditReport:
    """What `vsgrpo audit` found.

    Attributes:
        name: of the rows, for the title.
        left_out: reason -> rows that could not be read.
        transfer: from a training set, None where none was given.
    """

    name: str
    audit: Audit
    left_out: dict[str, int]
    transfer: Transfer | None = None

    def to_json(self) -> dict[str, Any]:
        """Return {type: {n, chance, constant, text, interval, ...}, "micro", "macro", ...}; scores are 0..1."""
        more: dict[str, Any] = {"left_out": self.left_out}
        if self.transfer is not None:
            found = {name: value for name, value in asdict(self.transfer).items() if name != "above_by_row"}
            more["transfer"] = found
        return {**audit_json(self.audit), **more}

    def table(self) -> str:
        """Return the tables for people, notes below them."""
        lines = [f"{self.name}: what the text of the questions gives away", *audit_lines(self.audit)]
        lines += _exploitable_lines(self.audit)
        lines += [f"left out: {counted(number, 'row')}: {reason}" for reason, number in self.left_out.items()]
        return "\n".join(lines + (transfer_lines(self.transfer) if self.transfer is not None else []))


def audit_json(audit: Audit) -> dict[str, Any]:
    """Return the audit as JSON: types by name, then `micro`, `macro` and what is behind them."""
    tasks = table_tasks()
    return {
        **{name: asdict(item) for name, item in audit.types.items()},
        "micro": audit.mean("text"),
        "macro": audit.macro("text", tasks),
        "interval": audit.interval,
        "constant": audit.mean("floor"),
        "chance": audit.mean("chance"),
        "macro_constant": audit.macro("floor", tasks),
        "not_scored": audit.not_scored,
        "near_fixed": [asdict(item) for item in audit.near_fixed],
        "exploitable": [asdict(item) for item in audit.exploitable],
    }


def audit_lines(audit: Audit) -> list[str]:
    """Return the printed table, one line per question type, in points of 100."""
    width = max([len(name) for name in (*audit.types, *audit.not_scored)] + [16])
    head = f"{'question type':<{width}} {'rows':>6} {'chance':>6} {'const':>6} {'text':>6} {'95 %':>11}"
    lines = [f"{head} {'prior':>6} {'in text':>7} {'permuted':>9}"] if audit.types else []
    for name, item in audit.types.items():
        line = f"{name:<{width}} {item.n:>6} {_points(item.chance)} {_points(item.constant)} {_points(item.text)}"
        null = "" if item.null is None else f"{100 * item.null:.1f}±{100 * (item.null_sd or 0):.1f}"
        share = f"{_points(item.prior_share)} {_points(item.text_share, 7)} {null:>9}"
        lines.append(f"{line} {_range(item.interval):>11} {share}")
    if audit.types:
        total = sum(item.n for item in audit.types.values())
        line = f"{'all (micro)':<{width}} {total:>6} {_points(audit.mean('chance'))} {_points(audit.mean('floor'))}"
        lines.append(f"{line} {_points(audit.mean('text'))} {_range(audit.interval):>11}")
        tasks = table_tasks()
        macro = f"{'all (macro of tasks)':<{width}} {'':>6} {_points(audit.macro('chance', tasks))}"
        lines.append(f"{macro} {_points(audit.macro('floor', tasks))} {_points(audit.macro('text', tasks))}")
    lines += [f"not audited: {name}: {reason}" for name, reason in audit.not_scored.items()]
    if audit.near_fixed:
        shown = [f"{item.category} {item.score:.2f}" for item in audit.near_fixed[:_SHOWN_FIXED]]
        more = f" and {len(audit.near_fixed) - len(shown)} more" if len(audit.near_fixed) > len(shown) else ""
        lines.append(f"near-fixed categories (score of one number): {', '.join(shown)}{more}")
    return lines


def transfer_lines(transfer: Transfer) -> list[str]:
    """Return the printed table of what a training set teaches about a benchmark."""
    width = max([len(name) for name in (*transfer.types, *transfer.not_scored)] + [16])
    lines = ["transfer: learned from the training set's text, asked the rows above, no scene in both"]
    if transfer.left_out:
        lines.append(
            f"left out: {counted(transfer.left_out, 'training row')} of "
            f"{counted(transfer.shared_scenes, 'scene')} in both sets"
        )
    head = f"{'question type':<{width}} {'rows':>6} {'train':>6} {'const':>6} {'text':>6} {'95 %':>11}"
    lines += [f"{head} {'above':>6} {'95 %':>11}"] if transfer.types else []
    whole = {"all (micro)": transfer.micro} if transfer.micro is not None else {}
    for name, item in (*transfer.types.items(), *whole.items()):
        line = f"{name:<{width}} {item.n:>6} {item.train_n:>6} {_points(item.floor)} {_points(item.text)}"
        lines.append(f"{line} {_range(item.interval):>11} {_points(item.above)} {_range(item.above_interval):>11}")
    lines += [f"not compared: {name}: {reason}" for name, reason in transfer.not_scored.items()]
    if transfer.micro is not None:
        verdict = "no more than" if transfer.micro.above_interval[1] <= MAX_TRANSFER else "more than"
        lines.append(f"note: the text teaches {verdict} {100 * MAX_TRANSFER:.0f} points (upper end of the interval)")
    return lines


def _exploitable_lines(audit: Audit) -> list[str]:
    """Return the rows that text alone answers best, a few of each type where words help."""
    lines: list[str] = []
    for name, item in audit.types.items():
        rows = [row for row in audit.exploitable if row.question_type == name][:_SHOWN_ROWS]
        if item.text_share > 0 and rows:
            lines.append(f"most exploitable of {name}:")
            lines += [f"  {row.id}  {_short(row.question)} -> {row.answer}" for row in rows]
    return lines


def _short(text: str, length: int = 96) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 3]}..."


def _points(value: float, width: int = 6) -> str:
    return f"{100 * value:>{width}.1f}"


def _range(interval: Sequence[float] | Interval | None) -> str:
    return "" if interval is None else f"{100 * interval[0]:.1f}..{100 * interval[1]:.1f}"
