"""Rows in VSI-Bench's own form, and a benchmark folder of them."""

import json
from pathlib import Path

import numpy as np

from vsgrpo.evaluation.leak import compare_rows
from vsgrpo.video.writer import write_video

QUESTIONS = (
    ("object_counting", "How many chair(s) are in this room?", "3", None),
    ("room_size_estimation", "What is the size of this room (in square meters)?", "12.5", None),
    ("object_rel_distance", "Which is the closest to the sofa?", "B", ["A. chair", "B. bed"]),
)


def official_rows(num_scenes: int = 3, dataset: str = "scannet") -> list[dict]:
    """Three questions about each of some scenes."""
    return [
        {
            "id": 10 * scene + index,
            "dataset": dataset,
            "scene_name": f"scene{scene:04d}_00",
            "question_type": question_type,
            "question": question,
            "ground_truth": truth,
            "options": options,
        }
        for scene in range(num_scenes)
        for index, (question_type, question, truth, options) in enumerate(QUESTIONS)
    ]


def write_vsibench(folder: Path, num_scenes: int = 3) -> None:
    """Write test.jsonl and a video of 8 random frames of 56 px for each scene."""
    (folder / "scannet").mkdir(parents=True)
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in official_rows(num_scenes)))
    for scene in range(num_scenes):
        frames = np.random.default_rng(scene).integers(0, 255, (8, 56, 56, 3), dtype=np.uint8)
        write_video(folder / "scannet" / f"scene{scene:04d}_00.mp4", iter(frames), fps=24)


def leak_of(benchmark, manifests, **options):
    """Compare the rows and media of a benchmark with a lineage."""
    shows = benchmark.rows, benchmark.media, benchmark.official, benchmark.drawn_from
    return compare_rows(manifests, *shows, **options)
