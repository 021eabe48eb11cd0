"""The processes of a run of several: a parent that watches, the launcher, and workers that write down why they failed.

The parent (`supervise`) starts `python -m vsgrpo.training.launcher RUN_DIR ACCELERATE_ARGUMENTS`, which is
`accelerate launch` with one difference: accelerate ends every failure with exit code 1 and a traceback of its own; here
the first failure among the workers decides the exit code and is the only one that is reported.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from vsgrpo.config.launching import LaunchSection, joins_launcher
from vsgrpo.config.train import TrainConfig
from vsgrpo.devices import visible_gpus
from vsgrpo.errors import DataError, RunError, SetupError, VsgrpoError
from vsgrpo.records import read_json
from vsgrpo.terminal import complain, show

SUPERVISED = "VSGRPO_SUPERVISED"
"""Set for the launcher and the workers of `supervise`: they write failures to files, the launcher explains them."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Signals that end a run with a checkpoint (Slurm sends SIGUSR1 or SIGTERM ahead of a time limit)."""
OVERDUE = "launch.save_timeout_s={:g}: the step and its checkpoint take longer: ending now, the last checkpoint stays"
_PR_SET_PDEATHSIG = 1
_SHOW_CURSOR = "\x1b[?25h"  # a worker that was killed in the middle of its live display has left it hidden
_HINTS = {int(signal.SIGKILL): "is memory short? "}
_HINTS[int(signal.SIGABRT)] = "NCCL does so after launch.timeout_s: `warning: process ...` lines say who waited where; "
FAILURES = "failures"
"""Sub-folder of a run: why each process failed, in the latest start."""


class LostProcess(RunError):
    """Another process went away: its own failure is the cause, not this one."""


def own_rank() -> int:
    """Return the number of this process in the run, 0 where no launcher has given it one."""
    return int(os.environ.get("RANK", "0"))


def needs_launcher(config: TrainConfig) -> bool:
    """Return whether accelerate has to start the workers: several of them, or a sharded engine around one."""
    return config.launch.num_processes > 1 or config.launch.profile not in ("cpu", "gpu1", "ddp")


def check_devices(config: TrainConfig) -> None:
    """Refuse a launch profile whose processes would not find a GPU each on this machine.

    Raises:
        SetupError: fewer GPUs than processes, or FSDP2 on CPUs, which accelerate would turn into data parallelism.
    """
    launch = config.launch
    if launch.on_cpu:
        if launch.profile == "fsdp2":
            raise SetupError(
                "launch=fsdp2: needs GPUs, launch.use_cpu=true", hint="set launch=ddp, launch=zero2 or launch=zero3"
            )
        return
    seen = visible_gpus()
    needed = 1 if joins_launcher() else launch.num_processes // launch.num_machines
    if len(seen) >= needed:
        return
    if seen:
        hint = f"set launch.num_processes={len(seen) * launch.num_machines}, or show more in CUDA_VISIBLE_DEVICES"
    elif launch.num_processes == 1:
        hint = "set launch=cpu to train on the CPU, or launch=auto to take what is there"
    else:
        hint = cpu_hint(launch)
    each = "a GPU" if needed == 1 else f"{needed} GPUs, one for each process"
    raise SetupError(f"launch={launch.profile}: needs {each}; {seen.describe()}", hint=hint)


def cpu_hint(launch: LaunchSection) -> str:
    """Return how to do without the GPUs of a profile; gpu1 and fsdp2 have no form on CPUs."""
    hint, profile = "set launch=cpu to train on the CPU", launch.profile
    return hint if profile in ("gpu1", "fsdp2") else f"{hint}, or launch.use_cpu=true for launch={profile} on CPUs"


def device_line(config: TrainConfig) -> str:
    """Return in one line what the run computes on, and what it leaves unused."""
    launch, seen = config.launch, visible_gpus()
    count = launch.num_processes // launch.num_machines
    taken = "launch=auto took " if launch.auto else ""
    what = f"{taken}launch={launch.profile}, {launch.num_processes} process{'es' if launch.num_processes > 1 else ''}"
    if not launch.on_cpu:
        products = "float32 products in TF32" if allows_tf32(config) else "float32 products without TF32"
        where = seen.describe() if count >= len(seen) else f"{count} of {seen.describe()}"
        return f"device: {where}: {what}; {products}"
    if seen:
        note = config.model.dtype_note()
        return f"warning: device: CPU ({what}), although this machine has {seen.describe()}{note}"
    return f"device: CPU ({what}): {seen.describe()}{config.model.dtype_note()}"


def allows_tf32(config: TrainConfig) -> bool:
    """Tell whether a GPU may round the factors of float32 products to 11 significant bits (TF32).

    It may where adapters compute in float32 beside weights that have 8 (trainer.bf16=false, model.dtype=bfloat16): they
    would take a third of a forward's time (docs/gpu.md). Elsewhere torch's own default stands: no rounding.
    """
    floats = any(not config.autocasts(section) for section in config.stage_sections())
    return config.model.tune == "lora" and config.model.dtype == "bfloat16" and floats


# --- the parent


