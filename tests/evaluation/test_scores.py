import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation_rows import official_rows
from vsgrpo.errors import DataError
from vsgrpo.evaluation.benchmark import PromptSettings
from vsgrpo.evaluation.benchmarks.vsibench import VsiBench
from vsgrpo.evaluation.constants import best_constants, constant_scores
from vsgrpo.evaluation.intervals import _tables, grouped_tasks, scene_intervals, task_groups
from vsgrpo.evaluation.score_file import score_file
from vsgrpo.evaluation.scores import score_rows, scored_text
from vsgrpo.spatial.question_types import QUESTION_TYPES, table_tasks, type_names
from vsgrpo.spatial.scoring import aggregate

DEV_HALF = Path(__file__).parents[3] / "shared/data/vsibench_dev/test_dev.jsonl"
TYPES = type_names()


@pytest.fixture
def rows(write_benchmark):
    return VsiBench.read(write_benchmark(official_rows(2))).rows


def test_scores_by_hand(rows):
    predictions = {"0": ["3"], "1": ["12.5 m2"], "2": ["B. bed"], "10": ["2"], "11": ["about 12"], "12": ["A"]}
    scores = score_rows(rows, predictions, PromptSettings())
    # Counting: 3 of 3 -> 1; 2 of 3: |2-3|/3 = 1/3 passes .5 .55 .6 .65 -> 0.4; mean 0.7.
    # Room size: "12.5 m2" -> 1; "about 12" -> first word is no number -> 0; mean 0.5. Choice: 1 and 0; mean 0.5.
    assert scores.tables["official"] == pytest.approx(
        {
            "object_counting": 0.7,
            "room_size_estimation": 0.5,
            "object_rel_distance": 0.5,
            "overall": (0.7 + 0.5 + 0.5) / 3,
        }
    )
    assert scores.num_answered == 6 and scores.unanswered == ()
    assert scores.num_by_task == {"object_counting": 2, "room_size_estimation": 2, "object_rel_distance": 2}


def test_unanswered_rows_are_listed_and_left_out(rows):
    scores = score_rows(rows, {"0": ["3"], "10": [None]}, PromptSettings())
    assert scores.tables["official"] == {"object_counting": 1.0, "overall": 1.0}
    assert (scores.num_answered, scores.unanswered) == (1, ("1", "2", "10", "11", "12"))
    with pytest.raises(DataError, match="none of 6 rows is answered"):
        score_rows(rows, {}, PromptSettings())


def test_several_samples_are_averaged(rows):
    scores = score_rows(rows, {"2": ["B", "A", "B", None]}, PromptSettings())
    assert scores.by_row["official"] == {"2": pytest.approx(2 / 3)}


def test_a_sample_that_says_nan_or_inf_is_none_of_those_whose_median_counts(rows):
    scores = score_rows(rows, {"0": ["3", "nan", "3", "-inf", "nan"]}, PromptSettings())
    assert scores.sampling["official"]["majority"]["object_counting"] == 1  # the median of 3 and 3
    assert scores.by_row["official"] == {"0": pytest.approx(2 / 5)}


def test_a_word_is_mapped_to_its_option_where_options_are_not_shown(rows):
    hidden = PromptSettings(show_options=False)
    scores = score_rows(rows, {"2": ["Bed."], "12": ["sofa"]}, hidden)
    assert (scores.by_row["official"], scores.num_unmapped) == ({"2": 1.0, "12": 0.0}, 1)
    # A bare letter is no word of the options: the model never saw letters.
    assert scored_text(rows[2], "B", hidden) is None
    assert scored_text(rows[2], "B", PromptSettings()) == "B"


def test_tags_are_read_where_the_prompt_asks_for_them(rows):
    text = "<think>a bed is near</think><answer> B </answer>"
    assert scored_text(rows[2], text, PromptSettings(mode="think", wording="train")) == "B"
    assert scored_text(rows[2], text, PromptSettings(mode="think", wording="eval")) == text
    assert scored_text(rows[2], "<think>cut off", PromptSettings(mode="think", wording="train")) == ""
    word = "<observe>..</observe><answer>bed</answer>"
    assert scored_text(rows[2], word, PromptSettings(mode="observe", wording="train", show_options=False)) == "B"


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_foreign_predictions_are_joined_by_id(tmp_path, write_benchmark):
    bench = write_benchmark(official_rows(1))
    path = write_lines(tmp_path / "p.jsonl", [{"id": 0, "prediction": "3"}, {"id": 2, "prediction": "A", "x": 1}])
    report = score_file(path, bench)
    assert report.scores.tables["official"] == {"object_counting": 1.0, "object_rel_distance": 0.0, "overall": 0.5}
    data = report.to_json()
    assert (data["n"], data["num_rows"], data["unanswered"]) == (2, 3, 1)
    assert "2 of 3 rows answered" in report.table()


