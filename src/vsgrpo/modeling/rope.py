"""M-RoPE positions of prompts, by the rule of the model itself.

Legend: L tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vsgrpo.errors import DataError
from vsgrpo.families import FAMILIES
from vsgrpo.families.family import Family
from vsgrpo.modeling.bundle import base_model
from vsgrpo.video.budget import Medium


@dataclass(frozen=True)
class PromptPositions:
    """M-RoPE positions of one prompt."""

    positions: Tensor
    """(3, L) int64: temporal, height and width position of each prompt token."""
    next_position: int
    """Position of the first token after the prompt, equal on all three axes; later ones count up from it."""


def prompt_positions(model: nn.Module, token_ids: Sequence[int], media: Sequence[Medium]) -> PromptPositions:
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
        media: the videos and images, in the order of their placeholders.

    Raises:
        DataError: a video of unknown timing, and the family counts seconds.
    """
    inner = base_model(model)
    ids = torch.tensor([list(token_ids)], dtype=torch.long)
    kinds = (ids == inner.config.image_token_id).int() + (ids == inner.config.video_token_id).int() * 2
    images, videos = ([item for item in media if item.kind == kind] for kind in ("image", "video"))
    timing = _timing(FAMILIES[inner.config.model_type], videos)
    positions, _ = inner.model.get_rope_index(
        ids, kinds, image_grid_thw=_grids(images), video_grid_thw=_grids(videos), **timing
    )
    return PromptPositions(positions[:, 0], int(positions[0, 0, -1]) + 1)


def _grids(media: Sequence[Medium]) -> Tensor | None:
    return torch.tensor([list(item.grid_thw) for item in media], dtype=torch.long) if media else None


def _timing(family: Family, videos: Sequence[Medium]) -> dict[str, Tensor]:
    if family.seconds_argument is None:
        return {}
    seconds = [video.seconds_per_patch for video in videos]
    if None in seconds:
        raise DataError(
            f"a video's file states no frame rate, which {family.label}'s positions need",
            hint="write the file anew with one, e.g. ffmpeg -r 24 -i IN OUT.mp4",
        )
    return {family.seconds_argument: torch.tensor(seconds)}
