"""Progress of a run on stderr: a live display on a terminal, plain lines elsewhere (TERM=dumb counts as elsewhere)."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import pyarrow.compute
from rich.console import Console, RenderableType
from rich.live import Live
from transformers import TrainerCallback, TrainerState

from vsgrpo.terminal import show
from vsgrpo.training.base import Stage
from vsgrpo.training.launcher import own_rank
from vsgrpo.training.live_panel import DisplayState, SampleGroup, panel
from vsgrpo.training.timing import PHASES, PhaseTimer

REFRESH_HZ = 4
_TAIL_BYTES = 1 << 15
_SAMPLE_EVERY_S = 1.0
_NUM_LOGS = 10  # that phase shares and tokens per second are taken over


class Progress(TrainerCallback):
    """Prints a line per log with step, main numbers, seconds per step and time left. The live view builds on it.

    Args:
        stage: of the run.
        timer: of the trainer's phases.
        rows: of the stage, for the question of a sample.
    """

    def __init__(self, stage: Stage, timer: PhaseTimer, rows: Any = None) -> None:
        self._stage = stage
        self.timer = timer
        self._rows = rows
        self._since = time.monotonic()
        self._first_step = 0

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Start the clock (a resumed stage does not start at 0)."""
        self._since = time.monotonic()
        self._first_step = state.global_step

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Print step, main numbers, seconds per step and time left."""
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        seconds = self._pace(state)
        left = round(seconds * (state.max_steps - state.global_step))
        numbers = [f"{name} {logs[name]:.4g}" for name in ("loss", "reward", "kl", "entropy") if _is_number(logs, name)]
        line = f"{self._title()} step {state.global_step}/{state.max_steps}  {'  '.join(numbers)}"
        show(f"{line}  {seconds:.2f} s/step  {left // 60}m{left % 60:02d}s left", sys.stderr)

    def say(self, text: str) -> None:
        """Tell the user something from inside a signal handler (where a buffered stream may be in the middle)."""
        if own_rank() == 0:
            os.write(2, f"{text}\n".encode())

    def close(self) -> None:
        """Give the terminal back; may be called twice."""

    def _title(self) -> str:
        stage = f" stage {self._stage.number + 1}/{self._stage.num_stages}" if self._stage.num_stages > 1 else ""
        return self._stage.name + stage

    def _pace(self, state: TrainerState) -> float:
        return (time.monotonic() - self._since) / max(state.global_step - self._first_step, 1)


def watch(stage: Stage, timer: PhaseTimer, rows: Any) -> Progress:
    """Return the live view where stderr is a terminal that can be drawn on and this process speaks for the run."""
    drawable = sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")
    return (LiveView if own_rank() == 0 and drawable else Progress)(stage, timer, rows)


class LiveView(Progress):
    """Draws step, time left, rewards by type, main numbers, phases and the last sample; other lines go above it.

    A thread of rich redraws, so that the clock and the running phase move during a long step.
    """

    def __init__(self, stage: Stage, timer: PhaseTimer, rows: Any = None) -> None:
        super().__init__(stage, timer, rows)
        self._console = Console(stderr=True, highlight=False)
        self._live: Live | None = None
        self._streams: list[tuple[logging.StreamHandler, Any]] = []
        self._display = DisplayState(self._title(), str(stage.folder.path))
        self._logs: deque[dict[str, float]] = deque(maxlen=_NUM_LOGS)
        self._logged_at = self._since
        self._read_at = 0.0

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Start to draw."""
        super().on_train_begin(args, state, control, **kwargs)
        self._logged_at = self._since
        self._display.step, self._display.max_steps = state.global_step, state.max_steps
        # Lines of stdout are drawn around only where they would land on the same screen: a file keeps its lines.
        self._live = Live(
            console=self._console,
            get_renderable=self._draw,
            refresh_per_second=REFRESH_HZ,
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=True,
        )
        before = sys.stderr
        self._live.start()
        # Loggers of libraries took hold of the stream when they were made.
        handlers = [h for logger in _loggers() for h in logger.handlers if isinstance(h, logging.StreamHandler)]
        self._streams = [(handler, handler.setStream(sys.stderr)) for handler in handlers if handler.stream is before]

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Count the step and look for a new sample."""
        self._display.step = state.global_step
        self._display.seconds_per_step = self._pace(state)
        now = time.monotonic()
        if now - self._read_at >= _SAMPLE_EVERY_S:
            self._read_at = now
            self._display.sample = last_group(self._stage.folder.path / "completions.jsonl", self._rows)

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Take the numbers of a log."""
        if not logs or "loss" not in logs:
            return
        display, now = self._display, time.monotonic()
        display.logs = {name: float(value) for name, value in logs.items() if isinstance(value, int | float)}
        self._logs.append({**display.logs, "seconds": now - self._logged_at})
        self._logged_at = now
        spent = {phase: self._total(f"time/{phase}") for phase in PHASES}
        accounted = sum(spent.values())
        ordered = sorted(spent.items(), key=lambda item: -item[1])
        display.shares = {phase: seconds / accounted for phase, seconds in ordered if seconds > 0}
        if computed := self._total("tokens/computed"):
            display.tokens_per_second = computed / self._total("seconds")
            display.saving = self._total("tokens/plain") / computed
        if _is_number(logs, "reward"):
            display.rewards.append(float(logs["reward"]))

    def _total(self, name: str) -> float:
        """Return the sum of a number over the last logs."""
        return sum(logs.get(name, 0.0) for logs in self._logs)

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Leave the last picture on the screen."""
        self.close()

    def say(self, text: str) -> None:
        """Show a line in the display; the drawing thread picks it up."""
        self._display.note = text

    def close(self) -> None:
        """Stop to draw, show the cursor again and give streams back."""
        if self._live is None:
            return
        live, self._live = self._live, None
        live.stop()
        for handler, stream in self._streams:
            handler.setStream(stream)
        self._streams = []

    def _draw(self) -> RenderableType:
        display = self._display
        display.seconds = time.monotonic() - self._since
        display.phase, began = self.timer.running if self._live is not None else (None, 0.0)
        display.phase_seconds = time.perf_counter() - began
        return panel(display, self._console.size, ascii_only=self._console.options.ascii_only)


def last_group(path: Path, dataset: Any = None) -> SampleGroup | None:
    """Return the last group in completions.jsonl, None where there is none yet.

    Args:
        dataset: `rows_to_dataset`, to look the question up.
    """
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        lines = stream.read().splitlines()[1:] if stream.tell() > _TAIL_BYTES else path.read_bytes().splitlines()
    records = []
    for line in reversed(lines):
        try:
            record = json.loads(line)
        except ValueError:
            continue  # it is being written
        if records and (record["step"], record["id"]) != (records[0]["step"], records[0]["id"]):
            break
        records.append(record)
    if not records:
        return None
    counts: dict[str, list[float]] = {}
    for record in records:
        counts.setdefault(record["completion"], []).append(record["reward"] or 0.0)
    answers = [(text, len(found), sum(found) / len(found)) for text, found in counts.items()]
    answers.sort(key=lambda item: (-item[1], item[0]))
    head = records[0]
    return SampleGroup(head["question_type"], _question(dataset, head["id"]), head["answer"], answers)


def _question(dataset: Any, row_key: str) -> str:
    if dataset is None:
        return row_key
    place = pyarrow.compute.index(dataset.data["row_key"], row_key).as_py()
    return row_key if place < 0 else dataset.data["question"][place].as_py()


def _loggers() -> list[logging.Logger]:
    known = [logger for logger in logging.root.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    return [logging.root, *known]


def _is_number(logs: dict[str, Any], name: str) -> bool:
    return isinstance(logs.get(name), int | float)
