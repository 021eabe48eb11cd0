"""Output folders: locked against a second command, and replaced only once their new content is complete."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vsgrpo.errors import DataError
from vsgrpo.files import sync_names

LOCK_NAME = ".lock"
ASIDE_NAME = ".replaced"
"""Sub-folder that holds what --overwrite is replacing, until the new content is complete."""
_MOVING_NAME = ".replacing"
_DROPPED_NAME = ".dropped"


@contextmanager
def locked(folder: Path, key: str, doing: str, name: str = LOCK_NAME) -> Iterator[None]:
    """Hold FOLDER/.lock; the kernel gives it back when the process ends, however it ends.

    A folder made for the lock that is still empty at the end is removed again.

    Args:
        key: of the configuration that names the folder ("run.dir", "output").
        doing: what the other process does there, for the message ("training").
        name: of the lock file; commands that share a folder on purpose lock parts of it.

    Raises:
        DataError: another process holds it, or the folder cannot be made.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    path = folder / name
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stream = path.open("a")
        except OSError as error:
            raise unwritable(folder, key, error) from None
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.fstat(stream.fileno()).st_ino == path.stat().st_ino:
                break
            stream.close()  # its holder has removed it: take the new one
        except BlockingIOError:
            stream.close()
            raise DataError(
                f"{key}={folder}: another process is {doing} there", hint="wait, or choose another output=DIR"
            ) from None
    with stream:
        try:
            yield
        finally:
            if made and [entry.name for entry in folder.iterdir()] == [name]:
                path.unlink()
                with suppress(OSError):
                    for parent in made:
                        parent.rmdir()


def unwritable(folder: Path, key: str, error: OSError) -> DataError:
    """Return the error of an output folder that cannot be written."""
    return DataError(f"{key}={folder}: cannot be written: {error.strerror}", hint="choose another output=DIR")


def refuse_inputs_inside(folder: Path, key: str, inputs: Iterable[tuple[str, Path | str | None]]) -> None:
    """Refuse to replace a folder that holds what the command reads, symbolic links followed.

    Args:
        key: of the folder.
        inputs: (key, path) of each input; None is not given.

    Raises:
        DataError: naming the first input in the folder.
    """
    target = os.path.realpath(folder)
    for name, path in inputs:
        if path is not None and Path(os.path.realpath(path)).is_relative_to(target):
            raise DataError(
                f"{name}={path}: lies in {key}={folder}, which --overwrite replaces",
                hint=f"choose another output=DIR, or move {path} out of it first",
            )


def set_aside(folder: Path, names: Iterable[str]) -> None:
    """Move entries of a folder that are to be replaced into FOLDER/.replaced.

    The caller then writes the new content and ends with `drop_aside` once that is complete, or with `take_back`.
    Killed at any moment, the next `take_back` has the old content in place again.
    """
    moving = folder / _MOVING_NAME
    moving.mkdir()
    for name in names:
        os.replace(folder / name, moving / name)
    sync_names(moving)
    os.replace(moving, folder / ASIDE_NAME)
    sync_names(folder)


def take_back(folder: Path, new: Iterable[Path]) -> bool:
    """Undo `set_aside`: remove the new, incomplete content and move the old back; return whether there was any.

    Args:
        new: entries of the folder that belong to the new content, where the old was wholly set aside.
    """
    shutil.rmtree(folder / _DROPPED_NAME, ignore_errors=True)
    moving, aside = folder / _MOVING_NAME, folder / ASIDE_NAME
    if aside.is_dir():
        for path in list(new):
            remove(path)
        os.replace(aside, moving)
    if not moving.is_dir():
        return False
    for path in list(moving.iterdir()):
        remove(folder / path.name)
        os.replace(path, folder / path.name)
    moving.rmdir()
    sync_names(folder)
    return True


def drop_aside(folder: Path) -> None:
    """Remove what was set aside, now that the new content is complete."""
    if (folder / ASIDE_NAME).is_dir():
        shutil.rmtree(folder / _DROPPED_NAME, ignore_errors=True)
        os.replace(folder / ASIDE_NAME, folder / _DROPPED_NAME)
        shutil.rmtree(folder / _DROPPED_NAME, ignore_errors=True)


def is_set_aside(folder: Path) -> bool:
    """Return whether old content is set aside, wholly or (a kill in `set_aside`) in part."""
    return (folder / ASIDE_NAME).is_dir() or (folder / _MOVING_NAME).is_dir()


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
