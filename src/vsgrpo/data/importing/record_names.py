"""Names of columns in the files of other projects, and what a column says."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

_TURNS = ("chosen", "completion")
# Our field -> the names it has elsewhere, in the order they are looked for.
NAMES = {
    "id": ("id", "problem_id", "question_id"),
    "question": ("question", "problem", "prompt", "query", "instruction"),
    "answer": ("ground_truth", "solution", "answer", "gt_answer", "gt", "response", "output", "label", *_TURNS),
    "letter": ("mc_answer",),
    "options": ("options", "choices"),
    "question_type": ("original_question_type", "question_type", "task_type", "task"),
    "scene": ("scene_name", "scene_id", "scene", "scan_id", "scan", "video_id"),
    "video": ("video", "video_path", "path", "videos"),
    "image": ("image", "images", "image_path", "image_paths"),
    "dataset": ("dataset", "data_source"),
    "media_kind": ("data_type",),
    "turns": ("conversations", "messages"),
}
IMAGE_PAIR = ("image_a", "image_b")
"""Columns of the two views of Holi-Spatial."""
USED = frozenset(name for names in NAMES.values() for name in names) | {"reward_model", *IMAGE_PAIR}


def column(data: Mapping[str, Any], name: str) -> Any:
    """Return the value of the first column that has one of our field's `NAMES`."""
    return first(data, NAMES[name])


def first(data: Mapping[str, Any], names: Sequence[str]) -> Any:
    """Return the first value that is not null, NaN, empty text or an empty list."""
    for name in names:
        if name in data and not is_nothing(value := data[name]):
            return value
    return None


def is_nothing(value: Any) -> bool:
    """Tell whether a column says nothing: null, NaN, empty text or an empty list."""
    return value is None or value == "" or value == [] or (isinstance(value, float) and math.isnan(value))


def parsed(value: Any) -> Any:
    """Return what a JSON string of a list or object holds; other values as they are."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value
