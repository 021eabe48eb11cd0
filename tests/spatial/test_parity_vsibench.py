"""Our formulas against the official answers of the benchmark's development half, from the official boxes."""

import json
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from vsgrpo.scans.meta_info import read_meta_info
from vsgrpo.spatial.question_types import answer_from_boxes
from vsgrpo.spatial.scene import Scene

DEV = Path(__file__).resolve().parents[3] / "shared/data/vsibench_dev"
pytestmark = pytest.mark.skipif(not DEV.is_dir(), reason="needs ../shared/data/vsibench_dev")

# type: (rows agreeing, rows resolvable)
EXPECTED = {
    "room_size_estimation": (130, 130),
    "object_size_estimation": (454, 454),
    "object_counting": (267, 269),
    "direction": (420, 420),
    "object_rel_distance": (341, 341),
}


@cache
def scenes() -> dict[str, Scene]:
    return {s.scene_name: s for file in sorted(DEV.glob("*_meta_info_dev.json")) for s in read_meta_info(file)}


@cache
def agreement() -> tuple[dict[str, Counter], list[tuple[float, float]]]:
    """Count "right", "wrong" and "absent" per type, and collect (ours, official) absolute distances."""
    counts: dict[str, Counter] = {}
    distances = []
    for line in (DEV / "test_dev.jsonl").read_text().splitlines():
        row = json.loads(line)
        kind = row["question_type"]
        if kind in ("route_planning", "obj_appearance_order"):
            continue
        got = answer_from_boxes(scenes()[row["scene_name"]], kind, row["question"], row["options"])
        if kind == "object_abs_distance" and got is not None:
            distances.append((float(got), float(row["ground_truth"])))
        name = "direction" if "direction" in kind else kind
        verdict = "absent" if got is None else "right" if got == row["ground_truth"] else "wrong"
        counts.setdefault(name, Counter())[verdict] += 1
    return counts, distances


@pytest.mark.parametrize("kind", EXPECTED)
def test_formula_reaches_the_measured_agreement(kind):
    count = agreement()[0][kind]
    assert (count["right"], count["right"] + count["wrong"]) == EXPECTED[kind]


def test_rounded_absolute_distance_is_within_ten_centimetres():
    distances = agreement()[1]
    within = sum(abs(ours - official) < 0.1 + 1e-9 for ours, official in distances)
    # The benchmark's grid of points inside each box can only lengthen a distance.
    assert all(official >= ours for ours, official in distances)
    assert (within, len(distances)) == (389, 393)


def test_official_min_and_max_follow_from_rows_as_axes():
    for file in sorted(DEV.glob("*_meta_info_dev.json")):
        official = json.loads(file.read_text())
        for scene in read_meta_info(file):
            entries = official[scene.scene_name]["object_bbox"]
            for category, items in entries.items():
                ours = scene.of_category(category)
                assert len(ours) == len(items) or category == "printer"  # listed twice in the official file
                for box, item in zip((o.box for o in ours), items, strict=False):
                    np.testing.assert_allclose(box.min, item["min"], atol=1e-12)
                    np.testing.assert_allclose(box.max, item["max"], atol=1e-12)
