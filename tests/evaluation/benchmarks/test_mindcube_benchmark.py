"""MindCube: rows of its form, the authors' prompt, their list of patterns in its order."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_benchmarks import MINDCUBE, write_jsonl, write_mindcube
from vsgrpo.errors import DataError
from vsgrpo.evaluation.benchmark import ReadOptions
from vsgrpo.evaluation.benchmarks.mindcube import MindCube, mindcube_letter, options_of, setting_of


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("<answer>A. Above</answer>", "A"),
        ("A. left, or rather B. right", "B"),  # the last "X." first of all
        ("The answer is C. Surely not B.", "B"),
        ("VITAMIN A.", "A"),  # nothing before the letter is looked at
        ("<Answer>My answer is D</Answer> E", "D"),
        ("<Answer>A or C</Answer> E", "C"),  # the last one alone in the section
        ("<Answer>none</Answer>\nB", "B"),  # an empty section: the phrases in the whole text
        ("<answer>B</answer>", "B"),  # small letters are no section: the letter alone in the line
        ("B", "B"),
        ("B\nbecause C is taken", "B"),  # a line's first word, before any letter further on
        ("C is left\nA is right", "A"),  # both begin a line: the last
        ("**D**", "D"),
        ('"E"', "E"),
        ("Answer: C", "C"),
        ("(Answer C)", "C"),
        ("my answer is B, not C", "B"),
        ("So the answer is A", "A"),
        ("It may be A or D", "A"),  # the first letter alone in the lowest line that has one
        ("It is B\nnone here", "B"),
        ("b", ""),
        ("F", ""),
        ("left", ""),
        ("", ""),
    ],
)
def test_letters_by_the_authors_patterns(text, letter):
    assert mindcube_letter(text) == letter


@settings(max_examples=60)
@given(st.text(alphabet='ABCDEFab .*":<>Answer/\n') | st.text())
def test_no_answer_raises(text):
    assert mindcube_letter(text) in ("", *"ABCDE")


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("among_group693_q0", "among"),
        ("aroundnew_tv_q1", "around"),
        ("rotation_g3", "rotation"),
        ("translation_x", "translation"),
        ("among_around", "around"),  # in the authors' order
        ("q1", "other"),
    ],
)
def test_setting_of_an_id(name, setting):
    assert setting_of(name) == setting


def test_options_in_the_text_of_a_question():
    assert options_of("Where? A. Blue lamp B. Door C. Sofa D. Table") == ("Blue lamp", "Door", "Sofa", "Table")
    assert options_of("Is it?\nA. Yes\nB. No") == ("Yes", "No")
    assert options_of("Where? A. left C. right") is None
    assert options_of("Where?") is None


def test_raw_rows_are_asked_as_the_authors_ask(tmp_path):
    read = MindCube.read(write_mindcube(tmp_path))
    assert read.text(read.rows[0]) == (
        "[Task]\nYour task is to analyze the spatial arrangement of objects in the scene by examining the provided "
        "images, which show the scene from different viewpoints.\n[Answer Instruction]\nYou only need to provide "
        "*ONE* correct answer selecting from the options listed below. For example, if you think the correct answer "
        "is 'A. Above' from 'A. Above B. Under C. Front D. Behind', your response should **only** be "
        "'<answer>A. Above</answer>'.\n\n[Question]\n"
        "From view 1, what is behind the chair? A. Blue lamp B. Door C. Sofa D. Table"
    )
    assert [row.question_type for row in read.rows] == ["among", "around", "rotation"]
    assert all(path.is_file() for row in read.rows for _, path in read.media(row))
    assert read.rows[2].options is None and read.rows[2].ground_truth == "A"


def test_rows_with_a_prompt_are_asked_with_it(tmp_path):
    write_mindcube(tmp_path)
    rows = [{**row, "input_prompt": f"Look.\n{row['question']}", "grounded_output": "-"} for row in MINDCUBE]
    file = write_jsonl(tmp_path / "data" / "prompts" / "general" / "MindCube_tinybench_raw_qa.jsonl", rows)
    read = MindCube.read(file)
    assert read.text(read.rows[1]) == "Look.\nIs the sofa left of the TV? A. Yes B. No"
    assert all(path.is_file() for row in read.rows for _, path in read.media(row))


def test_images_are_shown_where_the_prompt_has_them(tmp_path):
    rows = [{**row, "input_prompt": f"<image>\n <image>\n[Task]\n{row['question']}"} for row in MINDCUBE]
    read = MindCube.read(write_mindcube(tmp_path, rows))
    assert read.turn(read.rows[1]) == ("", "", "[Task]\nIs the sofa left of the TV? A. Yes B. No")
    rows[1]["input_prompt"] = "<image> once"
    with pytest.raises(DataError, match="aroundnew_tv_q1: its text shows image and the row image, image"):
        MindCube.read(write_mindcube(tmp_path, rows)).check_turns()


def test_scores_by_harness(tmp_path):
    path = write_mindcube(tmp_path)
    answers = {row["id"]: "<answer>D</answer>\nA." for row in MINDCUBE}
    official, easi = (
        list(MindCube.read(path, ReadOptions(harness=name)).accuracy(answers, "").correct.values())
        for name in ("official", "easi")
    )
    assert official == [0, 0, 1]  # the letter before a period: A
    assert easi == [1, 0, 0]  # the letter in the tag: D


def test_translation_is_left_out_and_named(tmp_path):
    rows = [*MINDCUBE, {**MINDCUBE[0], "id": "translation_g1_q0"}]
    read = MindCube.read(write_mindcube(tmp_path, rows))
    assert len(read.rows) == 3 and "translation (1)" in " ".join(read.remarks())


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("gt_answer", "F", 'gt_answer="F": must be a letter of ABCDE'),
        ("images", [], r"images=\[\]: must be a list of 1 or more texts"),
        ("images", "front.jpg", 'images="front.jpg": must be a list of 1 or more texts'),
        ("question", " ", 'question=" ": must be a text'),
    ],
)
def test_broken_rows_are_named(tmp_path, column, value, message):
    rows = [MINDCUBE[0], {**MINDCUBE[1], column: value}]
    with pytest.raises(DataError, match=rf"MindCube_tinybench\.jsonl:2: .*{message}"):
        MindCube.read(write_jsonl(tmp_path / "MindCube_tinybench.jsonl", rows))
