"""Prompts of a rollout, read into a cache that has room for the tokens to come.

Legend: B rows.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, LinearAttentionLayer

from vsgrpo.modeling.bundle import PromptBatch, base_model
from vsgrpo.modeling.tree import Packed, build_trees, lay_out_leaves, pack
from vsgrpo.modeling.tree_masks import build_mask
from vsgrpo.modeling.tree_states import StateLayer, packed_states, select

Phase = Callable[[str], AbstractContextManager[Any]]
Leaf = tuple[int, int, int, int]
"""A completion to come: its tree, its question in the tree, the position of its first token, its number."""

_ROOM = 64
"""Tokens that a cache has room for before it is copied, at least; a quarter of its length where that is more."""


class RoomyLayer(DynamicLayer):
    """Keys and values in a buffer with room for tokens to come: the stock layer copies all of them for every token.

    Args:
        to_come: columns that will be appended at most after the first ones.
    """

    def __init__(self, to_come: int) -> None:
        super().__init__()
        self._to_come, self._most = to_come, 0
        self._buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append, and return views of all keys and values (B, key heads, tokens, head)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._most = key_states.shape[2] + self._to_come
        used = self.get_seq_length()
        end = used + key_states.shape[2]
        if self._buffers is None or self._buffers[0].shape[2] < end:
            room = end + max(_ROOM, end // 4)
            room = min(room, self._most) if end <= self._most else room
            shape = (*key_states.shape[:2], room, key_states.shape[3])
            buffers = key_states.new_empty(shape), value_states.new_empty(shape)
            if used:
                assert self.keys is not None and self.values is not None
                buffers[0][:, :, :used], buffers[1][:, :, :used] = self.keys, self.values
            self._buffers = buffers
        keys, values = self._buffers
        keys[:, :, used:end], values[:, :, used:end] = key_states, value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows; they lie in no buffer until the next token."""
        super().batch_select_indices(indices)  # type: ignore[arg-type]
        self._buffers = None


def prefill(model: nn.Module, to_come: int, **inputs: Any) -> tuple[Tensor, DynamicCache]:
    """Read prompts into a cache with room for `to_come` columns; return the logits and the cache.

    Layers that the library gives another cache (a recurrent state, a window) keep it.
    """
    cache = DynamicCache(config=base_model(model).config.text_config)
    kinds = {DynamicLayer: lambda: RoomyLayer(to_come), LinearAttentionLayer: StateLayer}
    cache.layers = [kinds[type(layer)]() if type(layer) in kinds else layer for layer in cache.layers]
    return model(**inputs, past_key_values=cache, use_cache=True).logits, cache


def read_trees(
    model: nn.Module,
    batch: PromptBatch,
    rows: Sequence[int],
    prompt_of: Tensor,
    max_tokens: int,
    phase: Phase,
    attention: str,
) -> tuple[list[Leaf], Packed, Tensor, DynamicCache]:
    """Read trees of prompts into a cache that holds every node once.

    Args:
        rows: unique prompts of the batch, those of one tree side by side.
        prompt_of: (leaves,) place of each leaf's prompt in `rows`.
        max_tokens: tokens that each leaf may get.

    Returns:
        the leaves; the rows that were read; logits (prompts, V) of their last tokens; the cache.
    """
    device = batch.device
    trees = build_trees([batch.unique[row] for row in rows], [()] * len(rows), share=True)
    left = iter(rows)
    tree_rows = [[next(left) for _ in tree.questions] for tree in trees]
    packed = pack(trees, [[batch.positions[row] for row in part] for part in tree_rows], for_rollout=True)
    prompts = [
        (tree, question, batch.positions[row].next_position)
        for tree, part in enumerate(tree_rows)
        for question, row in enumerate(part)
    ]
    leaves = [(*prompts[place], leaf) for leaf, place in enumerate(prompt_of.tolist())]
    most_leaves = lay_out_leaves([tree for tree, *_ in leaves]).shape[1]
    with phase("prefill"):
        logits, cache = prefill(
            model,
            max_tokens * most_leaves,
            input_ids=packed.ids.to(device),
            position_ids=packed.positions.to(device),
            tree_mask=build_mask(packed, attention, device),
            mm_encoder_outputs=batch.tree_features(trees, tree_rows),
            logits_to_keep=packed.predicts.to(device),
            **packed_states(model, packed, device),
        )
    select(cache, None, prompt_of)
    return leaves, packed, logits, cache
