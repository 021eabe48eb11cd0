"""inputs.json: the files that a run or an evaluation reads, so that a resumed one reads the same files.

Size and times of each file are noted at the start, its sha256 in the background (1,200 videos of 5 MB take seconds of
one core). A resume compares size and times first and hashes only a file whose times differ: a copied dataset passes,
another video under the same name does not.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path

from vsgrpo.data.row import Row, media_place
from vsgrpo.errors import DataError
from vsgrpo.families import adapter_base
from vsgrpo.files import file_sha256, file_state, remembered_sha256, write_atomic
from vsgrpo.records import decode_line, read_record
from vsgrpo.terminal import counted

INPUTS_NAME = "inputs.json"
SCHEMA_VERSION = 1
_WEIGHT_FILES = (".safetensors", ".bin", ".json", ".txt", ".jinja", ".model")
_LINES_KEPT = 300_000
"""Row files of more lines are compared as a whole."""
_SHOWN = 3
_RECORD = {
    "schema_version": int,
    "files": {str: {"kind": str, "state?": [int], "sha256?": str, "lines?": [str]}},
}


@dataclass
class InputFile:
    """A file as it was when the run started.

    Attributes:
        kind: rows, dev rows, video, image, model, adapter, family, reward.
        state: `files.file_state`; None where the file was not there (a video that video.on_bad=skip leaves out).
        sha256: None until it is known.
        lines: of a row file: hash by line, to say which ones differ.
    """

    kind: str
    state: list[int] | None
    sha256: str | None = None
    lines: list[str] | None = None


def look_at(files: Iterable[tuple[str, Path]]) -> dict[str, InputFile]:
    """Return (kind, path) of inputs as they are now; row files are hashed at once, the others not yet."""
    found: dict[str, InputFile] = {}
    for kind, path in files:
        if str(path) in found:
            continue
        try:
            entry = InputFile(kind, file_state(path))
        except OSError:
            entry = InputFile(kind, None)
        if entry.state is not None and kind.endswith("rows"):
            entry.sha256, entry.lines = file_sha256(path), _line_hashes(path)
        found[str(path)] = entry
    return found


def media_files(rows: Iterable[Row], base: Path) -> list[tuple[str, Path]]:
    """Return (kind, path) of all videos and images of rows, each once."""
    named = dict.fromkeys((item["kind"], item["path"]) for row in rows for item in row.media)  # many rows show one file
    return list(dict.fromkeys((kind, media_place(base, path)) for kind, path in named))


def model_files(kind: str, name: str | Path | None) -> list[tuple[str, Path]]:
    """Return (kind, path) of the files that make up a model folder, with those of the bases that an adapter names.

    Nothing for a hub id, a tiny model, or None. The model card is left out: evaluations write scores into it.
    """
    files = (file for folder in model_folders(name) for file in sorted(folder.iterdir()))
    return [(kind, file) for file in files if file.suffix in _WEIGHT_FILES and file.is_file()]


def model_folders(name: str | Path | None) -> list[Path]:
    """Return a model folder and the folders of the bases below it, as adapter_config.json names them."""
    found: list[Path] = []
    while name is not None and Path(name).is_dir() and Path(name) not in found:
        found.append(Path(name))
        name = adapter_base(found[-1])
    return found


def read_inputs(folder: Path) -> dict[str, InputFile] | None:
    """Return what inputs.json of a run says; None where there is none (a run of an older version).

    Raises:
        DataError: it cannot be read.
    """
    path, hint = folder / INPUTS_NAME, "delete it to go on without the comparison"
    if not path.is_file():
        return None
    try:
        data = read_record(path, _RECORD, hint)
        if data["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version={data['schema_version']}: this version reads {SCHEMA_VERSION}")
        if any(entry.get("state") is not None and len(entry["state"]) != 3 for entry in data["files"].values()):
            raise ValueError("state: three numbers are needed")
        return {name: InputFile(**entry) for name, entry in data["files"].items()}
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: not a list of inputs ({error})", hint) from None


def write_inputs(folder: Path, inputs: dict[str, InputFile]) -> None:
    """Write inputs.json."""
    files = {
        name: {key: value for key, value in asdict(entry).items() if value is not None or key == "state"}
        for name, entry in inputs.items()
    }
    write_atomic(folder / INPUTS_NAME, json.dumps({"schema_version": SCHEMA_VERSION, "files": files}) + "\n")


def changes(before: dict[str, InputFile], now: dict[str, InputFile]) -> list[str]:
    """Return which of the inputs differ, a phrase for each; known hashes of those that do not are taken over."""
    shared = [name for name in before if name in now]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        same = list(pool.map(lambda name: _is_same(name, before[name], now[name]), shared))
    differ = [name for name, equal in zip(shared, same, strict=True) if not equal]
    if differ:  # where rows differ, other files than before are a consequence
        return [f"{before[name].kind} {name}: {_difference(before[name], now[name], name)}" for name in differ]
    # Rows that changed, or models in another order, use other files. Early runs did not record families of one's own.
    gone = [f"{entry.kind} {name}: no longer used" for name, entry in before.items() if name not in now]
    new = {name: entry for name, entry in now.items() if name not in before and entry.kind != "family"}
    return gone + [f"{entry.kind} {name}: not used before" for name, entry in new.items()]


def refuse_changes(found: Sequence[str], where: str) -> None:
    """Raise DataError where inputs differ, naming the first ones and the flag that allows it."""
    if not found:
        return
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    raise DataError(
        f"{where}: {len(found)} of its inputs changed since it started: {'; '.join(found[:_SHOWN])}{more}",
        hint="put them back, start anew with another output=DIR, or add --allow-changed: it goes on with what is there "
        "now, and says so",
    )


_writing = threading.Lock()
_unwanted: dict[Path, threading.Event] = {}
"""Folder -> tells the thread that completes its inputs.json that the folder is another's."""


