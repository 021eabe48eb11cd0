"""Depth of an iPhone in ScanNet++: depth.bin in its three forms, or the PNGs that the toolkit extracts from it.

depth.bin holds one image of 192 x 256 pixels per frame of the video, either as one raw-deflate stream of float32
metres, or per frame a 32-bit length and that many bytes: a raw-deflate stream of float32 metres, or an LZ4 block of
uint16 millimetres, which needs the package lz4.
"""

from __future__ import annotations

import importlib
import re
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from vsgrpo.errors import DataError
from vsgrpo.scans.source import broken
from vsgrpo.video.image import read_uint16

HEIGHT, WIDTH = 192, 256
_PIXELS = HEIGHT * WIDTH
_CHUNK = 1 << 20
_PNG = re.compile(r"frame_(\d{6})")
_LENGTH = struct.Struct("<I")
NEEDS_LZ4 = "depth.bin is packed by LZ4, for which the package lz4 is needed (pip install lz4)"


class Depth(Protocol):
    """Depth images of a video.

    Attributes:
        num_frames: of the images, None where it is not known before all are read.
    """

    num_frames: int | None

    def read(self, number: int) -> NDArray[np.float32] | None:
        """Return the image of a frame of the video in metres, (H, W), 0 where unknown; None where there is none.

        Raises:
            DataError: it is broken.
        """
        ...

    def close(self) -> None:
        """Close the file."""


def open_depth(folder: Path) -> Depth | str:
    """Return the depth images of iphone/, or why there are none.

    Raises:
        DataError: depth.bin is empty or cannot be opened.
    """
    pngs = {int(match[1]): path for path in folder.glob("depth/frame_*.png") if (match := _PNG.fullmatch(path.stem))}
    if pngs:
        return _PngDepth(pngs)
    path = folder / "depth.bin"
    if not path.is_file():
        return "the recording has no depth.bin"
    try:
        file = path.open("rb")
    except OSError as error:
        raise broken(path, f"cannot be opened: {error.strerror}", "check its rights") from None
    places = _packed_frames(file, path.stat().st_size)
    if places is None:
        return _StreamDepth(path, file)
    packed = _PackedDepth(path, file, places)
    if packed.is_lz4 and _lz4() is None:
        file.close()
        return NEEDS_LZ4
    return packed


def _packed_frames(file: BinaryIO, size: int) -> list[tuple[int, int]] | None:
    """Return (offset, bytes) of each frame's payload; None where the file is no chain of lengths that ends with it."""
    places, offset = [], 0
    while offset < size:
        file.seek(offset)
        head = file.read(_LENGTH.size)
        if len(head) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack(head)
        offset += _LENGTH.size + length
        if not length or offset > size:
            return None
        places.append((offset - length, length))
    return places or None


class _PngDepth:
    """depth/frame_000000.png, ...: uint16 millimetres."""

    def __init__(self, paths: dict[int, Path]) -> None:
        self._paths = paths
        self.num_frames: int | None = len(paths)

    def read(self, number: int) -> NDArray[np.float32] | None:
        path = self._paths.get(number)
        return None if path is None else read_uint16(path).astype(np.float32) / np.float32(1000)

    def close(self) -> None:
        pass


class _PackedDepth:
    """A chain of lengths and payloads.

    Attributes:
        is_lz4: the first payload is no deflate stream of an image.
    """

    def __init__(self, path: Path, file: BinaryIO, places: list[tuple[int, int]]) -> None:
        self._path, self._file, self._places = path, file, places
        self.num_frames: int | None = len(places)
        self.is_lz4 = _inflated(self._payload(0)) is None

    def _payload(self, number: int) -> bytes:
        offset, length = self._places[number]
        self._file.seek(offset)
        return self._file.read(length)

    def read(self, number: int) -> NDArray[np.float32] | None:
        if not 0 <= number < len(self._places):
            return None
        payload = self._payload(number)
        metres = _inflated(payload)
        if metres is None and (metres := _unpacked(payload)) is None:
            raise broken(
                self._path, f"depth of frame {number} is neither a deflate stream nor an LZ4 block of an image"
            )
        return metres

    def close(self) -> None:
        self._file.close()


def _inflated(payload: bytes) -> NDArray[np.float32] | None:
    decoder = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = decoder.decompress(payload, 4 * _PIXELS + 1)
    except zlib.error:
        return None
    is_image = len(content) == 4 * _PIXELS and decoder.eof and not decoder.unused_data
    return _image(content) if is_image else None


def _unpacked(payload: bytes) -> NDArray[np.float32] | None:
    block = _lz4()
    if block is None:
        return None
    try:
        content = block.decompress(payload, uncompressed_size=2 * _PIXELS)
    except block.LZ4BlockError:
        return None
    if len(content) != 2 * _PIXELS:
        return None
    return np.frombuffer(content, dtype="<u2").reshape(HEIGHT, WIDTH).astype(np.float32) / np.float32(1000)


def _lz4() -> Any:
    """Return the module lz4.block, None where the package is not installed."""
    try:
        return importlib.import_module("lz4.block")
    except ImportError:
        return None


def _image(content: bytes) -> NDArray[np.float32]:
    metres = np.frombuffer(content, dtype="<f4").reshape(HEIGHT, WIDTH)
    return np.where(np.isfinite(metres), metres, np.float32(0))


class _StreamDepth:
    """One raw-deflate stream of all images, several GB when unpacked: read from its start, an image at a time.

    Images are read fastest in ascending order; an earlier one starts again.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self.num_frames: int | None = None
        self._rewind()

    def _rewind(self) -> None:
        self._file.seek(0)
        self._decoder, self._next = zlib.decompressobj(-zlib.MAX_WBITS), 0

    def read(self, number: int) -> NDArray[np.float32] | None:
        if self.num_frames is not None and number >= self.num_frames:
            return None
        if number < self._next:
            self._rewind()
        content = b""
        while self._next <= number:
            content = self._image_bytes()
            if not content:
                return None
            self._next += 1
        return _image(content)

    def _image_bytes(self) -> bytes:
        """Return the bytes of the next image, none at the end."""
        parts, needed = [], 4 * _PIXELS
        while needed:
            packed = self._decoder.unconsumed_tail or (b"" if self._decoder.eof else self._file.read(_CHUNK))
            try:
                part = self._decoder.decompress(packed, needed)
            except zlib.error as error:
                raise self._broken(f"is neither a chain of images nor one deflate stream ({error})") from None
            if not packed and not part:
                break
            needed -= len(part)
            parts.append(part)
        if needed == 4 * _PIXELS:
            self._check_end()
            return b""
        if needed:
            what = "not a whole number of images of 192 x 256" if self._decoder.eof else "truncated"
            raise self._broken(f"{what}: its stream ends in image {self._next}")
        return b"".join(parts)

    def _check_end(self) -> None:
        if not self._decoder.eof or self._decoder.unused_data or self._file.read(1):
            raise self._broken(f"truncated, or with other content behind image {self._next}")
        self.num_frames = self._next

    def _broken(self, what: str) -> DataError:
        return broken(self._path, what)

    def close(self) -> None:
        self._file.close()
