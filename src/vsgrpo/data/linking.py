"""Existing videos in a dataset folder without a second copy of their bytes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path, PurePosixPath

from vsgrpo.files import publish
from vsgrpo.paths import inside

_VIDEO = "mp4 m4v mov mkv webm avi mpg mpeg m2v ts m2ts mts wmv asf flv 3gp ogv vob"
VIDEO_SUFFIXES = frozenset(f".{name}" for name in _VIDEO.split())
IMAGE_SUFFIXES = frozenset(f".{name}" for name in ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"])


def link_or_copy(existing: Path, path: Path) -> None:
    """Give a file a second name (a hard link; a copy on another disk), whole or not at all.

    What a link points to gets the name: a relative link would lead nowhere from its new place.
    """
    existing = existing.resolve()
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

    Only files with the suffix of a video or image are linked, so that a row can name no row file or manifest.

    Raises:
        DataError: a path that leaves either folder.
    """
    source, target = inside(base, path), inside(out, path)
    if PurePosixPath(path).suffix.lower() not in VIDEO_SUFFIXES | IMAGE_SUFFIXES or not source.is_file():
        return
    if not (target.is_file() and os.path.samefile(source, target)):
        link_or_copy(source, target)
