"""The three lamps of the trust report: what a training set teaches by its text, and whether its labels are true.

A lamp is green where the number is within its limit, with its whole 95 % interval where it has one; red where the
number is beyond it; unknown where it cannot be told: rows that do not say, too few rows, an interval across the limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vsgrpo.audit.measure import Audit, share_of
from vsgrpo.audit.tables import MAX_TRANSFER
from vsgrpo.audit.transfer import Transfer
from vsgrpo.data.frame_true import is_true_at
from vsgrpo.evaluation.trust.training import WAY_OUT, TrainingRows
from vsgrpo.spatial.question_types import answer_kind_of, counts_things
from vsgrpo.terminal import counted

MAX_TEXT_SHARE = 0.05
"""Share of what constants leave, that the words of a training set's choices (or counts) may give away."""
MIN_TRUE = 0.95
"""Share of the training rows whose answer the frames shown make true."""
GREEN, RED, UNKNOWN = "green", "red", "unknown"


@dataclass(frozen=True)
class Lamp:
    """One verdict.

    Attributes:
        name: what is asked.
        status: green | red | unknown.
        value, limit: shares of 1; value is None where there is none.
        number: the number in words, with its limit.
        mend: what to do about it, "" where it is green.
    """

    name: str
    status: str
    value: float | None
    limit: float
    number: str
    mend: str

    def to_json(self) -> dict[str, Any]:
        """Return the lamp as JSON."""
        return asdict(self)


def text_lamp(train: TrainingRows, audit: Audit | None) -> Lamp:
    """Return whether text gives the choices of the training rows away, by the type of which it gives away most.

    Rows that ask no choices are judged by their counts: both are what build-data balances by text. Sizes are knowledge.
    """
    name = "Text does not answer the training rows' choices"
    if audit is None:
        return _unknown(name, MAX_TEXT_SHARE, train.problem)
    asked, word = [kind for kind in (*audit.types, *audit.not_scored) if answer_kind_of(kind) == "choice"], "choice"
    if not asked:
        asked, word = [kind for kind in (*audit.types, *audit.not_scored) if counts_things(kind)], "counting"
        name = "Text does not answer the training rows' counts" if asked else name
    if not asked:
        return _unknown(name, MAX_TEXT_SHARE, f"they ask no choices and no counts{_numbers(audit)}", "")
    judged = {kind: audit.types[kind] for kind in asked if kind in audit.types}
    if not judged:
        problem = f"no {word} type of the training rows can be audited ({_reasons(audit.not_scored)})"
        return _unknown(name, MAX_TEXT_SHARE, problem, "audit more rows, of more scenes")
    worst = max(judged, key=lambda kind: judged[kind].text_share)
    item = judged[worst]
    highest = max(share_of(each.interval[1], each.floor) for each in judged.values())
    number = (
        f"text share {_points(item.text_share)} % in {worst}, the highest of "
        f"{counted(len(judged), word + ' type')} (upper ends "
        f"of their intervals: {_points(highest)} % or less); at most {_points(MAX_TEXT_SHARE)} %"
    )
    if word == "counting":
        number = f"they ask no choices; {number}"
    mend = "build the rows balanced (build-data balance.mode=text), which is the default, and train on those"
    return _by_interval(name, item.text_share, highest, MAX_TEXT_SHARE, number, mend)


def _numbers(audit: Audit) -> str:
    """Say which of the types of numbers text gives away most."""
    if not audit.types:
        return ""
    worst = max(audit.types, key=lambda kind: audit.types[kind].text_share)
    return f"; of the numbers text gives most away in {worst}: {_points(audit.types[worst].text_share)} %"


def true_lamp(train: TrainingRows) -> Lamp:
    """Return whether the frames shown in training make the answers of the training rows true.

    Rows that do not say could be either; rows that the run left out are none of its rows.
    """
    name = "The training rows are true for the frames shown"
    if not train.rows:
        return _unknown(name, MIN_TRUE, train.problem)
    if train.frames is None:
        return _unknown(name, MIN_TRUE, "no vision.json of the model says how many frames it was trained with")
    truth = [is_true_at(row, train.frames) for row in train.rows]
    used = [found for found in truth if found is not False] if train.drops_untrue else truth
    num, true, false = len(used), sum(found is True for found in used), sum(found is False for found in used)
    left_out = (
        f"; the run left {counted(len(truth) - num, 'row out that is not', 'rows out that are not')}"
        if len(truth) > num
        else ""
    )
    number = (
        f"{true} of {counted(num, 'row')} true at {counted(train.frames, 'frame')}, {false} not, "
        f"{num - true - false} do not say{left_out}; at least {_points(MIN_TRUE)} %"
    )
    mend = "train with data.frame_true=drop, or with more frames (video.num_frames)"
    if num and true / num >= MIN_TRUE:
        return Lamp(name, GREEN, true / num, MIN_TRUE, number, "")
    if num and (num - false) / num < MIN_TRUE:
        return Lamp(name, RED, true / num, MIN_TRUE, number, mend)
    rebuild = f"build the rows with a video whose frames are looked at, and {train.frames} among video.budgets"
    return Lamp(name, UNKNOWN, None, MIN_TRUE, number, rebuild)


def transfer_lamp(train: TrainingRows, transfer: Transfer | None) -> Lamp:
    """Return whether the training rows' text answers the benchmark better than its constants do."""
    name = "The training rows' text does not answer this benchmark"
    if transfer is None:
        return _unknown(name, MAX_TRANSFER, train.problem)
    if transfer.micro is None:
        why = _reasons(transfer.not_scored)
        return _unknown(name, MAX_TRANSFER, f"no question type can be compared ({why})", "compare larger sets")
    item = transfer.micro
    low, high = item.above_interval
    number = (
        f"text learned from the training rows scores {_points(item.text)} here, constants {_points(item.floor)}: "
        f"{_points(item.above)} points above ({_points(low)} to {_points(high)}); at most {_points(MAX_TRANSFER)}"
    )
    mend = "build the training rows balanced (build-data balance.mode=text), which is the default"
    return _by_interval(name, item.above, high, MAX_TRANSFER, number, mend)


def lamps_of(train: TrainingRows, audit: Audit | None, transfer: Transfer | None) -> Sequence[Lamp]:
    """Return the three lamps in the order of the page."""
    return text_lamp(train, audit), true_lamp(train), transfer_lamp(train, transfer)


def _by_interval(name: str, value: float, highest: float, limit: float, number: str, mend: str) -> Lamp:
    if highest <= limit:
        return Lamp(name, GREEN, value, limit, number, "")
    if value > limit:
        return Lamp(name, RED, value, limit, number, mend)
    return Lamp(name, UNKNOWN, value, limit, number, "the interval crosses the limit: compare larger sets")


def _unknown(name: str, limit: float, why: str, mend: str = WAY_OUT) -> Lamp:
    return Lamp(name, UNKNOWN, None, limit, why, mend)


def _reasons(not_scored: Mapping[str, str]) -> str:
    """Return each reason once, with the types it is of."""
    kinds: dict[str, list[str]] = {}
    for kind, reason in not_scored.items():
        kinds.setdefault(reason, []).append(kind)
    return "; ".join(f"{', '.join(own)}: {reason}" for reason, own in kinds.items())


def _points(value: float) -> str:
    return f"{100 * value:.1f}".removesuffix(".0")
