"""Which answers are true for the frames shown, from hand-made pixel counts."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsgrpo.spatial.frame_true import judge_order, judged, shown_at
from vsgrpo.spatial.question import ObjectRef, Question
from vsgrpo.spatial.question_settings import QuestionSettings
from vsgrpo.spatial.question_types import QUESTION_TYPES, make_questions
from vsgrpo.spatial.scene import Box, Footage, Scene, SceneObject

SETTINGS = QuestionSettings(mode="vsibench", min_pixels=200, min_count=1)
BUDGETS = {2: (0, 3), 4: (0, 1, 2, 3)}
"""Four frames; a loader asked for two shows the first and the last."""


def scene(places: dict[int, tuple[str, float]], pixels: dict[int, tuple[int, ...]], areas=None) -> Scene:
    """Return a scene of cubes of 20 cm along x: id -> (category, x), and its pixels in four frames."""
    objects = []
    for number, (category, x) in places.items():
        box = Box(np.array([x, 0.0, 0.1]), np.full(3, 0.2), np.eye(3))
        objects.append(SceneObject(number, category, box, box))
    counts: dict[str, int] = {}
    for item in objects:
        counts[item.category] = counts.get(item.category, 0) + 1
    footage = Footage((0.0, 1.0, 2.0, 3.0), (0, 1, 2, 3), 448 * 336, pixels, BUDGETS, areas=areas or {})
    return Scene("demo", "demo0_00", "demo0", tuple(objects), 20.0, np.zeros(3), counts, pixels=pixels, footage=footage)


def verdict(given: Scene, kind: str, answer: str, refs, options=None, **changes) -> dict:
    question = Question(QUESTION_TYPES[kind], "?", options, answer, answer, tuple(ObjectRef(*ref) for ref in refs))
    (found,) = judged(given, [question], replace(SETTINGS, **changes))
    return found.extra


CHAIRS = {0: ("chair", 0.0), 1: ("chair", 1.0), 2: ("chair", 2.0)}
REFS = [("chair", 0), ("chair", 1), ("chair", 2)]


@pytest.mark.parametrize(
    ("third", "expected"),
    [
        # seen only in frame 1, which two frames leave out: two of three are visible there
        ((0, 250, 0, 0), {"true_at": [4], "answer_at": {"2": "2"}}),
        # 199 pixels in frame 0: neither visible nor absent, so no count is true at two frames
        ((199, 250, 0, 0), {"true_at": [4]}),
        ((0, 0, 0, 200), {"true_at": [2, 4]}),
        ((0, 0, 0, 0), {"true_at": [], "answer_at": {"2": "2", "4": "2"}}),
    ],
)
def test_a_count_is_that_of_the_visible_instances(third, expected):
    pixels = {0: (300, 0, 0, 0), 1: (0, 0, 0, 400), 2: third}
    assert verdict(scene(CHAIRS, pixels), "object_counting", "3", REFS) == {"judged_at": [2, 4], **expected}


def test_a_count_below_the_smallest_asked_is_no_answer():
    pixels = {0: (300, 0, 0, 0), 1: (0, 250, 0, 0), 2: (0, 250, 0, 0)}
    extra = verdict(scene(CHAIRS, pixels), "object_counting", "3", REFS, min_count=2)
    assert extra == {"judged_at": [2, 4], "true_at": [4]}  # one is visible at two frames: 1 is not asked


def test_all_named_objects_must_be_visible():
    given = scene({0: ("bed", 0.0), 1: ("sofa", 1.0)}, {0: (300, 0, 0, 0), 1: (0, 0, 220, 0)})
    extra = verdict(given, "object_abs_distance", "0.8", [("bed", 0), ("sofa", 1)])
    assert extra == {"judged_at": [2, 4], "true_at": [4]}
    assert verdict(given, "object_size_estimation", "20", [("bed", 0)])["true_at"] == [2, 4]


NEAR = {0: ("bed", 0.0), 1: ("lamp", 1.0), 2: ("fan", 2.0), 3: ("tv", 3.0), 4: ("sofa", 4.0), 5: ("lamp", 5.0)}
WORDS = ("lamp", "fan", "tv", "sofa")
NEAR_REFS = [("bed", 0), ("lamp", 1), ("fan", 2), ("tv", 3), ("sofa", 4)]


def test_the_nearest_visible_instances_must_give_the_same_winner():
    seen = dict.fromkeys(NEAR, (300, 0, 0, 0))
    assert verdict(scene(NEAR, seen), "object_rel_distance", "lamp", NEAR_REFS, WORDS)["true_at"] == [2, 4]
    # The lamp at 1 m is shown in frame 1 alone. At two frames only that at 5 m is: the fan at 2 m would be nearest.
    hidden = {**seen, 1: (0, 300, 0, 0)}
    assert verdict(scene(NEAR, hidden), "object_rel_distance", "lamp", NEAR_REFS, WORDS)["true_at"] == [4]
    # A category of which nothing is visible, and a target that is not.
    for number in (2, 0):
        hidden = {**seen, number: (199, 199, 199, 199)}
        assert verdict(scene(NEAR, hidden), "object_rel_distance", "lamp", NEAR_REFS, WORDS)["true_at"] == []


def test_the_room_needs_95_percent_of_its_floor():
    given = scene(CHAIRS, {0: (0, 0, 0, 0)}, areas={2: 0.94, 4: 0.95})
    assert verdict(given, "room_size_estimation", "20.0", []) == {"judged_at": [2, 4], "true_at": [4]}
    assert verdict(scene(CHAIRS, {}), "room_size_estimation", "20.0", []) == {}  # not measured: unknown


ORDERED = {number: (name, float(number)) for number, name in enumerate(("bed", "sofa", "lamp", "fan"))}


def order_of(pixels, **changes) -> list[int]:
    given = scene(ORDERED, dict(enumerate(pixels)))
    return verdict(given, "obj_appearance_order", "bed, sofa, lamp, fan", [], **changes)["true_at"]


def test_an_order_needs_a_frame_of_its_own_for_each_and_no_earlier_glimpse():
    clear = [(300, 0, 0, 0), (0, 300, 0, 0), (0, 0, 300, 0), (0, 0, 0, 300)]
    assert order_of(clear) == [4]  # two frames show two of the four
    assert order_of([*clear[:3], (0, 0, 300, 0)]) == []  # lamp and fan in one frame
    # 0.033 % of 448 x 336 pixels are 49.7: 49 of the fan in frame 0 count as nothing, 60 contradict the answer.
    assert order_of([*clear[:3], (49, 0, 0, 300)]) == [4]
    assert order_of([*clear[:3], (60, 0, 0, 300)]) == []
    # Both are seen from frame 0 on, but the sofa has fewer pixels until frame 1: at no threshold does it come first.
    assert order_of([(300, 0, 0, 0), (150, 300, 0, 0), *clear[2:]]) == [4]
    assert order_of([(100, 300, 0, 0), (150, 0, 400, 0), (0, 0, 0, 300), (0, 0, 0, 300)]) == []


COUNTS = st.lists(st.integers(0, 400), min_size=6, max_size=6).map(tuple)


@settings(max_examples=200, deadline=None)
@given(st.lists(COUNTS, min_size=4, max_size=4))
def test_no_threshold_contradicts_an_order_that_is_called_true(rows):
    given = scene(ORDERED, dict(enumerate(rows)))
    assert given.footage is not None
    given = replace(given, footage=replace(given.footage, budgets={6: tuple(range(6))}))
    shown = shown_at(given, SETTINGS)[6]
    question = Question(QUESTION_TYPES["obj_appearance_order"], "?", None, "A", "bed, sofa, lamp, fan", ())
    is_true = judge_order(given, question, shown) == question.answer
    first = {t: [next((k for k in range(6) if row[k] >= t), 99) for row in rows] for t in range(50, 201)}
    contradicted = any(f != sorted(f) for f in first.values())
    at_least = first[200]
    assert is_true == (not contradicted and len(set(at_least)) == 4 and max(at_least) < 99)


def test_questions_that_are_made_say_at_which_budgets_they_are_true():
    pixels = dict.fromkeys(CHAIRS, (0, 300, 0, 0))
    asked = replace(SETTINGS, types=("object_counting",), unseen="flag")
    (question,) = make_questions(scene(CHAIRS, pixels), asked, seed=0)
    assert question.extra == {"seen": False, "judged_at": [2, 4], "true_at": [4]}
    unjudged = replace(scene(CHAIRS, pixels), footage=None)
    assert make_questions(unjudged, asked, seed=0)[0].extra == {"seen": False}
