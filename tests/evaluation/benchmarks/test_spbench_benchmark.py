"""SPBench: rows of its form, prompts to the line break, readers of odd texts, the mean of question types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vsgrpo.errors import DataError
from vsgrpo.evaluation.benchmark import ReadOptions
from vsgrpo.evaluation.benchmarks.spbench import SpBench, answer_text, official_letter, official_number


def spbench_row(number: int = 0, kind: str = "object_abs_distance", truth: str = "2.0", **more: Any) -> dict[str, Any]:
    row = {
        "id": number,
        "dataset": "scannet",
        "scene_name": "scene0025_00",
        "question_type": kind,
        "question": "How far is the desk?",
        "ground_truth": truth,
        "options": None,
        "images": ["200.jpg"],
    }
    return row | more


CHOICE = spbench_row(1, "object_rel_direction", "B", options=["A. left", "B. right"], images=["1.jpg", "2.jpg"])


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "SPBench-SI.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / "SPBench-SI.jsonl"


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("B", "B"),
        ("B. right", "B"),
        ("Answer:B", "B"),
        ("Answer: B", "B"),  # a space first: the whole text, without its spaces
        ("E", "E"),
        ("b", "b"),  # compared whatever its case
        ("(B)", "(B)"),
        ("The answer is B", "The answer is B"),
        ("", ""),
    ],
)
def test_letters_as_the_authors_read_them(text: str, read: str) -> None:
    assert official_letter(text) == read


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("2.5 m", 2.5),
        ("two", 2.0),
        ("about a metre, 1.5", 1.0),  # "a" is 1
        ("3 or four", 4.0),  # words before digits
        ("twenty-one", 1.0),  # "one" is looked for before "twenty"
        ("-3", 3.0),
        ("far", None),
    ],
)
def test_numbers_as_the_authors_read_them(text: str, number: float | None) -> None:
    assert official_number(text) == number


def test_what_stands_in_the_tags_is_read() -> None:
    assert answer_text("<think>2</think><answer> 3 </answer>") == "3"
    assert answer_text("<answer>3") == "None"
    assert answer_text("3") == "3"


def test_prompts_to_the_line_break(tmp_path: Path) -> None:
    benchmark = SpBench.read(write(tmp_path, [spbench_row(), CHOICE]), ReadOptions(name="spbench"))
    assert [benchmark.text(row) for row in benchmark.rows] == [
        "Question: How far is the desk?\n\n"
        "Please answer the question using a numerical value (e.g., 42 or 3.1) directly.",
        "Question: How far is the desk?\nOptions:\nA. left\nB. right\n\n"
        "Please answer with the option's letter from the given choices (e.g., A, B, etc.) directly.",
    ]
    assert [row.room for row in benchmark.rows] == ["scene0025", "scene0025"]


def test_the_score_is_the_mean_of_question_types(tmp_path: Path) -> None:
    rows = [spbench_row(), spbench_row(2, truth="4"), CHOICE]
    benchmark = SpBench.read(write(tmp_path, rows), ReadOptions(name="spbench"))
    found = benchmark.accuracy({"0": "2", "2": "5", "1": "B."}, "made").to_json()
    # distance: 1 and |5 - 4| / 4 = 0.25, six of ten thresholds (.5 .45 .4 .35 .3 .25): 0.8; direction 1: mean 0.9
    assert found["overall"] == pytest.approx(0.9)
    assert found["micro"] == pytest.approx((1 + 0.6 + 1) / 3)


def test_media_are_found_where_the_zips_unpack(tmp_path: Path) -> None:
    picture = tmp_path / "SPBench-SI-images" / "scene0025_00" / "200.jpg"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"")
    benchmark = SpBench.read(write(tmp_path, [spbench_row()]), ReadOptions(name="spbench"))
    assert benchmark.media(benchmark.rows[0]) == (("image", picture),)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"ground_truth": "far"}, "ground truth 'far': must be a number"),
        ({"ground_truth": "0"}, "ground_truth=0: must be above 0"),
        ({"images": []}, "images=[]: must be a list of file names"),
        ({"scene_name": ""}, "scene_name='': must be a text"),
        ({"question_type": "object_rel_distance"}, "options=None: must be a list of 2 to"),
    ],
)
def test_a_broken_row_is_named_by_file_row_and_field(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    file = write(tmp_path, [spbench_row(), spbench_row(3, **more)])
    with pytest.raises(DataError) as error:
        SpBench.read(file, ReadOptions(name="spbench"))
    assert message in str(error.value) and str(error.value).startswith(f"{file}:2")
