"""Files as the project writes and names them: whole or not at all, on disk before they are relied on, inside a folder.

The one place for atomic writes, hashes of files, and paths that come from a file.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

from vsgrpo.errors import DataError

_CHUNK = 1 << 20
"""Bytes read at once for a hash."""
_MAX_NAME = 255
"""Bytes of one name, on every file system in use."""
_MAX_SAFE_NAME = 120
"""Bytes of a name that `safe_name` makes: suffixes and temporary marks still fit behind it."""
_MAX_PATH = 1024
"""Bytes of a path that a file may name; a system takes 4,096 together with the folder before it."""
_SEPARATORS = re.compile(r"[/\\]")
_PLAIN = re.compile(r"\w[\w.\- ]*(?:/\w[\w.\- ]*)*", re.ASCII)
"""The common case, in one look: no part begins with a dot."""
_PLAIN_NAME = re.compile(r"\w[\w.\-]*(?<!\.)", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


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
    parts = _SEPARATORS.split(name)
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
