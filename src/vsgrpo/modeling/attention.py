"""The tree's attention: one implementation in transformers' registry, installed for good, that takes a tree mask.

Switching implementations around the forward would break gradient checkpointing, whose recomputation runs later.

Legend: R trees (rows), L columns, P prefix columns, K blocks per row, W columns of a block, H heads.
"""

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask as FlexBlocks
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from vsgrpo.errors import ConfigError
from vsgrpo.modeling.attention_split import SplitMask, attend_split, split_mask
from vsgrpo.modeling.bundle import language_model
from vsgrpo.modeling.tree import PREFIX, Packed, can_see

TREE_ATTENTION = "vsgrpo_tree"
KERNELS = ("auto", "dense", "block", "split", "flex")

KEY_COPY_COST = 12
"""What copying one key of the prefix to a completion costs, in attention scores (measured on one CPU thread)."""


@dataclass(frozen=True)
class DenseMask:
    """Every query against every key."""

    allowed: Tensor
    """(R, 1, queries, keys) bool."""


@dataclass(frozen=True)
class BlockMask:
    """Causal prefix; each block against the prefix and itself, blocks as a batch."""

    prefix_width: int
    num_blocks: int
    allowed: Tensor
    """(R * K, 1, W, P + W) bool."""


@dataclass(frozen=True)
class FlexMask:
    """Blocks of `flex_attention` in which anything is allowed."""

    blocks: FlexBlocks


TreeMask = DenseMask | BlockMask | SplitMask | FlexMask


def use_tree_attention(model: nn.Module) -> None:
    """Let the language model of a model that runs on sdpa take tree masks too, for good; all else stays sdpa."""
    text_config = language_model(model).config
    if text_config._attn_implementation == "sdpa":
        AttentionInterface.register(TREE_ATTENTION, tree_attention)
        AttentionMaskInterface.register(TREE_ATTENTION, sdpa_mask)
        text_config._attn_implementation = TREE_ATTENTION


def require_tree_attention(model: nn.Module) -> None:
    """Refuse a model that cannot take tree masks.

    Raises:
        ConfigError: it was loaded with another attention than sdpa.
    """
    used = language_model(model).config._attn_implementation
    if used != TREE_ATTENTION:
        raise ConfigError(f"model.attn={used}: a shared prefix needs sdpa", hint="set trainer.shared_prefix=off")


def build_mask(packed: Packed, kernel: str, device: torch.device) -> TreeMask:
    """Build the mask of packed rows, which the model takes as `tree_mask` and hands down to `tree_attention`.

    Raises:
        ConfigError: unknown kernel, or `flex` for a backward pass on a CPU, which torch does not have.
    """
    if kernel not in KERNELS:
        raise ConfigError(f"trainer.prefix_attention={kernel}: not one of {', '.join(KERNELS)}")
    if kernel == "auto":
        kernel = choose_kernel(packed)
    if kernel == "split":
        return split_mask(packed, device)
    if kernel == "flex":
        return FlexMask(_flex_blocks(packed, device))
    question, leaf = packed.question.to(device), packed.leaf.to(device)
    if kernel == "dense":
        return DenseMask(can_see(question, leaf, question, leaf).tril()[:, None])
    width, blocks = packed.prefix_width, packed.num_blocks
    # (R, K * W) -> (R * K, W)
    question_b, leaf_b = (part[:, width:].unflatten(1, (blocks, -1)).flatten(0, 1) for part in (question, leaf))
    own = can_see(question_b, leaf_b, question_b, leaf_b).tril()
    prefix = (question[:, :width] == PREFIX).repeat_interleave(blocks, dim=0)
    allowed = torch.cat([prefix[:, None].expand(-1, own.shape[1], -1), own], dim=2)
    return BlockMask(width, blocks, allowed[:, None])


