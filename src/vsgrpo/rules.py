"""What a value may be: ranges, choices and texts, stated in the type of each key; code that a value names.

    @dataclass(frozen=True)
    class VideoSection(Section, key="video"):
        num_frames: Annotated[int, at_least(2)]
        timeout_s: Annotated[float, above(0)] | None

The rules are checked when a section is made, and hold for the command line, experiments, stages and `load_config`
alike. A failure names the dotted key, the value, the rule and the way out. Types are checked before (`sections`); rules
between several keys are in the sections' own `faults`. A user's own code is named "package.module:name" and
imported by `import_named`. `tests/config/test_rules.py` fails where a number or word of any section has neither a rule
nor a reason for none.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import math
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

from vsgrpo.errors import ConfigError, VsgrpoError
from vsgrpo.spatial.question import QuestionType
from vsgrpo.spatial.question_types import register, types_named

LIMIT = 1e9
"""Largest number but for seeds: a larger one is a slip, or would overflow later."""
MAX_SEED = 2**32 - 1
"""The largest seed that numpy's global generator takes, which the Trainer sets."""


@dataclass(frozen=True)
class Number:
    """A finite number in a range.

    Attributes:
        low: smallest value.
        high: largest value.
        without_low: `low` itself is too small.
        without_high: `high` itself is too large.
        also: one value outside the range that has a meaning of its own.
        whole: no fractions.
        hint: instead of the usual "set KEY=...".
    """

    low: float
    high: float = LIMIT
    without_low: bool = False
    without_high: bool = False
    also: float | None = None
    whole: bool = False
    hint: str = ""

    def text(self) -> str:
        """Return the rule in words, for messages and docs/configuration.md."""
        words = f"{'above' if self.without_low else 'at least'} {_short(self.low)}"
        if self.high != LIMIT:
            words += f" and {'below' if self.without_high else 'at most'} {_short(self.high)}"
        return words + (f", or {_short(self.also)}" if self.also is not None else "")

    def check(self, key: str, value: object) -> None:
        """Raise ConfigError unless `value` is a finite number in the range."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{key}={value}: a number is needed", hint=self._way_out(key))
        if value == self.also:
            return
        low = value > self.low if self.without_low else value >= self.low
        high = value < self.high if self.without_high else value <= self.high
        if not (math.isfinite(value) and low and high):
            words = self.text() if math.isfinite(value) else f"a finite number, {self.text()}"
            words = f"at most {_short(LIMIT)}" if LIMIT == self.high < value < math.inf else words
            raise ConfigError(f"{key}={_plain(value)}: must be {words}", hint=self._way_out(key))
        if self.whole and value != int(value):
            raise ConfigError(f"{key}={value}: a whole number is needed", hint=self._way_out(key))

    def _way_out(self, key: str) -> str:
        if self.hint:
            return self.hint
        if not self.without_low:
            return f"set {key}={_short(self.low)}" + (" or more" if self.high == LIMIT else "")
        return f"set {key} to a value {self.text()}"


@dataclass(frozen=True)
class Choice:
    """One of a few words.

    Attributes:
        choices: the words.
        takes_code: package.module:NAME is allowed too; it is checked where it is loaded.
    """

    choices: tuple[str, ...]
    takes_code: bool = False

    def text(self) -> str:
        """Return the choices, for docs/configuration.md."""
        return " | ".join((*self.choices, *(["package.module:NAME"] if self.takes_code else [])))

    def check(self, key: str, value: object) -> None:
        """Raise ConfigError unless `value` is one of the choices; suggest the nearest."""
        if not (self.takes_code and ":" in str(value)):
            one_of(key, value, self.choices)


@dataclass(frozen=True)
class Text:
    """A name or a path in one line, not empty: that would mean the current folder."""

    def text(self) -> str:
        """Return the rule in words, for docs/configuration.md."""
        return "not empty"

    def check(self, key: str, value: object) -> None:
        """Raise ConfigError for an empty text, or one with a NUL or a line end."""
        if not str(value).strip() or re.search(r"[\x00\r\n]", str(value)):
            raise ConfigError(f"{key}={str(value)!r}: a text in one line is needed", hint=f"set {key}=TEXT")


Rule = Number | Choice | Text
Faults = Iterator[tuple[str, str]]
"""Messages and hints."""


class Section:
    """A section of a configuration: a frozen dataclass that checks the rules in its annotations when it is made.

    `class VideoSection(Section, key="video")` gives the key for messages; without one nothing is checked on its own.
    """

    section_key: ClassVar[str | None] = None

    def __init_subclass__(cls, key: str | None = None) -> None:
        if key is not None:
            cls.section_key = key

    def __post_init__(self) -> None:
        if self.section_key is not None:
            self.check_rules(self.section_key)
        for message, hint in self.faults():
            raise ConfigError(message, hint)

    def faults(self) -> Faults:
        """Yield what is wrong between several keys, each value being right by itself; the first is raised."""
        yield from ()

    def check_rules(self, key: str) -> None:
        """Raise ConfigError for the first value that breaks its rule; null passes where the type allows it."""
        for name, rule in rules_of(type(self)).items():
            check_value(f"{key}.{name}" if key else name, getattr(self, name), rule)


@cache
def rules_of(section: type) -> dict[str, Rule]:
    """Return field name -> rule of a section, as its annotations state them."""
    hints = typing.get_type_hints(section, include_extras=True)
    return {name: rule for name, hint in hints.items() if (rule := _rule_in(hint)) is not None}


def _rule_in(hint: Any) -> Rule | None:
    if isinstance(hint, Rule):
        return hint
    parts = (*typing.get_args(hint), *getattr(hint, "__metadata__", ()))
    return next((rule for part in parts if (rule := _rule_in(part)) is not None), None)


def check_value(key: str, value: object, rule: Rule) -> None:
    """Apply a rule to a value, or to each item of a list or dict; null passes."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            check_value(f"{key}.{name}", item, rule)
        return
    for item in value if isinstance(value, list) else [value]:
        if item is not None:
            rule.check(key, item)


