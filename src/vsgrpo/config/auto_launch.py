"""launch=auto: which profile and how many processes this machine's GPUs make of it, before rules are applied."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from vsgrpo.config.ranges import LAUNCH_PROFILES
from vsgrpo.config.rules import one_of
from vsgrpo.config.sections import typed_values
from vsgrpo.config.train import LaunchSection
from vsgrpo.devices import Seen, visible_gpus
from vsgrpo.errors import ConfigError, SetupError

AUTO = "auto"
_LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_NTASKS")


def check_launcher_variables() -> None:
    """Raise SetupError where a variable by which launchers number their processes is no number."""
    for name in _LAUNCHERS:
        value = os.environ.get(name)
        if value is not None and not (value.isascii() and value.isdigit()):
            raise SetupError(
                f"{name}={value}: launchers set it to a whole number", hint=f"unset {name}, or start by a launcher"
            )


def joins_launcher() -> bool:
    """Return whether another launcher (torchrun, accelerate, srun) has started this process as one of the workers."""
    return "LOCAL_RANK" in os.environ or _started() > 1


def _started() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def resolve_launch(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what launch=auto takes here: one process for each GPU, or one on the CPU; {} for every other profile.

    Several processes are `ddp`, whose processes hold all: what does not fit needs another profile by name. Under a
    launcher (torchrun, accelerate) the processes are those that it started.

    Args:
        given: values of the composed launch section, of any type.

    Raises:
        ConfigError: a value of the wrong type, more processes than GPUs are asked for, or more than one machine.
        SetupError: a launcher or Slurm started several processes, which auto does not count.
    """
    launch = typed_values(LaunchSection, {key: value for key, value in given.items() if value is not None}, "launch")
    profile = launch.get("profile", "null")
    one_of("launch.profile", profile, (AUTO, *LAUNCH_PROFILES))
    if profile != AUTO:
        if launch.get("auto") and launch.get("num_processes") is None:
            raise ConfigError(
                f"launch.profile={profile}: the rest of launch=auto would stay",
                hint=f"choose all of it: launch={profile}",
            )
        return {}
    machines = launch.get("num_machines", 1)
    if machines != 1:
        raise ConfigError(
            f"launch.num_machines={machines}: launch=auto counts the GPUs of one machine",
            hint="name the profile, and the processes of all machines: launch=zero2 launch.num_processes=N",
        )
    seen, use_cpu = visible_gpus(), launch.get("use_cpu", False)
    number = _number(seen, launch.get("num_processes"), use_cpu)
    on_gpus = len(seen) > 0 and not use_cpu
    return {
        "profile": "ddp" if number > 1 else "gpu1" if on_gpus else "cpu",
        "num_processes": number,
        "auto": True,
    }


def _number(seen: Seen, asked: int | None, use_cpu: bool) -> int:
    """Return the number of processes."""
    started, joins = _started(), joins_launcher()
    if not joins and "SLURM_STEP_ID" in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        tasks = os.environ["SLURM_NTASKS"]
        raise SetupError(
            f"SLURM_NTASKS={tasks}: launch=auto is one task, which starts a process for each GPU of its machine",
            hint=f"srun --ntasks=1, or launch=ddp launch.num_processes={tasks} with one task for each process",
        )
    if joins and asked not in (None, started):
        raise ConfigError(
            f"launch.num_processes={asked}: the launcher has started {started}",
            hint="leave launch.num_processes out",
        )
    number = started if joins else asked if asked is not None else max(1, 0 if use_cpu else len(seen))
    if number < 1:
        raise ConfigError(
            f"launch.num_processes={number}: must be a number of at least 1", hint="leave it out: one per GPU"
        )
    if use_cpu or number == 1:
        return number
    if not seen:
        raise SetupError(
            f"launch.num_processes={number}: launch=auto takes one process for each GPU, and {seen.describe()}",
            hint="add launch.use_cpu=true to train with several processes on CPUs",
        )
    if not joins and number > len(seen):
        raise ConfigError(
            f"launch.num_processes={number}: {seen.describe()} visible, one process each",
            hint=f"set launch.num_processes={len(seen)}, or leave it null",
        )
    return number
