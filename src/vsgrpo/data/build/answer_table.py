"""How much of a dataset can be answered blindly: count, entropy and best constant per question type."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vsgrpo.data.row import LETTERS, Row
from vsgrpo.spatial.scoring import best_number, best_word, entropy_bits


@dataclass(frozen=True)
class AnswerLine:
    """One question type.

    Attributes:
        count: rows.
        num_answers: different answers.
        entropy: bits of the answers' shares (word or number; not the letter).
        top, top_share: the most frequent answer and its share of the rows.
        best, score: the constant that scores best and its score 0..1 (numbers: MRA; choices: exact).
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


class AnswerTally:
    """The answers of rows that come one at a time, per question type."""

    def __init__(self) -> None:
        self._types: dict[str, _Tally] = {}

    def add(self, row: Row) -> None:
        """Count a row."""
        self._types.setdefault(row.question_type, _Tally()).add(row)

    def join(self, other: AnswerTally) -> None:
        """Count the rows of another tally too."""
        for name, tally in other._types.items():
            self._types.setdefault(name, _Tally()).join(tally)

    def counts(self) -> dict[str, int]:
        """Return rows per question type, sorted by name."""
        return {name: tally.answers.total() for name, tally in sorted(self._types.items())}

    def lines(self) -> list[AnswerLine]:
        """Return one line per question type, sorted by name.

        The best constant of a choice is a letter where the rows were made in vsibench mode (options are shown), else a
        word.
        """
        return [tally.line(name) for name, tally in sorted(self._types.items())]


class _Tally:
    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        self._truths: Counter[str] = Counter()
        self._letters: Counter[str] = Counter()
        self._is_number = True
        self._is_shown = False
        self._most = 0

    def add(self, row: Row) -> None:
        self.answers[row.answer] += 1
        self._is_number &= row.answer_kind == "number"
        self._is_shown |= row.generator.get("mode") == "vsibench"
        self._truths[row.ground_truth] += 1
        if row.options is not None:
            self._most = max(self._most, len(row.options))
        if row.answer_kind == "choice":
            self._letters[row.ground_truth] += 1

    def join(self, other: _Tally) -> None:
        self.answers += other.answers
        self._truths += other._truths
        self._letters += other._letters
        self._is_number &= other._is_number
        self._is_shown |= other._is_shown
        self._most = max(self._most, other._most)

    def line(self, question_type: str) -> AnswerLine:
        top, share = best_word(self.answers)
        letters: tuple[int, ...] = ()
        if self._is_number:
            best, score = best_number(self.answers)
        else:
            best, score = best_word(self._truths) if self._is_shown else (top, share)
            letters = tuple(self._letters[letter] for letter in LETTERS[: self._most])
        bits = entropy_bits(self.answers)
        count = self.answers.total()
        return AnswerLine(question_type, count, len(self.answers), bits, top, share, best, score, letters)


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
