"""Helpers and checks for runs of several processes and for engines that shard weights (ZeRO-3, FSDP2).

Some processes call the vision tower and others do not, and rollouts differ in length, while each call of sharded
weights is a collective one. What an engine does to weights, gradients and calls can differ from the configuration, or
from one process to another, without any library saying so.

Summed up in float32 while a model computes in bfloat16: weights that are trained (`modeling.load.load` holds
them in float32, PEFT its adapters; ZeRO keeps a float32 copy of its part), AdamW's moments (of the type of what it
updates), gradients (`sum_gradients_in_float32`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainerCallback, TrainerState
from transformers.integrations import deepspeed

from vsgrpo.config.train import TrainConfig
from vsgrpo.errors import RunError, SetupError
from vsgrpo.modeling.bundle import language_model, vision_tower
from vsgrpo.modeling.vision import are_tower_calls_collective
from vsgrpo.terminal import counted, show
from vsgrpo.training.launcher import needs_launcher
from vsgrpo.training.measure import PhaseTimer
from vsgrpo.training.waits import limit_waits

if TYPE_CHECKING:
    from vsgrpo.training.run_folder import RunFolder


def keep_whole(module: nn.Module) -> None:
    """Hold all parameters of a frozen module on every process from now on, if an engine shards them.

    The engine gathers parameters in hooks of each module, a collective call that all processes have to make. A process
    that has its videos' features already does not call the tower, and the collectives of the others would meet those of
    its language model. Frozen weights have no optimizer state: whole, they cost their own size and no communication.
    The engine parts them again when it gathers the model to save it, so this is called before every step.
    """
    parameters = [parameter for parameter in module.parameters() if hasattr(parameter, "ds_status")]
    if not parameters:
        return
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    for part in module.modules():  # a frozen tower has no other hooks than the engine's
        part._forward_pre_hooks.clear()
        part._forward_hooks.clear()
    for parameter in parameters:
        parameter.ds_persist = True  # type: ignore[attr-defined]
    missing = [p for p in parameters if p.ds_status == ZeroParamStatus.NOT_AVAILABLE]  # type: ignore[attr-defined]
    if missing:
        missing[0].all_gather(missing)  # type: ignore[attr-defined]


@contextmanager
def load_whole() -> Iterator[None]:
    """Let `from_pretrained` load whole weights once a trainer exists, whose ZeRO-3 settings it would follow.

    They are meant for a model that no engine holds yet, as at the start of a run, where no trainer exists either.
    """
    settings = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = settings


def name_layers(model: nn.Module) -> None:
    """Name to accelerate what FSDP2 shards, the language model's layers: it reads this when a trainer is made.

    Its default would shard the tower's blocks too, which processes with other videos call another number of times.
    Layers that an earlier stage has sharded are of another class.
    """
    layer = language_model(model).layers[0]
    os.environ["FSDP_TRANSFORMER_CLS_TO_WRAP"] = type(layer).__name__


def keep_buffers(model: nn.Module) -> None:
    """Leave a model's buffers out of data parallelism: none changes, and sending them makes a forward collective."""
    names = [name for name, _ in model.named_buffers()]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, names)


def unshard_root(model: Any) -> None:
    """Hold the weights outside the layers of an FSDP2 model, the tower's among them, whole on every process.

    Their forward would do so; the tower is called before it. They are parted again after the backward pass.
    """
    if isinstance(model, FSDPModule):
        model.unshard()


@contextmanager
def unsharded(model: Any) -> Iterator[None]:
    """Hold all weights of an FSDP2 model whole on every process; nothing happens under other engines.

    Processes draw completions of different lengths, and each forward of a sharded layer is a collective call.
    """
    parts = [part for part in model.modules() if isinstance(part, FSDPModule)]
    layers = [part for part in parts if part is not model]  # the root is never parted after a forward
    for part in parts:
        part.unshard()
    for layer in layers:
        layer.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.set_reshard_after_forward(True, recurse=False)
        for part in parts:
            part.reshard()


