"""Read video files in a child process that can be killed: exact frames, headers, hashes; examine media before a run.

A decoder is native code: on a bad file or a dead network mount it may hang or crash, which no exception reports. With
`timeout_s` set, decoding runs in one child process per process (`vsgrpo.child`), which imports numpy and the decoder
alone. With `timeout_s=None` decoding runs in this process, without a guard.

Every backend reads one index (PyAV's demuxer: stream, order, turn, completeness), so they agree on what frame i is.
pyav reads everything. decord and torchcodec decode by their own count, which cannot be checked in every container: a
file that they could get wrong is refused by name, and the message says that pyav reads it.
"""

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vsgrpo.child import Child
from vsgrpo.errors import DataError, RunError, SetupError, VsgrpoError, first_line
from vsgrpo.files import file_sha256
from vsgrpo.video.budget import VisionBudget, frame_indices
from vsgrpo.video.cache import HeaderCache
from vsgrpo.video.container import BAD_VIDEO_HINT, bad_video, check_file, check_there, open_container
from vsgrpo.video.image import image_size, read_image
from vsgrpo.video.index import VideoHeader, VideoIndex

DEFAULT_BACKEND = "pyav"
"""It reads every container and is the fastest on most films (scripts/bench_video.py)."""
_EXAMINED_VERSION = 1
"""Change it when the same file would be judged in another way."""


@dataclass(frozen=True)
class Request:
    """A question about a file.

    Attributes:
        backend: the decoder to use; None asks for the hash of the file.
        frames: indices to decode, a number of uniform frames, or None for the header alone.
        clip: start and end of the part of the film that is meant, in seconds; () for all of it.
        returns_frames: False: decode them and return the header alone.
    """

    path: str
    backend: str | None
    frames: tuple[int, ...] | int | None
    timeout_s: float | None
    returns_frames: bool = True
    clip: tuple[float, ...] = ()


def probe(
    path: Path | str, backend: str = DEFAULT_BACKEND, timeout_s: float | None = None, clip: Sequence[float] = ()
) -> VideoHeader:
    """Return the header of a video, or of a clip of it (`Request.clip`).

    Raises:
        DataError, SetupError: as `read_frames`.
    """
    return ask(Request(os.path.abspath(path), backend, None, timeout_s, clip=tuple(clip)))[0]


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
    path: Path | str,
    num_frames: int,
    backend: str = DEFAULT_BACKEND,
    timeout_s: float | None = None,
    clip: Sequence[float] = (),
) -> tuple[VideoHeader, np.ndarray]:
    """Return the header and `num_frames` uniform frames (`budget.frame_indices`) of a video or clip, opened once.

    Raises:
        DataError, SetupError: as `read_frames`.
    """
    return ask(Request(os.path.abspath(path), backend, num_frames, timeout_s, clip=tuple(clip)))


def content_hash(path: Path | str, timeout_s: float | None = None) -> str:
    """Return the SHA-256 of the file's bytes in hexadecimal.

    Raises:
        DataError: as `read_frames`.
    """
    return ask(Request(os.path.abspath(path), None, None, timeout_s))


def ask(request: Request, child: Child | None = None) -> Any:
    """Answer a request in a child process (this process's own, or another), or here where it has no time limit.

    Raises:
        DataError, SetupError: as `read_frames`.
    """
    path, limit_s = request.path, request.timeout_s
    if limit_s is None:
        if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
            # Opening a pipe blocks until somebody writes to it, and nothing here could end that.
            raise bad_video(path, "is not a regular file", "name the video file itself")
        return answer(request)
    if limit_s <= 0:
        raise ValueError(f"timeout_s must be positive or None, got {limit_s}")
    try:
        return (child or _CHILD).ask(request, limit_s)
    except TimeoutError:
        hint = f"raise video.timeout_s if the disk is slow; else {BAD_VIDEO_HINT}"
        raise bad_video(path, f"not decoded within video.timeout_s={limit_s:g}", hint) from None
    except ChildProcessError as error:
        process = f"the {request.backend or 'reading'} process"
        raise bad_video(path, f"{process} died on it (exit status {error.args[0]})") from None
    except OSError as error:
        raise SetupError(
            f"video.timeout_s: the decode process cannot start ({error.strerror})",
            hint="free memory or processes, or set video.timeout_s=null to decode in process",
        ) from error


def prepare(request: Request) -> None:
    """Import the decoder of a request; SetupError as `load_backend`."""
    if request.backend is not None:
        load_backend(request.backend)


def answer(request: Request) -> Any:
    """Do the work of a request, in whichever process this is."""
    if request.backend is None:
        check_there(request.path)
        try:
            return file_sha256(Path(request.path))
        except OSError as error:
            raise bad_video(request.path, f"cannot be read ({error.strerror})", "check its rights") from None
    try:
        header, frames = decode(request.path, request.backend, request.frames, request.clip)
    except MemoryError:
        raise RunError(f"{request.path}: not enough memory to decode it", hint="use fewer workers") from None
    return header, frames if request.returns_frames else None


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


