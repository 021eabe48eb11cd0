"""Row schema v1: the record of one question of one video or of images, and the rules for its fields.

Each rule is written once, for reading, writing and check-data.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from vsgrpo.data.json_values import is_plain, json_fault, short_json
from vsgrpo.errors import DataError
from vsgrpo.paths import inside, path_fault
from vsgrpo.spatial.answers import normalize_word, official_number
from vsgrpo.spatial.maps import read_map
from vsgrpo.spatial.question import LETTERS
from vsgrpo.spatial.question_types import counts_things
from vsgrpo.video.place import FilePlace

SCHEMA_VERSION = 1
ANSWER_KINDS = ("number", "choice", "text", "map")
MEDIA_KINDS = ("video", "image")
IS_MISSING = "is missing"
_REQUIRED_TEXT = ("id", "dataset", "split", "scene_name", "room", "question_type", "question", "ground_truth", "answer")
_OPTIONAL_TEXT = ("unit", "rejected", "reasoning")
_SPOKEN = ("question", "ground_truth", "answer", "rejected", "reasoning")
"""Fields whose text reaches the model, besides the options."""
NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)
_SMALLEST, _LARGEST = 1e-100, 1e100
"""Between these, ratios and squares of numbers stay finite."""
SPECIAL = re.compile(r"<\|[A-Za-z0-9_]+\|>|</?tool_(?:call|response)>")
"""Tokens that the tokenizers of the Qwen-VL families read as structure, wherever they are in a text."""
_HINT = "compare with the row schema in data/README.md"
CHOICE_LETTERS = ascii_uppercase
"""Letters of options in rows of benchmarks; `LETTERS` are those of questions that are trained on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One question, field by field as data/README.md describes the row schema.

    Attributes:
        id: stable within a dataset (`row_id`); sampling is keyed by `key`, that is dataset/id.
        room: grouping key for splits and leak checks ("scene0000" of "scene0000_00").
        options: the 2-6 candidates of a choice question without "A. " prefix, in shown order; None otherwise.
        ground_truth: option letter (choice), number text or map.
        answer: what the model is trained to say: word or number text.
        answer_kind: number | choice | text | map.
        unit: "m", "m2", "m3", "cm", "degrees", "s" or None.
        media: {"kind": "video" | "image", "path": relative to the row file}; clips of benchmarks: "start", "end".
        rejected: a wrong answer for DPO, or None.
        reasoning: text to be thought before the answer (think and observe SFT), or None.
        objects: {"category", "instance_id"} of the objects asked about.
        generator: what made the row (version, mode, distance, size_box).
        extra: anything else.
    """

    schema_version: int = SCHEMA_VERSION
    id: str
    dataset: str
    split: str
    scene_name: str
    room: str
    question_type: str
    question: str
    options: tuple[str, ...] | None
    ground_truth: str
    answer: str
    answer_kind: str
    unit: str | None = None
    media: tuple[dict[str, Any], ...]
    rejected: str | None = None
    reasoning: str | None = None
    objects: tuple[dict[str, Any], ...] = ()
    generator: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The name that sampling noise and predictions are keyed by: dataset/id."""
        return f"{self.dataset}/{self.id}"

    def media_paths(self, base: Path) -> tuple[FilePlace, ...]:
        """Return kind and path of each video and image, in the order they are shown; `base` holds the row file."""
        return tuple(
            (item["kind"], media_place(base, item["path"]), *((item["start"], item["end"]) if "start" in item else ()))
            for item in self.media
        )

    def video_path(self, base: Path) -> Path:
        """Return the first video of the row; `base` is the folder that holds the row file."""
        for item in self.media:
            if item["kind"] == "video":
                return media_place(base, item["path"])
        shown = list(self.media)
        raise DataError(f"row {self.key}: media={shown!r}: no video", "give the row a media entry of kind video")


def media_place(base: Path, path: str) -> Path:
    """Return where a media path of a row leads; DataError if a link leads out of `base`, the row file's folder."""
    # `check_row` refuses `..`: only rows that `rebase` moved to another folder have it, and it has checked their links.
    return Path(base) / path if path.startswith("../") else inside(base, path)


class RowError(DataError):
    """A row breaks a rule.

    Attributes:
        rule: field and rule without the value, equal for all rows that break it in the same way.
    """

    def __init__(self, where: str, field: str, rule: str, hint: str = _HINT, *, value: Any = ...) -> None:
        shown = "" if value is ... else f"={short_json(value)}"
        joint = " " if rule == IS_MISSING else ": "
        super().__init__(f"{where}: {field}{shown}{joint}{rule}", hint)
        self.rule = f"{field}{joint}{rule}"


def check_row(row: Row, where: str) -> None:
    """Check every field of a row.

    Raises:
        RowError: the first rule it breaks.
    """
    for check, _ in _OTHER_CHECKS if _has_plain_texts(row) else _CHECKS:
        check(row, where)


