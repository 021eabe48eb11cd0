"""Exact frames of a video file through PyAV, decord or torchcodec, in a child process that can be killed.

A decoder is native code: on a bad file or a dead network mount it may hang or crash, which no exception reports. With
`timeout_s` set, decoding runs in one child process per process (`vsgrpo.child`), which imports numpy and the decoder
alone. With `timeout_s=None` decoding runs in this process, without a guard.

Every backend reads one index (PyAV's demuxer: stream, order, turn, completeness), so they agree on what frame i is.
pyav reads everything. decord and torchcodec decode by their own count, which cannot be checked in every container: a
file that they could get wrong is refused by name, and the message says that pyav reads it.
"""

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vsgrpo.child import Child
from vsgrpo.errors import DataError, RunError, SetupError, VsgrpoError, first_line
from vsgrpo.files import file_sha256
from vsgrpo.video.budget import frame_indices
from vsgrpo.video.container import BAD_VIDEO_HINT, check_file, check_there, open_container
from vsgrpo.video.index import Orientation, VideoHeader, VideoIndex

DEFAULT_BACKEND = "pyav"
"""It reads every container and is the fastest on most films (scripts/bench_video.py)."""
_CONTAINERS = {"mov": "mp4"}  # FFmpeg's name of a container -> the usual one

# From the number of frames to the indices wanted; None: only the header is wanted.
Pick = Callable[[int], Sequence[int]]


@dataclass(frozen=True)
class Request:
    """A question to the decoder: `frames` is the indices wanted, a number of uniform frames, or None (header)."""

    path: str
    backend: str
    frames: tuple[int, ...] | int | None
    timeout_s: float | None
    wants_hash: bool = False
    returns_frames: bool = True


def probe(path: Path | str, backend: str = DEFAULT_BACKEND, timeout_s: float | None = None) -> VideoHeader:
    """Return the header of a video.

    Raises:
        DataError, SetupError: as `read_frames`.
    """
    return ask(Request(os.path.abspath(path), backend, None, timeout_s))[0]


def read_frames(
    path: Path | str, indices: Sequence[int], backend: str = DEFAULT_BACKEND, timeout_s: float | None = None
) -> np.ndarray:
    """Return the frames at `indices` in that order, (T, H, W, 3) uint8 RGB; repeats are allowed.

    Args:
        path: the video file.
        indices: frame numbers in display order, from 0.
        backend: `pyav`, `decord` or `torchcodec`.
        timeout_s: seconds for this file in the child process; None decodes in this process without a limit.

    Raises:
        DataError: the file is missing, broken, cut, lacks a frame, crashes the decoder or takes longer than allowed.
        SetupError: the backend is unknown or not installed.
    """
    return ask(Request(os.path.abspath(path), backend, tuple(indices), timeout_s))[1]


def read_uniform_frames(
    path: Path | str, num_frames: int, backend: str = DEFAULT_BACKEND, timeout_s: float | None = None
) -> tuple[VideoHeader, np.ndarray]:
    """Return the header and `num_frames` uniform frames (`budget.frame_indices`), opening the file once.

    Raises:
        DataError, SetupError: as `read_frames`.
    """
    return ask(Request(os.path.abspath(path), backend, num_frames, timeout_s))


def content_hash(path: Path | str, timeout_s: float | None = None) -> str:
    """Return the SHA-256 of the file's bytes in hexadecimal.

    Raises:
        DataError: as `read_frames`.
    """
    return ask(Request(os.path.abspath(path), "", None, timeout_s, wants_hash=True))


