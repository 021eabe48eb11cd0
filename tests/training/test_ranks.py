"""Every rank calls the same collectives whatever it draws or cannot read, and a rank that waits in vain says where.

And the ranks of SFT and DPO train one process's rows: each once an epoch, in the same steps, at the same weight.

All runs but the largest are made by one start of `rank_runs.py`, two ranks each where four are not said.
"""

import json
import shutil
import signal
import sys
from pathlib import Path

import pytest
import spread_reward
import torch
from rank_runs import assert_equal_calls, calls, failure, run_ranks
from tiny_runs import LORA, SMALL, SPREAD, make_rows, make_trainer, write_dataset
from two_processes import (
    EXACT,
    GRPO,
    assert_equal_runs,
    distance,
    distance_from_start,
    log,
    run_one,
    weights,
    zero_file,
)

from vsgrpo.config.compose import load_config
from vsgrpo.data.rows import write_rows
from vsgrpo.training.samples import SampleMaker

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
EPOCHS = ("trainer.max_steps=-1", "trainer.num_train_epochs=2", "trainer.questions_per_video=2")
"""Of 11 rows in steps of 8: two of two steps, the second of 3 rows."""
RATE = 0.1
SGD = ("trainer.optim=sgd", f"trainer.learning_rate={RATE}", "trainer.lr_scheduler_type=constant", *LORA)
SGD += ("trainer.warmup_steps=0", "trainer.max_grad_norm=1e9", *EPOCHS)
"""The difference of two checkpoints is the gradient between them."""
ADAM = ("model.freeze_vision=false", "video.on_bad=error", *EXACT[1:], *EPOCHS)
FEW = ("trainer.max_steps=6", "trainer.weight_decay=0.1", "run.seed=3", "trainer.questions_per_video=1", *EXACT)
"""An epoch of 6 steps of 2 rows; DEAD leaves one row of the second step live, and one of the fourth."""


def batch(rows, microbatches=1):
    return (
        f"trainer.per_device_train_batch_size={rows}",
        f"trainer.gradient_accumulation_steps={microbatches}",
    )


SAME = {
    # name of a run below: (method, overrides) of one process
    "sft 4": ("sft", (*SGD, *batch(8))),
    "sft 2": ("sft", (*SGD, *batch(8))),
    "sft resumed": ("sft", (*SGD, *batch(8))),
    "dpo": ("dpo", (*ADAM, *batch(8))),
    "few zero2": ("sft", (*FEW, *batch(2))),
    "few zero3": ("sft", (*FEW, *batch(2))),
}
RUNS = {
    # name: (ranks, method, launch, overrides, environment)
    "grpo tree": (4, "grpo", "ddp", (*GROUPS, *FROZEN, "trainer.dev_rows=5"), RAGGED | DEAD),
    "grpo plain": (2, "grpo", "zero3", (*GROUPS, *FROZEN, "trainer.shared_prefix=off"), RAGGED | DEAD),
    "sft": (2, "sft", "zero2", (*ANSWERS, *TOWER), DEAD),
    "sft 4": (4, "sft", "ddp", (*SGD, *batch(2)), {}),  # the last step: 2 rows, 1, none and none
    "sft 2": (2, "sft", "ddp", (*SGD, *batch(1, 4)), {}),  # 1 and 1 row, then 1 and none
    "sft resumed": (2, "sft", "ddp", (*SGD, *batch(4)), {}),  # 3 rows and none
    "sft earlier": (2, "sft", "ddp", (*SGD, *batch(4)), {}),
    "dpo": (2, "dpo", "zero3", (*ADAM, *batch(4)), {}),
    "few zero2": (2, "sft", "zero2", (*FEW, *batch(1)), DEAD),
    "few zero3": (2, "sft", "zero3", (*FEW, *batch(1)), DEAD),
    "a lonely call": (2, "grpo", "ddp", (*GROUPS, *SHORT), {"TEST_MUTATION": "lonely"}),
    "a bad loss": (2, "sft", "zero2", (*ANSWERS, *SHORT), {"TEST_MUTATION": "bad_answers"}),
    "hangs before backward": (2, "grpo", "zero2", (*GROUPS, *SHORT), {"TEST_MUTATION": "hang_before_backward"}),
    "hangs in save": (2, "grpo", "ddp", (*GROUPS, *SHORT), {"TEST_MUTATION": "hang_in_save"}),
}