def check_asked(row: Row, where: str) -> None:
    """Check a row of a benchmark, which may show nothing, or clips, and have 26 options, some alike, and any number for
    an answer: it is asked as published. RowError as `check_row`."""
    for check, _ in _CHECKS:
        if check not in (_check_options, _check_answer, _check_media):
            check(row, where)
    _check_options(row, where, CHOICE_LETTERS, may_repeat=True)
    _check_letter(row, where)
    for item in row.media:
        _check_medium(item, where, may_be_clip=True)


def row_faults(row: Row, where: str, missing: Sequence[str] = ()) -> list[RowError]:
    """Return every rule that a row breaks, in the order of the fields.

    Args:
        missing: fields that are not there; rules that read one of them are left out.
    """
    faults = []
    for check, names in _CHECKS:
        if not any(name in missing for name in names):
            try:
                check(row, where)
            except RowError as error:
                faults.append(error)
    return faults


def _has_plain_texts(row: Row) -> bool:
    """Return whether all texts are ASCII, not blank and without "<": the common case, which has no fault."""
    texts = [*_required_texts(row), *[text for text in _optional_texts(row) if text is not None]]
    try:
        joined = "\n".join(texts)
    except TypeError:
        return False
    return joined.isascii() and "<" not in joined and all(map(str.strip, texts))


def _check_text(row: Row, where: str, *, name: str) -> None:
    value, is_optional = getattr(row, name), name in _OPTIONAL_TEXT
    if is_optional and value is None:
        return
    if not isinstance(value, str) or not value.strip():
        rule = "must be null or a non-empty string" if is_optional else "must be a non-empty string"
        raise RowError(where, name, rule, value=value)
    _check_characters(name, value, where)


def _check_characters(name: str, text: str, where: str) -> None:
    """Refuse half a character, which UTF-8 files cannot hold."""
    if not text.isascii() and (fault := json_fault(text)) is not None:
        raise RowError(where, name, fault, "an emoji was cut in two, write the text again", value=text)


def _check_spoken(row: Row, where: str, *, name: str) -> None:
    """Refuse a token that a tokenizer would read as structure: a prompt would end, or a video begin, in the text."""
    value = getattr(row, name)
    for text in value if isinstance(value, tuple) else (value,):
        if isinstance(text, str) and "<" in text and (found := SPECIAL.search(text)):
            raise RowError(where, name, f"holds the special token {found[0]}", "remove it from the row", value=text)


def _check_version(row: Row, where: str) -> None:
    if row.schema_version != SCHEMA_VERSION:
        raise RowError(where, "schema_version", f"this version writes {SCHEMA_VERSION}", value=row.schema_version)


def _check_object(row: Row, where: str, *, name: str) -> None:
    value = getattr(row, name)
    if not isinstance(value, dict):
        raise RowError(where, name, "must be an object", value=value)
    if not is_plain(value) and (fault := json_fault(value)) is not None:
        raise RowError(where, name, fault, "keep plain JSON values there")


def _check_kind(row: Row, where: str) -> None:
    if row.answer_kind not in ANSWER_KINDS:
        raise RowError(where, "answer_kind", f"must be one of {', '.join(ANSWER_KINDS)}", value=row.answer_kind)


def _check_options(row: Row, where: str, letters: str = LETTERS, *, may_repeat: bool = False) -> None:
    options = row.options
    if options is None:
        if row.answer_kind == "choice":
            raise RowError(where, "options", "a choice question needs its candidates", value=None)
        return
    if not isinstance(options, tuple) or not all(isinstance(o, str) and o.strip() for o in options):
        raise RowError(where, "options", "must be null or a list of non-empty strings", value=options)
    if not 2 <= len(options) <= len(letters):
        raise RowError(where, "options", f"must hold 2 to {len(letters)} candidates", value=options)
    if not (joined := "".join(options)).isascii() or "<" in joined:
        for option in options:
            _check_characters("options", option, where)
        _check_spoken(row, where, name="options")
    if not may_repeat and len({normalize_word(option) for option in options}) != len(options):
        raise RowError(where, "options", "candidates must differ, as words are compared", value=options)


def _check_answer(row: Row, where: str) -> None:
    if row.answer_kind == "number":
        check_number("ground_truth", row.ground_truth, where, row.question_type)
        check_number("answer", row.answer, where, row.question_type)
    if row.answer_kind == "map":
        for name in ("ground_truth", "answer"):
            check_map(name, getattr(row, name), where)
    _check_letter(row, where)


def _check_letter(row: Row, where: str) -> None:
    if row.answer_kind == "choice" and isinstance(row.options, tuple):
        letters = CHOICE_LETTERS[: len(row.options)]
        if not isinstance(row.ground_truth, str) or len(row.ground_truth) != 1 or row.ground_truth not in letters:
            raise RowError(where, "ground_truth", f"must be a letter of {letters}", value=row.ground_truth)
        right = row.options[letters.index(row.ground_truth)]
        if row.answer != right:
            hint = f"ground_truth={row.ground_truth} is {short_json(right)}"
            raise RowError(where, "answer", "must be the option that ground_truth names", hint, value=row.answer)


