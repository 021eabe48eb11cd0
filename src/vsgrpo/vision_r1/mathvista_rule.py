"""Take the answer out of a response to MathVista by rule, as a stand-in for the official harness's GPT-4.

First the part of the response that states the answer, then of that part an option, a number or a list. The rules look
at forms ("**Answer:** B", "the correct option is B", "20 cm^2"), never at single rows.
"""

from __future__ import annotations

import ast
import re

from vsgrpo.maths import number_at, plain_characters, plain_number, strip_wrappers
from vsgrpo.vision_r1.mathvista_rows import Problem

_ANSWER = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)
_BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
_OF = r"(?:\s+(?:to|for|of)\s[^.:\n]{1,80}?)?"
"""Of "the answer to this question is"."""
_STATED = re.compile(
    rf"\banswers?{_OF}(?:\s+(?:is|are|would be|should be|must be)\b|\s*[:=\uff1a]|\s+-\s|\s*\n)[\s:]*([^\n]+)"
    rf"|\u7b54\u6848\s*(?:\u662f|\u4e3a|[:\uff1a])\s*([^\n]+)"
    rf"|\b(?:option|choice|letter){_OF}(?:\s+(?:is|must be|should be|would be)\b|\s*[:=])[\s:]*([^\n]+)"
    r"|\b(?:therefore|thus|hence|so),?\s+(\(?(?-i:[A-Z])\)?)\s*(?:\.|$|\n)"
    r"|\b(?:choose|select|pick|go with)\s+((?:option\s+)?\(?(?-i:[A-Z])\)?)(?![\w'])"
    r"|(?<![\w'])(\(?(?-i:[A-Z])\)?)\s+(?:is|must be|seems)\s+(?:the\s+)?(?:correct|right|best|answer)",
    re.IGNORECASE,
)
_MARKDOWN = re.compile(r"\*\*|__|`|(?<!\S)\*(?=\S)|(?<=[\w:.])\*(?=[\s:]|$)|^[ \t]*(?:#+|>)[ \t]*", re.MULTILINE)
_OPTION = re.compile(r"(?:(?:option|choice|letter)\s+)?\(?([A-Z])(?:\)|[.:,](?=\s|$)|\s*$|\s+\()", re.IGNORECASE)
_NAMED_OPTION = re.compile(
    r"\(([A-Z])\)|\b(?:[Oo]ption|[Cc]hoice|[Ll]etter)\s+\(?([A-Z])\b|(?:^|\n)\s*([A-Z])\s*[.)]?\s*(?=\n|$)"
)
_NUMBER = re.compile(r"(?<![\w^.])(?<!\^\{)[-+]?(?:\.?[0-9]|\\[dt]?frac)")
"""Where a number begins: not in a word, an exponent or another number."""
_WORDS = {"zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9}
_WORDS |= {"ten": 10, "eleven": 11, "twelve": 12, "fifteen": 15, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50}
_WORD = re.compile(rf"\b({'|'.join(_WORDS)})\b", re.IGNORECASE)
_BOLD = re.compile(r"\*\*([^*\n]+)\*\*")
_NEGATION = re.compile(r"\b(?:not|no|cannot|none)\b|n't\b", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\b(?:provide|information|enough|clear|determin|unable|sorry|can(?:not|'t)|possible to)", re.IGNORECASE
)
"""Of a sentence that gives no answer: the official edit distance decides, as for GPT-4's "not enough information"."""
_CONCLUDES = re.compile(r"\W*(?:therefore|thus|hence|so|in conclusion|in total|in summary)\b", re.IGNORECASE)
_COUNTED = re.compile(r"\W*there (?:are|is|were|was|will be)\b([^.\n]*)", re.IGNORECASE)
_ADDS_UP = re.compile(r"\b(?:so|thus|therefore|hence|making|which makes)\b|=", re.IGNORECASE)
"""Of a count that ends in its sum: "there is 1 car and 5 bikes, so 6 in all"."""
_LIST = re.compile(r"\[[^\[\]]*\]")


def extract(response: str, problem: Problem) -> str:
    """Return the answer that a response gives, "" where no rule finds one; never raises on model text.

    The part that states it: the last `<answer>..</answer>`, else the last `\\boxed{..}`, else what follows the last
    "answer is", "Answer:" or "option is", else the whole response. Of it: an option by letter or by its words; the
    number that it begins with or equates to, else its last one; the last list.
    """
    text, stated = _stated(response)
    if problem.question_type == "multi_choice":
        return _choice(text, problem.choices)
    if problem.answer_type in ("integer", "float"):
        return _number(text, stated)
    if problem.answer_type == "list":
        lists = _LIST.findall(text)
        try:
            return str(ast.literal_eval(lists[-1])) if lists else text
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return text
    return text


def _stated(response: str) -> tuple[str, bool]:
    """Return the part of a response that states its answer, and whether it was marked as such."""
    text, stated = response, False
    for pattern in (_ANSWER, _BOXED, _STATED, _BOXED):
        if pattern is _STATED:
            text = _MARKDOWN.sub("", text)
        found = [next(filter(None, match.groups()), "") for match in pattern.finditer(text)]
        if found:
            text, stated = found[-1], True
    bold = _BOLD.findall(response)
    if not stated and len(set(bold)) == 1 and any(map(str.isdigit, bold[0])):
        return strip_wrappers(bold[0]), True
    return strip_wrappers(text), stated


def _choice(text: str, choices: tuple[str, ...]) -> str:
    """Return the letter or the words of the option that `text` decides for, else `text`."""
    bare = text.strip(" \n.\"'").casefold()
    same = [choice for choice in choices if choice.casefold() == bare]
    if same:
        return same[0]
    letters = [chr(ord("A") + number) for number in range(len(choices))]
    first = _OPTION.match(text)
    if first and first[1] in letters:
        return first[1]
    named = {next(filter(None, match.groups())) for match in _NAMED_OPTION.finditer(text)} & {*letters}
    if len(named) == 1:
        return named.pop()
    begins = [choice for choice in choices if _mentions(text, choice, at_start=True)]
    if len(begins) == 1:
        return begins[0]
    if {choice.casefold() for choice in choices} == {"yes", "no"} and _denies(_sentences(text)[0]):
        return next(choice for choice in choices if choice.casefold() == "no")
    for part in (text, _conclusion(text)):
        mentioned = [choice for choice in choices if _mentions(part, choice)]
        longest = [choice for choice in mentioned if not any(choice != o and choice in o for o in mentioned)]
        if len(longest) == 1:
            return longest[0]
    return text


def _denies(sentence: str) -> bool:
    return bool(_NEGATION.search(sentence)) and not _REFUSAL.search(sentence)


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+|\n+", text.strip())


def _conclusion(text: str) -> str:
    """Return the last sentence that draws a conclusion, else of a short text the first one, of a longer one all."""
    sentences = _sentences(text)
    drawn = [sentence for sentence in sentences if _CONCLUDES.match(sentence)]
    return drawn[-1] if drawn else text


def _mentions(text: str, choice: str, at_start: bool = False) -> bool:
    pattern = rf"(?<![\w.]){re.escape(choice)}(?!\w|\.[0-9])"
    found = re.match(pattern, text, re.IGNORECASE) if at_start else re.search(pattern, text, re.IGNORECASE)
    return found is not None


def _number(text: str, stated: bool) -> str:
    """Return the number of a text in digits: the first one of a stated answer or of a count, else the last one."""
    text = plain_characters(text)
    number = plain_number(text.rstrip("%").strip(" $"))
    if number is not None:
        return repr(number)
    counted = None if stated else _COUNTED.match(text)
    if counted:
        text, stated = counted[1], _ADDS_UP.search(counted[1]) is None
    sides = re.split(r"=|\u2248|\\approx", text)
    result = sides[0] if stated and plain_number(sides[0]) is not None else sides[-1]  # "20 = 4 * 5", "12 + 8 = 20"
    text = result if any(map(str.isdigit, result)) else text
    found = _numbers(text)
    if counted or not found:
        found += [(match.start(), str(_WORDS[match[0].lower()])) for match in _WORD.finditer(text)]
    return (min if stated else max)(found)[1] if found else ""


def _numbers(text: str) -> list[tuple[int, str]]:
    """Return (place, digits) of the numbers in a text."""
    found: list[tuple[int, str]] = []
    place = 0
    while begin := _NUMBER.search(text, place):
        value, place = number_at(text, begin.start()) or (None, begin.end())
        if value is not None:
            written = text[begin.start() : place].replace(",", "")
            found.append((begin.start(), repr(float(value)) if plain_number(written) is None else written))
    return found
