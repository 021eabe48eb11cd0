"""ViewSpatial-Bench: rows of its form, its prompts to the line break, the letter of the last line."""

import json
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_benchmarks import VIEWSPATIAL, write_viewspatial
from vsgrpo.data.manifest import rooms_of
from vsgrpo.errors import DataError
from vsgrpo.evaluation.benchmark import ReadOptions
from vsgrpo.evaluation.benchmarks.viewspatial import ViewSpatial, last_line_letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(A)", "A"),
        ("A. right", "A"),
        ("`C`", "C"),
        ("The answer is D", "D"),
        ("B or C", "B"),  # the first
        ("A\nright", ""),  # only the last line
        ("A\n", ""),  # which is empty here
        ("A is wrong.\nC", "C"),
        ("It is a chair", "A"),  # an article
        ("E", ""),
        ("right", ""),
        ("", ""),
    ],
)
def test_the_first_letter_of_the_last_line(text, letter):
    assert last_line_letter(text) == letter


@settings(max_examples=60)
@given(st.text())
def test_no_answer_raises(text):
    assert last_line_letter(text) in ("", *"ABCD")


def test_prompts_of_paper_and_code(tmp_path):
    path = write_viewspatial(tmp_path)
    paper, code = (ViewSpatial.read(path, ReadOptions(harness=name)) for name in ("official", "code"))
    assert paper.text(paper.rows[0]) == (
        "Question: Where is the counter, seen from the refrigerator?\n"
        "Choices: A. right\nB. front-up\nC. back-left\nD. front\n"
        "Reply only to the corresponding option.\nAnswer:"
    )
    assert code.text(code.rows[2]) == (
        "As the bear, which way do you look?A. front\nB. back\nReply only to the corresponding option.\nAnswer:"
    )


def test_rows_know_their_scan(tmp_path):
    read = ViewSpatial.read(write_viewspatial(tmp_path))
    assert [(row.id, row.scene_name, row.ground_truth) for row in read.rows] == [
        ("0", "scene0011_00", "A"),
        ("1", "scene0011_00", "D"),
        ("2", "000000000285", "B"),
    ]
    assert read.rows[0].room == "scene0011"
    assert rooms_of(read.rows[0]) == {("scannet", "scene0011")}  # what the leak guard compares
    assert [len(read.media(row)) for row in read.rows] == [1, 3, 1]
    assert all(path.is_file() for row in read.rows for _, path in read.media(row))


def test_images_may_lie_in_the_zips_of_the_download(tmp_path):
    (tmp_path / "ViewSpatial-Bench.json").write_text(json.dumps(VIEWSPATIAL))
    write_viewspatial(tmp_path / "made")
    for folder in ("scannetv2_val", "val2017"):
        with zipfile.ZipFile(tmp_path / f"{folder}.zip", "w") as archive:
            for path in (tmp_path / "made" / "ViewSpatial-Bench" / folder).rglob("*.jpg"):
                archive.write(path, path.relative_to(tmp_path / "made" / "ViewSpatial-Bench"))
    options = ReadOptions(name="viewspatial", run_dir=tmp_path / "out")
    read = ViewSpatial.read(tmp_path / "ViewSpatial-Bench.json", options).with_media(False)
    assert all(path.is_file() for row in read.rows for _, path in read.media(row))


def test_scores_by_harness(tmp_path):
    path = write_viewspatial(tmp_path)
    answers = {"0": "A. right\nsince I see it", "1": "a front or D", "2": "(B)"}
    official, easi = (
        list(ViewSpatial.read(path, ReadOptions(harness=name)).accuracy(answers, "").correct.values())
        for name in ("official", "easi")
    )
    assert official == [0, 0, 1]  # no letter in the last line; "a" is read as A
    assert easi == [1, 1, 1]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("answer", "B. right", "answer='B. right': not one of the choices"),
        ("choices", "A. right\nfront", "some have their letter, others not"),
        ("choices", 5, "choices=5: must be a text"),
        ("image_path", "x.jpg", 'image_path="x.jpg": must be a list of 1 or more texts'),
    ],
)
def test_broken_rows_are_named(tmp_path, column, value, message):
    (tmp_path / "V.json").write_text(json.dumps([VIEWSPATIAL[0], {**VIEWSPATIAL[1], column: value}]))
    with pytest.raises(DataError, match=rf"V\.json:row 2: .*{message}"):
        ViewSpatial.read(tmp_path / "V.json")
