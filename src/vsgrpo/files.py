"""Files as the project writes and names them: whole or not at all, on disk before they are relied on, inside a folder.

The one place for atomic writes, hashes of files, folders that are locked or replaced, and paths that come from a file.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from vsgrpo.errors import DataError

LOCK_NAME = ".lock"
ASIDE_NAME = ".replaced"
"""Sub-folder that holds what --overwrite is replacing, until the new content is complete."""
HASHES_VARIABLE = "VSGRPO_CACHE_DIR"
"""Environment variable: the folder of `remembered_sha256`'s memory (default: vsgrpo in the user's cache folder)."""
CHECKSUMS_NAME = "checksums.json"
"""In a folder whose files are checked before they are relied on: size and sha256 of each of them."""
_MOVING_NAME = ".replacing"
_DROPPED_NAME = ".dropped"
_CHUNK = 1 << 20
"""Bytes read at once for a hash."""
_SETTLED_NS = 2_000_000_000
"""A file changed more recently than this may change again under the same time stamp."""


def write_atomic(path: Path, text: str) -> None:
    """Write a text file under a temporary name, sync it and rename it: no half file ever has the final name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
        os.chmod(temporary, 0o644)
        publish(Path(temporary), path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def publish(part: Path, target: Path) -> None:
    """Give a finished file or folder its final name once its bytes are on disk; what had that name is replaced.

    An existing folder is moved aside for the rename and removed after it: a process that is killed in between leaves
    it as `.NAME.old`, which the next `publish`, or `recover`, moves back.
    """
    sync(part)
    old = _old_name(target)
    recover(target)
    if target.is_dir() and not target.is_symlink():
        os.replace(target, old)
    os.replace(part, target)
    sync_names(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover(target: Path) -> bool:
    """Move a folder back that a killed `publish` had moved aside; return whether there was one to move."""
    old = _old_name(target)
    if not old.is_dir():
        return False
    if target.exists():  # the new one has its name: only the removal was cut off
        shutil.rmtree(old, ignore_errors=True)
        return False
    os.replace(old, target)
    return True


def _old_name(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def sync(path: Path) -> None:
    """Wait until a file, or all files and names of a folder, are on disk (fsync)."""
    if not path.is_dir():
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        return
    for folder, _, names in os.walk(path):
        for name in names:
            file = Path(folder, name)
            if file.is_file() and not file.is_symlink():
                sync(file)
        sync_names(Path(folder))


def sync_names(folder: Path) -> None:
    """Wait until the names in a folder are on disk; file systems that cannot sync a folder are left alone."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, as 64 hexadecimal digits."""
    digest = sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def remembered_sha256(path: Path) -> str:
    """Return a file's sha256, from memory where path, size and times are those of an earlier look.

    The memory is a file of lines in the user's cache folder (`HASHES_VARIABLE`); where that cannot be written, nothing
    is remembered. The time of the last change of the inode counts too: `utime` cannot set it back. A file that changed
    within the last two seconds is not remembered, as it could change again under the same times.
    """
    path = path.resolve()
    state = file_state(path)
    known = _read_memory().get(str(path))
    if known is not None and known[0] == state:
        return known[1]
    found = file_sha256(path)
    settled = time.time_ns() - max(state[1:]) > _SETTLED_NS
    if settled and file_state(path) == state:
        _MEMORY[str(path)] = (state, found)
        with suppress(OSError):
            file = _memory_file()
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"path": str(path), "state": state, "sha256": found}) + "\n")
    return found


def file_state(path: Path) -> list[int]:
    """Return size, time of the last write and of the last change of a file (bytes, ns, ns); OSError: it is gone."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def write_checksums(folder: Path) -> None:
    """Write checksums.json: size and sha256 of every file in a folder."""
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    names = [name for name in names if name != CHECKSUMS_NAME]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        digests = list(pool.map(lambda name: file_sha256(folder / name), names))
    files = {
        name: {"size": (folder / name).stat().st_size, "sha256": digest}
        for name, digest in zip(names, digests, strict=True)
    }
    write_atomic(folder / CHECKSUMS_NAME, json.dumps({"schema_version": 1, "files": files}, indent=1) + "\n")


def find_damage(folder: Path) -> str | None:
    """Return what is wrong with a folder that has checksums.json ("weights.bin: not as it was written"), or None.

    Without checksums.json (written by an older version) only empty files are found.
    """
    if not (folder / CHECKSUMS_NAME).is_file():
        empty = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.stat().st_size]
        return f"{empty[0].relative_to(folder)}: empty" if empty else None
    try:
        files = json.loads((folder / CHECKSUMS_NAME).read_text(encoding="utf-8"))["files"]
        for name, entry in files.items():
            if not (folder / name).is_file():
                return f"{name}: missing"
            size = (folder / name).stat().st_size
            if size != entry["size"]:
                return f"{name}: {size} bytes, were {entry['size']}"
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            digests = pool.map(lambda name: file_sha256(folder / name), files)
            for (name, entry), digest in zip(files.items(), digests, strict=True):
                if digest != entry["sha256"]:
                    return f"{name}: not as it was written"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{CHECKSUMS_NAME}: not as it was written"
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return None


_MEMORY: dict[str, tuple[list[int], str]] = {}
_READ: set[Path] = set()


def _memory_file() -> Path:
    base = os.environ.get(HASHES_VARIABLE)
    if base is None:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "vsgrpo"
    return Path(base) / "sha256.jsonl"


def _read_memory() -> dict[str, tuple[list[int], str]]:
    """Return what is remembered, read once per process."""
    file = _memory_file()
    if file in _READ:
        return _MEMORY
    _READ.add(file)
    with suppress(OSError):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, KeyError, TypeError):  # a line cut off by a kill is not remembered
                data = json.loads(line)
                _MEMORY[data["path"]] = (list(data["state"]), str(data["sha256"]))
    return _MEMORY


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
