from dataclasses import replace

import pytest

from vsgrpo.data.prompts import question_text, target_text
from vsgrpo.data.row import Row
from vsgrpo.errors import DataError

ROOM = Row(
    schema_version=1,
    id="r",
    dataset="demo",
    split="dev",
    scene_name="demo000000_00",
    room="demo000000",
    question_type="room_size_estimation",
    question="What is the size of this room (in square meters)?",
    options=None,
    ground_truth="12.5",
    answer="12.5",
    answer_kind="number",
    unit="m2",
    media=({"kind": "video", "path": "v.mp4"},),
    rejected=None,
    reasoning=None,
    objects=(),
    generator={},
    extra={},
)
LEFT = replace(
    ROOM,
    id="d",
    question_type="object_rel_direction_easy",
    question="Is the bed to the left or the right?",
    options=("left", "right"),
    ground_truth="B",
    answer="right",
    answer_kind="choice",
    unit=None,
)
PHRASE = "Please answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."

GOLDEN = [
    (ROOM, "vanilla", "eval", True, f"These are frames of a video.\n{ROOM.question}\n{PHRASE}"),
    (
        LEFT,
        "vanilla",
        "eval",
        True,
        f"These are frames of a video.\n{LEFT.question}\nOptions:\nA. left\nB. right\n{LETTER}",
    ),
    (
        LEFT,
        "think",
        "eval",
        True,
        f"These are frames of a video.\n{LEFT.question}\nOptions:\nA. left\nB. right\n"
        f"Let's think step by step and then answer the question using a single word or phrase. {LETTER}",
    ),
    (
        ROOM,
        "observe",
        "eval",
        True,
        f"These are frames of a video.\n{ROOM.question}\n"
        "Please observe the video first and then answer the question using a single word or phrase.",
    ),
    (LEFT, "vanilla", "eval", False, f"These are frames of a video.\n{LEFT.question}\n{PHRASE}"),
    (
        LEFT,
        "vanilla",
        "train",
        False,
        f"{LEFT.question}\nPlease provide the short answer with one or two words or a number.",
    ),
    (
        ROOM,
        "think",
        "train",
        False,
        f"{ROOM.question}\nPlease think step by step and enclose your thinking process in <think> </think> tags and "
        "then provide the short answer with one or two words or a number in <answer> </answer>.",
    ),
    (
        ROOM,
        "observe",
        "train",
        False,
        f"{ROOM.question}\nPlease observe carefully and analyze what you see that helps you to solve the question in "
        "the video and enclose it in <observe> </observe> tag, and then provide the short answer with one or two words "
        "or a number in <answer> </answer>.",
    ),
]


@pytest.mark.parametrize(("row", "mode", "wording", "show_options", "text"), GOLDEN)
def test_question_text_is_the_published_wording(row, mode, wording, show_options, text):
    assert question_text(row, mode, wording, show_options) == text


def test_unknown_mode_or_wording_is_refused():
    with pytest.raises(ValueError, match=r"prompt.mode=guess"):
        question_text(ROOM, "guess", "eval", True)
    with pytest.raises(ValueError, match=r"prompt.wording=test"):
        question_text(ROOM, "vanilla", "test", True)


def test_target_is_the_word_or_the_letter_of_shown_options():
    assert target_text(LEFT) == "right"
    assert target_text(LEFT, show_options=True) == "B"
    assert target_text(LEFT, show_options=True, answer="left") == "A"
    assert target_text(ROOM, show_options=True) == "12.5"


def test_think_target_wraps_reasoning_and_answer():
    row = replace(ROOM, reasoning="Five by two and a half.")
    assert target_text(row, "think") == "<think>Five by two and a half.</think><answer>12.5</answer>"
    assert target_text(row, "observe") == "<observe>Five by two and a half.</observe><answer>12.5</answer>"
    with pytest.raises(DataError, match="reasoning=null"):
        target_text(ROOM, "think")
