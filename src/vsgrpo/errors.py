"""Errors that a user can fix: each carries a message (what is wrong) and a hint (what to do)."""

from __future__ import annotations

import errno
import os
import re
import socket

_OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""How libraries in Rust report what the system refused."""
_NO_MEMORY = re.compile(
    r"(can.t|cannot|unable to) allocate memory|not enough memory|failed to map segment"
    r"|can't start new thread|^out of memory",
    re.IGNORECASE,
)
_NO_GPU_MEMORY = re.compile(r"^(CUDA|HIP|XPU|MPS)\b.*out of memory|CUBLAS_STATUS_ALLOC_FAILED")
_FREE_MEMORY = "free memory, or raise its limit (ulimit -v)"


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


_PATH = (
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS, errno.EXDEV, errno.EMLINK, errno.EBUSY, errno.ETXTBSY),
)
_NETWORK = (
    *(errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED),
    *(errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN, errno.ETIMEDOUT),
)
_CHECK_PATH = "check the path and its permissions"
_FREE_DISK = "free disk space, then run the same command again: what was finished is kept"
_DISK_FAILED = "the disk or network file system failed: look at it, then run again"
_CAUSES: tuple[tuple[tuple[int, ...], type[VsgrpoError], str, str], ...] = (
    ((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), RunError, "a file", _FREE_DISK),
    ((errno.EIO, errno.ESTALE), RunError, "a file", _DISK_FAILED),
    ((errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS), SetupError, "a file", "choose a folder on another file system"),
    ((errno.ENOMEM,), RunError, "the system", _FREE_MEMORY),
    ((errno.EMFILE, errno.ENFILE), RunError, "the system", "raise the limit of open files (ulimit -n)"),
    ((errno.EAGAIN,), RunError, "the system", "end other processes, or raise their limit (ulimit -u)"),
    (_NETWORK, SetupError, "the network", "check the address, and that nothing else uses its port"),
    (_PATH, DataError, "a file", _CHECK_PATH),
)
"""What the system refuses because of the machine or the user: numbers, kind, subject if no file is named, way out."""


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's text, the name of its type where it has no text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def from_machine(error: BaseException) -> VsgrpoError | None:
    """Return an error caused by a file or the machine as a `VsgrpoError`; None for everything else, such as our bugs.

    A full disk, missing rights, a name too long, no memory, too many open files, an address in use, a file whose JSON
    or YAML nests too deep for the parser.
    """
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        return _from_system(error, error.errno)
    if (number := _OS_ERROR.search(str(error))) is not None:  # safetensors, tokenizers
        return from_machine(OSError(int(number[1]), os.strerror(int(number[1]))))
    reason = first_line(error)
    if isinstance(error, RuntimeError) and _NO_GPU_MEMORY.search(reason):
        way_out = "lower video.num_frames, video.max_pixels or the batch size, or end what else runs on the GPU"
        return RunError(f"out of GPU memory ({reason})", way_out)
    is_about_memory = isinstance(error, RuntimeError | ImportError) and _NO_MEMORY.search(reason)
    if isinstance(error, MemoryError) or is_about_memory:
        return RunError(f"out of memory ({reason})", _FREE_MEMORY)
    if isinstance(error, RecursionError) and _innermost_package(error) in ("json", "yaml", "omegaconf"):
        return DataError("a file nests its values too deep to be read", "--debug shows which one")
    return None


def _from_system(error: OSError, number: int) -> VsgrpoError | None:
    """Return what the system refused; None where neither its number nor a file name says who can fix it."""
    if isinstance(error, socket.gaierror):  # its numbers are its own
        return SetupError(f"the network: {error.strerror}", "check the address, and that this machine reaches it")
    named = [str(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))]
    names = " -> ".join(name if len(name) < 200 else name[:197] + "..." for name in named)
    for numbers, kind, subject, hint in _CAUSES:
        if number in numbers:
            return kind(f"{names or subject}: {error.strerror}", hint)
    return DataError(f"{names}: {error.strerror}", _CHECK_PATH) if names else None


def _innermost_package(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
