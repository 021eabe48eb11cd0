"""Measure the language head: memory and time of log-probs with entropies and their gradient, in chunks and at once.

python scripts/bench_head.py                       # 192 tokens both ways, 2 x 8192 and 16 x 4096 in chunks; minutes
python scripts/bench_head.py --rows 16384 --chunk 1024

Hidden states and head are bfloat16, of Qwen2-VL-2B's size (152k words, width 1536), random; the head is frozen. Memory
is what the process has at most above what it held with weights and hidden states: resident on a CPU, allocated on a
GPU. `at once` is what a model's own logits and a log-softmax in float32 take.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from vsgrpo.modeling.head import score_hidden

VOCABULARY, WIDTH = 151_936, 1536
MEBI = 1 << 20
LONG = "update_long"
LONG_TOKENS, AT_ONCE = 2 * 8192, 192
"""Predicting tokens of `update_long`, and of them those whose logits are computed at once."""


def at_once(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return the log-probs from all logits; entropies are computed beside."""
    log_probs = linear(hidden, weight).float().log_softmax(dim=-1)
    with torch.no_grad():
        _ = -(log_probs.exp() * log_probs).sum(dim=-1)
    return log_probs.gather(-1, targets[:, None])[:, 0]


def resident(name: str) -> int:
    """Return VmRSS or VmHWM of this process in bytes (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def peak_bytes(run: Callable[[], None]) -> int:
    """Return the most bytes held while `run` runs, above those held before."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM starts anew
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def measure(count: int, chunk: int | None, *, whole: bool) -> tuple[float, float]:
    """Return (MiB, seconds) of forward and backward of `count` rows."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (
        torch.randn(rows, WIDTH, generator=generator).bfloat16().to(device) for rows in (count, VOCABULARY)
    )
    targets = torch.randint(0, VOCABULARY, (count,), generator=generator).to(device)
    weight *= 0.05

    def run(rows: int = count) -> None:
        own = hidden[:rows].requires_grad_()
        if whole:
            at_once(own, weight, targets[:rows]).sum().backward()
        else:
            score_hidden(own, weight, targets[:rows], 1.0, True, chunk)[0].sum().backward()
        if device == "cuda":
            torch.cuda.synchronize()

    run(1)  # libraries set up what they keep
    hidden.grad = None
    start = time.process_time()
    found = peak_bytes(run)
    return found / MEBI, time.process_time() - start


def long_update(tokens: int = LONG_TOKENS) -> dict[str, Any]:
    """Return the row `update_long` of bench_grpo_step.py: the head of two completions of 8,192 tokens.

    Chunks are run. All logits at once are run for 192 tokens and multiplied: tokens share nothing of theirs.
    """
    plain_mb, plain_s = (value * tokens / AT_ONCE for value in measure(AT_ONCE, None, whole=True))
    ours_mb, ours_s = measure(tokens, None, whole=False)
    numbers = {"plain_s": plain_s, "ours_s": ours_s, "plain_mb": plain_mb, "ours_mb": ours_mb}
    return {"case": LONG, "tokens": tokens, **{name: round(value, 1) for name, value in numbers.items()}}


def show(row: dict[str, Any]) -> str:
    """Return the row as text."""
    times, sizes = (f"{row[f'plain_{unit}']:.0f} -> {row[f'ours_{unit}']:.0f}" for unit in ("s", "mb"))
    return f"{LONG}: {row['tokens']} tokens: {times} CPU s, {sizes} MiB above weights and hidden states"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", type=int, nargs="*", default=[AT_ONCE, LONG_TOKENS, 16 * 4096], help="predicting tokens"
    )
    parser.add_argument("--chunk", type=int, help="tokens at a time (default: by device)")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="up to so many tokens also without chunks")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    for count in options.rows:
        for whole in (True, False) if count <= options.at_once else (False,):
            mebi, seconds = measure(count, options.chunk, whole=whole)
            print(
                f"{count:>6} tokens {'at once' if whole else 'chunks':8}{mebi:>9.1f} MiB {seconds:>8.2f} s", flush=True
            )


if __name__ == "__main__":
    main()
