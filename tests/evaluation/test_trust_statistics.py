import itertools
import random
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsgrpo.evaluation.trust.statistics import (
    Answered,
    drop,
    gap,
    intervals,
    join_arms,
    macro_weights,
    means,
    removals,
    sign_flip_p,
)
from vsgrpo.spatial.question_types import type_names
from vsgrpo.spatial.scoring import aggregate

COUNT, ROOM, EASY, HARD = (
    *("object_counting", "room_size_estimation"),
    *("object_rel_direction_easy", "object_rel_direction_hard"),
)


def answered(scores, kinds, scenes, **others):
    arms = {"vision": np.array(scores, float), **{name: np.array(v, float) for name, v in others.items()}}
    return Answered(tuple(f"{i}" for i in range(len(kinds))), tuple(kinds), tuple(scenes), arms)


def test_both_means_by_hand():
    kinds = [COUNT, COUNT, COUNT, ROOM, EASY, HARD, HARD]
    found = means(kinds, np.array([1.0, 0.4, 0.1, 0.8, 1.0, 0.0, 1.0]))
    # Micro: 4.3 / 7. Macro: counting 1.5 / 3 = .5, room .8, direction the mean of easy 1 and hard .5 = .75:
    # (.5 + .8 + .75) / 3 = 2.05 / 3.
    assert found["micro"] == pytest.approx(4.3 / 7)
    assert found["macro"] == pytest.approx(2.05 / 3)
    assert found["object_rel_direction"] == pytest.approx(0.75)


@given(st.lists(st.tuples(st.sampled_from(type_names()), st.floats(0, 1)), min_size=1, max_size=40))
def test_macro_weights_sum_rows_up_to_the_mean_of_tasks(rows):
    kinds, scores = [kind for kind, _ in rows], np.array([score for _, score in rows])
    by_type = {kind: scores[[k == kind for k in kinds]].tolist() for kind in kinds}
    assert macro_weights(kinds) @ scores == pytest.approx(aggregate(by_type)["overall"])
    assert macro_weights(kinds).sum() == pytest.approx(1)


def test_only_rows_that_all_arms_answered_are_compared():
    rows = [("a", COUNT, "s0"), ("b", COUNT, "s0"), ("c", ROOM, "s1")]
    joined, lacks = join_arms(rows, {"vision": {"c": 0.3, "a": 1.0, "b": 0.5}, "blind": {"c": 0.1, "a": 0.0}})
    assert (joined.ids, joined.kinds, joined.scenes) == (("a", "c"), (COUNT, ROOM), ("s0", "s1"))
    assert joined.arms["vision"].tolist() == [1.0, 0.3] and joined.arms["blind"].tolist() == [0.0, 0.1]
    assert lacks == {"vision": 0, "blind": 1}


def test_an_interval_agrees_with_resampled_lists_of_scenes():
    # Independent: scenes drawn one at a time with another generator, rows put into lists, means taken of those.
    rng = random.Random(7)
    scenes = [f"s{rng.randrange(12)}" for _ in range(90)]
    kinds = [rng.choice([COUNT, ROOM]) for _ in scenes]
    scores = [rng.random() * (0.3 + 0.7 * (int(scene[1:]) % 2)) for scene in scenes]
    named = sorted(set(scenes))
    of = {scene: [i for i, other in enumerate(scenes) if other == scene] for scene in named}
    drawn = {"micro": [], "macro": []}
    for _ in range(4000):
        rows = [i for scene in rng.choices(named, k=len(named)) for i in of[scene]]
        drawn["micro"].append(statistics.mean(scores[i] for i in rows))
        parts = [[scores[i] for i in rows if kinds[i] == kind] for kind in (COUNT, ROOM)]
        drawn["macro"].append(statistics.mean(statistics.mean(part) for part in parts if part))
    found = intervals({"vision": np.array(scores)}, kinds, scenes)["vision"]
    for mean, values in drawn.items():
        cuts = statistics.quantiles(values, n=40)
        low, high = cuts[0], cuts[-1]
        assert found[mean] == pytest.approx((low, high), abs=0.12 * (high - low)), mean
        assert found[mean][0] < statistics.mean(values) < found[mean][1]


