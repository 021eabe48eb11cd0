"""Letters as the harnesses read them; each expectation is derived from the harness's rules by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsgrpo.evaluation.letters import REFUSED, easi_letter, leading_letter, vlmevalkit_letter

OPTIONS = ["red hat", "dog"]
PIECES = ["A", "B", "b", "(", ")", ".", "`", "**", "answer is", "<answer>", "</answer>", "</think>", "\n", " ", "dog"]


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", "B"),  # a letter alone on a line may be small
        ("(A)", "A"),
        ("A.", "A"),
        ("``C``", "C"),
        ("**D**", "D"),
        ("A. right", "A"),
        ("The answer is B", "B"),
        ("the answer is b.", "B"),  # no capital stands alone: the phrase decides
        ("", None),
        ("right", None),
        ("A or B", None),  # two letters in the line, two in the text
        ("A bike", "A"),
        ("First A.\nThen B.", "B"),  # the last line that names one
        ("<answer>C. left</answer>", "C"),
        ("<answer>apple</answer>", "A"),  # the tag's first character, word or not
        ("<answer>J</answer>", "J"),
        ("A then (B)</think>", "B"),
        ("<think>A</think>\nI see.\nD", "A"),  # a letter before </think> is looked for earlier than the last lines
        ("<think>maybe A here</think> So D.", "D"),
        ("Option A: dog\nOption B: cat", None),  # lines that list options name none
        ("答案：C", "C"),
        ("E", "E"),
        ("G", None),
    ],
)
def test_letter_that_easi_reads(text, letter):
    assert easi_letter(text) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", None),  # words are compared as they are
        ("(A)", "A"),
        ("A.", "A"),
        ("`A`", None),  # backticks stay at the word
        ("The answer is B", "B"),
        ("B is right since it is higher up", None),  # B is not among the last four words, no option's text
        ("the answer is b", "B"),
        ("The answer is blue", "B"),  # what follows the letter is not looked at
        ("The answer is C", None),  # two options: no C
        ("A or B", None),
        ("It is the dog", "B"),
        ("dog or red hat", None),
        ("It is the dog, I am quite sure", None),  # 30 characters, more than twice the 10 of the options
        ("Cannot determine the answer", REFUSED),
        ("Failed to obtain answer via API: dog", None),  # 36 characters: too long for the options' texts
        ("Z", REFUSED),
        ("", None),
    ],
)
def test_letter_that_vlmevalkit_reads_without_a_judge(text, letter):
    assert vlmevalkit_letter(text, OPTIONS) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b) dog", "B"),
        ("(A)", "A"),
        (" ( C", "C"),
        ("`A`", None),
        ("The answer is B", "T"),
        ("", None),
        ("1", None),
    ],
)
def test_leading_letter(text, letter):
    assert leading_letter(text) == letter


@given(st.lists(st.sampled_from(PIECES)).map("".join) | st.text())
def test_no_text_of_a_model_raises(text):
    assert easi_letter(text) in {None, *"ABCDEFGHIJ"}
    assert vlmevalkit_letter(text, OPTIONS) in {None, "A", "B", REFUSED}
    assert leading_letter(text) is None or len(leading_letter(text) or "") == 1