def choose_kernel(packed: Packed) -> str:
    """Return the cheaper of `block` and `split` for packed rows, by the scores that each computes.

    `block` computes the scores of all completions of a question against each other, `split` copies the prefix's keys
    once per completion instead and pads completions to the longest.
    """
    is_leaf, is_question = packed.leaf >= 0, (packed.leaf == PREFIX) & (packed.question >= 0)
    lengths = [leaf[own].bincount() for leaf, own in zip(packed.leaf, is_leaf, strict=True) if own.any()]
    if not lengths:
        return "block"
    num_leaves = sum(int((counts > 0).sum()) for counts in lengths)
    longest = max(int(counts.max()) for counts in lengths)
    shared = max(
        int(row[own].bincount().max()) if own.any() else 0
        for row, own in zip(packed.question, is_question, strict=True)
    )
    prefix, width, blocks = packed.prefix_width, packed.block_width, len(packed.ids) * packed.num_blocks
    block = blocks * width * (prefix + width)
    split = blocks * shared * (prefix + shared) + num_leaves * longest * (prefix + shared + longest)
    return "split" if split + num_leaves * prefix * KEY_COPY_COST < block else "block"


def _flex_blocks(packed: Packed, device: torch.device) -> FlexBlocks:
    if device.type == "cpu" and torch.is_grad_enabled():
        raise ConfigError(
            "trainer.prefix_attention=flex: torch has no backward of it on a CPU",
            hint="set trainer.prefix_attention=auto",
        )
    question, leaf = packed.question.to(device), packed.leaf.to(device)

    def allowed(row: Tensor, _: Tensor, q: Tensor, k: Tensor) -> Tensor:
        same = (question[row, q] == question[row, k]) & ((leaf[row, k] == PREFIX) | (leaf[row, q] == leaf[row, k]))
        return (q >= k) & ((question[row, k] == PREFIX) | same)

    rows, width = packed.ids.shape
    return create_block_mask(allowed, rows, None, width, width, device=str(device))


@functools.cache
def _compiled_flex() -> Any:
    # Uncompiled it would hold all scores; dynamic, since every batch has other widths.
    return torch.compile(flex_attention, dynamic=True)


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    tree_mask: TreeMask | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend by a tree mask, or by transformers' sdpa where there is none.

    Args:
        query: (R, H, queries, head width); `key` and `value` may have fewer heads (grouped queries).
        attention_mask: what transformers made; not used beside a tree mask.
        tree_mask: argument of the model call, which its `**kwargs` carry down to here.

    Returns:
        (R, queries, H, head width) and no weights.
    """
    if isinstance(tree_mask, DenseMask):
        out = _attend(query, key, value, tree_mask.allowed, False, dropout, scaling)
    elif isinstance(tree_mask, BlockMask):
        out = _attend_blocks(query, key, value, tree_mask, dropout, scaling)
    elif isinstance(tree_mask, SplitMask):

        def attend(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, is_causal: bool) -> Tensor:
            return _attend(q, k, v, allowed, is_causal, dropout, scaling)

        out = attend_split(query, key, value, tree_mask, attend)
    elif isinstance(tree_mask, FlexMask):
        flex = flex_attention if query.device.type == "cpu" else _compiled_flex()
        grouped = query.shape[1] != key.shape[1]
        out = flex(query, key, value, block_mask=tree_mask.blocks, scale=scaling, enable_gqa=grouped)
    else:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    return out.transpose(1, 2).contiguous(), None


def _attend_blocks(
    query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, dropout: float, scaling: float | None
) -> Tensor:
    width, blocks = mask.prefix_width, mask.num_blocks
    parts = []
    if width:
        q, k, v = (part[:, :, :width] for part in (query, key, value))
        parts.append(_attend(q, k, v, None, True, dropout, scaling))
    # (R, H, K * W, d) -> (R * K, H, W, d)
    q, k, v = (
        part[:, :, width:].unflatten(2, (blocks, -1)).transpose(1, 2).flatten(0, 1) for part in (query, key, value)
    )
    if width:
        k, v = (
            torch.cat([part[:, None, :, :width].expand(-1, blocks, -1, -1, -1).flatten(0, 1), own], dim=2)
            for part, own in ((key, k), (value, v))
        )
    out = _attend(q, k, v, mask.allowed, False, dropout, scaling)
    parts.append(out.unflatten(0, (-1, blocks)).transpose(1, 2).flatten(2, 3))
    return torch.cat(parts, dim=2)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    allowed: Tensor | None,
    is_causal: bool,
    dropout: float,
    scaling: float | None,
) -> Tensor:
    grouped = query.shape[1] != key.shape[1]
    if grouped and allowed is not None and query.device.type == "cuda":
        # CUDA's fused kernels take grouped queries only without a mask.
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
        grouped = False
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=allowed,
        dropout_p=dropout,
        is_causal=is_causal,
        scale=scaling,
        enable_gqa=grouped,
    )
