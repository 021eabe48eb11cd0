"""Order of first appearance from hand-made pixel counts."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from vsgrpo.spatial.held_out import (
    AppearanceSettings,
    FirstSight,
    clear_orders,
    first_sights,
    in_runs,
    order_options,
)
from vsgrpo.spatial.question_settings import QuestionSettings
from vsgrpo.spatial.question_types import make_questions
from vsgrpo.spatial.scene import Box, Footage, Scene, SceneObject

# Twelve frames, 0.5 s apart, of 100 x 100 pixels; a loader shows frames 0, 4, 8 and 11. 50 pixels are needed.
TIMES = tuple(0.5 * k for k in range(12))
PIXELS = {
    0: (60, 60, 60, 60, 60, 0, 0, 0, 0, 0, 0, 0),  # from the start
    1: (0, 0, 0, 3, 60, 60, 60, 0, 0, 0, 0, 0),  # from frame 4 on: 3 of 10,000 pixels are less than 0.033 %
    2: (0, 0, 0, 0, 0, 0, 0, 55, 55, 55, 55, 55),
    3: (0, 0, 0, 0, 0, 0, 0, 0, 0, 50, 50, 50),  # frame 9, shown first in frame 11
    4: (0, 0, 0, 0, 0, 70, 70, 70, 0, 0, 0, 0),  # between two frames that are shown
    5: (0, 0, 0, 0, 0, 0, 0, 80, 80, 0, 0, 0),  # two frames, three are needed
}
FOOTAGE = Footage(TIMES, (0, 4, 8, 11), 10_000, PIXELS)
NAMES = {"bed": [0], "sofa": [1], "lamp": [2], "plant": [3], "clock": [4], "fan": [5]}


def scene(footage: Footage | None) -> Scene:
    box = Box(np.zeros(3), np.ones(3), np.eye(3))
    objects = tuple(SceneObject(ids[0], name, box, box) for name, ids in NAMES.items())
    counts = dict.fromkeys(NAMES, 1)
    return Scene("demo", "demo000000_00", "demo000000", objects, 20.0, np.zeros(3), counts, footage=footage)


def orders(footage: Footage | None, **changes):
    chosen = QuestionSettings(
        mode="vsibench", types=("obj_appearance_order",), appearance=AppearanceSettings(**changes)
    )
    return make_questions(scene(footage), chosen, seed=0)


def test_first_sights_by_hand():
    assert first_sights(FOOTAGE, NAMES, AppearanceSettings()) == {
        "bed": FirstSight(0.0, 0.0),
        "sofa": FirstSight(2.0, 2.0),
        "lamp": FirstSight(3.5, 4.0),
        "plant": FirstSight(4.5, 5.5),
    }


@pytest.mark.parametrize(
    ("frame", "pixels"),
    [
        (1, 90),  # large, but in one frame: no two frames long
        (6, 49),  # one pixel less than counts as seen
        (0, 4),  # 0.033 % of 10,000 pixels are 3.3
    ],
)
def test_a_category_glimpsed_before_it_counts_as_seen_is_left_out(frame, pixels):
    lamp = tuple(pixels if k == frame else count for k, count in enumerate(PIXELS[2]))
    sights = first_sights(replace(FOOTAGE, pixels=PIXELS | {2: lamp}), NAMES, AppearanceSettings())
    assert set(sights) == {"bed", "sofa", "plant"}
    # Where glimpses are allowed (a threshold as high as the one it is seen from) only the large one is one.
    allowed = AppearanceSettings(glimpse_share=0.005)
    assert ("lamp" in first_sights(replace(FOOTAGE, pixels=PIXELS | {2: lamp}), NAMES, allowed)) == (pixels != 90)


def test_a_glimpse_among_the_frames_shown_counts_too():
    # Steady from frame 2 to 3 and from 9 on; frame 4 is shown and has 10 pixels, the first steady one shown is 11.
    lamp = (0, 0, 80, 80, 10, 0, 0, 0, 0, 80, 80, 80)
    assert "lamp" not in first_sights(replace(FOOTAGE, pixels=PIXELS | {2: lamp}), NAMES, AppearanceSettings())


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_no_order_is_contradicted_at_any_threshold_from_a_glimpse_on(seed):
    rng = np.random.default_rng(seed)
    num_frames = int(rng.integers(8, 40))
    # 448 x 336 pixels; counts around the thresholds 50 and 151, in runs, with gaps and flicker.
    pixels = {}
    for number in range(8):
        start = int(rng.integers(num_frames))
        level = rng.choice([0, 20, 49, 50, 120, 150, 151, 400], num_frames, p=[0.1] * 4 + [0.05, 0.05, 0.1, 0.4])
        level[:start] = rng.choice(
            [0, 49, 50, 160], start, p=[0.8, 0.2, 0, 0] if number % 2 else [0.8, 0.1, 0.05, 0.05]
        )
        level[start : start + 3] = 400
        pixels[number] = tuple(int(value) for value in level)
    shown = tuple(sorted({int(k) for k in np.linspace(0, num_frames - 1, int(rng.integers(4, 17)))}))
    footage = Footage(tuple(0.5 * k for k in range(num_frames)), shown, 448 * 336, pixels)
    names = {f"thing {chr(97 + number)}": [number] for number in pixels}
    sights = first_sights(footage, names, AppearanceSettings())
    orders = clear_orders(sights, 0.5, 10, rng)
    event(f"asked: {bool(orders)}")
    for order in orders:
        for frames in (range(num_frames), shown):
            for threshold in (50, 51, 100, 150, 151):  # 0.1 % of 448 x 336 pixels are 150.5
                first = [min(k for k in frames if pixels[names[name][0]][k] >= threshold) for name in order]
                assert first == sorted(set(first))


def test_instances_of_a_category_add_up_and_unknown_ones_count_nothing():
    # 30 + 30 pixels from frame 2 on: together enough, alone not.
    footage = replace(FOOTAGE, pixels={7: (0, 0, *[30] * 10), 8: (0, 0, *[30] * 10)})
    assert first_sights(footage, {"chair": [7, 8, 99]}, AppearanceSettings()) == {"chair": FirstSight(1.0, 2.0)}
    assert first_sights(footage, {"chair": [7, 99]}, AppearanceSettings()) == {}


def test_share_of_the_frame_raises_the_threshold():
    # 0.6 % of 10,000 pixels are 60: lamp (55) and plant (50) fall out.
    assert set(first_sights(FOOTAGE, NAMES, AppearanceSettings(min_share=0.006))) == {"bed", "sofa"}


def test_question_word_for_word():
    (question,) = orders(FOOTAGE)
    listed = [o.category for o in question.objects]
    assert sorted(listed) == ["bed", "lamp", "plant", "sofa"]
    assert question.question == (
        "What will be the first-time appearance order of the following categories in the video: "
        f"{listed[0]}, {listed[1]}, {listed[2]}, {listed[3]}?"
    )
    assert question.answer == "bed, sofa, lamp, plant"
    assert question.options["ABCD".index(question.ground_truth)] == question.answer
    assert len(set(question.options)) == 4
    assert all(sorted(option.split(", ")) == sorted(listed) for option in question.options)


def test_too_close_times_are_not_asked():
    # Looked at: 0, 2, 3.5, 4.5; shown: 0, 2, 4, 5.5. The least gap is 1.0.
    assert len(orders(FOOTAGE, min_gap_s=1.0)) == 1
    assert orders(FOOTAGE, min_gap_s=1.1) == []


def test_an_order_that_sampling_turns_round_is_not_asked():
    # The sofa is there at 0.5 to 1.5 s already, but of the frames shown only the one at 4.0 s has it, after the lamp.
    pixels = PIXELS | {1: (0, 60, 60, 60, 0, 0, 0, 60, 60, 60, 0, 0), 2: (0, 0, 0, 60, 60, 60, 0, 0, 0, 0, 0, 0)}
    sights = first_sights(replace(FOOTAGE, pixels=pixels), NAMES, AppearanceSettings())
    assert (sights["sofa"], sights["lamp"]) == (FirstSight(0.5, 4.0), FirstSight(1.5, 2.0))
    assert orders(replace(FOOTAGE, pixels=pixels)) == []


def test_nothing_is_asked_where_nobody_looked():
    assert orders(None) == []


def test_runs():
    seen = np.array([1, 0, 1, 1, 0, 1, 1, 1], dtype=bool)
    assert in_runs(seen, 2).tolist() == [False, False, True, True, False, True, True, True]
    assert in_runs(seen, 3).tolist() == [False] * 5 + [True] * 3
    assert in_runs(seen, 1).tolist() == seen.tolist()
    assert in_runs(np.zeros(0, dtype=bool), 2).tolist() == []


def test_names_inside_each_other_do_not_meet():
    sights = {name: FirstSight(2.0 * k, 2.0 * k) for k, name in enumerate(["table", "bed", "coffee table", "tv"])}
    assert clear_orders(sights, 1.0, None, np.random.default_rng(0)) == []
    sights["desk"] = sights.pop("coffee table")
    assert clear_orders(sights, 1.0, None, np.random.default_rng(0)) == [("table", "bed", "desk", "tv")]


def slow_orders(sights, gap):
    """All increasing chains of four by nested loops."""
    found = set()
    for a in sights:
        for b in sights:
            for c in sights:
                for d in sights:
                    chain = [sights[n] for n in (a, b, c, d)]
                    pairs = list(pairwise(chain))
                    if all(y.looked - x.looked >= gap and y.shown - x.shown >= gap for x, y in pairs):
                        found.add((a, b, c, d))
    return found


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_clear_orders_equal_the_slow_reference(seed):
    rng = np.random.default_rng(seed)
    names = ["bed", "sofa", "lamp", "plant", "clock", "fan", "mirror"][: int(rng.integers(3, 8))]
    times = rng.integers(0, 12, len(names)).tolist()
    sights = {n: FirstSight(t, t + float(rng.integers(0, 3))) for n, t in zip(names, times, strict=True)}
    found = clear_orders(sights, 2.0, None, rng)
    assert len(found) == len(set(found))
    assert set(found) == slow_orders(sights, 2.0)
    assert len(clear_orders(sights, 2.0, 2, rng)) == min(2, len(found))


def test_right_option_takes_every_place():
    rng = np.random.default_rng(0)
    places = [order_options(("a", "b", "c", "d"), rng)[1] for _ in range(200)]
    assert min(places.count(k) for k in range(4)) > 30


def test_bad_thresholds_are_refused():
    for changes in ({"min_pixels": 0}, {"min_run": 0}, {"min_gap_s": 0.0}, {"min_share": -0.1}):
        with pytest.raises(ValueError, match="at least 1"):
            AppearanceSettings(**changes)