def ask(request: Request, child: Child | None = None) -> Any:
    """Answer a request in a child process (this process's own, or another), or here where it has no time limit.

    Raises:
        DataError, SetupError: as `read_frames`.
    """
    path, limit_s = request.path, request.timeout_s
    if limit_s is None:
        if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
            # Opening a pipe blocks until somebody writes to it, and nothing here could end that.
            raise DataError(f"{path}: is not a regular file", hint="name the video file itself")
        return answer(request)
    if limit_s <= 0:
        raise ValueError(f"timeout_s must be positive or None, got {limit_s}")
    try:
        return (child or _CHILD).ask(request, limit_s)
    except TimeoutError:
        raise DataError(
            f"{path}: not decoded within video.timeout_s={limit_s:g}",
            hint="raise video.timeout_s if the disk is slow; else " + BAD_VIDEO_HINT,
        ) from None
    except ChildProcessError as error:
        raise DataError(
            f"{path}: the {request.backend or 'reading'} process died on it (exit status {error.args[0]})",
            hint=BAD_VIDEO_HINT,
        ) from None
    except OSError as error:
        raise SetupError(
            f"video.timeout_s: the decode process cannot start ({error.strerror})",
            hint="free memory or processes, or set video.timeout_s=null to decode in process",
        ) from error


def prepare(request: Request) -> None:
    """Import the decoder of a request; SetupError as `load_backend`."""
    if not request.wants_hash:
        load_backend(request.backend)


def answer(request: Request) -> Any:
    """Do the work of a request, in whichever process this is."""
    if request.wants_hash:
        check_there(request.path)
        try:
            return file_sha256(Path(request.path))
        except OSError as error:
            raise DataError(f"{request.path}: cannot be read ({error.strerror})", hint="check its rights") from None
    pick = None if request.frames is None else partial(_wanted, request.frames)
    try:
        header, frames = decode(request.path, request.backend, pick)
    except MemoryError:
        raise RunError(f"{request.path}: not enough memory to decode it", hint="use fewer workers") from None
    return header, frames if request.returns_frames else None


def _wanted(frames: tuple[int, ...] | int, total: int) -> Sequence[int]:
    return frame_indices(total, frames) if isinstance(frames, int) else frames


_CHILD = Child(prepare, answer)


def load_backend(backend: str) -> None:
    """Import the package of `backend`.

    Raises:
        SetupError: an unknown backend, or one that is not installed.
    """
    choices = "|".join(DECODERS)
    if backend not in DECODERS:
        raise SetupError(f"video.backend={backend}: unknown decoder", hint=f"choose video.backend={choices}")
    try:
        import av  # noqa: F401

        if backend == "decord":
            import decord  # noqa: F401
        elif backend == "torchcodec":
            import torchcodec.decoders  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        raise SetupError(
            f"video.backend={backend}: the decoder cannot be imported ({first_line(error)})",
            hint=f"install it, or choose another of video.backend={choices}",
        ) from error


def decode(path: str, backend: str, pick: Pick | None) -> tuple[VideoHeader, np.ndarray | None]:
    """Open `path` and return its header and, unless `pick` is None, the frames picked, (T, H, W, 3) uint8, upright.

    Raises:
        DataError: the file is missing, broken, cut, or one that this backend cannot be trusted with.
        SetupError: the backend cannot be loaded.
    """
    load_backend(backend)
    check_file(path)
    try:
        with open_container(path) as container:
            index = VideoIndex(path, container)
            _check_backend(index, backend)
            indices = [] if pick is None else _picked(path, pick, index.header.num_frames)
            return index.header, None if pick is None else DECODERS[backend](index, indices)
    except (VsgrpoError, MemoryError):
        raise
    except Exception as error:  # whatever a library of native code raises on a file is that file's fault
        raise _broken(path, backend, error) from error


