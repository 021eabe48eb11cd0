import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsgrpo.evaluation.intervals import _tables, grouped_tasks, scene_intervals, task_groups
from vsgrpo.spatial.question_types import table_tasks, type_names
from vsgrpo.spatial.scoring import aggregate

TYPES = type_names()


def test_two_scenes_of_opposite_scores_span_everything():
    # Each resample is (0,0), (0,1), (1,0) or (1,1): means 0, .5, .5, 1 with a quarter each at the ends.
    columns = {"official": np.array([0.0, 1.0]), "always": np.array([1.0, 1.0])}
    found = scene_intervals(columns, ["object_counting"] * 2, ["a", "b"])
    assert found["official"]["object_counting"] == found["official"]["overall"] == (0.0, 1.0)
    assert found["always"]["overall"] == (1.0, 1.0)
    assert set(found["always"]) == {"object_counting", "overall", "trained_tasks"}


def test_scenes_and_not_questions_are_drawn():
    rng = np.random.default_rng(0)
    by_scene = np.repeat(rng.integers(0, 2, 40), 25).astype(float)
    kinds, names = ["object_counting"] * 1000, np.repeat([str(i) for i in range(40)], 25).tolist()

    def width(scenes):
        low, high = scene_intervals({"x": by_scene}, kinds, scenes)["x"]["overall"]
        return high - low

    # Standard error with 40 independent scenes: sqrt(p (1 - p) / 40), about 2 * 1.96 * 0.079 = 0.31; with 1000
    # independent questions five times (sqrt 25) less.
    assert width(names) == pytest.approx(0.31, abs=0.05)
    assert width([str(i) for i in range(1000)]) == pytest.approx(0.062, abs=0.01)


def test_the_interval_of_normal_scores_is_the_textbook_one():
    values = np.random.default_rng(1).normal(0.5, 0.1, 400)
    low, high = scene_intervals({"x": values}, ["room_size_estimation"] * 400, [str(i) for i in range(400)])["x"][
        "overall"
    ]
    # mean +- 1.96 * s / sqrt(400) = +- 0.0098
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)
    assert low < values.mean() < high


def test_groups_are_the_trained_and_the_held_out_tasks():
    table = {**dict.fromkeys(table_tasks(), 0.5), "route_planning": 0.2, "obj_appearance_order": 0.4, "overall": 0.45}
    assert task_groups(table) == {"trained_tasks": pytest.approx(0.5), "held_out_tasks": pytest.approx(0.3)}
    assert task_groups({"object_counting": 0.5}) == {"trained_tasks": 0.5}
    assert len(grouped_tasks()["trained_tasks"]) == 6


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(TYPES), st.sampled_from("abc"), st.floats(0, 1)), min_size=1, max_size=30))
def test_tables_of_a_resample_are_what_aggregate_gives(rows):
    means = np.full(len(TYPES), np.nan)
    by_type = {}
    for kind, _, value in rows:
        by_type.setdefault(kind, []).append(value)
    for index, kind in enumerate(TYPES):
        if kind in by_type:
            means[index] = np.mean(by_type[kind])
    with np.errstate(invalid="ignore"):
        values = _tables(means)
    expected = aggregate(by_type)
    for task, value in zip((*table_tasks(), "overall"), values, strict=False):
        assert value == pytest.approx(expected[task]) if task in expected else np.isnan(value)
    kinds, scenes, scores = zip(*rows, strict=True)
    for low, high in scene_intervals({"x": np.array(scores)}, kinds, scenes)["x"].values():
        assert min(scores) - 1e-9 <= low <= high <= max(scores) + 1e-9
