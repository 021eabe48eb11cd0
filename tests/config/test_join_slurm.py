"""A process that srun started joins a run, or starts one: by the number of tasks."""

import pytest

from vsgrpo.config.compose import load_config
from vsgrpo.errors import ConfigError
from vsgrpo.launch.start import join_slurm, launch_command
from vsgrpo.training.launcher import needs_launcher

TASK = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "9", "SLURM_LOCALID": "1"}


def config_of(*overrides):
    return load_config("train", ["trainer=grpo", "data=d", "output=o/r", *overrides])


@pytest.fixture
def environment(monkeypatch):
    """A mapping in place of os.environ."""
    values = dict(TASK)
    monkeypatch.setattr("vsgrpo.launch.start.os.environ", values)
    return values


def test_one_task_per_worker_joins(environment):
    environment["SLURM_NTASKS"] = "16"
    given = ("launch=ddp", "launch.num_processes=16", "launch.num_machines=2")
    join_slurm(config_of(*given, "launch.main_process_ip=n1"))
    joined = {name: environment[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    assert list(joined.values()) == ["9", "1", "16", "n1", "29500"]


def test_one_task_per_worker_needs_an_address(environment):
    environment["SLURM_NTASKS"] = "16"
    with pytest.raises(ConfigError, match="main_process_ip"):
        join_slurm(config_of("launch=ddp", "launch.num_processes=16", "launch.num_machines=2"))


@pytest.mark.parametrize("tasks", ["1", "2"])
def test_one_task_per_machine_starts_its_workers(environment, tasks):
    environment["SLURM_NTASKS"] = tasks
    join_slurm(config_of("launch=ddp", "launch.num_processes=16", f"launch.num_machines={tasks}"))
    assert "RANK" not in environment


def test_a_sharded_engine_needs_its_launcher_even_for_one_process(tmp_path):
    assert not needs_launcher(config_of("launch=ddp", "launch.num_processes=1"))
    offload = config_of("launch=zero3_offload", "launch.num_processes=1")
    assert "zero3_offload.yaml" in launch_command(offload, tmp_path / "config.yaml")[3]


@pytest.mark.integration
def test_a_sharded_tower_is_trained_by_zero3_if_every_process_calls_it():
    with pytest.raises(ConfigError, match="freeze_vision=false: the tower is called outside"):
        config_of("launch=fsdp2", "model.tune=full", "model.freeze_vision=false")
    for launch in ("zero3", "zero3_offload"):
        tower = (f"launch={launch}", "model.tune=full", "model.freeze_vision=false")
        with pytest.raises(ConfigError, match=r"video.on_bad=skip: .* a process left without videos would not call"):
            config_of(*tower)
        config_of(*tower, "video.on_bad=error")
