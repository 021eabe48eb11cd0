"""Read a model's text: tags, number, unit, option letter, word, as each scorer of VSI-Bench does.

Four ways to read an answer are in use:

| scorer | letter of a choice question | number |
|---|---|---|
| official | text up to the first space, without final periods | that token as a float |
| lmms | as official | the first digits or English number words anywhere in the text |
| lenient | a marked letter anywhere, or the words of one option | the first number, its unit converted |
| easi | in tags, or at the end (`vlmevalkit_answers`) | in tags, or the last one |

`official` is thinking-in-space commit 51e089c, `lmms` lmms-eval commit 75571cf, `easi` VLMEvalKit commit e8e78f05, all
bit for bit; `easi` is for questions that are asked as VLMEvalKit asks, the others score every evaluation. `lenient` is
ours: it answers "would a person have accepted this?", and tells how much of a low official score is form. It reads
inside `<answer>` tags and after "answer:" or "the answer is", drops Markdown, and converts a unit that differs from the
one asked for (350 cm where metres are asked: 3.5). Nothing here ever raises on model text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import dropwhile, takewhile

from vsgrpo.spatial.question import LETTERS, read_letters
from vsgrpo.spatial.question_types import QUESTION_TYPES
from vsgrpo.spatial.vlmevalkit_answers import easi_letter, easi_number

PROMPT_MODES = ("vanilla", "think", "observe")

_ANSWER_TAG = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)
_UNIT_AFTER_NUMBER = re.compile(r"[-+]?[\d.,]+(?:[eE][-+]?\d+)?\s*([^\d\s].*)?", re.DOTALL)
_UNITS = (
    ("m3", re.compile(r"(m3|m\^3|m\u00b3|cu\.? ?m\w*|cubic[ -]?met\w*)", re.IGNORECASE)),
    ("degrees", re.compile(r"(degrees?\b|deg\b|\u00b0)", re.IGNORECASE)),
    ("m2", re.compile(r"(m2|m\^2|m²|sqm|sq\.? ?m\w*|square[ -]?met\w*)\b", re.IGNORECASE)),
    ("cm", re.compile(r"(cm|centimet\w*)\b", re.IGNORECASE)),
    ("m", re.compile(r"(m|met(er|re)s?)\b", re.IGNORECASE)),
    ("s", re.compile(r"(s|secs?|seconds?)\b", re.IGNORECASE)),
)

SCORERS = ("official", "lmms", "lenient")
"""Those that score every evaluation."""
EASI = "easi"
"""VLMEvalKit's reader, beside `SCORERS` where questions are asked as it asks them."""

