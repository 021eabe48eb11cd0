"""Columns of a record beyond question, answer and media: preferences, thoughts, objects, and what goes into `extra`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vsgrpo.data.importing.answer_values import Refused
from vsgrpo.data.importing.record_names import USED, is_nothing
from vsgrpo.data.importing.record_turns import last_said
from vsgrpo.data.row import LETTERS

_OURS = ("schema_version", "split", "room", "answer_kind", "objects", "generator", "extra", "media")
"""Fields of our row schema that are made anew or taken over: no custom columns."""
_REJECTED, _REASONING = ("rejected", "rejected_response"), ("reasoning", "process")
_TAGS = re.compile(r"</?(?:think|observe)>")


def _text(data: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """Return the first of some columns that holds a text, None where none does."""
    said = (last_said(data.get(name)) for name in names)
    return next((value.strip() for value in said if isinstance(value, str) and value.strip()), None)


def given_reasoning(data: Mapping[str, Any]) -> str | None:
    """Return the thought of a column without its tags, None where there is none."""
    text = _text(data, _REASONING)
    return None if text is None else _TAGS.sub("", text).strip() or None


def given_rejected(data: Mapping[str, Any], words: Sequence[str] | None) -> str | None:
    """Return the wrong answer of a preference, as it would be said: the word of an option's letter."""
    text, options = _text(data, _REJECTED), words or ()
    return options[LETTERS.index(text)] if text is not None and text in LETTERS[: len(options)] else text


def given_room(data: Mapping[str, Any]) -> str | None:
    """Return the room of a row that export-data wrote; elsewhere a column of this name may say "kitchen"."""
    return _text(data, ("room",)) if _text(data, ("source_row",)) is not None else None


def given_objects(data: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Return the objects asked about, where a row of ours lists them."""
    listed = data.get("objects")
    if not isinstance(listed, list) or not all(isinstance(x, Mapping) and "instance_id" in x for x in listed):
        return ()
    return tuple(dict(item) for item in listed)


def custom_columns(data: Mapping[str, Any], notes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns without meaning here, with our notes on what the row itself cannot say.

    If a column with the name of a note holds another value, that stays and the note is `imported_NAME`.
    """
    known = {*USED, *_REJECTED, *_REASONING}
    if "schema_version" in data:  # a row of ours that lacks some fields
        known |= {*_OURS}
    if given_objects(data):
        known |= {"objects"}
    inner = data.get("extra") if "schema_version" in data and isinstance(data.get("extra"), Mapping) else {}
    columns = {**(inner or {}), **{key: value for key, value in data.items() if key not in known}}
    extra = {str(key): plain_value(value) for key, value in columns.items() if not isinstance(value, bytes)}
    for name, value in notes.items():
        if value is not None:
            is_taken = not is_nothing(extra.get(name)) and extra[name] != value
            extra[f"imported_{name}" if is_taken else name] = value
    return extra


def plain_value(value: Any, depth: int = 0) -> Any:
    """Return a value as JSON has it: NaN as null, bytes left out, dates and other types as text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if depth > 100:
        raise Refused("breaks the row schema", "nested too deeply")
    if isinstance(value, Mapping):
        return {str(key): plain_value(inner, depth + 1) for key, inner in value.items() if not isinstance(inner, bytes)}
    if isinstance(value, list | tuple):
        return [plain_value(inner, depth + 1) for inner in value if not isinstance(inner, bytes)]
    return str(value)
