"""The libraries under a model: their pinned series, their chatter switched off, and the device that they compute on."""

import os
import warnings
from importlib.metadata import PackageNotFoundError, version

import torch
from transformers.utils import logging

from vsgrpo.devices import visible_gpus
from vsgrpo.errors import SetupError

PINNED_SERIES = {"trl": "1.16", "transformers": "5.23"}
"""Package -> the only minor series that our overrides of private methods (list: tests/modeling/test_versions.py) were
written against; pyproject.toml pins the same."""


def check_versions() -> dict[str, str]:
    """Refuse trl or transformers outside the pinned minor series.

    Returns:
        package -> installed version.

    Raises:
        SetupError: a package is missing or of another series.
    """
    installed = {}
    for package, series in PINNED_SERIES.items():
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            raise SetupError(
                f"{package} is not installed: {series}.* is needed", hint=f"pip install '{package}=={series}.*'"
            ) from None
        if installed[package].split(".")[:2] != series.split("."):
            raise SetupError(
                f"{package}={installed[package]}: vsgrpo overrides private methods of {package} {series}.* only",
                hint=f"pip install '{package}=={series}.*'",
            )
    return installed


def quiet_libraries() -> None:
    """Silence progress bars of every file, renamed options and DeepSpeed's choice of device; report to nobody.

    To be called before a trainer is built: DeepSpeed is imported by then, and reads its part on import.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if not torch.cuda.is_available():
        # Otherwise it looks for devices, and says on stdout that it found none.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.disable_progress_bar()
    # TRL 1.16 reads options that transformers 5.23 has renamed; both are pinned.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl)\.")
    # DeepSpeed calls collectives that torch has renamed, several times a step.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.")


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