_CARDINALS = (
    ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    ("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
NUMBER_WORDS = {
    **{word: value for value, word in enumerate((*_CARDINALS[0], *_CARDINALS[1]))},
    **{word: 20 + 10 * index for index, word in enumerate(_TENS)},
    "hundred": 100,
    "thousand": 1000,
}
_LATIN_WORD = re.compile(r"[a-z]+")
_LMMS_DIGITS = re.compile(r"-?\d+(?:\.\d+)?")

_TAG = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.DOTALL | re.IGNORECASE)
_THOUGHT = re.compile(r"^.*</(?:think|observe)>", re.DOTALL | re.IGNORECASE)
_MARKER = re.compile(r"\banswer\b\s*(?:is|:|=)\s*:?", re.IGNORECASE)
_MARKDOWN = re.compile(r"[*_`$#]+|\\boxed|\\text|[{}]")
_DIGITS = re.compile(
    r"(?<![\w.])[-+]?(?:(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+,\d{1,2}(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
)
_START_LETTER = re.compile(r"^[\s(\[\"']*([A-Fa-f])\s*(?:$|[).:,;\]\"'\n])")
_MARKED_LETTER = re.compile(r"\(([A-F])\)|\b(?i:option|choice|answer)\s+\(?([A-F])\b")
_NOT_WORD = re.compile(r"[^\w]+")

# Metres, square metres, cubic metres, degrees or seconds per unit.
_LENGTHS = (
    (re.compile(r"(?:cm|centimet(?:er|re)s?)\b", re.IGNORECASE), 0.01),
    (re.compile(r"(?:mm|millimet(?:er|re)s?)\b", re.IGNORECASE), 0.001),
    (re.compile(r"(?:m|met(?:er|re)s?)\b(?!\s*(?:\^|[²³23]))", re.IGNORECASE), 1.0),
    (re.compile(r"(?:ft|feet|foot)\b", re.IGNORECASE), 0.3048),
    (re.compile(r"(?:in|inch|inches)\b", re.IGNORECASE), 0.0254),
)
_AREAS = (
    (re.compile(r"(?:sq\.?\s*ft|sq\.?\s*feet|square\s+feet|square\s+foot|ft\^?2|ft²)", re.IGNORECASE), 0.09290304),
    (re.compile(r"(?:cm\^?2|cm²|square\s+centimet)", re.IGNORECASE), 0.0001),
)
_VOLUMES = (
    (re.compile(r"(?:cu\.?\s*(?:ft|feet)|cubic\s+(?:feet|foot)|ft\^?3|ft³)", re.IGNORECASE), 0.028316846592),
    (re.compile(r"(?:cm\^?3|cm³|cc\b|cubic\s+centimet)", re.IGNORECASE), 1e-6),
    (re.compile(r"(?:l|lit(?:er|re)s?)\b", re.IGNORECASE), 0.001),
)
_ANGLES = ((re.compile(r"rad(?:ian)?s?\b", re.IGNORECASE), math.degrees(1.0)),)
_TIMES = (
    (re.compile(r"(?:min|minutes?)\b", re.IGNORECASE), 60.0),
    (re.compile(r"(?:ms|milliseconds?)\b", re.IGNORECASE), 0.001),
)
_ASKED: dict[str | None, tuple[tuple[tuple[re.Pattern[str], float], ...], float]] = {
    "m": (_LENGTHS, 1.0),
    "cm": (_LENGTHS, 0.01),
    "m2": (_AREAS, 1.0),
    "m3": (_VOLUMES, 1.0),
    "degrees": (_ANGLES, 1.0),
    "s": (_TIMES, 1.0),
}
"""Unit that a type asks for -> the units that are converted to it, and its own size."""


@dataclass(frozen=True)
class Answer:
    """What a completion says.

    Attributes:
        text: the answer's own text: the whole completion in vanilla mode, else what the last closed
            `<answer>..</answer>` holds, without outer space; "" where there is none.
        number: a finite number as the official scorer reads it from `text`, else None.
        unit: a key of `question.UNITS` if a unit follows the number, else None.
        letter: "A".."Z" if the official scorer would read one letter, else None.
        word: `normalize_word(text)`.
        is_tagged: whether the mode's answer tags were found; True in vanilla mode, which has none.
    """

    text: str
    number: float | None
    unit: str | None
    letter: str | None
    word: str
    is_tagged: bool


def parse_answer(text: str, mode: str = "vanilla") -> Answer:
    """Read a completion written under prompt mode `mode` (vanilla, think or observe).

    Raises:
        ValueError: unknown `mode` (the caller's mistake, never the model's).
    """
    if mode not in PROMPT_MODES:
        raise ValueError(f"mode={mode!r}: one of {PROMPT_MODES}")
    is_tagged = True
    if mode != "vanilla":
        found = _ANSWER_TAG.findall(text)
        is_tagged = bool(found)
        text = found[-1].strip() if found else ""
    number = official_number(text)
    if number is not None and not math.isfinite(number):
        number = None
    token = official_fuzzy(text)
    letter = token.upper() if len(token) == 1 and token.isascii() and token.isalpha() else None
    return Answer(text, number, _unit(text) if number is not None else None, letter, normalize_word(text), is_tagged)


def normalize_word(text: str) -> str:
    """Return `text` as words are compared: outer space and one final period removed, case folded."""
    return text.strip().removesuffix(".").rstrip().casefold()


def official_fuzzy(text: str) -> str:
    """Return what the official scorer compares: the text up to the first SPACE, without final periods.

    "A. chair" -> "A", "\\nA" -> "A"; "  A" -> "", "(A)", "A\\nB" and "Answer: A" stay wrong.
    Source: thinking-in-space commit 51e089c, fuzzy_matching.
    """
    return text.split(" ")[0].rstrip(".").strip()


def official_number(text: str) -> float | None:
    """Return the number the official scorer reads: "3 meters" -> 3.0, "1e2" -> 100.0, "3m" -> None; nan and inf pass.

    Source: thinking-in-space commit 51e089c, to_float(fuzzy_matching(text)).
    """
    try:
        return float(official_fuzzy(text))
    except ValueError:
        return None


def _unit(text: str) -> str | None:
    rest = _UNIT_AFTER_NUMBER.match(text.strip())
    if rest is None or not rest[1]:
        return None
    return next((unit for unit, name in _UNITS if name.match(rest[1])), None)


# --- as the scorers of VSI-Bench read ---


def read_letter(scorer: str, text: str, options: Sequence[str] | None = None, shown: bool = True) -> str:
    """Return what a scorer compares with the letter of the right option; "" where it finds nothing to compare.

    Where options were not `shown`, the model never saw letters: `lenient` then reads words alone.

    Raises:
        ValueError: unknown scorer.
    """
    if scorer in ("official", "lmms"):
        return official_fuzzy(text)
    if scorer == EASI:
        return easi_letter(text)
    _check_scorer(scorer)
    return lenient_letter(text, options) if shown else word_letter(_answer_part(text), options or ())


def read_number(scorer: str, question_type: str, text: str) -> float | None:
    """Return the number that a scorer reads in an answer to a question of this type, None for none.

    Raises:
        ValueError: unknown scorer.
    """
    if scorer == "official":
        return official_number(text)
    if scorer == "lmms":
        return lmms_number(text)
    if scorer == EASI:
        return easi_number(text)
    _check_scorer(scorer)
    return lenient_number(text, question_type)


def lmms_number(text: str) -> float | None:
    """Return the first number of a text in digits or English words, whichever begins first, as lmms-eval does.

    "about 3" -> 3, "3,000" -> 3, "1e2" -> 1, ".5" -> 5, "2-3" -> 2, "a hundred and five" -> 105, "two or 3" -> 2.
    Digits inside a run of number words are passed over.
    Source: lmms-eval commit 75571cf, lmms_eval/tasks/vsibench/utils.py (behaviour; the spec's table is the test).
    """
    text = text.strip().lower()
    digits = _LMMS_DIGITS.search(text)
    start, value = _number_in_words(text)
    if digits is not None and (value is None or digits.start() < start):
        return float(digits[0])
    return value


def _number_in_words(text: str) -> tuple[int, float | None]:
    """Return where the first run of number words ("and" may stand in it) begins in a lower-case text, and its value."""
    tokens = dropwhile(lambda token: token[0] not in NUMBER_WORDS, _LATIN_WORD.finditer(text))
    run = list(takewhile(lambda token: token[0] in NUMBER_WORDS or token[0] == "and", tokens))
    if not run:
        return len(text), None
    thousands, rest = 0, 0
    for value in (NUMBER_WORDS[token[0]] for token in run if token[0] != "and"):
        if value == 1000:
            thousands, rest = thousands + 1000 * max(rest, 1), 0
        elif value == 100:
            rest = 100 * max(rest, 1)
        else:
            rest += value
    try:
        return run[0].start(), float(thousands + rest)
    except OverflowError:  # "hundred hundred ...", where a model repeats itself: as digits of this length
        return run[0].start(), math.inf


def lenient_number(text: str, question_type: str = "") -> float | None:
    """Return the first number a person would read, in the unit that questions of this type ask for; never nan or inf.

    "3m" -> 3, "3,000" -> 3000, "2,5" -> 2.5, "1e2" -> 100, "three chairs" -> 3, "350 cm" of a distance -> 3.5.
    """
    text = _answer_part(text)
    digits = _DIGITS.search(text)
    start, value = _number_in_words(text.lower())
    if digits is None or start < digits.start():
        if value is None:
            return None
        number = value * _unit_factor(text[start:].split(" ", 1)[-1], question_type)
        return number if math.isfinite(number) else None
    written = digits[0]
    comma = written.partition(",")[2]
    is_decimal = bool(comma) and "." not in written and len(re.split(r"[eE]", comma)[0]) < 3
    number = float(written.replace(",", "." if is_decimal else ""))
    number *= _unit_factor(text[digits.end() :].lstrip(" -"), question_type)
    return number if math.isfinite(number) else None


def _unit_factor(rest: str, question_type: str) -> float:
    """Return what a number is to be multiplied by, from the unit that `rest` begins with; 1 where it has none."""
    kind = QUESTION_TYPES.get(question_type)
    units, asked = _ASKED.get(kind and kind.unit, ((), 1.0))
    return next((size / asked for unit, size in units if unit.match(rest)), 1.0)


def lenient_letter(text: str, options: Sequence[str] | None = None) -> str:
    """Return the letter a person would read, "" for none.

    In this order: a letter at the start that punctuation or the end follows ("(A)", "B:", "**A**"); the words of
    exactly one option as the whole answer, or within it; a marked letter anywhere ("option C"); what `official` reads.
    """
    text = _answer_part(text)
    letters = read_letters(options)
    if (start := _START_LETTER.match(text)) and start[1].upper() in letters:
        return start[1].upper()
    if options is not None and (letter := word_letter(text, options)):
        return letter
    marked = [said for said in map("".join, _MARKED_LETTER.findall(text)) if said in letters]
    if len(set(marked)) == 1:
        return marked[0]
    return official_fuzzy(text.strip())


def word_letter(text: str, options: Sequence[str]) -> str:
    """Return the letter of the one option whose words are the answer, or occur in it as whole words; "" otherwise."""
    word = normalize_word(text)
    words = [normalize_word(option) for option in options]
    if word in words:
        return LETTERS[words.index(word)]
    spaced = f" {_NOT_WORD.sub(' ', word).strip()} "
    found = [index for index, option in enumerate(words) if f" {_NOT_WORD.sub(' ', option).strip()} " in spaced]
    # "trash can" contains "can": of options within each other the longest counts.
    found = [i for i in found if not any(i != j and words[i] in words[j] for j in found)]
    return LETTERS[found[0]] if len(found) == 1 else ""


def _answer_part(text: str) -> str:
    """Return what of a text is the answer: inside the last tag, after the thought, after the last "answer is"."""
    tagged = _TAG.findall(text)
    text = tagged[-1] if tagged else _THOUGHT.sub("", text)
    marker = list(_MARKER.finditer(text))
    if marker and text[marker[-1].end() :].strip():
        text = text[marker[-1].end() :]
    return _MARKDOWN.sub(" ", text).strip()


def _check_scorer(scorer: str) -> None:
    if scorer not in SCORERS:
        raise ValueError(f"scorer={scorer!r}: one of {(*SCORERS, EASI)}")
