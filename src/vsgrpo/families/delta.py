"""Sizes of the gated DeltaNets of a model. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DELTA_LAYERS = ("in_proj_qkv", "in_proj_z", "out_proj")
"""What stands in place of attention's in a block of gated DeltaNet; its gates of one number per head carry no LoRA."""


@dataclass(frozen=True)
class DeltaShape:
    """Sizes of the gated DeltaNet that stands in place of attention in `layers` of a model's blocks."""

    layers: int
    key_heads: int
    value_heads: int
    key_head: int
    value_head: int
    taps: int

    @property
    def value_width(self) -> int:
        return self.value_heads * self.value_head

    @property
    def mixed_width(self) -> int:
        """Numbers of one token's queries, keys and values, which go through the convolution."""
        return 2 * self.key_heads * self.key_head + self.value_width

    @property
    def state_bytes(self) -> int:
        """Bytes of one sequence's state in one layer, which is float32; the convolution's last inputs too, at most."""
        return 4 * (self.value_heads * self.key_head * self.value_head + (self.taps - 1) * self.mixed_width)

    def num_parameters(self, hidden: int) -> int:
        """Count one layer: four matrices in, one out, convolution, two numbers per head, one norm of a head."""
        matrices = hidden * (self.mixed_width + 2 * self.value_width + 2 * self.value_heads)
        return matrices + self.taps * self.mixed_width + 2 * self.value_heads + self.value_head


def delta_shape(text: Mapping[str, Any]) -> DeltaShape | None:
    """Read the sizes of gated DeltaNets off a `text_config`; None where there are none."""
    if "linear_num_value_heads" not in text:
        return None
    layers, every = int(text["num_hidden_layers"]), int(text.get("full_attention_interval", 4))
    kinds = text.get("layer_types")
    return DeltaShape(
        layers=kinds.count("linear_attention") if kinds else layers - layers // every,
        key_heads=int(text["linear_num_key_heads"]),
        value_heads=int(text["linear_num_value_heads"]),
        key_head=int(text["linear_key_head_dim"]),
        value_head=int(text["linear_value_head_dim"]),
        taps=int(text.get("linear_conv_kernel_dim", 4)),
    )
