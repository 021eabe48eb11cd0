"""Filters of build-cot, one by one, and the repair of connectives."""

import resource

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsgrpo.config.build import FILTER_NAMES, FilterSection
from vsgrpo.config.compose import load_config
from vsgrpo.data.row import Row
from vsgrpo.vision_r1.build import count_reflection
from vsgrpo.vision_r1.filters import (
    FILTERS,
    check_answer,
    check_contradiction,
    check_language,
    check_length,
    check_reference,
    check_repetition,
    judge,
    read_candidate,
    repair_connectives,
    stated_answer,
)

BOUNDS = FilterSection([*FILTERS], 20, 48_000, 0.005, 0.05, 10.0, 5)
THOUGHT = "The chair stands in the corner of the room and the table is two steps away from it."


def make(answer="5", kind="number", options=None, ground_truth=None, unit=None) -> Row:
    truth = ground_truth or answer
    media = ({"kind": "image", "path": "a.png"},)
    names = {"schema_version": 1, "id": "1", "dataset": "d", "split": "train", "scene_name": "s", "room": "r"}
    asked = {"question_type": "t", "question": "q?", "options": options, "ground_truth": truth, "answer": answer}
    return Row(**names, **asked, answer_kind=kind, unit=unit, media=media)


def read(thought=THOUGHT, answer="5", row=None):
    return read_candidate(row or make(), f"<think>{thought}</think><answer>{answer}</answer>")


def test_a_good_chain_passes_every_filter():
    assert judge(read(), BOUNDS).failed == {}


@pytest.mark.parametrize(
    ("text", "reasoning", "finish", "problem"),
    [
        ("<think>a</think><answer>5</answer>", None, "stop", None),
        ("a</think><answer>5</answer>", None, "stop", None),  # templates that open the thought themselves
        ("<answer>5</answer>", "a", "stop", None),  # endpoints that part the thought
        ("so \\boxed{5}", "a", "stop", None),
        ("<think>a</think><answer>5</answer>", None, "length", "not finished (length)"),
        ("<answer>5</answer>", None, "stop", "no <think> part"),
        ("the answer is 5", "a", "stop", "no <answer> part"),
        ("", None, "stop", "no <think> part"),
        ("<think>a</think><answer>5</answer><answer>6</answer>", None, "stop", "repeated tags"),
        ("<think>a<think>b</think><answer>5</answer>", None, "stop", "repeated tags"),
        ("<think>a</think><answer><think>5</answer>", None, "stop", "nested tags"),
    ],
)
def test_format(text, reasoning, finish, problem):
    assert read_candidate(make(), text, reasoning, finish).problem == problem


def test_answer_is_judged_by_the_scorer():
    assert check_answer(read(answer="5.2"), BOUNDS) is None  # 4 % off: within the strictest of ten thresholds
    assert "is not" in (check_answer(read(answer="5.3"), BOUNDS) or "")  # 6 %
    chair = make("chair", "choice", ("table", "chair"), "B")
    assert [check_answer(read(answer=x, row=chair), BOUNDS) is None for x in ("B", "chair", "A", "table")] == [
        True,
        True,
        False,
        False,
    ]
    half = make("\\frac{1}{2}", "text")
    assert check_answer(read(answer="0.5", row=half), BOUNDS) is None
    assert check_answer(read(answer="0.6", row=half), BOUNDS)


def test_length_language_and_repetition():
    assert "fewer than 20" in (check_length(read("short"), BOUNDS) or "")
    assert "more than" in (check_length(read("x" * 48_001), BOUNDS) or "")
    assert "foreign" in (check_language(read(THOUGHT + " 椅子在房间的角落里"), BOUNDS) or "")
    assert check_language(read(THOUGHT + " The angle \u03b1 is 30\u00b0."), BOUNDS) is None
    french = "la chaise se trouve dans le coin de la salle et la table est devant elle mais plus loin que le lit vert"
    assert "English" in (check_language(read(french), BOUNDS) or "")
    assert "compresses" in (check_repetition(read("I look again. " * 200), BOUNDS) or "")
    varied = " ".join(f"The object number {i} stands {i * 37 % 101} cm off the wall." for i in range(40))
    assert check_repetition(read(varied), BOUNDS) is None
    looping = varied + " It is what the picture shows to me here." * 7
    assert "6 times" in (check_repetition(read(looping), BOUNDS) or "")


