"""Gumbel noise that depends on (run seed, step, row id, completion index, position) and on nothing else.

The one implementation: `modeling.sampling` draws with it here, and `vsgrpo_keyed` inside a vLLM server, whose
environment has torch but none of this project's other dependencies.
"""

import json
from hashlib import blake2b

import torch
from torch import Tensor

_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_LARGEST_V_NEGATED = -(1 - 2.0**-24)


def noise_key(seed: int, step: int, row_id: str, completion_index: int, position: int) -> int:
    """Hash the five values to 64 bits: blake2b-8, little endian, of their JSON list."""
    text = json.dumps([int(seed), int(step), row_id, int(completion_index), int(position)])
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def gumbel(keys: Tensor, vocab_size: int) -> Tensor:
    """Return standard Gumbel noise (B, V): row b, token i depends on (keys[b], i) alone, keys (B,) int64.

    An argmax of log-probs + Gumbel noise is a draw from the distribution (the Gumbel-max trick).
    u = splitmix64 of key + i * golden ratio; v = (top 32 bits + 0.5) / 2^32; E = -log1p(-v) is exponential; noise =
    -log E. The large noises that win come from small v, where float32 is dense: no ties from rounding. The 128 largest
    values of the top 32 bits round up to v = 1 in float32; v stays at the float32 below, so that all noise is finite.
    """
    steps = torch.arange(vocab_size, dtype=torch.long, device=keys.device).mul_(as_int64(_GOLDEN))
    top = splitmix64(keys[:, None] + steps).bitwise_right_shift_(32).bitwise_and_(0xFFFFFFFF)
    # In place throughout: a real vocabulary makes this memory-bound.
    values = top.float()
    half = torch.full((), -(2.0**-33), device=values.device)
    minus_v = torch.sub(half, values, alpha=2.0**-32, out=values).clamp_(min=_LARGEST_V_NEGATED)
    return minus_v.log1p_().neg_().log_().neg_()


def splitmix64(state: Tensor) -> Tensor:
    """Mix 64-bit states (int64 bit patterns) to 64 pseudo-random bits each.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014), output function (Stafford's
    variant 13). int64 products wrap like unsigned ones; right shifts are made logical by masking the sign's copies.
    """
    state = state.clone()
    shifted = torch.empty_like(state)
    for shift, factor in ((30, _MIX_1), (27, _MIX_2), (31, 1)):
        torch.bitwise_right_shift(state, shift, out=shifted)
        state.bitwise_xor_(shifted.bitwise_and_((1 << 64 - shift) - 1)).mul_(as_int64(factor))
    return state


def as_int64(value: int) -> int:
    """Return the signed integer of the same 64 bits."""
    return value - (1 << 64) if value >= 1 << 63 else value
