"""diff-data: two datasets joined by scene and question: equal answers, differing ones with their size, the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vsgrpo.data.compare.answers import Answers, Said, decimals_of, is_equal, read_answers, relative_difference
from vsgrpo.data.leak_guard import name_some
from vsgrpo.errors import DataError
from vsgrpo.terminal import counted

_EXAMPLES = 3
"""Differing answers of a type that are shown."""


@dataclass(frozen=True)
class TypeLine:
    """One question type.

    Attributes:
        both: questions that both sides ask.
        equal: those with one answer.
        median, p90: of the relative difference of the differing numbers (`answers.relative_difference`); None of words.
        only_a, only_b: questions that one side asks, in scenes that both have.
    """

    question_type: str
    both: int
    equal: int
    median: float | None
    p90: float | None
    only_a: int
    only_b: int


@dataclass(frozen=True)
class Difference:
    """A question with two answers."""

    scene: str
    question: str
    a: str
    b: str
    where_a: str
    where_b: str


@dataclass(frozen=True)
class DiffReport:
    """What two datasets have in common.

    Attributes:
        scenes: in both, in A only, in B only.
        elsewhere: rows of A and of B in scenes that the other has not.
        examples: type -> the first differing answers.
        lone: type -> the first question of A, and of B, that the other does not ask in a scene of both.
        notes: what was not compared, and what to look at.
    """

    a: str
    b: str
    scenes: tuple[int, int, int]
    elsewhere: tuple[int, int]
    lines: list[TypeLine]
    examples: dict[str, list[Difference]]
    lone: dict[str, list[str]]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON."""
        return asdict(self)

    def table(self) -> str:
        """Return a line for each type, the first differing answers, and what was not compared."""
        width = max(len(line.question_type) for line in [*self.lines, _total(self.lines)])
        head = f"{'question type':<{width}}  {'both':>7}  {'equal':>7}       %  {'median':>7}  {'p90':>7}"
        lines = [f"A: {self.a}", f"B: {self.b}", f"{head}  {'only A':>7}  {'only B':>7}"]
        lines += [_text(line, width) for line in [*self.lines, _total(self.lines)]]
        lines.append("median, p90: of |A - B| / max(A, B), where numbers differ; only A, only B: in scenes of both")
        both, first, second = self.scenes
        lines.append(f"scenes: {both} in both, {first} in A only, {second} in B only")
        lines.append(f"rows in scenes of one side: {self.elsewhere[0]} in A, {self.elsewhere[1]} in B")
        for kind, found in self.examples.items():
            lines.append(f"{kind}, differing:")
            lines += [f"  {item.scene}: {' '.join(item.question.split())}: A {item.a}, B {item.b}" for item in found]
        for kind, questions in self.lone.items():
            lines += [f"{kind}, of one side: {text}" for text in questions]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def diff_data(first: Path, second: Path) -> DiffReport:
    """Compare two datasets.

    Raises:
        DataError: one cannot be read, or they have no scene in common.
    """
    a, b = read_answers(first), read_answers(second)
    scenes = a.scenes & b.scenes
    if not scenes:
        named = f"A asks about {name_some(sorted(a.scenes))}; B about {name_some(sorted(b.scenes))}"
        raise DataError(f"{first} and {second}: no scene in common", f"{named}: is one of them the other split?")
    kinds = sorted({key[1] for side in (a, b) for key in side.said if key[0] in scenes})
    found = [_compare(kind, a, b, scenes) for kind in kinds]
    return DiffReport(
        str(first),
        str(second),
        (len(scenes), len(a.scenes - scenes), len(b.scenes - scenes)),
        (_elsewhere(a, scenes), _elsewhere(b, scenes)),
        [line for line, _ in found],
        {line.question_type: examples for line, examples in found if examples},
        {kind: questions for kind in kinds if (questions := _lone(kind, a, b, scenes))},
        [*a.notes(), *b.notes(), *_remarks(a, b, scenes)],
    )