def sum_gradients_in_float32(trainer: Any) -> None:
    """Set what accelerate's plugins leave to bfloat16; a trainer's engine reads it when training begins.

    A DeepSpeed file of the user's that sets `data_types.grad_accum_dtype` is left as it is.
    """
    state = trainer.accelerator.state
    if trainer.is_deepspeed_enabled:
        settings = state.deepspeed_plugin.deepspeed_config
        settings.setdefault("data_types", {}).setdefault("grad_accum_dtype", "fp32")
    if trainer.is_fsdp_enabled and state.mixed_precision == "bf16":
        from torch.distributed.fsdp import MixedPrecisionPolicy

        state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32
        )


def low_precision(model: nn.Module) -> str | None:
    """Return the name of a parameter that is trained and is not float32, None where there is none."""
    trained = ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
    return next((name for name, parameter in trained if parameter.dtype != torch.float32), None)


@dataclass(eq=False)
class CheckEngine(TrainerCallback):
    """Compares what the engine did to the weights with the profile, and enters it into run.json.

    ZeRO-3 keeps parameters below `stage3_param_persistence_threshold` whole on every process.
    """

    folder: RunFolder
    profile: str
    timeout_s: float
    done: bool = False

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Look at the weights as the engine and a resumed checkpoint left them; limit the waits of its groups.

        Raises:
            SetupError: a parameter that is trained is of another type than float32: updates would be rounded away.
        """
        limit_waits(self.timeout_s)
        # ZeRO's weights are copies of what it trains.
        found = None if self.profile.startswith("zero") else low_precision(model)
        if found is not None:
            raise SetupError(
                f"{found}: trained in another type than float32, where an update of trainer.learning_rate is lost",
                hint="this is a bug of vsgrpo or of a plugin that casts the model, please report it",
            )

    def on_step_begin(self, args: Any, state: TrainerState, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Look once, when the engine has the weights.

        Raises:
            SetupError: another ZeRO stage, or weights that are sharded or whole where the profile says otherwise.
        """
        if self.done:
            return
        self.done = True
        parameters = list(model.parameters())
        kind = shard_kind(parameters)
        expected = {"zero3": "zero3", "zero3_offload": "zero3", "fsdp2": "fsdp2"}.get(self.profile, "whole")
        if kind != expected:
            raise SetupError(
                f"launch={self.profile}: the weights are {kind}, not {expected}",
                hint="leave launch.accelerate_file=null, or give the file of this profile",
            )
        if not self.profile.startswith("zero"):
            return
        plugin = AcceleratorState().deepspeed_plugin
        stage = plugin.hf_ds_config.config["zero_optimization"]["stage"] if plugin is not None else None
        if stage != (2 if self.profile == "zero2" else 3):
            raise SetupError(
                f"launch.accelerate_file: ZeRO stage {stage}, the launch profile is {self.profile}",
                hint="choose the launch profile of that stage",
            )
        parts = [p for p in parameters if hasattr(p, "ds_numel") and not getattr(p, "ds_persist", False)]
        if state.is_world_process_zero:
            self.folder.update_status(zero={"stage": stage, "sharded": len(parts), "of": len(parameters)})
            if expected == "zero3" and not parts:
                show(
                    f"warning: launch={self.profile}: every weight is smaller than stage3_param_persistence_threshold "
                    "and stays whole on every process",
                    sys.stderr,
                )


def shard_kind(parameters: list[nn.Parameter]) -> str:
    """Return how a model's weights lie on the processes: "zero3", "fsdp2" or "whole"."""
    if any(hasattr(parameter, "ds_id") for parameter in parameters):
        return "zero3"
    return "fsdp2" if any(hasattr(parameter, "device_mesh") for parameter in parameters) else "whole"


