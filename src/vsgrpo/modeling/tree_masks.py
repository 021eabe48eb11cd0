"""Which columns of a tree's rows may see which, as a mask for each kernel of `attention.py`, and the kernel to take.

Legend: R trees (rows), L columns, P prefix columns, K blocks per row, B blocks (questions) of all rows, W columns of a
block, S question columns, N leaves (completions), C columns of the longest leaf.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask as FlexBlocks

from vsgrpo.errors import ConfigError
from vsgrpo.modeling.merged_attention import MergeMask, merge_mask
from vsgrpo.modeling.tree import PREFIX, Packed, can_see

KERNELS = ("auto", "dense", "block", "split", "merge", "flex")

FLEX_BLOCK = 128
"""Columns of a block of torch's flex attention."""
KEY_COPY_COST = 150
"""What copying one key of the prefix costs on a GPU, in attention scores. Counted for Qwen2-VL-2B, not measured: a key
and its value for all heads, and their gradients, are 24 KiB written and read at 3 TB/s, 8 ns; a score takes 14 x 1536
operations forward and back at 400 TFLOP/s, 54 ps."""
MERGE_COST = 20_000_000
"""What `merge` launches more than `block` in a layer on a GPU, in attention scores. Counted, not measured: up to 70
launches forward and back, 16 microseconds of the host each, 1.1 ms."""


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


TreeMask = DenseMask | BlockMask | SplitMask | MergeMask | FlexBlocks


def build_mask(packed: Packed, kernel: str, device: torch.device, dtype: torch.dtype = torch.float32) -> TreeMask:
    """Build the mask of packed rows, which the model takes as `tree_mask` and hands down to `tree_attention`.

    Args:
        dtype: of the model's weights, which `auto` looks at.

    Raises:
        ConfigError: unknown kernel, or `flex` for a backward pass on a CPU, which torch does not have.
    """
    if kernel not in KERNELS:
        raise ConfigError(f"trainer.prefix_attention={kernel}: not one of {', '.join(KERNELS)}")
    if kernel == "auto":
        half = torch.is_autocast_enabled(device.type) or dtype in (torch.bfloat16, torch.float16)
        kernel = choose_kernel(packed, device.type, half)
    if kernel == "split":
        return _split_mask(packed, device)
    if kernel == "merge":
        return merge_mask(packed, device)
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


def choose_kernel(packed: Packed, device: str, half: bool) -> str:
    """Return the kernel that costs least for packed rows.

    On a CPU `merge`: it computes the fewest scores and copies no key (`scripts/bench_tree_attention.py`). On a GPU by
    the scores that each computes and by counted costs. `block` computes the scores of all completions of a question
    against each other, `split` copies the prefix's keys once per completion instead and pads completions to the
    longest, `merge` launches more.

    Args:
        device: its type.
        half: attention is computed in bfloat16 or float16: a GPU's `merge` takes nothing else.
    """
    if device == "cpu":
        return "merge"
    questions, leaves = packed.nodes()
    stem, longest = max(map(len, questions)), max(map(len, leaves.values()), default=0)
    prefix, width, blocks = packed.prefix_width, packed.block_width, len(packed.ids) * packed.num_blocks
    # (calls, queries and keys of each)
    calls = {
        "block": ((blocks, width, prefix + width),),
        "split": ((blocks, stem, prefix + stem), (len(leaves), longest, prefix + stem + longest)),
    }
    costs = {
        kernel: sum(number * keys * (queries + KEY_COPY_COST) for number, queries, keys in shapes)
        for kernel, shapes in calls.items()
    }
    if half:
        drawn = sum(map(len, leaves.values()))
        own = sum(len(node) ** 2 for node in (*questions, *leaves.values())) // 2
        costs["merge"] = (sum(map(len, questions)) + drawn) * prefix + drawn * stem + own + MERGE_COST
    return min(costs, key=lambda kernel: costs[kernel])


def _split_mask(packed: Packed, device: torch.device) -> SplitMask:
    """Read questions and leaves off packed rows."""
    num_rows, width = packed.ids.shape
    prefix, blocks = packed.prefix_width, packed.num_blocks
    questions, leaves = packed.nodes()
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

    width = packed.ids.shape[1]
    lists = [part.to(device) for table in _block_tables(packed) for part in _as_lists(table)]
    return FlexBlocks.from_kv_blocks(*lists, BLOCK_SIZE=FLEX_BLOCK, mask_mod=allowed, seq_lengths=(width, width))


def _block_tables(packed: Packed) -> tuple[Tensor, Tensor]:
    """Return (R, 1, blocks, blocks) bool: where a block of queries may see some keys of a block, and where all.

    They are counted by kinds of columns, (question, leaf), so that no table of columns by columns is made.
    """
    rows, width = packed.ids.shape
    blocks = -(-width // FLEX_BLOCK)
    kinds, kind = torch.stack([packed.question, packed.leaf], dim=-1).flatten(0, 1).unique(dim=0, return_inverse=True)
    block = torch.arange(rows)[:, None] * blocks + torch.arange(width) // FLEX_BLOCK
    members = (block.flatten() * len(kinds) + kind).bincount(minlength=rows * blocks * len(kinds))
    members = members.view(rows, blocks, len(kinds)).float()
    question, leaf = kinds.T
    # Pairs of a query and a key that it may see, order aside; whole numbers up to the square of a block.
    pairs = (members @ can_see(question, leaf, question, leaf).float() @ members.mT)[:, None]
    before = torch.ones(blocks, blocks, dtype=torch.bool).tril(-1)
    all_seen = before & (pairs == FLEX_BLOCK**2)
    # Each column sees itself: the diagonal is seen in part.
    return (before & (pairs > 0) & ~all_seen) | torch.eye(blocks, dtype=torch.bool), all_seen


def _as_lists(table: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many blocks of keys each block of queries sees, and all blocks of keys, these first."""
    return table.sum(dim=-1, dtype=torch.int32), table.int().argsort(dim=-1, descending=True, stable=True).int()
