"""What every page is made of: the frame with its style sheet, small pictures of videos and images, and charts.

A page is one file: no network, no scripts, light and dark. `templates/page.html` is the frame, each page has a template
that fills it. Text is escaped by jinja; charts and floor plans are SVG, escaped already and put in with `|safe`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vsgrpo.data.row import CHOICE_LETTERS
from vsgrpo.errors import DataError
from vsgrpo.files import write_atomic
from vsgrpo.spatial.question import UNITS
from vsgrpo.terminal import counted

TEMPLATES = Path(__file__).with_name("templates")
Curve = list[tuple[int, float]]
"""(step, value), steps rising; a value may be NaN or infinite."""
NUM_COLORS = 8
MAX_POINTS = 240
_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 480, 230, 66, 12, 10, 30
_MAX_BARS = 14  # of a histogram


def render(template: Path, **values: Any) -> str:
    """Return the page of a template that fills `page.html`; it also knows `version`, `letters` and `units`."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("vsgrpo.report"), autoescape=True, trim_blocks=True)
    page = environment.from_string(template.read_text(encoding="utf-8"))
    return page.render(version=version("vsgrpo"), letters=CHOICE_LETTERS, units=UNITS, counted=counted, **values)


def write_page(path: Path, text: str, key: str = "output") -> None:
    """Write a page, as `write_atomic`; `key` of the command line names it.

    Raises:
        DataError: a file is there that is no page, or the page cannot be written.
    """
    try:
        if path.is_file():
            with path.open("rb") as stream:
                is_page = stream.read(256).lstrip().lower().startswith(b"<!doctype html")
            if not is_page:
                raise DataError(f"{key}={path}: exists and is no page", f"choose another {key}=FILE.html")
        write_atomic(path, text)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}", f"choose another {key}=FILE") from None


def svg(kind: str, width: int, height: int, shapes: Sequence[str], label: str = "") -> str:
    """Return shapes as a drawing of the CSS class `kind`, which sizes its texts; `label` is for screen readers."""
    label = f' aria-label="{escape(label)}"' if label else ""
    return f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img"{label}>{"".join(shapes)}</svg>'


def text(kind: str, x: float, y: float, content: str, anchor: str = "start") -> str:
    """Return one line of text; `anchor` is start, middle or end."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'


_LARGEST = 1e100
"""Values from here on, NaN and infinity are not drawn, and their inverses are 0: sums and axes stay finite."""


def thin(curve: Curve, limit: int = MAX_POINTS) -> list[tuple[float, float]]:
    """Return at most `limit` points: means of equal runs of the values that can be drawn, see `_LARGEST`."""
    points = [(step, value if abs(value) * _LARGEST > 1 else 0.0) for step, value in curve if abs(value) < _LARGEST]
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
        lines: (colour number, name of the run, values). Many values are faint below their moving average, a single
            one is a dot.
        label: what the chart shows, for screen readers.
        last_step: the axis reaches at least this step, so that the charts of a page have one axis.
    """
    drawn = [(color, name, points) for color, name, curve in lines if (points := thin(curve))]
    if not drawn:
        return ""
    values = [value for _, _, points in drawn for _, value in points]
    last = max([last_step, 1.0, *(step for _, _, points in drawn for step, _ in points)])
    ticks = nice_ticks(min(values), max(values))
    low, high = min(ticks[0], min(values)), max(ticks[-1], max(values))

    def x(step: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / last

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (value - low) / (high - low)

    def path(points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)

    shapes = []
    for tick in ticks:
        shapes.append(f'<path class="rule" d="M{_LEFT} {y(tick):.1f}H{_WIDTH - _RIGHT}"/>')
        shapes.append(text("axis", _LEFT - 7, y(tick) + 5, _number(tick), "end"))
    shapes.append(text("axis", _LEFT, _HEIGHT - 7, "step 0"))
    shapes.append(text("axis", x(last), _HEIGHT - 7, f"step {last:.0f}", "end"))
    for number, name, points in drawn:
        color = f"c{number % NUM_COLORS}"
        if len(points) >= 24:
            shapes.append(f'<polyline class="line {color} faint" points="{path(points)}"/>')
            points = smooth(points)
        title = f"<title>{escape(name)}: {_number(points[0][1])} to {_number(points[-1][1])}</title>"
        shapes.append(f'<polyline class="line {color}" points="{path(points)}">{title}</polyline>')
        if len(points) == 1:
            shapes.append(f'<circle class="dot {color}" cx="{x(points[0][0]):.1f}" cy="{y(points[0][1]):.1f}" r="3"/>')
    return svg("chart", _WIDTH, _HEIGHT, shapes, label)


def nice_ticks(low: float, high: float) -> list[float]:
    """Return 3 to 6 round numbers that span low..high and differ in 3 digits; from 0 where that costs little room."""
    if low > 0 and low < 0.6 * high:
        low = 0.0
    if high - low <= 1e-9 * abs(high):  # one value: show it between 0 and itself
        low, high = min(low, 0.0), max(high, 0.0) or float(low == 0)
    rough = (high - low) / 4
    unit = 10.0 ** math.floor(math.log10(rough))
    size = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= rough * 0.999)
    size = max(size, 10.0 ** (math.floor(math.log10(1.05 * max(abs(low), abs(high)))) - 2))
    end = math.ceil(high / size - 1e-9)
    start = min(math.floor(low / size + 1e-9), end - 2)
    return [number * size for number in range(start, end + 1)]