class EqualCalls(TrainerCallback):
    """Stops a run whose processes called a sharded model another number of times in a step.

    Calls of sharded weights are collective: where one process makes one more, it meets another call of the others, and
    they wait for ever or exchange the wrong weights. Rollouts are left out: there the weights are gathered, and
    processes draw completions of different lengths. So are calls of a tower that is whole everywhere (a frozen one by
    `keep_whole`, and any but ZeRO-3's): a process calls it once for each video that it has. Weights that are whole on
    every process may be called as often as each likes.
    """

    def __init__(self, timer: PhaseTimer) -> None:
        self._timer = timer
        self._calls = 0
        self._hooks: list[Any] = []

    def on_step_begin(self, args: Any, state: TrainerState, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Count calls of the language model, and of a tower that is trained in parts, from here on."""
        self._calls = 0
        if not self._hooks and shard_kind(list(model.parameters())) != "whole":
            towers = [vision_tower(model)] if are_tower_calls_collective(model) else []
            counted = [language_model(model), *towers]
            self._hooks = [module.register_forward_pre_hook(self._count) for module in counted]

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Compare the counts of all processes.

        Raises:
            RunError: they differ.
        """
        if not self._hooks:
            return
        counts = gather_numbers(self._calls)
        if len(set(counts)) > 1:
            raise RunError(
                f"step {state.global_step}: the processes called the model {', '.join(map(str, counts))} times",
                hint="a reward or callback of your own must not call the model; else this is a bug, please report it",
            )

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
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


def merged(own: dict[Any, Any]) -> dict[Any, Any]:
    """Return the entries of all processes' dicts, alike on each; of those of one key the first process's."""
    if not torch.distributed.is_initialized():
        return own
    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, own)
    return {key: value for part in reversed(found) for key, value in part.items()}


def largest(number: int, device: torch.device) -> int:
    """Return the largest of the numbers of all processes; each calls this equally often."""
    if not torch.distributed.is_initialized():
        return number
    found = torch.tensor(number, device=device)
    torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX)
    return int(found.item())


ENGINES = {
    **dict.fromkeys(("cpu", "gpu1"), (DistributedType.NO,)),
    "ddp": (DistributedType.MULTI_GPU, DistributedType.MULTI_CPU),
    **dict.fromkeys(("zero2", "zero3", "zero3_offload"), (DistributedType.DEEPSPEED,)),
    "fsdp2": (DistributedType.FSDP,),
}
"""Engines that accelerate may report, for each launch profile."""
BACKENDS = {"cuda": "nccl", "cpu": "gloo"}
"""Backend that processes must talk by, for each type of device."""


def check_backend(accelerator: Any, config: TrainConfig) -> None:
    """Refuse to train on another engine, world size or backend than the config asked for.

    Some settings of the environment make accelerate fall back without a word (ACCELERATE_USE_CPU turns DeepSpeed and
    FSDP into plain data parallelism, or one process).

    Raises:
        SetupError: naming both.
    """
    launch = config.launch
    engines = ENGINES[launch.profile] if needs_launcher(config) else (DistributedType.NO,)
    if accelerator.num_processes != launch.num_processes or accelerator.distributed_type not in engines:
        raise SetupError(
            f"launch.profile={launch.profile} with launch.num_processes={launch.num_processes}: accelerate runs "
            f"{counted(accelerator.num_processes, 'process', 'processes')} as {accelerator.distributed_type.value}",
            hint="start through `vsgrpo train`, and leave ACCELERATE_USE_CPU unset",
        )
    backend = BACKENDS.get(accelerator.device.type)
    if accelerator.num_processes > 1 and backend is not None and backend not in str(accelerator.state.backend):
        raise SetupError(
            f"launch.profile={launch.profile}: processes on {accelerator.device.type} talk by "
            f"{accelerator.state.backend}, not by {backend}",
            hint="leave ACCELERATE_TORCH_DEVICE unset",
        )