def _compare(kind: str, a: Answers, b: Answers, scenes: set[str]) -> tuple[TypeLine, list[Difference]]:
    """Return the line of a type, and its first differing answers."""
    own, other = ({k: s for k, s in side.said.items() if k[1] == kind and k[0] in scenes} for side in (a, b))
    pairs = [(own[key], other[key]) for key in own if key in other and own[key].unit == other[key].unit]
    decimals = min(decimals_of(pair[0] for pair in pairs), decimals_of(pair[1] for pair in pairs))
    differing = [pair for pair in pairs if not is_equal(*pair, decimals)]
    sizes = [
        relative_difference(one.number, two.number)
        for one, two in differing
        if one.number is not None and two.number is not None
    ]
    median, p90 = (float(value) for value in np.quantile(sizes, [0.5, 0.9])) if sizes else (None, None)
    only = len(own.keys() - other.keys()), len(other.keys() - own.keys())
    line = TypeLine(kind, len(pairs), len(pairs) - len(differing), median, p90, *only)
    return line, [_difference(*pair) for pair in differing[:_EXAMPLES]]


def _lone(kind: str, a: Answers, b: Answers, scenes: set[str]) -> list[str]:
    """Return the first question of a type that A alone asks, and that of B."""
    found = []
    for name, own, other in (("A", a, b), ("B", b, a)):
        keys = (key for key in own.said if key[1] == kind and key[0] in scenes and key not in other.said)
        if (key := next(keys, None)) is not None:
            found.append(f"{name} {key[0]}: {' '.join(own.said[key].question.split())}")
    return found


def _difference(one: Said, two: Said) -> Difference:
    return Difference(one.scene, one.question, one.answer, two.answer, one.where, two.where)


def _elsewhere(side: Answers, scenes: set[str]) -> int:
    return sum(key[0] not in scenes for key in side.said)


def _remarks(a: Answers, b: Answers, scenes: set[str]) -> list[str]:
    """Return what a reader should know of the questions that both ask, or do not."""
    notes = []
    types = [Counter(key[1] for key in side.said) for side in (a, b)]
    for name, own, other in (("A", *types), ("B", *reversed(types))):
        if lone := {kind: number for kind, number in own.items() if kind not in other}:
            listed = ", ".join(f"{kind} ({counted(number, 'row')})" for kind, number in sorted(lone.items()))
            notes.append(f"question types of {name} only: {listed}")
    both = [(a.said[key], b.said[key]) for key in a.said if key in b.said]
    if units := sum(one.unit != two.unit for one, two in both):
        notes.append(
            f"{counted(units, 'question of both has answers', 'questions of both have answers')} in two "
            "units: not compared"
        )
    if measures := Counter((one.measure, two.measure) for one, two in both if one.measure != two.measure):
        (one, two), number = measures.most_common(1)[0]
        said = f"A {one or 'does not say how'}, B {two or 'does not say how'}"
        notes.append(
            f"{counted(number, 'question of both says', 'questions of both say')} in two ways how to measure: {said}"
        )
    if not both:
        shown = [min((s for k, s in side.said.items() if k[0] in scenes), key=lambda s: s.key) for side in (a, b)]
        notes.append(f"no question in common: A asks {shown[0].question!r}, B {shown[1].question!r}")
    return notes


def _total(lines: Sequence[TypeLine]) -> TypeLine:
    sums = [sum(getattr(line, name) for line in lines) for name in ("both", "equal", "only_a", "only_b")]
    return TypeLine("all", sums[0], sums[1], None, None, *sums[2:])


def _text(line: TypeLine, width: int) -> str:
    share = f"{100 * line.equal / line.both:6.1f}" if line.both else f"{'-':>6}"
    sizes = "".join("  " + ("-" if v is None else f"{100 * v:.1f} %").rjust(7) for v in (line.median, line.p90))
    counts = f"{line.both:>7}  {line.equal:>7}  {share}{sizes}  {line.only_a:>7}  {line.only_b:>7}"
    return f"{line.question_type:<{width}}  {counts}"
