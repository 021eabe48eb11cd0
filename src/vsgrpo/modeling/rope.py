"""All that differs between model families: classes, positions, placeholders. Qwen2-VL and Qwen2.5-VL.

Legend: L tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import (
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
)

from vsgrpo.config.families import TIMED
from vsgrpo.errors import DataError


@dataclass(frozen=True)
class Family:
    """What loads a model of one family."""

    model: Any
    processor: Any


FAMILIES = {
    "qwen2_vl": Family(Qwen2VLForConditionalGeneration, Qwen2VLProcessor),
    "qwen2_5_vl": Family(Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor),
}
"""By `model_type` of config.json; the keys are those of config/families.py."""


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
    """Return the `...ForConditionalGeneration` inside distributed wrappers and adapters."""
    model = unwrap(model)
    return model.get_base_model() if isinstance(model, PeftModel) else model


class Shown(Protocol):
    """What positions depend on of a video or image: `VideoInputs` and `VideoFeatures` both."""

    @property
    def kind(self) -> str:
        """video or image."""
        ...

    @property
    def grid_thw(self) -> tuple[int, int, int]:
        """Temporal patches, rows and columns of patches before merging."""
        ...

    @property
    def seconds_per_patch(self) -> float | None:
        """Of video per temporal patch; None for an image, and where the file states no frame rate."""
        ...


def prompt_positions(model: nn.Module, token_ids: Sequence[int], shown: Sequence[Shown]) -> PromptPositions:
    """Compute the positions of one prompt by the model's own rule.

    Source: `get_rope_index` of the family's model in the pinned transformers: text counts up on all axes; video token
    (t, h, w) of a video that starts at s gets (s + t', s + h, s + w), with t' = t in Qwen2-VL and
    t' = floor(t * tokens_per_second * seconds) in Qwen2.5-VL; the text after it goes on at s + max(height, width) of
    the merged grid; an image counts as a video of one temporal patch. Completion token t continues the text, as in
    `generate`: last prompt position + 1 + t.

    Deviation: the Qwen2-VL paper (arXiv 2409.12191, section 2.1), and the code that Qwen2.5-VL was published with
    (transformers pull request 35569), let the text go on after the maximum over all THREE axes. That differs where a
    video reaches farther in time than in rows and columns: for Qwen2.5-VL, after some seconds. We follow the library,
    so that a saved model answers alike outside this project.

    Args:
        model: possibly wrapped model.
        token_ids: prompt tokens, placeholders expanded; the last one is text.
        shown: the videos and images, in the order of their placeholders.

    Raises:
        DataError: a video of unknown timing, and the family counts seconds.
    """
    inner = base_model(model)
    ids = torch.tensor([list(token_ids)], dtype=torch.long)
    kinds = (ids == inner.config.image_token_id).int() + (ids == inner.config.video_token_id).int() * 2
    images, videos = ([one for one in shown if one.kind == kind] for kind in ("image", "video"))
    timing = _timing(videos) if counts_seconds(model) else {}
    positions, _ = inner.model.get_rope_index(
        ids, kinds, image_grid_thw=_grids(images), video_grid_thw=_grids(videos), **timing
    )
    return PromptPositions(positions[:, 0], int(positions[0, 0, -1]) + 1)


def counts_seconds(model: nn.Module) -> bool:
    """Return whether positions depend on the seconds between frames, so that every video must state its frame rate."""
    return base_model(model).config.model_type == TIMED


def _grids(shown: Sequence[Shown]) -> Tensor | None:
    return torch.tensor([list(one.grid_thw) for one in shown], dtype=torch.long) if shown else None


def _timing(videos: Sequence[Shown]) -> dict[str, Tensor]:
    seconds = [video.seconds_per_patch for video in videos]
    if None in seconds:
        raise DataError(
            "a video's file states no frame rate, which Qwen2.5-VL's positions need",
            hint="write the file anew with one, e.g. ffmpeg -r 24 -i IN OUT.mp4",
        )
    return {"second_per_grid_ts": torch.tensor(seconds)}
