"""Keyed sampling: a token's noise depends on (run seed, step, row id, completion index, position) and nothing else.

So the same completions come out of any batch order, chunking, layout and number of processes (float32), and the global
random state is neither read nor moved.

Legend: B rows, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from vsgrpo.server_plugin.vsgrpo_noise import as_int64, gumbel, noise_key

NOISE_ENTRIES = {"cpu": 4 * 152_064, "cuda": 128 * 152_064}
"""Numbers of noise that are made at a time. On a CPU the int64 temporaries of more rows leave its cache; on a GPU every
chunk is launched anew, and its temporaries take 28 bytes a number (half a GiB for 128 rows)."""


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn."""

    seed: int
    """Run seed."""
    step: int
    """Optimizer steps done over all stages when the rollout starts; 0 in evaluation."""
    max_new_tokens: int
    eos_ids: tuple[int, ...]
    """A completion ends with the first of these (kept)."""
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    """1, 0 and 0 switch these three off."""
    suppress: tuple[int, ...] = ()
    """Never drawn: vision tokens at least, or a later pass would count them as placeholders."""
    greedy: bool = False
    """Take the likeliest token that is not suppressed; temperature and the rest play no part."""

    def __post_init__(self) -> None:
        if not self.greedy and self.temperature <= 0:
            raise ValueError(f"temperature={self.temperature}: must be above 0, or greedy=True")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens}: must be at least 1")


def logits_processors(sampling: Sampling, device: torch.device) -> LogitsProcessorList:
    """Build suppress -> temperature -> top-k -> top-p -> min-p, transformers' own processors in its own order."""
    processors = LogitsProcessorList()
    if sampling.suppress:
        processors.append(SuppressTokensLogitsProcessor(sampling.suppress, device=str(device)))
    if sampling.greedy:
        return processors
    if sampling.temperature != 1:
        processors.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k > 0:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        processors.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p > 0:
        processors.append(MinPLogitsWarper(sampling.min_p))
    return processors


def noise_keys(
    keys: Sequence[tuple[str, int]], positions: Sequence[int], sampling: Sampling, device: torch.device
) -> Tensor:
    """Return the noise keys (positions, B) of rows (row id, completion index), sent to the device in one copy."""
    table = [[as_int64(noise_key(sampling.seed, sampling.step, *key, at)) for key in keys] for at in positions]
    return torch.tensor(table, dtype=torch.long, device=device)


def draw_tokens(logits: Tensor, noise: Tensor | None, processors: LogitsProcessorList) -> Tensor:
    """Draw one token per row.

    Args:
        logits: (B, V) of the model, float32.
        noise: (B,) a row of `noise_keys`; None takes the likeliest token.
        processors: from `logits_processors`; they are given no token history.

    Returns:
        (B,) int64.
    """
    scores = processors(logits.new_empty(len(logits), 0, dtype=torch.long), logits)  # type: ignore[arg-type]
    if noise is None:
        return scores.argmax(dim=-1)
    rows = max(1, NOISE_ENTRIES.get(scores.device.type, NOISE_ENTRIES["cuda"]) // scores.shape[1])
    chunks = zip(scores.split(rows), noise.split(rows), strict=True)
    return torch.cat([(part + gumbel(keys, scores.shape[1])).argmax(dim=-1) for part, keys in chunks])
