"""The device of this process, and a line that says which one and why."""

import os

import torch

from vsgrpo.devices import visible_gpus


def own_device() -> torch.device:
    """Return this process's GPU by LOCAL_RANK (of those that it sees), or the CPU where torch sees none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def device_line(device: torch.device | str) -> str:
    """Return what is computed on; on a CPU also why, as a warning where GPUs are there."""
    device = torch.device(device)
    if device.type == "cuda":
        return f"device: {device} ({torch.cuda.get_device_name(device)})"
    seen = visible_gpus()
    return f"warning: device: CPU, {why_no_gpu()}" if seen else f"device: CPU, {seen.describe()}"


def why_no_gpu() -> str:
    """Return why torch has no GPU to compute on."""
    seen = visible_gpus()
    if not seen:
        return seen.describe()
    built = "is built without CUDA" if torch.version.cuda is None else f"(CUDA {torch.version.cuda}) cannot use them"
    return f"{seen.describe()} there, but this torch {built}"
