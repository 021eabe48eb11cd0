"""Maths answers by value: here, in threads, and in the child process that a bad answer gets killed."""

import signal
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsgrpo import maths
from vsgrpo.child import Child
from vsgrpo.errors import SetupError
from vsgrpo.maths import maths_equal, plain_number, strip_wrappers
from vsgrpo.rewards import hard_format_result_reward

pytest.importorskip("math_verify", reason="extra `math` is not installed")


@pytest.mark.parametrize(
    ("prediction", "target", "equal"),
    [
        ("14.0", "14", True),
        ("1,000", "1000", True),
        ("$\\boxed{14}$.", "14", True),
        ("(B)", "B", True),
        ("B. 30", "B", True),
        ("Option B", "B", True),
        ("choice (b)", "B", True),
        ("B (30)", "B", True),
        ("B (C)", "B", False),
        ("a (thing)", "A", False),
        ("Because", "B", False),
        ("chair", "table", False),
        ("", "1", False),
        ("0.5", "\\frac{1}{2}", True),
        ("-3/4", "-0.75", True),
        ("\\frac{1}{0}", "1", False),
        ("12\\sqrt{3}", "12*sqrt(3)", True),
        ("x=3", "3", True),
        ("50^\\circ", "50", True),
        ("(1,2)", "(2,1)", False),
        ("\\frac{", "1/2", False),
        ("1" * 600 + "/2", "1/2", False),
    ],
)
def test_answers_agree_by_value(prediction, target, equal):
    assert maths_equal(prediction, target) is equal


@pytest.mark.parametrize(
    ("prediction", "target", "equal"),
    [
        ("0", "1.6e-19", False),  # nothing is gained by saying 0
        ("3.2e-19", "1.6e-19", False),
        ("1.6 \\times 10^{-19}", "1.6e-19", True),
        ("1e400", "1e500", False),  # both are infinite as floats
        ("1e99999999999999999999", "1", False),
        ("12345678901234567", "12345678901234568", False),  # whole numbers of 17 digits are one float
        ("9007199254740993.0", "9007199254740992", False),
        ("100000000000000000000", "1e20", True),
        ("0.333333", "1/3", True),  # |0.333333 - 1/3| = 3.3e-7 = 1e-6 of 1/3
        ("0.33333", "1/3", False),  # 1e-5 of it
        ("1000000.5", "1000000", True),  # 5e-7
        ("1000001", "1000000", False),
        ("1 1/2", "1.5", True),
        ("-1 1/2", "-1.5", True),
        ("1\\frac{1}{2}", "3/2", True),
        ("\u00bd", "0.5", True),
        ("2\u00bd", "2.5", True),
        ("\u22125", "-5", True),
        ("10^2", "10", False),  # a power is not a unit
        ("2^3", "2", False),
        ("2^{3}", "8", True),
        ("10^{-3}", "0.001", True),
        ("-10^3", "-1000", True),
        ("3\u00b2", "3", False),
        ("3\u00b2", "9", True),
        ("1.5\u00d710\u00b3", "1500", True),
        ("1.6\u00d710\u207b\u00b9\u2079", "1.6e-19", True),
        ("1/2^2", "1/2", False),
        ("1 000", "1000", True),  # thousands set apart as ISO 80000 does
        ("-12\\,345.5", "-12345.5", True),
        ("1 200/300", "1.6667", False),
        ("1234 567", "1234567", False),  # thousands begin with three digits at most
        ("0.5 000", "0.5", False),
        ("\\frac12", "0.5", True),
        ("\u0661\u0662", "12", False),  # digits of another script are not read as these
    ],
)
def test_numbers_agree_by_relative_difference_and_whole_ones_exactly(prediction, target, equal):
    assert maths_equal(prediction, target) is equal
    assert maths_equal(target, prediction) is equal


@pytest.mark.parametrize(
    ("prediction", "target", "equal"),
    [
        ("20 cm^2", "20", True),
        ("20 cm\u00b2", "20 cm^2", True),
        ("20\\text{ cm}^2", "20", True),
        ("20 square centimeters", "20 cm^2", True),
        ("20 cm^2", "20 m^2", False),
        ("5 feet", "60 inches", False),
        ("5 m/s^2", "5", True),
        ("20 cm2", "20", True),
        ("20 m2", "20 m^2", True),
        ("20 cm3", "20 cm2", False),
        ("5 m22", "5", False),
        ("20 km per hour", "20 km/h", True),
        ("60 miles per hour", "60 mi/h", True),
        ("90 degrees", "90\u00b0", True),
        ("$20", "20", True),
        ("20 x", "20", False),  # a product, no unit
        ("1,5", "1.5", False),
    ],
)
def test_a_unit_that_one_side_names_is_passed_over(prediction, target, equal):
    assert maths_equal(prediction, target) is equal


