"""A child process for code that may hang or crash: it answers one request at a time and is killed when it is late.

    CHILD = Child(prepare, answer)   # functions of an importable module
    CHILD.ask(request, timeout_s=60.0)

The child imports the module of the two functions and nothing else of the caller's: multiprocessing's spawn would import
the caller's main module, and torch with it. `prepare(request)` imports what `answer(request)` needs; the time limit
begins after it.
"""

from __future__ import annotations

import atexit
import os
import pickle
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from vsgrpo.errors import DataError, SetupError, VsgrpoError

START_LIMIT_S = 120.0
"""Seconds for `prepare`: importing a library from a slow shared file system is not the request's fault."""
_CHILDREN: weakref.WeakSet[Child] = weakref.WeakSet()


class Child:
    """One child process, started at the first request and again after a kill or a fork.

    Args:
        prepare, answer: functions of a request; both must be found in their module by name.
        is_silent: drop what the child prints.
    """

    process: subprocess.Popen[bytes] | None = None
    _pipe: Connection | None = None

    def __init__(self, prepare: Callable[[Any], object], answer: Callable[[Any], Any], is_silent: bool = False) -> None:
        names, self._module = f"{prepare.__name__}, {answer.__name__}", answer.__module__
        self._code = f"from vsgrpo.child import serve; from {self._module} import {names}; serve(%d, {names})"
        self._output = subprocess.DEVNULL if is_silent else None
        self.forget()
        _CHILDREN.add(self)

    def ask(self, request: Any, timeout_s: float) -> Any:
        """Return the answer, computed by the child within `timeout_s` seconds.

        Raises:
            TimeoutError: it took longer, and the child was killed.
            ChildProcessError: the child died; the argument is its exit status.
            SetupError: a new child was never ready: the request is not to blame.
            OSError: no child can be started.
        """
        with self._lock:
            try:
                pipe = self._start()
                pipe.send((request, timeout_s))
                _receive(pipe, START_LIMIT_S)
                self._was_ready = True
                return _receive(pipe, timeout_s)
            except (EOFError, ConnectionError, TimeoutError) as error:
                is_late, status = isinstance(error, TimeoutError), self.stop()
                if not self._was_ready:
                    why = f"was not ready within {START_LIMIT_S:g} s" if is_late else f"died (exit status {status})"
                    hint = "install the libraries that it imports again, or free memory"
                    raise SetupError(f"{self._module}: its child process {why}", hint) from None
                raise TimeoutError if is_late else ChildProcessError(status) from None
            except BaseException as error:
                # An interrupt leaves an answer in the pipe that must not be taken for the next request's.
                if not isinstance(error, DataError | SetupError):
                    self.stop()
                raise

    def _start(self) -> Connection:
        """Return the pipe of a living child."""
        if self.process is not None and self.process.poll() is None and self._pipe is not None:
            return self._pipe
        self.stop()
        self._was_ready = False
        ours, theirs = Pipe(duplex=True)
        paths = [str(Path(__file__).resolve().parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", self._code % theirs.fileno()],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._pipe = ours
        return ours

    def stop(self) -> int | None:
        """Kill the process and return its exit status (None if it is stuck in the kernel and cannot be reaped)."""
        process, pipe = self.process, self._pipe
        self.process = self._pipe = None
        if pipe is not None:
            pipe.close()
        if process is None:
            return None
        try:
            return process.wait(timeout=0.2)  # one that died by itself gets a moment to state its own status
        except subprocess.TimeoutExpired:
            process.kill()
        try:
            return process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            return None

    def forget(self) -> None:
        """Start anew. After a fork the parent keeps its child, the forked process starts its own."""
        if self._pipe is not None:
            self._pipe.close()
        if self.process is not None:
            self.process.returncode = 0  # not ours to wait for
        self._lock = threading.Lock()
        self.process = self._pipe = None


def _for_all(call: Callable[[Child], object]) -> None:
    for child in list(_CHILDREN):
        call(child)


atexit.register(_for_all, Child.stop)
os.register_at_fork(after_in_child=partial(_for_all, Child.forget))


def _send(pipe: Connection, answer: Any) -> None:
    """Send an answer; what has a buffer (arrays) goes as raw bytes, without a copy."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(answer, protocol=5, buffer_callback=buffers.append)
    parts = [buffer.raw() for buffer in buffers]
    pipe.send((head, [part.nbytes for part in parts]))
    for part in parts:
        pipe.send_bytes(part)


def _receive(pipe: Connection, limit_s: float) -> Any:
    if not pipe.poll(limit_s):
        raise TimeoutError
    head, sizes = pipe.recv()
    parts = [bytearray(size) for size in sizes]
    for part in parts:
        pipe.recv_bytes_into(part)
    answer = pickle.loads(head, buffers=parts)
    if isinstance(answer, VsgrpoError):
        raise answer
    return answer


def serve(descriptor: int, prepare: Callable[[Any], object], answer: Callable[[Any], Any]) -> None:
    """Answer requests until the parent is gone. Entry point of the child."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, which ends us
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    pipe = Connection(descriptor)
    while True:
        try:
            request, timeout_s = pipe.recv()
        except (EOFError, ConnectionError):
            return
        try:
            prepare(request)
            _send(pipe, None)
            # The kernel ends us even inside hung native code, should the parent no longer be there to do it.
            signal.setitimer(signal.ITIMER_REAL, timeout_s + 10)
            found = answer(request)
        except VsgrpoError as error:
            found = error
        _send(pipe, found)
        signal.setitimer(signal.ITIMER_REAL, 0)
