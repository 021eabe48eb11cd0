"""Count what one GRPO step asks of the host: milliseconds, kernels, waits. No GPU is needed, nor wanted.

    python scripts/bench_host.py [--questions 8] [--trees-per-pass 1] [--dtype bfloat16] [--json]

A model of 2B's depth (28 layers, tower of 32 blocks) and tiny width: bfloat16 weights, float32 adapters and autocast,
as a GPU trains. One question per video, completions of C = 8 tokens. A step is vision, rollout, reference, update and
optimizer; `--trees-per-pass` says how many questions a reference or an update computes at once.

Milliseconds are CPU time of one thread, the least of several runs, with G = 2 completions and prompts of 24 tokens, so
that arithmetic is nearly free; laying prompts of 1,004 tokens out (`pack`) is measured by itself. Kernels are calls of
torch that are no views, for G = 14. They and the waits are counted where the model claims to be on a GPU
(tests/fake_gpu.py), so that it takes the ways that a GPU would; neither depends on the length of prompts.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import torch
from torch import Tensor

from bench_workload import QUESTION_TOKENS, Shape, Workload
from fake_gpu import CountKernels, FakeGpu, put
from vsgrpo.families.family import TinySizes
from vsgrpo.modeling.bundle import MediaFeatures
from vsgrpo.modeling.load import LoraSettings, load
from vsgrpo.modeling.logps import logps
from vsgrpo.modeling.rollout import rollout
from vsgrpo.modeling.sampling import draw_tokens, logits_processors, noise_keys
from vsgrpo.modeling.tiny import build_tiny
from vsgrpo.modeling.tree import Prompt, PromptPositions, build_trees, pack
from vsgrpo.modeling.vision import FeatureStore

DEPTH = TinySizes(vision_depth=32, vision_width=32, num_layers=28, hidden_size=32, intermediate_size=64)
V, C = 24, 8
TIMED_G, COUNTED_G = 2, 14
LONG_V = 1004


class Step:
    """The passes of one GRPO step over `questions` videos with one question each, and G completions per question."""

    def __init__(self, folder: Path, questions: int, G: int, trees_per_pass: int, dtype: str) -> None:
        self.bundle = load(folder, tune="lora", lora=LoraSettings(r=8), dtype=dtype, offline=True)
        self.model, self.trees_per_pass = self.bundle.model, trees_per_pass
        work = Workload(self.bundle, Shape(V, C, G, questions), "auto")
        self.completions, self.sampling = work.completions, work.sampling
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
        self.prompts = [
            Prompt((*work.prefix, *question), (f"video {number}",)) for number, question in enumerate(work.questions)
        ]
        self.keys = [(f"row {number}", g) for number in range(questions) for g in range(G)]
        self.videos = [replace(work.videos["video"], key=prompt.videos[0]) for prompt in self.prompts]
        self.given = {video.key: work.given["video"] for video in self.videos}

    def put_on_gpu(self, fake: FakeGpu) -> None:
        """Let model and features claim to be on a GPU."""
        fake.put(self.model)
        self.given = {key: MediaFeatures(put(found.tensor), found.medium) for key, found in self.given.items()}

    def vision(self) -> None:
        FeatureStore(self.bundle).features(self.videos)

    def draw(self, num_tokens: int, layout: str = "tree") -> list[list[int]]:
        """Draw that many tokens of each completion."""
        sampling = replace(self.sampling, max_new_tokens=num_tokens)
        return rollout(self.model, self.prompts, self.given, self.keys, sampling, layout=layout)

    def passes(self, adapter: bool) -> list[Tensor]:
        """Score all completions; where gradients are enabled, each pass goes backward before the next begins."""
        scores = []
        for start in range(0, len(self.prompts), self.trees_per_pass):
            places = slice(start, start + self.trees_per_pass)
            trees = build_trees(self.prompts[places], self.completions[places], share=True)
            rows = logps(self.model, trees, self.given, adapter=adapter, layout="tree", entropy=adapter)
            scores.append(torch.cat([score for score, _ in rows]))
            if torch.is_grad_enabled():
                scores[-1].mean().backward()
        return scores

    @torch.no_grad()
    def reference(self) -> None:
        self.passes(adapter=False)

    def update(self) -> None:
        self.passes(adapter=True)

    def optimize(self) -> None:
        torch.nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.requires_grad], 1.0)
        self.optimizer.step()

    def pack(self) -> None:
        """Lay the trees of a step out, with prompts of the usual length."""
        more = (0,) * (LONG_V - V)
        prompts = [Prompt(more + prompt.token_ids, prompt.videos) for prompt in self.prompts]
        positions = torch.arange(LONG_V + QUESTION_TOKENS).expand(3, -1)
        trees = build_trees(prompts, self.completions, share=True)
        pack(trees, [[PromptPositions(positions, LONG_V + QUESTION_TOKENS)]] * len(trees))


@contextmanager
def mixed(dtype: str) -> Iterator[None]:
    """Autocast as a GPU's trainer does, on the CPU and in the eyes of code that asks the GPU it claims to be on."""
    on = dtype == "bfloat16"
    with torch.autocast("cpu", torch.bfloat16, enabled=on):
        torch.set_autocast_enabled("cuda", on)
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        try:
            yield
        finally:
            torch.set_autocast_enabled("cuda", False)


