"""Names of question types in other files: ours, where an alias or the sentence says so, else their own."""

from __future__ import annotations

import re
from typing import Any

from vsgrpo.spatial.question_types import QUESTION_TYPES, type_called

_NUMBERS = (
    (re.compile("camera_displacement|camera_obj_abs_dist"), "m"),  # VLM-3R and VSTI-Bench list candidates beside them
    (re.compile("absolute_direction_object"), "degrees"),  # VSI-590K
)
"""Types of others whose answer is a number, with its unit; a type of ours that has the name or alias comes first."""
_FORMS_OF_ANSWER = ("multiple_choice", "multi_choice", "choice", "mca", "mcq", "numerical", "number", "na")
_FORMS_OF_ANSWER += ("regression", "free_form", "open_ended", "ocr", "qa", "video", "image")
"""Names of forms of an answer: not a type of question."""


def question_type_of(question: str, *given: Any) -> str:
    """Return our name of a type: the first known one given, else by the sentence; a type of its own stays as it is.

    Files name the difficulty of directions differently: there the sentence decides.
    """
    texts = [text for value in given if isinstance(value, str) and (text := value.strip().lower())]
    names = [re.sub(r"[\s\-/]+", "_", text) for text in texts]
    known = next(filter(None, map(type_called, names)), None)
    if known is None or _has_difficulty(known):
        kinds = QUESTION_TYPES.values()
        by_sentence = next((kind.name for kind in kinds if kind.sentence and kind.sentence.search(question)), None)
        known = by_sentence if known is None or (by_sentence and _has_difficulty(by_sentence)) else known
    own = (name for name in names if name not in _FORMS_OF_ANSWER)
    return known or next(own, names[0] if names else "other")


def _has_difficulty(question_type: str) -> bool:
    """Return whether a type is one of several of its task, which files call by different names."""
    return QUESTION_TYPES[question_type].task != question_type


def is_number(question_type: str) -> bool:
    """Return whether answers of a type are numbers, whatever candidates a file lists beside them."""
    kind = QUESTION_TYPES.get(question_type)
    return _number_unit(question_type) is not None if kind is None else kind.answer_kind == "number"


def unit_of(question_type: str) -> str | None:
    """Return the unit that answers of a type are in where the question names none; None for counts and other types."""
    kind = QUESTION_TYPES.get(question_type)
    return _number_unit(question_type) if kind is None else kind.unit


def in_unit(question_type: str, question: str, unit: str | None) -> str:
    """Return the type whose answers are in the unit asked for: sizes in metres are a type of their own.

    The sentence must be of that type too; others keep their name.
    """
    kind = QUESTION_TYPES.get(question_type)
    if kind is None or unit is None or kind.unit == unit:
        return question_type
    others = (other for other in QUESTION_TYPES.values() if other.unit == unit and other.sentence)
    return next((other.name for other in others if other.sentence and other.sentence.search(question)), question_type)


def _number_unit(name: str) -> str | None:
    return next((unit for pattern, unit in _NUMBERS if pattern.fullmatch(name)), None)
