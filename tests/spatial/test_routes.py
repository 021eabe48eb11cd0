"""Made-up routes in a hand-made room, and what every route must keep to."""

import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsgrpo.spatial.held_out import TURNS, Route, RouteSettings, plan_routes, route_options, turn_word
from vsgrpo.spatial.question_settings import QuestionSettings
from vsgrpo.spatial.question_types import make_questions
from vsgrpo.spatial.scene import Box, FreeFloor, Scene, SceneObject

CELL = 0.1


def cube(x: float, y: float, edge: float = 0.2) -> Box:
    return Box(np.array([x, y, 0.5]), np.full(3, edge), np.eye(3))


def open_floor(size: float = 6.0) -> FreeFloor:
    return FreeFloor(np.zeros(2), CELL, np.ones((round(size / CELL),) * 2, dtype=bool))


def heading(a: Box, b: Box) -> float:
    return float(np.degrees(np.arctan2(*(b.centroid - a.centroid)[1::-1])))


@pytest.mark.parametrize(
    ("degrees", "word"),
    [
        (44, None),
        (45, "Turn Left"),
        (135, "Turn Left"),
        (136, None),
        (149, None),
        (150, "Turn Back"),
        (180, "Turn Back"),
        (-180, "Turn Back"),
        (210, "Turn Back"),
        (-90, "Turn Right"),
        (270, "Turn Right"),
        (-45, "Turn Right"),
        (0, None),
        (360 + 90, "Turn Left"),
    ],
)
def test_turns_by_angle(degrees, word):
    assert turn_word(degrees) == word


def test_steps_and_answer_word_for_word():
    names = ["bed", "sofa", "lamp", "door"]
    route = Route(start=0, facing=1, stops=(1, 2, 3), turns=(None, "Turn Left", "Turn Back"))
    assert route.steps(names) == (
        "1. Go forward until the sofa 2. [please fill in] 3. Go forward until the lamp 4. [please fill in] "
        "5. Go forward until the door"
    )
    assert route.answer == "Turn Left, Turn Back"
    opened = Route(start=0, facing=3, stops=(1, 2), turns=("Turn Right", "Turn Left"))
    assert opened.steps(names) == (
        "1. [please fill in] 2. Go forward until the sofa 3. [please fill in] 4. Go forward until the lamp"
    )


def test_the_only_route_of_three_objects_in_a_corner():
    # Bed (1, 1) -> sofa (4, 1) heading east -> lamp (4, 4) heading north: a left turn; and back: a right turn.
    boxes = [cube(1.05, 1.05), cube(4.05, 1.05), cube(4.05, 4.05)]
    chosen = RouteSettings(legs=(2, 2), leg_range=(0.8, 3.5))  # the diagonal is 4.24 m: no leg
    found = plan_routes(open_floor(), boxes, 5, np.random.default_rng(0), chosen)
    by_start = {route.start: route for route in found}
    assert set(by_start) == {0, 2}
    assert by_start[0].stops == (1, 2)
    assert by_start[0].turns[-1] == "Turn Left"
    assert by_start[2].stops == (1, 0)
    assert by_start[2].turns[-1] == "Turn Right"
    # Standing by the bed one faces the sofa, straight ahead, or the lamp at 45 degrees to the left: then turn right.
    assert {(r.facing, r.turns[0]) for r in found if r.start == 0} <= {(1, None), (2, "Turn Right")}


def test_a_wall_of_blocked_cells_stops_every_leg():
    boxes = [cube(1.05, 1.05), cube(4.05, 1.05), cube(4.05, 4.05)]
    floor = open_floor()
    floor.free[25] = False  # x from 2.5 to 2.6 m
    chosen = RouteSettings(legs=(2, 2), leg_range=(0.8, 3.5))
    assert plan_routes(floor, boxes, 5, np.random.default_rng(0), chosen) == []
    assert (
        plan_routes(FreeFloor(np.zeros(2), CELL, np.zeros((9, 9), bool)), boxes, 5, np.random.default_rng(0), chosen)
        == []
    )
    assert plan_routes(open_floor(), [], 5, np.random.default_rng(0), chosen) == []


