"""Compare two maths answers by value: `\\frac{1}{2}`, `0.5` and `1/2` are one answer.

Plain strings, numbers and option letters are compared here; anything else by the math-verify library (extra `math`).
That library limits its time by SIGALRM, which only the main thread may use, and without the limit an answer such as
9^9^9^9 hangs for ever. So it runs in a child process (`vsgrpo.child`) that is asked by any thread, one question
at a time, and killed when it is late.

Source: github.com/huggingface/Math-Verify (parse, verify).
"""

from __future__ import annotations

import functools
import importlib.util
import re
import unicodedata
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, InvalidOperation, Overflow, localcontext

from vsgrpo.child import Child
from vsgrpo.errors import SetupError, first_line
from vsgrpo.packages import install_command

TIMEOUT_S = 5.0
"""Seconds that one comparison may take; a later one counts as unequal."""
MAX_CHARACTERS = 500
"""Longer answers are not compared by value: no gold answer of the known sets is longer."""

_VERIFIER = "math-verify"
_CONTEXT = Context(prec=60, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[InvalidOperation, Overflow])
RELATIVE_TOLERANCE = Decimal("1e-6")
"""Two numbers are one answer where they differ by at most this share of the larger one; whole numbers must be equal."""
_DECIMAL = r"(?:[0-9]+(?:,[0-9]{3}(?![0-9]))*(?:\.[0-9]*)?|\.[0-9]+)"
_NUMBER = re.compile(rf"[-+]?{_DECIMAL}(?:[eE][-+]?[0-9]+)?")
_FRACTION = re.compile(
    r"([-+]?)(?:([0-9]{1,15})(?: +|(?=\\)))?"
    r"(?:\\[dt]?frac(?:\{([0-9]{1,15})\}\{([0-9]{1,15})\}|([0-9])([0-9]))|([0-9]{1,15}) ?/ ?([0-9]{1,15}))(?![0-9])"
)
_POWER = re.compile(
    rf"([-+]?)(?:({_DECIMAL})\s*(?:\\times|\\cdot|[*x\u00d7\u00b7])\s*)?10\^(?:\{{([-+]?[0-9]+)\}}|([-+]?[0-9]+))"
)
_SUPERSCRIPT = re.compile(r"(?<=[0-9])[\u207a\u207b]?[\u00b2\u00b3\u00b9\u2070\u2074-\u2079]+")
_THOUSANDS = re.compile(
    r"(?<![0-9.,])[-+]?[0-9]{1,3}(?:(?:\\,|\{,\}|[ \u00a0\u2009\u202f])[0-9]{3})+(?![0-9]| ?/)(?:\.[0-9]*)?"
)
"""A number whose thousands are set apart by a space, as ISO 80000 writes it."""
_OPTION = re.compile(r"(?:(?i:option|choice)\s+)?\(?([A-Ha-h])(?:\)|[.:](?=\s|$)|$|(?<=[A-H])\s+(?=\())")
_OTHER_OPTION = re.compile(
    r"\(([A-Ha-h])\)|(?:^|\s)([A-H])[.:)](?=\s|$)|^\s*(?:or\b|and\b|[,;/&])\s*\(?([A-H])(?![A-Za-z'])"
)
"""Further options behind the first: labelled, or joined to it; those inside its words ("C. Both A and B") are none."""
_OPTION_LIST = re.compile(r"\(?[A-H]\)?(?:(?:\s*[,;&]\s*(?:and\s+)?|\s+and\s+)\(?[A-H]\)?)+")
# fmt: off
_UNITS = {
    "mm": "millimet(?:er|re)s?", "cm": "centimet(?:er|re)s?", "dm": "decimet(?:er|re)s?", "m": "met(?:er|re)s?",
    "km": "kilomet(?:er|re)s?", "in": "inch(?:es)?", "ft": "foot|feet", "yd": "yards?", "mi": "miles?",
    "mg": "milligrams?", "g": "grams?", "kg": "kilograms?", "lb": "lbs|pounds?", "oz": "ounces?",
    "t": "tons?|tonnes?", "ms": "milliseconds?", "s": "secs?|seconds?", "min": "mins?|minutes?", "h": "hrs?|hours?",
    "day": "days", "week": "weeks", "month": "months", "year": "years?|yrs?", "ml": "mL|millilit(?:er|re)s?",
    "l": "L|lit(?:er|re)s?", "\u00b0": "degrees?|deg", "rad": "radians?", "K": "kelvin", "dollar": "dollars",
    "cent": "cents", "euro": "euros", "unit": "units", "square": "sq", "cubic": "cu", "/": "per",
}
# fmt: on
"""Units by their symbol: other spellings."""
_SYMBOLS = "Hz|kHz|MHz|GHz|N|kN|J|kJ|eV|W|kW|V|mV|kV|A|mA|Pa|kPa|mol|ohms?|C|F"
_UNIT_NAMES = "|".join([*(f"{unit}|{other}" for unit, other in _UNITS.items() if unit != "/"), "per", _SYMBOLS])
# One way only to read a text as units: with two, a row of slashes takes time that doubles with each.
_UNIT = re.compile(
    rf"(?!\s*[\^\u00b2\u00b3](?!\{{?\\circ))"  # a power of the number
    rf"(?:\s|\\[ ,;]|~|\\(?:text|mathrm|rm)\s*\{{(?:[^{{}}0-9]|(?<=[A-Za-z^])[1-4])*\}}|"
    rf"(?<![A-Za-z])(?:{_UNIT_NAMES})(?![A-Za-z])|"
    r"[\u2103\u2109\u03a9\u2126]|\u00b5m|\^?\\circ|\^\{\\circ\}|"
    r"\^\{?-?[1-4]\}?|(?<=[A-Za-z])[23](?![0-9])|[\u00b2\u00b3/\u00b7]|\\cdot|\.(?=\s|$))+"
)
_MONEY = re.compile(r"\\?[$\u20ac\u00a3]\s*")
_HAS_MATHS = re.compile(r"[0-9\\^√π∞]")
_WRAPPERS = (
    re.compile(r"\$\$(.*)\$\$", re.DOTALL),
    re.compile(r"\$([^$]*)\$", re.DOTALL),
    re.compile(r"\\\((.*)\\\)", re.DOTALL),
    re.compile(r"\\\[(.*)\\\]", re.DOTALL),
    re.compile(r"\\(?:boxed|text|mathrm|textbf)\{([^{}]*)\}", re.DOTALL),
    re.compile(r"\*\*([^*]*)\*\*", re.DOTALL),
)


