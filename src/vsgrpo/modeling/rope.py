"""All that differs between model families: class, positions, placeholders. One family so far: Qwen2-VL.

Legend: L tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

FAMILIES = ("qwen2_vl",)
"""`model_type` of config.json of every family that this project can load."""


@dataclass(frozen=True)
class PromptPositions:
    """M-RoPE positions of one prompt."""

    positions: Tensor
    """(3, L) int64: temporal, height and width position of each prompt token."""
    next_position: int
    """Position of the first token after the prompt, equal on all three axes; later ones count up from it."""


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside distributed wrappers (`.module`), adapters kept."""
    while not hasattr(model, "config") and hasattr(model, "module"):
        model = model.module  # type: ignore[assignment]
    while hasattr(model, "module") and isinstance(model.module, nn.Module):
        model = model.module
    return model


def base_model(model: nn.Module) -> Any:
    """Return the `Qwen2VLForConditionalGeneration` inside distributed wrappers and adapters."""
    model = unwrap(model)
    return model.get_base_model() if isinstance(model, PeftModel) else model


def prompt_positions(
    model: nn.Module, token_ids: Sequence[int], grids: Sequence[tuple[int, int, int]]
) -> PromptPositions:
    """Compute the positions of one prompt by the model's own rule.

    Source: `Qwen2VLModel.get_rope_index` of the pinned transformers: text counts up on all axes; video token (t, h, w)
    of a video that starts at s gets (s + t, s + h, s + w); the text after it goes on at s + max(height, width) of the
    merged grid; an image counts as a video of one temporal patch. Completion token t continues the text: last prompt
    position + 1 + t.

    Deviation: the Qwen2-VL paper (arXiv 2409.12191, section 2.1) lets the text go on after the maximum over all THREE
    axes, which differs where a video has more temporal patches than merged rows or columns. We follow the library, so
    that a saved model answers alike outside this project.

    Args:
        model: possibly wrapped model.
        token_ids: prompt tokens, placeholders expanded; the last one is text.
        grids: (t, h, w) in patches of each video and image, in order.
    """
    inner = base_model(model)
    ids = torch.tensor([list(token_ids)], dtype=torch.long)
    kinds = (ids == inner.config.image_token_id).int() + (ids == inner.config.video_token_id).int() * 2
    runs = [kind for kind, _ in groupby(kinds[0].tolist()) if kind]
    by_kind: dict[int, list[list[int]]] = {1: [], 2: []}
    for kind, grid in zip(runs, grids, strict=True):
        by_kind[kind].append(list(grid))
    images, videos = (torch.tensor(found, dtype=torch.long) if found else None for found in by_kind.values())
    positions, _ = inner.model.get_rope_index(ids, kinds, image_grid_thw=images, video_grid_thw=videos)
    return PromptPositions(positions[:, 0], int(positions[0, 0, -1]) + 1)
