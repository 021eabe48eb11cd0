"""data.mode=revsi on a hand-made room: what is left out, the types it adds, and their answers by hand."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from vsgrpo.spatial.question_settings import QuestionSettings
from vsgrpo.spatial.question_types import answer_from_boxes, asked_types, make_questions
from vsgrpo.spatial.revsi import BEHIND, fault_of, footprint_m2
from vsgrpo.spatial.scene import Box, Scene, SceneObject


def thing(instance_id, category, center, lengths=(0.4, 0.4, 0.4)):
    b = Box(np.array([*center, 0.5]), np.array(lengths, dtype=float), np.eye(3))
    return SceneObject(instance_id, category, b, b)


def room(*objects):
    counts = dict(Counter(o.category for o in objects))
    return Scene("demo", "demo000000_00", "demo000000", tuple(objects), 20.0, np.zeros(3), counts)


# Seen from above, metres: stool at the origin, desk north, lamp east, sink south, door west; two chairs far north-east.
STOOL, DESK, LAMP = thing(0, "stool", (0, 0)), thing(1, "desk", (0, 2)), thing(2, "lamp", (3, 0))
SINK, DOOR = thing(3, "sink", (0, -4)), thing(4, "door", (-1.5, 0))
CHAIRS = (thing(5, "chair", (4, 4)), thing(6, "chair", (4.1, 4.5)))
ROOM = room(STOOL, DESK, LAMP, SINK, DOOR, *CHAIRS)


ALL = {"object_counting_multiple": 99}


def asked(scene, question_type, mode="revsi", **changes):
    given = {"min_count": 1, "types": (question_type,), "mode": mode, **changes}
    return make_questions(scene, QuestionSettings(**given), seed=0)


def test_the_types_of_the_mode():
    names = {kind.name for kind in asked_types(QuestionSettings(mode="revsi"))}
    assert {"object_size_in_meters", "object_counting_multiple", "object_rel_direction_backward"} <= names
    assert {"object_rel_distance_farthest", "room_size_estimation"} <= names
    assert not names & {"object_size_estimation", "route_planning", "obj_appearance_order"}
    others = {kind.name for kind in asked_types(QuestionSettings(mode="vsibench"))}
    assert not others & {"object_size_in_meters", "object_counting_multiple", "object_rel_direction_backward"}


def test_sums_of_two_categories():
    found = {
        tuple(sorted({o.category for o in q.objects})): q.answer
        for q in asked(ROOM, "object_counting_multiple", caps=ALL)
    }
    assert found[("chair", "desk")] == "3" and found[("desk", "lamp")] == "2"
    question = next(q for q in asked(ROOM, "object_counting_multiple", caps=ALL) if q.answer == "3")
    assert question.question.startswith("How many chair(s) and ") and question.question.endswith(
        "in the scene in total?"
    )
    crowded = replace(ROOM, object_counts={**ROOM.object_counts, "chair": 20})  # 20 + 1 is above the largest sum
    assert all("chair" not in q.question for q in asked(crowded, "object_counting_multiple", caps=ALL))


def test_counts_of_one_are_asked():
    assert {q.answer for q in asked(ROOM, "object_counting")} == {"1", "2"}


def test_sizes_are_in_metres_and_beds_are_not_asked():
    scene = room(thing(0, "bed", (0, 0), (2.0, 1.5, 0.5)), thing(1, "desk", (3, 0), (1.2, 0.6, 0.7)))
    (question,) = asked(scene, "object_size_in_meters")
    assert (question.answer, question.type.unit) == ("1.20", "m") and "in meters" in question.question
    assert answer_from_boxes(scene, "object_size_in_meters", question.question) == "1.20"


def test_the_farthest_is_the_farthest_by_the_nearest_instance():
    for question in asked(ROOM, "object_rel_distance_farthest"):
        centers = {o.category: o.box.centroid for o in (STOOL, DESK, LAMP, SINK, DOOR, CHAIRS[0])}
        target = centers[question.objects[0].category]
        far = max(question.options, key=lambda name: np.linalg.norm(centers[name] - target))
        assert question.answer == far and "farthest from" in question.question
    # chairs 2 m apart: from the stool 5.3 m or 7.7 m: which is meant would decide, so they are no candidates
    spread = room(STOOL, DESK, LAMP, SINK, DOOR, CHAIRS[0], thing(6, "chair", (6, 5)))
    from_stool = [q for q in asked(spread, "object_rel_distance_farthest") if q.objects[0].category == "stool"]
    assert from_stool and all("chair" not in q.options for q in from_stool)


def test_with_the_back_to_an_object():
    # at the stool with the desk (north) behind one looks south: the sink is ahead, the lamp (east) to the left
    text = BEHIND.format(standing="stool", facing="desk", target="lamp")
    options = ["A. right", "B. left", "C. back"]
    assert answer_from_boxes(ROOM, "object_rel_direction_backward", text, options) == "B"
    text = BEHIND.format(standing="stool", facing="desk", target="door")
    assert answer_from_boxes(ROOM, "object_rel_direction_backward", text, options) == "A"
    text = BEHIND.format(standing="stool", facing="sink", target="sink")
    assert answer_from_boxes(ROOM, "object_rel_direction_backward", text, options) == "C"
    questions = asked(ROOM, "object_rel_direction_backward")
    assert questions
    for q in questions:
        listed = [f"{'ABC'[k]}. {word}" for k, word in enumerate(q.options)]
        assert answer_from_boxes(ROOM, q.question_type, q.question, listed) == q.ground_truth


def test_what_the_rules_leave_out():
    near = room(STOOL, thing(1, "desk", (0, 1.2)), LAMP)  # boxes 0.8 m apart
    assert {q.answer for q in asked(near, "object_abs_distance", mode="vsibench")} >= {"0.8"}
    assert all(float(q.answer) >= 1 for q in asked(near, "object_abs_distance"))
    rug = thing(0, "rug", (0, 0), (2.0, 1.0, 0.1))  # 2 m2 to stand by
    large = room(rug, DESK, thing(2, "lamp", (2.5, 1.5)), thing(3, "sink", (-2, -2)))
    assert any(q.objects[0].category == "rug" for q in asked(large, "object_rel_direction_hard", mode="vsibench"))
    assert all(q.objects[0].category != "rug" for q in asked(large, "object_rel_direction_hard"))
    vague = room(STOOL, DESK, thing(2, "bag", (3, 0)))
    assert all("bag" not in q.question for q in asked(vague, "object_counting"))
    assert asked(vague, "object_counting", mode="vsibench")
    rugs = [q for q in asked(large, "object_rel_direction_hard", mode="vsibench") if q.objects[0].category == "rug"]
    assert fault_of(large, rugs[0]) == "standing by an object of more than 1 m2"


def test_a_footprint_is_the_area_seen_from_above():
    assert footprint_m2(thing(0, "rug", (0, 0), (2.0, 1.0, 0.1)).box) == pytest.approx(2.0)
    assert footprint_m2(thing(0, "line", (0, 0), (2.0, 0.0, 0.0)).box) == 0.0


def test_centres_of_a_direction_are_a_metre_apart():
    # stool (0, 0), desk (0, 0.9), lamp (3, 0): the two boxes are 0.5 m apart, their centres 0.9 m
    close = room(STOOL, thing(1, "desk", (0, 0.9)), LAMP)
    questions = asked(close, "object_rel_direction_easy", mode="vsibench")
    assert questions and {fault_of(close, question) for question in questions} == {"centres less than 1 m apart"}
    exact = room(STOOL, thing(1, "desk", (0, 1.0)), LAMP)
    assert {fault_of(exact, q) for q in asked(exact, "object_rel_direction_easy", mode="vsibench")} == {None}