def hash_in_background(folder: Path, inputs: dict[str, InputFile]) -> threading.Thread:
    """Complete inputs.json with the hashes that are not known yet, in a thread of the lowest priority."""
    stop_hashing(folder)
    unwanted = _unwanted[folder.resolve()] = threading.Event()
    thread = threading.Thread(target=_complete, args=(folder, inputs, unwanted), daemon=True)
    thread.start()
    return thread


def stop_hashing(folder: Path) -> None:
    """Let no thread write into a folder from now on: an earlier run comes back to it."""
    with _writing:
        if (unwanted := _unwanted.pop(folder.resolve(), None)) is not None:
            unwanted.set()


def _complete(folder: Path, inputs: dict[str, InputFile], unwanted: threading.Event) -> None:
    with suppress(OSError, AttributeError):  # not every system has priorities of threads
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
    missing = [(Path(name), entry) for name, entry in inputs.items() if entry.state is not None and not entry.sha256]
    for path, entry in missing:
        with suppress(OSError):
            digest = remembered_sha256(path)
            if file_state(path) == entry.state:
                entry.sha256 = digest
    with _writing, suppress(OSError):
        if missing and not unwanted.is_set() and folder.is_dir():
            write_inputs(folder, inputs)


def _is_same(name: str, before: InputFile, now: InputFile) -> bool:
    if before.state is None or now.state is None:
        return before.state == now.state
    if before.state == now.state:
        now.sha256 = now.sha256 or before.sha256
        return now.sha256 == before.sha256 or before.sha256 is None
    if before.state[0] != now.state[0]:
        return False
    if before.sha256 is None:  # the run ended before its turn came
        return before.state[:2] == now.state[:2]
    now.sha256 = now.sha256 or remembered_sha256(Path(name))
    return now.sha256 == before.sha256


def _difference(before: InputFile, now: InputFile, name: str) -> str:
    if now.state is None:
        return "gone"
    if before.state is None:
        return "was not there"
    if before.lines is not None and now.lines is not None:
        return _differing_lines(before.lines, now.lines, Path(name))
    if before.state[0] != now.state[0]:
        return f"{counted(now.state[0], 'byte')}, were {before.state[0]}"
    return "other content" if before.sha256 is not None else "written since"


def _differing_lines(before: list[str], now: list[str], path: Path) -> str:
    """Return how many lines of a row file differ, and which is the first."""
    known = Counter(before)
    new: list[int] = []
    for number, line in enumerate(now):
        if known[line] > 0:
            known[line] -= 1
        else:
            new.append(number)
    gone = f"{known.total()} of the {len(before)} before are gone"
    if new:
        first = f"first: line {new[0] + 1}{_id_of_line(path, new[0])}"
        return f"{len(new)} of {counted(len(now), 'line is', 'lines are')} new or changed, {gone} ({first})"
    return f"{counted(len(now), 'line')}, {gone}" if known.total() else "its lines are in another order"


def _id_of_line(path: Path, number: int) -> str:
    with path.open("rb") as stream, suppress(DataError, AttributeError):
        line = next(islice(stream, number, None), b"")
        return f", id {decode_line(line, str(path), is_first=number == 0).get('id')}"[:65]
    return ""


def _line_hashes(path: Path) -> list[str] | None:
    with path.open("rb") as stream:
        lines = [blake2b(line, digest_size=6).hexdigest() for line in islice(stream, _LINES_KEPT + 1)]
    return lines if len(lines) <= _LINES_KEPT else None
