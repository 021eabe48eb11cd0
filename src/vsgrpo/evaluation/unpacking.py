"""Media of a benchmark that lie packed: in zips beside the row file, or as pictures inside it (bytes or base64 text).

Both are unpacked once, beside the row file, or into RUN_DIR where that folder cannot be written. A file that is there
already is kept; a half one never has the final name. Pictures go to `<row file>.<hash>.images/`: another version of the
row file has another folder.
"""

from __future__ import annotations

import base64
import binascii
import errno
import hashlib
import json
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from vsgrpo.errors import DataError, RunError
from vsgrpo.files import file_sha256, publish, write_atomic
from vsgrpo.paths import inside, safe_name
from vsgrpo.records import read_record
from vsgrpo.terminal import Progress, counted, note

PACKED = "packed"
"""Media path of a row whose pictures lie in the row file: how many there are is known once they are unpacked."""
INDEX_NAME = "index.json"
_MAGIC = ((b"\x89PNG", "png"), (b"\xff\xd8\xff", "jpg"), (b"RIFF", "webp"), (b"GIF8", "gif"), (b"BM", "bmp"))
_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,")
_SHARD = re.compile(r"(.*-)(\d{5})-of-(\d{5})(-\w+)?(\.\w+)")
_AGAIN = "download it again"
_NOTED = 200
"""Rows whose pictures are unpacked between two notes."""


def shards(file: Path) -> list[Path]:
    """Return the files that a row file is one of: NAME-00000-of-00003.parquet and the two others; else itself.

    Raises:
        DataError: one of them is missing.
    """
    found = _SHARD.fullmatch(file.name)
    if found is None or int(found[3]) < 2:
        return [file]
    name, _, number, _, suffix = found.groups()
    files = [sorted(file.parent.glob(f"{name}{k:05d}-of-{number}*{suffix}")) for k in range(int(number))]
    if missing := [k for k, there in enumerate(files) if len(there) != 1]:
        shard = f"{name}{missing[0]:05d}-of-{number}{suffix}"
        raise DataError(
            f"{file.parent}: {len(missing)} of {counted(int(number), 'row file')} missing, such as {shard}", _AGAIN
        )
    return [there for (there,) in files]


def rows_sha256(files: Sequence[Path]) -> str:
    """Return the SHA-256 of a row file; of several that of their hashes, one a line."""
    hashes = [file_sha256(path) for path in files]
    if len(hashes) == 1:
        return hashes[0]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def find_in_zips(folder: Path, names: Iterable[str]) -> dict[str, tuple[Path, zipfile.ZipInfo]]:
    """Return which of the files `names` ("scannet/scene0011_00.mp4") a zip of the folder holds: name -> (zip, member).

    A member counts where its path ends like the name, or does so behind the name of its zip ("scannet.zip").

    Raises:
        DataError: a broken zip (a download that was cut off).
    """
    wanted = set(names)
    found: dict[str, tuple[Path, zipfile.ZipInfo]] = {}
    for file in sorted(folder.glob("*.zip")) if wanted else ():
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{file}: not a whole zip ({error})", _AGAIN) from None
        for member in members:
            path = PurePosixPath(member.filename)
            if path.name.startswith(".") or "__MACOSX" in path.parts or member.is_dir():
                continue
            for start in range(len(path.parts)):
                end = "/".join(path.parts[start:])
                for name in (end, f"{file.stem}/{end}"):
                    if name in wanted:
                        found.setdefault(name, (file, member))
    return found


def unpack(found: Mapping[str, tuple[Path, zipfile.ZipInfo]], folder: Path, fallback: Path) -> dict[str, Path]:
    """Unpack files beside their zips, or into `fallback` where that folder cannot be written; return name -> path.

    A file already there in full size is kept; a half one never has the final name.

    Raises:
        DataError: a member that cannot be read, or a name that leaves the folder.
        RunError: no room for it; no half file is left.
    """
    target = folder if os.access(folder, os.W_OK) else fallback
    paths: dict[str, Path] = {}
    progress = Progress("files unpacked", len(found))
    for name, (file, member) in sorted(found.items()):
        path = paths[name] = inside(target, name)
        if not path.is_file() or path.stat().st_size != member.file_size:
            _write(_content(file, member), path)
        progress.advance()
    return paths


def _content(file: Path, member: zipfile.ZipInfo) -> Iterator[bytes]:
    """Yield the bytes of a member of a zip; DataError where it cannot be read."""
    try:
        with zipfile.ZipFile(file) as archive, archive.open(member) as source:
            while chunk := source.read(1 << 20):
                yield chunk
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise DataError(f"{file}: {member.filename} cannot be unpacked ({error})", _AGAIN) from None


