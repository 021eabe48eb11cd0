"""Two processes train like one: every method, engine and way to tune, with video; two mutants do not.

Cells that are not in CI are marked `slow`. `pytest -rP tests/training/test_two_processes.py` prints the differences.
"""

import json
import shutil

import pytest
from tiny_runs import LORA, write_boxed_dataset
from two_processes import (
    FIVE_STEPS,
    GRPO,
    ONE,
    SFT,
    TWO,
    arguments,
    assert_equal_runs,
    completions,
    distance_from_start,
    finish,
    log,
    run_one,
    vsgrpo,
    zero_file,
)

from vsgrpo.families import FAMILIES

pytestmark = pytest.mark.distributed

METHODS = {"grpo": GRPO, "sft": SFT, "dpo": SFT}
TOWER = ("model.freeze_vision=false", "video.on_bad=error", "trainer.vision_learning_rate=1e-2")
TUNES = {"full": (), "lora": LORA, "tower": TOWER}
ONE_BATCH = {"grpo": ONE, **dict.fromkeys(("sft", "dpo"), ("trainer.per_device_train_batch_size=4",))}
HALVES = {"grpo": (), **dict.fromkeys(("sft", "dpo"), ("trainer.per_device_train_batch_size=2",))}
IN_CI = (
    ("grpo", "zero2", "full"),
    ("grpo", "zero3", "lora"),  # full: test_slurm.py
    ("sft", "zero3", "full"),
    ("dpo", "zero2", "lora"),
)
OTHER_IN_CI = ("qwen3_vl", ("sft", "zero3", "tower"))
CELLS = [
    pytest.param(*cell, marks=() if cell in IN_CI else pytest.mark.slow, id="-".join(cell))
    for method in METHODS
    for launch in ("ddp", "zero2", "zero3", "zero3_offload", "fsdp2")
    for tune in TUNES
    if (cell := (method, launch, tune)) and (launch, tune) != ("fsdp2", "tower")  # refused
]


@pytest.fixture(scope="module")
def reference(dataset_folder, tiny_folder, tmp_path_factory):
    """Return a function (method, tune) -> folder of five steps of one process, trained when first asked for."""
    made = {}

    def run(method, tune):
        if (method, tune) not in made:
            run_dir = tmp_path_factory.mktemp("one") / "run"
            given = (*METHODS[method], *TUNES[tune], *FIVE_STEPS, *ONE_BATCH[method])
            made[method, tune] = run_one(method, arguments(method, dataset_folder, tiny_folder, run_dir, *given))
        return made[method, tune]

    return run


def run_two(method, dataset, model, tmp_path, launch, *overrides, mutation=None, flags=()):
    halves = (f"launch={launch}", *TWO, *HALVES[method])
    given = arguments(method, dataset, model, tmp_path / "two", *METHODS[method], *FIVE_STEPS, *halves, *overrides)
    if launch.startswith("zero"):
        given.append(zero_file(tmp_path, launch))
    code, out, err = finish(vsgrpo(method, given, *flags, mutation=mutation, fsdp_on_cpu=launch == "fsdp2"))
    assert code == 0, err[-3000:]
    assert out == f"trained: {tmp_path / 'two' / 'final'}\n"
    return tmp_path / "two", err


def test_the_reference_learns(reference, tiny_folder):
    one = reference("grpo", "full")
    assert distance_from_start(one, tiny_folder) >= 1e-2
    groups = {}
    for (step, row, _), (_, advantage) in completions(one).items():
        groups.setdefault((step, row), []).append(advantage)
    # 2 microbatches of 8 completions = 4 groups of 4 in each of 5 steps.
    assert len(groups) == 20
    assert sum(any(group) for group in groups.values()) >= 15


@pytest.mark.parametrize(("method", "launch", "tune"), CELLS)
def test_two_processes_equal_one(method, launch, tune, reference, dataset_folder, tiny_folder, tmp_path):
    one = reference(method, tune)
    two, err = run_two(method, dataset_folder, tiny_folder, tmp_path, launch, *TUNES[tune])
    moved = distance_from_start(one, tiny_folder)
    assert moved >= 1e-2
    norms, final = assert_equal_runs(two, one)
    print(f"{method} {launch} {tune}: moved {moved:.1e}, grad_norm {norms:.1e} relative, weights {final:.1e}")
    for lines in (log(one), log(two)):  # the shared prefix and the feature cache were in use
        for name in ("tokens", "videos"):
            computed = sum(line.get(f"{name}/computed", 0) for line in lines)
            assert 0 < computed < sum(line[f"{name}/plain"] for line in lines), name
    state = json.loads((two / "run.json").read_text())
    if launch.startswith("zero3"):  # every parameter in parts, none too small for it
        assert state["zero"]["stage"] == 3
        assert state["zero"]["sharded"] == state["zero"]["of"] > 0
    assert "it/s" not in err  # no bar of a library
    assert "FutureWarning" not in err


