"""Every rank calls the same collectives whatever it draws or cannot read, and a rank that waits in vain says where.

All runs but the largest are made by one start of `rank_runs.py`, two ranks each where four are not said.
"""

import json
import signal

import pytest
from rank_runs import assert_equal_calls, calls, failure, run_ranks
from tiny_runs import SMALL, SPREAD, make_rows, write_dataset
from two_processes import EXACT, GRPO, assert_equal_runs, distance_from_start, run_one, zero_file

from vsgrpo.data.rows import write_rows

pytestmark = pytest.mark.distributed
DEAD = {"TEST_DEAD_VIDEOS": " ".join(f"{scene}.mp4" for scene in (0, 1, 2, 4, 5))}
"""Only the rows of one video are live: they are on one rank at a time."""
RAGGED = {"TEST_RAGGED": "1"}
GROUPS = (SPREAD, "trainer.num_generations=4", "trainer.beta=0.01", "trainer.per_device_train_batch_size=4")
GROUPS += ("trainer.gradient_accumulation_steps=1",)
ANSWERS = ("trainer.gradient_accumulation_steps=1", "trainer.per_device_train_batch_size=4", "run.seed=5")
"""With this seed the first four rows show another number of videos than the next four."""
FROZEN = ("model.freeze_vision=true",)
TOWER = ("model.freeze_vision=false", "trainer.max_steps=1")
SHORT = (*FROZEN, "launch.timeout_s=12", "trainer.max_steps=2")
RUNS = {
    # name: (ranks, method, launch, overrides, environment)
    "grpo tree": (4, "grpo", "ddp", (*GROUPS, *FROZEN, "trainer.dev_rows=5"), RAGGED | DEAD),
    "grpo plain": (2, "grpo", "zero3", (*GROUPS, *FROZEN, "trainer.shared_prefix=off"), RAGGED | DEAD),
    "sft": (2, "sft", "zero2", (*ANSWERS, *TOWER), DEAD),
    "dpo": (2, "dpo", "zero3", (*ANSWERS, *TOWER, "video.on_bad=error"), {}),
    "a lonely call": (2, "grpo", "ddp", (*GROUPS, *SHORT), {"TEST_MUTATION": "lonely"}),
    "a bad loss": (2, "sft", "zero2", (*ANSWERS, *SHORT), {"TEST_MUTATION": "bad_answers"}),
    "hangs before backward": (2, "grpo", "zero2", (*GROUPS, *SHORT), {"TEST_MUTATION": "hang_before_backward"}),
    "hangs in save": (2, "grpo", "ddp", (*GROUPS, *SHORT), {"TEST_MUTATION": "hang_in_save"}),
}


def made(folder, tiny_folder, name):
    """Return a run as `run_ranks` takes it."""
    num, method, launch, overrides, environment = RUNS[name]
    place = folder / name.replace(" ", "_")
    place.mkdir()
    given = [f"data={folder / 'rows'}", f"output={place / 'run'}", *SMALL, f"model.path={tiny_folder}"]
    given += ["launch.use_cpu=true", "launch.timeout_s=120", *overrides, f"launch={launch}"]
    given += [zero_file(place, launch)] if launch.startswith("zero") else []
    return {"num": num, "method": method, "given": given, "env": environment}


@pytest.fixture(scope="module")
def finished(tiny_folder, tmp_path_factory):
    """Return (exit codes, run folder) of each of RUNS."""
    folder = tmp_path_factory.mktemp("ranks")
    write_dataset(folder / "rows")
    write_rows(folder / "rows" / "dev.jsonl", [row for scene in range(3) for row in make_rows(scene)])
    codes = run_ranks([made(folder, tiny_folder, name) for name in RUNS])
    return {name: (own, folder / name.replace(" ", "_") / "run") for name, own in zip(RUNS, codes, strict=True)}


@pytest.mark.parametrize("name", ["grpo tree", "grpo plain", "sft", "dpo"])
def test_ranks_call_the_same_collectives(name, finished):
    codes, run_dir = finished[name]
    num = len(codes)
    assert codes == [0] * num, failure(run_dir)
    assert len(assert_equal_calls(run_dir, num)) > 30
    if not name.startswith("grpo"):
        return
    drawn = [json.loads(line) for line in (run_dir / "completions.jsonl").read_text().splitlines()]
    first = [row for row in drawn if row["step"] == 0]
    size = len(first) // num
    parts = [first[rank * size : (rank + 1) * size] for rank in range(num)]
    assert len({sum(row["num_tokens"] for row in part) for part in parts}) == num  # each draws its own lengths
    assert not all(any(row["reward"] is not None for row in part) for part in parts)  # a rank without a video


def test_a_call_on_one_rank_alone_is_noticed(finished):
    codes, run_dir = finished["a lonely call"]
    assert codes == [1, 1]
    with pytest.raises(AssertionError, match=r"collective \d+: rank 0 .*, rank 1 "):
        assert_equal_calls(run_dir, 2)
    assert len(calls(run_dir, 0)) > 10


def test_a_bad_loss_of_answers_stops_before_the_engine_updates(finished):
    codes, run_dir = finished["a bad loss"]
    found = failure(run_dir)
    assert codes[1] == 1 and codes[0] in (1, -signal.SIGTERM)  # the launcher ends the rank that is left
    assert found[1]["error"].startswith("step 0: loss is nan; the samples of this process are in ")


@pytest.mark.parametrize(
    ("name", "place"),
    [("hangs before backward", "in phase update of step 1"), ("hangs in save", "in phase save of step 1")],
)
def test_a_rank_that_hangs_leaves_the_others_to_say_where(name, place, finished):
    """Before backward: the others wait in a group that DeepSpeed made, to which launch.timeout_s must hold too."""
    codes, run_dir = finished[name]
    assert codes == [1, 1]
    found = failure(run_dir)
    assert found[0]["error"] == f"process 0 {place} waited launch.timeout_s=12 s for another process"
    assert found[1]["lost"]
    for rank in (0, 1):
        assert f"warning: process {rank} has been {place} for " in (run_dir / f"output-{rank}.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("launch", ["zero2", "zero3"])
def test_eight_ranks_equal_one_process(launch, dataset_folder, tiny_folder, tmp_path):
    # 8 ranks x 4 completions = 1 process x 16 x 2 microbatches = 8 groups of 4.
    shared = [f"data={dataset_folder}", *SMALL, f"model.path={tiny_folder}", *GRPO, *EXACT, "trainer.max_steps=1"]
    whole = ("launch=cpu", "trainer.per_device_train_batch_size=16", "trainer.gradient_accumulation_steps=2")
    one = run_one("grpo", [*shared, f"output={tmp_path / 'one'}", *whole])
    parts = ("trainer.per_device_train_batch_size=4", "trainer.gradient_accumulation_steps=1", "launch.use_cpu=true")
    given = [*shared, f"output={tmp_path / 'eight'}", *parts, f"launch={launch}", zero_file(tmp_path, launch)]
    (codes,) = run_ranks([{"num": 8, "method": "grpo", "given": given}], limit_s=900)
    assert codes == [0] * 8, failure(tmp_path / "eight")
    assert_equal_calls(tmp_path / "eight", 8)
    moved = distance_from_start(one, tiny_folder)
    relative, apart = assert_equal_runs(tmp_path / "eight", one)
    assert moved > 1e-3
    print(f"{launch}: moved {moved:.1e}, grad_norm {relative:.1e} relative, weights {apart:.1e}")