def _check_backend(index: VideoIndex, backend: str) -> None:
    """Refuse a film that `backend` may count, order or turn in another way than the index does."""
    if backend == "pyav":
        return
    reason = ""
    if index.orientation != Orientation():
        reason = "it is turned or mirrored"
    elif index.is_counted:
        reason = "it has no usable time stamps"
    elif backend == "decord":
        container = index.container.format.name.partition(",")[0]
        if (container, index.codec) != ("mov", "h264"):
            reason = f"{index.codec} in {_CONTAINERS.get(container, container)}; decord is exact on h264 in mp4 only"
        elif len(index.container.streams.video) > 1:
            reason = "it holds several video streams"
        elif index.num_hidden or index.stream.frames != len(index.pts) or index.pts[0] != 0:
            reason = "it is fragmented, edited or does not start at time 0"
        elif index.is_interlaced or index.pixel_format not in ("yuv420p", "yuvj420p"):
            reason = "it is interlaced or not 8-bit 4:2:0"
        elif not index.has_plain_keyframes():
            reason = "its groups of pictures are open"
    if reason:
        raise DataError(
            f"{index.path}: video.backend={backend} cannot be trusted with it ({reason})",
            hint=f"video.backend=pyav reads it ({index.codec})",
        )


def _picked(path: str, pick: Pick, num_frames: int) -> list[int]:
    """Return the indices picked of `num_frames`, each checked to exist."""
    indices = list(pick(num_frames))
    for index in indices:
        if not 0 <= index < num_frames:
            raise DataError(f"{path}: frame {index} asked for, it has frames 0 to {num_frames - 1}", BAD_VIDEO_HINT)
    return indices


def _broken(path: str, backend: str, error: Exception) -> DataError:
    said = getattr(error, "strerror", None) or first_line(error)
    reason = said.rpartition("Check failed: ")[2][-160:]  # a dmlc check failure carries its own file and line first
    other = "" if backend == "pyav" else "try video.backend=pyav; else "
    return DataError(f"{path}: {backend} cannot decode it ({reason})", hint=other + BAD_VIDEO_HINT)


def _decode_decord(index: VideoIndex, indices: Sequence[int]) -> np.ndarray:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    # One thread: as fast as several for sparse frames, and a node runs one decoder per rank.
    video = decord.VideoReader(index.path, num_threads=1)
    _check_equal(index, "decord", "number of frames", len(video) == len(index.pts))
    starts = video.get_frame_timestamp(list(indices))[:, 0]
    _check_equal(index, "decord", "time of frames", _same_times(index, indices, starts))
    frames = video.get_batch(list(indices)).asnumpy()
    _check_equal(index, "decord", "size", frames.shape[1:3] == index.stored_size)
    return frames


def _decode_torchcodec(index: VideoIndex, indices: Sequence[int]) -> np.ndarray:
    from torchcodec.decoders import VideoDecoder

    try:
        video = VideoDecoder(index.path, stream_index=index.stream.index, dimension_order="NHWC", num_ffmpeg_threads=1)
    except (RuntimeError, ValueError) as error:
        if "libtorchcodec" in str(error) or "FFmpeg is not properly installed" in str(error):
            raise SetupError(
                "video.backend=torchcodec: it needs FFmpeg's shared libraries on this machine",
                hint="install ffmpeg with the system's package manager, or choose video.backend=pyav|decord",
            ) from None
        raise
    _check_equal(index, "torchcodec", "number of frames", len(video) == len(index.pts))
    batch = video.get_frames_at(list(indices))
    _check_equal(index, "torchcodec", "time of frames", _same_times(index, indices, batch.pts_seconds.numpy()))
    frames = batch.data.numpy()
    _check_equal(index, "torchcodec", "size", frames.shape[1:3] == index.stored_size)
    return frames


def _same_times(index: VideoIndex, indices: Sequence[int], seconds: np.ndarray) -> bool:
    return bool(np.abs(seconds - np.array(index.seconds())[list(indices)]).max(initial=0) <= 1e-3)


def _check_equal(index: VideoIndex, backend: str, what: str, is_equal: bool) -> None:
    """Raise DataError where a decoder finds something else in a film than the index."""
    if not is_equal:
        raise DataError(
            f"{index.path}: video.backend={backend} gives another {what} than the file's time stamps say",
            hint="video.backend=pyav reads it",
        )


DECODERS: dict[str, Callable[[VideoIndex, Sequence[int]], np.ndarray]] = {
    "pyav": VideoIndex.frames,
    "decord": _decode_decord,
    "torchcodec": _decode_torchcodec,
}
