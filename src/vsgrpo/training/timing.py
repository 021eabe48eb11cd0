"""Where the seconds of a step go, by the phase names that logs, benches and reports share."""

from __future__ import annotations

import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import TrainerCallback, TrainerState

from vsgrpo.modeling.tree import TokenCount
from vsgrpo.terminal import show

PHASES = ("decode", "vision", "prefill", "generate", "reward", "reference", "update", "optimizer", "save")


def device_sync() -> Callable[[], None] | None:
    """Return the call that waits for the GPU's queue, or None where this machine has none to use."""
    return _synchronize if torch.cuda.is_available() else None


def _synchronize() -> None:
    if torch.cuda.is_initialized():  # a run on the CPU must not take memory of a GPU
        torch.cuda.synchronize()


class PhaseTimer:
    """Seconds per phase, exclusive: while an inner phase runs, the clock of the outer one is stopped, so phases add up.

    Counts of work are kept beside them.

    Args:
        sync: called before each reading of the clock, so that work queued on an accelerator counts where it was
            started (`device_sync`).
    """

    def __init__(self, sync: Callable[[], None] | None = None) -> None:
        self._sync = sync
        self._running: list[str] = []
        self._since = 0.0
        self._seconds: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._taken = time.perf_counter()
        self.failed_in: str | None = None
        """The innermost phase that an exception left first."""

    @property
    def running(self) -> tuple[str | None, float]:
        """The innermost phase that runs, None between phases, and when it last began to (`time.perf_counter`)."""
        stack = self._running
        return (stack[-1] if stack else None), self._since

    def is_in(self, phase: str) -> bool:
        """Return whether this phase, or one inside it, is running."""
        return phase in self._running

    def start(self, phase: str) -> None:
        """Start a phase; the clock of the one that ran is stopped until this one ends."""
        if phase not in PHASES:
            raise ValueError(f"{phase}: not one of {PHASES}")
        self._charge()
        self._running.append(phase)

    def stop(self) -> None:
        """Stop the phase started last."""
        self._charge()
        self._running.pop()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a block."""
        self.start(name)
        try:
            yield
        except BaseException:
            self.failed_in = self.failed_in or name
            raise
        finally:
            self.stop()

    def take(self) -> dict[str, float]:
        """Return the seconds of each phase since the last call, in the order of `PHASES`, and start from zero."""
        self._charge()
        seconds, self._seconds = self._seconds, {}
        return {phase: seconds[phase] for phase in PHASES if phase in seconds}

    def count(self, name: str, amount: int) -> None:
        """Add to a count of work."""
        self._counts[name] = self._counts.get(name, 0) + amount

    def count_tokens(self, tokens: TokenCount) -> None:
        """Add the language model's tokens of one pass, beside what a plain step would compute."""
        self.count("tokens/computed", tokens.computed)
        self.count("tokens/plain", tokens.plain)

    def take_counts(self) -> dict[str, int]:
        """Return the counts since the last call, and start from zero."""
        counts, self._counts = self._counts, {}
        return counts

    def take_summary(self) -> dict[str, Any]:
        """Return what `summarize` takes: phases, counts and wall seconds since the last call, and the memory's peak."""
        now, since = time.perf_counter(), self._taken
        self._taken = now
        return {"phases": self.take(), "counts": self.take_counts(), "seconds": now - since, "peak": peak_memory()}

    def _charge(self) -> None:
        if self._sync is not None:
            self._sync()
        now = time.perf_counter()
        if self._running:
            phase = self._running[-1]
            self._seconds[phase] = self._seconds.get(phase, 0.0) + now - self._since
        self._since = now


def peak_memory() -> int:
    """Return the most bytes that this process has had on its GPU, or in main memory where it uses none."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    kilo = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilo


def summarize(summaries: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Put the summaries of all processes into log entries.

    Returns:
        time/PHASE: mean seconds of the processes; time_max/PHASE: of the slowest one (several processes only); counts:
        summed; tokens/second: tokens computed by all, over the wall seconds; memory/peak_gib: of the fullest process.
    """
    phases = [phase for phase in PHASES if any(phase in item["phases"] for item in summaries)]
    spent = {phase: [item["phases"].get(phase, 0.0) for item in summaries] for phase in phases}
    logs: dict[str, float] = {f"time/{phase}": sum(spent[phase]) / len(summaries) for phase in phases}
    if len(summaries) > 1:
        logs |= {f"time_max/{phase}": max(spent[phase]) for phase in phases}
    for name in dict.fromkeys(name for item in summaries for name in item["counts"]):
        logs[name] = sum(item["counts"].get(name, 0) for item in summaries)
    seconds = max(item["seconds"] for item in summaries)
    if "tokens/computed" in logs:
        logs["tokens/second"] = logs["tokens/computed"] / max(seconds, 1e-9)
    logs["memory/peak_gib"] = max(item["peak"] for item in summaries) / 2**30
    return logs


class OptimizerClock(TrainerCallback):
    """Times the optimizer's step, and starts the clock of the first log."""

    def __init__(self, timer: PhaseTimer) -> None:
        self._timer = timer

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Forget what building the trainer took."""
        self._timer.take_summary()

    def on_pre_optimizer_step(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Start the phase."""
        self._timer.start("optimizer")

    def on_optimizer_step(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Stop the phase."""
        self._timer.stop()


class PhaseWatch(TrainerCallback):
    """Says on stderr which phase this process has been in for half of launch.timeout_s.

    A process that hangs says nothing by itself, and NCCL ends those that wait for it without a Python exception.

    Args:
        clock: seconds that never jump back.
    """

    def __init__(self, timer: PhaseTimer, rank: int, limit_s: float, clock: Callable[[], float] | None = None) -> None:
        self._timer = timer
        self._rank = rank
        self._limit_s = limit_s
        self._clock = clock or time.perf_counter
        self._reported: float | None = None
        self._ended = threading.Event()

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Start to watch."""
        threading.Thread(target=self._watch, args=(state,), daemon=True).start()

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Stop watching."""
        self._ended.set()

    def look(self, step: int) -> None:
        """Print one line if a phase has lasted for half of the limit; once for each time it is entered."""
        phase, since = self._timer.running
        seconds = self._clock() - since
        if phase is None or self._reported == since or seconds < self._limit_s / 2:
            return
        self._reported = since
        show(
            f"warning: process {self._rank} has been in phase {phase} of step {step} for {seconds:.0f} s "
            f"(launch.timeout_s={self._limit_s:g})",
            sys.stderr,
        )

    def _watch(self, state: TrainerState) -> None:
        while not self._ended.wait(min(self._limit_s / 10, 10.0)):
            self.look(state.global_step)
