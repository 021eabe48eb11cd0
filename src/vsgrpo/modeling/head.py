"""The language head in chunks of rows: log-probs and entropies without the logits of all rows, forward and backward.

Legend: n rows (predicting tokens), H width of the language model, V vocabulary, f float32.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from vsgrpo.devices import logps_chunk
from vsgrpo.modeling.bundle import base_model


@contextmanager
def scoring_head(
    model: nn.Module, targets: Tensor, *, temperature: float, entropy: bool, chunk: int | None
) -> Iterator[None]:
    """Let the model's forward return (log-probs (n,), entropies (n,)) in float32 in place of logits (n, V).

    The head stays the module that the model calls, once per pass: engines that shard weights gather them around that
    call and around its backward, however many chunks there are inside.

    Args:
        model: possibly wrapped by adapters and distributed engines.
        targets: (n,) on the model's device, one for each position that `logits_to_keep` keeps.
        temperature, entropy, chunk: see `score_hidden`; without `entropy` the entropies are 0.
    """
    head = base_model(model).get_output_embeddings()
    head.forward = lambda hidden: score_hidden(hidden, head.weight, targets, temperature, entropy, chunk)
    try:
        yield
    finally:
        del head.forward


def score_hidden(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, entropy: bool, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return log-probs (n,) of targets and entropies (n,) in nats of softmax(hidden @ weight^T / temperature), float32.

    Args:
        hidden: (n, H).
        weight: (V, H) of the head; it gets a gradient where it is trained.
        entropy: False leaves the entropies 0.
        chunk: rows at a time, None: `logps_chunk` of the device.
    """
    rows = chunk or logps_chunk(hidden.device.type == "cpu", len(weight))
    return _ChunkedHead.apply(hidden, weight, targets, temperature, entropy, rows)  # type: ignore[return-value]


class _ChunkedHead(torch.autograd.Function):
    """`score_hidden`, one chunk of rows at a time; at most 8 bytes per logit of a chunk are alive.

    The gradient of a row's score, d score / d hidden = (target - softmax) @ weight / temperature, is computed while its
    logits are there and kept: (n, H). Only a trained weight, whose gradient sums over rows, needs them once more.
    Entropies have no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, entropy: bool, rows: int
    ) -> tuple[Tensor, Tensor]:
        ctx.dtype, ctx.temperature, ctx.rows = _product_type(hidden), temperature, rows
        table = weight.to(ctx.dtype)
        scores, entropies = torch.zeros(2, len(hidden), dtype=torch.float32, device=hidden.device)
        slopes = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for cut in _chunks(len(hidden), rows):
            logits = linear(hidden[cut].to(ctx.dtype), table).float().div_(temperature)
            logits.sub_(logits.amax(dim=-1, keepdim=True))
            powers = logits.exp()
            total = powers.sum(dim=-1)
            scores[cut] = logits.gather(-1, targets[cut, None])[:, 0] - total.log()
            if entropy:
                entropies[cut] = total.log() - logits.mul_(powers).sum(dim=-1) / total
            del logits
            if slopes is not None:
                slopes[cut] = _target_minus(powers.div_(total[:, None]), targets[cut]).to(ctx.dtype) @ table
            del powers  # not beside the logits of the next chunk
        ctx.save_for_backward(hidden, weight, targets, slopes)
        ctx.mark_non_differentiable(entropies)
        return scores, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the kept rows; sum the weight's gradient over chunks in float32, as one product would."""
        hidden, weight, targets, slopes = ctx.saved_tensors
        scale = gradient[:, None] / ctx.temperature
        of_hidden = (slopes * scale).to(hidden.dtype) if slopes is not None else None
        if not ctx.needs_input_grad[1]:
            return of_hidden, None, None, None, None, None
        table, of_weight = weight.to(ctx.dtype), torch.zeros_like(weight, dtype=torch.float32)
        for cut in _chunks(len(hidden), ctx.rows):
            rows = hidden[cut].to(ctx.dtype)
            softmax = linear(rows, table).float().div_(ctx.temperature).softmax(dim=-1)
            slope = _target_minus(softmax, targets[cut]).mul_(scale[cut]).to(ctx.dtype)
            if slope.dtype == torch.float32:
                of_weight.addmm_(slope.T, rows)
            else:
                of_weight += slope.T @ rows
            del softmax, slope
        return of_hidden, of_weight.to(weight.dtype), None, None, None, None


def _target_minus(softmax: Tensor, targets: Tensor) -> Tensor:
    """Return one-hot targets minus softmax (rows, V), in place."""
    return softmax.neg_().scatter_add_(-1, targets[:, None], torch.ones_like(softmax[:, :1]))


def _product_type(hidden: Tensor) -> torch.dtype:
    """Return the type that a linear layer would compute in."""
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def _chunks(count: int, rows: int) -> Iterator[slice]:
    return (slice(start, start + rows) for start in range(0, count, rows))
