"""Rewards for maps by hand, and what of the other rewards a map changes."""

import math

import pytest

from vsgrpo.errors import DataError
from vsgrpo.map_rewards import has_map, map_published_reward, map_reward
from vsgrpo.rewards import (
    accuracy_reward,
    format_reward,
    hard_format_result_reward,
    plain_reward,
)

TRUE = '<map>{"bed": [[0, 0]], "chair": [[9, 9], [5, 5]]}</map>'
ONE_OFF = '<map>{"bed": [[1, 0]], "chair": [[9, 9], [5, 4]]}</map>'  # strict: (2/3 + 1 + 2/3) / 3 = 7/9
BLIND = '<map>{"bed": [[5, 5]], "chair": [[5, 5], [5, 5]]}</map>'
FAR = '<map>{"lamp": [[5, 5]]}</map>'  # no category that is asked for: both scores are 0
BESIDES = {"bed": [[0, 0]], "chair": [[9, 9], [5, 5]]}


def test_a_row_whose_answer_is_a_map():
    rows = {"answer": [TRUE] * 5, "answer_kind": ["map"] * 5}
    said = [TRUE, ONE_OFF, FAR, "left", TRUE[5:-6]]  # without tags there is no map
    strict = [1.0, pytest.approx(7 / 9), 0.0, 0.0, 0.0]
    assert map_reward(said, **rows) == strict == accuracy_reward(said, **rows)
    # published: (1 - 1/14.142 + 1 + 1 - 1/14.142) / 3
    published = [1.0, pytest.approx(1 - math.sqrt(2) / 30), 0.0, 0.0, 0.0]
    assert map_published_reward(said, **rows) == published
    # All in the centre: the bed 7.07 cells off; the chairs 0 and 5.66. Strict (0 + 1 + 0) / 3.
    centre = {"answer": [TRUE], "answer_kind": ["map"]}
    assert map_reward([BLIND], **centre) == [pytest.approx(1 / 3)]
    assert map_published_reward([BLIND], **centre) == [pytest.approx((0.5 + 1 + 0.6) / 3)]


def test_in_tagged_modes_the_answer_holds_the_map_of_a_map_row():
    said = f"<think>{BLIND}</think><answer>{TRUE}</answer>"
    only_thought = f"<think>{TRUE}</think><answer>there</answer>"
    rows = {"answer": [TRUE] * 2, "answer_kind": ["map"] * 2, "prompt_mode": "think"}
    assert map_reward([said, only_thought], **rows) == [1.0, 0.0] == accuracy_reward([said, only_thought], **rows)
    assert format_reward([said, only_thought], prompt_mode="think") == [1.0, 1.0]
    assert hard_format_result_reward([said, only_thought], **rows) == [1.0, 0.0]
    assert hard_format_result_reward(
        [f"<think>x</think><answer>{ONE_OFF}</answer>"], answer=[TRUE], answer_kind=["map"]
    ) == [0.0]


def test_a_map_beside_the_answer_may_stand_in_the_thought():
    rows = {"answer": ["3", "3", "bed", "3"], "answer_kind": ["number", "number", "choice", "number"]}
    maps = [BESIDES, BESIDES, BESIDES, None]
    said = [
        f"<think>{ONE_OFF}</think><answer>3</answer>",
        "<think>no</think><answer>3</answer>",
        f"bed {BLIND} {TRUE}",
        TRUE,
    ]
    assert map_reward(said, map=maps, prompt_mode="think", **rows) == [pytest.approx(7 / 9), 0.0, 1.0, None]
    assert map_reward(said, prompt_mode="think", **rows) == [None] * 4  # no column of that name


def test_the_published_reward_counts_the_map_where_the_answer_is_right():
    def reward(answer, thought, kind="number", gold="10"):
        said = f"<think>{thought}</think><answer>{answer}</answer>"
        rows = {"answer": [gold], "answer_kind": [kind], "map": [BESIDES], "prompt_mode": "think"}
        (found,) = map_published_reward([said], **rows)
        return found

    assert reward("10", TRUE) == 2.0
    assert reward("10", ONE_OFF) == pytest.approx(2 - math.sqrt(2) / 30)
    assert reward("10", "no map") == reward("10", TRUE[:-6]) == 1.0  # none there, or not closed
    assert reward("10", FAR) == 0.0  # a map of score 0 takes everything
    (eight,), (seven,) = (
        accuracy_reward([text], answer=["10"], answer_kind=["number"], numeric="mra") for text in ("8", "7")
    )
    # 20 % off passes the thresholds up to .75 or .8: 6 or 7 of ten, above .5; 30 % off 4 or 5, not above .5
    assert eight > 0.5 and reward("8", TRUE) == eight + 1.0
    assert 0 < seven <= 0.5 and reward("7", TRUE) == seven
    assert reward("bed", TRUE, "choice", "bed") == 2.0 and reward("lamp", TRUE, "choice", "bed") == 0.0
    assert map_published_reward(["10"], answer=["10"], answer_kind=["number"]) == [1.0]  # a row without a map


def test_a_true_map_that_is_none_is_refused():
    with pytest.raises(DataError, match=r"map=.*a map with points is needed"):
        map_reward([TRUE], answer=["3"], answer_kind=["number"], map=[{"bed": [[0, 10]]}])
    with pytest.raises(DataError, match="a map with points is needed"):
        map_reward([TRUE], answer=["<map>{}</map>"], answer_kind=["map"])
    with pytest.raises(DataError, match=r"row a/b: extra\.map='kitchen"):
        has_map("number", "kitchen.png", "row a/b")
    assert has_map("map", None, "") and has_map("number", BESIDES, "") and not has_map("number", None, "")


def test_a_plain_map_is_nothing_but_its_tags():
    said = [TRUE, f" {TRUE}\n", f"Here: {TRUE}", TRUE + ".", "<map>{}</map>", TRUE + TRUE]
    assert plain_reward(said, answer_kind=["map"] * 6) == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]


NUMBERS = [
    # prediction, target, relative, mra, linear, smooth, log_ratio
    ("10", "10", 1, 1, 1, 1, 1),
    ("9", "10", 1 - 1 / 9, 0.9, 0.9, 0.9, 1 - math.log2(10 / 9)),
    ("11", "10", 0.9, 0.9, 0.9, 10 / 11, 1 - math.log2(1.1)),
    ("5", "10", 0, 0.1, 0.5, 0.5, 0),
    ("20", "10", 0, 0, 0, 0.5, 0),
    ("0", "10", 0, 0, 0, 0, 0),
    ("-10", "10", 0, 0, 0, 0, 0),
    ("nan", "10", 0, 0, 0, 0, 0),
    ("1e999", "10", 0, 0, 0, 0, 0),
    ("10 cm", "10", 1, 1, 1, 1, 1),
    ("10cm", "10", 0, 0, 0, 0, 0),
    ("0", "0", 1, 1, 1, 1, 1),
    ("1", "0", 0, 0, 0, 0, 0),
]


@pytest.mark.parametrize("row", NUMBERS, ids=lambda row: f"{row[0]} of {row[1]}")
def test_numeric_rewards_by_hand(row):
    said, gold, *expected = row
    for numeric, value in zip(("relative", "mra", "linear", "smooth", "log_ratio"), expected, strict=True):
        (found,) = accuracy_reward([said], answer=[gold], answer_kind=["number"], numeric=numeric)
        assert found == pytest.approx(value), numeric
