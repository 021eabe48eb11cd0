"""Model text to answers: the official scorer's reading, tags, units; nothing raises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsgrpo.spatial.answers import (
    NUMBER_WORDS,
    PROMPT_MODES,
    SCORERS,
    lenient_letter,
    lenient_number,
    lmms_number,
    official_fuzzy,
    official_number,
    parse_answer,
)
from vsgrpo.spatial.question import UNITS
from vsgrpo.spatial.question_types import QUESTION_TYPES, answer_kind_of
from vsgrpo.spatial.scoring import mra, mra_many, score


@pytest.mark.parametrize(
    ("text", "expected"),
    [("A. chair", "A"), ("\nA", "A"), ("  A", ""), ("(A)", "(A)"), ("A\nB", "A\nB"), ("3.5.", "3.5"), ("", "")],
)
def test_official_fuzzy_splits_at_the_first_space_only(text, expected):
    assert official_fuzzy(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("3", 3.0), ("3.", 3.0), ("3 meters", 3.0), ("1e2", 100.0), (".5", 0.5), ("3m", None), ("3,000", None)],
)
def test_official_number(text, expected):
    assert official_number(text) == expected


def test_vanilla_reads_the_whole_text():
    answer = parse_answer("Trash Can.\n", "vanilla")
    assert (answer.word, answer.number, answer.letter, answer.is_tagged) == ("trash can", None, None, True)
    assert parse_answer("<answer>3</answer>", "vanilla").number is None


@pytest.mark.parametrize("mode", ["think", "observe"])
def test_tagged_modes_read_the_last_answer(mode):
    text = f"<{mode}>maybe <answer>2</answer>, no</{mode}>\n<answer> 3 </answer><|im_end|>"
    answer = parse_answer(text, mode)
    assert (answer.text, answer.number, answer.is_tagged) == ("3", 3.0, True)


@pytest.mark.parametrize("text", ["3", "<answer>3", "</answer>3<answer>", "answer>3</answer>"])
def test_tagged_modes_read_nothing_without_a_closed_tag(text):
    answer = parse_answer(text, "think")
    assert (answer.text, answer.number, answer.word, answer.is_tagged) == ("", None, "", False)


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("3.5 m", "m"),
        ("3.5 meters", "m"),
        ("350 cm", "cm"),
        ("20 square meters", "m2"),
        ("20 m2", "m2"),
        ("20 m^2", "m2"),
        ("3", None),
        ("3 chairs", None),
        ("m", None),
        ("12 centimeters.", "cm"),
        ("0.4 m^3", "m3"),
        ("0.4 m\u00b3", "m3"),
        ("0.4 cubic meters", "m3"),
        ("35 degrees", "degrees"),
        ("35 \u00b0", "degrees"),
    ],
)
def test_unit_after_the_number(text, unit):
    assert parse_answer(text).unit == unit


def test_letters_and_numbers_that_are_none():
    assert parse_answer("b. chair").letter == "B"
    assert parse_answer("chair").letter is None
    assert parse_answer("nan").number is None
    assert parse_answer("inf").number is None


def test_unknown_mode_is_the_callers_mistake():
    with pytest.raises(ValueError, match="mode='cot'"):
        parse_answer("3", "cot")


pieces = st.sampled_from(["<answer>", "</answer>", "<think>", "</think>", "3", ".", "m", " ", "\n", "1e999", "\ud800"])


@settings(max_examples=50)
@given(st.one_of(st.text(), st.lists(pieces, max_size=30).map("".join)))
def test_parse_never_raises(text):
    for mode in PROMPT_MODES:
        parse_answer(text, mode)


def test_parse_is_fast_on_repeated_open_tags():
    assert parse_answer("<answer>" * 50_000, "think").text == ""


# --- The three scorers on every string of the benchmark's scorer table ---


OPTIONS = ("chair", "trash can", "can", "bed")


@pytest.mark.parametrize(
    ("text", "official", "lenient"),
    [(text, 1, 1) for text in ("A", "A.", "A. chair", "\nA", "a", "A ", "A...")]
    + [(text, 0, 1) for text in ("  A", "(A)", "A)", "A,", "**A**", "A\nB", "Answer: A", "<answer>A</answer>")]
    + [("A:", 0, 1), ("The answer is (A).", 0, 1), ("Option A is nearest", 0, 1), ("It is the chair.", 0, 1)]
    + [("<think>B or A?</think><answer>\nA</answer>", 0, 1), ("<answer>A", 0, 1), ("$\\boxed{A}$", 0, 1)]
    + [(text, 0, 0) for text in ("", "B", "B:", "D. chair", "the chair or the bed", "sofa", "A-frame tent (B)")],
)
def test_letters(text, official, lenient):
    # lmms-eval reads letters as the official scorer does.
    scores = {name: score(name, "object_rel_distance", text, "A", OPTIONS) for name in SCORERS}
    assert scores == {"official": official, "lmms": official, "lenient": lenient}


@pytest.mark.parametrize(
    ("text", "official", "lmms", "lenient"),
    [
        ("3", 3, 3, 3),
        ("3.", 3, 3, 3),
        ("3 meters", 3, 3, 3),
        ("1e2", 100, 1, 100),
        (".5", 0.5, 5, 0.5),
        ("3m", None, 3, 3),
        ("three", None, 3, 3),
        ("3\nmeters", None, 3, 3),
        ("3,000", None, 3, 3000),
        ("about 3", None, 3, 3),
        ("a hundred and five", None, 105, 105),
        ("two or 3", None, 2, 2),
        ("room 12 has 3", None, 12, 12),
        ("2-3", None, 2, 2),
        ("-2.5 m", -2.5, -2.5, -2.5),
        ("Twenty-one thousand three hundred", None, 21300, 21300),
        ("There are 3 boxes", None, 3, 3),
        ("one apple, room 2", None, 1, 1),
        ("", None, None, None),
        ("nan", "nan", None, None),
        ("inf", "inf", None, None),
        ("many", None, None, None),
        ("an armchair", None, None, None),
        ("1,234.5", None, 1, 1234.5),
        ("2,5", None, 2, 2.5),
        ("1e999", "inf", 1, None),
        ("<think>4 or 5</think><answer>5</answer>", None, 4, 5),
        ("The answer is: **12** m", None, 12, 12),
        ("\\boxed{7}", None, 7, 7),
        ("e1", None, 1, None),
        ("-e12 of 3", None, 12, 3),
        (".5 m", None, 5, 0.5),
    ],
)
def test_numbers(text, official, lmms, lenient):
    # A target equal to what should be read scores 1, and the reading itself is compared where it is exposed.
    assert lmms_number(text) == lmms
    assert lenient_number(text) == lenient
    for name, read in (("official", official), ("lmms", lmms), ("lenient", lenient)):
        target = read if isinstance(read, (int, float)) and read > 0 else 3
        expected = 1.0 if isinstance(read, (int, float)) and read > 0 else 0.0
        assert score(name, "object_counting", text, str(target)) == expected


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("object_abs_distance", "350 cm", 3.5),
        ("object_abs_distance", "3.5m", 3.5),
        ("object_abs_distance", "10 feet", 3.048),
        ("object_size_estimation", "1.2 meters", 120),
        ("object_size_estimation", "120 cm", 120),
        ("object_size_estimation", "two meters", 200),
        ("room_size_estimation", "20 square meters", 20),
        ("room_size_estimation", "100 sq ft", 9.290304),
        ("room_size_estimation", "20 m^2", 20),
        ("object_counting", "3 m", 3),
    ],
)
def test_lenient_converts_units_to_the_one_asked_for(kind, text, value):
    assert lenient_number(text, kind) == pytest.approx(value)


def test_of_options_within_each_other_the_longest_counts():
    assert lenient_letter("The trash can is nearest", OPTIONS) == "B"
    assert lenient_letter("can", OPTIONS) == "C"


def test_number_words_are_the_cardinals():
    assert len(NUMBER_WORDS) == 30
    assert (NUMBER_WORDS["zero"], NUMBER_WORDS["nineteen"], NUMBER_WORDS["ninety"]) == (0, 19, 90)


@settings(max_examples=200)
@given(
    st.one_of(st.text(max_size=20), st.text("0123456789.,eE+- cm", max_size=8)),
    st.sampled_from([*QUESTION_TYPES]),
    st.sampled_from(["A", "B"]),
    st.floats(0.1, 99),
)
def test_no_text_raises(text, kind, letter, number):
    truth = {"choice": letter, "map": '<map>{"table": [[0, 3]]}</map>'}.get(answer_kind_of(kind), str(number))
    for name in SCORERS:
        assert 0.0 <= score(name, kind, text, truth, OPTIONS) <= 1.0


@settings(max_examples=50)
@given(st.lists(st.tuples(st.one_of(st.none(), st.integers(-9, 99), st.floats()), st.integers(1, 99)), min_size=1))
def test_many_at_once_are_the_same_floats(pairs):
    predictions = np.array([np.nan if p is None else p for p, _ in pairs], dtype=float)
    together = mra_many(predictions, np.array([float(t) for _, t in pairs]))
    assert together.tolist() == [mra(p, t) for p, t in pairs]


def test_unknown_scorers_and_types_are_refused():
    for kind, truth in (("route_planning", "A"), ("object_counting", "3")):
        with pytest.raises(ValueError, match="scorer='mine'"):
            score("mine", kind, "3", truth)
    with pytest.raises(ValueError, match="object_colour"):
        score("lmms", "object_colour", "red", "red")


def test_every_unit_of_rows_is_read_and_spoken():
    from vsgrpo.vision_r1.bridge import _OF_UNIT

    spoken = {"m": "2 meters", "m2": "2 square meters", "m3": "2 cubic meters", "cm": "2 cm", "degrees": "2 degrees"}
    spoken["s"] = "2 seconds"
    assert set(spoken) == set(UNITS) == set(_OF_UNIT)
    assert {text: parse_answer(text).unit for text in spoken.values()} == {text: unit for unit, text in spoken.items()}


def test_number_words_without_end_are_as_digits_without_end():
    text, digits = "hundred " * 200, "1" + "0" * 400  # 100 ** 200 = 10 ** 400: lmms-eval raises on the words
    assert lmms_number(text) == lmms_number(digits) == float("inf")
    assert lenient_number(text, "object_counting") is None
    assert [score(scorer, "object_counting", text, "3") for scorer in SCORERS] == [0, 0, 0]