def maths_equal(prediction: str, target: str, timeout_s: float = TIMEOUT_S) -> bool:
    """Return whether the two answers have the same value; never raises on model text.

    A target that is one letter (A-H) asks for that option: "B", "(B)" and "B. 30" agree, "(A) (B)" is no answer; a
    target of several letters asks for these, in any order. Whole numbers agree exactly, others within
    `RELATIVE_TOLERANCE`: "0" is not 1.6e-19. A unit that only one side names is passed over; two units must be the
    same. Words agree as words. Where math-verify cannot read one side they differ.

    Raises:
        SetupError: the comparison needs math-verify and it is not installed.
    """
    left, right = strip_wrappers(prediction), strip_wrappers(target)
    if not left or not right:
        return False
    if left.casefold() == right.casefold():
        return True
    if len(right) == 1 and right.upper() in "ABCDEFGH":
        return option_letter(left) == right.upper()
    if _OPTION_LIST.fullmatch(right):
        return bool(_OPTION_LIST.fullmatch(left)) and _letters(left) == _letters(right)
    if max(len(left), len(right)) > MAX_CHARACTERS:
        return False
    found, asked = _measure(left), _measure(right)
    if found is not None and asked is not None:
        (value, unit), (wanted, wanted_unit) = found, asked
        return numbers_equal(value, wanted) and (not unit or not wanted_unit or unit == wanted_unit)
    if not (_HAS_MATHS.search(left) and _HAS_MATHS.search(right)):
        return False
    return _compare(plain_characters(left), plain_characters(right), timeout_s)


def strip_wrappers(text: str) -> str:
    """Return `text` without outer space, final periods and whole wrappers ($..$, \\boxed{..}, \\text{..}, **..**)."""
    text = text.strip().rstrip(".").strip()
    for _ in range(4):
        inner = next((match[1] for pattern in _WRAPPERS if (match := pattern.fullmatch(text))), None)
        if inner is None:
            return text
        text = inner.strip().rstrip(".").strip()
    return text


def option_letter(text: str) -> str | None:
    """Return the option (A-H) that `text` begins with: "B", "(b)", "B. 30"; None where it names none, or several."""
    found = _OPTION.match(text)
    if found is None:
        return None
    letter = found[1]
    others = {match[1] or match[2] or match[3] for match in _OTHER_OPTION.finditer(text[found.end() :])}
    others = {other for other in others if other.isupper() or letter.islower()}  # "C. Figure (a)" names a figure
    return letter.upper() if {other.upper() for other in others} <= {letter.upper()} else None


