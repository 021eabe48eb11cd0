"""Prompts and scorers against the harnesses' own code (scripts/check_scorers.py), where they are installed."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from check_scorers import Harness, compare_tables, run_check
from harness_checks import CHECKS
from odd_answers import drawn_answers, odd_answers

ROOT = os.environ.get("VSGRPO_HARNESSES")


@pytest.fixture(scope="module")
def harness():
    if ROOT is None:
        pytest.skip("VSGRPO_HARNESSES=DIR names lmms-eval, VLMEvalKit and thinking-in-space (docs/benchmarks.md)")
    worker = Harness(Path(ROOT), Path(ROOT) / ".venv/bin/python")
    yield worker
    worker.close()


@pytest.fixture(scope="module")
def answers():
    return list(dict.fromkeys([*odd_answers()[::7], *drawn_answers(60)]))


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda c: f"{c.benchmark}-{c.setting}-{c.harness}")
def test_prompts_and_scores_are_the_harness_own(harness, answers, check):
    outcome = run_check(check, harness, answers)
    compare_tables(outcome, harness)
    assert not outcome.is_broken, outcome.to_json()["first"]
    # Rows have letters and numbers that the list holds: where every score were 0, nothing would be compared.
    assert outcome.num_pairs > 0 and outcome.raised < outcome.num_pairs
