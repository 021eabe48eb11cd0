"""Write report.html of the demo: rooms seen, questions, training curves, scores with controls, five answers.

Usage: demo_page.py DEMO_FOLDER          (what scripts/demo.sh leaves: data/{cold,rl,test}, sft, grpo)
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from demo_table import answered
from vsgrpo.data.row import Row
from vsgrpo.data.rows import read_rows
from vsgrpo.evaluation.constants import best_constants, constant_scores
from vsgrpo.evaluation.results import TRUST_JSON, TRUST_PAGE
from vsgrpo.evaluation.score_command import score_difference
from vsgrpo.evaluation.score_file import score_file
from vsgrpo.files import write_atomic
from vsgrpo.report.floor_plan import Plan, make_plan, map_svg, question_svg, symbol_svg
from vsgrpo.report.page import lines_svg, render
from vsgrpo.report.run_folder import Run, read_run
from vsgrpo.report.shown_media import pictures
from vsgrpo.scans.meta_info import read_scene_json

NUM_ROOMS, NUM_ANSWERS = 6, 5
NAMES = {"object_counting": "counting", "room_size_estimation": "room size", "overall": "mean"}
KINDS = (
    ("greedy", ""),
    ("sampled", "four answers at temperature 1"),
    ("shuffled", "every question with another video"),
)
# Metric -> (title, what it says).
CHARTS = {
    "reward": ("Reward", "mean of the rollouts; GRPO alone has rewards"),
    "reward/object_counting": ("Reward of counting", ""),
    "reward/room_size_estimation": ("Reward of room size", ""),
    "loss": ("Loss", "of the cold start: cross-entropy of the right answer"),
    "entropy": ("Entropy", "nats per token: how sure the model is"),
    "frac_reward_zero_std": ("Groups without spread", "share of questions whose rollouts earn the same: no gradient"),
    "tokens_saved": ("Tokens saved", "share of a plain step's tokens that shared prefixes make unnecessary"),
}
Difference = Mapping[str, tuple[float, float, float]]


def build(folder: Path) -> str:
    """Return the page of a finished demo."""
    runs = {"cold start": folder / "sft", "GRPO": folder / "grpo"}
    train = read_rows(folder / "data/rl/train.jsonl")
    test = answered(read_rows(folder / "data/test/train.jsonl"), runs["GRPO"] / "eval_greedy")
    constant = constant_scores(test, best_constants(train))
    tasks = [*sorted(name for name in constant if name != "overall"), "overall"]
    results = {name: {kind: _results(run / f"eval_{kind}") for kind, _ in KINDS} for name, run in runs.items()}
    difference = _difference(runs["GRPO"] / "eval_greedy", runs["cold start"] / "eval_greedy")
    plans = Plans()
    values: dict[str, Any] = {
        "rooms": _rooms(folder / "data/rl", train, plans),
        "answers": _answers(folder, test, runs, plans),
        "charts": _charts(read_run(runs["GRPO"], "GRPO"), read_run(runs["cold start"], "cold start")),
        "lines": _lines(tasks, constant, results, difference),
        "findings": _findings(tasks, constant, results, difference),
    }
    trust = runs["GRPO"] / "eval_trust"
    content = json.loads((trust / TRUST_JSON).read_text(encoding="utf-8"))
    chosen = f"Every {max(1, len(test) // NUM_ANSWERS)}th question of the held-out rooms: not chosen by how they went."
    counts = {
        f"num_{name}": f"{len({row.scene_name for row in rows}):,}"
        for name, rows in (("cold", read_rows(folder / "data/cold/train.jsonl")), ("rl", train), ("test", test))
    }
    return render(
        Path(__file__).parent / "demo_page.html",
        tasks=tasks,
        names=NAMES,
        symbols=[symbol_svg(plan) for plan in plans.made.values()],
        folder=folder,
        trust=content,
        trust_page=(trust / TRUST_PAGE).relative_to(folder),
        chosen=chosen,
        **counts,
        **values,
    )


class Plans:
    """Floor plans by scene; each gets a symbol of its own."""

    def __init__(self) -> None:
        self.made: dict[str, Plan] = {}

    def of(self, data: Path, row: Row) -> tuple[Plan, Any]:
        """Return plan and scene of a row."""
        scene = read_scene_json(data / "scenes" / row.dataset / f"{row.scene_name}.json")
        name = f"{data.name}-{row.scene_name}"
        if name not in self.made:
            self.made[name] = make_plan(scene, f"plan{len(self.made)}")
        return self.made[name], scene


def _results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def _difference(after: Path, before: Path) -> Difference:
    """Return task -> (after minus before, low, high), paired, 0..1."""
    report = score_difference(*(score_file(folder / "predictions.jsonl") for folder in (after, before)))
    by_task, intervals = report.differences()["official"], report.intervals["official"]
    return {task: (value, *intervals[task]) for task, value in by_task.items()}


def _lines(
    tasks: Sequence[str],
    constant: Mapping[str, float],
    results: Mapping[str, Mapping[str, Any]],
    difference: Difference,
) -> list[dict[str, Any]]:
    lines = [
        {
            "name": "best constant",
            "note": "one answer for every room, chosen on the rooms of GRPO",
            "cells": [(f"{100 * constant[task]:.1f}", "") for task in tasks],
        }
    ]
    for kind, note in KINDS:
        for name, by_kind in results.items():
            result = by_kind[kind]
            cells = [(f"{100 * result['scores'][task]:.1f}", _range(*result["intervals"][task])) for task in tasks]
            lines.append({"name": f"{name}, {kind}", "note": note, "cells": cells})
    cells = [(f"{100 * difference[task][0]:+.1f}", _range(*difference[task][1:], sign="+")) for task in tasks]
    return [*lines, {"name": "GRPO minus cold start, greedy", "note": "", "cells": cells}]


def _range(low: float, high: float, sign: str = "") -> str:
    return f"{100 * low:{sign}.1f} to {100 * high:{sign}.1f}"


def _findings(
    tasks: Sequence[str],
    constant: Mapping[str, float],
    results: Mapping[str, Mapping[str, Any]],
    difference: Difference,
) -> list[str]:
    """Return what the numbers of each task say, by fixed rules."""
    found = []
    for task in tasks[:-1]:
        value, low, high = difference[task]
        if low > 0:
            text = f"GRPO scores {100 * value:.1f} points above its cold start ({_range(low, high)})"
        elif high < 0:
            text = f"GRPO scores {-100 * value:.1f} points below its cold start ({_range(low, high, '+')})"
        else:
            text = f"no difference to the cold start that the interval allows to call one ({_range(low, high, '+')})"
        shuffled = results["GRPO"]["shuffled"]["scores"][task]
        own, bound = results["GRPO"]["greedy"]["intervals"][task][0], constant[task]
        if shuffled <= bound < own:
            why = "the answers come from the video, a prior alone does not reach that"
        elif own > bound:
            why = "part of the score is a prior about rooms, not the video"
        else:
            why = "the interval of its score reaches down to the constant, so nothing is shown to be learned"
        text += (
            f"; with videos of other rooms it scores {100 * shuffled:.1f}, the best constant {100 * bound:.1f}: {why}."
        )
        found.append(f"{NAMES.get(task, task).capitalize()}: {text}")
    return found


def _rooms(data: Path, rows: Sequence[Row], plans: Plans) -> list[dict[str, Any]]:
    """Return the first rooms with map, frames and questions."""
    scenes: dict[str, list[Row]] = {}
    for row in rows:
        scenes.setdefault(row.scene_name, []).append(row)
    found = []
    for name, own in list(scenes.items())[:NUM_ROOMS]:
        plan, scene = plans.of(data, own[0])
        frames = pictures([("video", own[0].video_path(data))], {})
        found.append({"name": name, "map": map_svg(plan, scene, 290, 260)[0], "frames": frames, "rows": own})
    return found


def _answers(folder: Path, rows: Sequence[Row], runs: Mapping[str, Path], plans: Plans) -> list[dict[str, Any]]:
    """Return rows at equal distances with what both models said (greedy) and its score."""
    said = {}
    for name, run in runs.items():
        report = score_file(run / "eval_greedy" / "predictions.jsonl")
        scores = report.scores.by_row["official"]
        said[name] = {item.id: (item.texts[0], scores.get(item.id, 0.0)) for item in report.items if item.texts}
    data, step = folder / "data/test", max(1, len(rows) // NUM_ANSWERS)
    found = []
    for row in rows[step // 2 :: step][:NUM_ANSWERS]:
        plan, _ = plans.of(data, row)
        found.append(
            {
                "row": row,
                "map": question_svg(plan, row),
                "frames": pictures([("video", row.video_path(data))], {}),
                "before": said["cold start"][row.id],
                "after": said["GRPO"][row.id],
            }
        )
    return found


def _charts(grpo: Run, sft: Run) -> list[tuple[str, str, str]]:
    found = []
    for metric, (title, note) in CHARTS.items():
        curves = [(0, "GRPO", grpo.curves.get(metric, [])), (1, "cold start", sft.curves.get(metric, []))]
        if metric == "loss":  # GRPO's is near 0 by construction
            curves = curves[1:]
        if svg := lines_svg(curves, title):
            found.append((title, note, svg))
    return found


def main() -> None:
    """Write DEMO_FOLDER/report.html and print its path."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    path = options.folder / "report.html"
    write_atomic(path, build(options.folder))
    print(path)


if __name__ == "__main__":
    main()
