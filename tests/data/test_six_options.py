"""Two to six options: row, prompt, reward, scorers, balance and import mean the same option by the same letter."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rows import CHOICE_ROW

from vsgrpo.data.build.balance import with_answer_at
from vsgrpo.data.importing.answer_values import Refused
from vsgrpo.data.importing.record_to_row import record_to_row
from vsgrpo.data.prompts import question_text, target_text
from vsgrpo.data.row import LETTERS, check_row
from vsgrpo.data.rows import row_from_dict, row_to_dict
from vsgrpo.errors import DataError
from vsgrpo.evaluation.benchmark import PromptSettings
from vsgrpo.evaluation.scores import read_row
from vsgrpo.rewards import accuracy_reward
from vsgrpo.spatial.answers import SCORERS, lenient_letter
from vsgrpo.spatial.scoring import score

WORDS = ("bed", "trash can", "tv", "front-left", "sofa chair", "kitchen sink", "lamp", "door frame")
SHOWN = PromptSettings(mode="vanilla", show_options=True)


@st.composite
def choices(draw):
    words = draw(st.permutations(WORDS))[: draw(st.integers(2, 6))]
    place = draw(st.integers(0, len(words) - 1))
    return replace(CHOICE_ROW, options=tuple(words), ground_truth=LETTERS[place], answer=words[place])


@settings(max_examples=60, deadline=None)
@given(choices())
def test_one_letter_means_one_option_everywhere(row):
    check_row(row, "row")
    assert row_from_dict(json.loads(json.dumps(row_to_dict(row))), "row") == row
    right = row.ground_truth
    assert f"\n{right}. {row.answer}\n" in question_text(row, show_options=True)
    assert target_text(row, show_options=True) == right
    for letter, word in zip(LETTERS, row.options, strict=False):
        is_right = letter == right
        rewards = accuracy_reward(
            [letter, word],
            answer=[row.answer] * 2,
            answer_kind=["choice"] * 2,
            ground_truth=[right] * 2,
            show_options=True,
        )
        assert rewards == [float(is_right)] * 2
        for scorer in SCORERS:
            assert read_row(scorer, row, f"{letter}. {word}", SHOWN) == letter
            assert score(scorer, row.question_type, letter, right, row.options) == float(is_right)
        for text in (
            f"({letter})",
            f"{letter.lower()})",
            f"**{letter}**",
            f"I say option {letter} here",
            word,
            f"it is the {word}",
        ):
            assert lenient_letter(text, row.options) == letter
    for place in range(len(row.options)):
        moved = with_answer_at(row, place)
        check_row(moved, "row")
        assert (moved.answer, moved.ground_truth) == (row.answer, LETTERS[place])


@settings(max_examples=60, deadline=None)
@given(choices(), st.sampled_from(["{}. {}", "{}) {}", "({}) {}"]), st.sampled_from(["\n", " ", "list", "object"]))
def test_options_are_read_however_they_are_written(row, style, joint):
    lettered = [style.format(letter, word) for letter, word in zip(LETTERS, row.options, strict=False)]
    data = {"question": "Which of them is the nearest?", "answer": row.ground_truth, "video": "scene0001_00.mp4"}
    if joint == "list":
        data["options"] = lettered
    elif joint == "object":
        data["options"] = dict(zip(LETTERS, row.options, strict=False))
    else:
        data["question"] += joint + joint.join(lettered)
    taken = record_to_row(data, "imported").row
    assert (taken.options, taken.ground_truth, taken.answer) == (row.options, row.ground_truth, row.answer)
    assert taken.question == "Which of them is the nearest?"


def test_letters_behind_the_options_are_no_answer():
    row = replace(CHOICE_ROW, options=("bed", "tv", "lamp", "sofa"), ground_truth="B", answer="tv")
    assert [read_row("lenient", row, text, SHOWN) for text in ("E", "(F)", "option E", "F. bed")] == [
        None,
        None,
        None,
        "A",
    ]
    with pytest.raises(DataError, match="must be a letter of ABCD"):
        check_row(replace(row, ground_truth="E"), "row")
    many = [*WORDS[:7]]
    with pytest.raises(DataError, match="must hold 2 to 6 candidates"):
        check_row(replace(row, options=tuple(many)), "row")
    with pytest.raises(Refused, match="options that are not 2 to 6 different ones"):
        record_to_row({"question": "Which?", "options": many, "answer": "bed", "video": "scene0001_00.mp4"}, "x")
