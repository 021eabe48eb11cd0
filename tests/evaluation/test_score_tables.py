import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation_rows import official_rows
from vsgrpo.evaluation.benchmark import PromptSettings
from vsgrpo.evaluation.benchmarks.vsibench import VsiBench
from vsgrpo.evaluation.constants import best_constants, chance_scores, constant_scores, most_frequent
from vsgrpo.evaluation.score_file import score_file
from vsgrpo.evaluation.score_tables import METRICS, score_table, write_lmms_samples
from vsgrpo.evaluation.scores import score_rows
from vsgrpo.spatial.scoring import best_number, mra

DEV_HALF = Path(__file__).parents[3] / "shared/data/vsibench_dev/test_dev.jsonl"
TEXTS = ("A", "B. chair", "(C)", "3", "about 2.5 m", "a hundred and five", "1e2", "nan", "")


def test_plain_table_has_the_papers_columns_in_order():
    lines = [
        ("sft", {"overall": 0.5125, "room_size_estimation": 0.75, "object_counting": 0.275}),
        ("chance", {"object_rel_distance": 0.25}),
    ]
    assert score_table(lines, {"object_counting": 8, "room_size_estimation": 4}, "held out") == (
        "held out\n"
        "         Avg  Count  RoomSize  RelDist\n"
        "sft     51.2   27.5      75.0        -\n"
        "chance     -      -         -     25.0\n"
        "n         12      8         4        0"
    )


