"""ScanNet `.sens` version 4 files, read as a stream and written: JPEG frames with camera poses and depth images.

A `.sens` has 0.3-5 GB, so nothing here ever holds a whole file: one pass over the 96-byte frame headers makes an
index (2.4 ms per 600 frames when the file is warm), frames are read one by one from it.
Source: the `.sens` layout of the ScanNet repository (SensReader), little endian throughout.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vsgrpo.errors import DataError
from vsgrpo.scans.source import DOWNLOAD_AGAIN, broken
from vsgrpo.scans.visibility import View
from vsgrpo.terminal import counted

_VERSION = 4
_COLOR_COMPRESSION = {-1: "unknown", 0: "raw", 1: "png", 2: "jpeg"}
_DEPTH_COMPRESSION = {-1: "unknown", 0: "raw_ushort", 1: "zlib_ushort", 2: "occi_ushort"}
INVALID_POSE = np.full((4, 4), -np.inf, dtype=np.float32)
"""What the C++ recorder stores where tracking failed (its constructor default)."""

_SIZES = struct.Struct("<ii4IfQ")  # compressions, color w h, depth w h, depth shift, number of frames
_FRAME = struct.Struct("<64s4Q")  # pose, time color, time depth, color bytes, depth bytes
_SENSOR, _DEPTH_SHIFT = b"StructureSensor", 1000.0  # of files written here
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
            raise broken(self.path, f"cannot be opened: {error.strerror}", hint) from None
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
            raise broken(self.path, what, "only JPEG colour is supported; " + DOWNLOAD_AGAIN)
        pose = self.poses[index].astype(np.float64) if self.valid[index] else None
        return SensFrame(index, jpeg, pose, self._read_at(offset + color_bytes, depth_bytes))

    def frames(self) -> Iterator[SensFrame]:
        """Yield all frames, one by one."""
        return map(self.frame, range(self.num_frames))

    def depth(self, frame: SensFrame) -> NDArray[np.float32] | None:
        """Decode a frame's depth in metres, (H, W) float32, 0 where unknown; None where the frame has none."""
        if not frame.depth_bytes:
            return None
        width, height = self.header.depth_size
        raw, needed = frame.depth_bytes, 2 * width * height
        where = f"depth of frame {frame.index}"
        if self.header.depth_compression == "zlib_ushort":
            try:
                raw = zlib.decompressobj().decompress(raw, needed + 1)
            except zlib.error as error:
                raise broken(self.path, f"{where} is broken: {error}") from None
        elif self.header.depth_compression != "raw_ushort":
            what = f"{where} is {self.header.depth_compression}: not supported"
            raise broken(self.path, what, "use zlib_ushort depth")
        if len(raw) != needed:
            raise broken(self.path, f"{where} is not {width}x{height} pixels")
        stored = np.frombuffer(raw, dtype="<u2").astype(np.float32)
        return stored.reshape(height, width) / np.float32(self.header.depth_shift)

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

    def __exit__(self, *error: object) -> None:
        self.close()

    def _read_at(self, offset: int, size: int) -> bytes:
        if offset + size > self._size:
            what = (
                f"truncated: {counted(size, 'byte wanted', 'bytes wanted')} at byte {offset}, the file ends at "
                f"byte {self._size}"
            )
            raise broken(self.path, what)
        parts = []
        try:
            self._file.seek(offset)
            while size > 0:  # an unbuffered read may return less than asked for
                part = self._file.read(size)
                if not part:
                    raise broken(self.path, "shrank while being read")
                parts.append(part)
                size -= len(part)
        except OSError as error:
            raise broken(self.path, f"byte {offset}: {error.strerror}", "check the disk") from None
        return b"".join(parts)

    def _read_header(self) -> SensHeader:
        version, name_size = struct.unpack("<IQ", self._read_at(0, 12))
        if version != _VERSION or name_size > _MAX_NAME:
            what = f"is no .sens version {_VERSION} (version {version}, name of {counted(name_size, 'byte')})"
            raise broken(self.path, what)
        block = self._read_at(12, name_size + 256 + _SIZES.size)
        matrices = np.frombuffer(block, dtype="<f4", count=64, offset=name_size).reshape(4, 4, 4)
        color, depth, *sizes, shift, num_frames = _SIZES.unpack_from(block, name_size + 256)
        problem = None
        if color not in _COLOR_COMPRESSION or depth not in _DEPTH_COMPRESSION:
            problem = f"unknown compression {color} / {depth}"
        elif max(sizes) > _MAX_SIDE or min(sizes[:2]) < 1:
            problem = f"impossible image size {sizes}"
        elif not np.isfinite(matrices[0]).all() or not 0 < shift < float("inf"):
            problem = "its camera matrix or depth shift is not a number"
        elif num_frames * _FRAME.size > self._size:
            problem = (
                f"truncated: {counted(num_frames, 'frame announced', 'frames announced')}, the file ends at "
                f"byte {self._size}"
            )
        if problem:
            raise broken(self.path, problem)
        self._first_frame = 12 + len(block)
        return SensHeader(
            sensor=block[:name_size].decode("latin-1"),
            intrinsic_color=matrices[0],
            intrinsic_depth=matrices[2],
            color_compression=_COLOR_COMPRESSION[color],
            depth_compression=_DEPTH_COMPRESSION[depth],
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
            pose, _, _, color_bytes, depth_bytes = _FRAME.unpack(self._read_at(offset, _FRAME.size))
            end = offset + _FRAME.size + color_bytes + depth_bytes
            if end > self._size:
                what = f"truncated: frame {number} of {num_frames} at byte {offset} ends at byte {end}"
                raise broken(self.path, f"{what}, the file at byte {self._size}")
            index[number] = offset + _FRAME.size, color_bytes, depth_bytes
            poses[number] = np.frombuffer(pose, dtype="<f4")
            offset = end
        return index, poses.reshape(-1, 4, 4)


class SensWriter:
    """Write a `.sens` v4 frame by frame; the file appears under its name only when complete.

    Args:
        path: file to write.
        color_size: (width, height) of the JPEGs.
        intrinsic_color: (4, 4) pinhole matrix of the colour camera.
        depth_size: (width, height) of depth images, (0, 0) where frames carry none.
        intrinsic_depth: (4, 4) of the depth camera; None: the identity.
    """

    def __init__(
        self,
        path: Path,
        color_size: tuple[int, int],
        intrinsic_color: NDArray[np.floating],
        depth_size: tuple[int, int] = (0, 0),
        intrinsic_depth: NDArray[np.floating] | None = None,
    ) -> None:
        self.path = Path(path)
        self.num_frames = 0
        self._part = self.path.with_name(self.path.name + ".part")
        self._file = self._part.open("wb")
        identity = np.eye(4)
        self._file.write(struct.pack("<IQ", _VERSION, len(_SENSOR)) + _SENSOR)
        for matrix in (intrinsic_color, identity, identity if intrinsic_depth is None else intrinsic_depth, identity):
            self._file.write(np.asarray(matrix, dtype="<f4").reshape(4, 4).tobytes())
        self._count_offset = self._file.tell() + _SIZES.size - 8
        self._file.write(_SIZES.pack(2, 1, *color_size, *depth_size, _DEPTH_SHIFT, 0))

    def add(self, jpeg: bytes, pose: NDArray[np.floating] | None, depth: NDArray[np.uint16] | None = None) -> None:
        """Append one frame: JPEG bytes, pose (4, 4) camera -> world (None where tracking failed), depth (H, W) mm."""
        pose_bytes = np.asarray(INVALID_POSE if pose is None else pose, dtype="<f4").reshape(4, 4).tobytes()
        depth_bytes = b"" if depth is None else zlib.compress(np.asarray(depth, dtype="<u2").tobytes())
        self._file.write(_FRAME.pack(pose_bytes, 0, 0, len(jpeg), len(depth_bytes)) + jpeg + depth_bytes)
        self.num_frames += 1

    def close(self) -> None:
        """Write the empty IMU block and the frame count, then give the file its name."""
        self._file.write(struct.pack("<Q", 0))
        self._file.seek(self._count_offset)
        self._file.write(struct.pack("<Q", self.num_frames))
        self._file.close()
        os.replace(self._part, self.path)

    def __enter__(self) -> SensWriter:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()
            self._part.unlink(missing_ok=True)
