"""Records of the user's own: every fault of every one is named, and rows of our schema may lack fields.

A row that says `schema_version` keeps what it says: fields that it lacks get their defaults, unknown ones go into
`extra`. Any other is read as a record of another project (`record_forms`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from vsgrpo.data.importing.answer_values import Refused
from vsgrpo.data.importing.record_forms import form_faults
from vsgrpo.data.leak_guard import name_some
from vsgrpo.data.room_ids import dataset_of_path, room_of
from vsgrpo.data.row import LETTERS, Row, number_of
from vsgrpo.data.row_scan import Fault
from vsgrpo.data.rows import FIELD_NAMES, faults_of, row_from_dict, row_id
from vsgrpo.errors import DataError
from vsgrpo.files import file_sha256
from vsgrpo.records import BLANK, decode_line, read_records
from vsgrpo.spatial.maps import read_map
from vsgrpo.terminal import counted

OWN_ROW = '{"question", "answer", "video" or "image", and "options", "scene", ... where known}, see data/README.md'
NAMED_PLACES = 10
"""Lines of a fault that are named."""
_NEEDED = ("question", "answer", "media")


class OwnRowFaults(DataError):
    """Rows of the user's own that cannot be taken, with every reason.

    Attributes:
        problems: one per file and reason, with lines.
    """

    def __init__(self, num_read: int, faults: Mapping[Path, Mapping[str, Fault]], rooms: Sequence[str]) -> None:
        self.problems = [fault.text(file) for file, found in faults.items() for fault in found.values()]
        file = next(file for file, found in faults.items() if found)
        kinds = counted(len(self.problems), "kind of fault", "kinds of faults")
        hint = f"correct the rows (`vsgrpo check-data {file}` lists all); a row is {OWN_ROW}"
        if rooms:
            hint = f"rooms of VSI-Bench must not be trained on: take out {name_some(rooms)}"
        super().__init__(f"{file}: {kinds} in {counted(num_read, 'row')}: {'; '.join(self.problems[:5])}", hint)


def own_record(files: Iterable[Path]) -> dict[str, str]:
    """Return what a manifest keeps of the files that rows were made of: name -> hash."""
    return {file.name: file_sha256(file) for file in files}


def own_records(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield (where, record) of a file; of a line that is no JSON, its DataError is the record.

    Raises:
        DataError: the file cannot be read at all.
    """
    if file.suffix != ".jsonl" or not file.is_file():
        yield from read_records(file, nan="null")
        return
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                value = decode_line(line, "", is_first=number == 1, nan="null")
            except DataError as error:
                value = error
            if value is not BLANK:
                yield f"{file}:{number}", value


def record_faults(data: Any, split: str) -> list[Refused]:
    """Return every fault of a record by itself, whatever its form; files and rooms are looked at later."""
    if isinstance(data, DataError):
        return [Refused("not JSON", data.message.removeprefix(": "))]
    if not is_ours(data):
        return form_faults(data)
    missing = [name for name in _NEEDED if data.get(name) in (None, "", [])]
    if missing:
        return [Refused(f"{name} is missing") for name in missing]
    return [
        Refused(error.rule, error.message.removeprefix(": ")) for error in faults_of(with_defaults(data, split), "")
    ]


def is_ours(data: Any) -> bool:
    """Return whether a record is a row of our schema, whole or not."""
    return isinstance(data, Mapping) and "schema_version" in data


def note_fault(found: dict[str, Fault], error: Refused, where: str) -> None:
    """Count a fault by its reason, with the first lines that have it."""
    detail = error.detail if error.detail.startswith(error.reason) else f"{error.reason}: {error.detail}".rstrip(": ")
    is_rule = "must" in error.reason or ":" in error.reason
    fault = found.setdefault(error.reason, Fault(error.detail if is_rule and error.detail else detail, ""))
    fault.count += 1
    if fault.count > 1:
        fault.message = error.reason
    if len(fault.places) < NAMED_PLACES:
        fault.places.append(where.rpartition(":")[2].removeprefix("row "))


def completed_row(data: Mapping[str, Any], split: str) -> Row:
    """Return a row of our schema with its defaults; `record_faults` has found none."""
    return row_from_dict(with_defaults(data, split), "row")


def with_defaults(data: Mapping[str, Any], split: str) -> dict[str, Any]:
    """Return an object with all fields of the row schema: defaults for those it lacks, unknown ones in `extra`."""
    media, options = data.get("media"), data.get("options")
    path = media[0].get("path") if isinstance(media, list) and media and isinstance(media[0], Mapping) else None
    stem = PurePosixPath(str(path or "")).stem or "scene"
    values: dict[str, Any] = {"dataset": dataset_of_path(str(path or "")) or "own", "split": split}
    values |= {"scene_name": stem, "question_type": "other", "options": None, "unit": None, "rejected": None}
    values |= {"reasoning": None, "objects": [], "generator": {}}
    values |= {name: value for name, value in data.items() if name in FIELD_NAMES}
    values["split"] = split
    values.setdefault("room", room_of(str(values["scene_name"])))
    answer = values["answer"]
    values.setdefault("answer_kind", "choice" if options else _kind_of(answer))
    if values["answer_kind"] == "choice" and isinstance(options, list) and isinstance(answer, str):
        if answer not in options and answer in LETTERS[: len(options)]:
            values["answer"] = options[LETTERS.index(answer)]
        right = options.index(values["answer"]) if values["answer"] in options else -1
        values.setdefault("ground_truth", LETTERS[right] if 0 <= right < len(LETTERS) else answer)
    values.setdefault("ground_truth", answer)
    texts = [str(values[name]) for name in ("dataset", "scene_name", "question_type", "question")]
    values.setdefault("id", row_id(*texts))
    extra, unknown = data.get("extra", {}), {str(k): v for k, v in data.items() if k not in FIELD_NAMES}
    values["extra"] = {**unknown, **extra} if isinstance(extra, Mapping) else extra
    return values


def _kind_of(answer: Any) -> str:
    """Return the kind of an answer without options."""
    if not isinstance(answer, str):
        return "text"
    return "number" if number_of(answer) is not None else "map" if read_map(answer) else "text"
