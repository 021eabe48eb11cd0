"""Paths and names that come from a file: none leaves its folder, and every text has a file name of its own."""

from __future__ import annotations

import os
import re
from hashlib import blake2b
from pathlib import Path

from vsgrpo.errors import DataError

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
