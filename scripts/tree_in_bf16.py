"""How far log-probabilities in bfloat16 are from float32, and the tree layout from plain rows. Printed as a table.

    python scripts/tree_in_bf16.py [--V 256] [--C 8] [--G 8] [--Q 4]

The model is the one of bench_grpo_step.py (random weights, on the CPU), computed with autocast over float32 weights as
full tuning is, and with bfloat16 weights as the base of an adapter is. `repeat` scores the same tree again, once with
and once without gradients: the ratio of an update to its own rollout is exp of it.
"""

import argparse
import contextlib
import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench_workload import SIZES, Shape, Workload
from vsgrpo.modeling.load import load
from vsgrpo.modeling.logps import logps
from vsgrpo.modeling.tiny import build_tiny
from vsgrpo.modeling.tree import build_trees

KERNELS = ("dense", "block", "split", "merge")


def scored(work: Workload, model: Any, features: Any, kernel: str | None, *, half: bool, grad: bool = False) -> Any:
    """Return the log-probs of all completions: plain rows where `kernel` is None."""
    trees = build_trees(work.prompts(), work.completions, share=kernel is not None)
    options = {} if kernel is None else {"layout": "tree", "attention": kernel}
    context = torch.autocast("cpu", dtype=torch.bfloat16) if half else contextlib.nullcontext()
    with torch.set_grad_enabled(grad), context:
        return torch.cat([score.detach().float() for score, _ in logps(model, trees, features, **options)])


def row(name: str, a: torch.Tensor, b: torch.Tensor) -> str:
    """Return one line of the table."""
    apart = (a - b).abs()
    return f"| {name} | {apart.mean():.1e} | {apart.max():.1e} |"


def rows(work: Workload, exact: torch.Tensor, model: Any, features: Any, name: str, half: bool) -> Sequence[str]:
    """Return the lines of one way to compute in bfloat16."""
    plain = scored(work, model, features, None, half=half)
    lines = [row(f"{name}: plain against float32", plain, exact)]
    for kernel in KERNELS:
        ours = scored(work, model, features, kernel, half=half)
        again = scored(work, model, features, kernel, half=half, grad=True)
        lines.append(row(f"{name}: tree ({kernel}) against float32", ours, exact))
        lines.append(row(f"{name}: tree ({kernel}) against plain", ours, plain))
        lines.append(row(f"{name}: tree ({kernel}), repeat", ours, again))
    return lines


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("V", 256), ("C", 8), ("G", 8), ("Q", 4)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        build_tiny(Path(folder), sizes=SIZES)
        bundle = load(folder, tune="full", offline=True)
        work = Workload(bundle, Shape(options.V, options.C, options.G, options.Q), "auto")
        exact = scored(work, bundle.model, work.given, None, half=False)
        print("| log-probabilities | mean apart | most |\n|---|---|---|")
        print(row("float32: tree against plain", scored(work, bundle.model, work.given, "block", half=False), exact))
        print("\n".join(rows(work, exact, bundle.model, work.given, "autocast", True)), flush=True)
        half = copy.deepcopy(bundle.model).bfloat16()
        for module, original in zip(half.modules(), bundle.model.modules(), strict=True):  # rotary tables stay float32
            for name, buffer in original.named_buffers(recurse=False):
                setattr(module, name, buffer)
        given = {name: type(found)(found.tensor.bfloat16(), found.medium) for name, found in work.given.items()}
        # What float32 makes of the very same rounded weights.
        rounded = copy.deepcopy(half).float()
        same = {name: type(found)(found.tensor.float(), found.medium) for name, found in given.items()}
        exact = scored(work, rounded, same, None, half=False)
        print("\n".join(rows(work, exact, half, given, "bfloat16 weights", False)))


if __name__ == "__main__":
    main()