def _number(value: float) -> str:
    if 0 < abs(value) < 1e-3:
        digits, _, power = f"{value:.2e}".partition("e-")
        return f"{float(digits):g}e-{int(power)}"
    if abs(value) < 1000:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) < 1e6 else f"{value / 1e6:.3g}M"


def phases_svg(runs: Sequence[tuple[str, Mapping[str, float]]], phases: Sequence[str]) -> str:
    """Return stacked bars, one per (run, phase -> seconds per step); colours follow the order of `phases`."""
    longest = max((sum(seconds.values()) for _, seconds in runs), default=0.0)
    if longest <= 0:
        return ""
    width, row, left, right = 1000, 40, 150, 90
    shapes = []
    for place, (name, seconds) in enumerate(runs):
        top, start = place * row, float(left)
        short = name if len(name) <= 20 else "\u2026" + name[-19:]
        shapes.append(text("label", left - 12, top + 25, short, "end"))
        for number, phase in enumerate(phases):
            if seconds.get(phase, 0.0) <= 0:
                continue
            size = (width - left - right) * seconds[phase] / longest
            title = f"<title>{escape(name)}, {phase}: {seconds[phase]:.3g} s per step</title>"
            shapes.append(
                f'<rect class="f{number}" x="{start:.1f}" y="{top + 8}" width="{size:.2f}" height="26">{title}</rect>'
            )
            start += size
        shapes.append(text("label", start + 8, top + 25, f"{_number(sum(seconds.values()))} s"))
    return svg("chart wide", width, row * len(runs), shapes, "seconds per step by phase")


def histogram_svg(answers: Sequence[str], are_numbers: bool) -> str:
    """Return answers as bars: words by frequency, numbers in order (in bins where they are many)."""
    if are_numbers and len(set(answers)) > _MAX_BARS:
        bars = _binned(np.array([float(answer) for answer in answers]))
    elif are_numbers:
        bars = sorted(Counter(answers).items(), key=lambda item: float(item[0]))
    else:
        bars = sorted(Counter(answers).most_common(_MAX_BARS), key=lambda item: (-item[1], item[0]))
    row, width, label, total = 16, 310, 112, len(answers)
    most = max(count for _, count in bars)
    shapes = []
    for k, (name, count) in enumerate(bars):
        y, length = k * row, (width - label - 52) * count / most
        shapes.append(text("axis", label - 6, y + 11, name if len(name) <= 17 else name[:16] + "\u2026", "end"))
        shapes.append(f'<rect class="bar" x="{label}" y="{y + 2}" width="{length:.1f}" height="{row - 4}" rx="2"/>')
        share = f"{100 * count / total:.0f} %" if 100 * count >= total else "<1 %" if count else "0"
        shapes.append(text("axis", label + length + 5, y + 11, share))
    return svg("bars", width, row * len(bars), shapes)


def _binned(values: NDArray[np.float64]) -> list[tuple[str, int]]:
    """Return bins of equal width up to the 98th percentile; the last one holds the rest too."""
    low, high = float(values.min()), float(np.quantile(values, 0.98))
    edges = np.linspace(low, max(high, low + 1e-6), _MAX_BARS + 1)
    counts = np.histogram(np.minimum(values, edges[-1]), edges)[0]
    digits = 0 if edges[1] - edges[0] >= 1 else 1
    return [(f"{edges[k]:.{digits}f}", int(count)) for k, count in enumerate(counts)]


