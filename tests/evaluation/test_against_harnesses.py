"""Prompts and scorers against the harnesses' own code (scripts/check_scorers.py), where they are installed."""

import json
import os
import random
import runpy
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from check_scorers import Harness, compare_tables, run_check
from harness_checks import CHECKS
from odd_answers import drawn_answers, odd_answers
from vsgrpo.evaluation.benchmark import ReadOptions
from vsgrpo.evaluation.benchmarks.mmsi_video import MmsiVideo

ROOT = os.environ.get("VSGRPO_HARNESSES")


@pytest.fixture(scope="module")
def harness():
    if ROOT is None:
        pytest.skip("VSGRPO_HARNESSES=DIR names lmms-eval, VLMEvalKit and thinking-in-space (docs/benchmarks.md)")
    worker = Harness(Path(ROOT), Path(ROOT) / ".venv/bin/python")
    yield worker
    worker.close()


@pytest.fixture(scope="module")
def answers():
    return list(dict.fromkeys([*odd_answers()[::7], *drawn_answers(60)]))


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda c: f"{c.benchmark}-{c.setting}-{c.harness}")
def test_prompts_and_scores_are_the_harness_own(harness, answers, check):
    outcome = run_check(check, harness, answers)
    compare_tables(outcome, harness)
    assert not outcome.is_broken, outcome.to_json()["first"]
    # Rows have letters and numbers that the list holds: where every score were 0, nothing would be compared.
    assert outcome.num_pairs > 0 and outcome.raised < outcome.num_pairs


def drawn_clips(number):
    """Yield records of MMSI-Video-Bench's form, of one to eight clips of one to 400 frames each."""
    generator = random.Random(0)
    for name in map(str, range(number)):
        clips = [generator.choice((1, 2, 5, 30, 400)) for _ in range(generator.randint(1, 8))]
        lengths = [generator.randint(1, most) for most in clips]
        starts = [generator.uniform(0, 90) for _ in clips]
        places = "<video>" * len(clips) + "<image>"
        yield {
            "id": name,
            "type": "Planning",
            "ground_truth": "A",
            "ref_images": [f"{name}.png"],
            "system_prompt": "You see.",
            "task_prompt": "Plan.",
            "user_prompt": places,
            "format_prompt": "A letter.",
            "ori_question": places,
            "frames_list": [[f"{name}/{k}/{n}.jpg" for n in range(length)] for k, length in enumerate(lengths)],
            "video_list": [
                {"path": f"{name}/{k}.mp4", "start": start, "end": start + generator.uniform(0.5, 90), "base_fps": 2.0}
                for k, start in enumerate(starts)
            ],
        }


@pytest.mark.slow
@pytest.mark.parametrize(("harness", "number"), [("official", 50), ("official_sc", 300)])
def test_frames_of_clips_are_those_of_the_authors_loader(tmp_path, harness, number):
    if ROOT is None or not (script := Path(ROOT) / "MMSI-Video-Bench/dataset.py").is_file():
        pytest.skip("VSGRPO_HARNESSES=DIR has no MMSI-Video-Bench/dataset.py (docs/benchmarks.md)")
    file = tmp_path / "mmsivideo.json"
    file.write_text(json.dumps(list(drawn_clips(2000))))
    theirs = runpy.run_path(str(script))["MMSILOADER"](str(tmp_path), max_frame=number)
    benchmark = MmsiVideo.read(file, ReadOptions(harness=harness))
    for row, sample in zip(benchmark.rows, (theirs[k] for k in range(len(theirs))), strict=True):
        *clips, image = benchmark.media(row)
        assert [[str(path) for path in frames.files] for _, frames, *_ in clips] == sample["frames_list"]
        assert {frames.fps for _, frames, *_ in clips} == {sample["input_fps"]}
        assert benchmark.text(row) == sample["input_prompt"] and [str(image[1])] == sample["ref_images"]
