"""Qwen3.5, dense, and Qwen3.6 and 3.8 after it: three of four blocks of the language model are gated DeltaNet (arXiv
2412.06464), which carries a state from token to token, in place of attention.

Prompt and processor are those of Qwen3-VL; the tower has no deepstack.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vsgrpo.families.delta import DeltaShape
from vsgrpo.families.family import (
    COMPUTING_VALUES,
    ModelShape,
    TinySizes,
    TowerShape,
    pooled_features,
    pooled_output,
    tower_shape,
)
from vsgrpo.families.qwen3_vl import QWEN3_VL


def _classes() -> tuple[Any, Any]:
    from transformers import Qwen3_5ForConditionalGeneration, Qwen3VLProcessor

    return Qwen3_5ForConditionalGeneration, Qwen3VLProcessor


def _tower(vision: Mapping[str, Any]) -> TowerShape:
    width, mlp, out = (int(vision[name]) for name in ("hidden_size", "intermediate_size", "out_hidden_size"))
    grid = int(vision["num_position_embeddings"])
    return tower_shape(vision, width=width, mlp=mlp, out=out, gated=False, patch_bias=True, grid=grid)


def _tiny_tower(sizes: TinySizes) -> dict[str, Any]:
    tower = QWEN3_VL.tiny_tower(sizes)
    del tower["deepstack_visual_indexes"]
    return {**tower, "depth": sizes.vision_depth}


def _tiny_text(sizes: TinySizes) -> dict[str, Any]:
    head = max(32, sizes.hidden_size // sizes.num_heads)
    return {
        "num_hidden_layers": max(4, sizes.num_layers),  # three of four are DeltaNet: fewer would have no attention
        "head_dim": head,
        "linear_num_key_heads": sizes.num_heads // 2,
        "linear_num_value_heads": sizes.num_heads,
        "linear_key_head_dim": head,
        "linear_value_head_dim": head,
    }


def _published(hidden: int, mlp: int, layers: int, heads: int, value_heads: int) -> ModelShape:
    tower = TowerShape(24, 1024, 16, 4096, hidden, gated=False, patch=16, patch_bias=True, grid=2304)
    delta = DeltaShape(layers * 3 // 4, 16, value_heads, 128, 128, 4)
    options = {"qkv_bias": False, "qk_norm": True, "delta": delta}
    return ModelShape(248320, hidden, mlp, layers, heads, heads // 4, 256, True, tower, **options)


QWEN3_5 = replace(
    QWEN3_VL,
    model_type="qwen3_5",
    label="Qwen3.5",
    classes=_classes,
    tower=_tower,
    not_served="a video's placeholders are parted by its times, and layers with a state were never tried there",
    features=pooled_features,
    encoder_output=pooled_output,
    tiny="tiny_3_5",
    tiny_tower=_tiny_tower,
    tiny_text=_tiny_text,
    rope={"mrope_section": [11, 11, 10], "mrope_interleaved": True, "partial_rotary_factor": 0.25},
    # The tower of 2B is taken to be that of 4B: its config.json was not at hand.
    hub={
        "Qwen/Qwen3.5-2B": _published(2048, 6144, 24, 8, 16),
        "Qwen/Qwen3.5-4B": _published(2560, 9216, 32, 16, 32),
    },
    published=r"Qwen/Qwen3\.(5-(0\.8B|2B|4B|9B|27B)(-Base)?|[68]-27B)",
    # The template of 4B and larger opens a thought by itself, that of 2B closes an empty one: the latter for all, so
    # that a prompt means the same in every mode and a completion holds its own tags.
    template_options={"enable_thinking": False},
    computing_values={
        **COMPUTING_VALUES,
        "text_config": (
            *COMPUTING_VALUES["text_config"],
            *("layer_types", "head_dim", "linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim"),
        ),
    },
)
