"""Measure what the text of built questions gives away, before and after balancing, on boxes of your own.

python scripts/bench_audit.py --boxes DIR                      # DIR: *_meta_info*.json as VSI-Bench publishes them
python scripts/bench_audit.py --rooms 200                      # or that many furnished rooms of the demo
... --questions test.jsonl   # and what the built rows teach about these, no scene in both
... --forest                 # and a random forest on the same texts as a second judge (scikit-learn)
... --json

"paper" are the rows of balance.mode=paper, "text" those of balance.mode=text, the default. Boxes of the benchmark are
for this measurement only: rows made of them are never training data.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from text_forest import forest_score
from vsgrpo.audit.folds import scene_folds, scene_interval
from vsgrpo.audit.measure import Audit, audit_rows, group_types
from vsgrpo.audit.rows import AuditRow
from vsgrpo.audit.transfer import transfer_text
from vsgrpo.config.compose import load_config
from vsgrpo.data.audit_rows import audit_rows_of, read_audit_rows
from vsgrpo.data.build.balance import balance_by_text, balance_rows
from vsgrpo.data.row import Row
from vsgrpo.data.rows import make_row
from vsgrpo.scans.meta_info import read_meta_info
from vsgrpo.scans.source import SceneSettings, find_source
from vsgrpo.spatial.question_settings import QuestionSettings
from vsgrpo.spatial.question_types import QUESTION_TYPES, make_questions
from vsgrpo.spatial.scene import Scene

BALANCES = ("paper", "text")
_NUM_WAYS = 4
Build = Callable[[Sequence[Scene]], tuple[list[Row], dict[str, int]]]


def scenes_of(boxes: Path | None, rooms: int) -> list[Scene]:
    """Return the scenes of a folder of boxes, or furnished rooms of the demo."""
    if boxes is not None:
        return [scene for file in sorted(boxes.glob("*_meta_info*.json")) for scene in read_meta_info(file)]
    given = ["source=demo", "source.preset=furnished", f"source.num_scenes={rooms}", "output=unused"]
    options = load_config("build_data", given).source
    source = find_source(options.name)
    settings = SceneSettings(categories="benchmark", alpha_points="voxel5cm")
    with tempfile.TemporaryDirectory() as folder:  # the rooms are written as scans and read back
        root = Path(folder)
        return [source.read(options, root, name).scene(settings) for name in source.list_scans(options, root)]


def built(scenes: Iterable[Scene], mode: str, balance: str, seed: int) -> tuple[list[Row], dict[str, int]]:
    """Return the rows that build-data would write of some scenes, and how many candidates there were by type."""
    given = [f"data.mode={mode}", f"balance.mode={balance}", "source.root=unused", "output=unused"]
    config = load_config("build_data", given)
    types = tuple(name for name, kind in QUESTION_TYPES.items() if mode in kind.modes and not kind.needs)
    asked = QuestionSettings(mode=mode, types=types, pooled=balance == "text", min_count=config.data.min_count)
    rows: dict[str, Row] = {}
    for scene in scenes:
        for question in make_questions(scene, asked, seed):
            place = {"dataset": scene.dataset, "scene_name": scene.scene_name, "room": scene.room}
            row = make_row(question, split="train", video="none.mp4", generator={"mode": mode}, **place)
            rows.setdefault(row.key, row)
    found = balance_by_text(list(rows.values()), mode, config.balance, seed)
    return balance_rows(found.rows, config.balance, seed)[0], found.candidates


def compare(rows: dict[str, list[Row]], candidates: dict[str, int], forest: bool) -> dict[str, dict[str, Any]]:
    """Return per question type what text scores on the rows of each balance."""
    seen = {name: audit_rows_of(own) for name, own in rows.items()}
    audits: dict[str, Audit] = {name: audit_rows(own, null=False) for name, own in seen.items()}
    groups = {name: group_types(own) for name, own in seen.items()}
    table: dict[str, dict[str, Any]] = {}
    for kind in candidates:
        line: dict[str, Any] = {"candidates": candidates[kind]}
        for name in rows:
            own, audit = groups[name].get(kind, []), audits[name].types.get(kind)
            line[name] = {"n": len(own)}
            if audit is not None:
                line[name] |= {"floor": audit.floor, "text": audit.text, "interval": audit.interval}
                line[name]["forest"] = forest_score(own, seeds=(0, 1, 2)) if forest else None
        table[kind] = line
    return table


def transfer(scenes: Sequence[Scene], questions: Sequence[AuditRow], build: Build) -> dict[str, Any]:
    """Return how far the text of rows built of the scenes is above the constants of the questions.

    Where both are of the same scenes, rows are built of half of the scenes and asked the other half, four times.
    """
    room_of = {f"{scene.dataset}/{scene.room}": scene for scene in scenes}
    shared = bool(room_of.keys() & {row.scene for row in questions})
    above: dict[str, list[float]] = {}
    for seed in range(_NUM_WAYS if shared else 1):
        folds = scene_folds([row.scene for row in questions], seed, 2 if shared else 1)
        for k in range(int(folds.max()) + 1):
            asked = [row for row, fold in zip(questions, folds, strict=True) if fold == k]
            left = {row.scene for row in asked}
            taught = build([scene for scene in scenes if f"{scene.dataset}/{scene.room}" not in left])[0]
            for name, value in transfer_text(audit_rows_of(taught), asked).above_by_row.items():
                above.setdefault(name, []).append(value)
    scene_of = {row.id: row.scene for row in questions}
    values = np.array([np.mean(found) for found in above.values()])
    low, high = scene_interval(values, [scene_of[name] for name in above])
    return {"n": len(values), "above": float(values.mean()), "interval": (low, high)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boxes", type=Path)
    parser.add_argument("--rooms", type=int, default=200)
    parser.add_argument("--mode", default="vsibench")
    parser.add_argument("--questions", type=Path)
    parser.add_argument("--forest", action="store_true")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    scenes = scenes_of(given.boxes, given.rooms)
    if not scenes:
        sys.exit(f"--boxes {given.boxes}: no *_meta_info*.json there")
    builds: dict[str, Build] = {n: partial(built, mode=given.mode, balance=n, seed=given.seed) for n in BALANCES}
    made = {name: build(scenes) for name, build in builds.items()}
    rows = {name: own for name, (own, _) in made.items()}
    table = compare(rows, made["text"][1], given.forest)
    result: dict[str, Any] = {"scenes": len(scenes), "mode": given.mode, "types": table}
    if given.questions is not None:
        asked = read_audit_rows(given.questions).rows
        result["transfer"] = {name: transfer(scenes, asked, build) for name, build in builds.items()}
    result["cpu_seconds"] = round(time.process_time(), 1)
    print(json.dumps(result, indent=1) if given.json else "\n".join(lines_of(result)))


def lines_of(result: dict[str, Any]) -> list[str]:
    """Return the tables for people."""
    lines = [
        f"{result['scenes']} scenes, data.mode={result['mode']}; scores of 100; forest: random forest on the texts"
    ]
    lines.append(f"{'':<29}{'balance.mode=paper':^30}   {'balance.mode=text':^37}")
    head = f"{'rows':>6}{'floor':>7}{'text':>7}{'forest':>8}"
    lines.append(f"{'question type':<29}{head}     {'of':>6}{head}")
    for kind, line in result["types"].items():
        paper, text = (_cells(line[name]) for name in BALANCES)
        lines.append(f"{kind:<29}{paper}     {line['candidates']:>6}{text}")
    for name, found in result.get("transfer", {}).items():
        low, high = found["interval"]
        what = f"{100 * found['above']:+.1f} [{100 * low:+.1f}..{100 * high:+.1f}]"
        lines.append(f"transfer, balance.mode={name}: {what} above the constants of {found['n']} questions")
    return [*lines, f"{result['cpu_seconds']} CPU seconds"]


def _cells(found: dict[str, Any]) -> str:
    if "text" not in found:
        return f"{found['n']:>6}{'':>22}"
    forest = "" if found["forest"] is None else f"{100 * found['forest']:.1f}"
    return f"{found['n']:>6}{100 * found['floor']:>7.1f}{100 * found['text']:>7.1f}{forest:>8}"


if __name__ == "__main__":
    main()
