"""Labels that frames make true, orders that no frame contradicts, and zeros that words do not tell: docs/trust.md.

    .venv/bin/python scripts/bench_labels.py                  # all three, demo rooms and generated scans
    .venv/bin/python scripts/bench_labels.py --only zeros --boxes DIR   # counts of DIR/*_meta_info*.json

Walks of 127 frames are filmed of furnished demo rooms and of generated scans (scripts/full_scan.py), the questions of
VSI-Bench are asked with nothing dropped, and each answer is judged at 8, 16, 32 and 64 frames. Orders of appearance are
checked again from the pixels of every frame, without the code that judges them. Of zeros the area under the curve of
"is it 0" is printed: by the category alone, learned on other rooms.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench_audit import scenes_of
from full_scan import write_full_scan
from vsgrpo.config.compose import load_config
from vsgrpo.data.build.negatives import Inventory, draw_zero_counts
from vsgrpo.data.build.scan import ScanJob, build_scan
from vsgrpo.data.frame_true import TRUE_AT, truth_lines, truth_of
from vsgrpo.data.row import Row
from vsgrpo.data.rows import make_row
from vsgrpo.data.scene_files import scenes_of as scenes_of_rows
from vsgrpo.scans.source import find_source
from vsgrpo.spatial.question_settings import QuestionSettings
from vsgrpo.spatial.question_types import QUESTION_TYPES, make_questions
from vsgrpo.spatial.scene import Scene

PARTS = ("truth", "orders", "zeros")
_WALK = ("video.source=mesh", "video.walk_frames=127", "data.mode=vsibench", "data.min_count=1", "data.unseen=flag")
_GLIMPSE, _LEAST = 50, 200
"""Pixels of 448 x 336: from where a category is visible at all, and from where it is said to be."""


def walked(folder: Path, root: Path, *given: str) -> list[Row]:
    """Return the rows of all scans of a root whose walks are filmed, as build-data makes them, before any balancing."""
    words = [*_WALK, "balance.mode=paper", f"source.root={root}", f"output={folder}", *given]
    config = load_config("build_data", words)
    rows = []
    for scan_id in find_source(config.source.name).list_scans(config.source, root):
        outcome = build_scan(ScanJob(config, root, folder, scan_id, "train"))
        if outcome.status != "done":
            sys.exit(f"{scan_id}: {outcome.reason}")
        print(f"{scan_id}: {len(outcome.rows)} rows, {outcome.seconds:.0f} s", file=sys.stderr)
        rows += outcome.rows
    return rows


def first_frames(pixels: Sequence[NDArray[np.int64]], least: int) -> list[int]:
    """Return the first frame of each category that has so many pixels; past the end where none has."""
    return [int((row >= least).argmax()) if (row >= least).any() else len(row) for row in pixels]


def is_contradicted(pixels: Sequence[NDArray[np.int64]]) -> bool:
    """Return whether frames show the categories of an order in another one, at any number of pixels from a glimpse on.

    Args:
        pixels: of each category in the order of the answer, in each frame.
    """
    levels = {int(n) for row in pixels for n in row if _GLIMPSE <= n <= _LEAST} | {_GLIMPSE, _LEAST}
    return any(first > second for least in levels for first, second in pairwise(first_frames(pixels, least)))


def check_orders(rows: Sequence[Row], scenes: Mapping[str, Scene]) -> dict[str, int]:
    """Return how many order rows there are, and how many a frame contradicts: of a budget at which they are true, or of
    the whole walk."""
    found = Counter(rows=0, shown=0, walk=0)
    for row in rows:
        scene = scenes[row.key]
        if row.question_type != "obj_appearance_order" or scene.footage is None:
            continue
        found["rows"] += 1
        members = [[o.instance_id for o in scene.of_category(word)] for word in row.answer.split(", ")]
        pixels = [np.sum([scene.footage.pixels[i] for i in ids], axis=0) for ids in members]
        found["walk"] += is_contradicted(pixels)
        budgets = [list(scene.footage.budgets[k]) for k in row.extra.get(TRUE_AT, ())]
        found["shown"] += any(is_contradicted([row[places] for row in pixels]) for places in budgets)
    return dict(found)


def counted(scenes: Sequence[Scene]) -> list[Row]:
    """Return the counts of one and more of some scenes."""
    types = tuple(kind.name for kind in QUESTION_TYPES.values() if kind.absent is not None)
    asked = QuestionSettings(mode="vsibench", types=types, min_count=1)
    return [
        make_row(
            question,
            dataset=scene.dataset,
            split="train",
            scene_name=scene.scene_name,
            room=scene.room,
            video="none.mp4",
            generator={"mode": "vsibench"},
        )
        for scene in scenes
        for question in make_questions(scene, asked, 42)
    ]


def auc_by_words(rows: Sequence[Row], folds: NDArray[np.integer], weight: float = 4.0) -> float:
    """Return the area under the curve of "is it 0" by the rate of the question's words in the other folds' rooms."""
    is_zero = np.array([row.answer == "0" for row in rows])
    scores = np.zeros(len(rows))
    for fold in np.unique(folds):
        learned, asked = np.flatnonzero(folds != fold).tolist(), np.flatnonzero(folds == fold).tolist()
        total = Counter(rows[k].question for k in learned)
        zeros = Counter(rows[k].question for k in learned if is_zero[k])
        base = is_zero[learned].mean()
        for k in asked:
            scores[k] = (zeros[rows[k].question] + weight * base) / (total[rows[k].question] + weight)
    higher = scores[is_zero][:, None] - scores[~is_zero][None, :]
    return float((higher > 0).mean() + 0.5 * (higher == 0).mean())


def measure_zeros(scenes: Sequence[Scene], draws: int) -> dict[str, Any]:
    """Return the area under the curve over draws of zeros: mean, deviation, and the numbers of counts and zeros."""
    rows = counted(scenes)
    inventories = {}
    for scene in scenes:
        own = Inventory.of(scene)  # boxes alone name no other labels
        inventories[scene.scene_name] = Inventory(own.names or tuple(own.sizes), own.sizes, own.judged_at)
    aucs, numbers = [], []
    for seed in range(draws):
        zeros = draw_zero_counts(rows, inventories, None, seed)
        every = [*rows, *zeros]
        rooms = sorted({row.room for row in every})
        of_room = dict(zip(rooms, np.random.default_rng(seed).permutation(len(rooms)) % 5, strict=True))
        aucs.append(auc_by_words(every, np.array([of_room[row.room] for row in every])))
        numbers.append(len(zeros))
    return {
        "scenes": len(scenes),
        "counts": len(rows),
        "zeros": round(float(np.mean(numbers)), 1),
        "auc": round(float(np.mean(aucs)), 3),
        "sd": round(float(np.std(aucs)), 3),
    }


def measure_walks(folder: Path, rooms: int, scans: int, stacked: int) -> dict[str, Any]:
    """Return what walks of demo rooms and generated scans make of their rows."""
    words = ("source=demo", "source.preset=furnished", f"source.num_scenes={rooms}")
    demo = walked(folder / "demo", folder / "drawn", *words)
    for k in range(scans + stacked):
        write_full_scan(folder / "root", k, 100_000, 34, most_stacked=1 if k < scans else 3)
    full = walked(folder / "full", folder / "root", "source=scannet")
    flat = [row for row in full if int(row.scene_name[4:8]) < scans]
    orders = [
        check_orders(rows, scenes_of_rows(rows, folder / name)) for name, rows in (("demo", demo), ("full", full))
    ]
    return {
        "truth": {f"demo, {rooms} rooms": truth_of(demo).table(), f"generated, {scans} scans": truth_of(flat).table()},
        "orders": dict(zip((f"demo, {rooms} rooms", f"generated, {scans + stacked} scans"), orders, strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, nargs="*", default=PARTS)
    parser.add_argument("--rooms", type=int, default=8, help="demo rooms that are filmed")
    parser.add_argument("--scans", type=int, default=2, help="generated scans that are filmed, nothing stacked")
    parser.add_argument("--stacked", type=int, default=3, help="more of them, things stacked on others, for orders")
    parser.add_argument("--boxes", type=Path, help="count what is in DIR/*_meta_info*.json instead of 200 demo rooms")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    result: dict[str, Any] = {}
    if {"truth", "orders"} & {*given.only}:
        with tempfile.TemporaryDirectory() as folder:
            result = measure_walks(Path(folder), given.rooms, given.scans, given.stacked)
    if "zeros" in given.only:
        result["zeros"] = measure_zeros(scenes_of(given.boxes, 200), given.draws)
    result["cpu_seconds"] = round(time.process_time(), 1)
    print(json.dumps(result, indent=1) if given.json else "\n".join(lines_of(result)))


def lines_of(result: Mapping[str, Any]) -> list[str]:
    """Return the tables as text."""
    lines = []
    for name, table in result.get("truth", {}).items():
        lines += [name, *truth_lines(table)]
    for name, found in result.get("orders", {}).items():
        lines.append(
            f"orders of {name}: {found['rows']}; contradicted by a frame shown where they are true: {found['shown']}, "
            f"by any frame of the walk: {found['walk']}"
        )
    if found := result.get("zeros"):
        text = (
            f"zeros: {found['zeros']} beside {found['counts']} counts of {found['scenes']} scenes; area under the curve"
        )
        lines.append(f"{text} by words alone {found['auc']:.3f} +- {found['sd']:.3f}")
    return [*lines, f"{result['cpu_seconds']} CPU seconds"]


if __name__ == "__main__":
    sys.exit(main())