def host_ms(run: Callable[[], Any], repeats: int) -> float:
    """Return the least CPU time of a run after the first."""
    best = float("inf")
    gc.collect()
    gc.disable()
    for number in range(repeats + 1):
        start = time.process_time()
        run()
        best = min(best, time.process_time() - start) if number else best
    gc.enable()
    return 1e3 * best


def count(run: Callable[[], Any], fake: FakeGpu) -> tuple[int, int]:
    """Return kernels and waits of a run on the pretended GPU."""
    fake.clear()
    with fake, CountKernels() as kernels:
        run()
    return kernels.count, fake.waits.total()


def phases_of(step: Step) -> dict[str, Callable[[], Any]]:
    return {
        "vision": step.vision,
        "prefill and 1 token": lambda: step.draw(1),
        f"rollout, {C} tokens": lambda: step.draw(C),
        "reference": step.reference,
        "update": step.update,
        "clip and AdamW": step.optimize,
    }


def count_phases(step: Step) -> dict[str, tuple[float, float]]:
    """Return kernels and waits of each phase, of a token by layout, and of a draw."""
    step.update()
    step.optimize()  # AdamW makes its moments
    with CountKernels() as optimizing:  # torch updates many weights at once where they are of no class of ours
        step.optimize()
    fake = FakeGpu()
    with fake:
        step.put_on_gpu(fake)
    counted: dict[str, tuple[float, float]] = {
        name: count(run, fake) for name, run in phases_of(step).items() if run != step.optimize
    }
    counted["clip and AdamW"] = optimizing.count, 0
    long = 5 * C
    for layout in ("plain", "tree"):
        few, many = (count(lambda n=n, layout=layout: step.draw(n, layout), fake) for n in (C, long))
        counted[f"a token beyond {C}, {layout}"] = (many[0] - few[0]) / (long - C), (many[1] - few[1]) / (long - C)
    counted[f"draw of {len(step.keys)} rows"] = count_draw(step, fake)
    return counted


def measure(timed: Step, counted: Step, repeats: int, dtype: str) -> list[dict[str, Any]]:
    """Return name, host ms, kernels and waits of each phase and of the step."""
    with mixed(dtype):
        ms = {name: host_ms(run, repeats) for name, run in phases_of(timed).items()}
        pack_name = f"pack, V = {LONG_V}"
        ms[pack_name] = host_ms(counted.pack, repeats)
        counts = count_phases(counted)
    names = list(dict.fromkeys((*ms, *counts)))
    lines = [
        {
            "name": name,
            "ms": ms.get(name),
            "kernels": counts.get(name, (None,))[0],
            "waits": counts.get(name, (0, None))[1],
        }
        for name in names
    ]
    first, rest = lines[1], [line for line in lines if line["name"] in ms and line is not lines[1]]
    one = {key: (lines[2][key] - first[key]) / (C - 1) for key in ("ms", "kernels")}
    total = {key: sum(line[key] or 0 for line in rest) for key in ("ms", "kernels", "waits")}
    return [*lines, {"name": f"one of the {C} tokens", **one, "waits": None}, {"name": "step", **total}]


def count_draw(step: Step, fake: FakeGpu) -> tuple[int, int]:
    """Count one draw from logits; the noise keys are there."""
    with fake:
        device = torch.device("cuda", 0)
        logits = put(torch.randn(len(step.keys), len(step.bundle.tokenizer)))
        noise = noise_keys(step.keys, [0], step.sampling, device)[0]
        processors = logits_processors(step.sampling, device)
    return count(lambda: draw_tokens(logits, noise, processors), fake)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=8, help="questions of a step, one video each")
    parser.add_argument("--trees-per-pass", type=int, default=1, help="questions that a pass computes at once")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        build_tiny(Path(folder), sizes=DEPTH)
        timed, counted = (
            Step(Path(folder), options.questions, G, options.trees_per_pass, options.dtype)
            for G in (TIMED_G, COUNTED_G)
        )
        lines = measure(timed, counted, options.repeats, options.dtype)
    if options.json:
        print(json.dumps(lines))
        return
    print(f"{'':36}{'host ms':>10}{'kernels':>10}{'waits':>8}")
    for line in lines:
        shown = [" " if line[key] is None else f"{line[key]:.{n}f}" for key, n in (("ms", 1), ("kernels", 0))]
        waits = "" if line["waits"] is None else f"{line['waits']:.2f}".removesuffix(".00")
        print(f"{line['name']:36}{shown[0]:>10}{shown[1]:>10}{waits:>8}")


if __name__ == "__main__":
    main()
