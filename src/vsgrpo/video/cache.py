"""Caches by content on disk: arrays (decoded and resized frames, visual features), headers of good files.

A cache never decides what a frame is: a lost, evicted or corrupt entry is computed again.
"""

import contextlib
import io
import json
import math
import mmap
import os
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vsgrpo.errors import ConfigError, DataError, SetupError
from vsgrpo.files import is_settled, write_atomic
from vsgrpo.records import read_record
from vsgrpo.video.container import file_stamp
from vsgrpo.video.index import VideoHeader

_CHECKSUM_BYTES = 4
"""Bound of the memory cache of one process."""
_USED_EVERY_S = 60.0
"""How exactly the last use of an entry is known."""


class DiskCache:
    """One file per key under `folder`: a .npy array followed by its CRC-32.

    Safe for several processes on one file system: an entry appears by rename, complete, and equal keys hold equal
    content, so the last writer wins without harm. Arrays are memory-mapped, copy on write; an entry is checked when a
    process first meets it and when its file has changed. `num_corrupt` counts the entries that had to be thrown away.

    Args:
        folder: made where missing.
        setting: the configuration key that asked for this cache, for messages.

    Raises:
        ConfigError, SetupError: no folder given, or one that cannot be made.
    """

    def __init__(self, folder: Path | str | None, setting: str = "video.frame_cache") -> None:
        if folder is None:
            raise ConfigError(f"video.cache_dir=null: {setting}=disk needs a folder", hint="set video.cache_dir=PATH")
        self.folder = Path(folder)
        self.num_corrupt = 0
        self._setting = setting
        self._checked: dict[str, tuple[int, int, int]] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            hint = "choose a folder you may write to"
            raise SetupError(f"video.cache_dir={folder}: cannot be made ({error.strerror})", hint) from error

    def path(self, key: str) -> Path:
        """Return the file of `key`; the first two characters of the key spread the files over folders."""
        return self.folder / key[:2] / f"{key}.npy"

    def __contains__(self, key: str) -> bool:
        return self.path(key).is_file()

    def get(self, key: str) -> np.ndarray | None:
        path = self.path(key)
        try:
            with open(path, "rb") as file:
                array = self._read(file, key)
        except FileNotFoundError:
            return None
        if array is None:
            self.num_corrupt += 1
            path.unlink(missing_ok=True)
            return None
        return array

    def _read(self, file: BinaryIO, key: str) -> np.ndarray | None:
        """Return the array of an open entry, or None where it is not what was written."""
        status = os.fstat(file.fileno())
        if status.st_size <= _CHECKSUM_BYTES:
            return None
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        try:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        except (ValueError, EOFError):
            return None
        start, end = file.tell(), len(content) - _CHECKSUM_BYTES
        count = math.prod(shape)
        if start + count * dtype.itemsize != end:
            return None
        is_new = self._checked.get(key) != _stamp(status)
        if is_new and zlib.crc32(memoryview(content)[:end]).to_bytes(_CHECKSUM_BYTES, "big") != content[end:]:
            return None
        if time.time() - status.st_mtime > _USED_EVERY_S:
            with contextlib.suppress(OSError):
                os.utime(file.fileno())  # `evict` drops what was not used for longest
        self._checked[key] = _stamp(os.fstat(file.fileno()))
        return np.frombuffer(content, dtype, count, start).reshape(shape)

    def put(self, key: str, frames: np.ndarray) -> None:
        path = self.path(key)
        stream = io.BytesIO()
        np.save(stream, np.ascontiguousarray(frames), allow_pickle=False)
        body = stream.getbuffer()
        partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
        try:
            path.parent.mkdir(exist_ok=True)
            with open(partial, "wb") as file:
                file.write(body)
                file.write(zlib.crc32(body).to_bytes(_CHECKSUM_BYTES, "big"))
            os.replace(partial, path)
        except OSError as error:
            raise SetupError(
                f"video.cache_dir={self.folder}: cannot write an entry ({error.strerror})",
                hint=f"free disk space, choose another folder, or set {self._setting}=off",
            ) from error
        finally:
            partial.unlink(missing_ok=True)

    def size(self) -> tuple[int, int]:
        """Return the number of entries and their bytes."""
        sizes = [size for _, size, _ in self._entries()]
        return len(sizes), sum(sizes)

    def evict(self, max_bytes: int) -> int:
        """Remove the entries unused for longest until at most `max_bytes` are left, and return how many; 0 removes all.

        Other processes lose nothing but time: what they have mapped stays readable, what is gone is computed again.
        """
        entries = sorted(self._entries())
        removed, left = 0, sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if left <= max_bytes:
                break
            path.unlink(missing_ok=True)
            removed, left = removed + 1, left - size
        return removed

    def _entries(self) -> list[tuple[float, int, Path]]:
        """List (time of last use, bytes, file)."""
        found = []
        for path in self.folder.glob("??/*.npy"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        return found


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


class HeaderCache:
    """Headers of files found good, by content and settings, and hashes by path, size and times of change.

    Args:
        path: the JSON file that keeps them; ignored where unreadable. None: keep nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.hashes: dict[str, str] = {}
        self.headers: dict[str, VideoHeader] = {}
        if path is not None:
            with contextlib.suppress(DataError, TypeError):  # not there or unreadable: it only saves time
                data = read_record(path, {"hashes": {str: str}, "headers": {str: dict}}, "")
                headers = {key: VideoHeader(**header) for key, header in data["headers"].items()}
                self.hashes, self.headers = data["hashes"], headers

    def content(self, name: str, read: Callable[[], str]) -> str:
        """Return the hash of a file, from memory as `files.remembered_sha256` does, else by `read`."""
        stamp = file_stamp(name)
        key = " ".join(map(str, stamp))
        if (found := self.hashes.get(key)) is None:
            found = read()
            if is_settled(stamp[1:]) and file_stamp(name) == stamp:
                self.hashes[key] = found
        return found

    def save(self) -> None:
        """Write the file, unless the disk refuses."""
        if self.path is not None:
            headers = {key: asdict(header) for key, header in self.headers.items()}
            with contextlib.suppress(OSError):  # a full disk: the next check decodes again
                write_atomic(self.path, json.dumps({"hashes": self.hashes, "headers": headers}))