def not_empty(key: str, value: list[str] | None) -> Faults:
    """Yield the fault of a list that leaves nothing."""
    if value is not None and not value:
        yield f"{key}=[]: nothing would be left", f"set {key}=null for all"


def at_least(low: float, hint: str = "") -> Number:
    """Return the rule `low` or more."""
    return Number(low=low, hint=hint)


def above(low: float, hint: str = "") -> Number:
    """Return the rule more than `low`."""
    return Number(low=low, without_low=True, hint=hint)


def between(low: float, high: float) -> Number:
    """Return the rule from `low` to `high`, both included."""
    return Number(low=low, high=high)


def up_to(high: float, hint: str = "") -> Number:
    """Return the rule above 0 and at most `high`."""
    return Number(low=0, high=high, without_low=True, hint=hint)


def choice(*words: str) -> Choice:
    """Return the rule one of these words."""
    return Choice(words)


SHARE = Number(low=0, high=1, without_high=True, hint="a share of 1, such as 0.1")
"""From 0 to below 1."""
Name = Annotated[str, Text()]
"""A path, name or address."""
Count = Annotated[int, at_least(1)]
Share = Annotated[float, SHARE]
Seed = Annotated[int, between(0, MAX_SEED)]


def one_of(key: str, value: object, choices: Sequence[object]) -> None:
    """Raise ConfigError unless `value` is one of `choices`."""
    if value not in choices:
        shown = ["null" if choice is None else str(choice) for choice in choices]
        raise ConfigError(f"{key}={value}: not one of the choices", hint=suggest(str(value), shown))


def suggest(word: str, choices: Sequence[str]) -> str:
    """Return a hint with the nearest choice, if one is near, and all of them."""
    close = difflib.get_close_matches(word.lower(), choices, n=1, cutoff=0.6)
    return (f"did you mean {close[0]}? " if close else "") + listed(choices)


def listed(choices: Sequence[str]) -> str:
    """Return a hint with all choices, or where to find so many."""
    return "choose from: " + ", ".join(choices) if len(choices) <= 20 else "`vsgrpo configs WORD` searches them"


def _short(value: float) -> str:
    """Return a bound without a trailing .0, and whole numbers in full."""
    return str(int(value)) if math.isfinite(value) and value == int(value) else f"{value:g}"


def _plain(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def import_named(key: str, name: str, what: str, needed: str, is_wanted: Callable[[Any], bool] = callable) -> Any:
    """Import what `name`, "package.module:name", names: a function or a class, unless `is_wanted` says otherwise.

    Args:
        key: of the configuration that holds `name`, for messages.
        what: "function", "benchmark" and the like, for messages.
        needed: the hint where the module has nothing of that name.
        is_wanted: whether an object of the module is one of those.

    Raises:
        ConfigError: no full module name, the module cannot be imported, or it has nothing wanted of that name.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or module_name.startswith("."):
        raise ConfigError(f"{key}={name}: a full module name is needed", hint=f"write package.module:{what}")
    try:
        module = importlib.import_module(module_name)
    except VsgrpoError:
        raise
    except Exception as error:  # the module's own fault, whatever it is
        hint = "the module must be importable from where the workers start: install it or set PYTHONPATH"
        if not isinstance(error, ImportError):
            hint = "correct the module; --debug shows the line"
        what = " ".join(f"{error or type(error).__name__}".split())
        raise ConfigError(f"{key}={name}: importing '{module_name}' failed ({what})", hint) from error
    found = getattr(module, attribute, None)
    if is_wanted(found):
        return found
    near = difflib.get_close_matches(attribute, [n for n in vars(module) if is_wanted(vars(module)[n])], n=1)
    hint = f"did you mean '{module_name}:{near[0]}'?" if near else needed
    raise ConfigError(f"{key}={name}: '{module_name}' has no {what} '{attribute}'", hint=hint)


def module_file(name: str) -> Path | None:
    """Return the file of the module in "package.module:name", which decides what a run does; None if it has none."""
    spec = importlib.util.find_spec(name.partition(":")[0])
    return None if spec is None or spec.origin is None else Path(spec.origin)


def load_question_types(key: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of question types; a family stands for its types, "package.module:name" is registered first.

    Raises:
        ConfigError: as `import_named`, or two types of one name.
    """
    found = []
    for name in names:
        if ":" in name:
            needed = "NAME = QuestionType(...) is needed, see docs/extending.md"
            kind = import_named(key, name, "QuestionType", needed, lambda value: isinstance(value, QuestionType))
            try:
                register(kind)
            except ValueError as error:
                raise ConfigError(f"{key}={name}: {error}", hint="give your type another name") from error
            name = kind.name
        found.append(name)
    return types_named(found)