@pytest.mark.parametrize(
    ("prediction", "target", "equal"),
    [
        ("(A) (B) (C) (D)", "A", False),
        ("(A) or (B)", "A", False),
        ("A. or B.", "A", False),
        ("A. 30 or B. 40", "A", False),
        ("A, B", "A", False),
        ("A. Vitamin B", "A", True),
        ("(a) (A)", "A", True),
        ("(A), B, C", "A", False),
        ("(a) (b)", "A", False),
        ("C. Both A and B", "C", True),  # letters inside the words of an option name no other one
        ("B. A and C", "B", True),
        ("D. A, B", "D", True),
        ("A. Vitamin C, D", "A", True),
        ("C. Figure (a)", "C", True),
        ("A, C", "A,C", True),
        ("C, A", "A, C", True),
        ("(A) and (C)", "A, C", True),
        ("A", "A, C", False),
        ("A, B, C", "A, C", False),
    ],
)
def test_more_than_one_letter_is_no_answer_but_to_a_question_for_several(prediction, target, equal):
    assert maths_equal(prediction, target) is equal


@given(st.fractions(min_value=-1000, max_value=1000, max_denominator=999), st.integers(1, 9))
def test_a_scaled_fraction_is_the_same_number_and_a_tenth_more_is_not(value, factor):
    text = f"{value.numerator}/{value.denominator}"
    assert maths_equal(f"{value.numerator * factor}/{value.denominator * factor}", text)
    if value:
        assert not maths_equal(f"{value.numerator * 11}/{value.denominator * 10}", text)


@pytest.mark.faults
def test_a_hanging_comparison_is_killed_and_the_next_one_works():
    start = time.monotonic()
    assert not maths_equal("9^{9^{9^{9}}}", "2\\sqrt{3}", timeout_s=1.0)
    assert time.monotonic() - start < 60  # the comparison itself would not end
    assert maths_equal("\\frac{2}{\\sqrt{3}}", "\\frac{2\\sqrt{3}}{3}")


def test_worker_threads_may_ask_at_once():
    found = []

    def ask(start: int) -> None:
        for i in range(start, start + 10):
            same = maths_equal(f"{i}\\sqrt{{4}}", str(2 * i))
            found.append(same and not maths_equal(f"{i}\\sqrt{{7}}", str(i)))

    threads = [threading.Thread(target=ask, args=(1 + 10 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 40


PIECES = [
    "/",
    "m",
    "m ",
    "cm2",
    "\u00b2",
    "^2",
    "^{2}",
    "\\circ",
    "^\\circ",
    "\\ ",
    "~",
    ". ",
    "\\text{ m}",
    "\\text{",
    "\\cdot",
]
PIECES += ["1", "1 ", "1,", "1,000", " 000", "1/", "1/2 ", "10^", "(A) ", "A, ", "or A ", "A. "]


@pytest.mark.parametrize("piece", PIECES)
def test_no_row_of_like_pieces_takes_time_that_doubles_with_each(piece):
    def give_up(*_):
        raise AssertionError(f"{piece!r}: still reading after 20 s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(20)  # microseconds are needed where it is right, centuries where it is not
    try:
        for text in (f"5 {piece * 200}!", f"A. {piece * 200}!"):
            maths._measure(text), maths.option_letter(text)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@given(st.text(max_size=40))
@settings(max_examples=50, deadline=None)
def test_no_text_raises(text):
    assert maths_equal(text, "7") in (True, False)
    plain_number(strip_wrappers(text))


def test_hard_format_result_needs_format_and_answer():
    completions = [
        "<think>a</think><answer>\\frac{1}{2}</answer>",  # both
        "<think>a</think><answer>0.4</answer>",  # wrong answer
        "so <think>a</think><answer>0.5</answer>",  # text outside
        "0.5",  # no tags
        "<think> </think><answer>0.5</answer>",  # empty thought
    ]
    columns = {"answer": ["0.5"] * 5, "answer_kind": ["text"] * 5}
    assert hard_format_result_reward(completions=completions, **columns) == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_hard_format_result_of_numbers_and_letters():
    # |4.2 - 4| / 4 = 0.05 passes all ten thresholds, |4.3 - 4| / 4 = 0.075 does not; -4 is no length.
    texts = [f"<think>a</think><answer>{x}</answer>" for x in ("4", "4.2", "4.3", "-4", "none")]
    columns = {"answer": ["4"] * 5, "answer_kind": ["number"] * 5}
    assert hard_format_result_reward(completions=texts, **columns) == [1.0, 1.0, 0.0, 0.0, 0.0]
    texts = [f"<think>a</think><answer>{x}</answer>" for x in ("chair", "B", "A")]
    columns = {"answer": ["chair"] * 3, "answer_kind": ["choice"] * 3, "ground_truth": ["B"] * 3}
    assert hard_format_result_reward(completions=texts, **columns) == [1.0, 0.0, 0.0]
    assert hard_format_result_reward(completions=texts, show_options=True, **columns) == [1.0, 1.0, 0.0]


def test_a_library_that_cannot_be_imported_scores_no_answer_as_wrong(tmp_path, monkeypatch):
    (tmp_path / "math_verify.py").write_text("raise ImportError('antlr4 of another version')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    child = Child(maths.import_library, maths.verify, is_silent=True)
    monkeypatch.setattr(maths, "_CHILD", child)
    with pytest.raises(SetupError, match="math-verify: cannot be imported \\(antlr4 of another version\\)"):
        maths_equal("\\sqrt{5}", "\\sqrt{17}")
    child.stop()


def test_without_the_library_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(maths.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match="math-verify"):
        maths_equal("\\sqrt{2}", "1")
