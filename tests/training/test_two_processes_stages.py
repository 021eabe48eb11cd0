"""Resumes of sharded runs: inside a stage with the parts of the optimizer, between two stages with weights alone."""

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
LAUNCHES = ["zero3", *(pytest.param(launch, marks=pytest.mark.slow) for launch in ("zero2", "fsdp2"))]


def resume_from(number, run_dir, given, **options):
    """Drop final/ and all checkpoints after `number`, and go on from there."""
    shutil.rmtree(run_dir / "final")
    for later in range(number + 1, 5):
        shutil.rmtree(run_dir / f"checkpoint-{later}")
    code, _, err = finish(vsgrpo("grpo", given, "--resume", **options))
    assert code == 0, err[-3000:]


@pytest.mark.parametrize("launch", LAUNCHES)
def test_a_sharded_run_goes_on_inside_a_stage_and_between_two(launch, dataset_folder, tiny_folder, tmp_path):
    shared = (*GRPO, *FIVE_STEPS, STAGES, "trainer.save_steps=1")
    one = run_one("grpo", arguments("grpo", dataset_folder, tiny_folder, tmp_path / "one", *shared, *ONE))
    two = tmp_path / "two"
    options = {"fsdp_on_cpu": launch == "fsdp2"}
    sharded = [f"launch={launch}", *TWO, *([] if launch == "fsdp2" else [zero_file(tmp_path, launch)])]
    given = arguments("grpo", dataset_folder, tiny_folder, two, *shared, *sharded)
    code, _, err = finish(vsgrpo("grpo", given, **options))
    assert code == 0, err[-3000:]
    assert_equal_runs(two, one)
    state = json.loads((two / "run.json").read_text())
    assert state["checkpoints"] == {str(n): {"stage": (n - 1) // 2, "step": (n - 1) % 2 + 1} for n in (1, 2, 3, 4)}

    whole, drawn = weights(two), completions(two)
    resume_from(3, two, given, **options)
    assert distance(weights(two), whole) == 0
    assert completions(two) == drawn
    resume_from(2, two, given, **options)
    assert distance(weights(two), whole) == 0
    assert completions(two) == drawn
    if launch == "zero2":  # no optimizer state crosses the boundary: one process goes on too
        resume_from(2, two, arguments("grpo", dataset_folder, tiny_folder, two, *shared, *ONE))
        assert distance(weights(two), whole) < 1e-4
