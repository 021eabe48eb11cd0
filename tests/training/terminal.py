"""A run on a real terminal (a pty of its own size and session), whose keys reach it as signals."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

CTRL_C = b"\x03"
SHOWN, HIDDEN = "\x1b[?25h", "\x1b[?25l"
"""What shows and hides the cursor."""


class Terminal:
    """A command in the foreground of a terminal, ended with the block that uses it.

    Attributes:
        screen: all it wrote so far, with its escape codes.
    """

    def __init__(self, command, columns=100, rows=30, **environment):
        self._keys, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

        def take_terminal():
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        kept = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            [sys.executable, *command],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
            preexec_fn=take_terminal,
            env={**kept, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TERM": "xterm-256color", **environment},
        )
        os.close(terminal)
        self.screen = ""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=60)
        os.close(self._keys)

    def wait_for(self, text, seconds=240):
        """Read until `text` was written."""
        end = time.monotonic() + seconds
        while text not in self.screen:
            assert time.monotonic() < end and self._read(), f"no {text!r} in:\n{self.lines()[-2000:]}"

    def press(self, keys):
        """Type."""
        os.write(self._keys, keys)

    def finish(self, seconds=240):
        """Read to the end; return the exit code."""
        end = time.monotonic() + seconds
        while self._read():
            assert time.monotonic() < end, f"still running:\n{self.lines()[-2000:]}"
        return self.process.wait(timeout=seconds)

    def lines(self):
        """Return what was written without escape codes."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.screen)

    def _read(self):
        """Take what is there, or wait a moment; return False once every process has closed the terminal."""
        if not select.select([self._keys], [], [], 0.5)[0]:
            return True
        try:
            data = os.read(self._keys, 1 << 16)
        except OSError:  # Linux: the other end is closed
            return False
        self.screen += data.decode(errors="replace")
        return bool(data)