OTHERS = [
    pytest.param(family, *cell, marks=() if (family, cell) == OTHER_IN_CI else pytest.mark.slow)
    for family in FAMILIES
    if family != "qwen2_vl"
    for cell in (("sft", "zero3", "tower"), ("grpo", "zero2", "lora"), ("grpo", "zero3", "full"))
]


@pytest.mark.parametrize(("tiny_folder", "method", "launch", "tune"), OTHERS, indirect=["tiny_folder"])
def test_two_processes_of_another_family_equal_one(method, launch, tune, dataset_folder, tiny_folder, tmp_path):
    given = (*METHODS[method], *TUNES[tune], *FIVE_STEPS, *ONE_BATCH[method])
    one = run_one(method, arguments(method, dataset_folder, tiny_folder, tmp_path / "one", *given))
    two, _ = run_two(method, dataset_folder, tiny_folder, tmp_path, launch, *TUNES[tune])
    assert distance_from_start(one, tiny_folder) >= 1e-2
    assert_equal_runs(two, one)


def test_two_processes_in_merged_passes_equal_one(reference, dataset_folder, tiny_folder, tmp_path):
    # 2 microbatches of 4 completions: one pass of 8 on each of the two
    two, err = run_two("grpo", dataset_folder, tiny_folder, tmp_path, "zero2", "trainer.tokens_per_pass=100000")
    assert "update: 2 microbatches of 4 completions in 1 pass of up to" in err
    assert_equal_runs(two, reference("grpo", "full"))


def test_two_processes_keep_one_spread_of_rewards(dataset_folder, tiny_folder, tmp_path):
    spread = ("trainer.scale_rewards=ema", "trainer.save_steps=3")
    given = arguments("grpo", dataset_folder, tiny_folder, tmp_path / "one", *GRPO, *FIVE_STEPS, *ONE, *spread)
    one = run_one("grpo", given)
    two, _ = run_two("grpo", dataset_folder, tiny_folder, tmp_path, "zero2", *spread)
    assert_equal_runs(two, one)
    for done in (
        "final",
        "checkpoint-5",
    ):  # killed behind step 3: DeepSpeed loads the weights of a checkpoint by itself
        shutil.rmtree(two / done)
    (two / "completions.jsonl").unlink()
    run_two("grpo", dataset_folder, tiny_folder, tmp_path, "zero2", *spread, flags=("--resume",))
    drawn = completions(one)
    assert completions(two) == {key: drawn[key] for key in drawn if key[0] >= 3}  # with their advantages
    states = [json.loads((run / "checkpoint-5" / "reward_spread.json").read_text())["moments"] for run in (one, two)]
    assert states[0] == states[1] and states[0].keys() == {"object_counting", "room_size_estimation"}


def test_two_processes_draw_the_same_groups_anew(tiny_folder, tmp_path):
    folder = write_boxed_dataset(tmp_path / "boxed", boxed=4)
    given = ("reward.names=[spread_reward:fifths]", "trainer.group_filter={min: 0.01, max: 0.99}")
    given += ("trainer.temporal_generations=2", r"reward.schedule={spread_reward\:fifths: [[0, 1.0], [5, 0.5]]}")
    given += ("trainer.gpd_weight=0.1", "trainer.gpd_clip=0.4")
    words = arguments("grpo", folder, tiny_folder, tmp_path / "one", *GRPO, *FIVE_STEPS, *ONE, *given)
    one = run_one("grpo", words)
    two, _ = run_two("grpo", folder, tiny_folder, tmp_path, "zero3", *given)
    assert_equal_runs(two, one)
    for name in ("group_filter/redrawn", "rewards/temporal/mean", "reward", "gpd/taught", "gpd/kl"):
        found = [[line[name] for line in log(run) if "reward" in line] for run in (one, two)]
        assert found[0] == pytest.approx(found[1], rel=1e-4) and sum(found[0]) > 0, name


@pytest.mark.parametrize("mutation", ["zero_gradients", "other_videos"])
def test_a_mutated_rank_is_noticed(mutation, reference, dataset_folder, tiny_folder, tmp_path):
    two, _ = run_two("grpo", dataset_folder, tiny_folder, tmp_path, "zero2", mutation=mutation)
    with pytest.raises(AssertionError):
        assert_equal_runs(two, reference("grpo", "full"))
