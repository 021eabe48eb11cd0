"""Two steps of every demo-sized experiment and of every reward, as its file says, on a dataset of a few rows."""

import json
from dataclasses import replace

import pytest
from tiny_runs import make_rows, write_dataset

from vsgrpo.config.compose import load_config
from vsgrpo.config.yaml_files import config_dir, config_groups
from vsgrpo.data.rows import write_rows
from vsgrpo.training.worker import train

pytestmark = pytest.mark.integration
SMALL = ["video.backend=pyav", "video.num_frames=4", "trainer.max_steps=2", "trainer.save_steps=2"]


def method_of(name):
    words = (config_dir() / "experiment" / f"{name}.yaml").read_text().split("# vsgrpo ", 1)[1].split()
    return words[1] if words[0] == "train" else None


@pytest.fixture(scope="module")
def thoughtful_folder(tmp_path_factory):
    folder = write_dataset(tmp_path_factory.mktemp("thoughts"))
    rows = [replace(row, reasoning="I see chair 1.") for scene in range(6) for row in make_rows(scene)]
    write_rows(folder / "train.jsonl", rows)
    return folder


@pytest.mark.parametrize("name", [n for n in config_groups()["experiment"] if n.startswith("demo_") and method_of(n)])
def test_two_steps(name, thoughtful_folder, tiny_folder, tmp_path):
    method = method_of(name)
    given = [f"trainer={method}", f"experiment={name}", f"data={thoughtful_folder}", f"output={tmp_path / 'run'}"]
    given += [
        *SMALL,
        f"model.path={tiny_folder}",
        f"trainer.per_device_train_batch_size={16 if method == 'grpo' else 4}",
    ]
    config = load_config("train", given)
    if config.trainer.stages:
        stages = [{**stage, "max_steps": 1} for stage in config.trainer.stages]
        config = replace(config, trainer=replace(config.trainer, save_steps=1, stages=stages))
    (tmp_path / "run").mkdir()
    assert train(config) == 0
    assert (tmp_path / "run" / "final" / "config.json").is_file()


@pytest.fixture(scope="module")
def mapped_folder(tmp_path_factory):
    folder = write_dataset(tmp_path_factory.mktemp("maps"))
    rows = [replace(row, extra={"map": {"chair": [[2, 8]]}}) for scene in range(6) for row in make_rows(scene)]
    write_rows(folder / "train.jsonl", rows)
    return folder


@pytest.mark.parametrize("name", [n for n in config_groups()["experiment"] if n.startswith("reward_")])
def test_two_steps_of_a_reward(name, mapped_folder, tiny_folder, tmp_path):
    given = ["trainer=grpo", f"experiment={name}", f"data={mapped_folder}", f"output={tmp_path / 'run'}", *SMALL]
    given += [
        f"model.path={tiny_folder}",
        "launch=cpu",
        "launch.num_processes=1",
        "model.tune=full",
        "rollout.engine=own",
    ]
    given += ["trainer.bf16=false", "trainer.gradient_checkpointing=false", "trainer.num_generations=2"]
    given += ["trainer.per_device_train_batch_size=2", "trainer.gradient_accumulation_steps=1"]
    given += ["trainer.max_completion_length=24", "reward.overlong_tokens=8"]
    given += ["reward.token_range=[4,24]"]
    config = load_config("train", given)
    (tmp_path / "run").mkdir()
    assert train(config) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").open()]
    logged = [line for line in lines if "reward" in line]
    assert len(logged) == 2
    for reward in config.reward_names():
        assert all(f"rewards/{reward}_reward/mean" in line for line in logged), reward
