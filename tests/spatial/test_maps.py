"""Maps read out of text and scored, by hand and against a slow pairing; the question and its frame."""

import itertools
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsgrpo.spatial.map_questions import EXAMPLE, asked_categories, first_view, map_frame
from vsgrpo.spatial.map_types import map_of
from vsgrpo.spatial.maps import (
    cells_of,
    centred,
    map_text,
    mirrored,
    published_score,
    read_map,
    read_map_leniently,
    scattered,
    shifted,
    strict_score,
    turned,
    wrong_map,
)
from vsgrpo.spatial.question_settings import QuestionSettings
from vsgrpo.spatial.question_types import answer_from_boxes, make_questions, observation
from vsgrpo.spatial.scene import Box, Footage, Scene, SceneObject

TRUE = {"table": ((0, 3), (5, 7)), "chair": ((9, 3),)}
TEXT = '<map>{"table": [[0, 3], [5, 7]], "chair": [[9, 3]]}</map>'


def test_a_map_is_read_out_of_its_tags():
    assert read_map(TEXT) == TRUE == cells_of(map_text(TRUE)[5:-6]) and map_text(TRUE) == TEXT == map_text(EXAMPLE)
    assert read_map(f"<think>I see {TEXT} and better</think> <map>\n{{ }}\n</map>") == {}  # the last one counts
    assert read_map('<map>{" Coffee  TABLE ": [[1, 2]], "x": []}</map>') == {"coffee table": ((1, 2),), "x": ()}
    assert read_map(TEXT + "<map>") == TRUE  # one that is not closed is none


@pytest.mark.parametrize(
    "text",
    [
        "",
        "left",
        TEXT[5:-6],  # no tags
        TEXT[:-6],  # not closed
        '<map>{"table": [[0, 3]}</map>',  # no JSON
        '<map>[["table", 0, 3]]</map>',
        '<map>{"table": [0, 3]}</map>',
        '<map>{"table": [[0, 3, 1]]}</map>',
        '<map>{"table": [[0, 3.0]]}</map>',  # floats, whole or not
        '<map>{"table": [[0, 1e0]]}</map>',
        '<map>{"table": [[0, NaN]]}</map>',
        '<map>{"table": [[0, Infinity]]}</map>',
        '<map>{"table": [[0, true]]}</map>',
        '<map>{"table": [[0, "3"]]}</map>',
        '<map>{"table": [[0, 10]]}</map>',  # out of the grid
        '<map>{"table": [[-1, 3]]}</map>',
        '<map>{"table": [[0, 3]], "table": [[0, 4]]}</map>',  # twice
        '<map>{"table": [[0, 3]], "Table ": [[0, 4]]}</map>',
        '<map>{"": [[0, 3]]}</map>',
        '<map>{"table": null}</map>',
        '<map>{"table": [[' + "9" * 6000 + ", 3]]}</map>",  # a number of more digits than Python converts
        "<map>" + "[" * 9000 + "]" * 9000 + "</map>",  # nested deeper than it recurses
        '<map>{"table": [' + "[0, 3], " * 4000 + "[0, 3]]}</map>",  # more than 20,000 characters
    ],
)
def test_a_map_that_breaks_a_rule_is_none(text):
    assert read_map(text) is None
    assert strict_score(read_map(text), TRUE) == published_score(read_map(text), TRUE) == 0.0


def test_leniently_a_map_needs_no_tags():
    for text in (TEXT, TEXT[5:-6], TEXT[:-6], f"Here it is:\n```json\n{TEXT[5:-6]}\n```", f"<MAP>{TEXT[5:-6]}"):
        assert read_map_leniently(text) == TRUE
    assert read_map_leniently("no map") is None and read_map_leniently('{"table": [[0, 10]]}') is None


