"""Option letters as lmms-eval reads them where a task uses its common reader (Video-MME among them)."""

from __future__ import annotations

from collections.abc import Sequence

_PHRASES = (
    *("the answer is", "answer is", "the correct answer is", "correct answer is", "the best answer is"),
    *("best answer is", "the correct option is", "correct option is", "the best option is", "best option is"),
    *("the choice is", "choice is", "the correct choice is", "correct choice is", "i choose", "i select", "i pick"),
    *("my answer is", "my choice is", "옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)
_MARKED = (("({})", 6), ("{}.", 5), ("{}:", 4), ("{})", 3), ("{} ", 2))
"""Forms of a letter and their rank."""
_STARTS, _ENDS, _AFTER_PHRASE, _ANYWHERE = 10, 9, 7, 0
"""Ranks of a letter that begins or ends the answer, that follows a phrase, and of any."""


def lmms_letter(text: str, letters: Sequence[str] = "ABCDEFGH") -> str:
    """Return the option letter of an answer, "" where none is found.

    Outer signs are stripped, one kind after the other. The letter of the highest rank counts: alone at the start, alone
    at the end, behind a phrase such as "the answer is", "(B)", "B.", "B:", "B)", "B ", and else any. Of one rank the
    last in the text. Letters are capitals.

    Source: lmms-eval commit 75571cf, tasks/_task_utils/mcq_extract.py.
    """
    words = text.strip()
    for sign in ",.!?;:'\"":
        words = words.strip(sign)
    if not text.strip():
        return ""
    padded, bare = f" {words} ", words.strip()
    found = [
        (rank, padded.rfind(form.format(letter)), letter)
        for form, rank in _MARKED
        for letter in letters
        if form.format(letter) in padded
    ]
    low = padded.lower()
    for phrase in _PHRASES:
        if (place := low.find(phrase)) >= 0:
            behind = ((padded.find(letter, place + len(phrase)), letter) for letter in letters)
            found += [(_AFTER_PHRASE, at, letter) for at, letter in behind if at >= 0]
    for letter in letters:
        if bare.startswith(letter) and not bare[1:2].isalpha():
            found.append((_STARTS, 0, letter))
    for letter in letters:
        if bare.endswith(letter) and not bare[-2:-1].isalpha():
            found.append((_ENDS, len(padded) - 1, letter))
    found = found or [(_ANYWHERE, padded.rfind(letter), letter) for letter in letters if letter in padded]
    return max(found, key=lambda item: item[:2])[2] if found else ""
