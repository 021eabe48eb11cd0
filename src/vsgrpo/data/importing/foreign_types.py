"""Question types of other projects under our names: by what a file calls them, else by the sentence."""

from __future__ import annotations

import re
from typing import Any

from vsgrpo.spatial.scoring import CHOICE_TYPES, DIRECTION_TYPES, NUMBER_TYPES

_KNOWN_TYPES = {name: name for name in (*CHOICE_TYPES, *NUMBER_TYPES)} | {
    "object_count": "object_counting",
    "absolute_count": "object_counting",
    "object_size": "object_size_estimation",
    "object_size_est": "object_size_estimation",
    "absolute_size_object": "object_size_estimation",
    "room_size": "room_size_estimation",
    "room_size_est": "room_size_estimation",
    "absolute_size_room": "room_size_estimation",
    "object_distance": "object_abs_distance",
    "absolute_distance": "object_abs_distance",
    "absolute_distance_object": "object_abs_distance",
    "object_absolute_distance": "object_abs_distance",
    "relative_distance": "object_rel_distance",
    "relative_distance_object": "object_rel_distance",
    "object_relative_distance": "object_rel_distance",
    "object_rel_distance_v1": "object_rel_distance",
    "object_rel_distance_v2": "object_rel_distance",
    "object_rel_distance_v3": "object_rel_distance",
    "object_rel_direction_v1": "object_rel_direction_hard",
    "object_rel_direction_v2": "object_rel_direction_medium",
    "object_rel_direction_v3": "object_rel_direction_easy",
    "route_plan": "route_planning",
    "appearance_order": "obj_appearance_order",
    "object_appearance_order": "obj_appearance_order",
}
_FORMS_OF_ANSWER = {
    "multiple_choice",
    "multi_choice",
    "choice",
    "mca",
    "mcq",
    "numerical",
    "number",
    "na",
    "regression",
}
_FORMS_OF_ANSWER |= {"free_form", "open_ended", "ocr", "qa", "video"}
"""What files call the form of an answer: no type of question."""
# What a question asks, by its sentence: for files that do not say the type.
_BY_SENTENCE = (
    (
        "object_counting",
        re.compile(r"^how many [^?]+?(?:\(s\)|are (?:there )?in (?:this|the) (?:room|scene|video))", re.I),
    ),
    ("room_size_estimation", re.compile(r"size of (?:this|the)(?: entire| main)? room", re.I)),
    ("object_size_estimation", re.compile(r"longest dimension", re.I)),
    (
        "object_abs_distance",
        re.compile(
            r"distance between (?!(?:the )?(?:camera|observer|viewer)).+ and (?!(?:the )?(?:camera|observer)).+\(in ",
            re.I | re.S,
        ),
    ),
    ("object_rel_distance", re.compile(r"which of these objects .+ closest to the", re.I | re.S)),
    ("object_rel_direction_hard", re.compile(r"standing (?:by|at|next to|beside) the .+front-left", re.I | re.S)),
    (
        "object_rel_direction_medium",
        re.compile(r"standing (?:by|at|next to|beside) the .+to my left, right, or back", re.I | re.S),
    ),
    (
        "object_rel_direction_easy",
        re.compile(r"standing (?:by|at|next to|beside) the .+to the left or (?:to )?the right of", re.I | re.S),
    ),
    ("obj_appearance_order", re.compile(r"first-time appearance order|order of (?:first )?appearance", re.I)),
    (
        "route_planning",
        re.compile(
            r"\brobot\b.{0,40}?\b(?:beginning|starting|standing|positioned|located)\b.+navigate to", re.I | re.S
        ),
    ),
)


def question_type_of(given: tuple[Any, ...], problem_type: Any, question: str) -> str:
    """Return our name of a type: a known one given, else by the sentence; a type of its own stays as it is.

    Files name the difficulty of directions differently: there the sentence decides.
    """
    names = [_type_name(value) for value in (*given, problem_type) if isinstance(value, str) and value.strip()]
    known = next((_KNOWN_TYPES[name] for name in names if name in _KNOWN_TYPES), None)
    if known is None or known in DIRECTION_TYPES:
        by_sentence = next((name for name, pattern in _BY_SENTENCE if pattern.search(question)), None)
        known = by_sentence if known is None or by_sentence in DIRECTION_TYPES else known
    own = (name for name in names if name not in _FORMS_OF_ANSWER)
    return known or next(own, names[0] if names else "other")


def _type_name(value: str) -> str:
    return re.sub(r"[\s\-/]+", "_", value.strip().lower())