def test_scores_by_hand():
    one_off = {"table": ((1, 3), (5, 7)), "chair": ((9, 5),)}  # tables 1 and 0 cells off, the chair 2
    # strict: tables (2/3 + 1) / 2 = 5/6, weight 2; chair 1/3, weight 1: (5/3 + 1/3) / 3 = 2/3
    assert strict_score(one_off, TRUE) == pytest.approx(2 / 3)
    # published: tables (1 - 1/14.142 + 1) / 2, chair 1 - 2/14.142: (2 - 1/14.142 + 1 - 2/14.142) / 3
    assert published_score(one_off, TRUE) == pytest.approx(1 - 1 / (10 * math.sqrt(2)))
    # One table of two, and a chair too many: 1 / max(1, 2) of weight 2 and 1 / max(2, 1) of weight 1
    counts = {"table": ((0, 3),), "chair": ((9, 3), (0, 0))}
    assert strict_score(counts, TRUE) == published_score(counts, TRUE) == pytest.approx(0.5)
    # Categories that are not asked for cost nothing, one that is missing all of its weight
    assert strict_score({"table": TRUE["table"], "lamp": ((1, 1),)}, TRUE) == pytest.approx(2 / 3)
    assert strict_score({}, TRUE) == strict_score(None, TRUE) == 0.0
    far = {"table": ((3, 3), (8, 7)), "chair": ((9, 0),)}  # all 3 cells off: nothing, or 1 - 3/14.142 = .788
    assert strict_score(far, TRUE) == 0.0 and published_score(far, TRUE) == pytest.approx(1 - 0.3 / math.sqrt(2))
    with pytest.raises(ValueError, match="without points"):
        strict_score(TRUE, {"table": ()})


def test_pairs_are_the_nearest_first():
    # True (0, 0) and (2, 0), said (1, 0) and (3, 0): all gaps of 1 are equal, the first of them is (1, 0)-(0, 0); then
    # (3, 0)-(2, 0): 2/3 each. Said (2, 0) and (5, 0): 0 first, then (5, 0)-(0, 0) is 5 off: (1 + 0) / 2.
    truth = {"x": ((0, 0), (2, 0))}
    assert strict_score({"x": ((1, 0), (3, 0))}, truth) == pytest.approx(2 / 3)
    assert strict_score({"x": ((2, 0), (5, 0))}, truth) == pytest.approx(0.5)
    assert published_score({"x": ((2, 0), (5, 0))}, truth) == pytest.approx((1 + 1 - 0.5 / math.sqrt(2)) / 2)


def test_maps_without_eyes_earn_most_of_the_published_score():
    truth = {"table": ((1, 8), (8, 1)), "chair": ((8, 8), (2, 2), (1, 1))}
    for blind in (centred(truth), turned(truth, 1), turned(truth, 2), mirrored(truth)):
        assert published_score(blind, truth) > 0.5
    assert strict_score(centred(truth), truth) == 0.0
    assert strict_score(shifted(truth), truth) == pytest.approx(2 / 3)
    assert centred(truth, one_each=True) == {"table": ((5, 5),), "chair": ((5, 5),)}
    assert turned({"a": ((0, 0), (9, 2))}, 1) == {"a": ((9, 0), (7, 9))}  # (x, y) -> (9 - y, x)
    assert turned(truth, 4) == truth == mirrored(mirrored(truth)) == turned(turned(truth, 1), 3)


cells = st.tuples(st.integers(0, 9), st.integers(0, 9))
a_map = st.dictionaries(st.sampled_from("abc"), st.lists(cells, min_size=1, max_size=4).map(tuple), min_size=1)


