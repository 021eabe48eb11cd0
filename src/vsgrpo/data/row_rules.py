"""Rules of the row schema for every field, each written once, for reading, writing and `check-data`.

`check_row` raises at the first fault of a row, `row_faults` returns all of them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NoReturn

from vsgrpo.data.row import ANSWER_KINDS, LETTERS, MEDIA_KINDS, SCHEMA_VERSION, Row
from vsgrpo.errors import DataError
from vsgrpo.paths import path_fault
from vsgrpo.spatial.answers import normalize_word, official_number
from vsgrpo.spatial.question_types import answer_kind_of, type_names

_REQUIRED_TEXT = ("id", "dataset", "split", "scene_name", "room", "question_type", "question", "ground_truth", "answer")
_OPTIONAL_TEXT = ("unit", "rejected", "reasoning")
_SPOKEN = ("question", "ground_truth", "answer", "rejected", "reasoning")
"""Fields whose text reaches the model, besides the options."""
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)
_SMALLEST, _LARGEST = 1e-100, 1e100
"""Between these, ratios and squares of numbers stay finite."""
_MAX_DEPTH = 50
"""Levels of lists and objects inside `generator` and `extra`."""
IS_MISSING = "is missing"
_SPECIAL = re.compile(r"<\|[A-Za-z0-9_]+\|>|</?tool_(?:call|response)>")
"""Tokens that the tokenizers of the Qwen-VL families read as structure, wherever they are in a text."""


class RowError(DataError):
    """A row breaks a rule.

    Attributes:
        rule: field and rule without the value, equal for all rows that break it in the same way.
    """

    def __init__(self, where: str, field: str, rule: str, hint: str, shown: str = "") -> None:
        joint = " " if rule == IS_MISSING else ": "
        super().__init__(
            f"{where}: {field}{shown}{joint}{rule}", hint or "compare with the row schema in data/README.md"
        )
        self.rule = f"{field}{joint}{rule}"


_Check = Callable[["Row", str], None]
_MISSING = object()


def check_row(row: Row, where: str) -> None:
    """Check every field of a row.

    Raises:
        RowError: the first rule it breaks.
    """
    for check, _ in _CHECKS_OF_PLAIN if _has_plain_texts(row) else _CHECKS:
        check(row, where)


def _has_plain_texts(row: Row) -> bool:
    """Tell in one look whether all texts are ASCII, none blank and none with a "<": the common case, without fault."""
    texts = [*_required_texts(row), *[text for text in _optional_texts(row) if text is not None]]
    try:
        joined = "\n".join(texts)
    except TypeError:
        return False
    return joined.isascii() and "<" not in joined and all(map(str.strip, texts))


def row_faults(row: Row, where: str, missing: Sequence[str] = ()) -> list[RowError]:
    """Return every rule that a row breaks, in the order of the fields.

    Args:
        missing: fields that are not there: what depends on them is not looked at.
    """
    faults = []
    for check, fields in _CHECKS:
        if not any(name in missing for name in fields):
            try:
                check(row, where)
            except RowError as error:
                faults.append(error)
    return faults


def _check_version(row: Row, where: str) -> None:
    if row.schema_version != SCHEMA_VERSION:
        _fail(where, "schema_version", f"this version writes {SCHEMA_VERSION}", value=row.schema_version)


def _check_text(name: str, *, is_optional: bool) -> _Check:
    def check(row: Row, where: str) -> None:
        value = getattr(row, name)
        if is_optional and value is None:
            return
        if not isinstance(value, str) or not value.strip():
            rule = "must be null or a non-empty string" if is_optional else "must be a non-empty string"
            _fail(where, name, rule, value=value)
        if not value.isascii():
            _check_characters(name, value, where)

    return check


def _check_spoken(name: str) -> _Check:
    def check(row: Row, where: str) -> None:
        value = getattr(row, name)
        if isinstance(value, str) and "<" in value:
            _check_special(name, value, where)

    return check


def _check_special(name: str, text: str, where: str) -> None:
    """Refuse a token that a tokenizer would read as structure: a prompt would end, or a video begin, in the text."""
    if found := _SPECIAL.search(text):
        _fail(where, name, f"holds the special token {found[0]}", "remove it from the row", value=text)


def _check_object(name: str) -> _Check:
    def check(row: Row, where: str) -> None:
        value = getattr(row, name)
        if not isinstance(value, dict):
            _fail(where, name, "must be an object", value=value)
        if (fault := _json_fault(value)) is not None:
            _fail(where, name, fault, "keep plain JSON values there")

    return check


def _check_objects(row: Row, where: str) -> None:
    for item in row.objects:
        if not isinstance(item, dict) or set(item) != {"category", "instance_id"}:
            _fail(where, "objects", "each is {category, instance_id}", value=item)
        if not isinstance(item["category"], str) or type(item["instance_id"]) is not int:
            _fail(where, "objects", "category is a string, instance_id an integer", value=item)
        _check_characters("objects", item["category"], where)


def _check_rejected(row: Row, where: str) -> None:
    """Refuse a wrong answer that is right: the preference would teach nothing, or the opposite."""
    rejected, answer = row.rejected, row.answer
    if not isinstance(rejected, str) or not isinstance(answer, str):
        return
    same = normalize_word(rejected) == normalize_word(answer)
    if row.answer_kind == "number" and not same:
        same = (value := official_number(rejected)) is not None and value == official_number(answer)
    if row.answer_kind == "choice" and isinstance(row.ground_truth, str):
        same = same or normalize_word(rejected) == normalize_word(row.ground_truth)
    if same:
        _fail(where, "rejected", "equals the answer", "a rejected answer must be wrong, or null", value=rejected)


def _check_kind(row: Row, where: str) -> None:
    if row.answer_kind not in ANSWER_KINDS:
        _fail(where, "answer_kind", f"must be one of {', '.join(ANSWER_KINDS)}", value=row.answer_kind)


def _check_options(row: Row, where: str) -> None:
    options = row.options
    if options is None:
        if row.answer_kind == "choice":
            _fail(where, "options", "a choice question needs its candidates", value=None)
        return
    if not isinstance(options, tuple) or not all(isinstance(o, str) and o.strip() for o in options):
        _fail(where, "options", "must be null or a list of non-empty strings", value=options)
    if not 2 <= len(options) <= len(LETTERS):
        _fail(where, "options", f"must hold 2 to {len(LETTERS)} candidates", value=list(options))
    for option in options:
        if not option.isascii():
            _check_characters("options", option, where)
        if "<" in option:
            _check_special("options", option, where)
    if len({normalize_word(option) for option in options}) != len(options):
        _fail(where, "options", "candidates must differ, as words are compared", value=list(options))


def _check_answer(row: Row, where: str) -> None:
    if row.answer_kind == "number":
        for name in ("ground_truth", "answer"):
            _check_number(name, getattr(row, name), where)
    if row.answer_kind == "choice" and isinstance(row.options, tuple):
        letters = LETTERS[: len(row.options)]
        if not isinstance(row.ground_truth, str) or len(row.ground_truth) != 1 or row.ground_truth not in letters:
            _fail(where, "ground_truth", f"must be a letter of {letters}", value=row.ground_truth)
        right = row.options[letters.index(row.ground_truth)]
        if row.answer != right:
            rule = "must be the option that ground_truth names"
            _fail(where, "answer", rule, f"ground_truth={row.ground_truth} is {short_json(right)}", value=row.answer)


def _check_number(name: str, text: str, where: str) -> None:
    if not isinstance(text, str) or number_of(text) is None:
        rule = (
            f"must be a number in plain digits, above 0 (relative errors divide by it), {_SMALLEST:g} to {_LARGEST:g}"
        )
        _fail(where, name, rule, value=text)


def _check_characters(name: str, text: str, where: str) -> None:
    """Refuse half a character, which UTF-8 files cannot hold."""
    if (fault := _json_fault(text)) is not None:
        _fail(where, name, fault, "an emoji was cut in two, write the text again", value=text)


def _is_plain(values: dict[Any, Any]) -> bool:
    """Tell whether an object holds ASCII texts, whole numbers, booleans and null only, none of it nested."""
    for key, value in values.items():
        if type(key) is not str or not key.isascii():
            return False
        if type(value) is str:
            if not value.isascii():
                return False
        elif not (value is None or type(value) is int or type(value) is bool):
            return False
    return True


def _json_fault(value: Any) -> str | None:
    """Return why a value cannot be written as JSON in UTF-8, or None where it can."""
    if isinstance(value, dict) and _is_plain(value):  # the common case, in one look
        return None
    left = [(value, 0)]
    while left:
        item, depth = left.pop()
        if isinstance(item, str):
            try:
                item.isascii() or item.encode()
            except UnicodeEncodeError:
                return "holds half a character (a lone surrogate)"
        elif isinstance(item, dict | list | tuple):
            if depth == _MAX_DEPTH:
                return f"is nested more than {_MAX_DEPTH} levels deep"
            if isinstance(item, dict):
                if not all(isinstance(key, str) for key in item):
                    return "has a key that is no string"
                left += [(key, depth) for key in item]
            left += [(inner, depth + 1) for inner in (item.values() if isinstance(item, dict) else item)]
        elif isinstance(item, float):
            if not math.isfinite(item):
                return f"{item} is no JSON number"
        elif item is not None and not isinstance(item, int):
            return f"holds a {type(item).__name__}"
    return None


def _check_media(row: Row, where: str) -> None:
    if not row.media:
        _fail(where, "media", "a row needs at least one video or image", value=[])
    for item in row.media:
        if not isinstance(item, dict) or set(item) != {"kind", "path"} or item["kind"] not in MEDIA_KINDS:
            _fail(where, "media", "each is {kind: video|image, path}", value=item)
        path = item["path"]
        if not isinstance(path, str) or not path.strip():
            _fail(where, "media.path", "must be a non-empty string", value=path)
        if (fault := path_fault(path)) is not None:
            hint = "put the video or image itself beside the row file (a copy or a hard link)"
            rule = f"{fault}; it must be relative to the row file and below it"
            _fail(where, "media.path", rule, hint, value=path)


def check_scorable(row: Row, where: str) -> None:
    """Raise DataError unless VSI-Bench's scorer can score the row: of a known type, with the answer of that type."""
    kind = answer_kind_of(row.question_type)
    if kind is None:
        hint = f"the types are {', '.join(type_names())}"
        _fail(where, "question_type", "unknown question type", hint, value=row.question_type)
    if row.answer_kind != kind:
        _fail(where, "answer_kind", f"{row.question_type} asks for a {kind}", value=row.answer_kind)
    if kind == "number":
        _check_number("ground_truth", row.ground_truth, where)