def scores_svg(
    tasks: Sequence[tuple[str, str]],
    scores: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]],
    marks: Sequence[tuple[str, str, Mapping[str, float]]],
) -> str:
    """Return horizontal bars of scores (0..1) with their 95 % intervals, and a mark per control or published row.

    Args:
        tasks: (task, label) from top to bottom.
        marks: (CSS class, name, table) drawn as ticks over the bars.
    """
    width, left, top, row, right = 1000, 110, 6, 34, 60
    scale = width - left - right
    height = top + row * len(tasks) + 22
    shapes = []
    for percent in range(0, 101, 20):
        x = left + scale * percent / 100
        shapes.append(f'<line class="rule" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{height - 20}"/>')
        shapes.append(text("axis", x, height - 5, str(percent), "middle"))
    for place, (task, label) in enumerate(tasks):
        y, value = top + place * row, scores[task]
        shapes.append(text("label", left - 8, y + 20, label, "end"))
        shapes.append(f'<rect class="bar" x="{left}" y="{y + 7}" width="{scale * value:.1f}" height="18" rx="3"/>')
        end = value
        if task in intervals:
            low, end = intervals[task]
            a, b, middle = left + scale * low, left + scale * end, y + 16
            shapes.append(
                f'<path class="whisker" d="M{a:.1f} {middle}H{b:.1f}M{a:.1f} {middle - 5}v10M{b:.1f} {middle - 5}v10"/>'
            )
        for kind, name, table in marks:
            if task in table:
                title = f"<title>{escape(name)}: {100 * table[task]:.1f}</title>"
                shapes.append(
                    f'<path class="mark {kind}" d="M{left + scale * table[task]:.1f} {y + 3}v26">{title}</path>'
                )
        x = left + scale * max([value, end, *(table.get(task, 0) for _, _, table in marks)])
        shapes.append(text("value", x + 7, y + 21, f"{100 * value:.1f}"))
    return svg("scores wide", width, height, shapes)


def calibration_svg(pairs: Sequence[tuple[float, float]], name: str) -> str:
    """Return predicted against true numbers (true, predicted) on logarithmic axes; all must be above 0.

    The diagonal is a perfect answer; the band around it holds what scores at all (within 50 % of the truth).
    `name` tells the drawings of a page apart.
    """
    size, margin = 300, 36
    values = [value for pair in pairs for value in pair]
    low, high = math.log10(min(values) * 0.8), math.log10(max(values) * 1.25)
    low, high = (low, high) if high - low > 0.3 else (low - 0.15, high + 0.15)

    def x(value: float) -> float:
        return margin + (size - margin - 6) * (math.log10(value) - low) / (high - low)

    def y(value: float) -> float:
        return size - x(value)

    bottom, top = 10**low, 10**high
    side = size - margin - 6
    shapes = [f'<clipPath id="c{name}"><rect x="{margin}" y="6" width="{side}" height="{side}"/></clipPath>']
    shapes.append(f'<g clip-path="url(#c{name})">')
    corners = ((bottom, bottom * 0.5), (top, top * 0.5), (top, top * 1.5), (bottom, bottom * 1.5))
    shapes.append(f'<polygon class="band" points="{" ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in corners)}"/>')
    shapes.append(f'<path class="diagonal" d="M{x(bottom):.1f} {y(bottom):.1f}L{x(top):.1f} {y(top):.1f}"/>')
    for (truth, predicted), count in Counter(pairs).items():
        title = f"<title>true {truth:g}, predicted {predicted:g}: {count}</title>"
        radius = 2.4 + min(5.0, 0.7 * math.sqrt(count - 1))
        shapes.append(
            f'<circle class="dot" cx="{x(truth):.1f}" cy="{y(predicted):.1f}" r="{radius:.1f}">{title}</circle>'
        )
    shapes.append(f'</g><path class="frame" d="M{margin} 6V{size - margin}H{size - 6}"/>')
    for tick in _log_ticks(bottom, top):
        shapes.append(text("axis", x(tick), size - margin + 14, f"{tick:g}", "middle"))
        shapes.append(text("axis", margin - 5, y(tick) + 4, f"{tick:g}", "end"))
    shapes.append(text("axis", size / 2 + 15, size - 4, "true", "middle"))
    turned = f'transform="rotate(-90 9 {size / 2})"'
    shapes.append(f'<text class="axis" x="9" y="{size / 2}" text-anchor="middle" {turned}>predicted</text>')
    return svg("calibration", size, size, shapes)


def _log_ticks(low: float, high: float) -> list[float]:
    """Return round numbers between two bounds: 1, 2, 5 times powers of ten, or powers alone where there are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    found = [tick for tick in fine if low <= tick <= high]
    return found if len(found) <= 7 else [tick for tick in found if round(math.log10(tick), 9).is_integer()]