def test_predictions_that_carry_their_truth_need_no_rows(tmp_path):
    lines = [
        {"question_type": "object_counting", "ground_truth": "2", "prediction": "2"},
        {"question_type": "route_planning", "ground_truth": "C", "prediction": "C. Turn Back"},
        {"question_type": "route_planning", "ground_truth": "C", "prediction": None},
    ]
    report = score_file(write_lines(tmp_path / "p.jsonl", lines))
    assert report.scores.tables["official"] == {"object_counting": 1.0, "route_planning": 1.0, "overall": 1.0}
    assert report.scores.unanswered == ("3",)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], "no predictions"),
        ([{"id": 1}], "p.jsonl:1: no `prediction`"),
        ([{"id": 1, "prediction": 3}], "p.jsonl:1: prediction=3"),
        ([{"id": 1, "prediction": "3"}], "p.jsonl:1: has no question_type"),
        ([{"prediction": "3", "question_type": "x", "ground_truth": "3"}], "unknown question type"),
        ([{"prediction": "3", "question_type": "object_counting", "ground_truth": "0"}], "ground_truth='0'"),
    ],
)
def test_a_bad_predictions_line_is_refused(tmp_path, lines, says):
    with pytest.raises(DataError, match=says.replace("`", ".")):
        score_file(write_lines(tmp_path / "p.jsonl", lines))


def test_ids_must_fit_the_rows(tmp_path, write_benchmark):
    bench = write_benchmark(official_rows(1))
    with pytest.raises(DataError, match=r"p.jsonl:1: id=77: not in"):
        score_file(write_lines(tmp_path / "p.jsonl", [{"id": 77, "prediction": "3"}]), bench)
    twice = [{"id": 0, "prediction": "3"}, {"id": 0, "prediction": "4"}]
    with pytest.raises(DataError, match=r"p.jsonl:2: id=0: already in line 1"):
        score_file(write_lines(tmp_path / "p.jsonl", twice), bench)
    (tmp_path / "p.jsonl").write_text('{"id": 0, "prediction": "3"}\n{"id": 1, "predic')
    with pytest.raises(DataError, match=r"p.jsonl:2: not JSON"):
        score_file(tmp_path / "p.jsonl", bench)


def test_predictions_of_our_own_are_read_as_they_were_asked(tmp_path, write_benchmark):
    bench = write_benchmark(official_rows(1))
    path = write_lines(tmp_path / "predictions.jsonl", [{"id": "2", "prediction": "bed"}])
    assert score_file(path, bench).scores.tables["official"]["overall"] == 0.0
    prompt = {"mode": "vanilla", "wording": "train", "show_options": False}
    (tmp_path / "settings.json").write_text(json.dumps({"prompt": prompt}))
    assert score_file(path, bench).scores.tables["official"]["overall"] == 1.0
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(DataError, match="does not name the prompt"):
        score_file(path, bench)


@pytest.mark.skipif(not DEV_HALF.is_file(), reason="the development half of VSI-Bench is not here")
def test_scoring_a_constant_on_the_development_half_is_the_constant_baseline():
    rows = VsiBench.read(DEV_HALF).rows
    constants = best_constants(rows)
    predictions = {row.id: [constants[row.question_type]] for row in rows}
    scores = score_rows(rows, predictions, PromptSettings())
    assert scores.tables["official"] == pytest.approx(constant_scores(rows, constants))
    assert constants["object_counting"] == "2"
    perfect = {row.id: [row.ground_truth] for row in rows}
    assert set(score_rows(rows, perfect, PromptSettings()).tables["official"].values()) == {1.0}
    # As trained: answers are words, mapped to letters before scoring. Two options of one row may read alike.
    words = {row.id: [row.answer] for row in rows}
    hidden = score_rows(rows, words, replace(PromptSettings(), show_options=False))
    assert set(hidden.tables["official"].values()) == {1.0}


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
    families = [QUESTION_TYPES[table_tasks()[task][0]].family for task in grouped_tasks()["trained_tasks"]]
    assert families.count("vsibench") == 6


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
