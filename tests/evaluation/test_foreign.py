import json
import random
from pathlib import Path

import pytest

from evaluation_rows import official_rows
from vsgrpo.evaluation.benchmark import PromptSettings
from vsgrpo.evaluation.benchmarks.vsibench import VsiBench
from vsgrpo.evaluation.foreign import METRICS, write_lmms_samples
from vsgrpo.evaluation.score_command import score_file
from vsgrpo.evaluation.scores import score_rows

DEV_HALF = Path(__file__).parents[3] / "shared/data/vsibench_dev/test_dev.jsonl"
TEXTS = ("A", "B. chair", "(C)", "3", "about 2.5 m", "a hundred and five", "1e2", "nan", "")


def test_a_line_carries_what_lmms_eval_logs(write_benchmark, tmp_path):
    rows = VsiBench.read(write_benchmark(official_rows(1))).rows
    path = tmp_path / "s.jsonl"
    answers = {"0": ["about 4", "3"], "1": [None], "2": ["B. bed"]}
    assert write_lmms_samples(path, rows, answers, PromptSettings()) == 2
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
    write_lmms_samples(tmp_path / "s.jsonl", rows, answers, PromptSettings())
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
