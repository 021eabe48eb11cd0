"""Exact frames of a video file through PyAV, decord or torchcodec, in a worker process that can be killed.

A decoder is native code: on a bad file or a dead network mount it may hang or crash, which no exception reports. With
`timeout_s` set, decoding runs in one helper process per process, started on first use and restarted after a kill; it
imports numpy and the decoder alone. With `timeout_s=None` decoding runs in this process, without a guard.
"""

import atexit
import hashlib
import os
import queue
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import numpy as np

from vsgrpo.errors import DataError, RunError, SetupError
from vsgrpo.video.budget import frame_indices
from vsgrpo.video.container import BAD_VIDEO_HINT, check_there
from vsgrpo.video.decoders import DEFAULT_BACKEND, decode, load_backend
from vsgrpo.video.index import VideoHeader

__all__ = [
    "DEFAULT_BACKEND",
    "DecodePool",
    "VideoHeader",
    "content_hash",
    "probe",
    "read_frames",
    "read_uniform_frames",
]

_START_LIMIT_S = 120.0  # importing a decoder from a slow shared file system is not the video's fault


@dataclass(frozen=True)
class _Request:
    """One question to the decoder: `frames` is the indices wanted, a number of uniform frames, or None (header)."""

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
    return _ask(_Request(os.path.abspath(path), backend, None, timeout_s))[0]


def read_frames(
    path: Path | str, indices: Sequence[int], backend: str = DEFAULT_BACKEND, timeout_s: float | None = None
) -> np.ndarray:
    """Return the frames at `indices` in that order, (T, H, W, 3) uint8 RGB; repeats are allowed.

    Args:
        path: the video file.
        indices: frame numbers in display order, from 0.
        backend: `pyav`, `decord` or `torchcodec`.
        timeout_s: seconds for this file in the worker process; None decodes in this process without a limit.

    Raises:
        DataError: the file is missing, broken, cut, lacks a frame, crashes the decoder or takes longer than allowed.
        SetupError: the backend is unknown or not installed.
    """
    return _ask(_Request(os.path.abspath(path), backend, tuple(indices), timeout_s))[1]


def read_uniform_frames(
    path: Path | str, num_frames: int, backend: str = DEFAULT_BACKEND, timeout_s: float | None = None
) -> tuple[VideoHeader, np.ndarray]:
    """Return the header and `num_frames` uniform frames (`budget.frame_indices`), opening the file once.

    Raises:
        DataError, SetupError: as `read_frames`.
    """
    return _ask(_Request(os.path.abspath(path), backend, num_frames, timeout_s))


def content_hash(path: Path | str, timeout_s: float | None = None) -> str:
    """Return the SHA-256 of the file's bytes in hexadecimal.

    Raises:
        DataError: as `read_frames`.
    """
    return _ask(_Request(os.path.abspath(path), "", None, timeout_s, wants_hash=True))


