"""Templated thoughts, by hand on one room."""

import numpy as np
import pytest

from vsgrpo.spatial.question import ObjectRef, Question
from vsgrpo.spatial.question_types import QUESTION_TYPES, observation
from vsgrpo.spatial.scene import Box, Scene, SceneObject


def item(number, category, centre, size=(1.0, 0.5, 0.4)):
    box = Box(np.array(centre, float), np.array(size), np.eye(3))
    return SceneObject(number, category, box, box)


ITEMS = (
    item(1, "sofa", (0, 0, 0.2)),
    item(2, "bed", (3, 0, 0.2)),
    item(3, "lamp", (0, 2, 1.2)),
    item(4, "chair", (3, 2, 0.2)),
    item(5, "chair", (2, 2, 0.2)),
)
SCENE = Scene("demo", "demo000001_00", "demo000001", ITEMS, 12.0, np.zeros(3), {"chair": 2})


def ask(question_type, answer, *ids):
    objects = tuple(ObjectRef(o.category, o.instance_id) for i in ids for o in ITEMS if o.instance_id == i)
    question = Question(QUESTION_TYPES[question_type], "?", None, answer, answer, objects)
    return observation(SCENE, question, "centroid")


@pytest.mark.parametrize(
    ("question_type", "answer", "ids", "expected"),
    [
        ("object_counting", "2", (4, 5), "I see chair 1, chair 2."),
        ("object_size_estimation", "100", (1,), "Its box is 100 by 50 by 40 cm."),
        (
            "object_abs_distance",
            "3.0",
            (1, 2),
            "Their centres are 3.0 m by 0.0 m apart on the floor, 0.0 m in height.",
        ),
        # sqrt(2^2 + 1^2) = 2.236 to the lamp
        ("object_rel_distance", "lamp", (1, 2, 3), "From the sofa: bed 3.0 m, lamp 2.2 m."),
        # at the sofa, facing the bed along x: the lamp lies along +y, a quarter turn counter-clockwise
        ("object_rel_direction_easy", "left", (1, 2, 3), "To face the lamp I turn 90 degrees to the left."),
        # x from -0.5 to 3.5, y from -0.25 to 2.25
        ("room_size_estimation", "12.0", (), "The furniture spreads over 4.0 m by 2.5 m."),
        ("obj_appearance_order", "sofa", (1, 2), None),
        ("object_counting", "2", (), None),
    ],
)
def test_sentences_by_hand(question_type, answer, ids, expected):
    assert ask(question_type, answer, *ids) == expected


def test_many_objects_are_not_all_named():
    assert ask("object_counting", "20", 4).endswith("chair 8 and more, up to chair 20.")
