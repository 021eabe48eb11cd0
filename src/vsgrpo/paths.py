"""Paths: names that a file gives stay inside its folder; output folders are locked, and replaced only when complete."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path

from vsgrpo.errors import DataError
from vsgrpo.files import sync_names

_MAX_NAME = 255
"""Bytes of one name, on every file system in use."""
_MAX_SAFE_NAME = 120
"""Bytes of a name that `safe_name` makes: suffixes and temporary marks still fit behind it."""
_MAX_PATH = 1024
"""Bytes of a path that a file may name; a system takes 4,096 together with the folder before it."""
_PLAIN = re.compile(r"\w[\w.\- ]*(?:/\w[\w.\- ]*)*", re.ASCII)
"""The common case, in one look: no part begins with a dot."""
_PLAIN_NAME = re.compile(r"\w[\w.\-]*(?<!\.)", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def path_fault(name: str) -> str | None:
    """Return why a path named in a file cannot stand for a file below a folder, None where it can; opens nothing."""
    if len(name) <= _MAX_NAME and _PLAIN.fullmatch(name):
        return None
    if not name.strip():
        return "is empty"
    if _CONTROL.search(name):
        return "holds control characters"
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        return "holds half a character (a lone surrogate)"
    if name[0] in "/\\" or re.match(r"[A-Za-z]:[/\\]", name):
        return "is absolute"
    parts = re.split(r"[/\\]", name)
    if ".." in (part.strip() for part in parts):
        return "leaves its folder by `..`"
    if len(encoded) > _MAX_PATH or max(len(part.encode()) for part in name.split("/")) > _MAX_NAME:
        return f"is too long ({_MAX_NAME} bytes a name, {_MAX_PATH} in all)"
    return None


def inside(base: Path | str, name: str) -> Path:
    """Return BASE/NAME of a path that a file names; the one way from such a path to a file.

    Links are followed: what a name points to must be below `base` too. The files of a Hugging Face cache are links from
    snapshots/REVISION to blobs/ beside it, and count as inside. Nothing has to exist.

    Raises:
        DataError: a path that leaves `base`: absolute, by `..`, by a link; or one that no file can have.
    """
    fault = path_fault(name)
    path = Path(base)
    if fault is None:
        path = path / name
        try:
            real, roots = os.path.realpath(path), _roots(base)
        except OSError as error:  # a loop of links, a part that may not be read
            fault = str(error.strerror)
        else:
            if not any(os.path.commonpath((root, real)) == root for root in roots):
                fault = "is a link to a place outside"
    if fault is not None:
        hint = f"only paths below {base} are read or written; put the file itself there (a copy or a hard link)"
        raise DataError(f"{base}: path {name[:100]!r} {fault}", hint)
    return path


def _roots(base: Path | str) -> tuple[str, ...]:
    """Return the real folders that count as inside `base`."""
    real = os.path.realpath(base)
    above = os.path.dirname(real)
    blobs = os.path.join(os.path.dirname(above), "blobs")
    return (real, blobs) if os.path.basename(above) == "snapshots" and os.path.isdir(blobs) else (real,)


def safe_name(text: str) -> str:
    """Return one file name for any text, at most 120 bytes: the text itself where that is a plain name.

    Else what is not a letter, digit or one of "._- " becomes "_" and a hash of the whole text follows, so that two
    texts never share a name.
    """
    if len(text) <= _MAX_SAFE_NAME and _PLAIN_NAME.fullmatch(text):
        return text
    name = "".join(c if c.isalnum() or c in "._- " else "_" for c in text)
    name = name.strip(". ").encode()[:_MAX_SAFE_NAME].decode(errors="ignore").rstrip(". ")
    if name and name == text:
        return name
    digest = blake2b(text.encode(errors="surrogatepass"), digest_size=8).hexdigest()
    kept = name.encode()[: _MAX_SAFE_NAME - len(digest) - 1].decode(errors="ignore").rstrip(". ")
    return f"{kept}-{digest}" if kept else digest


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
            what = f"{key}={folder}: another process is {doing} there"
            raise DataError(what, hint="wait, or choose another output=DIR") from None
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
            what = f"{name}={path}: lies in {key}={folder}, which --overwrite replaces"
            raise DataError(what, hint=f"choose another output=DIR, or move {path} out of it first")


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
