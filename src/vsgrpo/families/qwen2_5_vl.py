"""Qwen2.5-VL (arXiv 2502.13923): positions count seconds of video, most blocks of the tower attend in windows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vsgrpo.families.family import Family, ModelShape, TinySizes, TowerShape, tower_shape


def _classes() -> tuple[Any, Any]:
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

    return Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor


def _tower(vision: Mapping[str, Any]) -> TowerShape:
    width, mlp, out = (int(vision[name]) for name in ("hidden_size", "intermediate_size", "out_hidden_size"))
    return tower_shape(vision, width=width, mlp=mlp, out=out, gated=True)


def _tiny_tower(sizes: TinySizes) -> dict[str, Any]:
    return {
        "depth": 1 + sizes.vision_depth,  # the first block attends in windows
        "num_heads": sizes.vision_heads,
        "hidden_size": sizes.vision_width,
        "intermediate_size": 2 * sizes.vision_width,
        "out_hidden_size": sizes.hidden_size,
        "initializer_range": sizes.initializer_range,
        "fullatt_block_indexes": list(range(1, 1 + sizes.vision_depth)),
        "window_size": 56,  # 2 x 2 tokens: the small frames of tests have several windows, cut ones among them
        "tokens_per_second": 2,  # as the published weights
    }


_TOWER = {"depth": 32, "width": 1280, "heads": 16, "mlp": 3420, "gated": True}
QWEN2_5_VL = Family(
    model_type="qwen2_5_vl",
    label="Qwen2.5-VL",
    classes=_classes,
    tower=_tower,
    tiny="tiny_2_5",
    tiny_tower=_tiny_tower,
    hub={
        "Qwen/Qwen2.5-VL-3B-Instruct": ModelShape(
            151936, 2048, 11008, 36, 16, 2, 128, True, TowerShape(**_TOWER, out=2048)
        ),
        "Qwen/Qwen2.5-VL-7B-Instruct": ModelShape(
            152064, 3584, 18944, 28, 28, 4, 128, False, TowerShape(**_TOWER, out=3584)
        ),
    },
    published=r"Qwen/Qwen2\.5-VL-(3B|7B|32B|72B)-Instruct",
    needs_timing=True,
    seconds_argument="second_per_grid_ts",
)