def _write(chunks: Iterable[bytes], path: Path) -> None:
    """Write a file, whole or not at all; RunError where the disk refuses it."""
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as sink:
            sink.writelines(chunks)
        publish(part, path)
    except OSError as error:
        hint = f"make {path.parent} a folder that can be written, and run the same command again"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            hint = "free disk space and run the same command again: files unpacked so far stay"
        raise RunError(f"{path}: cannot be unpacked: {error.strerror}", hint) from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def image_suffix(content: bytes) -> str | None:
    """Return the suffix of an image file by its first bytes, None for bytes that are no image."""
    return next((suffix for magic, suffix in _MAGIC if content.startswith(magic)), None)


def write_image(path: Path, content: bytes) -> None:
    """Write an image, whole or not at all, unless it is there; other processes may be writing the same one.

    Raises:
        RunError: the disk refuses it.
    """
    if not path.is_file():
        _write([content], path)


def picture_bytes(value: Any, where: str) -> bytes:
    """Return the bytes of a picture as a column holds it: bytes, {"bytes": ...}, base64 text or a data URL.

    Raises:
        DataError: nothing of these, or bytes that are no image.
    """
    content = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(content, str):
        text = content.strip()
        if begun := _DATA_URL.match(text):
            text = text[begun.end() :]
        try:
            content = base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError):
            raise DataError(f"{where}: {text[:40]!r} is no base64 text of a picture", _AGAIN) from None
    if not isinstance(content, bytes) or image_suffix(content) is None:
        raise DataError(f"{where}: no png, jpeg, webp, gif or bmp", _AGAIN)
    return content


def picture_folders(file: Path, sha256: str, run_dir: Path | None) -> list[Path]:
    """Return where the pictures of a row file may be: beside it, and below RUN_DIR. They are written to the first one
    that can be."""
    name = f"{file.stem}.{sha256[:12]}.images"
    return [file.parent / name, *([] if run_dir is None else [run_dir / name])]


def known_pictures(folders: Iterable[Path]) -> dict[str, tuple[Path, ...]]:
    """Return row id -> pictures that were unpacked before and are all there."""
    found: dict[str, tuple[Path, ...]] = {}
    for folder in folders:
        if (folder / INDEX_NAME).is_file():
            index = read_record(folder / INDEX_NAME, {str: [str]}, "delete this file: the pictures are unpacked again")
            for name, files in index.items():
                paths = tuple(inside(folder, file) for file in files)
                if all(path.is_file() for path in paths):
                    found.setdefault(name, paths)
    return found


def unpack_pictures(
    read: Callable[[], Iterable[tuple[str, Sequence[Any]]]],
    ids: Mapping[str, bool],
    folders: Sequence[Path],
    where: str,
) -> dict[str, tuple[Path, ...]]:
    """Write the pictures of rows as FOLDER/ID_NUMBER.SUFFIX and return row id -> paths, those of before among them.

    Args:
        read: yields (row id, pictures) of any rows; called only where some of `ids` are not there yet.
        ids: of rows that may have pictures -> whether they must.
        folders: `picture_folders`.
        where: the row file, for messages.

    Raises:
        DataError: bytes that are no image, or no picture for a row that must have some.
        RunError: the disk refuses them.
    """
    known = known_pictures(folders)
    wanted = {name for name in ids if name not in known}
    if not wanted:
        return known
    folder = next((path for path in folders if os.access(path if path.is_dir() else path.parent, os.W_OK)), folders[-1])
    new: dict[str, tuple[Path, ...]] = {}
    for name, pictures in read():
        if name not in wanted:
            continue
        for number, picture in enumerate(pictures):
            content = picture_bytes(picture, f"{where}: id={name}: picture {number + 1}")
            path = inside(folder, f"{safe_name(name)}_{number}.{image_suffix(content)}")
            write_image(path, content)
            new[name] = (*new.get(name, ()), path)
        wanted.discard(name)
        if len(new) % _NOTED == 0 and name in new:
            note(f"pictures of {counted(len(new), 'row')} unpacked into {folder}")
        if not wanted:
            break
    if lacking := sorted(name for name, must in ids.items() if must and name not in new and name not in known):
        raise DataError(f"{where}: id={lacking[0]}: no picture ({counted(len(lacking), 'such row')})", _AGAIN)
    if new:
        own = {name: paths for name, paths in known.items() if paths[0].parent == folder} | new
        index = {name: [path.name for path in paths] for name, paths in own.items()}
        write_atomic(folder / INDEX_NAME, json.dumps(index) + "\n")
    return known | new
