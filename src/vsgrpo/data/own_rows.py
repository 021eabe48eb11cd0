"""Rows of one's own: what `data=` may name besides a dataset folder, and how it becomes one.

A file of rows (.jsonl, .json, .parquet), a folder with one, or a data set on the hub: each row needs a question, an
answer and a video or images. What else the row schema has is set by rule (`importing`), and complete rows are written
once, into a folder beside the file; it is written again when the file has changed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from vsgrpo.config.train import TrainConfig
from vsgrpo.data.importing.dataset_folder import ImportSettings
from vsgrpo.data.importing.import_data import import_data
from vsgrpo.data.importing.own_records import own_record
from vsgrpo.data.manifest import MANIFEST_NAME, read_manifest
from vsgrpo.data.rows import FIELD_NAMES
from vsgrpo.errors import DataError, SetupError
from vsgrpo.families import HUB_ID
from vsgrpo.files import user_cache
from vsgrpo.hub import fetch
from vsgrpo.terminal import counted, note

_COMPLETE = "complete"
OWN_NAME = "own"
"""Data set of rows that name none."""
_SUFFIXES = (".jsonl", ".json", ".parquet")
_WAIT_S = 600.0
_PLACES = ("", "data")
"""Folders of a data set that hold its row files."""


def with_own_rows(config: TrainConfig, name: str = _COMPLETE) -> TrainConfig:
    """Return the config with every `data=` a dataset folder: rows of one's own are completed first.

    Args:
        name: of the folders that complete rows are written to, where those of a run are not there yet.

    Raises:
        DataError: as `dataset_folder`.
    """
    data = config.data

    def folder(key: str, value: str) -> str:
        return str(dataset_folder(value, data.split, key=key, allow_val_safe=data.allow_val_safe, name=name))

    path = folder("data.path=", data.path)
    mix = [
        {**item, "path": folder(f"data.mix[{number}].path=", str(item["path"]))}
        for number, item in enumerate(data.mix or [])
    ]
    return replace(config, data=replace(data, path=path, mix=mix if data.mix is not None else None))


@contextmanager
def own_rows_on_trial(config: TrainConfig) -> Iterator[TrainConfig]:
    """Give `with_own_rows` for as long as a plan is made: what it writes is removed at the end.

    Raises:
        DataError: as `dataset_folder`.
    """
    name = f"plan-{os.getpid()}"
    try:
        yield with_own_rows(config, name)
    finally:
        for path in (config.data.path, *(str(item["path"]) for item in config.data.mix or [])):
            shutil.rmtree(_complete_folder(Path(path), name), ignore_errors=True)


def dataset_folder(
    value: str,
    split: str = "train",
    *,
    key: str = "data.path=",
    allow_val_safe: bool = False,
    name: str = _COMPLETE,
) -> Path:
    """Return the dataset folder that a value of `data=` names.

    Args:
        split: of the row file that a run reads.
        key: stands before the value in messages: the key of the configuration and "=".
        allow_val_safe: take val scans of rooms that VSI-Bench does not use.
        name: see `with_own_rows`.

    Raises:
        DataError: nothing is there, or no rows; rows that cannot be taken (`OwnRowFaults`, with all faults).
        SetupError: the hub cannot be reached.
    """
    path = Path(value)
    if not path.exists():
        if not HUB_ID.fullmatch(value) or path.suffix in _SUFFIXES or path.parent.is_dir():
            hint = "build one (vsgrpo build-data), or give rows of your own: FILE.jsonl, FILE.parquet or a hub id"
            raise DataError(f"{key}{value}: no such folder or file", hint)
        path = _from_hub(value, key)
    found = _row_files(path, key)
    if path.is_dir() and all(file == path / f"{name}.jsonl" and is_complete(file) for name, file in found.items()):
        return path
    if path.is_file() and path.name == f"{split}.jsonl" and is_complete(path):
        return path.parent
    return _completed(path, found, allow_val_safe, name)


def is_complete(file: Path) -> bool:
    """Return whether every row of a file has every field of the row schema; a file without a row has.

    The first row is parsed, of the others the names of the fields are looked for in the text.
    """
    names = [f'"{name}"'.encode() for name in ("schema_version", *FIELD_NAMES)]
    with file.open("rb") as stream:
        lines = (line for line in stream if line.strip())
        first = next(lines, None)
        if first is None:
            return True
        try:
            row = json.loads(first.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            return True  # its reader says what is wrong
        if not (isinstance(row, dict) and "schema_version" in row and {*FIELD_NAMES} <= row.keys()):
            return False
        return all(name in line for line in lines for name in names)


def _row_files(path: Path, key: str) -> dict[str, Path]:
    """Return split -> row file of a file or folder; a folder's only file is for training."""
    if path.is_file():
        if path.suffix not in _SUFFIXES:
            raise DataError(f"{key}{path}: neither .jsonl, .json nor .parquet", "give a file of rows, or its folder")
        return {"train": path}
    there = [file for place in _PLACES for file in sorted((path / place).glob("*")) if file.suffix in _SUFFIXES]
    there = [file for file in there if file.is_file() and file.name != MANIFEST_NAME]
    found: dict[str, Path] = {}
    for split, names in (("train", ("train",)), ("dev", ("dev", "validation", "val"))):
        files = [f for f in there if f.stem in names or re.fullmatch(rf"({'|'.join(names)})-\d+-of-\d+", f.stem)]
        if len(files) > 1:
            listed = ", ".join(file.name for file in files[:4])
            raise DataError(f"{key}{path}: several files for {split} ({listed})", "give one of them as data=FILE")
        found |= {split: files[0]} if files else {}
    if "train" not in found and len(there) == 1:
        found["train"] = there[0]
    if not found:
        listed = ", ".join(file.name for file in there[:4]) or "no .jsonl, .json or .parquet"
        hint = "name it train.jsonl or give the file; `vsgrpo import-data` reads rows of other projects"
        raise DataError(f"{key}{path}: has no train.jsonl (there: {listed})", hint)
    return found


