"""EMA-GRPO's advantages by hand, and its state in checkpoints."""

import math

import pytest

from vsgrpo.errors import DataError
from vsgrpo.training.advantages import TypeSpread


def test_the_first_step_sets_the_spread_of_each_type():
    # counts 0, 1: mean .5, square .5, spread sqrt(.5 - .25) = .5; sizes .2, .4: .3, .1, sqrt(.1 - .09) = .1
    spread = TypeSpread(0.9)
    found = spread.advantages([0.0, 1.0, 0.2, 0.4], ["count", "count", "size", "size"], [True] * 4, 2)
    assert found == pytest.approx([-1.0, 1.0, -1.0, 1.0])
    assert spread.metrics() == pytest.approx({"reward_spread/count": 0.5, "reward_spread/size": 0.1})


def test_later_steps_are_averaged_in_before_they_are_divided():
    spread = TypeSpread(0.9)
    spread.advantages([0.0, 1.0], ["count"] * 2, [True] * 2, 2)
    # mean .9 * .5 + .1 * 1 = .55; square .9 * .5 + .1 * 1 = .55; spread sqrt(.55 - .3025) = .497494
    assert spread.advantages([1.0, 1.0], ["count"] * 2, [True] * 2, 2) == [0.0, 0.0]
    assert spread.spread("count") == pytest.approx(math.sqrt(0.55 - 0.3025))


def test_a_group_beyond_the_guard_is_divided_by_its_own_deviation():
    spread = TypeSpread(0.5)
    spread.moments["count"] = (0.5, 0.2501)  # spread .01
    # mean .5 * .5 + .5 * .5 = .5, square .5 * .2501 + .5 * .5 = .37505: spread .3536; no group is beyond 5
    assert max(spread.advantages([0.0, 1.0], ["count"] * 2, [True] * 2, 2)) == pytest.approx(0.5 / math.sqrt(0.12505))
    still = TypeSpread(0.9999)
    still.moments["count"] = (0.5, 0.2501)
    # spread about .0112, so .5 / .0112 is beyond 5: the group's own deviation is sqrt(.5) = .7071, plus 1e-4
    assert max(still.advantages([0.0, 1.0], ["count"] * 2, [True] * 2, 2)) == pytest.approx(0.5 / (0.5**0.5 + 1e-4))


def test_dead_rows_count_nowhere():
    spread = TypeSpread(0.9)
    rewards, seen = [0.0, 9.0, 1.0, 9.0, 1.0, 9.0], [True, False, True, True, True, False]
    # groups of three: (0, 1) with mean .5; (9, 1) with mean 5; moments of 0, 1, 9, 1
    found = spread.advantages(rewards, ["count"] * 6, seen, 3)
    scale = math.sqrt(83 / 4 - (11 / 4) ** 2)
    assert found == pytest.approx([-0.5 / scale, 0, 0.5 / scale, 4 / scale, -4 / scale, 0])
    alone = TypeSpread(0.9).advantages([1.0, 0.0], ["count"] * 2, [True, False], 2)
    assert alone == [0.0, 0.0]


def test_equal_rewards_are_divided_by_the_smallest_spread():
    spread = TypeSpread(0.9)
    assert spread.advantages([1.0, 1.0], ["count"] * 2, [True] * 2, 2) == [0.0, 0.0]
    assert spread.spread("count") == 1e-3


def test_the_state_is_read_back(tmp_path):
    spread, later = TypeSpread(0.9), TypeSpread(0.9)
    spread.advantages([0.1, 0.7], ["count"] * 2, [True] * 2, 2)
    spread.save(tmp_path)
    later.load(tmp_path)
    assert later.moments == spread.moments


@pytest.mark.parametrize("text", [None, "{", "{}", '{"schema_version": 1, "moments": {"count": {"mean": "a"}}}'])
def test_a_checkpoint_without_its_state_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "reward_spread.json").write_text(text)
    with pytest.raises(DataError, match="reward_spread"):
        TypeSpread(0.9).load(tmp_path)
