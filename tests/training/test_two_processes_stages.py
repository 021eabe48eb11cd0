"""Stages under ZeRO: the next one starts from the weights of the one before, also where a resume begins there."""

import json
import shutil

import pytest
from two_processes import (
    FIVE_STEPS,
    GRPO,
    ONE,
    TWO,
    arguments,
    assert_equal_runs,
    completions,
    distance,
    finish,
    run_one,
    vsgrpo,
    weights,
    zero_file,
)

pytestmark = pytest.mark.distributed
STAGES = "trainer.stages=[{max_steps: 2}, {max_steps: 2, num_generations: 2}]"


@pytest.mark.parametrize("launch", [pytest.param("zero2", marks=pytest.mark.slow), "zero3"])
def test_a_run_goes_on_between_two_stages(launch, dataset_folder, tiny_folder, tmp_path):
    shared = (*GRPO, *FIVE_STEPS, STAGES, "trainer.save_steps=2")
    one = run_one("grpo", arguments("grpo", dataset_folder, tiny_folder, tmp_path / "one", *shared, *ONE))
    two = tmp_path / "two"
    sharded = (f"launch={launch}", *TWO, zero_file(tmp_path, launch))
    given = arguments("grpo", dataset_folder, tiny_folder, two, *shared, *sharded)
    code, _, err = finish(vsgrpo("grpo", given))
    assert code == 0, err[-3000:]
    assert_equal_runs(two, one)

    state = json.loads((two / "run.json").read_text())
    assert state["checkpoints"] == {"2": {"stage": 0, "step": 2}, "4": {"stage": 1, "step": 2}}
    whole, drawn = weights(two), completions(two)
    assert distance(weights(two, "checkpoint-2"), whole) > 1e-3  # the second stage moves the weights
    shutil.rmtree(two / "final")
    shutil.rmtree(two / "checkpoint-4")
    code, _, err = finish(vsgrpo("grpo", given, "--resume"))
    assert code == 0, err[-3000:]
    assert distance(weights(two), whole) == 0
    assert completions(two) == drawn
    if launch == "zero2":  # no optimizer state crosses the boundary: one process goes on too
        shutil.rmtree(two / "final")
        shutil.rmtree(two / "checkpoint-4")
        alone = arguments("grpo", dataset_folder, tiny_folder, two, *shared, *ONE)
        code, _, err = finish(vsgrpo("grpo", alone, "--resume"))
        assert code == 0, err[-3000:]
        assert distance(weights(two), whole) < 1e-4
