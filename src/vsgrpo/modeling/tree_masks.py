"""Which columns of a tree's rows may see which, as a mask for each kernel of `attention.py`, and the kernel to take.

Legend: R trees (rows), L columns, P prefix columns, K blocks per row, B blocks (questions) of all rows, W columns of a
block, S question columns, N leaves (completions), C columns of the longest leaf.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask as FlexBlocks
from torch.nn.attention.flex_attention import create_block_mask

from vsgrpo.errors import ConfigError
from vsgrpo.modeling.tree import PREFIX, Packed, can_see

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


TreeMask = DenseMask | BlockMask | SplitMask | FlexBlocks


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
        return _split_mask(packed, device)
    if kernel == "flex":
        return _flex_blocks(packed, device)
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


def _split_mask(packed: Packed, device: torch.device) -> SplitMask:
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
    question_allowed = _before_and_causal(prefix_allowed, question_columns.shape[1])
    ancestors = torch.cat([prefix_allowed, is_question], dim=1)[leaf_block]
    if len(ancestors) and bool((ancestors == ancestors[0]).all()):
        ancestors = ancestors[:1]
    leaf_allowed = _before_and_causal(ancestors, leaf_columns.shape[1])
    place = torch.zeros(num_rows * width, dtype=torch.long)
    columns = (torch.arange(num_rows)[:, None] * width + torch.arange(prefix)).flatten()
    place[columns] = torch.arange(len(columns))
    start = len(columns)
    for part, real in ((question_columns, is_question), (leaf_columns, is_leaf)):
        place[part[real]] = start + torch.arange(part.numel()).view(part.shape)[real]
        start += part.numel()
    parts = (question_columns, question_allowed[:, None], leaf_columns, leaf_block, leaf_allowed[:, None], place)
    return SplitMask(prefix, *(part.to(device) for part in parts))


def _padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Return (rows, longest) with zeros at the end of shorter ones, and where the real entries are."""
    width = max((len(row) for row in rows), default=0)
    padded = torch.tensor([row + [0] * (width - len(row)) for row in rows], dtype=torch.long).view(len(rows), width)
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
    return padded, torch.arange(width) < lengths[:, None]


def _before_and_causal(before: Tensor, size: int) -> Tensor:
    """Return (n, size, keys + size): `size` queries see the keys `before` (n, keys), and themselves causally."""
    own = torch.ones(size, size, dtype=torch.bool).tril().expand(len(before), -1, -1)
    return torch.cat([before[:, None].expand(-1, size, -1), own], dim=2)


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
