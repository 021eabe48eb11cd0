"""The table of a benchmark: micro and macro means, tasks of several types, chance, intervals by scene."""

import math

import pytest

from vsgrpo.evaluation.accuracy import Scored, make_cells


def _means(cells):
    return {name: cell.mean for name, cell in cells.items()}


def test_micro_and_macro_by_hand():
    scores = {"count": (1, 1, 0), "near": (1,), "far": (0, 1), "path": (0.5,)}
    questions = [Scored(kind, f"s{i}", score) for kind, own in scores.items() for i, score in enumerate(own)]
    cells = make_cells(questions, {"distance": ("near", "far"), "none": ("nobody asks",)})
    # distance: (1 + 0.5) / 2; a task without questions is none; count and path are tasks of their own
    assert _means(cells["tasks"]) == pytest.approx({"distance": 0.75, "count": 2 / 3, "path": 0.5})
    assert _means(cells["types"]) == pytest.approx({"count": 2 / 3, "far": 0.5, "near": 1.0, "path": 0.5})
    assert cells["means"]["micro"].mean == pytest.approx(4.5 / 7)  # 1 + 1 + 0 + 1 + 0 + 1 + 0.5
    assert cells["means"]["macro"].mean == pytest.approx((0.75 + 2 / 3 + 0.5) / 3)
    assert cells["tasks"]["distance"].n == 3 and cells["means"]["macro"].n == 7
    # the scores of distance sum up to 1 + 0 + 1, which its mean (of two types) times its questions, 2.25, does not say
    assert [cells["tasks"][name].correct for name in ("distance", "count", "path")] == [2, 2, 0.5]
    assert cells["means"]["macro"].correct == cells["means"]["micro"].to_json()["correct"] == 4.5


def test_chance_is_taken_out_over_all_questions_together():
    # right of 2, wrong of 4, right of 4: (1/2 - 1/4 + 3/4) / (1/2 + 3/4 + 3/4) = 1 / 2; a mean of parts would differ
    questions = [Scored("a", "1", 1.0, 0.5), Scored("b", "2", 0.0, 0.25), Scored("b", "3", 1.0, 0.25)]
    cells = make_cells(questions, {}, above_chance=True)
    assert cells["means"]["chance_adjusted"].mean == pytest.approx(0.5)
    assert cells["means"]["micro"].mean == pytest.approx(2 / 3)
    assert _means(cells["types"]) == pytest.approx({"a": 1.0, "b": (-0.25 + 0.75) / 1.5})
    assert cells["types"]["b"].correct == 1 and cells["means"]["chance_adjusted"].correct == 2


def test_groups_may_hold_a_question_more_than_once():
    questions = [
        Scored("q", "1", 1.0, groups={"skill": ("algebra", "geometry"), "level": ("easy",)}),
        Scored("q", "2", 0.0, groups={"skill": ("geometry",), "level": ("easy",)}),
    ]
    cells = make_cells(questions, {})
    assert _means(cells["skill"]) == {"algebra": 1.0, "geometry": 0.5} and cells["level"]["easy"].n == 2
    assert cells["means"]["micro"].n == 2


def test_intervals_resample_scenes_not_questions():
    # 100 questions of 4 scenes, each scene all right or all wrong: with single questions the interval is five times
    # narrower (sqrt(25)).
    by_scene = [Scored("q", f"s{i % 4}", float(i % 4 < 2)) for i in range(100)]
    alone = [Scored("q", f"s{i}", float(i % 4 < 2)) for i in range(100)]
    wide, narrow = (make_cells(each, {})["means"]["micro"] for each in (by_scene, alone))
    assert (wide.mean, narrow.mean) == (0.5, 0.5)
    assert (wide.low, wide.high) == (0.0, 1.0)  # 4 scenes: 0 right in 1 of 16 draws
    assert narrow.high - narrow.low == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 100), rel=0.1)
