"""Files as the project writes and reads them: whole or not at all, on disk before they are relied on.

Atomic writes, hashes, checksums, YAML. Names that files give, and folders that are locked or replaced: `paths`;
records that an earlier command wrote: `records`.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import file_digest
from pathlib import Path
from typing import Any

from vsgrpo.errors import DataError
from vsgrpo.records import read_record

CACHE_VARIABLE = "VSGRPO_CACHE_DIR"
"""Environment variable: the folder of what saves time when it is there, nothing else (`user_cache`)."""
CHECKSUMS_NAME = "checksums.json"
"""In a folder whose files are checked before they are relied on: size and sha256 of each of them."""
_CHECKSUMS = {"files": {str: {"size": int, "sha256": str}}}
_SETTLED_NS = 2_000_000_000
"""A file changed more recently than this may change again under the same time stamp."""


def write_atomic(path: Path, text: str) -> None:
    """Write a text file under a temporary name, sync it and rename it: no half file ever has the final name.

    A path that is there and no regular file is refused (DataError).

    Half a character (a lone surrogate) is written as its escape, which JSON and YAML read back.
    """
    if not path.name or (path.exists() and not path.is_file()):  # a rename would replace a device, too
        raise DataError(f"{path}: is no file that can be replaced", "give the name of a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        raise _named(error, path) from None
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n", errors="backslashreplace") as stream:
            stream.write(text)
        os.chmod(temporary, 0o644)
        publish(Path(temporary), path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            _named(error, path)
        raise


def _named(error: OSError, path: Path) -> OSError:
    """Return the error with the file's final name: a full disk names none, the temporary one says nothing."""
    error.filename = str(path)
    return error


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


def link_or_copy(existing: Path, path: Path) -> None:
    """Give a file a second name (a hard link; a copy on another disk), whole or not at all.

    What a link points to gets the name: a relative link would lead nowhere from its new place.
    """
    existing = existing.resolve()
    if path.is_file() and not path.is_symlink() and os.path.samefile(existing, path):
        return  # a rename of one link of a file to another does nothing, and would leave the temporary name
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    part.unlink(missing_ok=True)
    try:
        os.link(existing, part)
        os.replace(part, path)
    except OSError:
        try:
            shutil.copy2(existing, part)
            publish(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


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
    with path.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def remembered_sha256(path: Path) -> str:
    """Return a file's sha256, from memory where path, size and times are those of an earlier look.

    The memory is a file of lines in `user_cache`; where that cannot be written, nothing is remembered. The time of the
    last change of the inode counts too: `utime` cannot set it back. A file that changed within the last two seconds is
    not remembered, as it could change again under the same times.
    """
    path = path.resolve()
    state = file_state(path)
    known = _read_memory().get(str(path))
    if known is not None and known[0] == state:
        return known[1]
    found = file_sha256(path)
    if is_settled(state) and file_state(path) == state:
        _MEMORY[str(path)] = (state, found)
        with suppress(OSError):
            if (cache := user_cache()) is None:
                return found
            cache.mkdir(parents=True, exist_ok=True)
            with (cache / _MEMORY_NAME).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"path": str(path), "state": state, "sha256": found}) + "\n")
    return found


def file_state(path: Path) -> list[int]:
    """Return size, time of the last write and of the last change of a file (bytes, ns, ns); OSError: it is gone."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def is_settled(state: Sequence[int]) -> bool:
    """Tell by its `file_state` whether a file is old enough that a change from now on has another state."""
    return time.time_ns() - max(state[1:]) > _SETTLED_NS


def write_checksums(folder: Path) -> None:
    """Write checksums.json: size and sha256 of every file in a folder."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / CHECKSUMS_NAME]
    names = [path.relative_to(folder).as_posix() for path in paths]
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
        files = read_record(folder / CHECKSUMS_NAME, _CHECKSUMS, "")["files"]
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
    except DataError:
        return f"{CHECKSUMS_NAME}: not as it was written"
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return None


_MEMORY: dict[str, tuple[list[int], str]] = {}
_READ: set[Path] = set()
_MEMORY_NAME = "sha256.jsonl"


def user_cache() -> Path | None:
    """Return the user's folder for what may be lost: VSGRPO_CACHE_DIR, else vsgrpo in XDG_CACHE_HOME or ~/.cache.

    It may not be there yet. None where the user has no home (a container with any user id).
    """
    if own := os.environ.get(CACHE_VARIABLE):
        return Path(own)
    base = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")  # Path.expanduser raises without a home
    return None if base.startswith("~") else Path(base) / "vsgrpo"


def _read_memory() -> dict[str, tuple[list[int], str]]:
    """Return what is remembered, read once per process."""
    if (cache := user_cache()) is None or (file := cache / _MEMORY_NAME) in _READ:
        return _MEMORY
    _READ.add(file)
    with suppress(OSError):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, KeyError, TypeError):  # a line cut off by a kill is not remembered
                data = json.loads(line)
                _MEMORY[data["path"]] = (list(data["state"]), str(data["sha256"]))
    return _MEMORY


def read_yaml(path: Path, hint: str) -> dict[str, Any]:
    """Return the mapping in a YAML file, numbers read as Hydra does ("1e-5" is one).

    Raises:
        DataError: it cannot be read or is no mapping.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except (YAMLError, OmegaConfBaseException, OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path}: not readable as YAML ({reason})", hint) from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds no mapping of keys to values", hint)
    return {str(key): value for key, value in content.items()}