@settings(max_examples=100, deadline=None)
@given(a_map, a_map, st.integers(0, 99))
def test_scores_equal_a_slow_computation(said, truth, seed):
    def slow(reach):
        total = 0.0
        for name, points in truth.items():
            ours, theirs = list(said.get(name, ())), list(points)
            size, near = max(len(ours), len(theirs)), 0.0
            while ours and theirs:
                gap, i, j = min((math.dist(a, b), i, j) for (i, a), (j, b) in _places(ours, theirs))
                near += max(0.0, 1 - gap / reach)
                del ours[i], theirs[j]
            total += len(points) * near / size
        return total / sum(map(len, truth.values()))

    assert strict_score(said, truth) == pytest.approx(slow(3.0))
    assert published_score(said, truth) == pytest.approx(slow(10 * math.sqrt(2)))
    assert strict_score(truth, truth) == published_score(truth, truth) == 1.0
    assert 0 <= strict_score(said, truth) <= published_score(said, truth) <= 1
    assert read_map(map_text(said)) == {name: tuple(sorted(points)) for name, points in said.items()}
    wrong = wrong_map(truth, np.random.default_rng(seed))
    assert {n: len(p) for n, p in wrong.items()} == {n: len(p) for n, p in truth.items()}
    assert {n: len(p) for n, p in scattered(truth, np.random.default_rng(seed)).items()} == Counter(
        {n: len(p) for n, p in truth.items()}
    )


def _places(ours, theirs):
    return itertools.product(enumerate(ours), enumerate(theirs))


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet='<map>/{}[]",:0123456789.-eE ab\\u\n', max_size=80))
def test_no_text_makes_reading_fail(text):
    for whole in (text, f"<map>{text}</map>"):
        found = read_map(whole)
        assert found is None or strict_score(found, TRUE) >= 0
        read_map_leniently(whole)


# --- the question ---


def thing(instance_id, category, center, lengths=(0.4, 0.4, 0.4)):
    box = Box(np.array([*center, 0.5]), np.array(lengths, dtype=float), np.eye(3))
    return SceneObject(instance_id, category, box, box)


def pose(ahead, at=(0.0, 0.0), steep=0.0):
    """Return camera -> scene: z forward along `ahead` in the floor plan, lowered by `steep`; x right, y down."""
    forward = np.array([*ahead, -steep]) / np.linalg.norm([*ahead, steep])
    right = np.array([ahead[1], -ahead[0], 0.0])
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    matrix[:3, 3] = [*at, 1.5]
    return matrix


def footage_of(scene):
    assert scene.footage is not None and scene.footage.poses is not None
    return scene.footage


def room(*objects, first=(0.0, 1.0), steep=0.3, later=(1.0, 0.0)):
    counts = dict(Counter(o.category for o in objects))
    poses = np.stack([pose(first, steep=steep), pose(later)])
    pixels = {o.instance_id: (500, 500) for o in objects}
    footage = Footage((0.0, 1.0), (0, 1), 448 * 336, pixels, budgets={2: (0, 1)}, poses=poses)
    return Scene("demo", "demo000000_00", "demo000000", tuple(objects), 20.0, np.zeros(3), counts, footage=footage)


# Corners span x -0.2 .. 9.8 and y -0.2 .. 4.8: a square of 10 m, y from -2.7 to 7.3; cells of 1 m.
THINGS = (
    thing(0, "bed", (0, 0)),  # x 0.2 m in: 0; y 2.7: 2
    thing(1, "lamp", (9.6, 4.6)),  # 9.8: 9; 7.3: 7
    thing(2, "chair", (5, 2)),  # 5.2, 4.7
    thing(3, "chair", (3, 2)),  # 3.2, 4.7
)


def asked(scene, **changes):
    return make_questions(scene, QuestionSettings(mode="vsibench", types=("object_map",), **changes), seed=0)


def test_the_map_lies_in_the_frame_of_the_first_view():
    (question,) = asked(room(*THINGS))
    truth = {"bed": ((0, 2),), "lamp": ((9, 7),), "chair": ((3, 4), (5, 4))}
    assert read_map(question.answer) == truth and question.ground_truth == question.answer
    assert sorted(asked_categories(question.question)) == ["bed", "chair", "lamp"]
    assert list(read_map(question.answer) or ()) == asked_categories(question.question)
    assert map_text(EXAMPLE) in question.question and "first frame" in question.question
    assert {ref.instance_id for ref in question.objects} == {0, 1, 2, 3}
    # Looking along +x: right is -y, from -7.3 to 2.7, and ahead is x.
    (east,) = asked(room(*THINGS, first=(1.0, 0.0)))
    assert read_map(east.answer) == {"bed": ((7, 0),), "lamp": ((2, 9),), "chair": ((5, 3), (5, 5))}


