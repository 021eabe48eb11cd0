"""The gradient of two processes is that of one, where they have unequal numbers of tokens, pairs or live rows.

With SGD at a learning rate of 1 the weights move by exactly the gradient, so saved weights tell it.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import spread_reward
import torch
from tiny_runs import write_dataset
from two_processes import GRPO, ONE, TWO, arguments, completions, finish, log, run_one, vsgrpo, weights

from vsgrpo.data.rows import read_rows, write_rows
from vsgrpo.training.samples import SampleMaker

pytestmark = pytest.mark.distributed

PLAIN = (
    "trainer.optim=sgd",
    "trainer.learning_rate=1",
    "trainer.lr_scheduler_type=constant",
)
PLAIN += ("trainer.warmup_steps=0", "trainer.max_grad_norm=1e9", "trainer.max_steps=1", "trainer.save_steps=1")
PLAIN += ("model.freeze_vision=true", "trainer.gradient_accumulation_steps=2")


@pytest.fixture(scope="module")
def ragged_folder(tmp_path_factory):
    """Rows whose answers have 4 to 19 characters, by scene."""
    folder = write_dataset(tmp_path_factory.mktemp("ragged"))
    rows = []
    for place, row in enumerate(read_rows(folder / "train.jsonl")):
        answer = f"1{place % 2}.5" + "5" * (3 * (place // 2))
        rows.append(replace(row, answer=answer, ground_truth=answer))
    write_rows(folder / "train.jsonl", rows)
    return folder


def run_two(method, dataset, model, run_dir, *overrides):
    given = arguments(method, dataset, model, run_dir, *overrides, "launch=ddp", "launch.num_processes=2")
    code, _, err = finish(vsgrpo(method, given), timeout=900)
    assert code == 0, err[-3000:]
    return run_dir


def assert_equal_gradients(two, one, model):
    start, first, second = weights(model, "."), weights(one), weights(two)
    moved = torch.cat([(first[name] - start[name]).flatten() for name in start])
    apart = torch.cat([(second[name] - first[name]).flatten() for name in start])
    assert moved.norm() > 1e-2
    assert apart.norm() <= 1e-5 * moved.norm(), (apart.norm() / moved.norm()).item()
    assert log(two)[0]["loss"] == pytest.approx(log(one)[0]["loss"], rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("tiny_folder", "method"),
    [("qwen2_5_vl", "sft"), pytest.param("qwen2_vl", "dpo", marks=pytest.mark.slow)],
    indirect=["tiny_folder"],
)
def test_ragged_answers(ragged_folder, tiny_folder, method, tmp_path):
    sizes = ("trainer.per_device_train_batch_size=4",), ("trainer.per_device_train_batch_size=2",)
    one = run_one(method, arguments(method, ragged_folder, tiny_folder, tmp_path / "one", *PLAIN, *sizes[0]))
    two = run_two(method, ragged_folder, tiny_folder, tmp_path / "two", *PLAIN, *sizes[1], "launch.use_cpu=true")
    assert_equal_gradients(two, one, tiny_folder)


@pytest.mark.parametrize(
    ("loss", "tower"), [("grpo", "trained"), pytest.param("dapo", "frozen", marks=pytest.mark.slow)]
)
def test_a_process_without_a_live_row(dataset_folder, tiny_folder, tmp_path, monkeypatch, loss, tower):
    own = [word for word in GRPO if not word.startswith("trainer.adam_")]  # SGD has none of Adam's constants
    run = (*own, *PLAIN, f"trainer.loss_type={loss}", "video.on_bad=skip")
    run = (*run, f"model.freeze_vision={str(tower == 'frozen').lower()}")
    given = arguments("grpo", dataset_folder, tiny_folder, tmp_path / "all", *run, *ONE)
    drawn = [row for _, row, _ in completions(run_one("grpo", given))]
    kept = f"{drawn[0][-1]}.mp4"  # rows are demo/count3, demo/area3: all other videos die
    dead = [f"{scene}.mp4" for scene in range(6) if f"{scene}.mp4" != kept]
    monkeypatch.setenv("TEST_DEAD_VIDEOS", " ".join(dead))
    monkeypatch.setattr(SampleMaker, "_load", spread_reward.without(dead))
    one = run_one("grpo", arguments("grpo", dataset_folder, tiny_folder, tmp_path / "one", *run, *ONE))
    two = run_two("grpo", dataset_folder, tiny_folder, tmp_path / "two", *run, *TWO)
    lines = (Path(two) / "completions.jsonl").read_text().splitlines()
    is_live = [json.loads(line)["reward"] is not None for line in lines]
    assert len(is_live) == 16 and sorted([any(is_live[:8]), any(is_live[8:])]) == [False, True]
    assert_equal_gradients(two, one, tiny_folder)
