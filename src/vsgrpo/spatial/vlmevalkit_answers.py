"""Read a model's text as VLMEvalKit (the harness of the EASI leaderboard) does without a judge model.

`easi_letter` reads the option letter and `easi_number` the number of its spatial benchmarks: tags and thoughts first,
then the end of the text, so a long answer is judged by its conclusion. `vlmevalkit_letter` reads the letter of its
other benchmarks (BLINK, 3DSRBench) from words and the texts of the options. No text raises.

Source: VLMEvalKit commit e8e78f05, vlmeval/dataset/utils/spatial_bench/matching_func.py (can_match_option without
choices, can_match_na), vlmeval/utils/matching_util.py (can_infer). Written anew from its rules and compared with it on
200,000 generated texts.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from string import ascii_uppercase

_ZERO_WIDTH = re.compile("[\u200b\u200c\u200d\ufeff]")
_NUMBER = r"[-+]?(?:\d*\.\d+|\d+)(?:[eE][-+]?\d+)?"
_NUMBERS = re.compile(_NUMBER)
_ANSWER_OPENS = re.compile(r"<\s*answer\b", re.IGNORECASE)
_ANSWER_CLOSES = re.compile(r"<\s*/\s*answer\s*>", re.IGNORECASE)
_NUMBER_IN_TAG = re.compile(rf"\s*({_NUMBER})(?:[^\d<][^<]*)?<\s*/\s*answer\s*>", re.IGNORECASE)
_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
_WORD_VALUES = {word: str(value) for value, word in enumerate(_WORDS)}
_NUMBER_WORDS = re.compile(rf"\b({'|'.join(_WORDS)})\b", re.IGNORECASE)
_THOUGHT_END = re.compile(r"</\s*think\s*>", re.IGNORECASE)
_THOUGHT_START = re.compile(r"<\s*think\s*>", re.IGNORECASE)

_TAIL = 800
"""Characters at the end of a text that are searched."""
_TAIL_LINES = 6
_OPEN, _CLOSE = "[([{\uff08\u3010]", "[)\\]}\uff09\u3011]"
"""One opening and one closing bracket, Chinese ones too."""
_LETTER_IN_TAG = re.compile(r"\s*+([A-J])", re.IGNORECASE)
# No text is searched in time that grows with the square of its length: a run of spaces, brackets or digits is taken
# whole (`*+`), and only where a match can begin.
_BEFORE_TAG = tuple(
    re.compile(rf"(?<![A-Za-z])([A-F])\s*+{_CLOSE}?\s*+</\s*{tag}\s*>", re.IGNORECASE) for tag in ("answer", "think")
)
_LISTED = re.compile("^[*_>\\-\\s]*(?:option|\u9009\u9879)\\s+[A-J]\\s*[:\uff1a]", re.IGNORECASE)
"""A line that repeats an option of the question ("Option A: ...")."""
_WHOLE_LINE = re.compile(
    "\\s*+[*_`>\uff08\uff09\\[\\]\u3010\u3011()]*+\\s*+([A-Fa-f])\\s*+[*_`\uff08\uff09\\[\\]\u3010\u3011()]*+\\s*+"
)
_LINE_START = re.compile("\\s*([A-F])\\s*[.\uff0e:\uff1a)\\]\u3011\u3001-]\\s+", re.IGNORECASE)
_IN_LINE = re.compile(
    "(?<![A-Za-z])([A-F])[*_`\uff09\\]})]*(?=$|[\\s.,:;!?)\\]\u3011\u300b\u300d\u300f\uff0c\u3002\uff1b\u3001\uff1a\uff09])"
)
_CONCLUSION = re.compile(
    "(?:final\\s*answer|the\\s*answer\\s*is|answer(?:\\s*is)?|correct\\s*answer|"
    "\u7b54\u6848|\u6700\u7ec8\u7b54\u6848|\u7ed3\u8bba|\u6240\u4ee5|\u56e0\u6b64|\u6211\u9009(?:\u62e9)?|\u9009\u62e9|\u9009)"
    f"\\s*+[:\uff1a>\uff1d=]?\\s*+{_OPEN}?\\s*+([A-F])\\s*{_CLOSE}?(?:\\b|[.)\u3001\u3002])",
    re.IGNORECASE,
)
_ANYWHERE = re.compile("(?<![A-Za-z])([A-F])(?![A-Za-z])")


def easi_letter(text: str) -> str:
    """Return the option letter of an answer, "" where none is found.

    In this order: the letter in `<answer>` tags; a letter just before `</answer>` or `</think>`; the last lines after
    the thought, from the last upwards (a line that is a letter, "B. ...", or has one letter only); the same lines of
    the whole text; a phrase such as "the answer is B"; the only letter in the text. Letters are A to F, in tags to J.
    """
    text = _ZERO_WIDTH.sub("", text.strip())
    if (tagged := _letter_in_tags(text)) is not None:
        return tagged
    for pattern in _BEFORE_TAG:
        if found := pattern.search(text[-_TAIL:]):
            return found[1].upper()
    for part in (_after_thought(text), text[-_TAIL:]):
        if letter := _letter_of_lines(part.splitlines()[-_TAIL_LINES:]):
            return letter
    if found := _CONCLUSION.search(text):
        return found[1].upper()
    rest = "\n".join(line for line in text.splitlines() if not _LISTED.search(line))
    return _only(_ANYWHERE.findall(rest))


def easi_number(text: str) -> float | None:
    """Return the number of an answer, None where there is none.

    In this order: the number that begins the text in `<answer>` tags; the last number after the thought; the last one
    of all. English words up to twenty are numbers. Of a text that is a list ("[3, 4]") the first item is read.
    """
    if text.strip().startswith("[") and text.strip().endswith("]"):
        try:
            items = ast.literal_eval(text)
            text = str(items[0]) if isinstance(items, list) and items else text
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            return None
    text = _NUMBER_WORDS.sub(lambda word: _WORD_VALUES[word[1].lower()], _ZERO_WIDTH.sub("", text.strip()))
    for start in _tag_contents(text):
        if tagged := _NUMBER_IN_TAG.match(text, start):
            return float(tagged[1])
    numbers = _NUMBERS.findall(_after_thought(text)) or _NUMBERS.findall(text)
    return float(numbers[-1]) if numbers else None


def _tag_contents(text: str) -> Iterator[int]:
    """Yield where the content of each `<answer ..>` tag begins."""
    start = 0
    while (end := text.find(">", start)) >= 0:
        if _ANSWER_OPENS.search(text, start, end):
            yield end + 1
        start = end + 1


def _letter_in_tags(text: str) -> str | None:
    """Return the letter that begins the content of the first `<answer ..>` tag that begins so and is closed."""
    for start in _tag_contents(text):
        if found := _LETTER_IN_TAG.match(text, start):
            return found[1].upper() if _ANSWER_CLOSES.search(text, found.end()) else None
    return None


def _after_thought(text: str) -> str:
    """Return what follows the last `</think>`, or the last `<think>` where none is closed; all of it without tags."""
    ends = list(_THOUGHT_END.finditer(text)) or list(_THOUGHT_START.finditer(text))
    return text[ends[-1].end() :].strip() if ends else text


def _letter_of_lines(lines: list[str]) -> str:
    for line in reversed([line.strip() for line in lines if line.strip()]):
        if _LISTED.search(line):
            continue
        if found := _WHOLE_LINE.fullmatch(line) or _LINE_START.match(line):
            return found[1].upper()
        if letter := _only(_IN_LINE.findall(line)):
            return letter
    return ""


def _only(letters: list[str]) -> str:
    return letters[0] if len(set(letters)) == 1 else ""


REFUSED = "Z"
"""What `vlmevalkit_letter` reads in an answer that refuses; no option has this letter."""
_NO_ANSWER = "Failed to obtain answer via API"
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_PUNCTUATION = str.maketrans(".()[],:;!*#{}", " " * 13)
_ANSWER_IS = re.compile(r"answer\s+is\s+\**([ABCD])", re.IGNORECASE)
_LAST_WORDS = 4


def vlmevalkit_letter(text: str, options: Sequence[str]) -> str:
    """Return the option letter of an answer, `REFUSED`, or "" where none is found.

    If exactly one option's letter is among the words, it counts where its first use is one of the last four words. Then
    the letter behind "answer is", even if a word begins with it. Then the only option whose text is in the answer.

    Args:
        options: texts of the options in the order of their letters.
    """
    letters = ascii_uppercase[: len(options)]
    if _NO_ANSWER not in text:
        if any(refusal in text for refusal in _REFUSALS):
            return REFUSED
        words = text.translate(_PUNCTUATION).split()
        named = [letter for letter in letters if letter in words]
        if len(named) == 1 and words.index(named[0]) >= len(words) - _LAST_WORDS:
            return named[0]
        if not named and REFUSED in words:
            return REFUSED
        if (found := _ANSWER_IS.search(text)) and found[1].upper() in letters:
            return found[1].upper()
    lower = text.lower()
    if len(lower) > 2 * sum(map(len, options)):
        return ""
    said = [letter for letter, option in zip(letters, options, strict=False) if option.lower() in lower]
    return said[0] if len(said) == 1 else ""
