"""The tree's attention: one implementation in transformers' registry, installed for good, that takes a tree mask.

Switching implementations around the forward would break gradient checkpointing, whose recomputation runs later.

Kernels: `dense` masks every token against every token. `block` takes questions as a batch; all completions of one are
queries and keys of one masked call, quadratic in their total length. `split` takes completions as a batch: each meets
the prefix, its question and itself only, at the price of a copy of the prefix's keys. `merge` copies nothing and merges
what each part found (`merged_attention.py`). `flex` is torch's, for GPUs.

Legend: R trees (rows), L columns, P prefix columns, K blocks per row, B blocks (questions) of all rows, W columns of a
block, S question columns, N leaves (completions), C columns of the longest leaf, H heads, d head width.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask as FlexBlocks
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from vsgrpo.errors import ConfigError
from vsgrpo.modeling.bundle import language_model
from vsgrpo.modeling.merged_attention import MergeMask, attend_merged
from vsgrpo.modeling.tree_masks import BlockMask, DenseMask, SplitMask, TreeMask
from vsgrpo.modeling.tree_states import RECURRENT, takes_state_trees

TREE_ATTENTION = "vsgrpo_tree"

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""(query, key, value, allowed) -> (batch, H, queries, d)."""


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
        ConfigError: it was loaded with another attention than sdpa, or has layers that no tree mask reaches.
    """
    config, hint = language_model(model).config, "set trainer.shared_prefix=off"
    if config._attn_implementation != TREE_ATTENTION:
        raise ConfigError(f"model.attn={config._attn_implementation}: a shared prefix needs sdpa", hint=hint)
    # A recurrent layer that takes no trees would carry its state from one completion into the next.
    taken = ("full_attention", *((RECURRENT,) if takes_state_trees(model) else ()))
    if other := next((kind for kind in getattr(config, "layer_types", None) or () if kind not in taken), None):
        raise ConfigError(
            f"model.path: its {other} layers see past tokens in another way than by attention to all of them, so"
            " completions of a shared prefix would leak into each other",
            hint=hint,
        )


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
    attend = functools.partial(_attend, dropout=dropout, scaling=scaling)
    if isinstance(tree_mask, DenseMask):
        out = attend(query, key, value, tree_mask.allowed)
    elif isinstance(tree_mask, BlockMask):
        out = _attend_blocks(query, key, value, tree_mask, attend)
    elif isinstance(tree_mask, SplitMask):
        out = _attend_split(query, key, value, tree_mask, attend)
    elif isinstance(tree_mask, MergeMask):
        out = attend_merged(query, key, value, tree_mask, dropout=dropout, scaling=scaling)
    elif isinstance(tree_mask, FlexBlocks):
        flex = flex_attention if query.device.type == "cpu" else _compiled_flex()
        grouped = query.shape[1] != key.shape[1]
        out = flex(query, key, value, block_mask=tree_mask, scale=scaling, enable_gqa=grouped)
    else:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    return out.transpose(1, 2).contiguous(), None


def _attend_blocks(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, attend: Attend) -> Tensor:
    width, blocks = mask.prefix_width, mask.num_blocks
    parts = []
    if width:
        q, k, v = (part[:, :, :width] for part in (query, key, value))
        parts.append(attend(q, k, v, None))
    # (R, H, K * W, d) -> (R * K, H, W, d)
    q, k, v = (
        part[:, :, width:].unflatten(2, (blocks, -1)).transpose(1, 2).flatten(0, 1) for part in (query, key, value)
    )
    if width:
        k, v = (
            torch.cat([part[:, None, :, :width].expand(-1, blocks, -1, -1, -1).flatten(0, 1), own], dim=2)
            for part, own in ((key, k), (value, v))
        )
    out = attend(q, k, v, mask.allowed)
    parts.append(out.unflatten(0, (-1, blocks)).transpose(1, 2).flatten(2, 3))
    return torch.cat(parts, dim=2)


def _attend_split(query: Tensor, key: Tensor, value: Tensor, mask: SplitMask, attend: Attend) -> Tensor:
    """Attend within prefixes, from questions, and from leaves, each in one call.

    Args:
        query: (R, H, L, d); `key` and `value` may have fewer heads.

    Returns:
        (R, H, L, d).
    """
    num_rows, prefix, width = len(query), mask.prefix_width, query.shape[2]
    flat_q, flat_k, flat_v = (part.transpose(1, 2).flatten(0, 1) for part in (query, key, value))
    prefix_k, prefix_v = key[:, :, :prefix], value[:, :, :prefix]
    outs = []
    if prefix:
        out = attend(query[:, :, :prefix], prefix_k, prefix_v, None)
        outs.append(out.transpose(1, 2).flatten(0, 1))
    blocks = len(mask.question_columns) // num_rows
    row_of_block = torch.arange(len(mask.question_columns), device=query.device) // blocks
    question_k, question_v = (_columns(part, mask.question_columns) for part in (flat_k, flat_v))
    if mask.question_columns.numel():
        k = torch.cat([_rows(prefix_k, row_of_block), question_k], dim=2)
        v = torch.cat([_rows(prefix_v, row_of_block), question_v], dim=2)
        out = attend(_columns(flat_q, mask.question_columns), k, v, mask.question_allowed)
        outs.append(out.transpose(1, 2).flatten(0, 1))
    if mask.leaf_columns.numel():
        row_of_leaf = mask.leaf_block // blocks
        k, v = (
            torch.cat(
                [_rows(above, row_of_leaf), _rows(asked, mask.leaf_block), _columns(flat, mask.leaf_columns)], dim=2
            )
            for above, asked, flat in ((prefix_k, question_k, flat_k), (prefix_v, question_v, flat_v))
        )
        out = attend(_columns(flat_q, mask.leaf_columns), k, v, mask.leaf_allowed)
        outs.append(out.transpose(1, 2).flatten(0, 1))
    out = torch.cat(outs).index_select(0, mask.place)
    return out.unflatten(0, (num_rows, width)).transpose(1, 2)


def _columns(flat: Tensor, columns: Tensor) -> Tensor:
    """(R * L, H, d), (n, c) -> (n, H, c, d)."""
    return flat.index_select(0, columns.flatten()).unflatten(0, columns.shape).transpose(1, 2)


def _rows(part: Tensor, rows: Tensor) -> Tensor:
    """Select (rows, H, c, d) by number; a single row is expanded, whose backward is a plain sum."""
    return part.expand(len(rows), -1, -1, -1) if len(part) == 1 else part.index_select(0, rows)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None, *, dropout: float, scaling: float | None
) -> Tensor:
    """Attend where `allowed`, causally where it is None."""
    heads, key_heads, queries = query.shape[1], key.shape[1], query.shape[2]
    shared = "kept" if allowed is None else share_keys(query.shape, key_heads, query.device.type)
    if allowed is not None and shared == "folded":
        group = heads // key_heads
        query = query.unflatten(1, (key_heads, group)).flatten(2, 3)
        allowed = allowed.repeat(1, 1, group, 1)
    elif shared == "repeated":
        key, value = (part.repeat_interleave(heads // key_heads, dim=1) for part in (key, value))
    out = scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=allowed,
        dropout_p=dropout,
        is_causal=allowed is None,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out.unflatten(2, (-1, queries)).flatten(1, 2) if shared == "folded" else out


def share_keys(query: Sequence[int], key_heads: int, device: str) -> str:
    """Return what is done to heads that share keys in a call with a mask.

    A GPU's fused kernels take them only without a mask. `folded` makes the heads of a group queries of one head, one
    after the other, and repeats the mask; `repeated` repeats keys and values. For each key these are
    heads x queries / key heads and 2 x heads x d numbers. A CPU takes them `kept`, which is faster there (`--heads` of
    `scripts/bench_tree_attention.py`).

    Args:
        query: its shape (batch, heads, queries, d).
        device: its type.
    """
    _, heads, queries, width = query
    if heads == key_heads or device != "cuda":
        return "kept"
    return "folded" if queries < 2 * key_heads * width else "repeated"