@pytest.mark.parametrize(
    ("thought", "stated"),
    [
        ("So the answer is 7. Done.", "7"),
        ("The answer is 7. Wait, no. The answer is 8.", "8"),
        ("The answer is 8. Or the answer is 7? Hmm.", "8"),  # a question is no statement
        ("The answer is 8. The answer is not 7.", "8"),
        ("Hence \\boxed{\\frac{1}{2}}.", "\\boxed{\\frac{1}{2}}"),
        ("Nothing said.", None),
    ],
)
def test_stated_answer_is_the_last_one_not_taken_back(thought, stated):
    assert stated_answer(thought) == stated


def test_contradiction_compares_what_can_be_read_only():
    assert "states '7'" in (check_contradiction(read("So the answer is 7."), BOUNDS) or "")
    assert check_contradiction(read("So the answer is 5 chairs."), BOUNDS) is None
    assert check_contradiction(read("So the answer is as before."), BOUNDS) is None
    assert "gives up" in (check_contradiction(read("It cannot be determined from here."), BOUNDS) or "")
    chair = make("chair", "choice", ("table", "chair"), "B")
    assert check_contradiction(read("So the answer is the table.", "chair", chair), BOUNDS)
    assert check_contradiction(read("So the answer is the chair, not the table.", "B", chair), BOUNDS) is None
    assert check_contradiction(read("The answer is B.", "chair", chair), BOUNDS) is None
    letter = make("C", "text")
    assert check_contradiction(read("The answer is B.", "C", letter), BOUNDS)
    assert check_contradiction(read("Thus \\boxed{\\frac{2}{4}}.", "0.5", make("0.5", "text")), BOUNDS) is None
    in_cm = make("3.5", unit="m")
    assert check_contradiction(read("The answer is 350 cm.", "3.5", in_cm), BOUNDS) is None


@pytest.mark.parametrize(
    "text",
    [
        "According to the description, it is red.",
        "As described, it is red.",
        "The given answer is 5.",
        "The ground truth is 5.",
    ],
)
def test_reference_to_what_the_model_will_not_have(text):
    assert "refers to" in (check_reference(read(f"{THOUGHT} {text}"), BOUNDS) or "")
    assert check_reference(read(f"{THOUGHT} The side is given as 5 in the image."), BOUNDS) is None


@pytest.mark.parametrize(
    ("before", "after", "kinds"),
    [
        ("So, so we see it.", "So, so we see it.".replace("So, so", "So"), {"doubled": 1}),
        ("It is so. But however, it holds.", "It is so. However, it holds.", {"clash": 1}),
        ("Wait, wait, wait. It holds.", "Wait. It holds.", {"stutter": 1}),
        ("Wait, wait. It holds.", "Wait, wait. It holds.", {}),
        ("However, it holds.", "It holds.", {"start": 1}),
        ("It holds. Therefore,", "It holds.", {"dangling": 1}),
        ("The sofa also allows sand and land.", "The sofa also allows sand and land.", {}),
    ],
)
def test_connectives(before, after, kinds):
    assert repair_connectives(before) == (after, kinds)


@given(st.text(alphabet="so, but.wait howevrth\n", max_size=80))
@settings(max_examples=50, deadline=None)
def test_repair_is_done_once(text):
    once, _ = repair_connectives(text)
    assert repair_connectives(once) == (once, {})


def test_words_of_self_reflection_are_whole_words_in_any_case():
    counts = count_reflection("Wait, I wait; awaiting waits. Hmm. A mistake! Checked. check")
    assert counts == {"Wait": 2, "Hmm": 1, "Mistake": 1, "Alternatively": 0, "Check": 1}


def test_names_in_the_config_are_the_filters():
    assert tuple(FILTERS) == FILTER_NAMES
    config = load_config("build_cot", ["data=d", "output=o"])
    assert tuple(config.filters.names) == FILTER_NAMES


@given(st.text(max_size=200), st.text(max_size=20))
@settings(max_examples=50, deadline=None)
def test_no_text_raises(thought, answer):
    for row in (make(), make("chair", "choice", ("table", "chair"), "B"), make("x+1", "text")):
        judge(read_candidate(row, f"<think>{thought}</think><answer>{answer}</answer>"), BOUNDS)
        judge(read_candidate(row, thought, answer), BOUNDS)


@pytest.mark.slow
def test_memory_is_flat_in_the_number_of_rows():
    def run(number: int) -> None:
        for i in range(number):
            steps = [f"Step {j}: the side {j} is {(i * 7 + j * 13) % 97} cm long, so we go on." for j in range(50)]
            judge(read(" ".join(steps)), BOUNDS)  # 2,800 characters

    run(200)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run(5_000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024  # KiB; the chains alone are 14 MiB
