"""OSI-Bench: rows of its form, prompts to the line break, readers of odd texts, the rule for a right answer of 0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vsgrpo.errors import DataError
from vsgrpo.evaluation.benchmark import ReadOptions
from vsgrpo.evaluation.benchmarks.osi import OsiBench, number_score, official_letter, official_number


def osi_row(category: str = "absolute_distance", answer: str = "4.0", **more: Any) -> dict[str, Any]:
    row = {
        "video": "0007",
        "question": "How far is 1 from 2?",
        "options": None,
        "answer": answer,
        "category": category,
        "question_type": "numerical",
        "video_length": 12.5,
    }
    return row | more


CHOICE = osi_row("relative_distance", "B", options=["A. 1", "B. 2"], question_type="mcq")


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), folder / "data.parquet")
    return folder / "data.parquet"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("about 3 to 4.5 m", 4.5),
        ("1,234.5", 1234.5),
        ("3 m^2", 2.0),
        ("-2", -2.0),
        ("2-3", -3.0),  # a minus right before a digit is its sign
        ("1e3", 3.0),  # no exponents: 1 and 3
        ("five", None),
        ("", None),
    ],
)
def test_the_last_number_counts(text: str, number: float | None) -> None:
    assert official_number(text) == number


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(C) left", "C"),
        ("The answer is D.", "D"),
        ("I think B", "I"),
        ("Because", "B"),
        ("b", ""),
        ("left", ""),
        ("A\u7b54\u6848\u662fC", "C"),
        ("\u7b54\u6848\u662fC", ""),  # one character must be before the words
        ("", ""),
    ],
)
def test_letters_as_lmms_eval_reads_them(text: str, letter: str) -> None:
    assert official_letter(text) == letter


@pytest.mark.parametrize(
    ("number", "truth", "category", "score"),
    [
        (0.29, 0.0, "absolute_speed", 1.0),
        (-5.0, 0.0, "absolute_displacement", 1.0),  # below the limit
        (0.3, 0.0, "absolute_speed", 1.0),  # relative to 0.3: no error
        (0.44, 0.0, "absolute_speed", 0.1),  # 0.14 / 0.3 = 0.47: within 0.5 alone
        (1.9, 0.0, "trajectory_length", 1.0),
        (4.0, 0.0, "trajectory_length", 0.0),  # |4 - 2| / 2 = 1
        (0.0, 0.0, "absolute_distance", 1.0),
        (0.1, 0.0, "depth_aware_counting", 0.0),
        (2.2, 2.0, "absolute_speed", 0.9),  # 10 % off, 0.10000000000000009: within all but 0.05
        (-2.0, -2.0, "object_3d_localization", 1.0),
        (2.0, -2.0, "object_3d_localization", 0.0),
        (None, 0.0, "absolute_speed", 0.0),
    ],
)
def test_scores_of_numbers(number: float | None, truth: float, category: str, score: float) -> None:
    assert number_score(number, truth, category) == pytest.approx(score)


def test_prompts_to_the_line_break(tmp_path: Path) -> None:
    rows = [osi_row(), osi_row("absolute_speed"), CHOICE, CHOICE | {"category": "trajectory_description"}]
    file = write(tmp_path, rows)
    texts = {}
    for harness in OsiBench.harnesses:
        benchmark = OsiBench.read(file, ReadOptions(name="osi", harness=harness))
        texts[harness] = [benchmark.text(row) for row in benchmark.rows]
    start = (
        "These are frames of a video.\nIn the video, objects are identified by numeric tags shown nearby.\n"
        "With that in mind, please answer the following question based on the video.\n"
    )
    number = (
        "Question: How far is 1 from 2?\n\n"
        "Your answer must be only the final numeric value, without units or any other text."
    )
    letter = (
        "Question: How far is 1 from 2?\nA. 1\nB. 2\n\n"
        "Your answer must be only the single letter (e.g., A, B, C, or D) of the correct option."
    )
    asked = [f"{start}{number}\n", f"{start}{number}", f"{start}{letter}", letter]
    assert texts["easi_visual_first"] == [f"{text}The answer is:" for text in asked]
    assert texts["official"] == texts["easi"] == [f"{text}The answer is:<video>" for text in asked]
    assert texts["lmms"] == [f"{text}\nThe answer is:" for text in asked]


def test_the_score_is_the_mean_over_questions(tmp_path: Path) -> None:
    benchmark = OsiBench.read(write(tmp_path, [osi_row(), osi_row(answer="0"), CHOICE]), ReadOptions(name="osi"))
    found = benchmark.accuracy({"0": "4 m", "1": "3", "2": "(B)"}, "made").to_json()
    # 1, 0 (3 is not 0) and 1: micro 2/3; macro of absolute_distance 1/2 and relative_distance 1: 3/4
    assert (found["overall"], found["macro"]) == (pytest.approx(2 / 3), pytest.approx(3 / 4))
    assert found["num_scenes"] == 1
    assert benchmark.rows[0].media[0]["path"] == "0007.mp4"


def test_easi_reads_in_its_own_way(tmp_path: Path) -> None:
    file = write(tmp_path, [osi_row(answer="1000"), CHOICE])
    official, easi = (OsiBench.read(file, ReadOptions(name="osi", harness=name)) for name in ("official", "easi"))
    number, choice = official.rows
    assert (official.score(number, "1e3"), easi.score(number, "1e3")) == (0.0, 1.0)
    assert (official.score(choice, "b"), easi.score(choice, "b")) == (False, True)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (osi_row(answer="far"), "ground truth 'far': must be a number"),
        (CHOICE | {"options": ["A. 1"]}, "options=['A. 1']: must be a list of 2 to"),
        (CHOICE | {"answer": "C"}, "ground truth 'C': neither a letter of AB nor an option"),
        (osi_row(video=None), "video=None: must be the name of a video"),
    ],
)
def test_a_broken_row_is_named_by_file_row_and_field(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    file = write(tmp_path, [osi_row(), row])
    with pytest.raises(DataError) as error:
        OsiBench.read(file, ReadOptions(name="osi"))
    assert message in str(error.value) and str(error.value).startswith(f"{file}:row 1: ")
