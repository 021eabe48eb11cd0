"""The tokens of a rollout by steps of one shape, which a GPU records once and replays: a CUDA graph.

What grows in the ordinary loop stands still here. Keys and values lie in buffers as wide as they may come to be, a mask
of that width says which columns have been written, and counters on the device say where the next ones go. Completions
that ended keep their slots until half of them are free; then the rest move into smaller buffers, with a new graph.
On a CPU the same steps run without one.

Legend: R rows of the cache, S slots of a row, one per completion; W columns of a cache at its fullest.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from vsgrpo.errors import ConfigError
from vsgrpo.modeling.attention import require_tree_attention
from vsgrpo.modeling.cache import RoomyLayer
from vsgrpo.modeling.tree import lay_out_leaves
from vsgrpo.modeling.tree_masks import DenseMask

WARM_UP = 2
"""Steps before one is recorded: libraries take workspaces, autocast keeps its casts of weights."""


class FixedLayer(DynamicLayer):
    """Keys and values (R, key heads, W, head), of which the first columns are written.

    Args:
        layer: has the first columns of more rows.
        rows: (R,) those that are kept.
        written: number of columns that are kept.
        width: W.
        columns: (S,) where the next ones go; moved by the step, not by the layer.
    """

    def __init__(self, layer: Any, rows: Tensor, written: int, width: int, columns: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self._written, self._columns = written, columns
        self.keys, self.values = (
            self._widened(part[:, :, :written], rows, width) for part in (layer.keys, layer.values)
        )

    @staticmethod
    def _widened(part: Tensor, rows: Tensor, width: int) -> Tensor:
        # Zeros: what a mask hides must be a number all the same.
        wide = part.new_zeros(len(rows), part.shape[1], width, part.shape[3])
        return wide.index_copy_(2, torch.arange(part.shape[2], device=part.device), part.index_select(0, rows))

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write S columns, and return all of them, written or not."""
        assert self.keys is not None and self.values is not None
        self.keys.index_copy_(2, self._columns, key_states)
        self.values.index_copy_(2, self._columns, value_states)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Return the number of columns at the start: the host does not follow what the device writes."""
        return self._written


class FixedStep:
    """One token more of each completion, in the same shapes at each call.

    Args:
        model: unwrapped; its cache is taken over, and `cache` left without layers.
        rows: row of the cache in which each completion lies, ascending.
        positions: (completions,) of the token that is fed next.
        seen: (completions, columns) bool: columns of the cache that each sees.
        to_come: tokens that will be fed at most.

    Raises:
        ConfigError: a model whose cache holds other things than keys and values of all tokens.
    """

    def __init__(
        self, model: nn.Module, cache: DynamicCache, rows: Sequence[int], positions: Tensor, seen: Tensor, to_come: int
    ) -> None:
        if any(not isinstance(layer, RoomyLayer | FixedLayer) for layer in cache.layers):
            raise ConfigError(
                "trainer.decode_graph=true: this model keeps states that have no fixed shape yet",
                hint="set trainer.decode_graph=false",
            )
        device, written = seen.device, seen.shape[1]
        kept = sorted(set(rows))
        self._slots = lay_out_leaves([kept.index(row) for row in rows]).to(device)
        num_rows, num_slots = self._slots.shape
        self._model, self._to_come = model, to_come
        self._rows, self._capacity = [kept.index(row) for row in rows], len(rows)
        width = written + to_come * num_slots
        self._columns = torch.arange(written, written + num_slots, device=device)
        self._all_columns = torch.arange(width, device=device)
        own = torch.eye(num_slots, dtype=torch.bool, device=device).repeat(1, to_come)
        self._allowed = torch.cat([seen.new_zeros(num_rows, num_slots, written), own.expand(num_rows, -1, -1)], dim=2)
        self._allowed[self._slots.tree, self._slots.slot, :written] = seen
        self._positions = self._slots.lay_out(positions, 0)
        self._ids = torch.zeros_like(self._positions)
        self._cache, select = DynamicCache(), torch.tensor(kept, device=device)
        while cache.layers:  # one after the other: never two whole caches
            layer = cache.layers.pop(0)
            self._cache.layers.append(FixedLayer(layer, select, written, width, self._columns))
        self._graph: Any = None
        self._logits = torch.empty(0)
        self._steps, self._written = 0, written

    def __call__(self, tokens: Tensor) -> Tensor:
        """Feed the newest token of each completion; return the logits (completions, V) of the next."""
        self._ids.copy_(self._slots.lay_out(tokens, 0))
        if self._graph is None and self._steps >= WARM_UP and torch.cuda.is_available() and self._ids.is_cuda:
            self._graph = torch.cuda.CUDAGraph()
            # Decoders and loggers of other threads may use the GPU meanwhile.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._logits = self._advance()
        if self._graph is None:
            self._logits = self._advance()
        else:
            self._graph.replay()
        self._steps += 1
        return self._slots.pick(self._logits)

    def _advance(self) -> Tensor:
        """Compute from what lies on the device alone: the host neither waits nor sends anything."""
        allowed = (self._allowed & (self._all_columns <= self._columns[-1]))[:, None]
        logits = self._model(
            input_ids=self._ids,
            attention_mask=allowed,  # ready made, so that the library makes none
            tree_mask=DenseMask(allowed),
            position_ids=self._positions.expand(3, -1, -1),
            past_key_values=self._cache,
            use_cache=True,
        ).logits
        self._positions.add_(1)
        self._columns.add_(len(self._columns))
        return logits

    def keep(self, places: Sequence[int]) -> "FixedStep":
        """Keep some of the completions; return the step to go on with."""
        if len(places) == len(self._rows):
            return self
        kept = torch.tensor(places, device=self._ids.device)
        rows = [self._rows[place] for place in places]
        if 2 * len(places) > self._capacity:
            self._rows, self._slots = rows, self._slots.keep(kept)
            return self
        slots, written = self._slots.keep(kept), self._written + self._steps * len(self._columns)
        seen, positions = slots.pick(self._allowed)[:, :written], slots.pick(self._positions)
        return FixedStep(self._model, self._cache, rows, positions, seen, self._to_come - self._steps)


def draw_by_fixed_steps(
    model: nn.Module,
    cache: DynamicCache,
    rows: Sequence[int],
    positions: Tensor,
    seen: Tensor,
    draws: Any,
    going: Sequence[int] | None,
) -> None:
    """Advance completions whose first token is drawn until each has ended.

    Args:
        rows, positions, seen: of each completion, as `FixedStep` takes them.
        draws: the rollout's `_Draws`.
        going: what its `add` returned for the first token.
    """
    require_tree_attention(model)
    if going is not None:
        kept = torch.tensor(going, dtype=torch.long, device=seen.device)
        rows, positions, seen = [rows[place] for place in going], positions[kept], seen[kept]
    if not draws.active:
        return
    step = FixedStep(model, cache, rows, positions, seen, draws.max_tokens - draws.position)
    while draws.active:
        going = draws.add(step(draws.last))
        if going:
            step = step.keep(going)
