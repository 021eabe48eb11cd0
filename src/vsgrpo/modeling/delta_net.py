"""The gated DeltaNet of Qwen3.5 (arXiv 2412.06464) on trees: the state forks inside the layer.

So gradients reach the parent's state through every child, and gradient checkpointing recomputes a layer as any other.

Legend: R rows, L columns of a row, n nodes of a level, w tokens of the longest, K taps of the convolution.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from transformers.models.qwen3_5 import modeling_qwen3_5 as library

from vsgrpo.modeling.bundle import language_model
from vsgrpo.modeling.tree_states import TAKES_STATE_TREES, Level, StateTree

LARGEST_CHUNK = 64
"""Tokens that the delta rule reads at once: the library's, and that of the kernels."""
SMALLEST_CHUNK = 8


class TreeDeltaNet(library.Qwen3_5GatedDeltaNet):
    """The library's layer, which takes a `StateTree` too."""

    def forward(
        self,
        hidden_states: Tensor,
        cache_params: Any = None,
        attention_mask: Tensor | None = None,
        state_tree: StateTree | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Read (R, L, width) level by level, or row by row as the library where there is no tree.

        A cache, of `tree_states.StateLayer`, is gone on from, and left with the states of the last level.
        """
        if state_tree is None:
            return super().forward(hidden_states, cache_params=cache_params, attention_mask=attention_mask, **kwargs)
        flat = hidden_states.flatten(0, 1)
        mixed, gate = self.in_proj_qkv(flat), self.in_proj_z(flat)
        beta = self.in_proj_b(flat).sigmoid()
        decay = -self.A_log.float().exp() * softplus(self.in_proj_a(flat).float() + self.dt_bias)
        kept = None if cache_params is None else cache_params.layers[self.layer_idx]
        tail, state = (None, None) if kept is None else kept.get()
        outs = []
        for number, level in enumerate(state_tree.levels, 1):
            if level.parent is not None:
                tail, state = (None if part is None else part.index_select(0, level.parent) for part in (tail, state))
            if tail is None:
                tail = mixed.new_zeros(len(level.columns), self.conv_kernel_size - 1, self.conv_dim)
            goes_on = kept is not None or number < len(state_tree.levels)
            read = torch.cat([tail, _columns(mixed, level)], dim=1)
            if level.columns.numel():
                steps = kept is not None and level.columns.shape[1] == 1
                out, state = self._read(read, beta, decay, level, state, goes_on, steps)
                outs.append(out)
            if goes_on:
                ends = level.real.sum(dim=1)[:, None] + torch.arange(tail.shape[1], device=read.device)
                tail = read.gather(1, ends[:, :, None].expand(-1, -1, self.conv_dim))
        if kept is not None:
            kept.set(tail, state)
        out = torch.cat(outs).index_select(0, state_tree.place)
        out = self.norm(out.reshape(-1, self.head_v_dim), gate.reshape(-1, self.head_v_dim))
        return self.out_proj(out.reshape(*hidden_states.shape[:2], -1))

    def _read(
        self, read: Tensor, beta: Tensor, decay: Tensor, level: Level, state: Tensor | None, goes_on: bool, steps: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return what the tokens of a level read from the states, (n * w, value heads, head), and the new states.

        Args:
            read: (n, K - 1 + w, channels) queries, keys and values before the convolution, behind the parents' last.
            beta, decay: (R * L, value heads) how much of a token is written, and the logarithm of what stays before it.
            goes_on: the new states are needed.
            steps: one token each, without gradient.
        """
        weight, width = self.conv1d.weight.squeeze(1), level.columns.shape[1]
        convolved = library.causal_conv1d_fn(read.transpose(1, 2), weight, self.conv1d.bias, activation=self.activation)
        convolved = convolved[:, :, -width:].transpose(1, 2)
        query, key, value = convolved.split([self.key_dim, self.key_dim, self.value_dim], dim=-1)
        # Padding writes nothing and lets nothing fade: the state passes it unchanged.
        beta, decay = (_columns(part, level) * level.real[:, :, None] for part in (beta, decay))
        rule = library.torch_recurrent_gated_delta_rule if steps else library.torch_chunk_gated_delta_rule
        out, state = rule(
            query.unflatten(2, (-1, self.head_k_dim)),
            key.unflatten(2, (-1, self.head_k_dim)),
            value.unflatten(2, (-1, self.head_v_dim)),
            g=decay,
            beta=beta,
            chunk_size=chunk_size(width),  # the kernels of fla have their own
            initial_state=state,
            output_final_state=goes_on,
            use_qk_l2norm_in_kernel=True,
        )
        return out.flatten(0, 1), state


def chunk_size(width: int) -> int:
    """Return how many of `width` tokens are read at once: a chunk is filled up, which short completions would pay."""
    return min(LARGEST_CHUNK, max(SMALLEST_CHUNK, 1 << (width - 1).bit_length()))


def _columns(flat: Tensor, level: Level) -> Tensor:
    """(R * L, ...) -> (n, w, ...)."""
    return flat.index_select(0, level.columns.flatten()).unflatten(0, level.columns.shape)


def use_tree_states(model: nn.Module) -> None:
    """Let the gated DeltaNets of a model take trees, for good: names and weights stay the library's."""
    for module in language_model(model).modules():
        if type(module) is library.Qwen3_5GatedDeltaNet:
            module.__class__ = TreeDeltaNet
    setattr(language_model(model), TAKES_STATE_TREES, True)