def test_terminal_table_is_boxed(monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    text = score_table([("sft", {"overall": 1.0})], title="t")
    assert "100.0" in text and "Avg" in text and "│" in text


@pytest.fixture
def kinds(write_benchmark):
    """One row of each kind: counting, room size, a choice of two."""
    return VsiBench.read(write_benchmark(official_rows(1))).rows


def with_truths(row, truths):
    return [replace(row, id=str(i), ground_truth=truth, answer=truth) for i, truth in enumerate(truths)]


def test_best_number_is_the_mra_optimum_by_hand(kinds):
    rows = with_truths(kinds[0], ["2", "2", "4"])
    # Constant 2: scores 1, 1 and |2-4|/4 = 0.5 <= 1 - 0.5 only: 0.1 -> mean 0.7.
    # Constant 3: |3-2|/2 = 0.5 -> 0.1 twice; |3-4|/4 = 0.25 -> thresholds .5 .. .75: 0.6 -> mean 0.8/3.
    # Constant 4: |4-2|/2 = 1 -> 0 twice; 1 -> mean 1/3.
    assert best_constants(rows) == {"object_counting": "2"}
    assert constant_scores(rows, {"object_counting": "2"})["object_counting"] == pytest.approx(0.7)
    assert constant_scores(rows, {"object_counting": "3"})["object_counting"] == pytest.approx(0.8 / 3)


def test_best_number_keeps_the_decimals_of_the_truths(kinds):
    # Truths 10.0 and 10.4: 10.2 is within 5 % of both (1 each), so is 10.0; the smallest of equals is taken.
    assert best_constants(with_truths(kinds[1], ["10.0", "10.4"])) == {"room_size_estimation": "10.0"}
    # Within 5 % of 10.0 and of 11.0: from 10.45 to 10.5; to one decimal 10.5.
    assert best_constants(with_truths(kinds[1], ["10.0", "11.0"])) == {"room_size_estimation": "10.5"}


def test_best_choice_is_a_letter_or_where_not_shown_a_word(kinds):
    row = kinds[2]  # chair, bed; the truth is B: bed
    swapped = replace(row, id="s", options=("bed", "chair"), ground_truth="A", answer="bed")
    other = replace(row, id="o", ground_truth="A", answer="chair")
    rows = [row, swapped, other]
    # Letters: B, A, A. Words: bed, bed, chair.
    assert best_constants(rows) == {"object_rel_distance": "A"}
    assert best_constants(rows, show_options=False) == {"object_rel_distance": "bed"}
    assert constant_scores(rows, {"object_rel_distance": "A"})["overall"] == pytest.approx(2 / 3)
    assert constant_scores(rows, {"object_rel_distance": "bed"})["overall"] == pytest.approx(2 / 3)


def test_chance_is_one_over_the_options_averaged(kinds):
    three = replace(kinds[2], id="3", options=("chair", "bed", "sink"))
    # (1/2 + 1/3) / 2 = 5/12; numbers have no chance level.
    assert chance_scores([*kinds, three]) == {"object_rel_distance": pytest.approx(5 / 12)}
    assert chance_scores(kinds[:2]) == {}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_no_other_constant_beats_the_best_one(truths):
    best = float(best_number([str(truth) for truth in truths])[0])

    def total(constant):
        return sum(mra(float(constant), truth) for truth in truths)

    assert total(best) == pytest.approx(max(total(constant) for constant in range(1, 31)))


@pytest.mark.skipif(not DEV_HALF.is_file(), reason="the development half of VSI-Bench is not here")
def test_chance_on_the_development_half():
    scores = chance_scores(VsiBench.read(DEV_HALF).rows)
    # All rows of a direction difficulty have 2, 3 or 4 options: (1/2 + 1/3 + 1/4) / 3 = 13/36.
    assert scores["object_rel_direction"] == pytest.approx(13 / 36)
    assert scores["object_rel_distance"] == scores["obj_appearance_order"] == 0.25
    # 33 routes of three options and 57 of four: (33/3 + 57/4) / 90.
    assert scores["route_planning"] == pytest.approx((33 / 3 + 57 / 4) / 90)


def test_most_frequent_answers_are_by_count_then_size(kinds):
    rows = [*with_truths(kinds[0], ["10", "9", "10", "9", "2"]), kinds[2]]
    # 9 and 10 twice each: the smaller number, although "10" sorts first as text.
    assert most_frequent(rows) == {"object_counting": "9", "object_rel_distance": "B"}
    assert most_frequent(rows, show_options=False)["object_rel_distance"] == "bed"


def test_a_line_carries_what_lmms_eval_logs(write_benchmark, tmp_path):
    rows = VsiBench.read(write_benchmark(official_rows(1))).rows
    path = tmp_path / "s.jsonl"
    answers = {"0": ["about 4", "3"], "1": [None], "2": ["B. bed"]}
    assert write_lmms_samples(path, rows, answers, PromptSettings(), PromptSettings().text) == 2
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert {"doc_id", "target", "filtered_resps", "doc_hash", "input", *METRICS} <= set(first)
    doc = first["vsibench_overall"]
    # |4 - 3| / 3 = 1/3 passes .5 .55 .6 .65 -> 0.4
    assert (doc["id"], doc["prediction"], doc["MRA:.5:.95:.05"]) == (0, "about 4", pytest.approx(0.4))
    assert (second["doc_id"], second["vsibench_overall"]["accuracy"]) == (2, 1.0)
    assert second["vsibench_overall"]["options"] == ["A. chair", "B. bed"]
    # What we export we can score again, without the rows.
    again = score_file(path).scores
    assert again.tables == score_rows(rows, {"0": ["about 4"], "2": ["B. bed"]}, PromptSettings()).tables


@pytest.mark.skipif(not DEV_HALF.is_file(), reason="the development half of VSI-Bench is not here")
def test_lmms_evals_own_aggregation_agrees(tmp_path):
    utils = pytest.importorskip("lmms_eval.tasks.vsibench.utils", reason="lmms-eval is not installed")
    rows = VsiBench.read(DEV_HALF).rows
    rng = random.Random(0)
    answers = {row.id: [rng.choice((*TEXTS, row.ground_truth))] for row in rows}
    write_lmms_samples(tmp_path / "s.jsonl", rows, answers, PromptSettings(), PromptSettings().text)
    docs = [json.loads(line)["vsibench_overall"] for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    table = score_rows(rows, answers, PromptSettings()).tables["lmms"]
    assert utils.vsibench_aggregate_overall(docs) == pytest.approx(table["overall"], abs=1e-6)
    for doc in docs:
        metric = "accuracy" if doc["options"] else "MRA:.5:.95:.05"
        theirs = utils.vsibench_process_results({**doc}, [doc["prediction"]])["vsibench_overall"]
        assert theirs[metric] == doc[metric]
    for metric in METRICS[1:]:
        task = metric.rpartition("_")[0]
        assert getattr(utils, f"vsibench_aggregate_{metric}")(docs) == pytest.approx(table[task], abs=1e-6)
