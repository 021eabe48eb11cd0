"""Chains of thought: taken out of a reasoner's output, repaired, and judged by one function per rule.

A rule looks at one `Candidate` and returns why it fails, or None; none needs a model. `FILTERS` holds them by name in
the order in which a rejected row is counted under the first that fails; all that fail are counted too.

Source: arXiv 2503.06749 section 3.2 (final answer equal to the ground truth, rules for logical inconsistency, repair
of connectives where the text does not hang together). Neither the rules' wording nor the list of connectives is
published: both are ours. Words of self-reflection (Wait, Hmm) stay, unless three or more follow each other.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from vsgrpo.config.build import FilterSection
from vsgrpo.data.row import LETTERS, Row
from vsgrpo.maths import maths_equal, plain_number, strip_wrappers
from vsgrpo.rewards import is_right
from vsgrpo.spatial.answers import normalize_word, parse_answer
from vsgrpo.spatial.question_types import tolerance_of
from vsgrpo.terminal import counted

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
_JOINING = ("so", "but", "therefore", "however", "thus", "then", "and", "hence", "because", "also", "now")
_CAUSAL = ("therefore", "thus", "hence")
_ANY = "|".join(_JOINING)
_START = re.compile(
    r"\s*(?:however|but|therefore|thus|hence|also|additionally|moreover|furthermore)\b,?\s+", re.IGNORECASE
)
_DANGLING = re.compile(rf"(?:(?<=[.!?])|\n)\s*(?:{_ANY}|wait|alternatively)\b[\s,:.…-]*\Z", re.IGNORECASE)
_END = 60
"""Characters at the end of a chain in which a dangling connective is looked for."""
_FOREIGN = re.compile("[\u0400-\u1cff\u2e80-\u9fff\ua000-\ud7ff\uf900-\ufaff\uff66-\uffdc\U00020000-\U0003ffff]")
_STOPWORDS = frozenset(
    {"the", "a", "an", "is", "are", "of", "to", "in", "and", "that", "this", "it", "so", "we", "i", "for", "on", "as"}
    | {"be", "by", "from", "with", "at"}
)
# Looked for as plain strings before the pattern runs: a scan of the whole chain with it costs a hundred times more.
_REFERENCE_WORDS = ("descri", "caption", "annotat", "transcript", "object list", "list of objects", "scene data")
_REFERENCE_WORDS += ("metadata", "pseudo", "stated in the text", "provided", "given", "answer", "ground", "told")
_REFERENCE = re.compile(
    r"\b(?:(?:the|this|that|its|given|provided|detailed|above|image|text) (?:description|caption|annotation|transcript)"
    r"|(?:the|this) (?:object list|list of objects|scene data|metadata|pseudo-?cot)"
    r"|as (?:described|annotated|stated in the text)|(?:described|provided|given) (?:text|information)"
    r"|(?:given|provided|reference|correct|expected|known) answer (?:is|was|says|of|given|provided|in the prompt)"
    r"|(?:answer|it) (?:is|was) (?:given|provided|told)|ground[- ]truth|answer key"
    r"|i (?:was|am|'m) (?:told|given) (?:that )?the answer)",
)
_REFERENCE_WINDOW = 40
_GIVES_UP = re.compile(
    r"\b(?:(?:can(?:no|')t|impossible to) (?:be )?(?:determined?|tell|answered?|known?)"
    r"|not enough information|insufficient information)\b",
    re.IGNORECASE,
)
_NUMBERS = re.compile(r"[-+]?\d+(?:,\d{3})*(?:\.\d+)?")
_TAIL = 3000


@dataclass(frozen=True)
class Candidate:
    """Output of the reasoner for a row.

    Attributes:
        row: the question; its `answer` is the ground truth.
        thought: the chain of thought, without tags; "" where there is none.
        answer: the final answer, without tags; "" where there is none.
        problem: what is wrong with the form of the text, None where nothing is.
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


class _Rule(NamedTuple):
    """A pattern, run only where one of `signs` is in the lower-cased text: a plain search is far cheaper.

    Patterns begin with a letter and look back for the word's start, so that their search can skip.
    """

    name: str
    signs: tuple[str, ...]
    pattern: re.Pattern[str]


