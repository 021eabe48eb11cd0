"""Values of any JSON type in rows: shown in messages, and whether a file can hold them."""

from __future__ import annotations

import json
import math
from typing import Any

_MAX_DEPTH = 50
"""Levels of lists and objects inside `generator` and `extra`."""


def short_json(value: Any) -> str:
    """Return a value as JSON for a message, at most 80 characters."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str).encode(errors="replace").decode()
    except (RecursionError, TypeError, ValueError):
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def is_plain(values: dict[Any, Any]) -> bool:
    """Return whether an object holds only ASCII texts, whole numbers, booleans and null: the common case."""
    for key, value in values.items():
        if type(key) is not str or not key.isascii():
            return False
        if not (value.isascii() if type(value) is str else value is None or type(value) in (int, bool)):
            return False
    return True


def json_fault(value: Any, depth: int = 0) -> str | None:
    """Return why a value cannot be written as JSON in UTF-8, or None where it can."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return "holds half a character (a lone surrogate)"
    elif isinstance(value, dict | list | tuple):
        if depth == _MAX_DEPTH:
            return f"is nested more than {_MAX_DEPTH} levels deep"
        if isinstance(value, dict) and not all(isinstance(key, str) for key in value):
            return "has a key that is no string"
        inner = [*value, *value.values()] if isinstance(value, dict) else value
        return next(filter(None, (json_fault(item, depth + 1) for item in inner)), None)
    elif isinstance(value, float) and not math.isfinite(value):
        return f"{value} is no JSON number"
    elif value is not None and not isinstance(value, int | float):
        return f"holds a {type(value).__name__}"
    return None
