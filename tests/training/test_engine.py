from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from tiny_runs import make_rows

from vsgrpo.config.compose import load_config
from vsgrpo.errors import ConfigError, SetupError
from vsgrpo.launch.start import check_environment
from vsgrpo.modeling.load import device_line
from vsgrpo.training.distributed import check_backend
from vsgrpo.training.launcher import check_devices
from vsgrpo.training.preflight import check_enough_rows
from vsgrpo.training.stage_checks import buffer_steps, check_stages
from vsgrpo.training.stages import trl_config
from vsgrpo.training.worker import train

PAPER = {
    "loss_type": "grpo",
    "scale_rewards": "group",
    "use_bias_correction_kl": False,
    "importance_sampling_level": "token",
    "top_entropy_quantile": 1.0,
    "mask_truncated_completions": False,
    "off_policy_mask_threshold": None,
    "epsilon_high": None,
    "delta": None,
    "epsilon": 0.2,
    "num_iterations": 1,
    "beta": 1e-4,
    "num_generations": 14,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "learning_rate": 1e-5,
}


def paper_config(*overrides):
    given = ["trainer=grpo", "experiment=vsgrpo_2b_v", "data=rows", "output=run", "launch=cpu"]
    return load_config("train", [*given, "launch.num_processes=1", "trainer.bf16=false", *overrides])


def test_the_papers_values_reach_trl():
    args = trl_config(paper_config())
    assert {name: getattr(args, name) for name in PAPER} == PAPER
    assert args.use_cpu and not args.bf16
    assert args.logging_nan_inf_filter is False
    assert args.per_device_train_batch_size == 14 and args.gradient_accumulation_steps == 8


def test_a_stage_overrides_the_trainer_section():
    config = paper_config("trainer.stages=[{max_steps: 5}, {max_steps: 7, learning_rate: 2e-5}]")
    assert [trl_config(config, n).max_steps for n in (0, 1)] == [5, 7]
    assert [trl_config(config, n).learning_rate for n in (0, 1)] == [1e-5, 2e-5]


def test_hf_options_reach_trl_and_ours_are_refused():
    assert trl_config(paper_config("+trainer.hf.logging_first_step=true")).logging_first_step is True
    with pytest.raises(ConfigError, match="use_vllm"):
        trl_config(paper_config("+trainer.hf.use_vllm=true"))


def test_checkpoints_inside_a_rollout_buffer_are_refused():
    # 24 microbatches a buffer, 8 an update: a buffer lasts 3 updates.
    config = paper_config("+trainer.hf.steps_per_generation=24", "trainer.save_steps=100")
    with pytest.raises(ConfigError, match="lasts 3 optimizer steps") as error:
        check_stages(config)
    assert "99 or 102" in error.value.hint
    assert buffer_steps(config.trainer) == 3
    config = paper_config("+trainer.hf.steps_per_generation=24", "trainer.save_steps=2")
    with pytest.raises(ConfigError) as error:
        check_stages(config)
    assert error.value.hint == "set trainer.save_steps=3"


def test_too_few_rows_for_a_buffer_are_refused_as_trl_counts_them():
    config, rows = paper_config(), [row for scene in range(4) for row in make_rows(scene)]
    args = trl_config(config)  # 14 x 8 completions / 14 = 8 questions
    assert args.generation_batch_size // args.num_generations == 8
    check_enough_rows(config, rows)
    with pytest.raises(ConfigError, match="takes 8 "):
        check_enough_rows(config, rows[:7])


# --- the engine that was asked for


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
        ("zero2", accelerator(DistributedType.MULTI_CPU), "accelerate runs 2 processes as MULTI_CPU"),
        ("fsdp2", accelerator(DistributedType.MULTI_CPU), "accelerate runs 2 processes as MULTI_CPU"),
        ("ddp", accelerator(DistributedType.NO, 1), "accelerate runs 1 process as NO"),
        ("zero3", accelerator(DistributedType.DEEPSPEED, 4), "accelerate runs 4 processes as DEEPSPEED"),
        ("ddp", accelerator(DistributedType.MULTI_GPU, device="cuda"), "processes on cuda talk by gloo, not by nccl"),
        ("zero2", accelerator(DistributedType.DEEPSPEED, backend="mpi"), "processes on cpu talk by mpi, not by gloo"),
    ],
)
def test_another_engine_or_backend_than_asked_for_is_refused(launch, found, said):
    with pytest.raises(SetupError) as caught:
        check_backend(found, config_of(launch))
    assert caught.value.message.startswith(f"launch.profile={launch}") and said in caught.value.message


def test_the_engine_asked_for_passes():
    mixed = accelerator(DistributedType.FSDP, backend="cuda:nccl,cpu:gloo", device="cuda")
    check_backend(mixed, config_of("fsdp2"))
    check_backend(accelerator(DistributedType.MULTI_CPU), config_of("ddp"))


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
