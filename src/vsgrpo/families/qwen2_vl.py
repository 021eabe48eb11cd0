"""Qwen2-VL (arXiv 2409.12191)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vsgrpo.families.family import Family, ModelShape, TinySizes, TowerShape, tower_shape


def _classes() -> tuple[Any, Any]:
    from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor

    return Qwen2VLForConditionalGeneration, Qwen2VLProcessor


def _tower(vision: Mapping[str, Any]) -> TowerShape:
    width = int(vision["embed_dim"])
    mlp = int(width * vision.get("mlp_ratio", 4))
    return tower_shape(vision, width=width, mlp=mlp, out=int(vision["hidden_size"]), gated=False)


def _tiny_tower(sizes: TinySizes) -> dict[str, Any]:
    return {
        "depth": sizes.vision_depth,
        "num_heads": sizes.vision_heads,
        "embed_dim": sizes.vision_width,
        "hidden_size": sizes.hidden_size,
        "initializer_range": sizes.initializer_range,
    }


_TOWER = {"depth": 32, "width": 1280, "heads": 16, "mlp": 5120, "gated": False}
QWEN2_VL = Family(
    model_type="qwen2_vl",
    label="Qwen2-VL",
    classes=_classes,
    tower=_tower,
    tiny="tiny",
    tiny_tower=_tiny_tower,
    hub={
        "Qwen/Qwen2-VL-2B-Instruct": ModelShape(
            151936, 1536, 8960, 28, 12, 2, 128, True, TowerShape(**_TOWER, out=1536)
        ),
        "Qwen/Qwen2-VL-7B-Instruct": ModelShape(
            152064, 3584, 18944, 28, 28, 4, 128, False, TowerShape(**_TOWER, out=3584)
        ),
    },
    published=r"Qwen/Qwen2-VL-(2B|7B|72B)(-Instruct)?",
)
