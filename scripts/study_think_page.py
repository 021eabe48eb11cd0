"""The tables of docs/think_study.md, from the lines of docs/think_study.jsonl (scripts/study_think.py).

What is written by hand in that page, before and after the marks, stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from study_runs import TASKS, percent, table, write_between

PAGE = Path(__file__).resolve().parents[1] / "docs" / "think_study.md"
MARKS = ("<!-- runs: written by scripts/study_think.py -->\n", "<!-- end of runs -->\n")
Line = dict[str, Any]
CURVES = (
    ("format", "format"),
    ("words", "words"),
    ("commonest", "commonest"),
    ("across", "across videos"),
    ("unrelated", "unrelated"),
    ("entropy", "entropy"),
    ("kl", "KL"),
    ("no_spread", "without spread"),
)


def write_page(lines: Sequence[Line], arms: Sequence[str], seeds: Sequence[int], path: Path = PAGE) -> None:
    """Write the tables of all finished runs, and which are missing, between the marks of the page."""
    known = {(line["arm"], line["seed"]): line for line in lines}
    done = [known[arm, seed] for seed in seeds for arm in arms if (arm, seed) in known]
    missing = [f"{arm} (seed {seed})" for seed in seeds for arm in arms if (arm, seed) not in known]
    said = f"Missing: {', '.join(missing)}. `make study-think` runs them." if missing else "No run is missing."
    parts = [f"{len(done)} of {len(arms) * len(seeds)} runs are done. {said}\n"]
    parts += [_held_out(done), _over_time(done), _samples(done), _alarms(done)]
    write_between(path, MARKS, parts)


def _number(line: Line, key: str) -> str:
    value = line["held_out"].get(key)
    return "" if value is None else f"{value:.2f}"


def _held_out(done: Sequence[Line]) -> str:
    header = ["arm", "seed", "steps", "CPU s", "peak GiB", "format %", "words", "commonest", "across videos"]
    header += ["unrelated", *(f"{short} %" for short in TASKS.values())]
    rows = []
    for line in done:
        held = line["held_out"]
        cells = [line["arm"], str(line["seed"]), str(line["steps"]), f"{line['cpu_seconds']:.0f}"]
        cells += [f"{line['peak_gib']:.1f}", percent(held["format"])]
        cells += [_number(line, f"thought/{name}") for name in ("words", "commonest", "across_videos", "unrelated")]
        cells += [percent((held["scores"][task], *held["intervals"][task])) for task in TASKS]
        rows.append(cells)
    constants = sorted({(line["held_out"]["n"], line["held_out"]["constant"]) for line in done})
    note = "; ".join(f"{n} questions, best constant answer {100 * c:.1f}" for n, c in constants)
    machines = ", ".join(sorted({line["processor"] for line in done}))
    return (
        "### Held-out rooms, greedy\n\n"
        + table(header, rows)
        + f"\n95 % intervals: format by Wilson, scores by rooms. {note}. CPU seconds of one thread of: {machines}.\n"
    )


def _over_time(done: Sequence[Line]) -> str:
    rows = []
    for line in done:
        curves = line.get("curves", {})
        for place, step in enumerate(curves.get("step", ())):
            values = [curves[key][place] if key in curves else None for key, _ in CURVES]
            cells = [line["arm"], str(line["seed"]), str(step)]
            rows.append(cells + ["" if value is None else f"{value:.2f}" for value in values])
    header = ["arm", "seed", "to step", *(name for _, name in CURVES)]
    return "### Rollouts over time (means of five steps)\n\n" + table(header, rows)


def _samples(done: Sequence[Line]) -> str:
    rows = []
    for line in done:
        found = line.get("samples") or [["greedy", line["held_out"]["samples"][:2]]]
        for step, texts in found:
            shown = "<br>".join(f"{count}: `{_plain(text)}`" for text, count in texts)
            rows.append([line["arm"], str(line["seed"]), str(step), shown])
    note = "The two most frequent completions of a step, of 16 (`greedy`: of the held-out questions)."
    return f"### Samples over time\n\n{note}\n\n" + table(["arm", "seed", "step", "how often: completion"], rows)


def _plain(text: str) -> str:
    return text.replace("`", "'").replace("|", "\\|").replace("\n", "\\n")


def _alarms(done: Sequence[Line]) -> str:
    rows = [[x["arm"], str(x["seed"]), " ".join(x["alarms"]) or "No alarm."] for x in done if x.get("curves")]
    return "### What `vsgrpo report` says\n\n" + table(["arm", "seed", "alarms"], rows)
