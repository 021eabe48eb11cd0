"""Videos that still lie in the zips they were downloaded in: scannet.zip, arkitscenes.zip, scannetpp.zip."""

from __future__ import annotations

import errno
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO

from vsgrpo.errors import DataError, RunError
from vsgrpo.files import publish
from vsgrpo.paths import inside
from vsgrpo.terminal import Progress


def find_in_zips(folder: Path, names: Iterable[str]) -> dict[str, tuple[Path, str]]:
    """Return which of the videos `names` ("scannet/scene0011_00.mp4") a zip of the folder holds: name -> (zip, member).

    A member counts where its path ends like the name, or where the zip is called like the name's folder.

    Raises:
        DataError: a broken zip (a download that was cut off).
    """
    wanted = set(names)
    found: dict[str, tuple[Path, str]] = {}
    for file in sorted(folder.glob("*.zip")) if wanted else ():
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.namelist()
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{file}: not a whole zip ({error})", "download it again") from None
        for member in members:
            path = PurePosixPath(member)
            if path.name.startswith(".") or "__MACOSX" in path.parts:
                continue
            for name in ("/".join(path.parts[-2:]), f"{file.stem}/{path.name}"):
                if name in wanted:
                    found.setdefault(name, (file, member))
    return found


def unpack(found: dict[str, tuple[Path, str]], folder: Path, fallback: Path) -> dict[str, Path]:
    """Unpack videos beside their zips, or into `fallback` where that folder cannot be written; return name -> path.

    A video already there in full size is kept; a half one never has the final name.

    Raises:
        DataError: a member that cannot be read, or a name that leaves the folder.
        RunError: no room for it; no half file is left.
    """
    target = folder if os.access(folder, os.W_OK) else fallback
    paths: dict[str, Path] = {}
    progress = Progress("videos unpacked", len(found))
    for name, (file, member) in sorted(found.items()):
        path = paths[name] = inside(target, name)
        try:
            with zipfile.ZipFile(file) as archive:
                if not path.is_file() or path.stat().st_size != archive.getinfo(member).file_size:
                    with archive.open(member) as source:
                        _write(source, path)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
            raise DataError(f"{file}: {member} cannot be unpacked ({error})", "download it again") from None
        progress.advance()
    return paths


def _write(source: IO[bytes], path: Path) -> None:
    """Copy a stream into a file, whole or not at all; RunError where it cannot be written."""
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            sink = part.open("wb")
        with sink:
            while chunk := source.read(1 << 20):
                with _writing(path):
                    sink.write(chunk)
                    sink.flush()
        with _writing(path):
            publish(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Tell what the disk refuses from what is wrong with the zip."""
    try:
        yield
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> RunError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return RunError(
        f"{path}: cannot be unpacked: {error.strerror}",
        "free disk space and run the same command again: videos unpacked so far stay"
        if full
        else f"make {path.parent} a folder that can be written, and run the same command again",
    )
