"""Mend the connectives that joining and cutting text leaves wrong: doubled, clashing, at the very start, dangling.

Source: arXiv 2503.06749 section 3.2 replaces connectives where the text does not hang together; its list is not
published, this one is ours. Words of self-reflection (Wait, Hmm) stay, unless three or more stand in a row.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

_JOINING = ("so", "but", "therefore", "however", "thus", "then", "and", "hence", "because", "also", "now")
_CAUSAL = ("therefore", "thus", "hence")
_ANY = "|".join(_JOINING)
_START = re.compile(
    r"\s*(?:however|but|therefore|thus|hence|also|additionally|moreover|furthermore)\b,?\s+", re.IGNORECASE
)
_DANGLING = re.compile(rf"(?:(?<=[.!?])|\n)\s*(?:{_ANY}|wait|alternatively)\b[\s,:.…-]*\Z", re.IGNORECASE)
_TAIL = 60


class _Rule(NamedTuple):
    """A pattern, run only where `sign` stands in the lower-cased text: a plain search is far cheaper.

    Patterns begin with a letter and look back for the word's start, so that their search can skip.
    """

    name: str
    sign: str
    pattern: re.Pattern[str]
    replacement: Callable[[re.Match[str]], str]


def _word(text: str) -> str:
    """Return a pattern for one whole word, its first letter in either case."""
    either = f"[{text[0].upper()}{text[0]}]{text[1:]}"
    return rf"{either}(?<!\w{either})\b"


def _first(match: re.Match[str]) -> str:
    return match[1]


def _cased(match: re.Match[str]) -> str:
    return match[1].capitalize() if match[0][0].isupper() else match[1].lower()


def _rules() -> list[_Rule]:
    rules = []
    for word in _JOINING:
        pattern = re.compile(rf"({_word(word)})(?:,? {_word(word)})+")
        rules += [_Rule("doubled", f"{word}{join}{word}", pattern, _first) for join in (" ", ", ")]
    for word in ("wait", "hmm"):
        pattern = re.compile(rf"({_word(word)})(?:[,.]? {_word(word)}){{2,}}")
        rules += [_Rule("stutter", f"{word}{join}{word}", pattern, _first) for join in (" ", ", ", ". ")]
    for first, seconds in (("but", ("however",)), ("so", _CAUSAL), ("and", ("however", *_CAUSAL))):
        for second in seconds:
            pattern = re.compile(rf"{_word(first)},? ({_word(second)})")
            rules += [_Rule("clash", f"{first}{join}{second}", pattern, _cased) for join in (" ", ", ")]
    return rules


_RULES = _rules()
REPAIRS = ("doubled", "stutter", "clash", "start", "dangling")


def repair_connectives(thought: str) -> tuple[str, dict[str, int]]:
    """Return the mended text and how many repairs of each kind it took; a second call changes nothing."""
    done: dict[str, int] = {}
    thought = thought.strip()
    while True:
        before, low = thought, thought.lower()
        for rule in _RULES:
            if rule.sign in low:
                thought, number = rule.pattern.subn(rule.replacement, thought)
                done[rule.name] = done.get(rule.name, 0) + number
        start = _START.match(thought)
        if start:
            thought = thought[start.end() :]
            thought = thought[:1].upper() + thought[1:]
            done["start"] = done.get("start", 0) + 1
        end = _DANGLING.search(thought, max(len(thought) - _TAIL, 0))
        if end:
            thought = thought[: end.start()].rstrip()
            done["dangling"] = done.get("dangling", 0) + 1
        if thought == before:
            return thought, {name: number for name, number in done.items() if number}
