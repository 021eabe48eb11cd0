"""A loaded model with all that belongs to it, the way to its parts, and what we replace in its vision tower.

Legend: C channels, T H W frames, rows and columns of a patch, S patches of one slice.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers import AttentionInterface

from vsgrpo.errors import RunError
from vsgrpo.modeling.adapters import BaseIdentity

BATCHED_ATTENTION = "vsgrpo_batched_flash"
"""transformers passes all slices in one call only to names that contain `flash`; no flash kernel is meant."""


@dataclass
class ModelBundle:
    """A loaded model with all that is needed to use and to save it."""

    model: Any
    """The family's `...ForConditionalGeneration`, or a `PeftModel` around it."""
    processor: Any
    tokenizer: Any
    family: Any
    """Its `Family`; None for an instruct model of another one (`load.load` with `any_family`)."""
    base: str
    """Folder or hub id of the full weights."""
    earlier_adapters: list[Path] = field(default_factory=list)
    """Adapter folders merged into the base in memory, in order, before this run's own adapter."""
    earlier_hashes: list[str] = field(default_factory=list)
    """`adapters.adapter_hash` of each of them as it was loaded."""
    identity: BaseIdentity | None = None
    """Identity of the full weights as they were loaded; None where no adapter is on them."""


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


def vision_tower(model: nn.Module) -> Any:
    """Return the vision tower with its merger, inside wrappers and adapters."""
    return base_model(model).model.visual


def language_model(model: nn.Module) -> Any:
    """Return the language model without its head, inside wrappers and adapters."""
    return base_model(model).model.language_model


def vision_token_ids(model: nn.Module) -> tuple[int, ...]:
    """List the ids that a completion must never contain: placeholders and their marks."""
    config = base_model(model).config
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return tuple(sorted({getattr(config, name) for name in names}))


def use_gradient_checkpointing(model: Any) -> None:
    """Recompute activations in the backward pass of the language model only.

    Non-reentrant checkpoints need no input that requires a gradient, so the embedding hook that would also reach the
    frozen tower's patch embedding is not installed.
    """
    language_model(model).gradient_checkpointing_enable({"use_reentrant": False})


def batched_slice_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within each slice of the vision tower, all slices of one length as one batch.

    A slice is a temporal patch, or a window of one in most blocks of Qwen2.5-VL: windows at the right and lower edge
    are smaller. transformers' sdpa path calls attention once per slice in a Python loop; the result is bit-identical.

    Args:
        query: (1, heads, patches, head width), likewise `key` and `value`.
        cu_seq_lens_q: (slices + 1,) boundaries of the slices.
        max_length_q: length of the longest slice.

    Returns:
        (1, patches, heads, head width) and no weights.
    """
    if cu_seq_lens_q is None or max_length_q is None:
        raise ValueError(f"{BATCHED_ATTENTION} is for the vision tower, which passes the boundaries of its slices")
    num_slices, total = len(cu_seq_lens_q) - 1, query.shape[2]
    if num_slices * max_length_q == total:
        # (1, heads, slices * S, width) -> (slices, heads, S, width)
        q, k, v = (part[0].unflatten(1, (num_slices, max_length_q)).transpose(0, 1) for part in (query, key, value))
        out = scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling)
        return out.transpose(1, 2).flatten(0, 1).unsqueeze(0), None
    starts, lengths = cu_seq_lens_q[:-1].long(), cu_seq_lens_q.diff()
    columns, outs = [], []
    for length in lengths.unique().tolist():
        column = starts[lengths == length, None] + torch.arange(length, device=query.device)  # (slices, S)
        q, k, v = (part[0][:, column].transpose(0, 1) for part in (query, key, value))
        out = scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling)
        columns.append(column.flatten())
        outs.append(out.transpose(1, 2).flatten(0, 1))
    place = torch.cat(columns).argsort()
    return torch.cat(outs)[place].unsqueeze(0), None


def use_batched_attention(model: nn.Module) -> None:
    """Let the vision tower of a model that runs on sdpa attend to all slices in one call, for good."""
    vision_config = vision_tower(model).config
    if vision_config._attn_implementation == "sdpa":
        AttentionInterface.register(BATCHED_ATTENTION, batched_slice_attention)
        vision_config._attn_implementation = BATCHED_ATTENTION


class PatchProjection(nn.Conv3d):
    """The patch embedding as one matrix product: its kernel covers a patch, so nothing slides.

    Convolutions run it several times slower, forward and backward (on 2,048 patches of width 384: 0.14 against 0.04
    CPU s). Weight, name and shape stay the convolution's, so that checkpoints do not differ.
    """

    def forward(self, patches: Tensor) -> Tensor:
        """Project (patches, C, T, H, W) to (patches, width, 1, 1, 1)."""
        return linear(patches.flatten(1), self.weight.flatten(1), self.bias)[:, :, None, None, None]


def use_matrix_product(model: nn.Module) -> None:
    """Let the vision tower of a model embed its patches by `PatchProjection`, for good.

    Raises:
        RunError: the patch embedding is not a convolution whose steps are its kernel.
    """
    embedding = vision_tower(model).patch_embed
    found = embedding.proj
    if not isinstance(found, nn.Conv3d) or found.stride != found.kernel_size or any(found.padding):
        raise RunError(f"vision tower: its patch embedding is {found}, not a convolution over patches")
    size: Any = found.kernel_size
    with torch.device("meta"):
        ours = PatchProjection(found.in_channels, found.out_channels, size, size, bias=found.bias is not None)
    ours.weight, ours.bias = found.weight, found.bias
    embedding.proj = ours


def is_tower_trained(model: nn.Module) -> bool:
    """Tell whether any parameter of the vision tower requires a gradient."""
    return any(parameter.requires_grad for parameter in vision_tower(model).parameters())


def are_tower_calls_collective(model: nn.Module) -> bool:
    """Tell whether ZeRO-3 parts a tower that is trained: as many calls of it are needed on every process.

    A frozen one is whole wherever it is called (`training.distributed.keep_whole`, and in rollouts).
    """
    return is_tower_trained(model) and any(hasattr(p, "ds_id") for p in vision_tower(model).parameters())
