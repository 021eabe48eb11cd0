"""The `split` kernel: completions are the batch dimension of attention, for completions longer than their prompt.

The `block` kernel lets all completions of a question be queries and keys of one call, masked: quadratic in their total
length. Here each completion meets the prefix, its question and itself only.

Legend: R trees (rows), L columns, P prefix columns, B blocks (questions of all rows), S question columns, N leaves
(completions), C columns of the longest leaf, H heads, d head width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vsgrpo.modeling.tree import PREFIX, Packed

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None, bool], Tensor]
"""(query, key, value, allowed, is_causal) -> (batch, H, queries, d)."""


@dataclass(frozen=True)
class SplitMask:
    """Which columns form the questions and leaves of packed rows; columns are counted over all rows, R * L."""

    prefix_width: int
    question_columns: Tensor
    """(B, S), padded with 0."""
    question_allowed: Tensor
    """(B, 1, S, P + S) bool."""
    leaf_columns: Tensor
    """(N, C), padded with 0."""
    leaf_block: Tensor
    """(N,) question of each leaf."""
    leaf_allowed: Tensor
    """(N or 1, 1, C, P + S + C) bool; one for all where all are equal."""
    place: Tensor
    """(R * L,) where each column's result stands among those of prefixes, questions and leaves, one after the other;
    padding takes any: nothing depends on it, so no gradient flows back either."""


def split_mask(packed: Packed, device: torch.device) -> SplitMask:
    """Read questions and leaves off packed rows."""
    num_rows, width = packed.ids.shape
    prefix, blocks = packed.prefix_width, packed.num_blocks
    questions: list[list[int]] = [[] for _ in range(num_rows * blocks)]
    leaves: dict[tuple[int, int], list[int]] = {}
    for row, (question_of, leaf_of) in enumerate(
        zip(packed.question[:, prefix:].tolist(), packed.leaf[:, prefix:].tolist(), strict=True)
    ):
        for column, (question, leaf) in enumerate(zip(question_of, leaf_of, strict=True)):
            if question >= 0:
                block = row * blocks + question
                members = questions[block] if leaf == PREFIX else leaves.setdefault((block, leaf), [])
                members.append(row * width + prefix + column)
    question_columns, is_question = _padded(questions)
    leaf_columns, is_leaf = _padded(list(leaves.values()))
    leaf_block = torch.tensor([block for block, _ in leaves], dtype=torch.long)
    prefix_allowed = (packed.question[:, :prefix] == PREFIX).repeat_interleave(blocks, dim=0)
    size, longest = question_columns.shape[1], leaf_columns.shape[1]
    question_allowed = torch.cat([_for_queries(prefix_allowed, size), _causal(len(questions), size)], dim=2)
    ancestors = torch.cat([prefix_allowed, is_question], dim=1)[leaf_block]
    if len(ancestors) and bool((ancestors == ancestors[0]).all()):
        ancestors = ancestors[:1]
    leaf_allowed = torch.cat([_for_queries(ancestors, longest), _causal(len(ancestors), longest)], dim=2)
    place = torch.zeros(num_rows * width, dtype=torch.long)
    columns = (torch.arange(num_rows)[:, None] * width + torch.arange(prefix)).flatten()
    place[columns] = torch.arange(len(columns))
    start = len(columns)
    for part, real in ((question_columns, is_question), (leaf_columns, is_leaf)):
        place[part[real]] = start + torch.arange(part.numel()).view(part.shape)[real]
        start += part.numel()
    return SplitMask(
        prefix,
        question_columns.to(device),
        question_allowed[:, None].to(device),
        leaf_columns.to(device),
        leaf_block.to(device),
        leaf_allowed[:, None].to(device),
        place.to(device),
    )


def _padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Return (rows, longest) with zeros at the end of shorter ones, and where the real entries are."""
    width = max((len(row) for row in rows), default=0)
    padded = torch.tensor([row + [0] * (width - len(row)) for row in rows], dtype=torch.long).view(len(rows), width)
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
    return padded, torch.arange(width) < lengths[:, None]


def _for_queries(keys: Tensor, num_queries: int) -> Tensor:
    return keys[:, None].expand(-1, num_queries, -1)


def _causal(batch: int, size: int) -> Tensor:
    return torch.ones(size, size, dtype=torch.bool).tril().expand(batch, -1, -1)


def attend_split(query: Tensor, key: Tensor, value: Tensor, mask: SplitMask, attend: Attend) -> Tensor:
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
        out = attend(query[:, :, :prefix], prefix_k, prefix_v, None, True)
        outs.append(out.transpose(1, 2).flatten(0, 1))
    blocks = len(mask.question_columns) // num_rows
    row_of_block = torch.arange(len(mask.question_columns), device=query.device) // blocks
    question_k, question_v = (_columns(part, mask.question_columns) for part in (flat_k, flat_v))
    if mask.question_columns.numel():
        k = torch.cat([_rows(prefix_k, row_of_block), question_k], dim=2)
        v = torch.cat([_rows(prefix_v, row_of_block), question_v], dim=2)
        out = attend(_columns(flat_q, mask.question_columns), k, v, mask.question_allowed, False)
        outs.append(out.transpose(1, 2).flatten(0, 1))
    if mask.leaf_columns.numel():
        row_of_leaf = mask.leaf_block // blocks
        k, v = (
            torch.cat(
                [_rows(above, row_of_leaf), _rows(asked, mask.leaf_block), _columns(flat, mask.leaf_columns)], dim=2
            )
            for above, asked, flat in ((prefix_k, question_k, flat_k), (prefix_v, question_v, flat_v))
        )
        allowed = mask.leaf_allowed.expand(len(row_of_leaf), -1, -1, -1)
        out = attend(_columns(flat_q, mask.leaf_columns), k, v, allowed, False)
        outs.append(out.transpose(1, 2).flatten(0, 1))
    out = torch.cat(outs).index_select(0, mask.place)
    return out.unflatten(0, (num_rows, width)).transpose(1, 2)


def _columns(flat: Tensor, columns: Tensor) -> Tensor:
    """(R * L, H, d), (n, c) -> (n, H, c, d)."""
    return flat.index_select(0, columns.flatten()).unflatten(0, columns.shape).transpose(1, 2)


def _rows(part: Tensor, rows: Tensor) -> Tensor:
    """Repeat (rows, H, c, d) as told; one row is expanded, whose backward is a plain sum."""
    return part.expand(len(rows), -1, -1, -1) if len(part) == 1 else part.index_select(0, rows)
