"""Look at every row of a file without keeping the rows: what check-data needs to know, in parts read side by side.

build-data reports the same table of answers, with the score that the best constant answer gets.

No row is kept: of each its key, 16 bytes, and a few hundred bytes for each different video and answer.
"""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vsgrpo.data.frame_true import TruthTally
from vsgrpo.data.kept_out import tell_process
from vsgrpo.data.leak_guard import Judgement, Links
from vsgrpo.data.row import LETTERS, Row, RowError
from vsgrpo.data.rows import faults_of, row_from_dict
from vsgrpo.errors import DataError
from vsgrpo.records import BLANK, decode_line
from vsgrpo.spatial.maps import centred, read_map, strict_score
from vsgrpo.spatial.question_types import tolerance_of
from vsgrpo.spatial.scoring import best_number, best_word, entropy_bits
from vsgrpo.tables import kept_out

RowCheck = Callable[[Row], None]
"""A rule beyond the schema: raises DataError where a run could not use the row."""
_PART_BYTES = 16 << 20
"""Smaller files are read in this process."""
_KEPT = 10
"""Places of a fault that are named."""


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
        is_shown = row.generator.get("mode") in ("vsibench", "revsi")
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
        best, score = best_number(answers, tolerance_of(question_type))
    elif all(item.kind == "map" for item in found):
        maps = [(read_map(text) or {}, count) for text, count in answers.items()]
        points = sum(count * strict_score(centred(cells, one_each=True), cells) for cells, count in maps)
        best, score = "centre", points / answers.total()  # one point of each category there
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


@dataclass
class Fault:
    """A rule that rows break: what the first of them says, how often, and the first places."""

    message: str
    hint: str
    count: int = 0
    places: list[str] = field(default_factory=list)

    def text(self, file: Path) -> str:
        """Return it in one line, with file and lines."""
        if self.count == 1:
            return f"{file}:{self.places[0]}: {self.message}"
        more = ", ..." if self.count > len(self.places) else ""
        return f"{file}: {self.count} rows: {self.message} (lines {', '.join(self.places)}{more})"


@dataclass
class RowScan:
    """Numbers and faults of the rows of a file, or of a part of one.

    Attributes:
        num_lines, num_rows: lines of the part, and rows that keep the schema and the rule of `scan_rows`.
        faults: rule -> how often it is broken and where.
        keys: 64-bit hashes of the keys of rows that keep the schema; what follows is of these too.
        key_lines: the line of each.
        tally: answers of the `num_rows` by question type.
        truth: at which budgets of frames these are true.
        rooms: (dataset, room) of the rows.
        media: (kind, path in the rows) -> key of the first row that shows it.
        judged: what the leak guard found.
    """

    num_lines: int = 0
    num_rows: int = 0
    faults: dict[str, Fault] = field(default_factory=dict)
    keys: array[int] = field(default_factory=lambda: array("Q"))
    key_lines: array[int] = field(default_factory=lambda: array("Q"))
    tally: AnswerTally = field(default_factory=AnswerTally)
    truth: TruthTally = field(default_factory=TruthTally)
    rooms: set[tuple[str, str]] = field(default_factory=set)
    media: dict[tuple[str, str], str] = field(default_factory=dict)
    judged: Judgement = field(default_factory=Judgement)

    def add_fault(self, rule: str, message: str, hint: str, *lines: int, count: int = 1) -> None:
        """Count a fault; `lines` are the first that have it."""
        fault = self.faults.setdefault(rule, Fault(message, hint))
        fault.count += count
        fault.places = [*fault.places, *map(str, lines)][:_KEPT]
        if fault.count > 1:
            fault.message = rule

    def add(self, row: Row, line: int, links: Links, judge: bool, is_good: bool) -> None:
        """Note a row that keeps the schema; one that the run could not use (not `is_good`) counts in no number."""
        if is_good:
            self.num_rows += 1
            self.tally.add(row)
            self.truth.add(row)
        self.keys.append(int.from_bytes(blake2b(row.key.encode(), digest_size=8).digest(), "big"))
        self.key_lines.append(line)
        self.rooms.add((row.dataset, row.room))
        for item in row.media:
            self.media.setdefault((item["kind"], item["path"]), row.key)
        if judge:
            self.judged.add(row, *links(row))

    def join(self, later: RowScan) -> None:
        """Add the part that follows this one."""
        for rule, fault in later.faults.items():
            lines = [int(place) + self.num_lines for place in fault.places]
            self.add_fault(rule, fault.message, fault.hint, *lines, count=fault.count)
        self.keys += later.keys
        self.key_lines.extend(line + self.num_lines for line in later.key_lines)
        self.num_lines += later.num_lines
        self.num_rows += later.num_rows
        self.tally.join(later.tally)
        self.truth.join(later.truth)
        self.rooms |= later.rooms
        self.media = {**later.media, **self.media}
        self.judged.join(later.judged)

    def find_repeated_keys(self) -> None:
        """Count ids that are used more than once in the file as faults."""
        keys, lines = np.array(self.keys), np.array(self.key_lines)
        order = np.argsort(keys, kind="stable")
        again = order[1:][keys[order[1:]] == keys[order[:-1]]]
        for line in sorted(lines[again].tolist()):
            self.add_fault("id: used before in this file", "id: used before in this file", "ids must be unique", line)


def scan_rows(file: Path, check: RowCheck | None = None, *, judge: bool = True) -> RowScan:
    """Look at all rows of a file; a large one is read by one process per core.

    Args:
        check: a rule beyond the schema, asked of every row that keeps it (picklable).
        judge: ask the leak guard (not of a benchmark's own test file).

    Raises:
        DataError: the file cannot be read.
    """
    try:
        size = file.stat().st_size
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}", "check the path") from None
    count = min(os.cpu_count() or 1, size // _PART_BYTES)
    read = partial(_scan_part, file, check, judge)
    if count < 2:
        parts = [read((0, size))]
    else:
        edges = [0, *(_line_start(file, size * number // count) for number in range(1, count)), size]
        with ProcessPoolExecutor(count, get_context("spawn"), tell_process, (kept_out(),)) as pool:
            parts = list(pool.map(read, pairwise(edges)))
    whole = parts[0]
    for part in parts[1:]:
        whole.join(part)
    whole.find_repeated_keys()
    return whole


def _line_start(file: Path, position: int) -> int:
    """Return where the first line begins at or behind a position."""
    with file.open("rb") as stream:
        stream.seek(max(position - 1, 0))
        stream.readline()
        return stream.tell()


def _scan_part(file: Path, check: RowCheck | None, judge: bool, part: tuple[int, int]) -> RowScan:
    found, links = RowScan(), Links(file.parent)
    start, end = part
    with file.open("rb") as stream:
        stream.seek(start)
        while stream.tell() < end and (line := stream.readline()):
            found.num_lines += 1
            number = found.num_lines
            try:
                data = decode_line(line, "", is_first=start == 0 and number == 1)
            except DataError as error:
                found.add_fault("not JSON", error.message.removeprefix(": "), error.hint, number)
                continue
            if data is BLANK:
                continue
            try:
                row = row_from_dict(data, "")
            except RowError:
                for fault in faults_of(data, ""):
                    found.add_fault(fault.rule, fault.message.removeprefix(": "), fault.hint, number)
                continue
            is_good = True
            try:
                if check is not None:
                    check(row)
            except DataError as error:
                rule, is_good = error.message.removeprefix(f"row {row.key}: "), False
                found.add_fault(rule, rule, error.hint, number)
            found.add(row, number, links, judge, is_good)
    return found