def number_of(text: str) -> float | None:
    """Return the number that a label is, None where it is none that an answer can be.

    Plain digits only, above 0 and within 1e-100 .. 1e100: "1_0", Arabic digits, "1e-320", "nan" and " 3" are none.
    """
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    return value if _SMALLEST <= value <= _LARGEST else None


def short_json(value: Any) -> str:
    """Return a value as JSON for a message, at most 80 characters."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str).encode(errors="replace").decode()
    except (RecursionError, TypeError, ValueError):
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def _fail(where: str, field: str, rule: str, hint: str = "", *, value: Any = _MISSING) -> NoReturn:
    raise RowError(where, field, rule, hint, "" if value is _MISSING else f"={short_json(value)}")


_CHECKS_OF_PLAIN: tuple[tuple[_Check, tuple[str, ...]], ...] = (
    (_check_version, ("schema_version",)),
    *((_check_object(name), (name,)) for name in ("generator", "extra")),
    (_check_kind, ("answer_kind",)),
    (_check_options, ("options", "answer_kind")),
    (_check_answer, ("answer_kind", "options", "ground_truth", "answer")),
    (_check_media, ("media",)),
    (_check_objects, ("objects",)),
    (_check_rejected, ("rejected", "answer", "answer_kind", "ground_truth")),
)
"""The rules beyond single texts."""
_CHECKS = (
    _CHECKS_OF_PLAIN[0],
    *((_check_text(name, is_optional=False), (name,)) for name in _REQUIRED_TEXT),
    *((_check_text(name, is_optional=True), (name,)) for name in _OPTIONAL_TEXT),
    *((_check_spoken(name), (name,)) for name in _SPOKEN),
    *_CHECKS_OF_PLAIN[1:],
)
"""Every rule with the fields that it reads, in the order in which faults are reported."""
_required_texts, _optional_texts = attrgetter(*_REQUIRED_TEXT), attrgetter(*_OPTIONAL_TEXT)
