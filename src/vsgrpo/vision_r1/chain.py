"""One chain of thought as text: taken out of a reasoner's output, read for what it states, its connectives repaired.

Source: arXiv 2503.06749 section 3.2 replaces connectives where the text does not hang together; its list is not
published, this one is ours. Words of self-reflection (Wait, Hmm) stay, unless three or more follow each other.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from vsgrpo.data.row import Row

REFLECTION_WORDS = ("Wait", "Hmm", "Mistake", "Alternatively", "Check")
"""The words that Table 4 of the paper counts; whole words, in any case."""

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
_TAGS = re.compile(r"</?(?:think|answer|observe)>")
# The pattern begins with its letters, and looks back for the word's start: so the search can skip.
_STATED = re.compile(
    r"[Aa]nswer(?<!\w[Aa]nswer)\b(?: to (?:the|this) question)?,?\s*(?:is|should be|must be|would be|=|:)\s*:?"
    r"\s*(?=([^\n]{1,160}))",
)
_SENTENCE_END = re.compile(r"[.!?;](?:\s|$)")
_TAKEN_BACK = re.compile(r"[\s.,;:*]*(?:\?|\b(?:wait|no|but|hmm|actually|hold on|not)\b)", re.IGNORECASE)
_REFLECTION = {word: re.compile(rf"{word.lower()}(?<!\w{word.lower()})\b") for word in REFLECTION_WORDS}
_JOINING = ("so", "but", "therefore", "however", "thus", "then", "and", "hence", "because", "also", "now")
_CAUSAL = ("therefore", "thus", "hence")
_ANY = "|".join(_JOINING)
_START = re.compile(
    r"\s*(?:however|but|therefore|thus|hence|also|additionally|moreover|furthermore)\b,?\s+", re.IGNORECASE
)
_DANGLING = re.compile(rf"(?:(?<=[.!?])|\n)\s*(?:{_ANY}|wait|alternatively)\b[\s,:.…-]*\Z", re.IGNORECASE)
_END = 60
"""Characters at the end of a chain in which a dangling connective is looked for."""


@dataclass(frozen=True)
class Candidate:
    """Output of the reasoner for a row.

    Attributes:
        row: the question; its `answer` is the ground truth.
        thought: the chain of thought, without tags; "" where there is none.
        answer: the final answer, without tags; "" where there is none.
        problem: why the text has not the wanted form, None where it has.
    """

    row: Row
    thought: str
    answer: str
    problem: str | None = None


def read_candidate(row: Row, text: str, reasoning: str | None = None, finish_reason: str | None = "stop") -> Candidate:
    """Take a reasoner's output apart: `reasoning` where the endpoint parts it, else `<think>..</think>` in `text`.

    The final answer is in one `<answer>..</answer>` after the thought, or in the last `\\boxed{..}`.
    """
    thought, rest, problem = reasoning or "", text, None
    if not thought:
        head, end_tag, tail = text.partition("</think>")
        thought, rest = (head.strip().removeprefix("<think>"), tail) if end_tag else ("", text)
    answers = _ANSWER.findall(rest) or BOXED.findall(rest)[-1:]
    answer = answers[-1].strip() if answers else ""
    if finish_reason not in (None, "stop"):
        problem = f"not finished ({finish_reason})"
    elif not thought.strip():
        problem = "no <think> part"
    elif _TAGS.search(thought) or len(answers) > 1:
        problem = "repeated tags"
    elif not answer:
        problem = "no <answer> part"
    elif _TAGS.search(answer):
        problem = "nested tags"
    return Candidate(row, thought.strip(), answer, problem)


def stated_answer(thought: str) -> str | None:
    """Return the last answer that a chain states and does not take back at once, None where it states none."""
    found = [(m.start(), m.start(1), m[1]) for m in _STATED.finditer(thought)]
    found += [(m.start(), m.end(), m[0]) for m in BOXED.finditer(thought)]
    for _, start, text in sorted(found, reverse=True):
        if text.startswith("\\boxed"):
            said, rest = text, thought[start : start + 40]
        else:
            stop = _SENTENCE_END.search(text)
            said = text[: stop.start()] if stop else text
            rest = thought[start + len(said) : start + len(said) + 40]
        if not _TAKEN_BACK.match(rest) and not _TAKEN_BACK.match(said):
            return said.strip()
    return None


def count_reflection(thought: str) -> Counter[str]:
    """Return how often each of `REFLECTION_WORDS` occurs in a chain."""
    text = thought.lower()
    return Counter({word: len(pattern.findall(text)) for word, pattern in _REFLECTION.items()})


class _Rule(NamedTuple):
    """A pattern, run only where `sign` is in the lower-cased text: a plain search is far cheaper.

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


def repair_connectives(thought: str) -> tuple[str, dict[str, int]]:
    """Return the repaired text and how many repairs of each kind it took; a second call changes nothing."""
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
        end = _DANGLING.search(thought, max(len(thought) - _END, 0))
        if end:
            thought = thought[: end.start()].rstrip()
            done["dangling"] = done.get("dangling", 0) + 1
        if thought == before:
            return thought, {name: number for name, number in done.items() if number}
