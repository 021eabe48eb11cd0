"""Files as the project writes and names them: whole or not at all, on disk before they are relied on, inside a folder.

The one place for atomic writes, hashes of files, and paths that come from a file.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from hashlib import sha256
from pathlib import Path

_CHUNK = 1 << 20
"""Bytes read at once for a hash."""


def write_atomic(path: Path, text: str) -> None:
    """Write a text file under a temporary name, sync it and rename it: no half file ever has the final name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, as 64 hexadecimal digits."""
    digest = sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def publish_folder(partial: Path, folder: Path) -> None:
    """Give a complete folder its name once all of it is on disk; a folder of that name is removed only after that."""
    sync_folder(partial)
    old = folder.with_name(f".{folder.name}.old-{os.getpid()}")
    replaces = folder.exists()
    if replaces:
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    partial.rename(folder)
    _sync(folder.parent)
    if replaces:
        shutil.rmtree(old)


def sync_folder(folder: Path) -> None:
    """Wait until every file and folder in `folder`, and itself, is on disk."""
    for path in (*folder.rglob("*"), folder):
        _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
