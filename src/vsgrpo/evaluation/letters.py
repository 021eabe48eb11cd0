"""Option letters of an answer, as the public harnesses read them.

- `easi_letter`: EASI and VLMEvalKit's spatial benchmarks (SITE, MMSI, MindCube, ViewSpatial, EmbSpatial): the answer
  tag, then the last line that names one letter.
- `vlmevalkit_letter`: VLMEvalKit without a judge model (BLINK, 3DSRBench): the one option's letter among the words, or
  the one option's text.
- `leading_letter`: lmms-eval (BLINK, EmbSpatial): the first character behind "(" and blanks.

Source: VLMEvalKit e8e78f05 (vlmeval/dataset/utils/spatial_bench/matching_func.py, vlmeval/utils/matching_util.py),
lmms-eval 75571cf (lmms_eval/tasks/blink, embspatial). The functions agree with them on every text, their oddities
included; none raises on a model's text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from string import ascii_uppercase

REFUSED = "Z"
"""`vlmevalkit_letter` of an answer that refuses: never an option's letter."""

_INVISIBLE = dict.fromkeys((0x200B, 0x200C, 0x200D, 0xFEFF))
_TAIL_CHARACTERS, _TAIL_LINES = 800, 6
_ANSWER_TAG = re.compile(r"<\s*answer\b[^>]*>\s*([A-J]).*?<\s*/\s*answer\s*>", re.IGNORECASE | re.DOTALL)
_CLOSED = r"(?<![A-Za-z])([A-F])\s*[)\]}）】]?\s*</\s*%s\s*>"
_BEFORE_CLOSING = [re.compile(_CLOSED % tag, re.IGNORECASE) for tag in ("answer", "think")]
_THINK_END, _THINK_START = (re.compile(rf"<{slash}\s*think\s*>", re.IGNORECASE) for slash in (r"/", ""))
_OPTION_LINE = re.compile(r"^[*_>\-\s]*(?:option|选项)\s+[A-J]\s*[:：]", re.IGNORECASE)
_LETTER_ALONE = re.compile(r"[*_`>（）\[\]【】()]*\s*([A-Fa-f])\s*[*_`（）\[\]【】()]*")
_LETTER_FIRST = re.compile(r"([A-F])\s*[.．:：)\]】、-]\s+", re.IGNORECASE)
_LETTER_IN_LINE = re.compile(r"(?<![A-Za-z])([A-F])\s*[*_`）\]})]*(?=$|[\s.,:;!?)\]】》」』，。；、：）])")
_PHRASES = r"final\s*answer|the\s*answer\s*is|answer(?:\s*is)?|correct\s*answer"
_PHRASES += "|答案|最终答案|结论|所以|因此|我选(?:择)?|选择|选"
_AFTER_PHRASE = re.compile(
    rf"(?:{_PHRASES})\s*[:：>＝=]?\s*[(\[{{（【]?\s*([A-F])\s*[)\]}}）】]?(?:\b|[.)、。])", re.IGNORECASE
)
_LETTER_ANYWHERE = re.compile(r"(?<![A-Za-z])([A-F])(?![A-Za-z])")


def easi_letter(text: str) -> str | None:
    """Return the letter "A".."F" (of an answer tag: "A".."J") that EASI reads from an answer, None for none.

    The first that is found counts: what an `<answer>` tag begins with; the letter before `</answer>` or `</think>`; the
    last of six lines behind the thoughts, then of all, that names exactly one letter; the letter behind "the answer
    is" and the like; the only capital letter that stands alone in the whole text.
    """
    text = text.strip().translate(_INVISIBLE)
    tail = text[-_TAIL_CHARACTERS:]
    found = _ANSWER_TAG.search(text)
    for pattern in _BEFORE_CLOSING:
        found = found or pattern.search(tail)
    if found:
        return found[1].upper()
    for part in (_behind_thoughts(text), tail):
        if letter := _last_named(part.splitlines()[-_TAIL_LINES:]):
            return letter
    if found := _AFTER_PHRASE.search(text):
        return found[1].upper()
    kept = "\n".join(line for line in text.splitlines() if not _OPTION_LINE.search(line))
    return _only(_LETTER_ANYWHERE.findall(kept))


def _behind_thoughts(text: str) -> str:
    """Return the text behind the last `</think>`, else behind the last `<think>`, else all of it."""
    for pattern in (_THINK_END, _THINK_START):
        if ends := [match.end() for match in pattern.finditer(text)]:
            return text[ends[-1] :].strip()
    return text


def _last_named(lines: Iterable[str]) -> str | None:
    """Return the letter of the last line that names exactly one; lines that list an option do not count."""
    for line in reversed([stripped for line in lines if (stripped := line.strip())]):
        if _OPTION_LINE.search(line):
            continue
        if found := _LETTER_ALONE.fullmatch(line) or _LETTER_FIRST.match(line):
            return found[1].upper()
        if letter := _only(_LETTER_IN_LINE.findall(line)):
            return letter
    return None


def _only(letters: Iterable[str]) -> str | None:
    """Return the letter if all are the same one, else None."""
    different = set(letters)
    return different.pop() if len(different) == 1 else None


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


def vlmevalkit_letter(text: str, options: Sequence[str]) -> str | None:
    """Return the letter that VLMEvalKit reads without a judge model, `REFUSED`, or None.

    If exactly one option's letter is among the words, it counts where its first use is one of the last four words. Then
    the letter behind "answer is". Then the option whose text is in the answer, if it is the only one.

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
        return None
    said = [letter for letter, option in zip(letters, options, strict=True) if option.lower() in lower]
    return said[0] if len(said) == 1 else None


_LEADING = re.compile(r"[(\s]*([A-Z])", re.IGNORECASE)


def leading_letter(text: str) -> str | None:
    """Return the first letter of an answer behind "(" and blanks, whatever follows; None where another sign is first.

    "The answer is B" gives "T", which is no option: the prompt asks for the letter alone.
    """
    found = _LEADING.match(text.strip())
    return found[1].upper() if found else None