def check_number(name: str, text: str, where: str, question_type: str = "") -> None:
    """Refuse a text that is not a number which an answer to a question of this type can be."""
    if not isinstance(text, str) or number_of(text, question_type) is None:
        rule = "must be a number in plain digits, above 0 (relative errors divide by it)"
        raise RowError(where, name, f"{rule}, {_SMALLEST:g} to {_LARGEST:g}", value=text)


def check_map(name: str, text: Any, where: str) -> None:
    """Refuse a text that is no map with points."""
    cells = read_map(text) if isinstance(text, str) else None
    if not cells or not all(cells.values()):
        rule = 'must be a map, <map>{"category": [[x, y], ...]}</map>: whole numbers 0 to 9, no category twice or empty'
        raise RowError(where, name, rule, value=text)


def _check_media(row: Row, where: str) -> None:
    if not row.media:
        raise RowError(where, "media", "a row needs at least one video or image", value=[])
    for item in row.media:
        _check_medium(item, where)


def _check_medium(item: Any, where: str, *, may_be_clip: bool = False) -> None:
    keys = set(item) if isinstance(item, dict) else set()
    is_clip = may_be_clip and keys == {"kind", "path", "start", "end"}
    if not (is_clip or keys == {"kind", "path"}) or item["kind"] not in MEDIA_KINDS:
        raise RowError(where, "media", "each is {kind: video|image, path}", value=item)
    path = item["path"]
    if not isinstance(path, str) or not path.strip():
        raise RowError(where, "media.path", "must be a non-empty string", value=path)
    if (fault := path_fault(path)) is not None:
        rule = f"{fault}; it must be relative to the row file and below it"
        hint = "put the video or image itself beside the row file (a copy or a hard link)"
        raise RowError(where, "media.path", rule, hint, value=path)
    span = [item[name] for name in ("start", "end") if is_clip and type(item[name]) in (int, float)]
    if is_clip and not (item["kind"] == "video" and len(span) == 2 and 0 <= span[0] < span[1] < math.inf):
        raise RowError(where, "media", "a clip is of a video, with 0 <= start < end in seconds", value=item)


def _check_objects(row: Row, where: str) -> None:
    for item in row.objects:
        if not isinstance(item, dict) or set(item) != {"category", "instance_id"}:
            raise RowError(where, "objects", "each is {category, instance_id}", value=item)
        if not isinstance(item["category"], str) or type(item["instance_id"]) is not int:
            raise RowError(where, "objects", "category is a string, instance_id an integer", value=item)
        _check_characters("objects", item["category"], where)


def _check_rejected(row: Row, where: str) -> None:
    """Refuse a wrong answer that is right: the preference would teach nothing, or the opposite."""
    rejected, answer = row.rejected, row.answer
    if not isinstance(rejected, str) or not isinstance(answer, str):
        return
    right = {normalize_word(answer)}
    if row.answer_kind == "choice" and isinstance(row.ground_truth, str):
        right.add(normalize_word(row.ground_truth))
    is_right = normalize_word(rejected) in right
    if row.answer_kind == "number" and not is_right:
        is_right = (value := official_number(rejected)) is not None and value == official_number(answer)
    if row.answer_kind == "map" and not is_right:
        is_right = read_map(rejected) is not None and read_map(rejected) == read_map(answer)
    if is_right:
        raise RowError(where, "rejected", "equals the answer", "it must be wrong, or null", value=rejected)


_OTHER_CHECKS: tuple[tuple[Callable[[Row, str], None], tuple[str, ...]], ...] = (
    (_check_version, ("schema_version",)),
    *((partial(_check_object, name=name), (name,)) for name in ("generator", "extra")),
    (_check_kind, ("answer_kind",)),
    (_check_options, ("options", "answer_kind")),
    (_check_answer, ("answer_kind", "options", "ground_truth", "answer")),
    (_check_media, ("media",)),
    (_check_objects, ("objects",)),
    (_check_rejected, ("rejected", "answer", "answer_kind", "ground_truth")),
)
"""The rules beyond single texts."""
_CHECKS = (
    *((partial(_check_text, name=name), (name,)) for name in (*_REQUIRED_TEXT, *_OPTIONAL_TEXT)),
    *((partial(_check_spoken, name=name), (name,)) for name in _SPOKEN),
    *_OTHER_CHECKS,
)
"""Every rule with the fields that it reads, in the order in which faults are reported."""
_required_texts, _optional_texts = attrgetter(*_REQUIRED_TEXT), attrgetter(*_OPTIONAL_TEXT)


def number_of(text: str, question_type: str = "") -> float | None:
    """Return the number that a label is, None where it is none that an answer can be.

    Plain digits only, above 0 and within 1e-100 .. 1e100: "1_0", Arabic digits, "1e-320", "nan" and " 3" are none. "0"
    is one of types that count things.
    """
    if text == "0" and counts_things(question_type):
        return 0.0
    value = float(text) if NUMBER.fullmatch(text) else math.nan
    return value if _SMALLEST <= value <= _LARGEST else None
