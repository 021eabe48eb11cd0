"""Progress on stderr: one live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from vsgrpo.terminal import printable


class Progress:
    """Count finished items with rate and remaining time.

    Args:
        label: what is being done, e.g. "scans".
        total: number of items.
        every_s: seconds between two lines where stderr is not a terminal.
        clock: seconds of a monotonic clock.
    """

    def __init__(
        self, label: str, total: int, every_s: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.label, self.total, self.done = label, total, 0
        self._every_s, self._clock = every_s, clock
        self._start = self._last = clock()
        self._live = sys.stderr.isatty()

    def advance(self, note: str = "") -> None:
        """Count one item and show the state if it is time to."""
        self.done += 1
        now = self._clock()
        finished = self.done >= self.total
        if not finished and now - self._last < (0.1 if self._live else self._every_s):
            return
        self._last = now
        rate = self.done / max(now - self._start, 1e-9)
        left = (self.total - self.done) / rate
        text = f"{self.label} {self.done}/{self.total}  {rate:.1f}/s  {_clock_text(left)} left"
        if finished:
            text = f"{self.label} {self.done}/{self.total}  {rate:.1f}/s  {_clock_text(now - self._start)} in all"
        text = printable(text + (f"  {note}" if note else ""), keep="")
        if self._live:
            print(f"\r\x1b[2K{text}", end="\n" if finished else "", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)


def _clock_text(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
