"""Runs of several real processes: start them as `vsgrpo train` does, compare what they leave with one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml
from safetensors.torch import load_file
from tiny_runs import SMALL, SPREAD

from vsgrpo.config.compose import load_config

EXACT = ("model.freeze_vision=true", "trainer.learning_rate=5e-3", "trainer.adam_epsilon=1e-3")
"""Weights move by about 5e-3 a step. Adam divides by the gradient's size, and would blow up rounding where a gradient
is near zero: a larger epsilon keeps float32 noise of 1e-8 below 5e-3 * 1e-8 / 1e-3 = 5e-8."""
GRPO = (SPREAD, "trainer.num_generations=4", "trainer.beta=0.01", "trainer.gradient_accumulation_steps=2", *EXACT)
SFT = ("trainer.gradient_accumulation_steps=2", *EXACT)
ONE = ("launch=cpu", "trainer.per_device_train_batch_size=8")
TWO = ("launch.num_processes=2", "launch.use_cpu=true", "trainer.per_device_train_batch_size=4")
FIVE_STEPS = ("trainer.max_steps=5", "trainer.save_steps=5")


def arguments(method, dataset, model, run_dir, *overrides):
    """Return the overrides of a small run."""
    return [f"data={dataset}", f"output={run_dir}", *SMALL, f"model.path={model}", *overrides]


def vsgrpo(method, given, *flags, mutation=None, fsdp_on_cpu=False, **options):
    """Start `vsgrpo train` as a user would; return the Popen (options go to it)."""
    folder = Path(__file__).parent
    shim = [str(folder / "fsdp_on_cpu")] if fsdp_on_cpu else []
    paths = os.pathsep.join([*shim, str(folder), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TEST_MUTATION": mutation or ""}
    command = [sys.executable, "-m", "vsgrpo.cli", "train", method, *given, *flags]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def finish(process, timeout=300):
    """Wait; return (exit code, stdout, stderr)."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.terminate()
        raise
    return process.returncode, out, err


def run_one(method, given):
    """Train in this process, as the reference."""
    from vsgrpo.training.worker import train

    config = load_config("train", [f"trainer={method}", *given])
    Path(config.run.dir).mkdir(parents=True)
    assert train(config) == 0
    return Path(config.run.dir)


def zero_file(folder, profile, num_machines=1):
    """Write an accelerate file of zero2, zero3 or zero3_offload that shards even the smallest parameters.

    Returns:
        the override that names it.
    """
    stage = int(profile[4])
    zero = {"stage": stage, "stage3_param_persistence_threshold": 0, "stage3_gather_16bit_weights_on_model_save": True}
    if profile == "zero3_offload":
        zero |= {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}
    auto = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    settings = {"zero_optimization": zero, **dict.fromkeys(auto, "auto"), "zero_force_ds_cpu_optimizer": False}
    (folder / "deepspeed.json").write_text(json.dumps(settings))
    accelerate = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "DEEPSPEED",
        "deepspeed_config": {
            "deepspeed_config_file": str(folder / "deepspeed.json"),
            "zero3_init_flag": stage == 3,
            "deepspeed_multinode_launcher": "standard",
        },
        "num_machines": num_machines,
        "num_processes": 2,
        "use_cpu": False,
    }
    (folder / "accelerate.yaml").write_text(yaml.safe_dump(accelerate))
    return f"launch.accelerate_file={folder / 'accelerate.yaml'}"


def log(run_dir):
    """Return the lines of log.jsonl that carry a loss."""
    lines = [json.loads(line) for line in (Path(run_dir) / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def completions(run_dir):
    """Return completion and advantage by (step, row, index)."""
    with open(Path(run_dir) / "completions.jsonl", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    return {(row["step"], row["id"], row["index"]): (row["completion"], row["advantage"]) for row in rows}


def weights(run_dir, name="final"):
    """Return the saved weights of a run."""
    folder = Path(run_dir) / name
    file = folder / "model.safetensors"
    return load_file(file if file.is_file() else folder / "adapter_model.safetensors")


def distance(a, b):
    """Return the largest difference between two sets of weights."""
    assert set(a) == set(b)
    return max((a[name] - b[name]).abs().max().item() for name in a)


def distance_from_start(run_dir, model):
    """Return how far the trained weights moved from the folder `model`; an adapter's B starts at 0."""
    final = weights(run_dir)
    if any("lora_B" in name for name in final):
        return max(tensor.abs().max().item() for name, tensor in final.items() if "lora_B" in name)
    return distance(final, weights(model, "."))


def assert_equal_runs(two, one):
    """Assert what issue 7 asks of two processes: completions, grad_norm of every step, saved weights.

    Returns:
        largest relative difference of grad_norm, largest difference of weights.
    """
    if (Path(one) / "completions.jsonl").is_file():
        assert completions(two) == completions(one)
    norms = [[line["grad_norm"] for line in log(run)] for run in (two, one)]
    assert len(norms[0]) == len(norms[1])
    relative = max(abs(mine - reference) / reference for mine, reference in zip(*norms, strict=True))
    assert relative <= 1e-3, norms
    apart = distance(weights(two), weights(one))
    assert apart < 1e-4
    return relative, apart
