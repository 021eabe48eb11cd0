"""What sharded weights need of us: some processes call the tower, others do not, and rollouts differ in length."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers.integrations import deepspeed

from vsgrpo.modeling.bundle import language_model


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
