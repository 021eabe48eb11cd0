"""LoRA as a step needs it: its layers called without detours, and switched off for the reference."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners import lora
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from torch.nn.functional import linear

from vsgrpo.modeling.bundle import unwrap


class ShortLora(lora.Linear):
    """PEFT's layer with a shorter way to the same bits where one plain adapter is active, or none.

    PEFT casts the layer's input to the type of the adapter's matrices; under autocast each product casts it back, and
    the backward pass does both again. Here autocast meets the input as it is. Where the scale is a power of two it goes
    into the sum. All else goes PEFT's way: several adapters, variants, merged ones, dropout while training, and
    matrices that an engine shards, whose modules gather them when they are called.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the base layer's product and the adapter's share in it."""
        if args or kwargs or self.merged_adapters:
            return super().forward(x, *args, **kwargs)
        base, name = self._modules["base_layer"], self._active_adapter
        if self._disable_adapters:
            return base(x)  # type: ignore[misc]
        if not isinstance(name, str):
            if len(name) != 1:
                return super().forward(x)
            name = name[0]
        first = self._modules["lora_A"]._modules.get(name)  # type: ignore[union-attr]
        second = self._modules["lora_B"]._modules.get(name)  # type: ignore[union-attr]
        if first is None or second is None or not self._is_plain(name, first, second):
            return super().forward(x)
        return self._add(base(x), x, first.weight, second.weight, self.scaling[name])  # type: ignore

    def _is_plain(self, name: str, first: nn.Module, second: nn.Module) -> bool:
        dropout = self._modules["lora_dropout"]._modules[name]  # type: ignore[union-attr]
        if name in self.lora_variant or (self.training and not isinstance(dropout, nn.Identity)):
            return False
        if first._parameters["bias"] is not None or second._parameters["bias"] is not None:
            return False
        return not _is_sharded(first._parameters["weight"]) and not _is_sharded(second._parameters["weight"])

    @staticmethod
    def _add(result: Tensor, x: Tensor, first: Tensor, second: Tensor, scale: float) -> Tensor:
        if x.dtype != first.dtype and not torch.is_autocast_enabled(x.device.type):
            x = x.to(first.dtype)
        share = linear(linear(x, first), second)
        # A product with a power of two is exact, so one rounding is left either way.
        exact = abs(math.frexp(scale)[0]) == 0.5
        total = torch.add(result, share, alpha=scale) if exact else result + share * scale
        return total if total.dtype == result.dtype else total.to(result.dtype)


def use_short_lora(model: nn.Module) -> None:
    """Let all plain LoRA layers of a model be `ShortLora`, for good; names and weights stay."""
    for module in modules_of(model):
        if type(module) is lora.Linear:
            module.__class__ = ShortLora


def modules_of(model: nn.Module) -> list[nn.Module]:
    """Return the modules inside distributed wrappers; a fraction of the time that torch takes to name them."""
    found = [unwrap(model)]
    for module in found:  # grows meanwhile
        found += [child for child in module._modules.values() if child is not None]
    return found


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Switch the adapter off by the flag of each of its layers.

    PEFT's own `disable_adapter` sets the same flags; it also toggles `requires_grad` of every weight, which takes
    longer than the launches of a forward pass.

    Raises:
        ValueError: there is none.
    """
    layers: list[Any] = [
        module for module in modules_of(model) if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)
    ]
    if not layers:
        raise ValueError("adapter=False needs a model with an adapter; a fully tuned model has no reference inside")
    before = [layer._disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer, disabled in zip(layers, before, strict=True):
            layer._disable_adapters = disabled


def _is_sharded(weight: Tensor | None) -> bool:
    """Tell whether ZeRO-3 or FSDP2 parts a weight over processes, or an engine has taken it away."""
    return weight is None or hasattr(weight, "ds_id") or hasattr(weight, "device_mesh")
