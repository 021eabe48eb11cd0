"""Names of question types in the files of other projects, and ours for them.

Most are aliases of the types themselves (`spatial.question_types`). Here are those that the sentence must decide, those
of a form of answer, and those that another name or another unit makes one of ours.
"""

from __future__ import annotations

import re
from typing import Any

from vsgrpo.spatial.question_types import QUESTION_TYPES, type_called

_OURS = {
    # VSI-590K; its other types are aliases
    "absolute_direction_object": "object_abs_direction",
    "relative_size_object": "object_rel_size",
    "relative_count": "object_rel_count",
    "relative_distance_camera": "camera_nearest",
    "relative_direction_camera": "object_where_now",
    # ReVSI
    "object_counting_single": "object_counting",
    "room_size_estimation_single": "room_size_estimation",
    "room_size_estimation_multiple": "room_size_estimation",
    "object_rel_distance_closest": "object_rel_distance",
    "object_rel_direction_forward_easy": "object_rel_direction_easy",
    "object_rel_direction_forward_hard": "object_rel_direction_hard",
    "object_rel_direction_backward_easy": "object_rel_direction_backward",
    "object_rel_direction_backward_hard": "object_rel_direction_backward",
    # SPAR-7M
    "obj_count": "object_counting",
}
_BY_SENTENCE = tuple(f"object_rel_direction_{difficulty}" for difficulty in ("easy", "medium", "hard"))
"""Files name the difficulty of directions differently: there the sentence decides."""
_BACKWARD = re.compile(r"opposite direction of|\bbehind me\b", re.IGNORECASE)
_NUMBERS = {
    "object_abs_direction": "degrees",
    "camera_displacement": "m",
    "camera_obj_abs_dist": "m",
    "camera_object_distance": "m",
    "camera_turn_angle": "degrees",
}
"""Types whose answer is a number although files list candidates beside it: VSTI-Bench's and VLM-3R's, and ours."""
_IN_OTHER_UNITS = {("object_size_estimation", "m"): "object_size_in_meters"}
_FORMS_OF_ANSWER = ("multiple_choice", "multi_choice", "choice", "mca", "mcq", "numerical", "number", "na")
_FORMS_OF_ANSWER += ("regression", "free_form", "open_ended", "ocr", "qa", "video")
"""Names of forms of an answer: not a type of question."""


def question_type_of(question: str, *given: Any) -> str:
    """Return our name of a type: the first known one given, else by the sentence; a type of its own stays as it is."""
    texts = [text for value in given if isinstance(value, str) and (text := value.strip().lower())]
    names = [re.sub(r"[\s\-/]+", "_", text) for text in texts]
    known = next(filter(None, (type_called(name) or _OURS.get(name) for name in names)), None)
    if known is None or known in _BY_SENTENCE:
        kinds = QUESTION_TYPES.values()
        said = next((kind.name for kind in kinds if kind.sentence and kind.sentence.search(question)), None)
        if said in _BY_SENTENCE and _BACKWARD.search(question):
            said = "object_rel_direction_backward"
        known = said if known is None or (said or "").startswith("object_rel_direction_") else known
    own = (name for name in names if name not in _FORMS_OF_ANSWER)
    return known or next(own, names[0] if names else "other")


def is_number(question_type: str) -> bool:
    """Return whether answers of a type are numbers, whatever candidates a file lists beside them."""
    kind = QUESTION_TYPES.get(question_type)
    return question_type in _NUMBERS if kind is None else kind.answer_kind == "number"


def unit_of(question_type: str) -> str | None:
    """Return the unit that answers of a type are in where the question names none; None for counts and other types."""
    kind = QUESTION_TYPES.get(question_type)
    return _NUMBERS.get(question_type) if kind is None else kind.unit


def in_unit(question_type: str, unit: str | None) -> str:
    """Return the name of a type whose question asks for another unit: sizes in metres are a type of their own."""
    other = _IN_OTHER_UNITS.get((question_type, unit or ""), question_type)
    return other if other in QUESTION_TYPES else question_type
