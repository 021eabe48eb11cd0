"""The `launch` section: processes, their profile, and what launch=auto takes on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from vsgrpo.config.keys import typed_values
from vsgrpo.devices import VisibleGpus, visible_gpus
from vsgrpo.errors import ConfigError, SetupError
from vsgrpo.rules import Count, Faults, Name, Section, above, at_least, between, choice, one_of

PROFILES = ("cpu", "gpu1", "ddp", "zero2", "zero3", "zero3_offload", "fsdp2")
SHARDED = ("zero3", "zero3_offload", "fsdp2")
"""Profiles whose processes hold parts of the weights."""
WHOLE = ("cpu", "gpu1", "ddp")
"""Profiles whose processes hold weights, gradients and optimizer state whole."""
AUTO = "auto"
_LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_NTASKS")


@dataclass(frozen=True)
class LaunchSection(Section, key="launch"):
    """Processes, accelerate profile (configs/accelerate/PROFILE.yaml) and time limits (seconds)."""

    profile: Annotated[str, choice(*PROFILES)]
    num_processes: Count
    num_machines: Count
    machine_rank: Annotated[int, at_least(0)]
    main_process_ip: Name | None
    main_process_port: Annotated[int, between(1, 65535)] | None
    accelerate_file: Name | None
    device_memory_gb: Annotated[float, above(0, "leave it null: it is looked up")] | None
    timeout_s: Annotated[float, at_least(1)]
    save_timeout_s: Annotated[float, at_least(1)]
    use_cpu: bool = False
    auto: bool = False

    def faults(self) -> Faults:
        if self.use_cpu and self.profile == "gpu1":
            yield "launch.use_cpu=true: launch=gpu1 is one process on a GPU", "set launch=cpu"
        if self.accelerate_file is not None and self.profile in ("cpu", "gpu1"):
            what = f"launch.accelerate_file={self.accelerate_file}: launch={self.profile} starts no accelerate"
            yield what, "leave it null, or choose the launch profile that the file is of"
        if self.machine_rank >= self.num_machines:
            what = f"launch.num_machines={self.num_machines} machines are numbered from 0"
            way_out = f"set launch.machine_rank={self.num_machines - 1} or less, or launch.num_machines"
            yield f"launch.machine_rank={self.machine_rank}: {what}", way_out
        if self.profile in ("cpu", "gpu1") and self.num_processes != 1:
            what = f"launch.num_processes={self.num_processes}: launch={self.profile} is one process"
            yield what, "choose launch=ddp, launch=zero2 or launch=zero3 for several"
        if rest := self.num_processes % self.num_machines:
            near = (self.num_processes - rest, self.num_processes - rest + self.num_machines)
            ways = " or ".join(f"launch.num_processes={number}" for number in near if number)
            what = f"not a multiple of launch.num_machines={self.num_machines}"
            yield f"launch.num_processes={self.num_processes}: {what}", f"set {ways} (all machines together)"

    @property
    def on_cpu(self) -> bool:
        """Whether its processes compute on CPUs: launch=cpu, or another profile with launch.use_cpu=true."""
        return self.use_cpu or self.profile == "cpu"


def check_launcher_variables() -> None:
    """Raise SetupError where a variable by which launchers number their processes is no number."""
    for name in _LAUNCHERS:
        value = os.environ.get(name)
        if value is not None and not (value.isascii() and value.isdigit()):
            what = f"{name}={value}: launchers set it to a whole number"
            raise SetupError(what, hint=f"unset {name}, or start by a launcher")


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
    one_of("launch.profile", profile, (AUTO, *PROFILES))
    if profile != AUTO:
        if launch.get("auto") and launch.get("num_processes") is None:
            what = f"launch.profile={profile}: the rest of launch=auto would stay"
            raise ConfigError(what, hint=f"choose all of it: launch={profile}")
        return {}
    machines = launch.get("num_machines", 1)
    if machines != 1:
        what = f"launch.num_machines={machines}: launch=auto counts the GPUs of one machine"
        way_out = "name the profile, and the processes of all machines: launch=zero2 launch.num_processes=N"
        raise ConfigError(what, way_out)
    seen, use_cpu = visible_gpus(), launch.get("use_cpu", False)
    number = _number(seen, launch.get("num_processes"), use_cpu)
    profile = "ddp" if number > 1 else "gpu1" if len(seen) > 0 and not use_cpu else "cpu"
    return {"profile": profile, "num_processes": number, "auto": True}


def _number(seen: VisibleGpus, asked: int | None, use_cpu: bool) -> int:
    """Return the number of processes."""
    started, joins = _started(), joins_launcher()
    if not joins and "SLURM_STEP_ID" in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        tasks = os.environ["SLURM_NTASKS"]
        what = f"SLURM_NTASKS={tasks}: launch=auto is one task, which starts a process for each GPU of its machine"
        way_out = f"srun --ntasks=1, or launch=ddp launch.num_processes={tasks} with one task for each process"
        raise SetupError(what, way_out)
    if joins and asked not in (None, started):
        what = f"launch.num_processes={asked}: the launcher has started {started}"
        raise ConfigError(what, hint="leave launch.num_processes out")
    number = started if joins else asked if asked is not None else max(1, 0 if use_cpu else len(seen))
    if number < 1:
        what = f"launch.num_processes={number}: must be a number of at least 1"
        raise ConfigError(what, hint="leave it out: one per GPU")
    if use_cpu or number == 1:
        return number
    if not seen:
        what = f"launch.num_processes={number}: launch=auto takes one process for each GPU, and {seen.describe()}"
        raise SetupError(what, hint="add launch.use_cpu=true to train with several processes on CPUs")
    if not joins and number > len(seen):
        what = f"launch.num_processes={number}: {seen.describe()} visible, one process each"
        raise ConfigError(what, hint=f"set launch.num_processes={len(seen)}, or leave it null")
    return number
