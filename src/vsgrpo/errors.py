"""Errors that a user can fix: each carries a message (what is wrong) and a hint (what to do)."""

from __future__ import annotations

import errno
import os
import re

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""How libraries in Rust report what the system refused."""
_NO_MEMORY = ("allocate memory", "failed to map segment", "start new thread", "out of memory")


class VsgrpoError(Exception):
    """Base of every error that the command line prints as one `error:` and one `hint:` line.

    Args:
        message: the file or dotted key, the value got and the rule it breaks, on one line.
        hint: the way out, on one line.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(VsgrpoError):
    """A key, a value or a command-line argument is wrong."""


class DataError(VsgrpoError):
    """A file of the user's data is missing, broken or not allowed."""


class SetupError(VsgrpoError):
    """The environment (package versions, devices, permissions) cannot do what was asked."""


class RunError(VsgrpoError):
    """A run that started well could not finish; what was done is kept."""

    exit_code = 1


def from_machine(error: BaseException) -> VsgrpoError | None:
    """Return what a file or the machine caused as an error of ours; None for everything else, such as our own bugs.

    A full disk, missing rights, a name too long, no memory, a file whose JSON or YAML nests too deep for the parser.
    """
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        named = [str(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))]
        names = " -> ".join(name if len(name) < 200 else name[:197] + "..." for name in named)
        what = f"{names or 'a file'}: {error.strerror}"
        if error.errno in _FULL:
            return RunError(what, "free disk space, then run the same command again: what was finished is kept")
        if error.errno == errno.ENOMEM:
            return RunError(what, "free memory, or raise its limit (ulimit -v)")
        return DataError(what, "check the path and its permissions")
    if (told := _OS_ERROR.search(str(error))) is not None:  # safetensors, tokenizers
        return from_machine(OSError(int(told[1]), os.strerror(int(told[1]))))
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(error, MemoryError) or any(sign in reason for sign in _NO_MEMORY):
        return RunError(f"out of memory ({reason})", "free memory, or raise its limit (ulimit -v)")
    if isinstance(error, RecursionError) and _innermost_package(error) in ("json", "yaml", "omegaconf"):
        return DataError("a file nests its values too deep to be read", "--debug shows which one")
    return None


def _innermost_package(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