def decode(
    path: str, backend: str, frames: Sequence[int] | int | None, clip: Sequence[float] = ()
) -> tuple[VideoHeader, np.ndarray | None]:
    """Open `path` and return its header and the frames of a `Request`, (T, H, W, 3) uint8, upright.

    Raises:
        DataError: the file is missing, broken, cut, or one that this backend cannot be trusted with.
        SetupError: the backend cannot be loaded.
    """
    load_backend(backend)
    check_file(path)
    try:
        with open_container(path) as container:
            film = VideoIndex(path, container)
            film.check_backend(backend)
            header, shown = film.header, range(film.header.num_frames)
            if clip:
                shown = film.clip(*clip)
                header = film.clip_header(shown)
            if frames is None:
                return header, None
            total = len(shown)
            indices = frame_indices(total, frames) if isinstance(frames, int) else frames
            if missing := [index for index in indices if not 0 <= index < total]:
                raise bad_video(path, f"frame {missing[0]} asked for, it has frames 0 to {total - 1}")
            return header, DECODERS[backend](film, [shown[index] for index in indices])
    except (VsgrpoError, MemoryError):
        raise
    except Exception as error:  # whatever a library of native code raises on a file is that file's fault
        said = getattr(error, "strerror", None) or first_line(error)
        reason = said.rpartition("Check failed: ")[2][-160:]  # a dmlc check failure carries its own file and line first
        other = "" if backend == "pyav" else "try video.backend=pyav; else "
        raise bad_video(path, f"{backend} cannot decode it ({reason})", other + BAD_VIDEO_HINT) from error


def _decode_decord(index: VideoIndex, indices: Sequence[int]) -> np.ndarray:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    # One thread: as fast as several for sparse frames, and a node runs one decoder per rank.
    video = decord.VideoReader(index.path, num_threads=1)
    _check_equal(index, "decord", "number of frames", len(video) == len(index.pts))
    starts = video.get_frame_timestamp(list(indices))[:, 0]
    _check_equal(index, "decord", "time of frames", index.is_shown_at(indices, starts))
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
    _check_equal(index, "torchcodec", "time of frames", index.is_shown_at(indices, batch.pts_seconds.numpy()))
    frames = batch.data.numpy()
    _check_equal(index, "torchcodec", "size", frames.shape[1:3] == index.stored_size)
    return frames


def _check_equal(index: VideoIndex, backend: str, what: str, is_equal: bool) -> None:
    """Raise DataError where a decoder finds something else in a film than the index."""
    if not is_equal:
        problem = f"video.backend={backend} gives another {what} than the file's time stamps say"
        raise bad_video(index.path, problem, "video.backend=pyav reads it")


DECODERS: dict[str, Callable[[VideoIndex, Sequence[int]], np.ndarray]] = {
    "pyav": VideoIndex.frames,
    "decord": _decode_decord,
    "torchcodec": _decode_torchcodec,
}


@dataclass(frozen=True)
class Examined:
    """Result for one media file.

    Attributes:
        header: as the loader sees it; an image is one frame without a rate. None where the file is refused.
        problem, hint: of the DataError that a run would raise; empty where the file is good.
    """

    header: VideoHeader | None
    problem: str = ""
    hint: str = ""


def examine_media(
    media: Iterable[tuple[str, Path]],
    budget: VisionBudget,
    backend: str = DEFAULT_BACKEND,
    timeout_s: float | None = 60.0,
    timed_for: str | None = None,
    memory: Path | None = None,
    on_done: Callable[[], object] = lambda: None,
) -> dict[tuple[str, Path], Examined]:
    """Return (kind, path) -> what a run with these settings would find, each file decoded at its sampled frames.

    Files found good are remembered by content, and by path, size and times of change so that a second call does not
    read them at all (the rule is that of `files.remembered_sha256`). A file with a problem is examined again each time:
    a full disk or a slow mount may be gone.

    Args:
        media: (video or image, path); each is examined once.
        budget: says which frames are sampled, and which sizes are refused.
        backend, timeout_s: `video.backend` and `video.timeout_s` of the run; None decodes in this process, unguarded.
        timed_for: label of the model family that needs a frame rate (`VideoHeader.check_timing`), or None.
        memory: a JSON file that remembers; made where missing, ignored where unreadable. None: remember nothing.
        on_done: called after each file, for progress.

    Raises:
        SetupError: the backend is not installed; no file is blamed for that.
    """
    known = HeaderCache(memory)
    places = list(dict.fromkeys(media))
    idle = [Child(prepare, answer) for _ in range(max(1, min(os.cpu_count() or 1, len(places))))]  # one per thread

    def examine(place: tuple[str, Path]) -> Examined:
        kind, path = place
        name, child = os.path.abspath(path), idle.pop()
        try:
            key = f"{kind} {_EXAMINED_VERSION} " + (f"{backend} {budget.sampled_frames} " if kind == "video" else "")
            key += known.content(name, lambda: ask(Request(name, None, None, timeout_s), child))
            if (header := known.headers.get(key)) is None:
                header = known.headers[key] = _decoded_header(name, kind, budget, backend, timeout_s, child)
            if kind == "video" and timed_for is not None:
                header.check_timing(name, timed_for)
            budget.size(header.height, header.width, kind)
        except DataError as error:
            message = error.message if error.message.startswith(name) else f"{name}: {error.message}"
            return Examined(None, message, error.hint)
        finally:
            idle.append(child)
            on_done()
        return Examined(header)

    with ThreadPoolExecutor(len(idle)) as threads:
        try:
            return dict(zip(places, threads.map(examine, places), strict=True))
        finally:
            threads.shutdown(cancel_futures=True)
            known.save()
            for child in idle:
                child.stop()


def _decoded_header(
    name: str, kind: str, budget: VisionBudget, backend: str, timeout_s: float | None, child: Child
) -> VideoHeader:
    """Decode what a run would decode of a video or image and return its header."""
    if kind == "video":
        return ask(Request(name, backend, budget.sampled_frames, timeout_s, returns_frames=False), child)[0]
    header = VideoHeader(1, 0.0, *image_size(name))
    read_image(name, budget.size(header.height, header.width, "image"))
    return header
