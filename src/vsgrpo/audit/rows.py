"""What the audit sees of a row, and the slots of a question: the words that differ between questions of one wording."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_STANDING = r"standing by the (?P<standing>.+?)"
_KNOWN = tuple(
    re.compile(text, re.IGNORECASE | re.DOTALL)
    for text in (
        r"how many (?P<a>.+?)\(s\) and (?P<b>.+?)\(s\) ?(?:are )?in (?:the|this) (?:room|scene)",
        r"how many (?P<a>.+?)(?:\(s\))? ?(?:are )?(?:there )?in th[ei]s? (?:room|scene)",
        r"longest dimension \(length, ?width, or height\) of the (?P<a>.+?), measured",
        r"distance between the (?P<a>.+?) and the (?P<b>.+?) \(in meters\)",
        r"which of these objects \(.+?\) ?is the (?:closest|farthest) (?:to|from) the (?P<anchor>.+?)\?",
        _STANDING + r" with the (?P<facing>.+?) behind me,? is the (?P<target>.+?) to (?:the|my) ",
        _STANDING + r" and facing the (?P<facing>.+?),? is the (?P<target>.+?) to (?:the|my) ",
        r"beginning (?:at|by) the (?P<standing>.+?)(?: and)? facing (?:to )?the (?P<facing>.+?)\. "
        r"you want to navigate to the (?P<target>.+?)\.",
        r"appearance order of the following categories",
        r"places of the camera (?P<first>.+?) and (?P<second>(?:in|at) .+?)\?",
        r"from where it looks (?P<first>.+?), in which direction does the camera's place (?P<second>.+?) lie",
        r"compared with the view (?P<first>.+?), .+? camera turned (?:to the left or to the right )?(?P<second>.+?)\?",
        r"is the camera from the closest point of the (?P<a>.+?)\?",
        r"which of these objects \(.+?\) is the (?:closest to|farthest from) the camera",
        r"is the (?P<a>.+?) to the left or to the right of the (?P<b>.+?) as the camera sees them",
        r"which is nearer to the camera, the (?P<a>.+?) or the (?P<b>.+?)\?",
        r"is the (?P<a>.+?) in front of the camera, to its left, to its right or behind it",
        r"when is the (?P<a>.+?) (?:first|last) seen",
    )
)
"""The wordings of VSI-Bench, VSI-100k, ReVSI and ours; any other is taken apart by what its questions share."""
_TWO_MOMENTS = ("first", "second")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_TOKEN = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*|\d+(?:\.\d+)?|[^\w\s]")
_COMMON = 0.5
"""A token in this share of a type's questions belongs to their wording."""


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One question with its answer, and nothing of what is seen.

    Attributes:
        id: names the row in lists.
        scene: folds and intervals keep the rows of a scene together.
        options: the words of a choice in the order of the letters; None for numbers.
        answer: the right word, or number text.
        right: place of the right option, None for numbers.
        has_letters: the options are shown with letters, so that a fixed letter is an answer.
    """

    id: str
    question_type: str
    scene: str
    question: str
    options: tuple[str, ...] | None
    answer: str
    right: int | None
    has_letters: bool = True


def slots_of(questions: Sequence[str]) -> list[dict[str, str]]:
    """Return name -> words of the slots of each question of one type, in lower case."""
    found = [_known_slots(question) for question in questions]
    others = [k for k, slots in enumerate(found) if slots is None]
    for k, slots in zip(others, _learned_slots([questions[k] for k in others]), strict=True):
        found[k] = slots
    return [slots or {} for slots in found]


def _known_slots(question: str) -> dict[str, str] | None:
    for pattern in _KNOWN:
        if match := pattern.search(question):
            slots = {name: text.strip().lower() for name, text in match.groupdict().items()}
            return _gap_slots(slots) if set(slots) == set(_TWO_MOMENTS) else slots
    return None


def _gap_slots(slots: dict[str, str]) -> dict[str, str]:
    """Return how far apart two moments are, in whole frames or seconds: the text tells that much."""
    found = [_NUMBER.search(slots[name]) for name in _TWO_MOMENTS]
    first, second = (float(match[0]) if match else 0.0 for match in found)
    return {"gap": str(round(second - first))}


def _learned_slots(questions: Sequence[str]) -> list[dict[str, str]]:
    """Return the runs of words that most of the questions do not share, named by how much of the wording is before.

    Numbers count as wording: a frame or a second names no object.
    """
    texts = [_TOKEN.findall(question.lower()) for question in questions]
    shared = Counter(token for tokens in texts for token in set(tokens))
    found = []
    for tokens in texts:
        slots: dict[str, str] = {}
        place = 0
        for token in tokens:
            if token[0].isdigit() or not token[0].isalpha() or shared[token] >= _COMMON * len(texts):
                place += 1
            else:
                slots[f"s{place}"] = f"{slots.get(f's{place}', '')} {token}".strip()
        found.append(slots)
    return found
