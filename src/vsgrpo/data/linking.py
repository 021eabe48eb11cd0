"""Existing videos in a dataset folder without a second copy of their bytes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path, PurePosixPath

from vsgrpo.errors import DataError
from vsgrpo.files import publish
from vsgrpo.paths import inside

_VIDEO = "mp4 m4v mov mkv webm avi mpg mpeg m2v ts m2ts mts wmv asf flv 3gp ogv vob"
VIDEO_SUFFIXES = frozenset(f".{name}" for name in _VIDEO.split())
IMAGE_SUFFIXES = frozenset(f".{name}" for name in ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"])
_RECORDS = (".json", ".jsonl", ".parquet", ".csv", ".tsv", ".yaml", ".yml", ".html", ".md", ".txt", ".lock")
"""Of row files, manifests and pages: never a video or image."""


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


def link_media(base: Path, out: Path, path: str) -> None:
    """Give a video or image of one dataset folder the same path in another; what is missing stays missing.

    Raises:
        DataError: a path that leaves either folder, or that of a row file or manifest, which it would replace.
    """
    source, target = inside(base, path), inside(out, path)
    if PurePosixPath(path).suffix.lower() in _RECORDS:
        hint = "leave the row out, or name its video or image"
        raise DataError(f"{base}: media path {path[:100]!r}: not a video or image", hint)
    if source.is_file():
        link_or_copy(source, target)
