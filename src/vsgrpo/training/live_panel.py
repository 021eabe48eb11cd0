"""Content of the live display of a run, as text for a terminal of any size."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import ConsoleDimensions, Group, RenderableType
from rich.table import Table
from rich.text import Text

from vsgrpo.terminal import printable

PHASE_COLORS = {
    "decode": "yellow",
    "vision": "magenta",
    "prefill": "bright_blue",
    "generate": "blue",
    "reward": "bright_magenta",
    "reference": "bright_cyan",
    "update": "green",
    "optimizer": "cyan",
    "save": "red",
}
"""In the order of the phases of a step."""
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


@dataclass(frozen=True)
class SampleGroup:
    """The completions of one question: (text, how often, mean reward), most frequent first."""

    question_type: str
    question: str
    answer: str
    texts: Sequence[tuple[str, int, float]]


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


def panel(state: DisplayState, size: ConsoleDimensions, ascii_only: bool = False) -> RenderableType:
    """Return the display; where the terminal is low, the parts that matter least are left out.

    Args:
        size: of the terminal.
        ascii_only: draw with characters of ASCII.
    """
    width = size.width - 1  # some terminals wrap a line that fills the last column
    done = min(state.step / max(state.max_steps, 1), 1.0)
    head = [_head(state, width), _line(_bar(done, width, "bold cyan", ascii_only))]
    note = [_line(Text(state.note, style="bold yellow"))] if state.note else []
    parts: list[list[RenderableType]] = [
        _rewards(state, width, ascii_only),
        _numbers(state, width),
        _phases(state, width, ascii_only),
        _sample(state, width),
    ]
    room = size.height - 1 - len(head) - len(note)
    shown: list[RenderableType] = []
    for part in (parts[1], parts[0], parts[2], parts[3]):  # what stays first
        if part and len(part) <= room:
            room -= len(part)
        else:
            part.clear()
    for part in parts:
        shown += part
    return Group(*head, *shown, *note)


def _head(state: DisplayState, width: int) -> RenderableType:
    step = f"step {state.step}/{state.max_steps}"
    times = f"{clock(state.seconds)} gone"
    if state.seconds_per_step is not None:
        left = state.seconds_per_step * (state.max_steps - state.step)
        times = f"{clock(left)} left" if width < _NARROW else f"{times}, {clock(left)} left"
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


def _rewards(state: DisplayState, width: int, ascii_only: bool) -> list[RenderableType]:
    """Return mean reward with its course, then a line (or half a line, where wide) per question type."""
    reward = state.logs.get("reward")
    if reward is None:
        return []
    course = "" if ascii_only else spark(list(state.rewards), max(8, min(60, width - 26)))
    lines: list[RenderableType] = [_line(Text.assemble("reward ", (f"{reward:.3f}", "bold"), "  ", (course, "green")))]
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
    for row in range(half):
        line = Text()
        for cell in cells[row::half]:
            line.append_text(cell).append("   ")
        lines.append(_line(line))
    return lines


def _numbers(state: DisplayState, width: int) -> list[RenderableType]:
    words = [f"{title} {state.logs[n]:{kind}}" for n, (title, kind) in _NUMBERS.items() if n in state.logs]
    if state.tokens_per_second is not None:
        words.append(f"{state.tokens_per_second:,.0f} tokens/s")
    if state.saving is not None and state.saving > 1.05:
        words.append(f"{state.saving:.1f}x fewer than plain")
    if state.seconds_per_step is not None:
        words.append(f"{state.seconds_per_step:.2f} s/step")
    return [_line(Text(line)) for line in wrap(words, width)]


def _phases(state: DisplayState, width: int, ascii_only: bool) -> list[RenderableType]:
    """Return one bar of all phases, in the order of a step, then their names and what runs now."""
    if not state.shares:
        return [_line(Text(_now(state), style="dim"))] if state.phase else []
    bar, used = Text(), 0
    ordered = [phase for phase in PHASE_COLORS if phase in state.shares]
    reached = 0.0
    for phase in ordered:
        reached += state.shares[phase]
        cells = round(reached * width) - used
        used += cells
        bar.append((phase[0] if ascii_only else "▇") * cells, style=PHASE_COLORS[phase])
    legend = [(f"{phase} {share:.0%}", PHASE_COLORS[phase]) for phase, share in state.shares.items() if share >= 0.01]
    lines: list[RenderableType] = [_line(bar)]
    for row in wrap([text for text, _ in legend], width):
        line = Text(row)
        for text, color in legend:
            start = row.find(text)
            if start >= 0:
                line.stylize(color, start, start + len(text))
        lines.append(_line(line))
    return [*lines, _line(Text(_now(state), style="dim"))]


def _now(state: DisplayState) -> str:
    if state.phase is None:
        return ""
    waited = f", {clock(state.phase_seconds)}" if state.phase_seconds >= 3 else ""
    return f"now {state.phase}{waited}"


def _sample(state: DisplayState, width: int) -> list[RenderableType]:
    sample = state.sample
    if sample is None:
        return []
    texts = Text("said   ", style="dim")
    for text, count, reward in sample.texts:
        times = f" x{count}" if count > 1 else ""
        style = "green" if reward >= 0.999 else ""
        texts.append(one_line(text)[:200] or "(nothing)", style=f"not dim {style}").append(f"{times} ({reward:.2f})  ")
    question = Text.assemble(("asked  ", "dim"), one_line(sample.question))
    return [
        _line(question),
        _line(Text.assemble(("right  ", "dim"), (one_line(sample.answer), "green"))),
        _line(texts),
    ]


def _bar(share: float, width: int, style: str, ascii_only: bool) -> Text:
    """Return a bar that `share` (0..1) of is filled."""
    filled = round(width * min(max(share, 0.0), 1.0))
    rest = "-" if ascii_only else "━"
    return Text.assemble((("#" if ascii_only else "━") * filled, style), (rest * (width - filled), "bright_black"))


def _line(text: Text) -> Text:
    """Return text that stays on one line, cut with an ellipsis where the terminal ends."""
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def wrap(words: Sequence[str], width: int, gap: str = "   ") -> list[str]:
    """Return lines of whole words (which may hold blanks) with a gap between them."""
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + len(gap) + len(word) <= width:
            lines[-1] += gap + word
        else:
            lines.append(word)
    return lines


def spark(values: Sequence[float], width: int) -> str:
    """Return a course as small bars: means of equal runs of values, from the lowest to the highest."""
    finite = [value for value in values if value - value == 0]
    size = max(1, -(-len(finite) // width))
    means = [sum(part) / len(part) for part in (finite[i : i + size] for i in range(0, len(finite), size))]
    if not means:
        return ""
    low, span = min(means), max(means) - min(means)
    return "".join(_SPARKS[round(_LEVELS * (value - low) / span) if span else 0] for value in means)


def one_line(text: str) -> str:
    """Return text on one line, without what could steer a terminal."""
    return printable(" ".join(text.split()), keep="")


def clock(seconds: float) -> str:
    """Return seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
