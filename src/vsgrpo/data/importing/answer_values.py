"""Read the answer of another project's record by value: numbers with their units, options with their letters.

A value that can be read in two ways is refused, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import takewhile
from string import ascii_uppercase
from typing import Any

from vsgrpo.data.importing.type_names import unit_of
from vsgrpo.data.row import LETTERS, NUMBER, number_of
from vsgrpo.spatial.answers import normalize_word
from vsgrpo.spatial.question import UNITS
from vsgrpo.spatial.question_types import counts_things


class Refused(Exception):
    """A row that cannot be taken: the class of fault (counted), this one, and the benchmark rooms that it shows."""

    def __init__(self, reason: str, detail: str = "", rooms: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.reason, self.detail, self.rooms = reason, detail, rooms


NO_NUMBER = "an answer of 0, negative or not a number"
BAD_OPTIONS = f"options that are not 2 to {len(LETTERS)} different ones"
_TWO_WAYS = "a number that can be read in two ways"
_GROUPED = (
    re.compile(r"\d{1,3}(?:,\d{3}){2,}(?:\.\d+)?|\d{1,3},\d{3}\.\d+", re.ASCII),  # 1,047.5 and 1,234,567
    re.compile(r"\d{1,3}(?:\.\d{3}){2,}(?:,\d+)?|\d{1,3}\.\d{3},\d+", re.ASCII),  # 1.047,5 and 1.234.567
)
_DECIMAL_COMMA = re.compile(r"\d+,\d+", re.ASCII)
_WITH_UNIT = re.compile(r"([-+]?[\d.,]*\d[.,]?(?:[eE][-+]?\d+)?)\s*([^\d\s].*)?", re.ASCII | re.DOTALL)

_METRES, _FEET = "met(?:er|re)s?", "(?:ft|feet|foot)"
# Unit -> (dimension, size in metres, square metres, cubic metres, degrees or seconds, as people write it).
_UNITS: dict[str, tuple[str, Decimal, str]] = {
    "m2": ("area", Decimal(1), rf"m(?:2|\^2|\*\*2|\u00b2)|\u33a1|sqm|(?:sq\.? ?|square[ -]?)(?:m|{_METRES})"),
    "cm2": ("area", Decimal("0.0001"), rf"cm2|cm\^2|cm\u00b2|square[ -]?(?:cm|centi{_METRES})"),
    "ft2": ("area", Decimal("0.09290304"), rf"ft2|ft\^2|ft\u00b2|sq\.? ?{_FEET}|square[ -]?{_FEET}"),
    "m3": ("volume", Decimal(1), rf"m(?:3|\^3|\*\*3|\u00b3)|\u33a5|(?:cu\.? ?|cubic[ -]?)(?:m|{_METRES})"),
    "cm3": ("volume", Decimal("0.000001"), rf"cm3|cm\^3|cm\u00b3|cc|cubic[ -]?(?:cm|centi{_METRES})"),
    "ft3": ("volume", Decimal("0.028316846592"), rf"ft3|ft\^3|ft\u00b3|cu\.? ?{_FEET}|cubic[ -]?{_FEET}"),
    "l": ("volume", Decimal("0.001"), "lit(?:er|re)s?|l"),
    "degrees": ("angle", Decimal(1), "degrees?|deg|\u00b0"),
    "s": ("time", Decimal(1), "s|secs?|seconds?"),
    "min": ("time", Decimal(60), "min|minutes?"),
    "rad": ("angle", Decimal("57.29577951308232"), "radians?|rad"),
    "mm": ("length", Decimal("0.001"), f"mm|milli{_METRES}"),
    "cm": ("length", Decimal("0.01"), f"cms?|centi{_METRES}"),
    "km": ("length", Decimal(1000), f"km|kilo{_METRES}"),
    "m": ("length", Decimal(1), f"m|mtrs?|{_METRES}"),
    "in": ("length", Decimal("0.0254"), r"inch(?:es)?|in|\u2033|\""),
    "ft": ("length", Decimal("0.3048"), r"feet|foot|ft|\u2032|'"),
    "yd": ("length", Decimal("0.9144"), r"yards?|yds?"),
}
_SHORT = ("in", "ft", "yd", "l", "s", "min")
"""Units that are words or endings in a question: "in the room", "chair(s)"."""
_UNIT_TEXTS = tuple((unit, re.compile(rf"(?:{text})\.?", re.IGNORECASE)) for unit, (_, _, text) in _UNITS.items())
_ANY_UNIT = "|".join(text for unit, (_, _, text) in _UNITS.items() if unit not in _SHORT)
# Units as a question asks for them: "in feet", "(m)"; a bare "in", "foot" or "yard" is no unit there.
_ASKED = re.compile(
    rf"(?:\b(?:in|using|units?(?: is| are|:)?|how many)\s+(?:the unit of |units of )?|\()\s*"
    rf"({_ANY_UNIT}|inches|feet|yards|ft|seconds|minutes)(?![\w^\u00b2\u00b3])",
    re.IGNORECASE,
)
_NO_UNIT = ("", "none", "null", "nan", "na", "n/a", "-")


def asked_unit(question: str, question_type: str) -> str | None:
    """Return the unit a question asks for: by its sentence, else by its type; None where neither says.

    Raises:
        Refused: a sentence that names two units.
    """
    named = {_unit(match[1]) for match in _ASKED.finditer(question)}
    if len(named) > 1:
        raise Refused("a question that names two units", question[:120])
    return next(iter(named), unit_of(question_type))


def said_unit(answer: Any) -> str | None:
    """Return the unit behind the number of an answer ("2.4 m", "73 degrees"), None where it is no such text."""
    match = _WITH_UNIT.fullmatch(answer.strip().removesuffix(".")) if isinstance(answer, str) else None
    return None if match is None or not match[2] else _unit(match[2].strip())


def unit_of_rows(unit: str) -> str:
    """Return the unit that rows have for what a unit measures: itself where they have it, "m" for feet."""
    same = (other for other in UNITS if _UNITS[other][:2] == (_UNITS[unit][0], Decimal(1)))
    return unit if unit in UNITS else next(same)


def column_unit(values: Sequence[Any]) -> str | None:
    """Return the unit that columns of a row name, None where they say that there is none ("", "n/a").

    Raises:
        Refused: something else than a unit, or two units.
    """
    texts = [text for value in values if (text := str(value).strip()).lower() not in _NO_UNIT]
    units = {_unit(text) for text in texts}
    if None in units:
        raise Refused("a unit that is not known", f"column of the unit: {texts[0][:60]}")
    if len(units) > 1:
        raise Refused("columns that name two units", " and ".join(texts)[:80])
    return next(iter(units), None)


def read_number(answer: Any, unit: str | None, column: str | None = None, question_type: str = "") -> str:
    """Return the number of an answer as plain digits, converted to `unit` where it is in another.

    "1,5" -> 1.5, "1,047.5" -> 1047.5; "1,047" may be either and is refused. "1.2 m" asked in cm -> 120.

    Args:
        unit: what is asked for.
        column: the unit of an answer that names none itself, as a column of the row says.
        question_type: of types that count things 0 is an answer.

    Raises:
        Refused: no number, 0 or negative, readable in two ways, a unit that cannot be converted, or two units.
    """
    if isinstance(answer, bool) or not isinstance(answer, int | float | str):
        raise Refused(NO_NUMBER, str(answer)[:80])
    text = str(answer).strip()
    match = _WITH_UNIT.fullmatch(text.removesuffix("."))
    if match is None:
        raise Refused(NO_NUMBER, text[:80])
    written, named = _plain(match[1], text), (match[2] or "").strip()
    said = _unit(named) if named else column
    if named and said is None:
        raise Refused("a unit that is not known", text[:80])
    if column is not None and said != column:
        raise Refused("an answer whose unit differs from its column", f"{text[:60]!r} and {column}")
    if said is not None and said != unit:
        if unit is None or _UNITS[said][0] != _UNITS[unit][0]:
            raise Refused("a unit that the question does not ask for", text[:80])
        written = _digits(Decimal(written) * _UNITS[said][1] / _UNITS[unit][1])
    elif "e" in written.lower():
        written = _digits(Decimal(written))
    if counts_things(question_type) and not Decimal(written):
        return "0"
    if number_of(written) is None:
        raise Refused(NO_NUMBER, text[:80])
    return written


def read_count(answer: Any, question_type: str) -> str:
    """Return the number of an answer that counts things; it may be 0.

    Raises:
        Refused: as `read_number`; a number that is not whole.
    """
    text = read_number(answer, None, question_type=question_type)
    if Decimal(text) % 1:
        raise Refused("a count that is no whole number", str(answer)[:80])
    return text


def _plain(text: str, whole: str) -> str:
    """Return a number with a decimal point and no grouping."""
    if NUMBER.fullmatch(text):
        return text.lstrip("+").removesuffix(".")
    if _GROUPED[0].fullmatch(text):
        return text.replace(",", "")
    if _GROUPED[1].fullmatch(text):
        return text.replace(".", "").replace(",", ".")
    if _DECIMAL_COMMA.fullmatch(text):
        before, _, after = text.partition(",")
        if len(after) != 3 or before.startswith("0") or len(before) > 3:
            return f"{before}.{after}"
        raise Refused(_TWO_WAYS, whole[:80])
    raise Refused(NO_NUMBER, whole[:80])


def _digits(value: Decimal) -> str:
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _unit(text: str) -> str | None:
    text = " ".join(text.split())
    return next((unit for unit, pattern in _UNIT_TEXTS if pattern.fullmatch(text)), None)


_LABELLED = re.compile(r"\(?([A-Za-z])[.):\uff1a\uff0e\u3001]\s*(\S.*)", re.DOTALL)
_LETTER = re.compile(r"\(?\s*([A-Za-z])\s*[.):]?")


@dataclass(frozen=True)
class Options:
    """The candidates of a choice, in the order of their letters.

    Attributes:
        words: without letters.
        has_letters: whether the file itself gives them letters; otherwise they are by position.
    """

    words: tuple[str, ...]
    has_letters: bool


def read_options(given: Any) -> Options | None:
    """Return the options of a list ("A. bed", in any order of letters), an object {A: bed}, or text; None for none.

    Raises:
        Refused: no list of words, letters that occur twice or with gaps, or words that are the same.
    """
    if given is None or (isinstance(given, list | tuple | str | Mapping) and not given):
        return None
    if isinstance(given, str):
        found = options_in_text(given)
        if found is None or found[0].strip():
            raise Refused(BAD_OPTIONS, given[:80])
        return found[1]
    if isinstance(given, Mapping):
        given = [f"{key}. {value}" for key, value in given.items() if value is not None]
    if not isinstance(given, list | tuple) or any(
        isinstance(o, bool) or not isinstance(o, str | int | float) for o in given
    ):
        raise Refused(BAD_OPTIONS, str(given)[:80])
    return _ordered([" ".join(str(option).split()) for option in given])


def _label(text: str) -> tuple[str, str] | None:
    """Return (letter, word) of an option such as "A. bed", None where it has no letter."""
    match = _LABELLED.fullmatch(text)
    return None if match is None else (match[1].upper(), match[2].strip())


def _ordered(texts: Sequence[str]) -> Options:
    letters = ascii_uppercase[: len(texts)]
    labels = [_label(text) for text in texts]
    found = sorted(label for label in labels if label is not None)
    has_letters = any(letter in letters for letter, _ in found)
    if "".join(letter for letter, _ in found) == letters:
        words = tuple(word for _, word in found)
    elif has_letters:
        if any(label is not None and label[0] != letter for label, letter in zip(labels, letters, strict=False)):
            raise Refused("options whose letters have gaps or occur twice", str(list(texts))[:120])
        words = tuple(text if label is None else label[1] for text, label in zip(texts, labels, strict=True))
    else:
        words = tuple(texts)
    same = len({normalize_word(word) for word in words}) != len(words)
    if not 2 <= len(words) <= len(LETTERS) or same or not all(words):
        raise Refused(BAD_OPTIONS, str(list(texts))[:120])
    return Options(words, has_letters)


def options_in_text(text: str) -> tuple[str, Options] | None:
    """Return (text before, options) where a text ends in options with letters: one a line, or "(A) x (B) y"."""
    lines = text.rstrip().split("\n")
    labels = list(takewhile(lambda label: label is not None, (_label(line.strip()) for line in reversed(lines))))
    for size in range(min(len(labels), 26), 1, -1):
        if sorted(label[0] for label in labels[:size] if label) == list(ascii_uppercase[:size]):
            return "\n".join(lines[:-size]), _ordered([line.strip() for line in lines[-size:]])
    starts = list(re.finditer(r"(?:(?<=\s)|^)\(?([A-Z])[.):]\s*(?=\S)", lines[-1]))
    if len(starts) < 2 or "".join(match[1] for match in starts) != ascii_uppercase[: len(starts)]:
        return None
    ends = [match.start() for match in starts[1:]] + [len(lines[-1])]
    texts = [lines[-1][a.start() : end].strip().rstrip(",;") for a, end in zip(starts, ends, strict=True)]
    if not all(map(_label, texts)):
        return None
    before = "\n".join([*lines[:-1], lines[-1][: starts[0].start()]])
    return (before, _ordered(texts)) if before.strip()[-1:] in ("", "?", ".", ":") else None


def right_option(answer: Any, options: Options, letter: Any = None) -> int:
    """Return which option an answer means: its word, its letter, or both, which must agree.

    Args:
        letter: what a column of letters says besides; it must agree too, and is the answer where `answer` is None.

    Raises:
        Refused: none of the options, or two different ones.
    """
    said = letter if answer is None else answer
    if isinstance(said, bool) or not isinstance(said, str | int | float):
        raise Refused("no answer")
    text = " ".join(str(said).split())
    words = [normalize_word(word) for word in options.words]
    found = {place for place, word in enumerate(words) if word == normalize_word(text)}
    if (match := _LETTER.fullmatch(text)) and isinstance(said, str):
        found |= {ascii_uppercase.index(match[1].upper())} & set(range(len(words)))
    elif (label := _label(text)) and (word := normalize_word(label[1])) in words:
        if ascii_uppercase.index(label[0]) != words.index(word):
            raise Refused("an answer whose letter and word disagree", f"{text[:60]!r} of {list(options.words)}")
        found.add(words.index(word))
    if len(found) > 1:
        raise Refused("an answer that is one option by its word and another by its letter", repr(text[:60]))
    if not found:
        raise Refused("an answer that is none of its options", f"{text[:60]!r} of {list(options.words)}"[:160])
    (place,) = found
    if answer is not None and isinstance(letter, str) and letter.strip() and right_option(letter, options) != place:
        raise Refused("an answer whose letter and word disagree", f"{text[:60]!r} and {letter[:20]!r}")
    return place
