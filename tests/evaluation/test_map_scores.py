"""Rows that ask for maps: read by every scorer, scored twice, and what needs no eyes."""

import pytest

from vsgrpo.data.audit_rows import audit_row
from vsgrpo.data.row import Row, RowError, check_row
from vsgrpo.data.row_scan import answer_lines
from vsgrpo.evaluation.benchmark import PromptSettings
from vsgrpo.evaluation.constants import best_constants, constant_scores, most_frequent
from vsgrpo.evaluation.map_scores import map_lines
from vsgrpo.evaluation.scores import read_row, score_rows
from vsgrpo.spatial.scoring import score
from vsgrpo.spatial.wrong_answers import rejected_answer

TRUE = '<map>{"bed": [[0, 0]], "chair": [[9, 9], [5, 5]]}</map>'
ONE_OFF = '<map>{"bed": [[1, 0]], "chair": [[9, 9], [5, 4]]}</map>'  # strict (2/3 + 1 + 2/3) / 3 = 7/9
PUBLISHED = 1 - 2**0.5 / 30  # (3 - 2 / (10 sqrt 2)) / 3
PLAIN = PromptSettings(mode="vanilla", show_options=True)


def map_row(name, **changes):
    values = {
        "id": name,
        "dataset": "demo",
        "split": "dev",
        "scene_name": f"room{name}_00",
        "room": f"room{name}",
        "question_type": "object_map",
        "question": "Draw a map.",
        "options": None,
        "ground_truth": TRUE,
        "answer": TRUE,
        "answer_kind": "map",
        "media": ({"kind": "video", "path": "a.mp4"},),
    }
    return Row(**{**values, **changes})


COUNT = {"question_type": "object_counting", "answer_kind": "number", "answer": "3", "ground_truth": "3"}


def test_both_scores_of_maps_and_the_readings_of_the_scorers():
    rows = [map_row("1"), map_row("2"), map_row("3", **COUNT)]
    scores = score_rows(rows, {"1": [ONE_OFF], "2": [TRUE[5:-6]], "3": ["3"]}, PLAIN)  # the second has no tags
    assert scores.tables["official"]["object_map"] == pytest.approx(7 / 18)
    assert scores.tables["official"]["overall"] == pytest.approx((7 / 18 + 1) / 2)
    assert scores.tables["lenient"]["object_map"] == pytest.approx((7 / 9 + 1) / 2)
    assert scores.num_unread == {"official": 1, "lmms": 1, "lenient": 0}
    # Blind, one point of each in the centre: the bed 7.07 cells off, one chair of two in its cell: (0 + .5 x 2) / 3
    official = scores.maps["official"]
    assert official == {
        "n": 2,
        "strict": pytest.approx(7 / 18),
        "published": pytest.approx(PUBLISHED / 2),
        "blind_strict": pytest.approx(1 / 3),
        "blind_published": pytest.approx((0.5 + 0.5 * 2) / 3),
    }
    (line, *_) = map_lines(scores.maps)
    assert line.startswith("maps (official scorer, 2 answers): strict 38.9, published 47.6; one point of each category")
    assert map_lines(score_rows(rows[2:], {"3": ["3"]}, PLAIN).maps) == []


def test_the_map_counts_that_most_samples_draw():
    scores = score_rows([map_row("1")], {"1": [ONE_OFF, TRUE, "left", TRUE]}, PLAIN)
    assert scores.tables["official"]["object_map"] == pytest.approx((7 / 9 + 1 + 0 + 1) / 4)
    assert scores.sampling["official"]["majority"]["object_map"] == 1.0
    assert scores.sampling["official"]["pass@4"]["object_map"] == 1.0


def test_one_answer_alone():
    assert score("official", "object_map", ONE_OFF, TRUE) == pytest.approx(7 / 9)
    assert score("lenient", "object_map", "It is " + TRUE[5:-6], TRUE) == 1.0
    assert read_row("official", map_row("1"), ONE_OFF, PLAIN) == ONE_OFF.replace("[9, 9], [5, 4]", "[5, 4], [9, 9]")
    assert read_row("official", map_row("1"), "left", PLAIN) is None


def test_what_needs_no_model_is_a_point_in_the_centre():
    rows = [map_row("1"), map_row("2", **COUNT)]
    for constants in (best_constants(rows), most_frequent(rows)):
        assert constants == {"object_counting": "3"}
        assert constant_scores(rows, constants)["object_map"] == pytest.approx(1 / 3)
    line = next(line for line in answer_lines(rows) if line.question_type == "object_map")
    assert (line.best, line.score) == ("centre", pytest.approx(1 / 3))
    assert audit_row(rows[0]) is None and audit_row(rows[1]) is not None


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"answer": "3"}, "answer=.*must be a map"),
        ({"ground_truth": '<map>{"bed": [[0, 10]]}</map>'}, "ground_truth=.*must be a map"),
        ({"answer": '<map>{"bed": []}</map>'}, "no category twice or empty"),
        ({"rejected": '<map>{"chair": [[5, 5], [9, 9]], "bed": [[0, 0]]}</map>'}, "equals the answer"),
        ({"question_type": "object_counting", "answer_kind": "maps"}, "answer_kind"),
    ],
)
def test_rows_with_a_broken_map_are_refused(changes, rule):
    check_row(map_row("1"), "here")
    with pytest.raises(RowError, match=rule):
        check_row(map_row("1", **changes), "here")


def test_a_wrong_map_has_the_same_counts_and_is_wrong():
    for key in "abcdef":
        wrong = rejected_answer(TRUE, "map", None, seed=0, key=key)
        check_row(map_row("1", rejected=wrong), "here")
        assert wrong is not None and wrong.count("[[") == 2 and score("official", "object_map", wrong, TRUE) <= 0.5
