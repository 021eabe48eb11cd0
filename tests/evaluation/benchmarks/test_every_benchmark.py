"""Every published benchmark end to end with the tiny model, on rows of its own form made here: eval, score, page.

A benchmark adds one maker: it writes rows and what they show into a folder and returns benchmark.path.
"""

import json

import numpy as np
import pytest
from test_revsi_benchmark import records, write

from vsgrpo.cli import run
from vsgrpo.evaluation.benchmark import BENCHMARKS
from vsgrpo.video.writer import write_video

OTHERS = {"vsibench", "mathvista", "folder"}
"""Run end to end by tests of their own."""
SMALL = ["video.num_frames=2", "video.max_pixels=3136", "image.max_pixels=3136", "decoding.max_new_tokens=2"]


def make_video(path, frames=4):
    """Write a short film of one grey tone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, (np.full((56, 56, 3), 40 * k, dtype=np.uint8) for k in range(frames)), fps=2)


def revsi(folder):
    for scene in ("scene0000_00", "scene0001_00"):
        make_video(folder / f"2_frame/{scene}.mp4")
    return write(folder / "2_frame" / "test.jsonl", records(frames=2)).parent


MAKERS = {"revsi": revsi}


def test_every_benchmark_has_a_maker():
    assert MAKERS.keys() == BENCHMARKS.keys() - OTHERS


@pytest.mark.integration
@pytest.mark.parametrize("name", MAKERS)
def test_eval_and_score_agree(name, tmp_path, tiny_folder, capsys):
    path, out = MAKERS[name](tmp_path / "data"), tmp_path / "out"
    words = [f"benchmark={name}", f"benchmark.path={path}", f"output={out}", *SMALL]
    assert run(["eval", f"model={tiny_folder}", *words]) == 0
    results = json.loads((out / "results.json").read_text())
    table = capsys.readouterr().out
    assert results["n"] == results["num_rows"] and not results["unanswered"]
    assert f"overall ({results['headline']}" in table and "by question type:" in table
    page = (out / "report.html").read_text()
    assert all(row["name"] in page for row in results["published"])
    scored = [str(out / "predictions.jsonl"), f"benchmark={name}", f"benchmark.path={path}"]
    assert run(["score", *scored, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["correct"] == results["correct"] and again["overall"] == results["overall"]
    assert again["intervals"] == results["intervals"]
