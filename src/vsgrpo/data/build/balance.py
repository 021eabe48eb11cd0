"""Which of the candidates of a build become rows: balanced by their text, cut to the caps, evened out.

Everything runs once, over the rows of all scans in scan order, and every choice is a hash of the row's key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b

from vsgrpo.audit.balance import fixed_chances, is_too_small, text_chances
from vsgrpo.config.build import BalanceSection
from vsgrpo.data.audit_rows import audit_row
from vsgrpo.data.row import LETTERS, Row
from vsgrpo.data.rows import row_id
from vsgrpo.spatial.question_types import QUESTION_TYPES

MIN_ROWS = 50
"""Shares of fewer rows of a type say nothing: `max_share` leaves them alone."""
_RULES = {"text": (text_chances, "the text gives the answer away"), "category": (fixed_chances, "near-fixed category")}
"""`QuestionType.balance` -> who gives the chance of each row to stay, and what is said of those left out."""


@dataclass
class TextBalance:
    """What balancing by text did.

    Attributes:
        rows: those kept, in their order.
        candidates: question type -> rows there were.
        dropped: "type: reason" -> rows left out.
        too_small: question type -> why it was left as it is.
    """

    rows: list[Row]
    candidates: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    too_small: dict[str, str] = field(default_factory=dict)


def balance_by_text(rows: Sequence[Row], mode: str, balance: BalanceSection, seed: int) -> TextBalance:
    """Return the rows that stay by their text (balance.mode=text), as many of a scan as the caps say (`_cut`).

    A type with too few rows or rooms is only cut to its caps. The first rows of a scan stay: the order is random.

    Args:
        mode: data.mode, whose caps hold where balance.caps has none.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.question_type, []).append(row)
    found = TextBalance([], {name: len(own) for name, own in sorted(groups.items())})
    dropped: Counter[str] = Counter()
    out: set[str] = set()
    for name, own in sorted(groups.items()):
        seen = [item for row in own if (item := audit_row(row)) is not None]
        rule = QUESTION_TYPES[name].balance if balance.mode == "text" and len(seen) == len(own) else ""
        kept = own
        if rule and (reason := is_too_small(seen)) is not None:
            found.too_small[name] = reason
        elif rule:
            chances, what = _RULES[rule]
            keep = zip(own, chances(seen), strict=True)
            kept = [row for row, chance in keep if _place(row, seed, "text") < chance]
            dropped[f"{name}: {what}"] += len(own) - len(kept)
        capped = _cut(own, kept, QUESTION_TYPES[name].cap(mode, balance.caps), balance.caps.get(name) is not None, seed)
        dropped[f"{name}: balance.caps"] += len(kept) - len(capped)
        out |= {row.key for row in own} - {row.key for row in capped}
    found.rows = [row for row in rows if row.key not in out]
    found.dropped = {what: number for what, number in sorted(dropped.items()) if number}
    return found


def _cut(candidates: Sequence[Row], kept: Sequence[Row], cap: int | None, is_given: bool, seed: int) -> list[Row]:
    """Return the first `cap` rows of each scan; a cap that is the mode's own holds for the mean of the scans.

    Scans whose rows were thinned below it leave room, which the next rows of other scans fill: as many rows as without
    thinning, where there are so many.
    """
    if cap is None:
        return list(kept)
    before: Counter[tuple[str, str]] = Counter()
    rank: dict[str, int] = {}
    for row in kept:
        rank[row.key] = before[row.dataset, row.scene_name]
        before[row.dataset, row.scene_name] += 1
    there = Counter((row.dataset, row.scene_name) for row in candidates)
    first = {row.key for row in kept if rank[row.key] < cap}
    room = 0 if is_given else sum(min(cap, number) for number in there.values()) - len(first)
    others = (row for row in kept if rank[row.key] >= cap)
    filled = sorted(others, key=lambda row: (rank[row.key], _place(row, seed, "cap")))[:room]
    chosen = first | {row.key for row in filled}
    return [row for row in kept if row.key in chosen]


def balance_rows(rows: Sequence[Row], balance: BalanceSection, seed: int) -> tuple[list[Row], dict[str, int]]:
    """Return the balanced rows, order kept, and how many were dropped by "type: reason".

    `weights` is the share of a type's rows to keep. `max_share` is the largest share of one answer (the word or number,
    not the letter) among a type's rows, by default the type's own (`QuestionType.share`): rows of a more frequent
    answer are dropped, but never below an even spread over the answers there are. `letters` puts the right option at a
    letter used least so far (VSI-Bench's own rule, over the whole file). Another seed drops other rows.
    """
    dropped: Counter[str] = Counter()
    for rule, find_excess in (("weights", _excess_of_weights), ("max_share", _excess_of_shares)):
        excess = find_excess(rows, balance, seed)
        dropped.update(f"{row.question_type}: balance.{rule}" for row in rows if row.key in excess)
        rows = [row for row in rows if row.key not in excess]
    return (_spread_letters(rows, seed) if balance.letters else list(rows)), dict(sorted(dropped.items()))


def _excess_of_weights(rows: Sequence[Row], balance: BalanceSection, seed: int) -> set[str]:
    """Return the keys of the rows that the weight of their type leaves out."""
    weighted = ((row, balance.weights.get(row.question_type)) for row in rows)
    return {row.key for row, weight in weighted if weight is not None and _place(row, seed, "weight") >= weight}


def _excess_of_shares(rows: Sequence[Row], balance: BalanceSection, seed: int) -> set[str]:
    """Return the keys of the rows above their answer's share."""
    groups: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        groups.setdefault(row.question_type, {}).setdefault(row.answer, []).append(row)
    excess: set[str] = set()
    for question_type, answers in groups.items():
        kind, share = QUESTION_TYPES.get(question_type), balance.max_share.get(question_type)
        share = kind.share(balance.mode) if share is None and kind is not None else share
        if share is not None:
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