def test_where_no_pose_is_known_no_map_is_asked():
    assert not asked(replace(room(*THINGS), footage=None))
    scene = room(*THINGS)
    footage = footage_of(scene)
    assert not asked(replace(scene, footage=replace(footage, poses=None)))
    unknown = np.array(footage.poses)
    unknown[0] = np.nan
    assert not asked(replace(scene, footage=replace(footage, poses=unknown)))
    assert not asked(room(*THINGS, steep=2.0))  # the floor: 1 / sqrt(1 + 4) = .45 is below .5
    assert asked(room(*THINGS, steep=1.7))  # 1 / sqrt(1 + 2.89) = .507


def test_only_categories_that_are_shown_whole_are_asked_for():
    scene = replace(room(*THINGS), pixels={0: (500, 500), 1: (500, 500), 2: (500, 500), 3: (0, 0)})
    assert not asked(scene)  # a bed and a lamp are two objects, three are needed
    counts, pixels = {**scene.object_counts, "desk": 1}, {**(scene.pixels or {}), 4: (500, 500)}
    more = replace(scene, objects=(*THINGS, thing(4, "desk", (1, 1))), object_counts=counts, pixels=pixels)
    (question,) = asked(more)
    assert sorted(asked_categories(question.question)) == ["bed", "desk", "lamp"]
    assert not asked(room(THINGS[0], thing(1, "lamp", (1, 1))))  # two objects


def test_a_budget_whose_first_frame_looks_elsewhere_makes_no_map_true():
    scene = room(*THINGS)
    elsewhere = replace(scene, footage=replace(footage_of(scene), budgets={1: (1,), 2: (0, 1)}))
    (question,) = asked(elsewhere)
    assert question.extra["judged_at"] == [1, 2] and question.extra["true_at"] == [2]
    carried = map_of(elsewhere, QuestionSettings(mode="vsibench", types=("object_counting",)), 0)
    assert carried is not None and read_map(map_text(carried["map"])) == read_map(question.answer)
    assert (carried["map_judged_at"], carried["map_true_at"]) == ([1, 2], [2])


def test_the_map_is_drawn_again_from_the_stored_scene_and_thought_about():
    scene = room(*THINGS)
    (question,) = asked(scene)
    assert answer_from_boxes(scene, "object_map", question.question) == question.answer
    assert answer_from_boxes(replace(scene, footage=None), "object_map", question.question) is None
    thought = observation(scene, question, "centroid")
    assert thought is not None and "lamp 4.6 m ahead, 9.6 m to the right" in thought and thought.count(";") == 3


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 2 * math.pi), st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=3, max_size=6))
def test_a_cell_is_what_turning_the_room_gives(angle, places):
    """Turn the room so that the view points along +y and count cells there: no vectors, no shared formula."""
    objects = [thing(k, f"thing{k}", place) for k, place in enumerate(places)]
    scene = room(*objects, first=(math.cos(angle), math.sin(angle)))
    view = first_view(scene)
    assert view is not None
    frame = map_frame(scene, view)
    assert frame is not None
    back = math.pi / 2 - angle
    spun = [(x * math.cos(back) - y * math.sin(back), x * math.sin(back) + y * math.cos(back)) for x, y in places]
    # A square box of 0.4 m turned by `back` reaches 0.2 (|cos| + |sin|) to each side.
    reach = 0.2 * (abs(math.cos(back)) + abs(math.sin(back)))
    low = [min(p[k] for p in spun) - reach for k in (0, 1)]
    high = [max(p[k] for p in spun) + reach for k in (0, 1)]
    side = max(h - b for h, b in zip(high, low, strict=True))
    for item, place in zip(objects, spun, strict=True):
        for k, cell in enumerate(frame.cell(item.box.centroid)):
            exact = 10 * (place[k] - (low[k] + high[k] - side) / 2) / side
            assert cell <= exact + 1e-6 and (exact - 1e-6 <= cell + 1 or cell == 9)
