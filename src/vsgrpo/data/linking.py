"""Existing videos in a dataset folder without a second copy of their bytes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from vsgrpo.files import publish


def link_or_copy(existing: Path, path: Path) -> None:
    """Give a file a second name (a hard link; a copy on another disk), whole or not at all."""
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
