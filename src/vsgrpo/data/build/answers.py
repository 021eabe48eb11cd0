"""The answers of a dataset: how much of them a blind guess gets right, and balancing them.

Balancing runs once over all rows in scan order, after the workers are done: the rows of a worker depend on its scan
alone, so the result is the same for any number of workers, shards and interruptions. Every choice is a hash of the
row's key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import NamedTuple

from vsgrpo.data.row import LETTERS, Row
from vsgrpo.data.rows import row_id
from vsgrpo.spatial.scoring import best_number, best_word, entropy_bits

MIN_ROWS = 50
"""Shares of fewer rows of a type say nothing: `max_share` leaves them alone."""


@dataclass(frozen=True)
class AnswerLine:
    """The answers of one question type.

    Attributes:
        count: rows.
        num_answers: different answers.
        entropy: bits of the answers' shares (word or number; not the letter).
        top, top_share: the most frequent answer and its share of the rows.
        best, score: the constant that scores best and its score 0..1 (numbers: MRA; choices: exact). Of a choice it is
            a letter where the rows were made in vsibench mode (options are shown), else a word.
        letters: right options per letter A, B, C, D; empty for numbers.
    """

    question_type: str
    count: int
    num_answers: int
    entropy: float
    top: str
    top_share: float
    best: str
    score: float
    letters: tuple[int, ...]


class _Answer(NamedTuple):
    """What a tally counts of a row."""

    answer: str
    ground_truth: str
    kind: str
    num_options: int
    are_options_shown: bool


class AnswerTally:
    """The answers of rows that come one at a time, per question type."""

    def __init__(self) -> None:
        self._types: dict[str, Counter[_Answer]] = {}

    def add(self, row: Row) -> None:
        """Count a row."""
        is_shown = row.generator.get("mode") == "vsibench"
        found = _Answer(row.answer, row.ground_truth, row.answer_kind, len(row.options or ()), is_shown)
        self._types.setdefault(row.question_type, Counter())[found] += 1

    def join(self, other: AnswerTally) -> None:
        """Count the rows of another tally too."""
        for name, found in other._types.items():
            self._types.setdefault(name, Counter()).update(found)

    def counts(self) -> dict[str, int]:
        """Return rows per question type, sorted by name."""
        return {name: found.total() for name, found in sorted(self._types.items())}

    def lines(self) -> list[AnswerLine]:
        """Return one line per question type, sorted by name."""
        return [_line(name, found) for name, found in sorted(self._types.items())]


def _line(question_type: str, found: Counter[_Answer]) -> AnswerLine:
    answers, truths, letters = Counter[str](), Counter[str](), Counter[str]()
    for item, count in found.items():
        answers[item.answer] += count
        truths[item.ground_truth] += count
        if item.kind == "choice":
            letters[item.ground_truth] += count
    top, share = best_word(answers)
    by_letter: tuple[int, ...] = ()
    if all(item.kind == "number" for item in found):
        best, score = best_number(answers)
    else:
        best, score = best_word(truths) if any(item.are_options_shown for item in found) else (top, share)
        by_letter = tuple(letters[letter] for letter in LETTERS[: max(item.num_options for item in found)])
    bits, count = entropy_bits(answers), answers.total()
    return AnswerLine(question_type, count, len(answers), bits, top, share, best, score, by_letter)


def answer_lines(rows: Iterable[Row]) -> list[AnswerLine]:
    """Return one line per question type of some rows, sorted by name."""
    tally = AnswerTally()
    for row in rows:
        tally.add(row)
    return tally.lines()


def answer_table(lines: Sequence[AnswerLine], dev: Sequence[AnswerLine] = (), name: str = "train") -> list[str]:
    """Return the printed table: type, count (and dev count), entropy, best constant with its score, letters."""
    in_dev = {line.question_type: line.count for line in dev}
    names = sorted({line.question_type for line in (*lines, *dev)})
    by_name = {line.question_type: line for line in lines}
    width = max([len(kind) for kind in names] + [16])
    head = f"{'question type':<{width}}  {name[:7]:>7}  {'dev':>6}  {'entropy':>7}  {'best constant':>16}  {'score':>5}"
    out = [f"{head}  letters"]
    for kind in names:
        line = by_name.get(kind)
        text = f"{kind:<{width}}  {line.count if line else 0:>7}  {in_dev.get(kind, 0):>6}"
        if line:
            text += f"  {line.entropy:>7.2f}  {line.best[:16]:>16}  {100 * line.score:>5.1f}"
            text += "  " + "/".join(str(count) for count in line.letters) if line.letters else ""
        out.append(text)
    total = sum(line.count for line in lines)
    out.append(f"{'all':<{width}}  {total:>7}  {sum(in_dev.values()):>6}")
    return out


@dataclass(frozen=True)
class Balance:
    """What to even out; every mapping goes by question type, a missing or null entry changes nothing.

    Attributes:
        letters: put the right option at a letter used least so far (VSI-Bench's own rule, over the whole file).
        weights: share of a type's rows to keep, 0..1.
        max_share: largest share of one answer (the word or number, not the letter) among a type's rows; rows of a more
            frequent answer are dropped. Never below an even spread over the answers there are.
        seed: another seed drops other rows.
    """

    letters: bool = True
    weights: Mapping[str, float | None] = field(default_factory=dict)
    max_share: Mapping[str, float | None] = field(default_factory=dict)
    seed: int = 0


def balance_rows(rows: Sequence[Row], balance: Balance) -> tuple[list[Row], dict[str, int]]:
    """Return the balanced rows, order kept, and how many were dropped by "type: reason"."""
    dropped: Counter[str] = Counter()
    kept = []
    for row in rows:
        weight = balance.weights.get(row.question_type)
        if weight is None or _place(row, balance.seed, "weight") < weight:
            kept.append(row)
        else:
            dropped[f"{row.question_type}: balance.weights"] += 1
    excess = _excess(kept, balance)
    dropped.update(f"{row.question_type}: balance.max_share" for row in kept if row.key in excess)
    kept = [row for row in kept if row.key not in excess]
    return (_spread_letters(kept, balance.seed) if balance.letters else kept), dict(sorted(dropped.items()))


def _excess(rows: Sequence[Row], balance: Balance) -> set[str]:
    """Return the keys of the rows above their answer's share."""
    shares = {name: share for name, share in balance.max_share.items() if share is not None}
    groups: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        if row.question_type in shares:
            groups.setdefault(row.question_type, {}).setdefault(row.answer, []).append(row)
    excess: set[str] = set()
    for question_type, answers in groups.items():
        limits = share_limits({answer: len(group) for answer, group in answers.items()}, shares[question_type])
        for answer, group in answers.items():
            ranked = sorted(group, key=lambda row: _place(row, balance.seed, "share"))
            excess.update(row.key for row in ranked[limits[answer] :])
    return excess


def share_limits(counts: Mapping[str, int], share: float) -> dict[str, int]:
    """Return how many of each answer to keep, so that none is more than `share` of what is kept, and as many as can be.

    With fewer than MIN_ROWS rows or one answer only, all. A share below 1 / number of answers is taken as that.

    With the bound m on every answer, sum(min(count, m)) >= m / share must hold; the largest such m is wanted.
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
