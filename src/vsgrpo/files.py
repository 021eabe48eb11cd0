"""Files as the project writes and names them: whole or not at all, on disk before they are relied on, inside a folder.

The one place for atomic writes, hashes of files, and paths that come from a file.
"""

from __future__ import annotations

import os
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

from vsgrpo.errors import DataError

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
