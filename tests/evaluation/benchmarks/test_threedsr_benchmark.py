"""3DSRBench: rows of its form, its prompt to the line break, circular evaluation, lmms-eval's patterns."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_benchmarks import THREEDSR, write_threedsr
from vsgrpo.errors import DataError
from vsgrpo.evaluation.benchmark import ReadOptions
from vsgrpo.evaluation.benchmarks.threedsr import ThreeDsr, lmms_letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("B. red hat", "B"),
        ("A) glove", "A"),
        ("A glove", "A"),  # a blank behind the first letter
        ("Answer: C", "C"),
        ("The answer is D", "D"),
        ("the answer is: D", "D"),
        ("(A) or (B)", "A"),  # the first enclosed one
        ("It is B. Not (C)", "C"),  # enclosed before a period
        ("so C. or D", "C"),
        ("`B`", "B"),
        ("Apple", ""),
        ("b", ""),
        ("E", ""),
        ("", ""),
    ],
)
def test_letters_that_lmms_eval_reads(text, letter):
    assert lmms_letter(text) == letter


@settings(max_examples=60)
@given(st.text(alphabet="ABCDEab() .:\n") | st.text())
def test_no_answer_raises(text):
    assert lmms_letter(text) in ("", *"ABCD")


def test_the_prompt_is_vlmevalkits(tmp_path):
    read = ThreeDsr.read(write_threedsr(tmp_path))
    assert read.text(read.rows[1]) == (
        "Question: Which object is higher?\nOptions:\nA. red hat\nB. glove\n"
        "Please select the correct answer from the options above. \n"
    )


def test_rows_show_their_picture(tmp_path):
    read = ThreeDsr.read(write_threedsr(tmp_path), ReadOptions(name="threedsr", run_dir=tmp_path / "out"))
    read = read.with_media(False)
    assert [row.id for row in read.rows[:4]] == ["VIN6MS3J", "VIN6MS3J-1", "VIN6MS3J-flip", "VIN6MS3J-flip-1"]
    assert [row.ground_truth for row in read.rows[:4]] == ["B", "A", "B", "A"]
    assert all(len(read.media(row)) == 1 and read.media(row)[0][1].is_file() for row in read.rows)


def test_a_question_is_right_where_it_is_in_every_order(tmp_path):
    read = ThreeDsr.read(write_threedsr(tmp_path))
    answers = {row.id: row.ground_truth for row in read.rows}
    answers["VIN6MS3J-flip-1"] = "B"  # wrong in one of the two orders of the mirrored question
    table = read.accuracy(answers, "")
    # three questions: VIN6MS3J right, VIN6MS3J-flip wrong, AAAA0001 right
    assert table.overall == pytest.approx(2 / 3)
    types = {name: cell.mean for name, cell in table.cells["type"].items()}
    assert types == pytest.approx({"height": 1 / 2, "orientation": 1.0})
    means = {name: cell.mean for name, cell in table.cells["other means"].items()}
    # vanilla 7 of 8 rows; flip pairs: VIN6MS3J with -flip right, VIN6MS3J-1 with -flip-1 wrong, AAAA0001 and its three
    # orders have no mirrored row and are right: 5 of 6; flip and circular: AAAA0001 right, VIN6MS3J wrong
    assert means == pytest.approx({"vanilla": 7 / 8, "flip": 5 / 6, "flip and circular": 1 / 2})


def test_chance_is_that_of_all_orders(tmp_path):
    read = ThreeDsr.read(write_threedsr(tmp_path))
    table = read.accuracy({row.id: "" for row in read.rows}, "")
    # two options in two orders: 1/4, twice; four options in four orders: 1/256
    assert table.baselines["chance"] == pytest.approx((1 / 4 + 1 / 4 + 1 / 256) / 3)


def test_a_file_without_orders_is_named(tmp_path):
    rows = [row for row in THREEDSR if row["qid"] in ("VIN6MS3J", "VIN6MS3J-flip")]
    assert "not circular evaluation" in " ".join(ThreeDsr.read(write_threedsr(tmp_path / "one", rows)).remarks())
    assert "not circular" not in " ".join(ThreeDsr.read(write_threedsr(tmp_path / "all")).remarks())


def test_limit_takes_whole_questions(tmp_path):
    read = ThreeDsr.read(write_threedsr(tmp_path), ReadOptions(limit=1))
    units = {read.unit(row) for row in read.rows}
    assert len(units) == 1 and len(read.rows) in (2, 4)


def test_scores_by_harness(tmp_path):
    path = write_threedsr(tmp_path)
    easi, lmms = (ThreeDsr.read(path, ReadOptions(harness=name)) for name in ("official", "lmms"))
    row = easi.rows[0]
    assert easi.score(row, "It is the red hat") and not lmms.score(row, "It is the red hat")
    assert lmms.score(row, "B is it, a red hat, I am sure") and not easi.score(row, "B is it, a hat, I am very sure")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("answer", "C", 'answer="C": must be a letter of AB'),
        ("B", "", "must be two or more, none left out"),
        ("qid", "", "qid=null: must be a text"),
    ],
)
def test_broken_rows_are_named(tmp_path, column, value, message):
    rows = [THREEDSR[0], {**THREEDSR[1], column: value}]
    with pytest.raises(DataError, match=rf"circular\.tsv:row 1: .*{message}"):
        ThreeDsr.read(write_threedsr(tmp_path, rows))


def test_a_missing_column_is_named(tmp_path):
    rows = [{name: value for name, value in row.items() if name != "qid"} for row in THREEDSR]
    with pytest.raises(DataError, match=r"circular\.tsv:row 0: qid is missing"):
        ThreeDsr.read(write_threedsr(tmp_path, rows))