def _letters(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\b[A-H]\b", text))


def plain_number(text: str) -> float | None:
    """Return the value of "1,234.5", "-3", ".5" or "1e3"; None for anything else."""
    text = text.strip()
    return float(text.replace(",", "")) if _NUMBER.fullmatch(text) else None


def numbers_equal(left: Decimal, right: Decimal) -> bool:
    """Return whether two numbers are one answer: whole numbers exactly, others within `RELATIVE_TOLERANCE`."""
    if left == right:
        return True
    if _is_whole(left) and _is_whole(right):
        return False
    with localcontext(_CONTEXT):
        return abs(left - right) <= RELATIVE_TOLERANCE * max(abs(left), abs(right))


def _is_whole(value: Decimal) -> bool:
    """Return whether a number is written as one: "14", "14.0"; "6e23" is a rounded one."""
    exponent = value.as_tuple().exponent
    return isinstance(exponent, int) and exponent <= 0 and value == value.to_integral_value()


def _measure(text: str) -> tuple[Decimal, str] | None:
    """Return value and unit ("" where none is named) of a number, fraction, mixed number or a * 10^b; else None."""
    text = plain_characters(text)
    money = _MONEY.match(text)
    start = money.end() if money else 0
    number = number_at(text, start)
    value, end = number or (None, start)
    if value is None:
        return None
    if end == len(text):
        return value, ""
    unit = _UNIT.fullmatch(text, end)
    name = _unit_name(unit[0]) if unit else ""
    is_unit = unit is not None and (not name or any(map(str.isalpha, name)) or "\u00b0" in name)
    return (value, name) if is_unit else None


def number_at(text: str, start: int = 0) -> tuple[Decimal | None, int] | None:
    """Return (value, end) of the number that is written at `start` of `text`, None where there is none.

    Forms: "1/2", "1 1/2", "\\frac12", "2 * 10^3", "12 345", "1,234.5", "1e3"; of "1/0" and of an exponent of twenty
    digits the value is None. `text` comes from `plain_characters`.
    """
    if found := _THOUSANDS.match(text, start):
        return Decimal(re.sub(r"[^-+.0-9]", "", found[0])), found.end()
    for pattern in (_FRACTION, _POWER, _NUMBER):
        if found := pattern.match(text, start):
            return _value(pattern, found), found.end()
    return None


def plain_characters(text: str) -> str:
    """Return `text` with one-character fractions as " 1/2", raised digits as "^{2}" and the minus sign as "-"."""
    text = _SUPERSCRIPT.sub(lambda found: f"^{{{unicodedata.normalize('NFKC', found[0])}}}", text)
    text = re.sub(r"[\u00bc-\u00be\u2150-\u215e]", lambda found: " " + unicodedata.normalize("NFKC", found[0]), text)
    return text.replace("\u2212", "-").replace("\u2044", "/").strip()


def _value(pattern: re.Pattern[str], found: re.Match[str]) -> Decimal | None:
    with localcontext(_CONTEXT):
        try:
            if pattern is _FRACTION:
                top, bottom = (part for part in found.groups()[2:] if part is not None)
                if not int(bottom):
                    return None
                return Decimal(f"{found[1]}1") * (Decimal(found[2] or "0") + Decimal(top) / Decimal(bottom))
            if pattern is _POWER:
                return Decimal(f"{found[1]}{(found[2] or '1').replace(',', '')}e{found[3] or found[4]}")
            return Decimal(found[0].replace(",", ""))
        except (InvalidOperation, Overflow):  # an exponent of twenty digits
            return None


def _unit_name(text: str) -> str:
    """Return a unit in one spelling: "\\text{ cm}^2", "cm\u00b2" and "square centimeters" are "cm2"."""
    text = re.sub(r"\\(?:text|mathrm|rm)\s*\{([^{}]*)\}", r"\1", text)
    text = text.replace("\u00b2", "2").replace("\u00b3", "3").replace("\\circ", "\u00b0")
    for unit, others in _UNITS.items():
        text = re.sub(rf"(?<![A-Za-z])(?:{others})(?![A-Za-z])", unit, text)
    text = re.sub(r"(square|cubic)\s*([A-Za-z]+)", lambda found: found[2] + "23"[found[1] == "cubic"], text)
    return re.sub(r"[\s{}^\\,;.~]", "", text)


@functools.lru_cache(maxsize=10_000)  # a group of completions gives the same few answers again and again
def _compare(prediction: str, target: str, timeout_s: float) -> bool:
    if importlib.util.find_spec("math_verify") is None:
        raise SetupError("math-verify: not installed, maths answers need it", install_command([_VERIFIER]))
    try:
        return _CHILD.ask((prediction, target), timeout_s)
    except (TimeoutError, ChildProcessError):
        return False


def import_library(_: tuple[str, str]) -> None:
    """Import math-verify, in the child.

    Raises:
        SetupError: it cannot be imported: no answer may count as wrong for that.
    """
    import logging

    try:
        import math_verify  # noqa: F401
    except Exception as error:  # whatever a broken installation raises
        text = f"math-verify: cannot be imported ({first_line(error)})"
        raise SetupError(text, install_command([_VERIFIER])) from None
    logging.disable(logging.CRITICAL)


def verify(answers: tuple[str, str]) -> bool:
    """Return whether math-verify finds (prediction, target) equal, in the child."""
    from math_verify import parse
    from math_verify import verify as are_equal

    def values(text: str) -> list:
        found = parse(f"${text}$", parsing_timeout=0)  # type: ignore[arg-type]
        return found or parse(text, parsing_timeout=0)

    prediction, target = answers
    try:
        return are_equal(values(target), values(prediction), timeout_seconds=0)
    except Exception:  # a text that sympy trips over, in whatever way, is not the answer
        return False


_CHILD = Child(import_library, verify, is_silent=True)
