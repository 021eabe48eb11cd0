"""Turn a record of another project into a row: one JSON object in, one Row out, or the reason why not.

The columns of an object decide its form (`record_forms`), so mixed files work too. A value is kept as it is, or the
row is refused (`answer_values`). Columns without a meaning here go into `extra`.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from vsgrpo.data.importing.answer_values import (
    NO_NUMBER,
    Options,
    Refused,
    asked_unit,
    column_unit,
    options_in_text,
    read_count,
    read_number,
    read_options,
    right_option,
    said_unit,
    unit_of_rows,
)
from vsgrpo.data.importing.dataset_folder import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from vsgrpo.data.importing.record_columns import (
    custom_columns,
    given_objects,
    given_reasoning,
    given_rejected,
    given_room,
    plain_value,
)
from vsgrpo.data.importing.record_forms import Form, read_form, spar_info
from vsgrpo.data.importing.record_names import column, is_nothing, parsed
from vsgrpo.data.importing.scene_ids import scene_of
from vsgrpo.data.importing.type_names import in_unit, is_number, question_type_of, unit_of
from vsgrpo.data.prompts import (
    EVAL_SENTENCES,
    LETTER_SENTENCE,
    MAP_SENTENCES,
    OPTIONS_HEAD,
    PRE_PROMPT,
    TRAIN_SENTENCES,
)
from vsgrpo.data.room_ids import room_of
from vsgrpo.data.row import LETTERS, Row, check_row, number_of
from vsgrpo.data.rows import row_id
from vsgrpo.errors import DataError
from vsgrpo.paths import safe_name
from vsgrpo.spatial.question import UNITS
from vsgrpo.spatial.question_types import QUESTION_TYPES

_OPTIONS_HEAD = re.compile(r"(?:(?:^|\s)(?:options|choices)|\n[^\n]*following (?:options|choices))\s*[:.]?$", re.I)
_FRAME_OF = re.compile(r"\bframe \d+ of (\d{1,4})\b", re.IGNORECASE)
_DIGITS = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)\.?", re.ASCII)
_WRAPPERS = {PRE_PROMPT, LETTER_SENTENCE, "Question:"}
_WRAPPERS |= {*EVAL_SENTENCES.values(), *TRAIN_SENTENCES.values(), *MAP_SENTENCES.values()}
_ANSWER_TYPES = ("a single word or phrase", "with the option's letter", "single option letter", "numerical value")
_UNIT_COLUMNS = ("unit", "units", "answer_unit")
"""Columns with the unit of an answer that names none; they stay in `extra`."""
_ROUNDING = 0.05
"""Two numbers of one row closer than this share of each other are one value, rounded once more."""


@dataclass(frozen=True)
class ImportedRow:
    """A row made of a record, and the files that it shows.

    Attributes:
        row: its media are named after dataset and scene; where the files are is not known yet.
        id: what the object is called in its file, None where it has no id.
        sources: the paths that the object names for `row.media`, in order; None for a video that it does not name.
        is_named: the scene is named by a column or is a ScanNet id, not taken from the name of the file.
    """

    row: Row
    id: str | None
    sources: tuple[str | None, ...]
    is_named: bool


def record_to_row(data: Any, dataset: str, split: str = "train") -> ImportedRow:
    """Turn one object into a checked row of `videos/<dataset>/<scene>.mp4`, or of `images/...` where it lists frames.

    Args:
        dataset: used where neither a column nor a path names one.

    Raises:
        Refused: no question, answer, scene or media; an answer of 0; a value that can be read in two ways; options that
            do not hold the answer; a row that breaks the schema.
    """
    form = read_form(data)
    question, in_text = _clean_question(form.question)
    given = (column(data, "question_type"), spar_info(data).get("type"), data.get("type"), data.get("problem_type"))
    question_type = question_type_of(question, *given)
    try:
        options = _options(read_options(parsed(column(data, "options"))), in_text)
    except Refused:
        if not is_number(question_type):  # there the number counts, candidates beside it do not
            raise
        options = None
    units = tuple(value for name in _UNIT_COLUMNS if not is_nothing(value := data.get(name)))
    values = read_answer(question_type, question, form.answers, column(data, "letter"), options, units)
    question_type = in_unit(question_type, question, values["unit"])
    shown = scene_of(form, column(data, "dataset"), dataset)
    name, scene = shown.dataset, shown.name
    unit = asked_unit(question, question_type) if values["unit"] is None else None
    is_measured = values["answer_kind"] == "number"
    notes = {
        "source_id": plain_value(column(data, "id")),
        "frames": True if form.frames else None,
        "source_video": form.paths[0] if form.paths else None,
        "system": form.system or None,
        "unit": None if unit in UNITS else unit,
        **_frames_asked(data, form, question),
        "source_answer": next((text for text in form.answers if is_measured and said_unit(text)), None),
    }
    row = Row(
        id=row_id(name, scene, question_type, "\x1f".join((question, *form.frames))),
        dataset=name,
        split=split,
        scene_name=scene,
        room=given_room(data) or room_of(scene),
        question_type=question_type,
        question=question,
        media=_media(form, name, scene),
        reasoning=form.thought or given_reasoning(data),
        rejected=given_rejected(data, values["options"]),
        objects=given_objects(data),
        generator={"imported": True},
        extra=custom_columns(data, notes),
        **values,
    )
    try:
        check_row(row, "row")
    except DataError as error:
        raise Refused("breaks the row schema", error.message) from None
    official = notes["source_id"]
    return ImportedRow(row, None if official is None else str(official), form.paths or (None,), shown.is_named)


def _frames_asked(data: Any, form: Form, question: str) -> dict[str, Any]:
    """Return for which numbers of frames a row of a video is true, as far as it says so.

    "frame 3 of 32" means another frame where 16 are shown; ReVSI has a truth of its own for each number of frames.
    """
    if form.frames:
        return {}
    named, shown = {int(number) for number in _FRAME_OF.findall(question)}, data.get("num_frames")
    is_revsi = type(shown) is int and shown > 0
    return {
        "frames_shown": named.pop() if len(named) == 1 else None,
        "true_at": [shown] if is_revsi else None,
        "judged_at": [shown] if is_revsi else None,
    }


def read_answer(
    question_type: str,
    question: str,
    answers: tuple[Any, ...],
    letter: Any,
    options: Options | None,
    units: tuple[Any, ...] = (),
) -> dict[str, Any]:
    """Return options, ground_truth, answer, answer_kind and unit of the first answer that can be read.

    Args:
        units: what columns say of the unit of an answer that names none.

    Raises:
        Refused: none can be read (the reason of the first), or two that can say different things.
    """
    found: list[dict[str, Any]] = []
    refused: list[Refused] = []
    for answer in answers or (None,):
        try:
            found.append(_values(question_type, question, answer, letter, options, units))
        except Refused as error:
            refused.append(error)
    if not found:
        raise refused[0]
    for other in found[1:]:
        if other["answer_kind"] != "text" and not _same(found[0]["answer"], other["answer"]):
            raise Refused("answers that disagree", f"{found[0]['answer'][:40]!r} and {other['answer'][:40]!r}")
    return found[0]


def _same(one: str, other: str) -> bool:
    first, second = number_of(one), number_of(other)
    if first is None or second is None:
        return one == other
    return abs(first - second) <= _ROUNDING * max(first, second)


def _values(
    question_type: str, question: str, answer: Any, letter: Any, options: Options | None, units: tuple[Any, ...]
) -> dict[str, Any]:
    kind = QUESTION_TYPES.get(question_type)
    if is_number(question_type):
        said = _option_word(answer if answer is not None else letter, options)
        if unit_of(question_type) is None:
            return _without_options(read_count(said, question_type), "number")
        unit = asked_unit(question, question_type)
        return _without_options(read_number(said, unit, column_unit(units)), "number", unit)
    if options is None and kind is None:
        return _free_values(question, answer, units)
    if kind is not None and kind.answer_kind != "choice":  # a type whose answer is a text of its own form
        if not isinstance(answer, str):
            raise Refused("no answer", str(answer)[:80])
        return _without_options(answer.strip(), kind.answer_kind)
    if options is None and kind is not None and kind.words is not None:
        options = Options(kind.words, False)
    if options is None and kind is not None and kind.listed is not None and (listed := kind.listed.search(question)):
        options = read_options([word.strip() for word in listed[1].split(",")])
    if options is None:
        raise Refused("a choice without options", question[:120])
    right = right_option(answer, options, letter)
    truth = {"ground_truth": LETTERS[right], "answer": options.words[right]}
    return {"options": options.words, **truth, "answer_kind": "choice", "unit": None}


def _free_values(question: str, answer: Any, units: tuple[Any, ...]) -> dict[str, Any]:
    """Return the values of a question of another type without options: a number, where it is one, else text.

    Without a unit "2,3" may be two frames and "100,200,300" three: only plain digits are a number there.
    """
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise Refused("no answer", str(answer)[:80])
    text, named = str(answer).strip(), None
    with suppress(Refused):  # what is no unit to us says something else: it stays in `extra`
        named = column_unit(units)
    unit = asked_unit(question, "") or named
    if unit is None and (said := said_unit(answer)) is not None:  # "2.4 m", "73 degrees"
        unit = unit_of_rows(said)
    if re.fullmatch("[A-H]", text):
        raise Refused("a choice without options", question[:120])
    if unit is not None or not isinstance(answer, str) or _DIGITS.fullmatch(text):
        try:
            return _without_options(read_number(answer, unit, named), "number", unit)
        except Refused as error:
            if error.reason != NO_NUMBER or re.fullmatch(r"[-+]?\d+(?:\.\d+)?", text) or not isinstance(answer, str):
                raise
    return _without_options(text, "text")


def _without_options(text: str, kind: str, unit: str | None = None) -> dict[str, Any]:
    unit = unit if unit in UNITS else None
    return {"options": None, "ground_truth": text, "answer": text, "answer_kind": kind, "unit": unit}


def _option_word(answer: Any, options: Options | None) -> Any:
    """Return the word of the option whose letter an answer is; other answers as they are."""
    if options is None or not isinstance(answer, str) or any(char.isdigit() for char in answer.partition(".")[0]):
        return answer
    return options.words[right_option(answer, options)]


def _options(options: Options | None, in_text: Options | None) -> Options | None:
    """Return the options of the column, or of the end of the question's text; they must agree."""
    if options is None or in_text is None or in_text.words == options.words:
        return options or in_text
    if options.has_letters or set(in_text.words) != set(options.words):
        raise Refused("options in the text that differ from those of the column", str(in_text.words)[:120])
    return in_text  # the column is without letters: those of the text count


