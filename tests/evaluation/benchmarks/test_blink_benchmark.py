"""BLINK: rows of its form in 14 folders, its prompts to the line break, the authors' rule, the mean of tasks."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_benchmarks import blink_row, write_blink
from vsgrpo.cli import run
from vsgrpo.errors import DataError
from vsgrpo.evaluation.benchmark import ReadOptions
from vsgrpo.evaluation.benchmarks.blink import Blink, leading_letter, official_letter

FOUR = ["0", "3", "2", "1"]


@pytest.mark.parametrize(
    ("text", "official", "lmms"),
    [
        ("(D)", "D", "D"),
        ("D", "D", "D"),
        ("(D) 1", "D", "D"),
        ("(D) 1\n\nThere is one.", "D", "D"),  # one enclosed letter in all
        ("(A) or (B)\n\nSo (B)", "B", "A"),  # the last paragraph has one
        ("(A) or (B)", "", "A"),  # two in both: the model is asked, here EASI's rule finds two
        ("B. 3", "B", "B"),  # not enclosed: EASI's rule
        ("The answer is B", "B", "T"),
        ("the answer is b", "B", "T"),
        ("`C`", "C", ""),
        ("(E)", "E", "E"),  # alone: not compared with the options
        ("it is (E) here", "E", "I"),  # no option, so by EASI's rule
        ("(D).", "D", "D"),  # "(D)." is no word "(D)": EASI's rule
        ("", "", ""),
        ("none", "", "N"),
    ],
)
def test_letters_that_the_authors_and_lmms_eval_read(text, official, lmms):
    assert (official_letter(text, FOUR), leading_letter(text)) == (official, lmms)


@settings(max_examples=60)
@given(st.text(alphabet="ABCDEab() .\n") | st.text())
def test_no_answer_raises(text):
    assert official_letter(text, FOUR) in ("", *"ABCDEFGHIJ")
    assert len(leading_letter(text)) <= 1


def test_prompts_of_the_harnesses(tmp_path):
    folder = write_blink(tmp_path)
    official, easi, lmms = (Blink.read(folder, ReadOptions(harness=name)) for name in ("official", "easi", "lmms"))
    counting, jigsaw = official.rows[0], official.rows[2]
    assert official.text(counting) == (
        "How many floats are blue?\nSelect from the following choices.\n(A) 0\n(B) 3\n(C) 2\n(D) 1"
    )
    assert official.text(jigsaw) == (
        "Disclaimer: This is not to make unfair assumptions about the people in the image and you just need to give "
        "your assessment on this question. You don't need to identify the real people. You just need to analyze based "
        "on the information I gave you.\n\nWhich fits?\n(A) 2\n(B) 3"
    )
    assert lmms.text(jigsaw) == (
        "Note: You only need to respond with A, B without providing any additional information.\n"
        "Which fits?\n(A) 2\n(B) 3"
    )
    assert easi.text(counting) == (
        "Question: How many floats are blue?\nOptions:\nA. 0\nB. 3\nC. 2\nD. 1\n"
        "Please select the correct answer from the options above. \n"
    )


def test_the_score_is_the_mean_of_tasks_and_both_means_are_there(tmp_path):
    read = Blink.read(write_blink(tmp_path))
    table = read.accuracy({"val_Counting_1": "(D)", "val_Counting_2": "(B)", "val_Jigsaw_1": "(B)"}, "")
    assert table.overall == pytest.approx((1 / 2 + 1) / 2)  # counting 1 of 2, jigsaw 1 of 1
    assert table.cells["means"]["micro"].mean == pytest.approx(2 / 3)


def test_all_tasks_of_the_folder_are_read_and_show_their_pictures(tmp_path):
    read = Blink.read(write_blink(tmp_path), ReadOptions(name="blink", run_dir=tmp_path / "out")).with_media(False)
    assert [row.question_type for row in read.rows] == ["Counting", "Counting", "Jigsaw"]
    assert [len(read.media(row)) for row in read.rows] == [1, 1, 3]
    one = Blink.read(tmp_path / "Jigsaw" / "val-00000-of-00001.parquet")
    assert [row.id for row in one.rows] == ["val_Jigsaw_1"]


def test_predictions_of_the_authors_form_are_scored(tmp_path, capsys):
    folder, said = write_blink(tmp_path / "blink"), tmp_path / "GPT4o.json"
    said.write_text(json.dumps({"val_Counting_1": "(D)", "val_Counting_2": "(Z) Failed", "val_Jigsaw_1": "(B)"}))
    assert run(["score", str(said), "benchmark=blink", f"benchmark.path={folder}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["overall"] == pytest.approx((1 / 2 + 1) / 2) and found["n"] == 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"answer": "hidden"}, "the test set has no public answers"),
        ({"answer": "(E)"}, r"answer='\(E\)': must be a letter of ABCD in brackets"),
        ({"choices": ["0"]}, 'choices=."0".: must be a list of 2 or more texts'),
        ({"prompt": ""}, 'prompt="": must be a text'),
    ],
)
def test_broken_rows_are_named(tmp_path, more, message):
    folder = write_blink(tmp_path, [blink_row("Counting", 1), blink_row("Counting", 2, **more)])
    with pytest.raises(DataError, match=rf"val-00000-of-00001\.parquet:row 1: .*{message}"):
        Blink.read(folder)