def test_the_interval_of_a_gap_is_paired():
    # Every row's vision score is its blind score plus .25: unpaired arms spread, their difference does not.
    scenes = [f"s{i // 3}" for i in range(30)]
    blind = [(i % 7) / 10 for i in range(30)]
    both = answered([value + 0.25 for value in blind], [COUNT] * 30, scenes, blind=blind)
    found = gap(both, "vision", "blind")
    assert found["value"]["micro"] == pytest.approx(0.25)
    assert found["interval"]["micro"] == pytest.approx((0.25, 0.25))
    # All ten scene sums are .75: only two of the 2 ** 10 signs are as far from 0, p is about 1 / 512.
    assert found["p"]["micro"] == pytest.approx(1 / 512, abs=4 * (1 / 512 / 10_000) ** 0.5)


@pytest.mark.parametrize("seed", range(4))
def test_sign_flips_agree_with_all_of_them(seed):
    rng = np.random.default_rng(seed)
    scenes = [f"s{i}" for i in rng.integers(0, 9, 40)]
    differences = rng.normal(0.1 * seed, 1, 40)
    sums = [sum(d for d, s in zip(differences, scenes, strict=True) if s == scene) for scene in sorted(set(scenes))]
    every = [abs(sum(map(lambda s, d: s * d, signs, sums))) for signs in itertools.product((-1, 1), repeat=len(sums))]
    exact = sum(value >= abs(sum(sums)) - 1e-9 for value in every) / len(every)
    spread = (exact * (1 - exact) / 10_000) ** 0.5
    assert sign_flip_p(differences, scenes) == pytest.approx(exact, abs=4 * spread + 2e-4)


def test_sign_flips_by_hand():
    # Three scenes that differ by 1 each: of 8 signs two (all up, all down) reach 3. Rows of one scene flip together:
    # were the six rows flipped one by one it would be 2 of 64.
    assert sign_flip_p(np.full(6, 0.5), ["a", "a", "b", "b", "c", "c"]) == pytest.approx(0.25, abs=0.02)
    assert sign_flip_p(np.zeros(4), ["a", "b", "c", "d"]) == 1  # no difference: every flip is as far
    # One scene alone cannot show anything: both signs are as far.
    assert sign_flip_p(np.array([0.7, 0.9]), ["a", "a"]) == 1


@settings(max_examples=20)
@given(st.integers(0, 40), st.permutations([f"{i}" for i in range(12)]))
def test_removals_depend_on_ids_and_not_on_the_order_of_rows(num, ids):
    num = num % 12
    scores = np.array([int(name) / 12 for name in ids])
    rows = Answered(tuple(ids), (COUNT,) * 12, ("s",) * 12, {"blind": scores})
    found = removals(rows, "blind", num)
    # Independent: ids sorted as texts ("10" stands before "2"), r-th removal by default_rng(r).
    order = sorted(ids)
    left = []
    for seed in range(10):
        gone = {order[i] for i in np.random.default_rng(seed).choice(12, num, replace=False)}
        left.append(statistics.mean(int(name) / 12 for name in order if name not in gone))
    assert found["micro"] == pytest.approx({"mean": statistics.mean(left), "sd": statistics.stdev(left)})
    assert found["macro"] == pytest.approx(found["micro"])  # one task


def test_the_blind_drop_beside_removals_at_random():
    # Ten counting rows, of which a blind model has six right; the four rows it has right in scene s1 are pruned.
    blind = [1, 1, 1, 1, 1, 1, 0, 0, 0, 0]
    rows = answered([1.0] * 10, [COUNT] * 10, ["s1"] * 4 + ["s0"] * 6, blind=blind)
    found = drop(rows, np.array([False] * 4 + [True] * 6), "blind")
    assert found["removed"] == 4
    # full .6; kept 2 of 6; the drop is .6 - 1/3.
    assert found["full"]["micro"] == pytest.approx(0.6) and found["kept"]["micro"] == pytest.approx(1 / 3)
    assert found["drop"]["micro"] == pytest.approx(0.6 - 1 / 3)
    # At random nothing is lost on average: sd of one removal is sqrt(.24 / 6 * 4 / 9) = .13, of the mean of ten .042.
    assert abs(found["random"]["micro"]["mean"]) < 4 * 0.042
    assert found["random"]["micro"]["sd"] == pytest.approx(0.13, rel=0.6)
