"""Qwen3-VL, dense (arXiv 2511.21631): the time of frames is text, and the tower's earlier layers reach the first layers
of the language model (deepstack).

What is one feature per token elsewhere is 1 + K here, one after another in one wide tensor: the merger's, then those of
the K layers of the tower that `deepstack_visual_indexes` names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vsgrpo.families.family import COMPUTING_VALUES, Family, ModelShape, TinySizes, TowerShape, tower_shape

if TYPE_CHECKING:
    from torch import Tensor

    from vsgrpo.video.budget import Medium


def _classes() -> tuple[Any, Any]:
    from transformers import Qwen3VLForConditionalGeneration, Qwen3VLProcessor

    return Qwen3VLForConditionalGeneration, Qwen3VLProcessor


def _processors() -> tuple[Any, Any]:
    from transformers import Qwen2VLImageProcessor, Qwen3VLVideoProcessor

    half = [0.5, 0.5, 0.5]  # not the mean and deviation of CLIP, which the class has of itself
    return Qwen2VLImageProcessor(patch_size=16, image_mean=half, image_std=half), Qwen3VLVideoProcessor()


def video_text(medium: Medium) -> str:
    """Return the time and the placeholder of each temporal patch of a video.

    Source: `Qwen3VLProcessor.replace_video_token` of transformers 5.23.
    """
    patch = "<|vision_start|><|video_pad|><|vision_end|>"
    return "".join(f"<{seconds:.1f} seconds>{patch}" for seconds in medium.timestamps)


def _features(output: Any) -> list[Tensor]:
    import torch

    levels = [output.pooler_output, *output.deepstack_features]
    return [torch.cat(of_video, dim=-1) for of_video in zip(*levels, strict=True)]


def _encoder_output(features: Tensor, width: int) -> Any:
    from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

    merged, *levels = features.split(width, dim=-1)
    return BaseModelOutputWithDeepstackFeatures(
        pooler_output=(merged,),  # type: ignore[arg-type]
        deepstack_features=[(level,) for level in levels],  # type: ignore[misc]
    )


def _tower(vision: Mapping[str, Any]) -> TowerShape:
    width, mlp, out = (int(vision[name]) for name in ("hidden_size", "intermediate_size", "out_hidden_size"))
    levels, grid = len(vision["deepstack_visual_indexes"]), int(vision["num_position_embeddings"])
    return tower_shape(vision, width=width, mlp=mlp, out=out, gated=False, patch_bias=True, grid=grid, deepstack=levels)


def _tiny_tower(sizes: TinySizes) -> dict[str, Any]:
    return {
        "depth": 1 + sizes.vision_depth,
        "num_heads": sizes.vision_heads,
        "hidden_size": sizes.vision_width,
        "intermediate_size": 2 * sizes.vision_width,
        "out_hidden_size": sizes.hidden_size,
        "initializer_range": sizes.initializer_range,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, sizes.vision_depth],  # two levels: swapped ones must be seen
        "patch_size": 16,
    }


def _tiny_text(sizes: TinySizes) -> dict[str, Any]:
    # A head is not width / heads; after the last layer a level of deepstack would change nothing.
    return {"head_dim": max(32, sizes.hidden_size // sizes.num_heads), "num_hidden_layers": 1 + sizes.num_layers}


_SMALL = {"depth": 24, "width": 1024, "heads": 16, "mlp": 4096}
_LARGE = {"depth": 27, "width": 1152, "heads": 16, "mlp": 4304}


def _published(hidden: int, mlp: int, layers: int, heads: int, tied: bool, tower: dict[str, int]) -> ModelShape:
    vision = TowerShape(**tower, out=hidden, gated=False, patch=16, patch_bias=True, grid=2304, deepstack=3)
    return ModelShape(151936, hidden, mlp, layers, heads, 8, 128, tied, vision, qkv_bias=False, qk_norm=True)


_SIZES = {
    "2B": _published(2048, 6144, 28, 16, True, _SMALL),
    "4B": _published(2560, 9728, 36, 32, True, _SMALL),
    "8B": _published(4096, 12288, 36, 32, False, _LARGE),
}
QWEN3_VL = Family(
    model_type="qwen3_vl",
    label="Qwen3-VL",
    classes=_classes,
    processors=_processors,
    tower=_tower,
    tiny="tiny_3",
    tiny_tower=_tiny_tower,
    tiny_text=_tiny_text,
    rope={"mrope_section": [24, 20, 20], "mrope_interleaved": True},
    hub={
        f"Qwen/Qwen3-VL-{size}-{variant}": shape
        for size, shape in _SIZES.items()
        for variant in ("Instruct", "Thinking")
    },
    published=r"Qwen/Qwen3-VL-(2B|4B|8B|32B)-(Instruct|Thinking)",
    needs_timing=True,
    has_text_rules=False,
    not_served="a video's placeholders are parted by its times, and there are features of several levels: never tried",
    video_text=video_text,
    time_tokens=10,  # "<", three digits below 1000 s, ".", a digit, " seconds", ">", and two marks
    features=_features,
    encoder_output=_encoder_output,
    added_tokens=("<think>", "</think>"),
    default_system=False,
    qkv_bias=False,
    qk_norm=True,
    patch=16,
    computing_values={
        **COMPUTING_VALUES,
        "vision_config": (*COMPUTING_VALUES["vision_config"], "deepstack_visual_indexes"),
    },
)
