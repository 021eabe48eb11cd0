"""Packages of the whole install that a light one leaves out, and what needs them.

A light install (requirements-light.txt and the wheel by `pip install --no-deps`) has no torch: it builds, checks,
audits, imports, exports and compares data, scores predictions, writes reports and configures.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires, version

from vsgrpo.errors import SetupError

_MODEL = ("torch", "torchvision", "transformers", "peft")
LOCAL_CHAT = "build-cot with a local model"
NEEDS: dict[str, tuple[str, ...]] = {
    "train": (*_MODEL, "trl", "accelerate", "datasets", "psutil"),
    "eval": (*_MODEL, "accelerate"),
    "ask": (*_MODEL, "accelerate"),
    "cache-videos": (*_MODEL, "accelerate", "datasets"),
    "merge": (*_MODEL, "accelerate"),
    LOCAL_CHAT: (*_MODEL, "accelerate"),
}
"""What a command cannot do without, besides what every command needs (requirements-light.txt)."""
FEATURES: dict[str, str] = {
    "decord": "video.backend=decord (pyav reads the same files)",
    "deepspeed": "launch=zero2|zero3",
    "msgspec": "rollout.engine=vllm and decoding.engine=vllm",
    "wandb": "--wandb",
}
"""What one setting, and no command as such, needs."""


def heavy_packages() -> set[str]:
    """Return the names of all packages that a light install leaves out."""
    return {name for names in NEEDS.values() for name in names} | FEATURES.keys()


def needed_by(package: str) -> str:
    """Return the commands or the feature that `package` is for; "every command" for one of the light install."""
    commands = [command for command, names in NEEDS.items() if package in names]
    return ", ".join(commands) or FEATURES.get(package, "every command")


def install_command(packages: Iterable[str]) -> str:
    """Return the pip command for `packages`, in the versions that we ask for."""
    from packaging.requirements import Requirement

    asked = {}
    for item in map(Requirement, requires("vsgrpo") or ()):
        extras = f"[{','.join(sorted(item.extras))}]" if item.extras else ""
        asked[item.name] = f"'{item.name}{extras}{item.specifier}'"
    return "pip install " + " ".join(asked.get(name, name) for name in packages)


def check_command(command: str, *more: str) -> None:
    """Raise SetupError where a package that `command` needs, or one of `more`, is not installed."""
    missing = [name for name in (*NEEDS[command], *more) if not installed_version(name)]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        raise SetupError(f"{command}: {', '.join(missing)} {are} not installed", install_command(missing))


def explain_missing(error: BaseException) -> SetupError | None:
    """Return a failed import of one of our heavy packages as an error with its way out; None for everything else."""
    module = error.name if isinstance(error, ModuleNotFoundError) else None
    package = (module or "").partition(".")[0].replace("_", "-")
    if package not in heavy_packages() or installed_version(package):
        return None
    return SetupError(f"{package} is not installed; it is for {needed_by(package)}", install_command([package]))


def installed_version(package: str) -> str:
    """Return the installed version of a package, "" where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
