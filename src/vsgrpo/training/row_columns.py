"""Columns of a row that only reward functions ask for: `extra`, `objects`, and every custom column by its name.

Values of any JSON type differ from row to row, which a table of columns cannot hold: a row carries them as JSON in one
text column, and they become columns when rewards are computed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vsgrpo.data.row import Row

CARRIED = "row_columns"
PRIVILEGED = "privileged"
"""Column with the text of a row's scene that a teacher reads (GPD); rewards do not get it."""
ALWAYS = ("id", "room", "split", "reasoning", "generator", "objects", "extra")
_TAKEN = {
    *ALWAYS,
    CARRIED,
    PRIVILEGED,
    "prompt",
    "prompts",
    "completion",
    "completions",
    "completion_ids",
    "trainer_state",
}
_TAKEN |= {"log_extra", "log_metric", "environments", "system", "row_key", "media", "video", "prompt_mode", "options"}
_TAKEN |= {"dataset", "scene_name", "question_type", "question", "ground_truth", "answer", "answer_kind", "unit"}
_TAKEN |= {
    "token_range",
    "overlong_tokens",
    "max_completion_length",
    "pair",
    "numeric",
    "allow_empty",
    "length_words",
    "show_options",
}
"""Names that mean something else to reward functions; a custom column of that name is in `extra` alone."""


def custom_names(rows: Iterable[Row]) -> tuple[str, ...]:
    """Return the names in `extra` that become columns of their own: of any row, in alphabetical order."""
    names = {name for row in rows for name in row.extra}
    return tuple(sorted(name for name in names if name.isidentifier() and name not in _TAKEN))


def carried(row: Row, names: Sequence[str]) -> str:
    """Return the values of a row as JSON; a custom column that it lacks is null."""
    values = {name: getattr(row, name) for name in ALWAYS}
    return json.dumps({**{name: row.extra.get(name) for name in names}, **values}, ensure_ascii=False)


def with_columns(inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of a table with the columns that they carry."""
    known: dict[str, dict[str, Any]] = {}
    found = []
    for row in inputs:
        text = row[CARRIED]
        if text not in known:  # a group's rows are alike
            known[text] = json.loads(text)
        found.append(
            {**{name: value for name, value in row.items() if name not in (CARRIED, PRIVILEGED)}, **known[text]}
        )
    return found
