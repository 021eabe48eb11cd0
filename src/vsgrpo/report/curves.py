"""Charts of a run report as SVG text: lines over steps, stacked bars of phase seconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

from vsgrpo.report.runs import Curve

NUM_COLORS = 8
MAX_POINTS = 240
_WIDTH, _HEIGHT = 480, 230
_LEFT, _TOP, _RIGHT, _BOTTOM = 66, 12, 10, 30


def thin(curve: Curve, limit: int = MAX_POINTS) -> list[tuple[float, float]]:
    """Return at most `limit` points: means of equal runs of finite values."""
    points = [(step, value) for step, value in curve if math.isfinite(value)]
    size = max(1, math.ceil(len(points) / limit))
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(s for s, _ in part) / len(part), sum(v for _, v in part) / len(part)) for part in parts]


def smooth(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the moving average over about a twelfth of the points (as many on both sides, fewer near the ends)."""
    half = len(points) // 24
    found = []
    for place, (step, _) in enumerate(points):
        reach = min(half, place, len(points) - 1 - place)
        part = points[place - reach : place + reach + 1]
        found.append((step, sum(value for _, value in part) / len(part)))
    return found


def lines_svg(lines: Sequence[tuple[int, str, Curve]], label: str, last_step: int = 0) -> str:
    """Return a line chart over steps, "" where no line has a finite value.

    Args:
        lines: (colour number, name of the run, values); where many, a moving average over the faint values.
        label: what the chart shows, for screen readers.
        last_step: the axis reaches at least this step, so that the charts of a page stand above each other.
    """
    drawn = [(color, name, thin(curve)) for color, name, curve in lines]
    drawn = [line for line in drawn if line[2]]
    if not drawn:
        return ""
    values = [value for _, _, points in drawn for _, value in points]
    first, last = 0.0, max([last_step, 1.0, *(step for _, _, points in drawn for step, _ in points)])
    ticks = nice_ticks(min(values), max(values))
    low, high = min(ticks[0], min(values)), max(ticks[-1], max(values))

    def x(step: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (step - first) / (last - first)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (value - low) / (high - low)

    parts = []
    for tick in ticks:
        parts.append(f'<path class="rule" d="M{_LEFT} {y(tick):.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(
            f'<text class="axis" x="{_LEFT - 7}" y="{y(tick) + 5:.1f}" text-anchor="end">{_number(tick)}</text>'
        )
    for step in (first, last):
        anchor = "start" if step == first else "end"
        parts.append(
            f'<text class="axis" x="{x(step):.1f}" y="{_HEIGHT - 7}" text-anchor="{anchor}">step {step:.0f}</text>'
        )
    for color, name, points in drawn:
        many = len(points) >= 24
        title = f"<title>{escape(name)}: {_number(points[0][1])} to {_number(points[-1][1])}</title>"
        kind = f"line c{color % NUM_COLORS}"
        if many:
            parts.append(f'<polyline class="{kind} faint" points="{_path(points, x, y)}"/>')
        parts.append(
            f'<polyline class="{kind}" points="{_path(smooth(points) if many else points, x, y)}">{title}</polyline>'
        )
        if len(points) == 1:
            where = f'cx="{x(points[0][0]):.1f}" cy="{y(points[0][1]):.1f}"'
            parts.append(f'<circle class="dot c{color % NUM_COLORS}" {where} r="3"/>')
    return _svg(_WIDTH, _HEIGHT, label, parts)


def phases_svg(runs: Sequence[tuple[str, Mapping[str, float]]], phases: Sequence[str]) -> str:
    """Return stacked bars, one per (run, phase -> seconds per step); colours follow the order of `phases`."""
    longest = max((sum(seconds.values()) for _, seconds in runs), default=0.0)
    if longest <= 0:
        return ""
    width, row, left, right = 1000, 40, 150, 90
    parts = []
    for place, (name, seconds) in enumerate(runs):
        top, start = place * row, float(left)
        short = name if len(name) <= 20 else "\u2026" + name[-19:]
        parts.append(f'<text class="label" x="{left - 12}" y="{top + 25}" text-anchor="end">{escape(short)}</text>')
        for number, phase in enumerate(phases):
            if seconds.get(phase, 0.0) <= 0:
                continue
            size = (width - left - right) * seconds[phase] / longest
            title = f"<title>{escape(name)}, {phase}: {seconds[phase]:.3g} s per step</title>"
            parts.append(
                f'<rect class="f{number}" x="{start:.1f}" y="{top + 8}" width="{size:.2f}" height="26">{title}</rect>'
            )
            start += size
        parts.append(
            f'<text class="label" x="{start + 8:.1f}" y="{top + 25}">{_number(sum(seconds.values()))} s</text>'
        )
    return _svg(width, row * len(runs), "seconds per step by phase", parts)


def nice_ticks(low: float, high: float) -> list[float]:
    """Return 3 to 6 round numbers that span low..high; from 0 where that costs little room."""
    if low > 0 and low < 0.6 * high:
        low = 0.0
    if high - low <= 1e-9 * abs(high):  # one value: show it between 0 and itself
        low, high = min(low, 0.0), max(high, 0.0) or float(low == 0)
    rough = (high - low) / 4
    unit = 10.0 ** math.floor(math.log10(rough))
    size = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= rough * 0.999)
    start, end = math.floor(low / size + 1e-9), math.ceil(high / size - 1e-9)
    return [number * size for number in range(start, end + 1)]


def _number(value: float) -> str:
    if 0 < abs(value) < 1e-3:
        digits, _, power = f"{value:.2e}".partition("e-")
        return f"{float(digits):g}e-{int(power)}"
    if abs(value) < 1000:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) < 1e6 else f"{value / 1e6:.3g}M"


def _svg(width: int, height: int, label: str, parts: Sequence[str]) -> str:
    head = f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
    return head + "".join(parts) + "</svg>"


def _path(points: Sequence[tuple[float, float]], x: Callable[[float], float], y: Callable[[float], float]) -> str:
    return " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)
