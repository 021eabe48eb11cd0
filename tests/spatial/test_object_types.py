"""Types of families relations and sizes: answers by hand, and against a slow computation of its own on random rooms."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsgrpo.spatial.object_types import TYPES
from vsgrpo.spatial.question_settings import QuestionSettings
from vsgrpo.spatial.question_types import answer_from_boxes, asked_types, make_questions, observation
from vsgrpo.spatial.scene import Box, FreeFloor, Scene, SceneObject

NAMES = ("bed", "lamp", "desk", "sofa", "stove", "piano")
FLOOR = FreeFloor(np.zeros(2), 0.1, np.ones((2, 2), dtype=bool), height=-0.2)
ALL = {kind.name: 10**6 for kind in TYPES}


def thing(instance_id, category, center, lengths, degrees=0.0):
    turn = math.radians(degrees)
    axes = np.array([[math.cos(turn), math.sin(turn), 0], [-math.sin(turn), math.cos(turn), 0], [0, 0, 1.0]])
    box = Box(np.array(center, dtype=float), np.array(lengths, dtype=float), axes)
    return SceneObject(instance_id, category, box, box)


def room(*objects, floor=FLOOR):
    counts = dict(Counter(o.category for o in objects))
    return Scene("demo", "demo000000_00", "demo000000", tuple(objects), 20.0, np.zeros(3), counts, floor=floor)


def asked(scene, *types, **changes):
    return make_questions(scene, QuestionSettings(mode="vsibench", types=types, caps=ALL, **changes), seed=0)


# A bed of 2.0 x 1.6 x 0.5 m on the floor at z = -0.2; a lamp of 0.3 x 0.3 x 0.4 m at 1.2 .. 1.6; a desk turned by 30
# degrees of 1.5 x 0.8 x 0.7 m; two chairs, and four books.
BED, LAMP = thing(0, "bed", (0, 0, 0.05), (2.0, 1.6, 0.5)), thing(1, "lamp", (0, 3, 1.4), (0.3, 0.3, 0.4))
DESK = thing(2, "desk", (3, 0, 0.15), (1.5, 0.8, 0.7), 30)
CHAIRS = [thing(3 + k, "chair", (2 + k, 1, 0.2), (0.4, 0.4, 0.8)) for k in range(2)]
BOOKS = [thing(5 + k, "book", (1, k, 1.0), (0.2, 0.1, 0.05)) for k in range(4)]
ROOM = room(BED, LAMP, DESK, *CHAIRS, *BOOKS)


def test_no_mode_asks_them_by_itself_and_families_name_them():
    for mode in ("vsi100k", "vsibench", "revsi"):
        assert not {kind.name for kind in asked_types(QuestionSettings(mode=mode))} & set(ALL)
    assert {kind.family for kind in TYPES} == {"relations", "sizes"}


def test_sizes_compared_name_the_quantity():
    by_pair = {frozenset(q.options): q.answer for q in asked(ROOM, "object_rel_size")}
    # edges 2.0, 1.5, 0.4: 2.0 / 1.5 = 1.33 >= 1.3
    assert by_pair == {frozenset(("bed", "desk")): "bed", frozenset(("bed", "lamp")): "bed"} | {
        frozenset(("desk", "lamp")): "desk"
    }
    near = replace(BED, size_box=replace(BED.box, axes_lengths=np.array([1.9, 1.6, 0.5])))  # 1.9 / 1.5 = 1.27
    assert frozenset(("bed", "desk")) not in {frozenset(q.options) for q in asked(room(near, DESK), "object_rel_size")}
    # volumes 1.6 and 0.84 m3: 1.9 >= 1.5; a pole of 3 x 0.1 x 0.1 m is longer, and takes up less
    assert {q.answer for q in asked(room(BED, DESK), "object_rel_volume")} == {"bed"}
    pole = thing(9, "pole", (0, 0, 1), (0.1, 0.1, 3.0))
    assert [q.answer for q in asked(room(BED, pole), "object_rel_size")] == ["pole"]
    assert [q.answer for q in asked(room(BED, pole), "object_rel_volume")] == ["bed"]


def test_higher_and_lower_are_of_the_room():
    answers = {(o[0].category, o[1].category): q.answer for q in asked(ROOM, "object_above_below") if (o := q.objects)}
    # The lamp begins at 1.2 m; bed and desk end at 0.3 and 0.5, and their heights overlap: not asked.
    assert {frozenset(pair) for pair in answers} == {frozenset(("lamp", "bed")), frozenset(("lamp", "desk"))}
    assert all(answer == ("higher" if first == "lamp" else "lower") for (first, _), answer in answers.items())
    shelf = thing(9, "shelf", (0, 0, 0.44), (1, 1, 0.1))  # begins at 0.39, the bed ends at 0.30: 9 cm are too near
    assert not asked(room(BED, shelf), "object_above_below")


def test_angles_to_five_degrees():
    # From the bed at the origin: the lamp north (0, 3), the desk east (3, 0): 90 degrees. From the lamp the bed lies
    # south and the desk at (3, -3): 45. From the desk: 45.
    found = {(q.objects[0].category): q for q in asked(ROOM, "object_abs_direction")}
    assert {name: q.answer for name, q in found.items()} == {"bed": "90", "lamp": "45", "desk": "45"}
    assert found["bed"].type.unit == "degrees"
    assert observation(ROOM, found["lamp"], "centroid").startswith("The lamp is ")
    behind = room(BED, LAMP, thing(2, "desk", (0, -3, 0), (1, 1, 1)))  # 180 from the bed, 0 from the others: neither
    assert not asked(behind, "object_abs_direction")


def test_counts_compared_need_a_gap_of_two():
    answers = {frozenset(q.options): q.answer for q in asked(ROOM, "object_rel_count")}
    assert answers[frozenset(("chair", "book"))] == "book" and frozenset(("chair", "bed")) not in answers  # 2 and 1


def test_measures_of_one_object():
    # tops: 0.3 + 0.2 = 50 cm, 1.6 + 0.2 = 180 cm, 0.5 + 0.2 = 70 cm above the floor at -0.2
    assert {q.objects[0].category: q.answer for q in asked(ROOM, "object_height")} == {
        "bed": "50",
        "lamp": "180",
        "desk": "70",
    }
    assert not asked(room(BED, floor=None), "object_height")
    assert not asked(room(BED, floor=replace(FLOOR, height=None)), "object_height")
    # 2.0 x 1.6 = 3.2 m2, 1.5 x 0.8 = 1.2 m2 turned or not; the lamp covers 0.09 m2, below 0.3
    assert {q.answer for q in asked(ROOM, "object_footprint")} == {"3.2", "1.2"}
    # 1.6 and 0.84 m3; the lamp 0.036 is below 0.05
    assert {q.answer for q in asked(ROOM, "object_volume")} == {"1.60", "0.84"}
    lean = math.radians(6)
    axes = np.array([[math.cos(lean), 0, math.sin(lean)], [0, 1, 0], [-math.sin(lean), 0, math.cos(lean)]])
    tilted = replace(BED, size_box=replace(BED.box, axes=axes))
    assert not asked(room(tilted), "object_footprint") and not asked(room(tilted), "object_volume")


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind.resolve is not None], ids=lambda kind: kind.name)
def test_every_question_is_answered_back_from_its_words(kind):
    for q in asked(ROOM, kind.name):
        options = [f"{letter}. {word}" for letter, word in zip("AB", q.options or (), strict=False)]
        assert answer_from_boxes(ROOM, kind.name, q.question, options) == q.ground_truth
        assert observation(ROOM, q, "centroid")


boxes = st.builds(
    thing,
    st.just(0),
    st.just(""),
    st.tuples(*[st.floats(-3, 3)] * 2, st.floats(0, 2)),
    st.tuples(*[st.floats(0.1, 2.5)] * 3),
    st.floats(0, 180),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(boxes, min_size=3, max_size=6))
def test_answers_equal_a_slow_computation_and_keep_their_margins(found):
    scene = room(*(replace(o, instance_id=k, category=NAMES[k]) for k, o in enumerate(found)))
    named = {o.category: o for o in scene.objects}
    made = asked(scene, *ALL)
    assert {q.question for q in made} == {q.question for q in asked(scene, *ALL)}
    for q in made:
        objects = [named[ref.category] for ref in q.objects]
        assert _SLOW[q.question_type](q, objects), q


def _corners(item):
    ends = [(-0.5, 0.5)] * 3
    return [
        item.box.centroid
        + sum(s * n * axis for s, n, axis in zip(signs, item.box.axes_lengths, item.box.axes, strict=True))
        for signs in [(x, y, z) for x in ends[0] for y in ends[1] for z in ends[2]]
    ]


def _slow_size(q, objects, size, ratio):
    first, second = sorted(objects, key=size)
    is_clear = size(second) >= ratio * size(first)
    return is_clear and q.answer == second.category and set(q.options) == {o.category for o in objects}


def _slow_height(q, objects):
    first, second = ([c[2] for c in _corners(o)] for o in objects)
    return (min(first) - max(second) if q.answer == "higher" else min(second) - max(first)) > 0.1 - 1e-9


def _slow_angle(q, objects):
    at, facing, target = ((o.box.centroid[0], o.box.centroid[1]) for o in objects)
    a, b, c = math.dist(at, facing), math.dist(at, target), math.dist(facing, target)
    degrees = math.degrees(math.acos(max(-1, min(1, (a * a + b * b - c * c) / (2 * a * b)))))  # law of cosines
    is_clear = min(a, b) >= 0.5 and 20 - 1e-3 <= degrees <= 170 + 1e-3
    return is_clear and abs(int(q.answer) - degrees) <= 2.5 + 1e-3 and int(q.answer) % 5 == 0


def _slow_volume(o):
    return math.prod(float(edge) for edge in o.box.axes_lengths)


def _slow_footprint(q, objects):
    # The shoelace formula over the four lowest corners, in order around their middle.
    corners = sorted(_corners(objects[0]), key=lambda c: c[2])[:4]
    mid = sum(corners) / 4
    around = sorted(corners, key=lambda c: math.atan2(c[1] - mid[1], c[0] - mid[0]))
    area = abs(sum(p[0] * r[1] - r[0] * p[1] for p, r in zip(around, around[1:] + around[:1], strict=True))) / 2
    return area >= 0.3 - 1e-9 and abs(float(q.answer) - area) <= 0.05 + 1e-9


def _slow_top(q, objects):
    top = 100 * (max(c[2] for c in _corners(objects[0])) + 0.2)
    return 19.5 <= top <= 300.5 and abs(int(q.answer) - top) <= 0.5 + 1e-9


_SLOW = {
    "object_rel_size": lambda q, o: _slow_size(q, o, lambda item: max(item.box.axes_lengths), 1.3),
    "object_rel_volume": lambda q, o: _slow_size(q, o, _slow_volume, 1.5),
    "object_above_below": _slow_height,
    "object_abs_direction": _slow_angle,
    "object_height": _slow_top,
    "object_footprint": _slow_footprint,
    "object_volume": lambda q, o: _slow_volume(o[0]) >= 0.05 and abs(float(q.answer) - _slow_volume(o[0])) <= 0.00501,
}
