"""`python -m vsgrpo.training.launcher RUN_DIR ACCELERATE_ARGUMENTS`: `accelerate launch`, and one line where it fails.

accelerate itself ends every failure with exit code 1 and a traceback of its own. Here the first failure among the
workers decides the exit code and is the only one that is told.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from vsgrpo.errors import RunError, VsgrpoError
from vsgrpo.terminal import complain
from vsgrpo.training.supervise import SUPERVISED, end_with_parent

FAILURES = "failures"
"""Sub-folder of a run: what each process failed of, in its latest start."""


class LostProcess(RunError):
    """Another process went away: its own failure is the cause, not this one."""


def main(argv: list[str]) -> int:
    """Start the workers; return the exit code of the first that failed, 0 if none did."""
    end_with_parent()
    import torch
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # as in modeling/quiet.py: the launcher imports DeepSpeed too
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        launch_command(launch_command_parser().parse_args(argv[1:]))
    except SignalException as stop:
        return 128 + int(stop.sigval)
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        return explain(Path(argv[0]), codes)
    return 0


def own_rank() -> int:
    """Return the number of this process in the run, 0 where no launcher has given it one."""
    return int(os.environ.get("RANK", "0"))


def explain(run_dir: Path, codes: dict[int, int]) -> int:
    """Print the cause of a failed run; return its exit code.

    Args:
        codes: exit code by rank, -N for signal N.
    """
    told = [json.loads(path.read_text(encoding="utf-8")) for path in (run_dir / FAILURES).glob("*.json")]
    causes = [failure for failure in told if not failure["lost"]]
    # The launcher kills what does not end by itself: a process that was killed is the cause if no other one is.
    for rank, code in () if causes else codes.items():
        if code in (-signal.SIGKILL, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT):
            hint = "is memory short? " if code == -signal.SIGKILL else ""
            what = f"process {rank} was ended by {signal.Signals(-code).name}"
            complain(what, f"{hint}go on from the last checkpoint with --resume")
            return 1
    if told:
        first = min(causes or told, key=lambda failure: failure["time"])
        complain(first["error"], first["hint"] or "")
        return first["exit_code"]
    code = next(iter(codes.values()))
    return 128 - code if code < 0 else code


def another_failed(run_dir: Path) -> bool:
    """Return whether another process than this one has written down why it failed."""
    own = f"{own_rank()}.json"
    return SUPERVISED in os.environ and any(path.name != own for path in (run_dir / FAILURES).glob("*.json"))


def forget_failures(run_dir: Path) -> None:
    """Remove what processes of earlier starts failed of, for `explain` not to tell it again; tracebacks stay."""
    for path in (run_dir / FAILURES).glob("*.json"):
        path.unlink()


def record_failure(run_dir: Path, rank: int, error: BaseException) -> bool:
    """Write down why this process failed, for `explain`; return False where no launcher of ours would read it."""
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