def arguments(folder, tiny_folder, *overrides):
    rows = "odd" if EPOCHS[0] in overrides else "rows"
    return [f"data={folder / rows}", *SMALL, f"model.path={tiny_folder}", *overrides]


def made(folder, tiny_folder, name):
    """Return a run as `run_ranks` takes it."""
    num, method, launch, overrides, environment = RUNS[name]
    place = folder / name.replace(" ", "_")
    place.mkdir(exist_ok=True)
    given = ["launch.use_cpu=true", "launch.timeout_s=120", f"launch={launch}"]
    given += arguments(folder, tiny_folder, f"output={place / 'run'}", *overrides)
    given += [zero_file(place, launch)] if launch.startswith("zero") else []
    return {"num": num, "method": method, "given": given, "env": environment, "resume": (place / "run").is_dir()}


def train_alone(folder, tiny_folder):
    """Train each of SAME in this process, those that are alike once; return their folders."""
    found = {}
    for name, (method, overrides) in SAME.items():
        run_dir = folder / f"one {method} {'few' if name.startswith('few') else 'epoch'}"
        if not run_dir.is_dir():
            with pytest.MonkeyPatch.context() as patch:
                if name.startswith("few"):
                    patch.setattr(SampleMaker, "_load", spread_reward.without(DEAD["TEST_DEAD_VIDEOS"].split()))
                run_one(method, arguments(folder, tiny_folder, f"output={run_dir}", "launch=cpu", *overrides))
        found[name] = run_dir
    return found


def stop_after_the_first_step(run_dir, place, **status):
    """Copy a run as it was then; `status` are other values of its run.json."""
    place.mkdir(parents=True)
    shutil.copytree(run_dir / "checkpoint-1", place / "checkpoint-1")
    (place / "log.jsonl").write_text((run_dir / "log.jsonl").read_text().splitlines(keepends=True)[0])
    found = json.loads((run_dir / "run.json").read_text()) | {"status": "stopped"} | status
    found["checkpoints"] = {"1": found["checkpoints"]["1"]}
    (place / "run.json").write_text(json.dumps({name: value for name, value in found.items() if value is not None}))


@pytest.fixture(scope="module")
def alone(tiny_folder, tmp_path_factory):
    """Return (folder of all, the run of one process for each of SAME)."""
    folder = tmp_path_factory.mktemp("ranks")
    write_dataset(folder / "rows")
    write_rows(folder / "rows" / "dev.jsonl", [row for scene in range(3) for row in make_rows(scene)])
    write_dataset(folder / "odd")
    write_rows(folder / "odd" / "train.jsonl", [row for scene in range(6) for row in make_rows(scene)][:11])
    return folder, train_alone(folder, tiny_folder)


@pytest.fixture(scope="module")
def finished(tiny_folder, alone):
    """Return (exit codes, run folder) of each of RUNS."""
    folder, ones = alone
    stop_after_the_first_step(ones["sft resumed"], folder / "sft_resumed" / "run")
    stop_after_the_first_step(ones["sft resumed"], folder / "sft_earlier" / "run", rows_once=None)
    codes = run_ranks([made(folder, tiny_folder, name) for name in RUNS])
    return {name: (own, folder / name.replace(" ", "_") / "run") for name, own in zip(RUNS, codes, strict=True)}