def supervise(command: list[str], run_dir: Path, launch: LaunchSection, *, leads: bool) -> int:
    """Run a launcher in a session of its own and return its exit code.

    A terminal's Ctrl-C thus reaches this process alone. The first signal goes to one worker, whose callback makes all
    workers stop at the same step; the launcher would give them 30 seconds before it kills them. The second one, or
    `launch.save_timeout_s` without an end, goes to the launcher as SIGINT, which it passes on to all workers: they end
    at once (`callbacks.StopOnSignal`).

    Args:
        command: of the launcher.
        run_dir: whose run.json names worker 0.
        launch: of the configuration.
        leads: worker 0 runs on this machine.
    """
    local_processes = launch.num_processes // launch.num_machines  # they share this machine's cores
    threads = max(1, (os.cpu_count() or 1) // local_processes)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ, SUPERVISED: str(os.getpid())}
    if launch.on_cpu:  # libraries would take the GPUs whatever the configuration says
        environment["CUDA_VISIBLE_DEVICES"] = ""
    launcher = subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL, env=environment)
    relay = Relay(launcher, run_dir, leads, launch.save_timeout_s)
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


@dataclass
class Relay:
    """Signal handler: the first signal asks a worker to stop, the second makes the launcher and its workers end.

    Attributes:
        asked: the first signal, None so far.
    """

    launcher: subprocess.Popen[bytes]
    run_dir: Path
    leads: bool
    save_timeout_s: float
    asked: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        first, worker = self.asked is None, self._worker()
        self.asked = self.asked or number
        if worker is None:  # the workers are not there yet: nothing to save
            self.launcher.send_signal(signal.SIGTERM)
        elif first:
            os.kill(worker, number)
            timer = threading.Timer(self.save_timeout_s, self._overdue)
            timer.daemon = True
            timer.start()
        else:
            self.launcher.send_signal(signal.SIGINT)

    def _overdue(self) -> None:
        if self.launcher.poll() is None:
            show(OVERDUE.format(self.save_timeout_s), sys.stderr)
            self.launcher.send_signal(signal.SIGINT)

    def _worker(self) -> int | None:
        """Return the process id of a worker of this launcher once the run says that it trains, worker 0 if it is here.

        (A session id does not help: the launcher gives every worker a session of its own.)
        """
        import psutil

        try:
            state = read_json(self.run_dir / "run.json")
            if state["status"] != "running" or (self.leads and state["ppid"] != self.launcher.pid):
                return None
            if self.leads:
                return int(state["pid"])
            children = psutil.Process(self.launcher.pid).children()
            return min(child.pid for child in children if "vsgrpo.training.worker" in child.cmdline())
        except (DataError, ValueError, KeyError, TypeError, psutil.Error):
            return None


def exit_code(code: int) -> int:
    """Return what a shell would: 128 + N for a process that signal N ended (subprocess says -N)."""
    return 128 - code if code < 0 else code


# --- the launcher


def main(argv: list[str]) -> int:
    """Start the workers; return the exit code of the first that failed, 0 if none did."""
    end_with_parent()
    import torch
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # as modeling/load.py: DeepSpeed is imported here too
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        launch_command(launch_command_parser().parse_args(argv[1:]))
    except SignalException as stop:
        return 128 + int(stop.sigval)
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        return explain(Path(argv[0]), codes)
    return 0


def explain(run_dir: Path, codes: dict[int, int]) -> int:
    """Print the cause of a failed run; return its exit code.

    Args:
        codes: exit code by rank, -N for signal N.
    """
    failures = [read_json(path) for path in (run_dir / FAILURES).glob("*.json")]
    causes = [failure for failure in failures if not failure["lost"]]
    # The launcher kills what does not end by itself: a process that was killed is the cause if no other one is.
    for rank, code in () if causes else codes.items():
        if code in (-signal.SIGKILL, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT):
            what = f"process {rank} was ended by {signal.Signals(-code).name}"
            complain(what, f"{_HINTS.get(-code, '')}go on from the last checkpoint with --resume")
            return 1
    if failures:
        first = min(causes or failures, key=lambda failure: failure["time"])
        complain(first["error"], first["hint"] or "")
        return first["exit_code"]
    return exit_code(next(iter(codes.values())))


# --- the workers


def end_with_parent() -> None:
    """Ask the kernel for SIGTERM once the parent is gone, however it went (Linux; elsewhere nothing happens)."""
    if SUPERVISED not in os.environ or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def another_failed(run_dir: Path) -> bool:
    """Return whether another process than this one has written down why it failed."""
    own = f"{own_rank()}.json"
    return SUPERVISED in os.environ and any(path.name != own for path in (run_dir / FAILURES).glob("*.json"))


def forget_failures(run_dir: Path) -> None:
    """Remove the failures of earlier starts, so that `explain` does not report them again; tracebacks stay."""
    for path in (run_dir / FAILURES).glob("*.json"):
        path.unlink()


def record_failure(run_dir: Path, rank: int, error: BaseException) -> bool:
    """Write down why this process failed, for `explain`; return False where our launcher is not there to read it."""
    if SUPERVISED not in os.environ:
        return False
    folder = run_dir / FAILURES
    record: dict[str, Any] = {"schema_version": 1, "time": time.time(), "rank": rank, "hint": None, "exit_code": 1}
    record["lost"] = isinstance(error, LostProcess)
    if isinstance(error, VsgrpoError):
        record |= {"error": error.message, "hint": error.hint, "exit_code": error.exit_code}
    else:
        text = str(error).strip().splitlines()
        record["error"] = f"process {rank}: {type(error).__name__}: {text[0] if text else ''}"
        record["hint"] = f"the traceback is in {folder / f'{rank}.log'}"
    try:
        folder.mkdir(exist_ok=True)
        (folder / f"{rank}.log").write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        (folder / f"{rank}.json").write_text(json.dumps(record) + "\n", encoding="utf-8")
    except OSError:  # a full disk must not keep the reason from the user
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
