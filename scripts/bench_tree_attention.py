"""Time the kernels of the tree's attention alone: one layer, forward and with backward, interleaved, medians.

    python scripts/bench_tree_attention.py [--heads 8,2,64] [--rounds 5]
    python scripts/bench_tree_attention.py --grouped       # how heads share keys in a call with a mask
    python scripts/bench_tree_attention.py --precision     # `merge` of bfloat16: short calls in float32, or none

On one CPU thread, float32, in CPU milliseconds. `auto` takes `merge` on a CPU because of this table. V = prefix tokens,
C completion tokens (a-b: ragged), G completions, Q questions of 20 tokens, R trees. `scripts/gpu_check.py --only merge`
times the same on a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor

from bench_workload import QUESTION_TOKENS
from gpu_check_machine import FLOPS, Machine, Report
from vsgrpo.modeling import attention, merged_attention
from vsgrpo.modeling.attention import tree_attention
from vsgrpo.modeling.tree import PREFIX, Packed, PromptPositions, QuestionNode, Tree, pack
from vsgrpo.modeling.tree_masks import DenseMask, TreeMask, build_mask

FEW_SCORES = merged_attention.FEW_SCORES
KERNELS = ("block", "split", "merge")
# V, shortest and longest C, G, Q, R
CASES = (
    (1004, 4, 4, 14, 1, 1),
    (1004, 4, 4, 14, 8, 1),
    (256, 4, 4, 14, 1, 1),
    (256, 4, 4, 1, 8, 1),
    (1004, 2, 8, 14, 1, 8),
    (256, 2, 8, 14, 4, 4),
    (236, 256, 256, 14, 1, 1),
    (1004, 50, 400, 14, 1, 1),
    (1004, 10, 60, 14, 4, 1),
    (64, 64, 64, 4, 1, 1),
    (30, 4, 4, 3, 1, 1),
)
# batch, heads, key heads, queries, keys, d
GROUPED = ((1, 8, 2, 75, 1079, 64), (14, 8, 2, 256, 500, 64), (14, 8, 2, 8, 1024, 64), (1, 12, 2, 1200, 1200, 128))


class Layer:
    """Queries, keys and values of packed trees, (R, heads, L, d) as a projection leaves them, and a gradient."""

    def __init__(self, packed: Packed, heads: Sequence[int], device: str, dtype: torch.dtype) -> None:
        self.packed, (count, key_heads, width) = packed, heads
        generator = torch.Generator().manual_seed(0)
        rows, columns = packed.ids.shape
        drawn = [
            torch.randn(rows, columns, h, width, generator=generator) for h in (count, key_heads, key_heads, count)
        ]
        *given, self.grad = (part.to(device, dtype) for part in drawn)
        self.real = (packed.question >= PREFIX).to(device)[..., None, None]
        self.grad = self.grad * self.real  # nothing depends on padding
        self.given = [part.transpose(1, 2).requires_grad_() for part in given]

    def mask(self, kernel: str) -> TreeMask:
        return build_mask(self.packed, kernel, self.given[0].device)

    def run(self, mask: TreeMask, backward: bool = True) -> list[Tensor]:
        """Return the result (R, L, heads, d), any at padding, and the gradients of query, key and value."""
        with torch.set_grad_enabled(backward):
            out, _ = tree_attention(torch.nn.Module(), *self.given, None, tree_mask=mask)
        return [out, *(torch.autograd.grad(out, self.given, self.grad) if backward else ())]


def forest(V: int, shortest: int, longest: int, G: int, Q: int, R: int) -> Packed:
    """Pack R trees of random lengths between two bounds; prefixes differ by up to 5 % where they are several."""
    draw = random.Random(0).randint
    trees, positions = [], []
    for _ in range(R):
        prefix, asked = V - (draw(0, V // 20) if R > 1 else 0), QUESTION_TOKENS if Q > 1 else 1
        groups = [tuple((7,) * draw(shortest, longest) for _ in range(G)) for _ in range(Q)]
        trees.append(
            Tree((1,) * prefix, (), tuple(QuestionNode((q,) * asked, group) for q, group in enumerate(groups)))
        )
        known = PromptPositions(torch.arange(prefix + asked).expand(3, -1), prefix + asked)
        positions.append([known] * Q)
    return pack(trees, positions)


def interleaved(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median CPU milliseconds of each; the first round warms up."""
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            spent[name].append(1e3 * (time.process_time() - start))
    return {name: median(times[1:]) for name, times in spent.items()}


