"""Live display of a run on a terminal, of any size; elsewhere `progress.Progress` prints plain lines."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from rich.console import Console, ConsoleDimensions, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text
from transformers import TrainerState

from vsgrpo.terminal import clock_text, printable
from vsgrpo.training.measure import PHASES, PhaseTimer
from vsgrpo.training.progress import Progress, SampleGroup, Stage, last_group

PHASE_COLORS = {
    "decode": "yellow",
    "vision": "magenta",
    "prefill": "dark_orange",
    "generate": "dodger_blue1",
    "reward": "white",
    "reference": "medium_purple1",
    "update": "green",
    "optimizer": "cyan",
    "save": "red",
}
"""In the order of the phases of a step; neighbours of a bar differ in hue, not in brightness alone."""
REFRESH_HZ = 4
_SAMPLE_EVERY_S = 1.0
_NUM_LOGS = 10  # that phase shares and tokens per second are taken over
_NARROW = 64  # columns; below, one thing per line
_SPARKS = "▁▂▃▄▅▆▇█"
_LEVELS = 7
# Log name -> (what it is called here, format); those that are there are shown.
_NUMBERS = {
    "loss": ("loss", ".3g"),
    "kl": ("KL", ".3g"),
    "entropy": ("entropy", ".3f"),
    "completions/mean_length": ("length", ".1f"),
    "frac_reward_zero_std": ("equal groups", ".0%"),
    "rewards/accuracies": ("preferred", ".0%"),
    "grad_norm": ("gradient", ".3g"),
}


class LiveView(Progress):
    """Draws step, time left, rewards by type, main numbers, phases and the last sample; other lines go above it.

    A thread of rich redraws, so that the clock and the running phase move during a long step.
    """

    def __init__(self, stage: Stage, timer: PhaseTimer, rows: Any) -> None:
        super().__init__(stage, timer)
        self._rows = rows  # of the stage, for the question of a sample
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
        # Loggers of libraries took hold of the stream when they were made. (A placeholder of one has no handlers.)
        loggers = [logging.root, *logging.root.manager.loggerDict.values()]
        found = [handler for logger in loggers for handler in getattr(logger, "handlers", [])]
        handlers = [handler for handler in found if isinstance(handler, logging.StreamHandler)]
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
        if "reward" in display.logs:
            display.rewards.append(display.logs["reward"])

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
        console = self._console
        return panel(display, console.size, ascii_only=console.options.ascii_only, is_plain=console.no_color)


@dataclass
class DisplayState:
    """All that the display shows.

    Attributes:
        shares: phase -> part of the step's seconds, largest first.
        saving: tokens of a plain layout over those computed.
        phase: what runs now, for `phase_seconds`.
        note: a highlighted line.
    """

    title: str
    folder: str
    step: int = 0
    max_steps: int = 0
    seconds: float = 0.0
    seconds_per_step: float | None = None
    logs: dict[str, float] = field(default_factory=dict)
    rewards: deque[float] = field(default_factory=lambda: deque(maxlen=400))
    shares: dict[str, float] = field(default_factory=dict)
    tokens_per_second: float | None = None
    saving: float | None = None
    phase: str | None = None
    phase_seconds: float = 0.0
    sample: SampleGroup | None = None
    note: str = ""


def panel(
    state: DisplayState, size: ConsoleDimensions, ascii_only: bool = False, is_plain: bool = False
) -> RenderableType:
    """Return the display; where the terminal is low, the parts that matter least are left out.

    Args:
        size: of the terminal.
        ascii_only: draw with characters of ASCII.
        is_plain: without colours (NO_COLOR): phases are told apart by their first letters.
    """
    width = size.width - 1  # some terminals wrap a line that fills the last column
    done = min(state.step / max(state.max_steps, 1), 1.0)
    head = [_head(state, width), _bar(done, width, "bold cyan", ascii_only)]
    note = [Text(line.plain, "bold yellow") for line in wrap(state.note.split(), width, gap=" ")]  # all of it is shown
    note = note[: max(1, size.height - 1 - len(head))]
    parts = [
        _rewards(state, width, ascii_only),
        _numbers(state, width),
        _phases(state, width, ascii_only or is_plain),
        _sample(state),
    ]
    room = size.height - 1 - len(head) - len(note)
    for part in (parts[1], parts[0], parts[2], parts[3]):  # what stays first
        if len(part) <= room:
            room -= len(part)
        else:
            part.clear()
    lines = [*head, *chain.from_iterable(parts), *note]
    for line in lines:
        if isinstance(line, Text):  # one line, cut with an ellipsis where the terminal ends
            line.no_wrap, line.overflow = True, "ellipsis"
    return Group(*lines)


def _head(state: DisplayState, width: int) -> RenderableType:
    step = f"step {state.step}/{state.max_steps}"
    times = f"{clock_text(state.seconds)} gone"
    if state.seconds_per_step is not None:
        left = state.seconds_per_step * (state.max_steps - state.step)
        times = f"{clock_text(left)} left" if width < _NARROW else f"{times}, {clock_text(left)} left"
    grid = Table.grid(expand=False, padding=(0, 2))
    grid.width = width
    grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    grid.add_column(no_wrap=True, justify="right")
    title = Text(state.title, style="bold")
    if width >= _NARROW:
        title.append(f"  {state.folder}", style="not bold dim")
        grid.add_row(title, Text.assemble((step, "bold"), f"  {times}"))
    else:
        grid.add_row(Text.assemble(title, f" {step}"), times)
    return grid


def _rewards(state: DisplayState, width: int, ascii_only: bool) -> list[Text]:
    """Return mean reward with its course, then a line (or half a line, where wide) per question type."""
    reward = state.logs.get("reward")
    if reward is None:
        return []
    course = "" if ascii_only else spark(list(state.rewards), max(8, min(60, width - 26)))
    lines = [Text.assemble("reward ", (f"{reward:.3f}", "bold"), "  ", (course, "green"))]
    types = {name.partition("/")[2]: value for name, value in state.logs.items() if name.startswith("reward/")}
    if not types:
        return lines
    columns = 2 if width >= 100 and len(types) > 3 else 1
    label = min(max(map(len, types)), 30)
    bar = max(6, min(30, width // columns - label - 12))
    cells = []
    for name, value in types.items():
        short = name.replace("_", " ")[:label].ljust(label)
        cells.append(Text.assemble("  ", (short, "dim"), f" {value:5.2f} ", _bar(value, bar, "green", ascii_only)))
    half = -(-len(cells) // columns)
    return [*lines, *(Text("   ").join(cells[row::half]) for row in range(half))]


def _numbers(state: DisplayState, width: int) -> list[Text]:
    words = [f"{title} {state.logs[n]:{kind}}" for n, (title, kind) in _NUMBERS.items() if n in state.logs]
    if state.tokens_per_second is not None:
        words.append(f"{state.tokens_per_second:,.0f} tokens/s")
    if state.saving is not None and state.saving > 1.05:
        words.append(f"{state.saving:.1f}x fewer tokens than plain rows")
    if state.seconds_per_step is not None:
        words.append(f"{state.seconds_per_step:.2f} s/step")
    return wrap(words, width)


def _phases(state: DisplayState, width: int, by_letters: bool) -> list[Text]:
    """Return one bar of all phases, in the order of a step, then their names in that order and what runs now."""
    waited = f", {clock_text(state.phase_seconds)}" if state.phase_seconds >= 3 else ""
    now = Text(f"now {state.phase}{waited}" if state.phase else "", style="dim")
    if not state.shares:
        return [now] if state.phase else []
    bar, used, reached = Text(), 0, 0.0
    for phase in (phase for phase in PHASES if phase in state.shares):
        reached += state.shares[phase]
        cells = round(reached * width) - used
        used += cells
        bar.append((phase[0] if by_letters else "▇") * cells, style=PHASE_COLORS[phase])
    ordered = {phase: state.shares[phase] for phase in PHASES if phase in state.shares}
    shares = {phase: f"{phase} {share:.0%}" for phase, share in ordered.items() if share >= 0.01}
    return [bar, *wrap([Text(text, PHASE_COLORS[phase]) for phase, text in shares.items()], width), now]


def _sample(state: DisplayState) -> list[Text]:
    sample = state.sample
    if sample is None:
        return []
    texts = Text("said   ", style="dim")
    for text, count, reward in sample.texts:
        times = f" x{count}" if count > 1 else ""
        style = "green" if reward >= 0.999 else ""
        texts.append(one_line(text)[:200] or "(nothing)", style=f"not dim {style}").append(f"{times} ({reward:.2f})  ")
    question = Text.assemble(("asked  ", "dim"), one_line(sample.question))
    return [question, Text.assemble(("right  ", "dim"), (one_line(sample.answer), "green")), texts]


def _bar(share: float, width: int, style: str, ascii_only: bool) -> Text:
    """Return a bar that `share` (0..1) of is filled."""
    filled = round(width * min(max(share, 0.0), 1.0))
    full, rest = "#-" if ascii_only else "━╌"
    return Text.assemble((full * filled, style), (rest * (width - filled), "bright_black"))


def wrap(words: Sequence[str | Text], width: int, gap: str = "   ") -> list[Text]:
    """Return lines of whole words (which may hold blanks) with a gap between them."""
    lines: list[Text] = []
    for word in words:
        if lines and len(lines[-1]) + len(gap) + len(word) <= width:
            lines[-1].append(gap).append(word)
        else:
            lines.append(Text().append(word))
    return lines


def spark(values: Sequence[float], width: int) -> str:
    """Return a course as small bars: means of equal runs of values, from the lowest to the highest."""
    finite = [value for value in values if math.isfinite(value)]
    size = max(1, -(-len(finite) // width))
    means = [sum(part) / len(part) for part in (finite[i : i + size] for i in range(0, len(finite), size))]
    if not means:
        return ""
    low, span = min(means), max(means) - min(means)
    return "".join(_SPARKS[round(_LEVELS * (value - low) / span) if span else 0] for value in means)


def one_line(text: str) -> str:
    """Return text on one line, without what could steer a terminal."""
    return printable(" ".join(text.split()), keep="")
