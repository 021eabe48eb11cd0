"""What a run of several processes is compared with once it is set up and in every step: engine, backend, shards, calls.

Each of these can differ from the configuration, or from one process to another, without any library saying so.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vsgrpo.config import TrainConfig
from vsgrpo.devices import visible_gpus
from vsgrpo.errors import RunError, SetupError
from vsgrpo.modeling.bundle import language_model, vision_tower
from vsgrpo.modeling.device import why_no_gpu
from vsgrpo.modeling.vision import are_tower_calls_collective
from vsgrpo.terminal import show
from vsgrpo.training.launcher import LostProcess
from vsgrpo.training.preflight import check_devices, cpu_hint, needs_launcher
from vsgrpo.training.stage_trainer import Stage, StageTrainer
from vsgrpo.training.timing import PhaseTimer

ENGINES = {
    "cpu": (DistributedType.NO,),
    "gpu1": (DistributedType.NO,),
    "ddp": (DistributedType.MULTI_GPU, DistributedType.MULTI_CPU),
    "zero2": (DistributedType.DEEPSPEED,),
    "zero3": (DistributedType.DEEPSPEED,),
    "zero3_offload": (DistributedType.DEEPSPEED,),
    "fsdp2": (DistributedType.FSDP,),
}
"""What accelerate must report for each launch profile."""
BACKENDS = {"cuda": "nccl", "cpu": "gloo"}
"""What processes must talk by, for each type of device."""


def join_processes(config: TrainConfig, num_processes: int) -> None:
    """Start torch's process group on CPUs, whose time limit no option of the Trainer reaches.

    On a GPU `arguments.trl_config` passes the limit on, and accelerate starts the group.

    Raises:
        SetupError: torch sees no GPU though the profile needs one (accelerate would train on the CPU), sees one that
            launch=auto has not counted, or FSDP2 is asked for on CPUs.
    """
    launch = config.launch
    if not launch.on_cpu:
        if not torch.cuda.is_available():
            raise SetupError(f"launch={launch.profile}: needs GPUs: {why_no_gpu()}", hint=cpu_hint(launch))
        return
    check_devices(config)
    if launch.auto and not launch.use_cpu and launch.num_processes == 1 and torch.cuda.is_available():
        raise SetupError(
            f"launch=auto counted no GPU, torch sees {torch.cuda.device_count()}: {visible_gpus().source}",
            hint="set launch=cpu to train on the CPU, or make nvidia-smi work",
        )
    if num_processes > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=config.launch.timeout_s))


def check_backend(trainer: StageTrainer, config: TrainConfig) -> None:
    """Refuse to train on another engine, world size or backend than the config asked for.

    Some settings of the environment make accelerate fall back without a word (ACCELERATE_USE_CPU turns DeepSpeed and
    FSDP into plain data parallelism, or one process).

    Raises:
        SetupError: naming both.
    """
    launch, accelerator = config.launch, trainer.accelerator
    expected = ENGINES[launch.profile] if needs_launcher(config) else (DistributedType.NO,)
    if accelerator.num_processes != launch.num_processes or accelerator.distributed_type not in expected:
        raise SetupError(
            f"launch.profile={launch.profile} with launch.num_processes={launch.num_processes}: accelerate runs "
            f"{accelerator.num_processes} process(es) as {accelerator.distributed_type.value}",
            hint="start through `vsgrpo train`, and leave ACCELERATE_USE_CPU unset",
        )
    wanted = BACKENDS.get(accelerator.device.type)
    if accelerator.num_processes > 1 and wanted is not None and wanted not in str(accelerator.state.backend):
        raise SetupError(
            f"launch.profile={launch.profile}: processes on {accelerator.device.type} talk by "
            f"{accelerator.state.backend}, not by {wanted}",
            hint="leave ACCELERATE_TORCH_DEVICE unset",
        )


class CheckShards(TrainerCallback):
    """Compares what the engine did to the weights with the profile, and enters it into run.json.

    ZeRO-3 keeps parameters below `stage3_param_persistence_threshold` whole on every process.
    """

    def __init__(self, stage: Stage, profile: str) -> None:
        self._stage = stage
        self._profile = profile
        self._done = False

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Look once, when the engine has the weights.

        Raises:
            SetupError: another ZeRO stage, or weights that are sharded or whole where the profile says otherwise.
        """
        if self._done:
            return
        self._done = True
        parameters = list(model.parameters())
        kind = shard_kind(parameters)
        wanted = {"zero3": "zero3", "zero3_offload": "zero3", "fsdp2": "fsdp2"}.get(self._profile, "whole")
        if kind != wanted:
            raise SetupError(
                f"launch={self._profile}: the weights are {kind}, not {wanted}",
                hint="leave launch.accelerate_file=null, or give the file of this profile",
            )
        if not self._profile.startswith("zero"):
            return
        plugin = AcceleratorState().deepspeed_plugin
        stage = plugin.hf_ds_config.config["zero_optimization"]["stage"] if plugin is not None else None
        if stage != (2 if self._profile == "zero2" else 3):
            raise SetupError(
                f"launch.accelerate_file: ZeRO stage {stage}, the launch profile is {self._profile}",
                hint="choose the launch profile of that stage",
            )
        parts = [p for p in parameters if hasattr(p, "ds_numel") and not getattr(p, "ds_persist", False)]
        if state.is_world_process_zero:
            self._stage.folder.update_status(zero={"stage": stage, "sharded": len(parts), "of": len(parameters)})
            if wanted == "zero3" and not parts:
                show(
                    f"warning: launch={self._profile}: every weight is smaller than stage3_param_persistence_threshold "
                    "and stays whole on every process",
                    sys.stderr,
                )


