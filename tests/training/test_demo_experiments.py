"""Two steps of every demo-sized experiment, as its file says, on a dataset of a few rows."""

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
