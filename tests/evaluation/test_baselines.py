from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation_rows import official_rows
from vsgrpo.evaluation.benchmarks.vsibench import VsiBench
from vsgrpo.evaluation.run import derangement
from vsgrpo.evaluation.scores import best_constants, chance_scores, constant_scores, most_frequent
from vsgrpo.spatial.scoring import best_number, mra

DEV_HALF = Path(__file__).parents[3] / "shared/data/vsibench_dev/test_dev.jsonl"


@pytest.fixture
def kinds(write_benchmark):
    """One row of each kind: counting, room size, a choice of two."""
    return VsiBench.read(write_benchmark(official_rows(1))).rows


def with_truths(row, truths):
    return [replace(row, id=str(i), ground_truth=truth, answer=truth) for i, truth in enumerate(truths)]


def test_best_number_is_the_mra_optimum_by_hand(kinds):
    rows = with_truths(kinds[0], ["2", "2", "4"])
    # Constant 2: scores 1, 1 and |2-4|/4 = 0.5 <= 1 - 0.5 only: 0.1 -> mean 0.7.
    # Constant 3: |3-2|/2 = 0.5 -> 0.1 twice; |3-4|/4 = 0.25 -> thresholds .5 .. .75: 0.6 -> mean 0.8/3.
    # Constant 4: |4-2|/2 = 1 -> 0 twice; 1 -> mean 1/3.
    assert best_constants(rows) == {"object_counting": "2"}
    assert constant_scores(rows, {"object_counting": "2"})["object_counting"] == pytest.approx(0.7)
    assert constant_scores(rows, {"object_counting": "3"})["object_counting"] == pytest.approx(0.8 / 3)


def test_best_number_keeps_the_decimals_of_the_truths(kinds):
    # Truths 10.0 and 10.4: 10.2 is within 5 % of both (1 each), so is 10.0; the smallest of equals is taken.
    assert best_constants(with_truths(kinds[1], ["10.0", "10.4"])) == {"room_size_estimation": "10.0"}
    # Within 5 % of 10.0 and of 11.0: from 10.45 to 10.5; to one decimal 10.5.
    assert best_constants(with_truths(kinds[1], ["10.0", "11.0"])) == {"room_size_estimation": "10.5"}


def test_best_choice_is_a_letter_or_where_not_shown_a_word(kinds):
    row = kinds[2]  # chair, bed; the truth is B: bed
    swapped = replace(row, id="s", options=("bed", "chair"), ground_truth="A", answer="bed")
    other = replace(row, id="o", ground_truth="A", answer="chair")
    rows = [row, swapped, other]
    # Letters: B, A, A. Words: bed, bed, chair.
    assert best_constants(rows) == {"object_rel_distance": "A"}
    assert best_constants(rows, show_options=False) == {"object_rel_distance": "bed"}
    assert constant_scores(rows, {"object_rel_distance": "A"})["overall"] == pytest.approx(2 / 3)
    assert constant_scores(rows, {"object_rel_distance": "bed"})["overall"] == pytest.approx(2 / 3)


def test_chance_is_one_over_the_options_averaged(kinds):
    three = replace(kinds[2], id="3", options=("chair", "bed", "sink"))
    # (1/2 + 1/3) / 2 = 5/12; numbers have no chance level.
    assert chance_scores([*kinds, three]) == {"object_rel_distance": pytest.approx(5 / 12)}
    assert chance_scores(kinds[:2]) == {}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_no_other_constant_beats_the_best_one(truths):
    best = float(best_number([str(truth) for truth in truths])[0])

    def total(constant):
        return sum(mra(float(constant), truth) for truth in truths)

    assert total(best) == pytest.approx(max(total(constant) for constant in range(1, 31)))


@given(st.lists(st.text(max_size=3), max_size=8))
def test_derangement_gives_nobody_his_own(names):
    if len(set(names)) < 2:
        with pytest.raises(ValueError, match="at least 2"):
            derangement(names)
        return
    partner = derangement(names)
    assert all(partner[name] != name for name in names)
    assert sorted(partner.values()) == sorted(set(names))


@pytest.mark.skipif(not DEV_HALF.is_file(), reason="the development half of VSI-Bench is not here")
def test_chance_on_the_development_half():
    scores = chance_scores(VsiBench.read(DEV_HALF).rows)
    # All rows of a direction difficulty have 2, 3 or 4 options: (1/2 + 1/3 + 1/4) / 3 = 13/36.
    assert scores["object_rel_direction"] == pytest.approx(13 / 36)
    assert scores["object_rel_distance"] == scores["obj_appearance_order"] == 0.25
    # 33 routes of three options and 57 of four: (33/3 + 57/4) / 90.
    assert scores["route_planning"] == pytest.approx((33 / 3 + 57 / 4) / 90)


def test_most_frequent_answers_are_by_count_then_size(kinds):
    rows = [*with_truths(kinds[0], ["10", "9", "10", "9", "2"]), kinds[2]]
    # 9 and 10 twice each: the smaller number, although "10" sorts first as text.
    assert most_frequent(rows) == {"object_counting": "9", "object_rel_distance": "B"}
    assert most_frequent(rows, show_options=False)["object_rel_distance"] == "bed"