def shard_kind(parameters: list[nn.Parameter]) -> str:
    """Return how a model's weights lie on the processes: "zero3", "fsdp2" or "whole"."""
    if any(hasattr(parameter, "ds_id") for parameter in parameters):
        return "zero3"
    return "fsdp2" if any(hasattr(parameter, "device_mesh") for parameter in parameters) else "whole"


class EqualCalls(TrainerCallback):
    """Stops a run whose processes called the model another number of times in a step.

    Calls of sharded weights are collective: where one process makes one more, it meets another call of the others, and
    they wait for ever or exchange the wrong weights. Rollouts are left out: there the weights are gathered, and
    processes draw completions of different lengths. So are calls of a tower that is whole everywhere (a frozen one by
    `zero.keep_whole`, and any but ZeRO-3's): a process calls it once for each video that it has.

    Args:
        gather: (calls of this process) -> calls of all.
    """

    def __init__(self, timer: PhaseTimer, gather: Callable[[int], list[int]] | None = None) -> None:
        self._timer = timer
        self._gather = gather or gather_numbers
        self._calls = 0
        self._hooks: list[Any] = []

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Count calls of the language model, and of a tower that is trained in parts, from here on."""
        self._calls = 0
        if not self._hooks:
            towers = [vision_tower(model)] if are_tower_calls_collective(model) else []
            counted = [language_model(model), *towers]
            self._hooks = [module.register_forward_pre_hook(self._count) for module in counted]

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Compare the counts of all processes.

        Raises:
            RunError: they differ.
        """
        counts = self._gather(self._calls)
        if len(set(counts)) > 1:
            raise RunError(
                f"step {state.global_step}: the processes called the model {', '.join(map(str, counts))} times",
                hint="a reward or callback of your own must not call the model; else this is a bug, please report it",
            )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take the hooks off the model, which the next stage trains on."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _count(self, module: nn.Module, args: Any) -> None:
        self._calls += not self._timer.is_in("generate")


def gather_numbers(number: int) -> list[int]:
    """Return the numbers of all processes, by rank."""
    if not torch.distributed.is_initialized():
        return [number]
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    own = torch.tensor([number], device=device)
    found = [torch.zeros_like(own) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(found, own)
    return [int(tensor.item()) for tensor in found]


class PhaseWatch(TrainerCallback):
    """Says on stderr which phase this process has been in for half of launch.timeout_s.

    A process that hangs says nothing by itself, and NCCL ends those that wait for it without a Python exception.

    Args:
        clock: seconds that never jump back.
    """

    def __init__(self, timer: PhaseTimer, rank: int, limit_s: float, clock: Callable[[], float] | None = None) -> None:
        self._timer = timer
        self._rank = rank
        self._limit_s = limit_s
        self._clock = clock or time.perf_counter
        self._told: float | None = None
        self._ended = threading.Event()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start to watch."""
        threading.Thread(target=self._watch, args=(state,), daemon=True).start()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop watching."""
        self._ended.set()

    def look(self, step: int) -> None:
        """Print one line if a phase has lasted for half of the limit; once for each time it is entered."""
        phase, since = self._timer.running
        seconds = self._clock() - since
        if phase is None or self._told == since or seconds < self._limit_s / 2:
            return
        self._told = since
        show(
            f"warning: process {self._rank} has been in phase {phase} of step {step} for {seconds:.0f} s "
            f"(launch.timeout_s={self._limit_s:g})",
            sys.stderr,
        )

    def _watch(self, state: TrainerState) -> None:
        while not self._ended.wait(min(self._limit_s / 10, 10.0)):
            self.look(state.global_step)


def waited_in_vain(error: BaseException, trainer: StageTrainer, timeout_s: float) -> RunError | None:
    """Return what to tell where a collective call ran out of time or lost its partner, None for any other error."""
    if not isinstance(error, RuntimeError):  # torch's own; a reward that asks a server has errors of other types
        return None
    text = str(error)
    phase = trainer.timer.failed_in or trainer.timer.running[0] or "set-up"
    where = f"process {trainer.accelerator.process_index} in phase {phase} of step {trainer.run_step}"
    if "Timed out" in text or "timed out" in text or "Timeout" in text:
        return RunError(
            f"{where} waited launch.timeout_s={timeout_s:g} s for another process",
            hint="a `warning: process ...` line may tell what the other one did; raise launch.timeout_s if it was slow",
        )
    if any(words in text for words in ("Connection closed by peer", "Connection reset", "Connection refused")):
        return LostProcess(f"{where} lost another process", hint="the other one's error tells why; --resume goes on")
    return None
