"""The official scorer's table, the paper's reward and the aggregation of a published block."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsgrpo.spatial.scorers import score
from vsgrpo.spatial.scoring import aggregate, exact_match, mra, relative_reward

numbers = st.floats(1e-3, 1e6, allow_nan=False)


@pytest.mark.parametrize("prediction", ["A", "A.", "A. chair", "\nA", "a", "A ", "A..."])
def test_official_letters_that_pass(prediction):
    assert score("official", "object_rel_distance", prediction, "A") == 1.0


@pytest.mark.parametrize(
    "prediction", ["  A", "(A)", "A)", "A,", "B:", "**A**", "A\nB", "Answer: A", "<answer>A</answer>", "", "B"]
)
def test_official_letters_that_fail(prediction):
    assert score("official", "route_planning", prediction, "A") == 0.0


@pytest.mark.parametrize(
    ("prediction", "truth", "expected"),
    [("3", "3", 1), ("3.", "3", 1), ("3 meters", "3", 1), ("1e2", "100", 1), (".5", "0.5", 1)]
    + [(text, "3", 0) for text in ("3m", "three", "3\nmeters", "3,000", "about 3", "nan", "inf", "", "-3", "0")],
)
def test_official_numbers(prediction, truth, expected):
    assert score("official", "object_abs_distance", prediction, truth) == expected


@pytest.mark.parametrize(
    ("prediction", "score"),
    # theta = .50 .55 .60 .65 .70 .75 .80 .85 .90 .95, passed where |p - t| / t <= 1 - theta
    [(100, 1.0), (105, 1.0), (110, 0.9), (125, 0.6), (150, 0.1), (50, 0.1), (151, 0.0), (0, 0.0), (-100, 0.0)],
)
def test_mra_by_hand(prediction, score):
    assert mra(prediction, 100) == pytest.approx(score, abs=1e-12)


def test_mra_uses_the_ninth_threshold_of_linspace():
    # linspace's 9th value is 0.8999999999999999: |9 - 10| / 10 = 0.1 <= 1 - it. A literal 0.9 gives
    # 1 - 0.9 = 0.09999999999999998 and 0.8.
    assert mra(9, 10) == pytest.approx(0.9)


def test_mra_of_a_zero_target_warns_instead_of_dividing():
    with pytest.warns(UserWarning, match="target of 0"):
        assert mra(0, 0) == 1.0
    with pytest.warns(UserWarning, match="target of 0"):
        assert mra(1, 0) == 0.0
    assert mra(None, 3) == 0.0


@pytest.mark.parametrize("target", [float("nan"), float("inf"), -1.0])
def test_bad_targets_raise(target):
    with pytest.raises(ValueError, match="target"):
        mra(1.0, target)
    with pytest.raises(ValueError, match="target"):
        relative_reward(1.0, target)


def test_unknown_type_or_gold_raises():
    with pytest.raises(ValueError, match="object_colour"):
        score("official", "object_colour", "red", "red")
    with pytest.raises(ValueError, match="three"):
        score("official", "object_counting", "3", "three")


@pytest.mark.parametrize(
    ("prediction", "target", "reward"),
    # 1 - |t - p| / min(t, p): 1 - 1/4, 1 - 1/4, 1 - 3/3, 1 - 5/3 -> 0
    [(4, 4, 1.0), (5, 4, 0.75), (4, 5, 0.75), (6, 3, 0.0), (8, 3, 0.0), (0, 3, 0.0), (-3, 3, 0.0), (None, 3, 0.0)],
)
def test_relative_reward_by_hand(prediction, target, reward):
    assert relative_reward(prediction, target) == pytest.approx(reward)


def test_relative_reward_of_what_is_no_number_is_zero():
    assert relative_reward(float("nan"), 3) == relative_reward(float("inf"), 3) == 0.0
    with pytest.raises(ValueError, match="target=0"):
        relative_reward(1.0, 0)


def test_exact_match_compares_whole_strings():
    assert exact_match(" Trash Can. ", "trash can") == 1.0
    assert exact_match("trash can..", "trash can") == 0.0
    assert exact_match("the trash can", "trash can") == exact_match("trash", "trash can") == 0.0


@settings(max_examples=50)
@given(numbers, numbers)
def test_scores_lie_between_zero_and_one_and_the_reward_is_symmetric(p, t):
    assert 0.0 <= mra(p, t) <= 1.0
    assert 0.0 <= relative_reward(p, t) <= 1.0
    assert relative_reward(p, t) == relative_reward(t, p)
    assert mra(t, t) == relative_reward(t, t) == 1.0


def test_aggregate_reproduces_a_published_block():
    block = {
        "obj_appearance_order": 0.7200647249190939,
        "object_abs_distance": 0.536810551558753,
        "object_counting": 0.7012367491166077,
        "object_rel_distance": 0.6,
        "object_size_estimation": 0.757607555089192,
        "room_size_estimation": 0.6590277777777778,
        "route_planning": 0.36082474226804123,
        "object_rel_direction": 0.7266381807446698,
    }
    table = aggregate({name: [value] for name, value in block.items()})
    assert table["overall"] == pytest.approx(0.6327762851842669, abs=1e-12)
    assert {name: table[name] for name in block} == block


def test_directions_are_averaged_unweighted():
    # Easy 1/1, medium 0/1, hard 1 of 2: (1 + 0 + .5) / 3 = .5, not 2 of 4 rows by weight; overall (.5 + .25) / 2.
    scores = {
        "object_rel_direction_easy": [1.0],
        "object_rel_direction_medium": [0.0, 0.0, 0.0],
        "object_rel_direction_hard": [1.0, 0.0],
        "object_counting": [0.5, 0.0],
        "route_planning": [],
    }
    assert aggregate(scores) == pytest.approx({"object_counting": 0.25, "object_rel_direction": 0.5, "overall": 0.375})


def test_aggregate_refuses_what_it_cannot_average():
    with pytest.raises(ValueError, match="no scores"):
        aggregate({})
    with pytest.raises(ValueError, match="colour"):
        aggregate({"colour": [1.0]})
    with pytest.raises(ValueError, match="both whole and by difficulty"):
        aggregate({"object_rel_direction": [1.0], "object_rel_direction_easy": [1.0]})


def test_best_constants_of_the_dev_rows_are_near_the_published_ones():
    # On all rows: count 61.8 (2), distance 31.6 (1.9), size 29.8 (93), room 33.1 (16.2); here on half of them.
    file = Path(__file__).resolve().parents[3] / "shared/data/vsibench_dev/test_dev.jsonl"
    if not file.is_file():
        pytest.skip("needs ../shared/data/vsibench_dev")
    published = {
        "object_counting": ("2", 0.618),
        "object_abs_distance": ("1.9", 0.316),
        "object_size_estimation": ("93", 0.298),
        "room_size_estimation": ("16.2", 0.331),
    }
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for kind, (constant, expected) in published.items():
        scores = [score("official", kind, constant, r["ground_truth"]) for r in rows if r["question_type"] == kind]
        assert aggregate({kind: scores})[kind] == pytest.approx(expected, abs=0.04)