@pytest.mark.parametrize("name", SAME)
def test_ranks_train_the_rows_of_one_process(name, finished, alone, tiny_folder):
    codes, run_dir = finished[name]
    one = alone[1][name]
    assert codes == [0] * len(codes), failure(run_dir)
    assert len(assert_equal_calls(run_dir, len(codes))) > 10
    few = name.startswith("few")
    ours, theirs = log(run_dir), log(one)
    steps = 6 if few else 4
    assert [line["step"] for line in ours] == [line["step"] for line in theirs] == [*range(1, steps + 1)]
    # 8 of 11 rows; 2 of 12
    epochs = [i / 6 for i in range(1, 7)] if few else [8 / 11, 1, 1 + 8 / 11, 2]
    assert [line["epoch"] for line in ours] == pytest.approx(epochs)
    assert [line["epoch"] for line in theirs] == pytest.approx(epochs)
    keys = ("learning_rate", "loss", "grad_norm", "entropy", "rewards/margins")
    for key in keys if name == "sft resumed" else (*keys, "num_answer_tokens"):  # which counts from a resume on
        found = [[line[key] for line in lines if key in line] for lines in (ours, theirs)]
        assert found[0] == pytest.approx(found[1], rel=1e-4, abs=1e-6), key
    moved, apart = distance_from_start(one, tiny_folder), distance(weights(run_dir), weights(one))
    assert moved > 1e-3 and apart < 1e-5
    if few:  # steps without a live row behind one with: momentum alone must not move the weights
        assert [line["grad_norm"] > 0 for line in theirs] == [False, True, False, True, False, False]
    print(f"{name}: moved {moved:.1e}, weights {apart:.1e} apart")


@pytest.fixture(scope="module")
def last_rows(alone, tiny_folder):
    """Return a stock model, and functions of it: weights of a folder as it takes them, the loss of rows by number."""
    sys.path.insert(0, str(Path(__file__).parent / "reference"))
    from recording import Recording, reference_of

    folder, _ = alone
    given = arguments(folder, tiny_folder, f"output={folder / 'rows_of'}", *SAME["sft 2"][1], "launch=cpu")
    trainer = make_trainer(load_config("train", ["trainer=sft", *given]))
    reference, recording = reference_of(trainer, tiny_folder), Recording(trainer)
    order = trainer._get_train_sampler().order(0)

    def load(run_dir, name):
        found = {key.replace(".weight", ".default.weight"): value for key, value in weights(run_dir, name).items()}
        reference.load({**trainer.model.state_dict(), **found})
        return found

    def loss(places):
        samples = trainer.data_collator([trainer.train_dataset[order[i]] for i in places])["samples"]
        return reference.sft([[recording._row(sample) for sample in samples]])

    return reference, load, loss


@pytest.mark.parametrize(("name", "places"), [("sft 4", (8, 9, 10)), ("sft earlier", (8, 9, 10, 0, 1, 2, 3, 4))])
def test_the_last_step_of_an_epoch_is_that_of_a_stock_model(name, places, finished, last_rows):
    """3 rows of 11; in a run of an earlier version, which goes on as it was, 5 of the first ones again."""
    codes, run_dir = finished[name]
    assert codes == [0] * len(codes), failure(run_dir)
    reference, load, loss = last_rows
    after, before = load(run_dir, "checkpoint-2"), load(run_dir, "checkpoint-1")
    expected = loss(places)
    assert log(run_dir)[1]["loss"] == pytest.approx(expected.item(), rel=1e-5)
    gradients = reference.gradients(expected, before)
    apart = [(before[key] - after[key]) / RATE - gradients[key] for key in before]
    whole = torch.cat([gradient.flatten() for gradient in gradients.values()]).norm()
    assert torch.cat([difference.flatten() for difference in apart]).norm() < 1e-4 * whole
    said = "goes on so: 5 of 11 count twice" in (run_dir / "output-0.txt").read_text()
    assert said == (name == "sft earlier")


@pytest.mark.parametrize("name", ["grpo tree", "grpo plain", "sft"])
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
