"""How long processes wait for each other, and what is said where one waits in vain: process, phase and step.

A process that hangs says nothing by itself. With gloo those that wait for it get an exception; NCCL ends them without
one (SIGABRT), so each process also says from half of the time on where it is.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from torch.distributed import distributed_c10d, is_initialized

from vsgrpo.config.launching import LaunchSection
from vsgrpo.errors import RunError
from vsgrpo.terminal import show
from vsgrpo.training.launcher import LostProcess, own_rank
from vsgrpo.training.measure import PhaseTimer

_LATE = ("Timed out", "timed out", "Timeout")
_LOST = ("Connection closed by peer", "Connection reset", "Connection refused")


@contextmanager
def watched(timer: PhaseTimer, launch: LaunchSection, step: Callable[[], int]) -> Iterator[None]:
    """Name process, phase and step where the block waits for another process in vain, or for long.

    Args:
        timer: of the phases.
        launch: of the configuration.
        step: returns the number of the running step.

    Raises:
        RunError: a collective call took longer than launch.timeout_s.
        LostProcess: the process that it waited for has ended.
    """
    if launch.num_processes == 1:
        yield
        return
    watch = PhaseWatch(timer, own_rank(), launch.timeout_s, step)
    watch.start()
    try:
        yield
    except Exception as error:
        named = named_wait(error, timer, step(), launch.timeout_s)
        if named is None:
            raise
        raise named from error
    finally:
        watch.stop()


@dataclass(eq=False)
class PhaseWatch:
    """Says on stderr which phase this process has been in for half of launch.timeout_s."""

    timer: PhaseTimer
    rank: int
    limit_s: float
    step: Callable[[], int]

    def __post_init__(self) -> None:
        self._reported: float | None = None
        self._ended = threading.Event()

    def start(self) -> None:
        """Start to watch."""
        threading.Thread(target=self._watch, daemon=True).start()

    def stop(self) -> None:
        """Stop watching."""
        self._ended.set()

    def look(self) -> None:
        """Print one line if a phase has lasted for half of the limit; once for each time it is entered."""
        since = self.timer.running[1]
        seconds = time.perf_counter() - since
        if self._reported == since or seconds < self.limit_s / 2:
            return
        self._reported = since
        show(
            f"warning: process {self.rank} has been {self.timer.place()} of step {self.step()} for {seconds:.0f} s "
            f"(launch.timeout_s={self.limit_s:g})",
            sys.stderr,
        )

    def _watch(self) -> None:
        while not self._ended.wait(min(self.limit_s / 10, 10.0)):
            self.look()


def is_wait(error: BaseException) -> bool:
    """Tell whether an error is of a collective call that timed out or lost its partner."""
    # torch's own are RuntimeErrors; a reward that asks a server has errors of other types.
    known = isinstance(error, RuntimeError) and any(words in str(error) for words in (*_LATE, *_LOST))
    return known or isinstance(error, LostProcess)


def named_wait(error: BaseException, timer: PhaseTimer, step: int, timeout_s: float) -> RunError | None:
    """Return the error for a collective call that timed out or lost its partner, None for any other error."""
    if isinstance(error, LostProcess) or not is_wait(error):
        return None
    where = f"process {own_rank()} {timer.place()} of step {step}"
    if any(words in str(error) for words in _LATE):
        return RunError(
            f"{where} waited launch.timeout_s={timeout_s:g} s for another process",
            hint="a `warning: process ...` line may say what the other one did; raise launch.timeout_s if it was slow",
        )
    return LostProcess(f"{where} lost another process", hint="the other one's error says why; --resume goes on")


def limit_waits(timeout_s: float) -> None:
    """Set the time limit of every process group.

    Only the first group has that of the configuration: DeepSpeed makes its own with torch's default, 10 minutes with
    NCCL and 30 with gloo.
    """
    if not is_initialized():
        return
    set_timeout = getattr(distributed_c10d, "set_timeout", None) or distributed_c10d._set_pg_timeout  # torch 2.9
    for group in list(distributed_c10d._world.pg_map):
        set_timeout(timedelta(seconds=timeout_s), group)