def main() -> None:
    """Print the table that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", default="8,2,64", help="heads, heads of keys, width of a head")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--grouped", action="store_true")
    parser.add_argument("--precision", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.grouped:
        print("| batch, heads, key heads, queries, keys, d | way | forward ms | with backward ms |\n|---|---|---|---|")
    else:
        print("| V, C, G, Q, R | kernel | forward ms | with backward ms |\n|---|---|---|---|")
    for case in GROUPED if options.grouped else CASES:
        heads = [int(part) for part in options.heads.split(",")]
        runs = grouped(case) if options.grouped else (precisions if options.precision else kernels)(case, heads)
        found = interleaved(runs, options.rounds)
        for name in dict.fromkeys(name for name, _ in (key.split() for key in runs)):
            print(f"| {case} | {name} | {found[f'{name} forward']:.1f} | {found[f'{name} backward']:.1f} |", flush=True)


def kernels(case: Sequence[int], heads: Sequence[int]) -> dict[str, Callable[[], object]]:
    """Return what to time of the kernels."""
    layer, runs = Layer(forest(*case), heads, "cpu", torch.float32), {}
    for kernel in KERNELS:
        mask = layer.mask(kernel)
        for way in ("forward", "backward"):
            runs[f"{kernel} {way}"] = lambda mask=mask, way=way: layer.run(mask, way == "backward")
    return runs


def precisions(case: Sequence[int], heads: Sequence[int]) -> dict[str, Callable[[], object]]:
    """Return what to time of `merge` in bfloat16, with and without the short calls that take float32."""
    layer = Layer(forest(*case), heads, "cpu", torch.bfloat16)
    mask, bounds = layer.mask("merge"), {"short-in-float32": FEW_SCORES, "all-in-bfloat16": 0}

    def run(few: int, backward: bool) -> None:
        merged_attention.FEW_SCORES = few
        layer.run(mask, backward)

    return {
        f"{name} {way}": lambda few=few, way=way: run(few, way == "backward")
        for name, few in bounds.items()
        for way in ("forward", "backward")
    }


def grouped(case: Sequence[int]) -> dict[str, Callable[[], object]]:
    """Return what to time of the ways in which heads share keys."""
    batch, heads, key_heads, queries, keys, width = case
    parts = [
        torch.randn(batch, h, n, width, requires_grad=True)
        for h, n in ((heads, queries), (key_heads, keys), (key_heads, keys))
    ]
    mask = torch.rand(batch, 1, queries, keys) > 0.3

    def run(way: str, backward: bool) -> None:
        attention.share_keys = lambda *_: way
        with torch.set_grad_enabled(backward):
            out, _ = tree_attention(torch.nn.Module(), *parts, None, tree_mask=DenseMask(mask))
        if backward:
            torch.autograd.grad(out.sum(), parts)

    return {
        f"{way} {name}": lambda way=way, name=name: run(way, name == "backward")
        for way in ("kept", "folded", "repeated")
        for name in ("forward", "backward")
    }


def check_merge(report: Report, machine: Machine) -> None:
    """Time one layer's attention by kernel and by how heads share keys, and compare with `split` in float32."""
    shapes = ((1004, 8, 14, 8), (1004, 512, 14, 1), (1004, 2048, 14, 1)) if machine.is_gpu else ((64, 4, 3, 2),)
    heads, dtype, bound = ((12, 2, 128), torch.bfloat16, 0.02) if machine.is_gpu else ((4, 2, 8), torch.float32, 1e-5)
    for V, C, G, Q in shapes:
        packed = forest(V, max(C // 4, 1), C, G, Q, 2)
        exact, layer = (Layer(packed, heads, machine.device, kind) for kind in (torch.float32, dtype))
        truth = exact.run(exact.mask("split"))
        ways = [
            ("merge", None),
            ("split", "folded"),
            ("split", "repeated"),
            *([("block", "folded")] if C < 512 else []),
        ]
        for kernel, way in ways:
            name = f"V={V} C={C} G={G} Q={Q} {kernel}{f' {way}' if way else ''}"
            with report.attempt("merge", name), sharing_keys(way):
                mask = layer.mask(kernel)
                for what, a, b in zip(("result", "query", "key", "value"), layer.run(mask), truth, strict=True):
                    apart = (a.detach() - b.detach()) * (layer.real if what == "result" else 1)
                    difference = float(apart.abs().max() / b.detach().abs().max())
                    report.add("merge", f"{name} {what}", difference, "of most", bound, ok=difference < bound)
                scores = sum(len(node) * V for node in packed.nodes()[1].values())
                run = lambda mask=mask, layer=layer: layer.run(mask)  # noqa: E731
                report.add("merge", name, machine.ms(run), "ms", 1e3 * 14 * heads[0] * heads[2] * scores / FLOPS)
                report.add("merge", f"{name} host", machine.host_ms(run), "ms")
                report.add("merge", f"{name} peak", machine.peak_gib(run), "GiB")


@contextlib.contextmanager
def sharing_keys(way: str | None) -> Iterator[None]:
    """Share keys in this way where heads share any."""
    kept = attention.share_keys
    attention.share_keys = (lambda *_: way) if way else kept
    try:
        yield
    finally:
        attention.share_keys = kept


if __name__ == "__main__":
    main()