def _rule(name: str, first: str, second: str, pattern: str, joins: Sequence[str] = (" ", ", ")) -> _Rule:
    """Return the rule for `first` before `second`; {0} and {1} of the pattern are the words, in either case."""
    words = (rf"[{word[0].upper()}{word[0]}]{word[1:]}" for word in (first, second))
    compiled = re.compile(pattern.format(*(rf"{word}(?<!\w{word})\b" for word in words)))
    return _Rule(name, tuple(f"{first}{join}{second}" for join in joins), compiled)


def _cased(match: re.Match[str]) -> str:
    """Return the word that stays, its first letter in the case that the text had there."""
    return match[1].capitalize() if match[0][0].isupper() else match[1].lower()


_CLASHES = {"but": ("however",), "so": _CAUSAL, "and": ("however", *_CAUSAL)}
_RULES = [
    *(_rule("doubled", word, word, "({0})(?:,? {0})+") for word in _JOINING),
    *(_rule("stutter", word, word, "({0})(?:[,.]? {0}){{2,}}", (" ", ", ", ". ")) for word in ("wait", "hmm")),
    *(_rule("clash", one, other, "{0},? ({1})") for one, others in _CLASHES.items() for other in others),
]


def repair_connectives(thought: str) -> tuple[str, dict[str, int]]:
    """Return the repaired text and how many repairs of each kind it took; a second call changes nothing."""
    done: Counter[str] = Counter()
    thought = thought.strip()
    while True:
        before, low = thought, thought.lower()
        for rule in _RULES:
            if any(sign in low for sign in rule.signs):
                thought, number = rule.pattern.subn(_cased, thought)
                done[rule.name] += number
        if start := _START.match(thought):
            thought = thought[start.end() :]
            thought = thought[:1].upper() + thought[1:]
            done["start"] += 1
        if end := _DANGLING.search(thought, max(len(thought) - _END, 0)):
            thought = thought[: end.start()].rstrip()
            done["dangling"] += 1
        if thought == before:
            return thought, dict(+done)


def check_format(candidate: Candidate, settings: FilterSection) -> str | None:
    """Fail what was cut off, lacks a part or repeats a tag."""
    return candidate.problem


def check_answer(candidate: Candidate, settings: FilterSection) -> str | None:
    """Fail a final answer that is not the ground truth under the scorer (numbers: within 5 %; maths: by value)."""
    row = candidate.row
    letter = row.ground_truth if row.answer_kind == "choice" else None
    parsed = parse_answer(candidate.answer, "vanilla")
    if is_right(parsed, row.answer, row.answer_kind, letter, tolerance_of(row.question_type)):
        return None
    return f"{_short(candidate.answer)} is not {_short(row.answer)}"


def check_length(candidate: Candidate, settings: FilterSection) -> str | None:
    """Fail a thought outside the bounds."""
    size = len(candidate.thought)
    if size < settings.min_characters:
        return f"{counted(size, 'character')}, fewer than {settings.min_characters}"
    if size > settings.max_characters:
        return f"{counted(size, 'character')}, more than {settings.max_characters}"
    return None


def check_language(candidate: Candidate, settings: FilterSection) -> str | None:
    """Fail a thought that mixes in another script, or is no English."""
    text = candidate.thought
    if not text.isascii():
        share = len(_FOREIGN.findall(text)) / len(text)
        if share > settings.max_foreign:
            return f"{100 * share:.1f} % foreign characters"
    words = text.lower().split()
    if len(words) >= 20:
        share = sum(map(_STOPWORDS.__contains__, words)) / len(words)
        if share < settings.min_stopwords:
            return f"{100 * share:.1f} % common English words"
    return None


def check_repetition(candidate: Candidate, settings: FilterSection) -> str | None:
    """Fail a thought that runs in circles: it, or its end, compresses too well, or a sentence comes back too often."""
    text = candidate.thought
    for part in (text, text[-_TAIL:]) if len(text) > _TAIL else (text,):
        raw = part.encode()
        ratio = len(raw) / max(len(zlib.compress(raw, 1)), 1)
        if len(raw) >= 200 and ratio > settings.max_compression:
            return f"compresses {ratio:.1f} times"
    counts = Counter([sentence for sentence in text.replace("\n", ". ").split(". ") if len(sentence) >= 30])
    if counts:
        sentence, number = counts.most_common(1)[0]
        if number > settings.max_repeats:
            return f"{number} times {_short(sentence)}"
    return None


