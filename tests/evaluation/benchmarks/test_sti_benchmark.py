"""STI-Bench: rows of its form, both prompts to the line break, letters in odd texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vsgrpo.errors import DataError
from vsgrpo.evaluation.benchmark import ReadOptions
from vsgrpo.evaluation.benchmarks.sti import StiBench, official_letter, scene_kind
from vsgrpo.video.writer import write_video


def sti_row(**more: Any) -> dict[str, Any]:
    row = {
        "Video": "scene0001_00.mp4",
        "ID": 0,
        "Source": "ScanNet",
        "Task": "Dimensional Measurement",
        "Question": "How wide is the desk?",
        "time_start": 0.5,
        "time_end": 12.0,
        "Candidates": {"A": "1 m", "B": "2 m", "C": "3 m", "D": "4 m", "E": "5 m"},
        "Answer": "C",
    }
    return row | more


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / "qa.jsonl"


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("C", "C"),
        ("(b) 2 m", "B"),
        ("Answer: because it is far", "B"),  # the letter behind "Answer:" need not be alone
        ("Option d", "D"),
        ("E is correct, not A.", "E"),
        ("It is A.\nIt is B.", "A"),
        ("It is B", "B"),  # no mark: the last character
        ("c", ""),
        ("F", ""),
        ("", ""),
        ("the last one", ""),
        ("(F) no, Ans = 'A'", "A"),
    ],
)
def test_letters_as_the_authors_read_them(text: str, letter: str) -> None:
    assert official_letter(text) == letter


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("scene0001_00.mp4", "indoor"),
        ("segment-12_camera_FRONT.mp4", "outdoor"),
        ("000123.mp4", "desktop"),
        ("12.mp4", "unknown"),
    ],
)
def test_scenes_by_file_name(name: str, kind: str) -> None:
    assert scene_kind(name) == kind


def test_prompts_to_the_line_break(tmp_path: Path) -> None:
    file = write(tmp_path, [sti_row(Candidates=json.dumps(sti_row()["Candidates"]))])
    official, easi = (StiBench.read(file, ReadOptions(name="sti", harness=name)) for name in ("official", "easi"))
    assert official.text(official.rows[0]) == (
        "From 0.5 s to 12.0 s. How wide is the desk?\n"
        "(A) 1 m\n(B) 2 m\n(C) 3 m\n(D) 4 m\n(E) 5 m\nPlease output only the option letter!"
    )
    rest = (
        "Question: From 0.5 seconds to 12.0 seconds. How wide is the desk?\n"
        "A 1 m\nB 2 m\nC 3 m\nD 4 m\nE 5 m\nPlease output only the option you choose!"
    )
    start = "Answer the question below based on the frames provided, which are sampled at"
    assert easi.text(easi.rows[0]) == f"{start} an unspecified frame rate.\n{rest}"
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "scene0001_00.mp4", iter(np.zeros((60, 32, 32, 3), np.uint8)), fps=10)
    shown = StiBench.read(file, ReadOptions(name="sti", harness="easi"))
    # 60 frames of 10 a second are 6 s; 30 frames of 6 s are 5 a second
    assert shown.text(shown.rows[0]) == f"{start} about 5.00 FPS.\n{rest}"


def test_the_score_is_the_mean_over_questions(tmp_path: Path) -> None:
    rows = [sti_row(), sti_row(Answer="A"), sti_row(Task="Pose Estimation", Video="000123.mp4")]
    benchmark = StiBench.read(write(tmp_path, rows), ReadOptions(name="sti"))
    found = benchmark.accuracy({"0": "(C)", "1": "(C)", "2": "C"}, "made").to_json()
    # right: 1, 0, 1; tasks 1/2 and 1
    assert (found["overall"], found["macro"]) == (pytest.approx(2 / 3), pytest.approx(3 / 4))
    assert found["baselines"]["chance"] == pytest.approx(1 / 5)
    assert found["groups"]["scene"].keys() == {"indoor", "desktop"}
    assert [row.room for row in benchmark.rows] == ["scene0001", "scene0001", "000123"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"Answer": "F"}, "Answer='F': must be a letter of ABCDE"),
        ({"Candidates": {"A": "1 m", "C": "3 m"}}, "must be an object of at least two options"),
        ({"Candidates": "{"}, "not JSON"),
        ({"time_start": None}, "time_start=None: must be a time in seconds"),
        ({"Task": 3}, "Task=3: must be a text"),
    ],
)
def test_a_broken_row_is_named_by_file_row_and_field(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    file = write(tmp_path, [sti_row(), sti_row(**more)])
    with pytest.raises(DataError) as error:
        StiBench.read(file, ReadOptions(name="sti"))
    assert message in str(error.value) and str(error.value).startswith(f"{file}:2")
