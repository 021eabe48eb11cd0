"""MMSI-Bench: rows of its form, its prompts to the line break, its readers to the odd text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_benchmarks import MMSI, write_mmsi
from vsgrpo.errors import DataError
from vsgrpo.evaluation.benchmark import ReadOptions
from vsgrpo.evaluation.benchmarks.mmsi import MmsiBench, lmms_letter, official_letter, options_of

SENTENCE = "Answer with the option's letter from the given choices directly. Enclose the option's letter within ``."


@pytest.mark.parametrize(
    ("text", "official", "lmms"),
    [
        ("``B``", "B", "B"),
        ("`B`", "B", "B"),
        ("A is wrong: ``C``", "C", "C"),  # backticks first
        ("{D}", "D", "D"),
        ("`{A}`", "A", "A"),
        ("``b``", "", "B"),  # the authors' pattern has capitals only
        ("(A)", "A", "A"),
        ("A.", "A", "A"),
        ("B", "B", "B"),
        ("The answer is B", "B", "B"),
        ("A bike stands there, so C", "C", "C"),  # a word behind "A": an article
        ("a bike, D", "D", "D"),
        ("I see a, so D", "D", "A"),  # in any case: "a" with no word behind it
        ("B or C", "C", "C"),  # "or" follows B
        ("E", "", "E"),
        ("F.", "", "F"),
        ("``left``", "", ""),
        ("left", "", ""),
        ("", "", ""),
    ],
)
def test_letters_that_the_authors_and_lmms_eval_read(text, official, lmms):
    assert (official_letter(text), lmms_letter(text)) == (official, lmms)


@settings(max_examples=60)
@given(st.text(alphabet="ABCDEFab `{}().\n:x") | st.text())
def test_no_answer_raises(text):
    assert official_letter(text) in ("", *"ABCD") and lmms_letter(text) in ("", *"ABCDEF")


@pytest.mark.parametrize(
    ("question", "options"),
    [
        ("Where?\nOptions: A: left, B: right, C: up, D: down", ("left", "right", "up", "down")),
        ("Where? Options: A: 1, 2, B: 3 C:4, D: it is B: no", ("1, 2", "3", "4", "it is B: no")),
        ("Options: which?\nOptions:\nA: a\nB: b\nC: c\nD: d", ("a", "b", "c", "d")),
        ("Where? A: left, B: right, C: up, D: down", None),
        ("Where?\nOptions: A: left, B: right", None),
        ("Where?\nOptions: A: , B: b, C: c, D: d", None),
    ],
)
def test_options_in_the_text_of_a_question(question, options):
    assert options_of(question) == options


def test_rows_have_their_options_types_and_pictures(tmp_path):
    read = MmsiBench.read(write_mmsi(tmp_path), ReadOptions(name="mmsi", run_dir=tmp_path / "out"))
    assert [(row.id, row.ground_truth, row.options and len(row.options)) for row in read.rows] == [
        ("0", "B", 4),
        ("1", "A", 4),
        ("2", "D", None),
    ]
    assert read.rows[1].question_type == "Positional Relationship (Cam.-Obj.)"
    shown = read.with_media(False)
    assert [len(shown.media(row)) for row in shown.rows] == [2, 3, 2]
    assert all(kind == "image" and path.is_file() for row in shown.rows for kind, path in shown.media(row))


def test_prompts_of_the_harnesses(tmp_path):
    path = write_mmsi(tmp_path)
    first, second = MmsiBench.read(path).rows[:2]
    official, easi = (MmsiBench.read(path, ReadOptions(harness=name)) for name in ("official", "easi"))
    assert official.text(first) == (
        f"Which way does the camera turn?\nOptions: A: left, B: right, C: up, D: down\n{SENTENCE}"
    )
    assert easi.text(second) == (
        f"Where is the lamp?\nOptions: A: front, near, B: left, C: back, D: right, \n{SENTENCE}"
    )


def test_scores_by_harness(tmp_path):
    path = write_mmsi(tmp_path)
    answers = {"0": "``b``", "1": "``A``", "2": "The last one"}
    table = {
        name: MmsiBench.read(path, ReadOptions(harness=name)).accuracy(answers, "").correct
        for name in ("official", "lmms", "easi")
    }
    assert table["official"] == {"0": 0, "1": 1, "2": 0}
    assert table["lmms"] == table["easi"] == {"0": 1, "1": 1, "2": 0}


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("answer", "E", 'answer="E": must be a letter of ABCD'),
        ("answer", "", 'answer="": must be a letter of ABCD'),
        ("question", None, "question=null: must be a text"),
        ("answer", ..., "answer is missing"),
    ],
)
def test_broken_rows_are_named(tmp_path, column, value, message):
    rows = [{**row, column: value} for row in MMSI]
    if value is ...:
        rows = [{name: row[name] for name in row if name != column} for row in MMSI]
    with pytest.raises(DataError, match=rf"MMSI_Bench\.parquet:row 0: .*{message}"):
        MmsiBench.read(write_mmsi(tmp_path, rows))
