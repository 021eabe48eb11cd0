"""What reaches a terminal: text from rows, models and endpoints without control characters, and progress lines."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import unicodedata
from collections.abc import Callable
from typing import Any, TextIO

_ESCAPED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories shown as escapes: controls (ESC, C1), formats (text direction), lone surrogates, separators."""
VERBOSITY = "VSGRPO_VERBOSITY"
"""Environment variable, so that workers obey too: quiet, verbose, or not set."""
_JOINERS = "\u200c\u200d"
"""Formats that only join letters or emoji."""


def printable(text: str, keep: str = "\n\t") -> str:
    """Return text with what a terminal would obey written as an escape: `\\x1b`, `\\u202e`, `\\ud83d`.

    Args:
        keep: control characters to leave as they are; "" for text that must stay on one line.
    """
    if text.isprintable():
        return text
    return "".join(
        letter
        if letter.isprintable() or letter in keep + _JOINERS or unicodedata.category(letter) not in _ESCAPED
        else letter.encode("unicode_escape").decode()
        for letter in text
    )


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return a number with the words for one, or for none or several (None: with an s): `1 row`, `2 rows`, `0 rows`."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def show(text: str, stream: TextIO | None = None) -> None:
    """Print text that may hold anything, on stdout unless another stream is given."""
    print(printable(text), file=stream or sys.stdout)


def set_verbosity(level: str | None) -> None:
    """Set what this process and its children show: quiet, verbose, or None for what the environment says."""
    if level is not None:
        os.environ[VERBOSITY] = level
    if os.environ.get(VERBOSITY) == "verbose":
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
        os.environ["TRANSFORMERS_VERBOSITY"] = "info"


def is_quiet() -> bool:
    """Return whether results, warnings and errors alone are wanted."""
    return os.environ.get(VERBOSITY) == "quiet"


def note(text: str) -> None:
    """Print on stderr what a user may like to know and need not act on; nothing with -q."""
    if not is_quiet():
        show(text, sys.stderr)


def print_result(result: Any, as_json: bool) -> None:
    """Print what a command did or found: its `table()` for people, or its `to_json()` for programs."""
    show(json.dumps(result.to_json(), indent=1) if as_json else result.table())


def can_draw(stream: TextIO) -> bool:
    """Return whether a stream is a terminal that lines can be drawn on."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


def complain(message: str, hint: str) -> None:
    """Print one `error:` and one `hint:` line on stderr."""
    print(f"error: {printable(message, keep='')}", file=sys.stderr)
    if hint:
        print(f"hint: {printable(hint, keep='')}", file=sys.stderr)


class Progress:
    """Count finished items with rate and remaining time.

    Args:
        label: what is being done, e.g. "scans".
        total: number of items.
        each: what an item is, said at the beginning: the first may take long. "" says nothing, as do fewer than two.
        every_s: seconds between two lines where stderr is not a terminal.
        clock: seconds of a monotonic clock.
    """

    def __init__(
        self,
        label: str,
        total: int,
        each: str = "",
        every_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.label, self.total, self.done = label, total, 0
        self._every_s, self._clock = every_s, clock
        self._start = self._last = clock()
        self._live, self._is_quiet = sys.stderr.isatty(), is_quiet()
        if each and total > 1:
            note(f"{label} 0/{total}  {each}")

    def advance(self, note: str = "") -> None:
        """Count one item and show the state if it is time to."""
        self.done += 1
        now = self._clock()
        finished = self.done >= self.total
        if self._is_quiet or (not finished and now - self._last < (0.1 if self._live else self._every_s)):
            return
        self._last = now
        rate = self.done / max(now - self._start, 1e-9)
        speed = f"{rate:.1f}/s" if rate >= 0.1 else f"{1 / rate:.0f} s each"
        left = f"{clock_text((self.total - self.done) / rate)} left"
        duration = f"{clock_text(now - self._start)} in all" if finished else left
        text = f"{self.label} {self.done}/{self.total}  {speed}  {duration}" + (f"  {note}" if note else "")
        text = printable(text, keep="")
        if self._live:
            print(f"\r\x1b[2K{text}", end="\n" if finished else "", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)


def clock_text(seconds: float) -> str:
    """Return seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
