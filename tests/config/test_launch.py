"""launch=auto: one process for each GPU that is there, else one on the CPU; profiles without their GPUs are refused."""

import dataclasses
import functools
import json

import pytest
from omegaconf import OmegaConf

from vsgrpo import devices
from vsgrpo.cli import run
from vsgrpo.config.compose import load_config, load_resolved, to_yaml
from vsgrpo.config.evaluate import resolve_dtype
from vsgrpo.config.keys import build_section
from vsgrpo.config.launching import LaunchSection, resolve_launch
from vsgrpo.config.yaml_files import config_dir
from vsgrpo.errors import ConfigError, VsgrpoError
from vsgrpo.launch.start import as_started, describe
from vsgrpo.memory.passes import device_memory
from vsgrpo.training.launcher import check_devices, device_line

LAUNCHERS = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "SLURM_STEP_ID", "SLURM_NTASKS", "CUDA_VISIBLE_DEVICES")


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Return a function (GPUs, **environment): a machine whose nvidia-smi lists so many of 24 GB."""
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(devices, "DRIVER_FOLDER", tmp_path / "none")
    monkeypatch.setattr(devices, "NVML", "libno-such-library.so")
    devices._ask_nvml.cache_clear()

    def make(count, **environment):
        folder = tmp_path / f"bin{count}"
        folder.mkdir(exist_ok=True)
        lines = "\n".join(f"NVIDIA L4, GPU-{i}, 23034" for i in range(count))
        (folder / "nvidia-smi").write_text(f"#!/bin/sh\ncat <<'END'\n{lines}\nEND\n")
        (folder / "nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    yield make
    devices._ask_nvml.cache_clear()


@functools.cache
def composed(output):
    given = ["trainer=grpo", "data=d", f"output={output}", "model=tiny", "model.freeze_vision=true", "launch=cpu"]
    return load_config("train", given)


def config_of(*words, output="o"):
    """Return what `load_config` makes of launch words; only the launch section is composed anew, which takes 1 ms."""
    given = dict(word.removeprefix("launch.").split("=") for word in words)
    node = OmegaConf.load(config_dir() / "launch" / f"{given.pop('launch', 'auto')}.yaml")
    node.merge_with_dotlist([f"{name}={value}" for name, value in given.items()])
    node.update(resolve_launch(OmegaConf.to_container(node)))
    return dataclasses.replace(
        composed(output), launch=build_section(LaunchSection, OmegaConf.to_container(node), "launch")
    )


@pytest.mark.parametrize(
    ("gpus", "environment", "words", "profile", "processes", "on_cpu"),
    [
        (0, {}, (), "cpu", 1, True),
        (1, {}, (), "gpu1", 1, False),
        (8, {}, (), "ddp", 8, False),
        (8, {}, ("launch.num_processes=3",), "ddp", 3, False),
        (8, {}, ("launch.num_processes=1",), "gpu1", 1, False),
        (8, {"CUDA_VISIBLE_DEVICES": "2"}, (), "gpu1", 1, False),
        (8, {"CUDA_VISIBLE_DEVICES": "GPU-5,GPU-1"}, (), "ddp", 2, False),
        (8, {"CUDA_VISIBLE_DEVICES": ""}, (), "cpu", 1, True),
        (8, {}, ("launch.use_cpu=true",), "cpu", 1, True),
        *[(8, {}, (f"launch.use_cpu={word}",), "ddp", 8, False) for word in ("no", "off", "n", "'false'", "0")],
        *[(8, {}, (f"launch.use_cpu={word}",), "cpu", 1, True) for word in ("yes", "on", "y", "1")],
        (8, {}, ("launch.num_processes='2'",), "ddp", 2, False),
        (0, {}, ("launch.use_cpu=true", "launch.num_processes=2"), "ddp", 2, True),
        (8, {"WORLD_SIZE": "4", "LOCAL_RANK": "0", "RANK": "0"}, (), "ddp", 4, False),
        (1, {"WORLD_SIZE": "4", "LOCAL_RANK": "2", "RANK": "2"}, (), "ddp", 4, False),  # one GPU shown to each task
        (8, {"WORLD_SIZE": "1", "LOCAL_RANK": "0", "RANK": "0"}, (), "gpu1", 1, False),  # torchrun of one process
        (2, {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "1"}, (), "ddp", 2, False),
        (8, {}, ("launch=cpu",), "cpu", 1, True),
        (0, {}, ("launch=zero2",), "zero2", 8, False),  # composed for another machine, refused where it starts
    ],
)
def test_what_is_there_is_taken(machine, gpus, environment, words, profile, processes, on_cpu):
    machine(gpus, **environment)
    config = config_of(*words)
    assert (config.launch.profile, config.launch.num_processes, config.launch.on_cpu) == (profile, processes, on_cpu)


def test_auto_is_the_default(machine):
    given = ["trainer=grpo", "data=d", "output=o", "model=tiny"]
    machine(0)
    assert load_config("train", given).launch.profile == "cpu"
    machine(2)
    launch = load_config("train", given).launch
    assert (launch.profile, launch.num_processes, launch.auto) == ("ddp", 2, True)
    assert load_config("train", [*given, "experiment=demo_grpo"]).launch.profile == "cpu"  # an experiment's own choice


@pytest.mark.parametrize(
    ("gpus", "environment", "words", "message", "hint"),
    [
        (0, {}, ("launch=gpu1",), "launch=gpu1: needs a GPU; no GPU is seen", "launch=cpu"),
        (8, {"CUDA_VISIBLE_DEVICES": ""}, ("launch=gpu1",), "CUDA_VISIBLE_DEVICES= hides 8", "launch=cpu"),
        (0, {}, ("launch=ddp", "launch.num_processes=2"), "launch=ddp: needs 2 GPUs", "launch.use_cpu=true"),
        (0, {}, ("launch=zero2",), "launch=zero2: needs 8 GPUs", "launch.use_cpu=true"),
        (0, {}, ("launch=zero3",), "launch=zero3: needs 8 GPUs", "launch.use_cpu=true"),
        (0, {}, ("launch=zero3_offload",), "launch=zero3_offload: needs 8 GPUs", "launch.use_cpu=true"),
        (0, {}, ("launch=fsdp2",), "launch=fsdp2: needs 8 GPUs", "launch=cpu"),
        (0, {}, ("launch=fsdp2", "launch.use_cpu=true"), "launch=fsdp2: needs GPUs", "launch=zero2"),
        (4, {}, ("launch=zero2",), "launch=zero2: needs 8 GPUs, one for each process; 4 GPUs", "num_processes=4"),
        (2, {}, ("launch=ddp", "launch.num_machines=2"), "needs 4 GPUs", "launch.num_processes=4"),
        (0, {}, ("launch.num_processes=2",), "launch.num_processes=2: launch=auto takes", "launch.use_cpu=true"),
        (2, {}, ("launch.num_processes=3",), "launch.num_processes=3: 2 GPUs", "launch.num_processes=2"),
        (2, {}, ("launch.num_processes=0",), "launch.num_processes=0: must be", "leave it out"),
        (8, {}, ("launch.num_machines=2",), "launch.num_machines=2: launch=auto counts", "name the profile"),
        (8, {}, ("launch.num_machines=two",), "launch.num_machines=two: a whole number is needed", "right type"),
        (8, {}, ("launch.num_processes=two",), "launch.num_processes=two: a whole number is needed", "right type"),
        (8, {}, ("launch.use_cpu=maybe",), "launch.use_cpu=maybe: true or false is needed", "right type"),
        (8, {}, ("launch.profile=null",), "launch.profile=null: not one of the choices", "auto, cpu, gpu1"),
        (8, {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "8"}, (), "SLURM_NTASKS=8: launch=auto is one task", "launch=ddp"),
        (0, {"WORLD_SIZE": "2", "LOCAL_RANK": "0"}, (), "launch.num_processes=2: launch=auto", "launch.use_cpu=true"),
        (8, {"WORLD_SIZE": "2"}, ("launch.num_processes=8",), "the launcher has started 2", "leave launch"),
        (1, {}, ("launch.accelerate_file=x.yaml",), "launch.accelerate_file=x.yaml: launch=gpu1", "null"),
        (1, {}, ("launch=gpu1", "launch.use_cpu=true"), "launch.use_cpu=true: launch=gpu1", "launch=cpu"),
        (1, {}, ("launch.profile=gpu1",), "launch.profile=gpu1: the rest of launch=auto", "launch=gpu1"),
        (1, {}, ("launch=cpu", "launch.profile=null"), "launch.profile=null: not one of", "auto, cpu, gpu1"),
        (1, {}, ("launch=gpu1", "launch.profile=gpu"), "launch.profile=gpu: not one of", "gpu1"),
    ],
)
def test_what_is_not_there_is_refused(machine, gpus, environment, words, message, hint):
    machine(gpus, **environment)
    with pytest.raises(VsgrpoError) as caught:
        check_devices(config_of(*words))
    assert caught.value.exit_code == 2
    assert message in caught.value.message and hint in caught.value.hint, caught.value.args


@pytest.mark.parametrize(
    ("gpus", "words", "line"),
    [
        (0, (), "device: CPU (launch=auto took launch=cpu, 1 process): no GPU is seen"),
        (2, (), "device: 2 GPUs (NVIDIA L4): launch=auto took launch=ddp, 2 processes"),
        (2, ("launch=gpu1",), "device: 1 of 2 GPUs (NVIDIA L4): launch=gpu1, 1 process"),
        (2, ("launch=cpu",), "warning: device: CPU (launch=cpu, 1 process), although this machine has 2 GPUs"),
    ],
)
def test_one_line_says_what_was_taken(machine, gpus, words, line):
    machine(gpus)
    config = config_of(*words)
    assert device_line(config).startswith(line)
    assert line in describe(config)


def test_a_plan_for_another_machine_is_refused_here_in_words(machine):
    machine(0)
    text = describe(config_of("launch=zero2"))
    assert "warning: refused here: launch=zero2: needs 8 GPUs" in text and "launch: accelerate launch" in text


def test_memory_is_compared_with_the_gpu_before_workers_start(machine):
    machine(2)
    assert device_memory(config_of()) == (23034 * 2**20, "on the smallest GPU")
    whole, _ = device_memory(config_of("launch=cpu"))
    half, where = device_memory(config_of("launch=ddp", "launch.num_processes=2", "launch.use_cpu=true"))
    assert half == whole / 2 and where.endswith("each of 2 processes")


def test_a_resume_keeps_the_processes_that_the_run_was_started_with(machine, tmp_path):
    """Started by auto on eight GPUs: on four or none it must neither change its batch nor move to the CPU."""
    machine(8)
    started = config_of(output=tmp_path)
    (tmp_path / "config.yaml").write_text(to_yaml(started))
    assert load_resolved(tmp_path / "config.yaml").launch == started.launch  # workers count nothing anew
    for gpus in (4, 0):
        machine(gpus)
        again = as_started(config_of(output=tmp_path), [])
        assert (again.launch.profile, again.launch.num_processes) == ("ddp", 8)
        with pytest.raises(VsgrpoError, match="launch=ddp: needs 8 GPUs"):
            check_devices(again)
    named = ["launch=cpu"]
    assert as_started(config_of(*named, output=tmp_path), named).launch.profile == "cpu"
    machine(4)
    chosen = ["launch.num_processes=4"]
    assert as_started(config_of(*chosen, output=tmp_path), chosen).launch.num_processes == 4


def test_a_run_of_an_earlier_version_names_no_device(tmp_path, machine):
    """Its config.yaml lacks use_cpu and auto; launch=auto goes on as it was started."""
    machine(0)
    text = to_yaml(config_of("launch=cpu", output=tmp_path))
    lines = [line for line in text.splitlines() if not line.startswith(("  use_cpu:", "  auto:"))]
    (tmp_path / "config.yaml").write_text("\n".join(lines) + "\n")
    assert as_started(config_of(output=tmp_path), []).launch.on_cpu


def test_dtype_auto_takes_bfloat16_where_the_cpu_is_twice_as_fast_in_it(machine, tmp_path, monkeypatch):
    machine(0)

    monkeypatch.setenv("VSGRPO_CACHE_DIR", str(tmp_path))
    words = ["trainer=sft", "model=tiny", "model.dtype=auto", "data=d", f"output={tmp_path}"]

    def cpu(speedup):
        (tmp_path / devices.SPEEDUP_NAME).write_text(json.dumps({devices._processor_key(): speedup}))

    for speedup, dtype in ((0.2, "float32"), (1.9, "float32"), (2.0, "bfloat16"), (5.0, "bfloat16")):
        cpu(speedup)
        assert resolve_dtype({"dtype": "auto"}, on_cpu=True) == {"dtype": dtype, "dtype_auto": True}
    assert resolve_dtype({"dtype": "auto"}, on_cpu=False)["dtype"] == "float32"  # it is a rule for CPUs
    assert resolve_dtype({"dtype": "float32"}, on_cpu=True) == {}
    started = load_config("train", words)
    assert started.model.dtype == "bfloat16"
    assert device_line(started).endswith("; model.dtype=auto took bfloat16")
    # A resume on a CPU of another kind goes on as the run was started.
    (tmp_path / "config.yaml").write_text(to_yaml(started))
    assert load_resolved(tmp_path / "config.yaml").model == started.model
    cpu(1.0)
    again = load_config("train", words)
    assert again.model.dtype == "float32" and as_started(again, []).model.dtype == "bfloat16"
    with pytest.raises(ConfigError, match=r"model\.dtype_auto: unknown key"):
        load_config("train", [*words, "model.dtype_auto=false"])


def test_gpu1_without_a_gpu_ends_with_one_line_and_leaves_no_folder(machine, tmp_path, capsys):
    machine(0)
    output = tmp_path / "run"
    assert run(["train", "sft", "model=tiny", "launch=gpu1", f"data={tmp_path}", f"output={output}"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert [line.partition(":")[0] for line in lines] == ["error", "hint"]
    assert not output.exists()
