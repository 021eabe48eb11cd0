"""VLMEvalKit's readers: odd texts and what its code reads in them, found by running it (commit e8e78f05)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsgrpo.spatial.vlmevalkit_answers import REFUSED, easi_letter, easi_number, vlmevalkit_letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("**C**", "C"),
        ("(D)", "D"),
        ("B. the chair", "B"),
        ("The answer is B.", "B"),
        ("I think it is A", "A"),  # "I" is no letter of A to F
        ("It is A or B", ""),
        ("A chair", "A"),  # the only single letter in the line
        ("<answer>E</answer>", "E"),
        ("<answer>h. far</answer>", "H"),
        ("<think>A or C</think>\nC", "C"),
        ("<think>so it is (b)</think> nothing", "B"),
        ("Option A: left\nOption B: right\nSo: B", "B"),
        ("G", ""),
        ("", ""),
        ("left", ""),
    ],
)
def test_letters_as_vlmevalkit_reads_them(text: str, letter: str) -> None:
    assert easi_letter(text) == letter


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3", 3.0),
        ("from 2 to 4.5 m", 4.5),
        ("two chairs", 2.0),
        ("twenty-one", -1.0),  # "twenty" is 20, "one" is 1: "20-1", whose last number is -1
        ("12,000", 0.0),  # no thousands: the last number is 000
        ("3 m^2", 2.0),
        ("<answer>7 meters</answer> 9", 7.0),
        ("<think>about 4</think> It is 5.", 5.0),
        ("<think>about 4</think> none", 4.0),
        ("[3, 4]", 3.0),
        ("[3, 4", 4.0),
        ("[three]", None),
        ("1e3", 1000.0),
        ("many", None),
    ],
)
def test_numbers_as_vlmevalkit_reads_them(text: str, number: float | None) -> None:
    assert easi_number(text) == number


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", ""),  # words are compared as they are
        ("(A)", "A"),
        ("A.", "A"),
        ("`A`", ""),  # backticks stay at the word
        ("The answer is B", "B"),
        ("B is right since it is higher up", ""),  # the first of 8 words; no option's text
        ("the answer is b", "B"),
        ("The answer is blue", "B"),  # what follows the letter is not looked at
        ("The answer is C", ""),  # two options: no C
        ("A or B", ""),
        ("It is the dog", "B"),
        ("dog or red hat", ""),
        ("It is the dog, I am quite sure", ""),  # 30 characters, more than twice the 10 of the options
        ("Cannot determine the answer", REFUSED),
        ("Failed to obtain answer via API: dog", ""),  # 36 characters
        ("Z", REFUSED),
        ("", ""),
    ],
)
def test_letters_as_vlmevalkit_reads_them_beside_options(text: str, letter: str) -> None:
    assert vlmevalkit_letter(text, ["red hat", "dog"]) == letter


@given(st.text(max_size=60))
def test_no_text_raises(text: str) -> None:
    assert easi_letter(text) in ("", *"ABCDEFGHIJ")
    assert vlmevalkit_letter(text, ["red hat", "dog"]) in ("", "A", "B", REFUSED)
    easi_number(text)


def test_a_list_whose_number_has_no_decimal_text_has_none() -> None:
    assert easi_number("[0x" + "f" * 5000 + "]") is None  # str() refuses integers of more than 4,300 digits