def _answer(request: _Request) -> Any:
    """Do the work of a request, in whichever process this is."""
    if request.wants_hash:
        check_there(request.path)
        try:
            with open(request.path, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{request.path}: cannot be read ({error.strerror})", hint="check its rights") from None
    pick = None if request.frames is None else partial(_picked, request.frames)
    header, frames = decode(request.path, request.backend, pick)
    return header, frames if request.returns_frames else None


def _picked(frames: tuple[int, ...] | int, total: int) -> Sequence[int]:
    return frame_indices(total, frames) if isinstance(frames, int) else frames


class DecodePool:
    """Decode processes for threads that check many files at once; a context that ends them.

    Args:
        size: how many processes, and threads that do not wait for each other.
    """

    def __init__(self, size: int) -> None:
        self._workers = [_Worker() for _ in range(size)]
        self._free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._free.put(worker)

    def __enter__(self) -> "DecodePool":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.stop()

    def check_frames(self, path: Path | str, num_frames: int, backend: str, timeout_s: float | None) -> VideoHeader:
        """Decode what `read_uniform_frames` decodes and return the header alone.

        Raises:
            DataError, SetupError: as `read_frames`.
        """
        request = _Request(os.path.abspath(path), backend, num_frames, timeout_s, returns_frames=False)
        return self._ask(request)[0]

    def content_hash(self, path: Path | str, timeout_s: float | None) -> str:
        """Return the hash that the function of this name returns; DataError as there."""
        return self._ask(_Request(os.path.abspath(path), "", None, timeout_s, wants_hash=True))

    def _ask(self, request: _Request) -> Any:
        worker = self._free.get()
        try:
            return _ask(request, worker)
        finally:
            self._free.put(worker)


def _ask(request: _Request, worker: "_Worker | None" = None) -> Any:
    if request.timeout_s is not None:
        if request.timeout_s <= 0:
            raise ValueError(f"timeout_s must be positive or None, got {request.timeout_s}")
        return (worker or _worker).ask(request)
    if os.path.exists(request.path) and not stat.S_ISREG(os.stat(request.path).st_mode):
        # Opening a pipe blocks until somebody writes to it, and nothing here could end that.
        raise DataError(f"{request.path}: is not a regular file", hint="name the video file itself")
    return _answer(request)


class _Worker:
    """The decode process of this process: one request at a time, killed when it runs out of time.

    Protocol on one duplex pipe: request -> "ready" (decoder imported, the clock starts) -> the answer or the error;
    frames follow their description as raw bytes.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen | None = None
        self.pipe: Connection | None = None

    def ask(self, request: _Request) -> Any:
        assert request.timeout_s is not None
        with self.lock:
            try:
                pipe = self._start()
                pipe.send(request)
                self._receive(pipe, _START_LIMIT_S)
                return self._receive(pipe, request.timeout_s)
            except TimeoutError:
                self.stop()
                raise DataError(
                    f"{request.path}: not decoded within video.timeout_s={request.timeout_s:g}",
                    hint="raise video.timeout_s if the disk is slow; else " + BAD_VIDEO_HINT,
                ) from None
            except (EOFError, ConnectionError):
                code = self.stop()
                raise DataError(
                    f"{request.path}: the {request.backend or 'reading'} process died on it (exit status {code})",
                    hint=BAD_VIDEO_HINT,
                ) from None
            except BaseException as error:
                # An interrupt leaves an answer in the pipe that must not be taken for the next request's.
                if not isinstance(error, DataError | SetupError):
                    self.stop()
                raise

    def _receive(self, pipe: Connection, limit_s: float) -> Any:
        if not pipe.poll(limit_s):
            raise TimeoutError
        answer = pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, tuple) and isinstance(answer[1], tuple):
            header, shape = answer
            frames = np.empty(shape, np.uint8)
            pipe.recv_bytes_into(frames.data.cast("B"))
            return header, frames
        return answer

    def _start(self) -> Connection:
        """Return the pipe of a living worker."""
        if self.process is not None and self.process.poll() is None and self.pipe is not None:
            return self.pipe
        self.stop()
        ours, theirs = Pipe(duplex=True)
        # Not multiprocessing's spawn: that would import the caller's main module, and torch with it.
        source = str(Path(__file__).resolve().parents[2])
        paths = [source, *filter(None, [os.environ.get("PYTHONPATH")])]
        code = f"from vsgrpo.video.reader import _serve; _serve({theirs.fileno()})"
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )
        except OSError as error:
            ours.close()
            raise SetupError(
                f"video.timeout_s: the decode process cannot start ({error.strerror})",
                hint="free memory or processes, or set video.timeout_s=null to decode in process",
            ) from error
        finally:
            theirs.close()
        self.pipe = ours
        return ours

    def stop(self) -> int | None:
        """Kill the process and return its exit status (None if it is stuck in the kernel and cannot be reaped)."""
        process, pipe = self.process, self.pipe
        self.process = self.pipe = None
        if pipe is not None:
            pipe.close()
        if process is None:
            return None
        try:
            # A process that died by itself gets a moment to say its own status before the kill.
            return process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            process.kill()
        try:
            return process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            return None

    def forget(self) -> None:
        """After a fork: the parent keeps its worker, the child starts its own."""
        if self.pipe is not None:
            self.pipe.close()
        if self.process is not None:
            self.process.returncode = 0  # not ours to wait for
        self.__init__()


_worker = _Worker()
atexit.register(_worker.stop)
os.register_at_fork(after_in_child=_worker.forget)


def _serve(descriptor: int) -> None:
    """Answer requests until the parent is gone. Entry point of the worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, which ends us
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    pipe = Connection(descriptor)
    while True:
        try:
            request = pipe.recv()
        except (EOFError, ConnectionError):
            return
        assert request.timeout_s is not None
        try:
            if not request.wants_hash:
                load_backend(request.backend)
            pipe.send("ready")
            # The kernel ends us even inside hung native code, should the parent no longer be there to do it.
            signal.setitimer(signal.ITIMER_REAL, request.timeout_s + 10)
            answer = _answer(request)
        except (DataError, SetupError) as error:
            pipe.send(error)
        except MemoryError:
            pipe.send(RunError(f"{request.path}: not enough memory to decode it", hint="use fewer workers"))
        else:
            if isinstance(answer, tuple) and answer[1] is not None:
                header, frames = answer
                pipe.send((header, frames.shape))
                pipe.send_bytes(np.ascontiguousarray(frames).data.cast("B"))
            else:
                pipe.send(answer)
        signal.setitimer(signal.ITIMER_REAL, 0)
