"""Trees for recurrent layers: which tokens go on from which state, and the states that a rollout keeps.

A mask tells attention what a token sees. A recurrent layer has read whatever stands before a token, so it reads
a tree level by level, each as one batch: prefixes, then questions, which go on from the states of their prefixes, then
leaves, which go on from those of their questions.

Legend: R rows, L columns of a row, n nodes of a level, w tokens of the longest.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import LinearAttentionLayer

from vsgrpo.modeling.bundle import language_model
from vsgrpo.modeling.tree import PREFIX, Packed

RECURRENT = "linear_attention"
"""In `layer_types` of a config."""
TAKES_STATE_TREES = "takes_state_trees"
"""Attribute of a language model whose recurrent layers take trees."""


@dataclass(frozen=True)
class Level:
    """Nodes that are read as one batch."""

    columns: Tensor
    """(n, w) tokens of each node, counted over all rows, R * L; padded with 0 at the end."""
    real: Tensor
    """(n, w) bool: no padding."""
    parent: Tensor | None
    """(n,) nodes of the level above whose states are gone on from; None: those that the cache holds, or fresh ones."""


@dataclass(frozen=True)
class StateTree:
    """Argument `state_tree` of a model call, which its `**kwargs` carry down to the recurrent layers."""

    levels: tuple[Level, ...]
    place: Tensor
    """(R * L,) where each column's result stands among those of the levels, padding included, one after the other.
    Columns of no node take any: nothing depends on them."""

    def to(self, device: torch.device) -> "StateTree":
        def move(part: Tensor | None) -> Any:
            return None if part is None else part.to(device)

        levels = tuple(Level(*map(move, (level.columns, level.real, level.parent))) for level in self.levels)
        return replace(self, levels=levels, place=self.place.to(device))


def has_states(model: nn.Module) -> bool:
    """Tell whether a model has recurrent layers."""
    return RECURRENT in (getattr(language_model(model).config, "layer_types", None) or ())


def takes_state_trees(model: nn.Module) -> bool:
    """Tell whether the recurrent layers of a model take a `StateTree` (`delta_net.use_tree_states`)."""
    return getattr(language_model(model), TAKES_STATE_TREES, False)


def packed_states(model: nn.Module, packed: Packed, device: torch.device) -> dict[str, StateTree]:
    """Return the arguments by which recurrent layers read packed rows; none for a model without such layers.

    The states that a cache is left with are those of the leaves, or, in rows for a rollout, of the questions: one for
    each prompt, in order.
    """
    if not has_states(model):
        return {}
    rows, blocks = len(packed.ids), packed.num_blocks
    row = torch.arange(rows)[:, None].expand_as(packed.ids).flatten()
    question, leaf = packed.question.flatten(), packed.leaf.flatten()
    asked, ends = question >= 0, leaf >= 0
    questions, of_question = (row * blocks + question)[asked].unique(return_inverse=True)
    number = torch.full_like(row, -1).masked_scatter(asked, of_question)
    leaves, of_leaf = (row * packed.ids.shape[1] + leaf)[ends].unique(return_inverse=True)
    question_of_leaf = torch.zeros_like(leaves).scatter(0, of_leaf, number[ends])
    levels = [
        _level(torch.where(question == PREFIX, row, -1), rows, None),
        _level(torch.where(ends, -1, number), len(questions), questions // blocks),
    ]
    if len(leaves):
        levels.append(_level(torch.full_like(row, -1).masked_scatter(ends, of_leaf), len(leaves), question_of_leaf))
    return {"state_tree": _with_places(levels, len(row)).to(device)}


def row_states(model: nn.Module, lengths: Sequence[int], width: int, device: torch.device) -> dict[str, StateTree]:
    """Likewise for one sequence per row, padded on the right: the states are those before the padding."""
    if not has_states(model):
        return {}
    row = torch.arange(len(lengths))[:, None].expand(-1, width)
    real = torch.arange(width) < torch.tensor(lengths)[:, None]
    return {
        "state_tree": _with_places([_level(torch.where(real, row, -1).flatten(), len(lengths), None)], row.numel()).to(
            device
        )
    }


def next_states(model: nn.Module, columns: Tensor, num_columns: int) -> dict[str, StateTree]:
    """Likewise for one token more of each sequence whose state the cache holds.

    Args:
        columns: (n,) where the token of each stands among the `num_columns` of all rows.
    """
    if not has_states(model):
        return {}
    place = columns.new_zeros(num_columns).scatter(0, columns, torch.arange(len(columns), device=columns.device))
    level = Level(columns[:, None], columns.new_ones(len(columns), 1, dtype=torch.bool), None)
    return {"state_tree": StateTree((level,), place)}


def _level(node: Tensor, number: int, parent: Tensor | None) -> Level:
    """Gather the columns of `number` nodes; `node` (R * L,) tells each column's, -1 where it belongs to none."""
    mine = (node >= 0).nonzero()[:, 0]
    counts = node[mine].bincount(minlength=number)
    real = torch.arange(int(counts.max())) < counts[:, None]
    columns = torch.zeros(real.shape, dtype=torch.long)
    columns[real] = mine[node[mine].argsort(stable=True)]
    return Level(columns, real, parent)


def _with_places(levels: Sequence[Level], num_columns: int) -> StateTree:
    place, start = torch.zeros(num_columns, dtype=torch.long), 0
    for level in levels:
        place[level.columns[level.real]] = start + level.real.flatten().nonzero()[:, 0]
        start += level.real.numel()
    return StateTree(tuple(levels), place)


class StateLayer(LinearAttentionLayer):
    """The state of each sequence after its last token: one per row, or per leaf of a tree.

    The stock layer writes into tensors whose number of rows never changes, and keeps what padding made of a state.
    """

    def get(self) -> tuple[Tensor | None, Tensor | None]:
        """Return the last inputs of the convolution (n, K - 1, channels) and the recurrent state, None at the start."""
        return self.conv_states[0], self.recurrent_states[0]

    def set(self, tail: Tensor, state: Tensor | None) -> None:
        self.conv_states[0], self.recurrent_states[0] = tail, state
        self.has_previous_state[0] = True

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some states, or several copies of them."""
        tail, state = self.get()
        assert tail is not None and state is not None
        self.set(tail.index_select(0, indices), state.index_select(0, indices))


def select(cache: DynamicCache, rows: Tensor | None, states: Tensor | None) -> None:
    """Keep some rows of keys and values, and some states; None: all of them."""
    for layer in cache.layers:
        indices = states if isinstance(layer, StateLayer) else rows
        if indices is not None:
            layer.batch_select_indices(indices)  # type: ignore[union-attr, arg-type]
