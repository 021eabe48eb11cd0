"""The folder that import-data writes: what is there stays until the new dataset is complete, however that ends."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from vsgrpo.data.importing.import_settings import ImportSettings
from vsgrpo.data.manifest import MANIFEST_NAME, read_manifest
from vsgrpo.errors import DataError
from vsgrpo.files import sync, sync_names
from vsgrpo.paths import LOCK_NAME, locked, refuse_inputs_inside
from vsgrpo.terminal import show

_STAGING = ".import"
_COMPLETE = ".import.complete"
_ROW_FILES = ("train.jsonl", "dev.jsonl", "test.jsonl")


@contextmanager
def new_dataset(settings: ImportSettings, overwrite: bool) -> Iterator[ImportSettings]:
    """Yield the settings with a folder inside the output to write to, and put its files in place at the end.

    A failed or killed import leaves the output as it was. One that was killed while its files were put in place is
    completed by the next. Videos and images of an earlier dataset stay where the new one has none of that name.

    Raises:
        DataError: the output holds something else, or a dataset without `overwrite`, or what is read; another process
            writes there; an input file is missing.
    """
    out = settings.output
    for file in settings.files:
        if not file.is_file():
            raise DataError(f"{file}: no such file", "give .json, .jsonl or .parquet files")
    if out.exists() and not out.is_dir():
        raise DataError(f"output={out}: exists and is no dataset folder", "choose another output=DIR")
    if overwrite:
        folders = [("videos", settings.videos), ("images", settings.images)]
        refuse_inputs_inside(out, "output", [*(("FILE", file) for file in settings.files), *folders])
    with locked(out, "output", "writing"):
        _check(out, overwrite)
        staging = out / _STAGING
        staging.mkdir()
        try:
            yield replace(settings, output=staging)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        sync(staging)
        os.replace(staging, out / _COMPLETE)
        sync_names(out)
        _put_in_place(out)


def _check(out: Path, overwrite: bool) -> None:
    """Clear away what a killed import left, then refuse a folder that may not be written to."""
    shutil.rmtree(out / _STAGING, ignore_errors=True)
    if (out / _COMPLETE).is_dir():
        _put_in_place(out)
        show(f"output={out}: an import that was killed while it put its files in place is complete now", sys.stderr)
    ours = (out / MANIFEST_NAME).is_file()
    if not ours and any(path.name != LOCK_NAME for path in out.iterdir()):
        raise DataError(f"output={out}: exists and is no dataset folder", "choose another output=DIR")
    if ours and not overwrite:
        raise DataError(f"output={out}: holds a dataset already", "add --overwrite, or choose another output=DIR")


def _put_in_place(out: Path) -> None:
    """Move the files of a complete import to their names, the manifest last."""
    complete = out / _COMPLETE
    found = [path.relative_to(complete) for path in sorted(complete.rglob("*")) if path.is_file()]
    if Path(MANIFEST_NAME) in found:  # else it was there already: only the folder is left to remove
        written = read_manifest(complete).files
        for name in _ROW_FILES:
            if name not in written:
                (out / name).unlink(missing_ok=True)
        for name in sorted(found, key=lambda name: name == Path(MANIFEST_NAME)):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(complete / name, out / name)
    sync_names(out)
    shutil.rmtree(complete)
