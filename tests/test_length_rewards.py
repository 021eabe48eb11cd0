"""Rewards of length by hand."""

import pytest

from vsgrpo.length_rewards import overlong_reward, token_range_reward
from vsgrpo.reward_loading import load_reward


@pytest.mark.parametrize(
    ("tokens", "reward"), [(0, 0), (68, 0), (69, -1 / 32), (84, -0.5), (99, -31 / 32), (100, -1), (130, -1)]
)
def test_overlong_completions_cost_up_to_one(tokens, reward):
    # a limit of 100, the last 32 tokens cost: (68 - n) / 32
    ids = [[1] * tokens]
    assert overlong_reward(["x"], completion_ids=ids, max_completion_length=100, overlong_tokens=32) == [reward]
    bound = load_reward("overlong", max_completion_length=100, overlong_tokens=32, numeric="mra")
    assert bound(completions=["x"], completion_ids=ids, answer=["3"]) == [reward]


def test_a_wanted_length_pays_where_two_of_a_group_answer_well():
    # row a: two right ones, of 320 and 512 tokens, and one of 513; row b: one right one alone; row c: 4 of 5 earns 0.75
    rows = [("a", "3", 320), ("a", "3", 512), ("a", "3", 513), ("a", "3", 319), ("a", "9", 400)]
    rows += [("b", "3", 400), ("b", "9", 400), ("c", "4", 400), ("c", "4", 400), ("c", "30", 400)]
    keys, said, lengths = zip(*rows, strict=True)
    gold = ["5" if key == "c" else "3" for key in keys]
    columns = {"completions": list(said), "answer": gold, "answer_kind": ["number"] * 10, "row_key": keys}
    columns |= {"completion_ids": [[1] * length for length in lengths]}
    assert token_range_reward(**columns) == [1, 1, 0, 0, 0, 0, 0, 1, 1, 0]
    bound = load_reward("token_range", token_range=[319, 319], numeric="mra")
    assert bound(**columns) == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