def _complete_folder(path: Path, name: str) -> Path:
    return path / name if path.is_dir() else path.with_name(f"{path.stem}.{name}")


def _completed(path: Path, found: dict[str, Path], allow_val_safe: bool, name: str) -> Path:
    """Write complete rows beside the files, unless they are there already, and return their folder."""
    folder = _complete_folder(path, _COMPLETE)
    files = tuple(found.values())
    wanted = own_record(files)

    def is_current() -> bool:
        return (folder / MANIFEST_NAME).is_file() and read_manifest(folder).config.get("own_rows") == wanted

    if is_current():
        return folder
    if int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or "0"):
        _wait_for(is_current, folder)
        return folder
    folder = _complete_folder(path, name)
    root = path if path.is_dir() and any(file.parent != path for file in files) else None
    splits = tuple(found) if len(found) > 1 else ()
    settings = ImportSettings(
        files, folder, root, OWN_NAME, images=root, allow_val_safe=allow_val_safe, splits=splits, is_own=True
    )
    summary = import_data(settings, overwrite=folder.is_dir())
    taken = sum(sum(part.values()) for part in summary.counts.values())
    if name == _COMPLETE:
        note(f"{path}: {counted(taken, 'row')} completed, written once to {folder}")
    return folder


def _wait_for(is_current: Callable[[], bool], folder: Path) -> None:
    """Wait until the first process of a run has written the rows.

    Raises:
        DataError: it has not within ten minutes.
    """
    end = time.monotonic() + _WAIT_S
    while not is_current():
        if time.monotonic() > end:
            raise DataError(f"{folder}: the first process did not complete the rows", "run `vsgrpo check-data` before")
        time.sleep(0.2)


def _from_hub(name: str, key: str) -> Path:
    """Return a folder with the files of a data set on the hub, fetched once into the user's cache.

    Raises:
        DataError: the hub has no such data set.
        SetupError: it cannot be reached, or there is no place for the files.
    """
    cache = user_cache()
    if cache is None:
        raise SetupError(f"{key}{name}: no home folder to keep its files in", "set VSGRPO_CACHE_DIR=DIR")
    folder = cache / "hub" / name.replace("/", "--")
    hint = "give a folder (vsgrpo build-data makes one) or a file of rows; data sets of the hub need a network"
    fetch(name, "data set", f"{key}{name}", hint, folder=folder)
    note(f"{key}{name}: from the hub, in {folder}")
    return folder
