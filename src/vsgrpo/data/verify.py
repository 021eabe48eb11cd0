"""verify-geometry: our formulas on the benchmark's own boxes against the benchmark's own answers, type by type.

For evaluation only: rows and meta info of VSI-Bench are never training data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vsgrpo.data.prompts import option_lines
from vsgrpo.data.row import LETTERS
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.records import read_jsonl
from vsgrpo.scans.meta_info import read_meta_info
from vsgrpo.spatial.question_types import QUESTION_TYPES, answer_from_boxes, type_names
from vsgrpo.terminal import counted

_HINT = "questions= takes VSI-Bench's test.jsonl: scene_name, question_type, question, ground_truth, options"
_METRES = 0.1 + 1e-9  # both answers have one decimal: 0.1 apart is within


@dataclass
class Agreement:
    """Agreement of the rows of one question type.

    Attributes:
        n: rows compared: scene there, objects there and named by a unique category.
        agree: of these, rows whose answer is the same text.
        within_0_1m: of these, rows at most 0.1 m apart; None for types that do not ask for metres.
        unresolvable: rows whose scene is there but whose answer does not follow from its boxes.
        skipped: rows whose scene is in no meta file, and all rows of types that boxes do not answer.
    """

    n: int = 0
    agree: int = 0
    within_0_1m: int | None = None
    unresolvable: int = 0
    skipped: int = 0


@dataclass
class Verification:
    """Agreement by question type, and sentences on what was left out."""

    types: dict[str, Agreement]
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, dict[str, int | None]]:
        """Return `{type: {n, agree, within_0_1m, unresolvable, skipped}}`."""
        return {name: asdict(agreement) for name, agreement in self.types.items()}

    def table(self) -> str:
        """Return the table for people, notes below it."""
        head = f"{'question type':<29}{'compared':>9}{'agree':>15}{'within 0.1 m':>22}{'no answer':>11}{'skipped':>9}"
        lines = [head]
        for name, a in self.types.items():
            near = "" if a.within_0_1m is None else f"{a.within_0_1m} {_percent(a.within_0_1m, a.n)}"
            lines.append(
                f"{name:<29}{a.n:>9}{a.agree:>7}{_percent(a.agree, a.n):>8}{near:>22}{a.unresolvable:>11}{a.skipped:>9}"
            )
        return "\n".join([*lines, *self.notes])


def verify_geometry(meta: Sequence[Path], questions: Path) -> Verification:
    """Answer benchmark rows from the boxes of the official meta info and compare with their ground truth.

    Raises:
        DataError: a file is missing or broken; names file and line.
    """
    scenes = {s.scene_name: s for path in meta for s in read_meta_info(path)}
    found: dict[str, Agreement] = {}
    num_other_words = 0
    for number, data in read_jsonl(questions):
        where = f"{questions}:{number}"
        row = _checked(data, where)
        kind = QUESTION_TYPES[row["question_type"]]
        agreement = found.setdefault(kind.name, Agreement(within_0_1m=0 if kind.unit == "m" else None))
        scene = scenes.get(row["scene_name"])
        if kind.resolve is None or scene is None:
            agreement.skipped += 1
            continue
        try:
            answer = answer_from_boxes(scene, kind.name, row["question"], row["options"])
        except ValueError:
            num_other_words += 1
            answer = None
        _count(agreement, answer, row["ground_truth"], where)
    if not found:
        raise DataError(f"{questions}: holds no rows", hint=_HINT)
    notes = []
    if num_other_words:
        notes.append(
            f"{counted(num_other_words, 'question is', 'questions are')} in other words than VSI-Bench's: "
            "counted as no answer"
        )
    if far := sum(a.n - a.within_0_1m for a in found.values() if a.within_0_1m is not None):
        notes.append(
            f"{counted(far, 'distance beyond', 'distances beyond')} 0.1 m: the benchmark measures between "
            "points of a 5 cm grid in the outer shell of "
            "each box, so its distances are longer than the exact ones"
        )
    if not any(a.n for a in found.values()):
        notes.append("nothing was compared: do meta= and questions= speak of the same scenes?")
    order = (*type_names("number"), *type_names("choice"))
    return Verification({name: found[name] for name in order if name in found}, notes)


def parse_arguments(given: Sequence[str]) -> tuple[list[Path], Path]:
    """Return the files of `meta=FILE` or `meta=[A,B,C]` and `questions=FILE`.

    Raises:
        ConfigError: one of the two is missing, given twice or empty, or something else is given.
    """
    example = "vsgrpo verify-geometry meta=[a_meta_info.json,b_meta_info.json] questions=test.jsonl"
    values: dict[str, str] = {}
    for item in given:
        key, _, value = item.partition("=")
        if key not in ("meta", "questions") or key in values or not value.strip():
            raise ConfigError(f"{item}: verify-geometry takes meta= and questions=, each once", hint=example)
        values[key] = value.strip()
    for key in ("meta", "questions"):
        if key not in values:
            raise ConfigError(f"{key}: no value given", hint=example)
    parts = [text := values["meta"]]
    if text.startswith("[") and text.endswith("]") and not Path(text).exists():
        parts = [part.strip().strip("'\"") for part in text[1:-1].split(",") if part.strip()]
    if not parts:
        raise ConfigError("meta=[]: no file given", hint=example)
    return [Path(part) for part in parts], Path(values["questions"])


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""


def _checked(data: Any, where: str) -> dict[str, Any]:
    """Return the fields of a benchmark row, options with their letters."""
    if not isinstance(data, Mapping):
        raise DataError(f"{where}: a row is a JSON object", hint=_HINT)
    row: dict[str, Any] = {}
    for name in ("scene_name", "question_type", "question", "ground_truth"):
        row[name] = data.get(name)
        if not isinstance(row[name], str) or not row[name]:
            raise DataError(f"{where}: {name}={row[name]!r}: a text is needed", hint=_HINT)
    if row["question_type"] not in QUESTION_TYPES:
        raise DataError(f"{where}: question_type={row['question_type']!r}: no type of VSI-Bench", hint=_HINT)
    options = data.get("options")
    if options is not None and not (isinstance(options, list) and all(isinstance(o, str) and o for o in options)):
        raise DataError(f"{where}: options={options!r}: null or a list of texts is needed", hint=_HINT)
    if options and not all(o.startswith(f"{letter}. ") for letter, o in zip(LETTERS, options, strict=False)):
        options = option_lines(options)  # rows of ours have no letters
    return {**row, "options": options}


def _count(agreement: Agreement, answer: str | None, truth: str, where: str) -> None:
    if answer is None:
        agreement.unresolvable += 1
        return
    agreement.n += 1
    try:
        apart = abs(float(answer) - float(truth))
    except ValueError:
        if agreement.within_0_1m is not None:
            raise DataError(f"{where}: ground_truth={truth!r}: a number is needed", hint=_HINT) from None
        agreement.agree += answer == truth
        return
    agreement.agree += apart == 0  # numbers by value: "12" and "12.0" are the same answer
    if agreement.within_0_1m is not None:
        agreement.within_0_1m += apart <= _METRES