def _clean_question(text: str) -> tuple[str, Options | None]:
    """Return the bare question and the options its text lists: our prompts add wrapper sentences themselves."""
    lines = text.replace("\r\n", "\n").strip().split("\n")
    while len(lines) > 1 and (
        lines[-1].strip() in ("", *_WRAPPERS) or any(phrase in lines[-1] for phrase in _ANSWER_TYPES)
    ):
        lines.pop()
    text = "\n".join(line for line in lines if line.strip() not in _WRAPPERS)
    options = None
    if (found := options_in_text(text)) is not None:
        text, options = _OPTIONS_HEAD.sub("", found[0].rstrip()), found[1]
    text = text.strip()
    for prefix in ("Question:", PRE_PROMPT):
        text = text.removeprefix(prefix).strip()
    text = text.removesuffix(OPTIONS_HEAD).strip()
    if not text:
        raise Refused("no question")
    return text, options


def _media(form: Form, dataset: str, scene: str) -> tuple[dict[str, str], ...]:
    if form.frames:
        return tuple({"kind": "image", "path": image_place(path)} for path in form.frames)
    suffix = f".{(form.video or '').rpartition('.')[2].lower()}"
    suffix = suffix if suffix in VIDEO_SUFFIXES else ".mp4"
    return ({"kind": "video", "path": f"videos/{safe_name(dataset)}/{safe_name(scene)}{suffix}"},)


def image_place(path: str) -> str:
    """Return the path of an image in a dataset folder: below images/, by safe names."""
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    parts = parts[1:] if len(parts) > 1 and parts[0] == "images" else parts
    name = PurePosixPath(parts[-1] if parts else "")
    suffix = name.suffix if name.suffix.lower() in IMAGE_SUFFIXES else ""
    return "/".join(["images", *map(safe_name, parts[:-1][-6:]), f"{safe_name(name.stem)}{suffix}"])