def test_objects_far_from_the_floor_are_no_places():
    # The lamp lies 2 m beyond the map: its nearest cell is 1.9 m off its side.
    boxes = [cube(1.05, 1.05), cube(4.05, 1.05), cube(4.05, 8.0)]
    chosen = RouteSettings(legs=(2, 2), leg_range=(0.8, 6.0))
    assert plan_routes(open_floor(), boxes, 5, np.random.default_rng(0), chosen) == []
    assert plan_routes(open_floor(), boxes, 5, np.random.default_rng(0), RouteSettings((2, 2), (0.8, 6.0), 2.0))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_every_route_keeps_the_rules(seed):
    rng = np.random.default_rng(seed)
    floor = open_floor()
    floor.free[rng.random(floor.free.shape) < 0.02] = False
    boxes = [cube(*rng.uniform(0.3, 5.7, 2)) for _ in range(8)]
    chosen = RouteSettings()
    routes = plan_routes(floor, boxes, 4, rng, chosen)
    assert len({(r.start, r.stops) for r in routes}) == len(routes)
    for route in routes:
        path = [route.start, *route.stops]
        assert len(set(path)) == len(path)
        assert 2 <= len(route.stops) <= 4
        assert len(route.turns) == len(route.stops)
        assert None not in route.turns[1:]
        before = heading(boxes[route.start], boxes[route.facing])
        for (a, b), turn in zip(pairwise(path), route.turns, strict=True):
            # One stands at most max_reach from the outline of a 0.2 m cube: 0.5 + 0.14 m from its centre at both ends.
            length = np.linalg.norm(boxes[a].centroid - boxes[b].centroid)
            slack = 2 * (chosen.max_reach + 0.1 * 2**0.5)
            assert chosen.leg_range[0] - slack <= length <= chosen.leg_range[1] + slack
            after = heading(boxes[a], boxes[b])
            assert turn_word(after - before) == turn if turn else route.facing == route.stops[0]
            before = after


def test_options_differ_and_have_one_length():
    rng = np.random.default_rng(0)
    for answer, count in (("Turn Left", 3), ("Turn Left, Turn Back", 4), ("Turn Left, Turn Back, Turn Right", 4)):
        places = set()
        for _ in range(60):
            options, place = route_options(answer, rng)
            places.add(place)
            assert options[place] == answer
            assert len(options) == len(set(options)) == count
            assert all(set(o.split(", ")) <= set(TURNS) and o.count(",") == answer.count(",") for o in options)
        assert places == set(range(count))


def test_questions_are_marked_and_need_a_floor():
    boxes = [cube(1.05, 1.05), cube(4.05, 1.05), cube(4.05, 4.05)]
    objects = tuple(
        SceneObject(k, name, b, b) for k, (name, b) in enumerate(zip(["bed", "sofa", "lamp"], boxes, strict=True))
    )
    scene = Scene("demo", "demo000000_00", "demo000000", objects, 20.0, np.zeros(3), {"bed": 1, "sofa": 1, "lamp": 1})
    chosen = QuestionSettings(mode="vsibench", types=("route_planning",), route=RouteSettings((2, 2), (0.8, 3.5)))
    assert make_questions(scene, chosen, 0) == []
    found = make_questions(replace(scene, floor=open_floor()), chosen, 0)
    assert len(found) == 2
    for question in found:
        assert question.extra == {"synthetic_route": True}
        assert question.options["ABCD".index(question.ground_truth)] == question.answer
        form = (
            r"You are a robot beginning at the \w+ and facing the \w+\. You want to navigate to the \w+\. You will "
            r"perform the following actions \(Note: for each \[please fill in\], choose either 'turn back,' 'turn "
            r"left,' or 'turn right\.'\): 1\. .*\. You have reached the final destination\."
        )
        assert re.fullmatch(form, question.question)
        assert question.question.count("[please fill in]") - 1 == question.answer.count("Turn")


def test_bad_route_settings_are_refused():
    for changes in ({"legs": (3, 2)}, {"legs": (1, 5)}, {"leg_range": (0.0, 1.0)}, {"leg_range": (2.0, 1.0)}):
        with pytest.raises(ValueError, match="legs within"):
            RouteSettings(**changes)
