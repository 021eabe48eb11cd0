"""The tree's kernel `merge`: each token meets its own node, its question and its prefix in calls of their own.

No call has a mask and no key is copied: all tokens below a prefix are one long sequence of queries against it. What a
query found in several calls is merged by the log-sum-exp of its scores: lse = log sum_i exp(lse_i) and
out = sum_i exp(lse_i - lse) out_i are those of one softmax over all keys.

The backward of flash attention takes the out and the lse of a call and computes from them the probabilities
p = exp(score - lse) and ds = p (dp - grad * out). With the MERGED out and lse these are those of the one softmax, so
each call's backward gives its exact share, and no gradient flows through any lse (ring attention, arXiv 2310.01889).

Legend: T columns of all rows (R * L), H heads, h heads of keys, d head width, t queries or keys of a call.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vsgrpo.errors import ConfigError
from vsgrpo.modeling.tree import PREFIX, Packed

_ATEN = torch.ops.aten
FEW_SCORES = 128 * 128
"""Queries x keys of a sequence up to which a CPU computes a half-precision call in float32, from the same inputs. The
backward of torch's kernel in bfloat16 costs the same down to a few keys: for 112 leaves of 8 tokens 55 ms, in float32
5. Beyond, bfloat16 gains (`scripts/bench_tree_attention.py --precision`)."""
Sequences = list[tuple[list[int], list[int]]]
"""Columns of queries, and of the keys that they meet."""


@dataclass(frozen=True)
class Call:
    """Sequences of one call of flash attention, each against its own keys; on a CPU all of one shape."""

    queries: slice | Tensor
    """Their columns (t,), sequence after sequence."""
    keys: slice | Tensor
    query_starts: Tensor
    """(sequences + 1,) int32: where each sequence starts among `queries`, and their number."""
    key_starts: Tensor
    most_queries: int
    most_keys: int
    causal: bool
    """A node against itself. It is the first call of each of its columns."""


@dataclass(frozen=True)
class MergeMask:
    """The calls whose merged results are the attention of packed rows; padding is in none and gets zeros."""

    calls: tuple[Call, ...]


def merge_mask(packed: Packed, device: torch.device) -> MergeMask:
    """Cut packed rows into calls: one on a GPU for nodes, prefixes and questions each; one per shape on a CPU."""
    width = packed.ids.shape[1]
    questions, leaves = packed.nodes()
    prefixes = [
        [row * width + column for column in range(length)]
        for row, length in enumerate((packed.question == PREFIX).sum(dim=1).tolist())
    ]
    below_question: list[list[int]] = [[] for _ in questions]
    for (block, _), columns in leaves.items():
        below_question[block] += columns
    below_prefix: list[list[int]] = [[] for _ in prefixes]
    for block, (question, below) in enumerate(zip(questions, below_question, strict=True)):
        below_prefix[block // packed.num_blocks] += [*question, *below]
    nodes = sorted(filter(None, [*prefixes, *questions, *leaves.values()]))
    calls = [_call(group, True, device) for group in _groups(zip(nodes, nodes, strict=True), device)]
    for below, above in ((below_prefix, prefixes), (below_question, questions)):
        calls += [_call(group, False, device) for group in _groups(zip(below, above, strict=True), device)]
    return MergeMask(tuple(calls))


def _groups(sequences: Iterable[tuple[list[int], list[int]]], device: torch.device) -> Iterable[Sequences]:
    """Group what one call can take: any lengths on a GPU, equal ones on a CPU."""
    groups: defaultdict[Any, Sequences] = defaultdict(list)
    for queries, keys in sequences:
        if queries and keys:
            groups[() if device.type == "cuda" else (len(queries), len(keys))].append((queries, keys))
    return groups.values()


def _call(sequences: Sequences, causal: bool, device: torch.device) -> Call:
    queries, keys = zip(*sequences, strict=True)
    return Call(
        _columns(queries, device),
        _columns(keys, device),
        _starts(queries, device),
        _starts(keys, device),
        # At 1 torch's kernel exchanges heads and queries and returns the lse of several sequences in another order.
        most_queries=max(2, *map(len, queries)),
        most_keys=max(map(len, keys)),
        causal=causal,
    )


def _columns(sequences: Sequence[list[int]], device: torch.device) -> slice | Tensor:
    """Return the columns of all sequences; as a slice, which copies nothing, where they are neighbours."""
    columns = list(itertools.chain.from_iterable(sequences))
    if columns == list(range(columns[0], columns[0] + len(columns))):
        return slice(columns[0], columns[-1] + 1)
    return torch.tensor(columns, device=device)


def _starts(sequences: Sequence[list[int]], device: torch.device) -> Tensor:
    return torch.tensor([0, *itertools.accumulate(map(len, sequences))], dtype=torch.int32, device=device)


def attend_merged(
    query: Tensor, key: Tensor, value: Tensor, mask: MergeMask, *, dropout: float, scaling: float | None
) -> Tensor:
    """Attend from every column to its ancestors and its own node.

    Args:
        query: (R, H, L, d); `key` and `value` may have fewer heads.

    Returns:
        (R, H, L, d), in the type of an autocast around the call.

    Raises:
        ConfigError: flash attention does not take this: dropout on a CPU, or float32 on a GPU.
    """
    device = query.device.type
    if torch.is_autocast_enabled(device):
        query, key, value = (part.to(torch.get_autocast_dtype(device)) for part in (query, key, value))
    hint = "set trainer.prefix_attention=auto"
    if device == "cpu" and dropout:
        raise ConfigError("trainer.prefix_attention=merge: torch has no dropout in it on a CPU", hint=hint)
    if device == "cuda" and query.dtype not in (torch.bfloat16, torch.float16):
        kind = str(query.dtype).removeprefix("torch.")
        raise ConfigError(f"trainer.prefix_attention=merge: on a GPU not in {kind}, but in bfloat16", hint=hint)
    flat = (part.transpose(1, 2).flatten(0, 1) for part in (query, key, value))
    out = _Merged.apply(*flat, mask.calls, scaling, dropout)
    return out.unflatten(0, (len(query), -1)).transpose(1, 2)


class _Merged(torch.autograd.Function):
    """Query (T, H, d), key and value (T, h, d) to out (T, H, d)."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        calls: Sequence[Call],
        scaling: float | None,
        dropout: float,
    ) -> Tensor:
        exact = torch.promote_types(query.dtype, torch.float32)
        out = torch.zeros_like(query, dtype=exact, memory_format=torch.contiguous_format)
        lse = out.new_zeros(query.shape[1], len(query))
        states = []
        for call in calls:
            found, found_lse, state = _flash(query, key, value, call, scaling, dropout)
            if not call.causal:
                before, known = out[call.queries], lse[:, call.queries]
                merged = torch.logaddexp(known, found_lse)
                found = torch.lerp(before, found.to(exact), (found_lse - merged).exp().T[..., None])
                found_lse = merged
            out[call.queries] = found.to(exact)
            lse[:, call.queries] = found_lse
            states.append(state)
        out = out.to(query.dtype)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.calls, ctx.scaling, ctx.dropout, ctx.states = calls, scaling, dropout, states
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, lse = ctx.saved_tensors
        found = [torch.zeros_like(part, memory_format=torch.contiguous_format) for part in (query, key, value)]
        for call, state in zip(ctx.calls, ctx.states, strict=True):
            shares = _flash_backward(grad, query, key, value, out, lse, call, ctx.scaling, ctx.dropout, state)
            for total, share, columns in zip(found, shares, (call.queries, call.keys, call.keys), strict=True):
                # Nodes come first and share no column; no column comes twice in a call.
                total[columns] = share if call.causal else total[columns] + share
        return *found, None, None, None


