"""Video-MME: rows of its own form, both prompts, both readers to the odd string, its groups."""

import json

import pytest

from vsgrpo.errors import DataError
from vsgrpo.evaluation.benchmark import ReadOptions
from vsgrpo.evaluation.benchmarks.video_mme import VideoMme, official_letter
from vsgrpo.spatial.lmms_answers import lmms_letter


def mme_row(number=0, answer="C", **more):
    return {
        "video_id": "001",
        "duration": ("short", "medium", "long")[number % 3],
        "domain": "Knowledge",
        "sub_category": "Geography",
        "videoID": f"v{number}",
        "question_id": f"001-{number}",
        "task_type": "Spatial Reasoning",
        "question": "Where is the ball?",
        "options": ["A. Left.", "B. Right.", "C. Behind.", "D. Nowhere."],
        "answer": answer,
        **more,
    }


def write(folder, rows):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_prompts_of_the_authors_and_of_lmms_eval(tmp_path):
    path = write(tmp_path, [mme_row()])
    question = "Where is the ball?\nA. Left.\nB. Right.\nC. Behind.\nD. Nowhere."
    benchmark = VideoMme.read(path)
    assert benchmark.text(benchmark.rows[0]) == (
        "Select the best answer to the following multiple-choice question based on the video. Respond with only the "
        f"letter (A, B, C, or D) of the correct option.\n{question}\nThe best answer is:"
    )
    lmms = VideoMme.read(path, ReadOptions(harness="lmms"))
    assert lmms.text(lmms.rows[0]) == (
        "Select the best answer to the following multiple-choice question based on the video and the subtitles. "
        f"Respond with only the letter (A, B, C, or D) of the correct option.\n{question}\n\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert benchmark.rows[0].media[0]["path"] == "data/v0.mp4" and benchmark.rows[0].answer == "Behind."


@pytest.mark.parametrize(
    ("answer", "official", "lmms"),
    [
        ("C", "C", "C"),
        ("The best answer is C.", "C", "C"),
        ("Best answer: C", "B", "C"),  # a comma is missing in the authors' list: the B of "Best"
        ("Answer: C", "C", "C"),
        ("c", "", ""),
        ("(C) Behind", "C", "C"),
        ("Behind", "B", "B"),  # any capital
        ("Not A, rather C", "A", "C"),  # the first | the last of the same form
        ("A man. The answer is D", "A", "A"),  # | alone at the start
        ("It is D or B because of A", "D", "A"),  # | at the end
        ("", "", ""),
        ("no idea", "", ""),
    ],
)
def test_letters_as_both_read_them(answer, official, lmms):
    assert (official_letter(answer), lmms_letter(answer, "ABCD")) == (official, lmms)


def test_scores_by_length_and_field(tmp_path):
    benchmark = VideoMme.read(write(tmp_path, [mme_row(n) for n in range(4)]))
    found = benchmark.accuracy({"001-0": "C", "001-1": "B", "001-2": "C.", "001-3": "D"}, "")
    assert found.overall == 0.5 and found.cells["duration"]["short"].mean == 0.5  # rows 0 and 3
    assert (found.cells["duration"]["medium"].mean, found.cells["duration"]["long"].mean) == (0, 1)
    assert found.cells["domain"]["Knowledge"].mean == 0.5
    assert "4 rows" in benchmark.remarks()[0] and "test has 2700" in benchmark.remarks()[0]


def test_a_broken_row_is_refused(tmp_path):
    with pytest.raises(DataError, match="ground truth 'E': neither a letter of ABCD"):
        VideoMme.read(write(tmp_path, [mme_row(answer="E")]))
    with pytest.raises(DataError, match="videoID is missing"):
        VideoMme.read(write(tmp_path, [{"question": "?"}]))
