"""ScanNet `.sens` version 4 files: JPEG frames with camera poses, read as a stream.

A `.sens` has 0.3-5 GB, so nothing here ever holds a whole file: one pass over the 96-byte frame headers makes an
index (2.4 ms per 600 frames when the file is warm), frames are read one by one from it.
Source: the `.sens` layout of the ScanNet repository (SensReader), little endian throughout.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from vsgrpo.errors import DataError
from vsgrpo.scans.source import DOWNLOAD_AGAIN
from vsgrpo.scans.visibility import View

VERSION = 4
COLOR_COMPRESSION = {-1: "unknown", 0: "raw", 1: "png", 2: "jpeg"}
DEPTH_COMPRESSION = {-1: "unknown", 0: "raw_ushort", 1: "zlib_ushort", 2: "occi_ushort"}
INVALID_POSE = np.full((4, 4), -np.inf, dtype=np.float32)
"""What the C++ recorder stores where tracking failed (its constructor default)."""

SIZES = struct.Struct("<ii4IfQ")  # compressions, color w h, depth w h, depth shift, number of frames
FRAME = struct.Struct("<64s4Q")  # pose, time color, time depth, color bytes, depth bytes
_MAX_NAME = 4096
_MAX_SIDE = 1 << 16


@dataclass(frozen=True)
class SensHeader:
    """What a `.sens` says about itself.

    Attributes:
        sensor: name of the recorder, "StructureSensor" in ScanNet.
        intrinsic_color, intrinsic_depth: (4, 4) float32.
        color_size, depth_size: (width, height) in pixels.
        depth_shift: depth in metres = stored value / depth_shift.
        num_frames: frames the header announces.
    """

    sensor: str
    intrinsic_color: NDArray[np.float32]
    intrinsic_depth: NDArray[np.float32]
    color_compression: str
    depth_compression: str
    color_size: tuple[int, int]
    depth_size: tuple[int, int]
    depth_shift: float
    num_frames: int


@dataclass(frozen=True)
class SensFrame:
    """One frame as it lies in the file.

    Attributes:
        index: position in the file; time = index / frame rate (ScanNet's own timestamps are often 0 or random).
        jpeg: encoded colour image.
        pose: (4, 4) float64 camera -> world (raw frame), None where tracking failed.
        depth_bytes: encoded depth image, empty where the file has none; `SensReader.depth` decodes it.
    """

    index: int
    jpeg: bytes
    pose: NDArray[np.float64] | None
    depth_bytes: bytes


def is_valid_pose(poses: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Tell which of the (..., 4, 4) poses are rigid: finite, |det R - 1| <= 1e-2, last row (0, 0, 0, 1).

    A failed pose is all -inf in ScanNet; multiplied by axisAlignment it would turn into NaN and spread.
    """
    with np.errstate(invalid="ignore"):  # casting a damaged (signalling) NaN
        matrices = np.asarray(poses, dtype=np.float64)
    finite = np.asarray(np.isfinite(matrices).all(axis=(-2, -1)))
    matrices = np.where(finite[..., None, None], matrices, 0.0)
    with np.errstate(all="ignore"):  # a damaged number of 1e38 overflows here and is then no rotation
        rigid = np.abs(np.linalg.det(matrices[..., :3, :3]) - 1.0) <= 1e-2
    last_row = (np.abs(matrices[..., 3, :] - np.array([0.0, 0.0, 0.0, 1.0])) <= 1e-4).all(axis=-1)
    return finite & rigid & last_row


class SensReader:
    """Read a `.sens` v4 as a stream: an index of frame headers first, then frames on demand.

    The IMU block behind the frames is never read and may be missing. Use as a context manager.

    Attributes:
        header: what the file says about itself.
        num_frames: frames that are really there (ScanNet's `.txt` is off by one for nine scans: trust this).
        poses: (num_frames, 4, 4) float32 as stored; `valid` tells which to believe.
        valid: (num_frames,) bool.

    Raises:
        DataError: not a `.sens` v4, or truncated: names the file and the byte where it ends too early.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            self._file = self.path.open("rb", buffering=0)
        except OSError as error:
            hint = "check source.root, or use video.source=mesh, which needs no .sens"
            raise DataError(f"{self.path}: cannot be opened: {error.strerror}", hint=hint) from None
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            self.header = self._read_header()
            self._offsets, self.poses = self._read_index()
        except BaseException:
            self._file.close()
            raise
        self.num_frames = self.header.num_frames
        self.valid = is_valid_pose(self.poses)

    def frame(self, index: int) -> SensFrame:
        """Read frame `index`."""
        offset, color_bytes, depth_bytes = (int(number) for number in self._offsets[index])
        jpeg = self._read_at(offset, color_bytes)
        if self.header.color_compression != "jpeg" or not jpeg.startswith(b"\xff\xd8"):
            what = f"frame {index} at byte {offset} is no JPEG (compression {self.header.color_compression})"
            raise DataError(f"{self.path}: {what}", hint="only JPEG colour is supported; " + DOWNLOAD_AGAIN)
        pose = self.poses[index].astype(np.float64) if self.valid[index] else None
        return SensFrame(index, jpeg, pose, self._read_at(offset + color_bytes, depth_bytes))

    def frames(self, indices: Iterable[int] | None = None) -> Iterator[SensFrame]:
        """Yield frames one by one, all of them or those of `indices`."""
        for index in range(self.num_frames) if indices is None else indices:
            yield self.frame(index)

    def depth(self, frame: SensFrame) -> NDArray[np.float32] | None:
        """Decode a frame's depth in metres, (H, W) float32, 0 where unknown; None where the frame has none."""
        if not frame.depth_bytes:
            return None
        width, height = self.header.depth_size
        raw, needed = frame.depth_bytes, 2 * width * height
        where = f"{self.path}: depth of frame {frame.index}"
        if self.header.depth_compression == "zlib_ushort":
            try:
                raw = zlib.decompressobj().decompress(raw, needed + 1)
            except zlib.error as error:
                raise DataError(f"{where} is broken: {error}", hint=DOWNLOAD_AGAIN) from None
        elif self.header.depth_compression != "raw_ushort":
            raise DataError(f"{where} is {self.header.depth_compression}: not supported", hint="use zlib_ushort depth")
        if len(raw) != needed:
            raise DataError(f"{where} is not {width}x{height} pixels", hint=DOWNLOAD_AGAIN)
        return np.frombuffer(raw, dtype="<u2").astype(np.float32).reshape(height, width) / np.float32(
            self.header.depth_shift
        )

    def view(self, index: int) -> View | None:
        """Return pose and depth of a frame, None where it has no usable ones."""
        content = self.frame(index)
        if content.pose is None:
            return None
        try:
            depth = self.depth(content)
        except DataError:
            return None
        return None if depth is None else View(content.pose, depth, self.header.intrinsic_depth)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> SensReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_at(self, offset: int, size: int) -> bytes:
        if offset + size > self._size:
            what = f"truncated: {size} bytes wanted at byte {offset}, the file ends at byte {self._size}"
            raise DataError(f"{self.path}: {what}", hint=DOWNLOAD_AGAIN)
        parts = []
        try:
            self._file.seek(offset)
            while size > 0:  # an unbuffered read may return less than asked for
                part = self._file.read(size)
                if not part:
                    raise DataError(f"{self.path}: shrank while being read", hint=DOWNLOAD_AGAIN)
                parts.append(part)
                size -= len(part)
        except OSError as error:
            raise DataError(f"{self.path}: byte {offset}: {error.strerror}", hint="check the disk") from None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_header(self) -> SensHeader:
        version, name_size = struct.unpack("<IQ", self._read_at(0, 12))
        if version != VERSION or name_size > _MAX_NAME:
            what = f"is no .sens version {VERSION} (version {version}, name of {name_size} bytes)"
            raise DataError(f"{self.path}: {what}", hint=DOWNLOAD_AGAIN)
        block = self._read_at(12, name_size + 256 + SIZES.size)
        matrices = np.frombuffer(block, dtype="<f4", count=64, offset=name_size).reshape(4, 4, 4)
        color, depth, *sizes, shift, num_frames = SIZES.unpack_from(block, name_size + 256)
        problem = None
        if color not in COLOR_COMPRESSION or depth not in DEPTH_COMPRESSION:
            problem = f"unknown compression {color} / {depth}"
        elif max(sizes) > _MAX_SIDE or min(sizes[:2]) < 1:
            problem = f"impossible image size {sizes}"
        elif not np.isfinite(matrices[0]).all() or not 0 < shift < float("inf"):
            problem = "its camera matrix or depth shift is not a number"
        elif num_frames * FRAME.size > self._size:
            problem = f"truncated: {num_frames} frames announced, the file ends at byte {self._size}"
        if problem:
            raise DataError(f"{self.path}: {problem}", hint=DOWNLOAD_AGAIN)
        self._first_frame = 12 + len(block)
        return SensHeader(
            sensor=block[:name_size].decode("latin-1"),
            intrinsic_color=matrices[0],
            intrinsic_depth=matrices[2],
            color_compression=COLOR_COMPRESSION[color],
            depth_compression=DEPTH_COMPRESSION[depth],
            color_size=(sizes[0], sizes[1]),
            depth_size=(sizes[2], sizes[3]),
            depth_shift=shift,
            num_frames=num_frames,
        )

    def _read_index(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Seek over all frames: (offset, colour bytes, depth bytes) of each, and its pose."""
        num_frames = self.header.num_frames
        index = np.empty((num_frames, 3), dtype=np.int64)
        poses = np.empty((num_frames, 16), dtype=np.float32)
        offset = self._first_frame
        for number in range(num_frames):
            pose, _, _, color_bytes, depth_bytes = FRAME.unpack(self._read_at(offset, FRAME.size))
            end = offset + FRAME.size + color_bytes + depth_bytes
            if end > self._size:
                what = f"truncated: frame {number} of {num_frames} at byte {offset} ends at byte {end}"
                raise DataError(f"{self.path}: {what}, the file at byte {self._size}", hint=DOWNLOAD_AGAIN)
            index[number] = offset + FRAME.size, color_bytes, depth_bytes
            poses[number] = np.frombuffer(pose, dtype="<f4")
            offset = end
        return index, poses.reshape(-1, 4, 4)