def _flash(
    query: Tensor, key: Tensor, value: Tensor, call: Call, scaling: float | None, dropout: float
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Return out (t, H, d), lse (H, t) and what the backward needs to drop the same."""
    q, k, v = query[call.queries], key[call.keys], value[call.keys]
    if query.device.type == "cuda":
        starts = call.query_starts, call.key_starts, call.most_queries, call.most_keys
        out, lse, *state, _ = _ATEN._flash_attention_forward(
            q, k, v, *starts, dropout, call.causal, False, scale=scaling
        )
        return out, lse, tuple(state)
    exact = _exact(call, query.dtype)
    q, k, v = (_by_sequence(part.to(exact), call) for part in (q, k, v))
    out, lse = _ATEN._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, call.causal, scale=scaling)
    return out.transpose(1, 2).flatten(0, 1), lse.transpose(0, 1).flatten(1), ()


def _flash_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    call: Call,
    scaling: float | None,
    dropout: float,
    state: tuple[Tensor, ...],
) -> list[Tensor]:
    """Return the share of a call in the gradients of its queries (t, H, d), keys and values (t, h, d)."""
    grad, q, k, v, out = grad[call.queries], query[call.queries], key[call.keys], value[call.keys], out[call.queries]
    lse = lse[:, call.queries].contiguous()
    if query.device.type == "cuda":
        starts = call.query_starts, call.key_starts, call.most_queries, call.most_keys
        return _ATEN._flash_attention_backward(
            grad, q, k, v, out, lse, *starts, dropout, call.causal, *state, scale=scaling
        )
    exact = _exact(call, query.dtype)
    grad, q, k, v, out = (_by_sequence(part.to(exact), call) for part in (grad, q, k, v, out))
    lse = lse.unflatten(1, (len(q), -1)).transpose(0, 1)
    shares = _ATEN._scaled_dot_product_flash_attention_for_cpu_backward(
        grad, q, k, v, out, lse, 0.0, call.causal, scale=scaling
    )
    return [share.transpose(1, 2).flatten(0, 1).to(query.dtype) for share in shares]


def _exact(call: Call, dtype: torch.dtype) -> torch.dtype:
    """Return the type in which a CPU computes a call."""
    return torch.promote_types(dtype, torch.float32) if call.most_queries * call.most_keys <= FEW_SCORES else dtype


def _by_sequence(part: Tensor, call: Call) -> Tensor:
    """(t, H, d) -> (sequences, H, t of each, d)."""
    return part.unflatten(0, (len(call.query_starts) - 1, -1)).transpose(1, 2)
