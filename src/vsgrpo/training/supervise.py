"""The parent of a run of several processes: start the launcher, pass signals on, end when it ends."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType

from vsgrpo.terminal import show

SUPERVISED = "VSGRPO_SUPERVISED"
"""Set for the launcher and the workers of `supervise`: they write failures to files, the launcher explains them."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""What ends a run with a checkpoint (Slurm sends SIGUSR1 or SIGTERM ahead of a time limit)."""
OVERDUE = "launch.save_timeout_s={:g}: the step and its checkpoint take longer: ending now, the last checkpoint stays"
_PR_SET_PDEATHSIG = 1
_SHOW_CURSOR = "\x1b[?25h"  # a worker that was killed in the middle of its live display has left it hidden


def supervise(
    command: list[str], run_dir: Path, local_processes: int, *, leads: bool = True, save_timeout_s: float = 1800.0
) -> int:
    """Run a launcher in a session of its own and return its exit code.

    A terminal's Ctrl-C thus reaches this process alone. The first signal goes to one worker, whose callback makes all
    workers stop at the same step; the launcher would give them 30 seconds before it kills them. The second one, or
    `save_timeout_s` without an end, goes to the launcher as SIGINT, which it passes on to all workers: they end at once
    (`callbacks.StopOnSignal`).

    Args:
        command: of the launcher.
        run_dir: whose run.json names worker 0.
        local_processes: workers of this machine, which share its cores.
        leads: worker 0 runs on this machine.
        save_timeout_s: seconds from the first signal to the end.
    """
    threads = max(1, (os.cpu_count() or 1) // local_processes)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ, SUPERVISED: str(os.getpid())}
    launcher = subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL, env=environment)
    relay = Relay(launcher, run_dir, leads, save_timeout_s)
    previous = {number: signal.signal(number, relay) for number in STOP_SIGNALS}
    try:
        code = exit_code(launcher.wait())
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if sys.stderr.isatty():
            print(_SHOW_CURSOR, end="", file=sys.stderr, flush=True)
    stopped = relay.asked is not None and code in (128 + signal.SIGTERM, 128 + signal.SIGINT)
    return 128 + (signal.SIGINT if relay.asked == signal.SIGINT else signal.SIGTERM) if stopped else code


class Relay:
    """Signal handler: the first signal asks a worker to stop, the second makes the launcher and its workers end.

    Attributes:
        asked: the first signal, None so far.
    """

    def __init__(self, launcher: subprocess.Popen[bytes], run_dir: Path, leads: bool, save_timeout_s: float) -> None:
        self._launcher = launcher
        self._run_dir = run_dir
        self._leads = leads
        self._save_timeout_s = save_timeout_s
        self.asked: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        first, worker = self.asked is None, self._worker()
        self.asked = self.asked or number
        if worker is None:  # the workers are not there yet: nothing to save
            self._launcher.send_signal(signal.SIGTERM)
        elif first:
            os.kill(worker, number)
            timer = threading.Timer(self._save_timeout_s, self._overdue)
            timer.daemon = True
            timer.start()
        else:
            self._launcher.send_signal(signal.SIGINT)

    def _overdue(self) -> None:
        if self._launcher.poll() is None:
            show(OVERDUE.format(self._save_timeout_s), sys.stderr)
            self._launcher.send_signal(signal.SIGINT)

    def _worker(self) -> int | None:
        """Return the process id of a worker of this launcher once the run says that it trains, worker 0 if it is here.

        (Its session does not tell: the launcher gives every worker one of its own.)
        """
        import psutil

        try:
            state = json.loads((self._run_dir / "run.json").read_text(encoding="utf-8"))
            if state["status"] != "running" or (self._leads and state["ppid"] != self._launcher.pid):
                return None
            if self._leads:
                return int(state["pid"])
            children = psutil.Process(self._launcher.pid).children()
            return min(child.pid for child in children if "vsgrpo.training.worker" in child.cmdline())
        except (OSError, ValueError, KeyError, TypeError, psutil.Error):
            return None


def exit_code(code: int) -> int:
    """Return what a shell would: 128 + N for a process that signal N ended (subprocess says -N)."""
    return 128 - code if code < 0 else code


def end_with_parent() -> None:
    """Ask the kernel for SIGTERM once the parent is gone, however it went (Linux; elsewhere nothing happens)."""
    if SUPERVISED not in os.environ or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
