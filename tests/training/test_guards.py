"""What differs from the configuration, or between processes, stops the run; a process that stands still says where."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from torch import nn

from vsgrpo.config import load_config
from vsgrpo.errors import ConfigError, RunError, SetupError
from vsgrpo.launch.start import check_environment
from vsgrpo.modeling.device import device_line
from vsgrpo.training import timing
from vsgrpo.training.guards import CheckShards, EqualCalls, PhaseWatch, check_backend, shard_kind, waited_in_vain
from vsgrpo.training.preflight import check_devices
from vsgrpo.training.timing import PhaseTimer
from vsgrpo.training.worker import train

STATE = SimpleNamespace(global_step=3, is_world_process_zero=True)


def config_of(launch, num_processes=2):
    given = ["trainer=sft", "data=d", "output=o", "model.freeze_vision=true", "model.tune=full"]
    return load_config("train", [*given, f"launch={launch}", f"launch.num_processes={num_processes}"])


def accelerator(kind, num_processes=2, backend="gloo", device="cpu"):
    return SimpleNamespace(
        distributed_type=kind,
        num_processes=num_processes,
        device=torch.device(device),
        state=SimpleNamespace(backend=backend),
    )


@pytest.mark.parametrize(
    ("launch", "found", "said"),
    [
        ("zero2", accelerator(DistributedType.MULTI_CPU), "accelerate runs 2 process(es) as MULTI_CPU"),
        ("fsdp2", accelerator(DistributedType.MULTI_CPU), "accelerate runs 2 process(es) as MULTI_CPU"),
        ("ddp", accelerator(DistributedType.NO, 1), "accelerate runs 1 process(es) as NO"),
        ("zero3", accelerator(DistributedType.DEEPSPEED, 4), "accelerate runs 4 process(es) as DEEPSPEED"),
        ("ddp", accelerator(DistributedType.MULTI_GPU, device="cuda"), "processes on cuda talk by gloo, not by nccl"),
        ("zero2", accelerator(DistributedType.DEEPSPEED, backend="mpi"), "processes on cpu talk by mpi, not by gloo"),
    ],
)
def test_another_engine_or_backend_than_asked_for_is_refused(launch, found, said):
    with pytest.raises(SetupError) as caught:
        check_backend(SimpleNamespace(accelerator=found), config_of(launch))
    assert caught.value.message.startswith(f"launch.profile={launch}") and said in caught.value.message


def test_the_engine_asked_for_passes():
    mixed = accelerator(DistributedType.FSDP, backend="cuda:nccl,cpu:gloo", device="cuda")
    check_backend(SimpleNamespace(accelerator=mixed), config_of("fsdp2"))
    check_backend(SimpleNamespace(accelerator=accelerator(DistributedType.MULTI_CPU)), config_of("ddp"))


def test_weights_must_lie_as_the_profile_says():
    model = nn.Linear(2, 2)
    assert shard_kind(list(model.parameters())) == "whole"
    for launch in ("zero3", "fsdp2"):
        with pytest.raises(SetupError, match=f"launch={launch}: the weights are whole, not {launch}"):
            CheckShards(None, launch).on_step_begin(None, STATE, None, model=model)
    model.weight.ds_id = 0
    with pytest.raises(SetupError, match="launch=ddp: the weights are zero3, not whole"):
        CheckShards(None, "ddp").on_step_begin(None, STATE, None, model=model)


def test_an_environment_that_switches_engines_off_is_refused_before_anything_starts(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with pytest.raises(ConfigError, match=r"ACCELERATE_USE_CPU=true: .* launch=zero2"):
        check_environment(config_of("zero2"))
    check_environment(config_of("ddp"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="FSDP2 is refused where there is no GPU")
def test_fsdp2_without_a_gpu_is_refused_before_the_model_loads(make_config):
    config = make_config("sft", "launch=fsdp2", "launch.num_processes=2", "model.freeze_vision=true")
    with pytest.raises(SetupError, match="launch=fsdp2: needs GPUs"):
        train(config)


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a GPU")
@pytest.mark.parametrize(
    ("launch", "way_out"),
    [
        ("gpu1", "set launch=cpu to train on the CPU"),
        ("ddp", "set launch=cpu to train on the CPU, or launch.use_cpu=true for launch=ddp on CPUs"),
        ("zero3", "set launch=cpu to train on the CPU, or launch.use_cpu=true for launch=zero3 on CPUs"),
        ("fsdp2", "set launch=cpu to train on the CPU"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_not_exchanged_for_the_cpu(make_config, tmp_path, monkeypatch, launch, way_out):
    """The driver lists one, torch is built without CUDA: the parent starts workers, which say so."""
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA L4, GPU-1, 23034'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    words = (f"launch={launch}", "launch.num_processes=1", "video.on_bad=error", "model.freeze_vision=true")
    config = make_config("sft", *words)
    check_devices(config)
    there = r"1 GPU \(NVIDIA L4\) there, but this torch"
    with pytest.raises(SetupError, match=f"launch={launch}: needs GPUs: {there}") as caught:
        train(config)
    assert caught.value.hint == way_out
    assert "warning: device: CPU, 1 GPU (NVIDIA L4) there" in device_line("cpu")


def test_another_number_of_calls_on_a_process_stops_the_run():
    model = nn.Module()
    model.model = nn.Module()
    model.model.language_model = nn.Identity()
    model.model.visual = nn.Identity()  # no trained weight: its calls may differ
    timer, other = PhaseTimer(), [2]
    calls = EqualCalls(timer, gather=lambda own: [own, *other])
    for _ in range(2):  # the count begins anew in each step, with one hook
        calls.on_step_begin(None, STATE, None, model=model)
        model.model.language_model(torch.zeros(1))
        model.model.language_model(torch.zeros(1))
        model.model.visual(torch.zeros(1))
        with timer.phase("generate"), timer.phase("prefill"):  # rollouts may differ
            model.model.language_model(torch.zeros(1))
        calls.on_step_end(None, STATE, None)
    other[0] = 3
    with pytest.raises(RunError, match="step 3: the processes called the model 2, 3 times"):
        calls.on_step_end(None, STATE, None)
    calls.on_train_end(None, STATE, None)
    assert not model.model.language_model._forward_pre_hooks


def test_a_phase_that_lasts_is_told_once(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    timer = PhaseTimer()
    watch = PhaseWatch(timer, rank=1, limit_s=60.0, clock=lambda: now[0])
    with timer.phase("update"):
        now[0] += 29.0  # below half of 60 s
        watch.look(7)
        assert capsys.readouterr().err == ""
        now[0] += 2.0
        watch.look(7)
        watch.look(7)
    now[0] += 100.0
    watch.look(7)  # between phases
    expected = "warning: process 1 has been in phase update of step 7 for 31 s (launch.timeout_s=60)\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[unbound_buffer.cc:81] Timed out waiting 1800000ms for recv", "waited launch.timeout_s=60 s for another"),
        ("[pair.cc:547] Connection closed by peer [127.0.0.1]:4", "lost another process"),
        ("The size of tensor a (0) must match", None),
    ],
)
def test_a_collective_call_that_fails_names_process_and_phase(text, told):
    timer = PhaseTimer()
    with pytest.raises(RuntimeError), timer.phase("reward"), timer.phase("generate"):
        raise RuntimeError(text)
    trainer = SimpleNamespace(timer=timer, accelerator=SimpleNamespace(process_index=2), run_step=9)
    error = waited_in_vain(RuntimeError(text), trainer, 60.0)
    assert waited_in_vain(TimeoutError(text), trainer, 60.0) is None  # not torch's
    if told is None:
        assert error is None
    else:
        assert f"process 2 in phase generate of step 9 {told}" in error.message