def check_contradiction(candidate: Candidate, settings: FilterSection) -> str | None:
    """Fail a chain whose last stated answer differs from the final one, or that gives up at its end."""
    if found := _GIVES_UP.findall(candidate.thought[-300:]):
        return f"gives up: {_short(found[-1])}"
    stated = stated_answer(candidate.thought)
    if stated is not None and _differs(stated, candidate):
        return f"states {_short(stated)}, answers {_short(candidate.answer)}"
    return None


def check_reference(candidate: Candidate, settings: FilterSection) -> str | None:
    """Fail a chain that speaks of what the trained model will not have: a description, a given answer."""
    text = candidate.thought.lower()
    for word in _REFERENCE_WORDS:
        start = text.find(word)
        while start >= 0:
            match = _REFERENCE.search(text, max(start - _REFERENCE_WINDOW, 0), start + _REFERENCE_WINDOW)
            if match:
                return f"refers to {_short(match[0])}"
            start = text.find(word, start + 1)
    return None


Filter = Callable[[Candidate, FilterSection], str | None]
FILTERS: dict[str, Filter] = {
    "format": check_format,
    "answer": check_answer,
    "length": check_length,
    "language": check_language,
    "repetition": check_repetition,
    "contradiction": check_contradiction,
    "reference": check_reference,
}


def _differs(stated: str, candidate: Candidate) -> bool:
    """Return whether a stated answer surely differs from the final one; what cannot be read does not."""
    row, final = candidate.row, candidate.answer
    boxed = BOXED.fullmatch(stated)
    said, bare = strip_wrappers(boxed[1] if boxed else stated), strip_wrappers(final)
    if row.answer_kind == "choice" and row.options is not None:
        return _option(said, row.options) not in (None, _option(final, row.options))
    if len(bare) == 1 and bare.isalpha():
        letter = re.match(r"(?:option |choice )?\(?([A-H])\b(?!')", said)
        return letter is not None and letter[1] != bare.upper()
    ends = parse_answer(final, "vanilla").number
    ends = plain_number(bare) if ends is None else ends
    numbers = {float(n.replace(",", "")) for n in _NUMBERS.findall(said)}
    if ends is not None:
        if len(numbers) != 1 or "\\" in said or "/" in said or "^" in said:
            return False
        unit = parse_answer(" ".join(_NUMBERS.findall(said)[:1]) + " " + said.split()[-1], "vanilla").unit
        if row.unit is not None and unit is not None and unit != row.unit:
            return False
        return abs(numbers.pop() - ends) > 0.05 * abs(ends) + 1e-9
    return boxed is not None and not maths_equal(said, final)


def _option(text: str, options: Sequence[str]) -> str | None:
    """Return the one option that a text names, by letter or by word."""
    word = normalize_word(text)
    letter = re.match(r"\(?([A-F])\)?(?:[.:),]|\s*$)", text.strip())
    if letter and LETTERS.index(letter[1]) < len(options):
        return options[LETTERS.index(letter[1])]
    named = [option for option in options if re.search(rf"\b{re.escape(option.casefold())}\b", word)]
    return named[0] if len(named) == 1 else None


@dataclass(frozen=True)
class Verdict:
    """Result of the rules for a candidate.

    Attributes:
        thought: repaired.
        failed: rule -> why, in the order of `FILTERS`; empty where the row is kept.
        repairs: repairs made, by name.
    """

    thought: str
    failed: dict[str, str]
    repairs: dict[str, int]


def judge(candidate: Candidate, settings: FilterSection) -> Verdict:
    """Repair the connectives of a candidate, then apply every rule of `settings.names`.

    A candidate that fails `format` is not judged further: the other rules would misread it.
    """
    thought, repairs = repair_connectives(candidate.thought)
    repaired = replace(candidate, thought=thought)
    failed: dict[str, str] = {}
    for name, check in FILTERS.items():
        if name in settings.names and (reason := check(repaired, settings)) is not None:
            failed[name] = reason
        if "format" in failed:
            break
    return Verdict(thought, failed, repairs)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= 60 else text[:57] + "...")
