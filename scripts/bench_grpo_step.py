"""Measure what the tree layout saves: plain against ours, interleaved, on one thread.

python scripts/bench_grpo_step.py                                  # the whole table; tens of minutes
python scripts/bench_grpo_step.py --only update --V 1004 --C 4 --G 14 --Q 8 --json
python scripts/bench_grpo_step.py --only update_long               # bench_head.py's row

The model is wide enough to be compute-bound (LLM 8 x 512, vision tower 12 x 384, random weights). V = system and video
tokens, q = 20 question tokens, C completion tokens, G completions, Q questions of the video.

Plain is our own `shared_prefix=off` on what a plain step computes: a real batch of G for one question in which every
row is a prompt and a video of its own, so that nothing is shared, the tower under no_grad; seconds times Q
(`extrapolated`). The layout of stock TRL (pixels with every row, gradients through the frozen tower, as its LoRA and
checkpointing setup runs) is printed beside and enters no ratio. `theory` is the ratio of linear-layer tokens; attention
and head are left out, and the tower is counted at the sizes of Qwen2-VL. Seconds are process CPU seconds, the best
round of each; megabytes are what autograd saves for one microbatch without checkpointing.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

import bench_head
from bench_workload import QUESTION_TOKENS, SIZES, Shape, Workload
from vsgrpo.families import FAMILIES
from vsgrpo.families.delta import DELTA_LAYERS
from vsgrpo.families.family import LINEAR_LAYERS
from vsgrpo.modeling.bundle import use_gradient_checkpointing
from vsgrpo.modeling.load import LoraSettings, load
from vsgrpo.modeling.tiny import build_tiny

VISION_COST = 2.11
"""Linear-layer work of the tower per video token, in units of the language model's per token."""
TRAIN, TRAIN_CHECKPOINTED = 2, 3
"""Forward passes that an update costs: LoRA's backward recomputes nothing but passes through everything once."""
MAX_REPETITIONS, WALL_SECONDS = 4, 60.0
"""Rounds of plain and ours; no new round begins after this many seconds."""
MEBI = 1 << 20

# case, V, C, G, Q of the measured table
TABLE = (
    ("rollout", 1004, 4, 14, 1),
    ("reference", 1004, 4, 14, 1),
    ("update", 1004, 4, 14, 1),
    ("update_cached", 1004, 4, 14, 1),
    ("update", 1004, 4, 14, 8),
    ("step", 256, 4, 14, 1),
    ("step", 256, 4, 14, 8),
    ("step_cached", 256, 4, 14, 8),
    ("update", 236, 256, 14, 1),
    ("sft", 256, 4, 1, 8),
    ("dpo", 256, 4, 2, 1),
    ("eval", 1024, 8, 1, 18),
)


Pass = Callable[[Workload, bool], None]


def run_rollout(work: Workload, plain: bool) -> None:
    work.rollout(plain, work.given)


def run_reference(work: Workload, plain: bool) -> None:
    work.reference(plain, work.given)


def run_update(work: Workload, plain: bool) -> None:
    work.update(plain, work.given)


def run_update_cached(work: Workload, plain: bool) -> None:
    work.update(plain, work.features(plain) if plain else work.given)


def run_step(work: Workload, plain: bool) -> None:
    """Rollout, reference, update with checkpointing; plain runs the tower in each of them."""
    features = work.features(plain)
    work.rollout(plain, features)
    work.reference(plain, work.features(plain) if plain else features)
    work.update(plain, work.features(plain) if plain else features)
    work.optimize(plain)


def run_step_cached(work: Workload, plain: bool) -> None:
    if plain:
        run_step(work, plain)
    else:
        work.rollout(plain, work.given)
        work.reference(plain, work.given)
        work.update(plain, work.given)
        work.optimize(plain)


def run_eval(work: Workload, plain: bool) -> None:
    work.rollout(plain, work.features(plain), greedy=True)


def run_dpo(work: Workload, plain: bool) -> None:
    work.reference(plain, work.given)
    work.update(plain, work.given)


def run_sft(work: Workload, plain: bool) -> None:
    work.update(plain, work.features(plain))


@dataclass(frozen=True)
class Case:
    """What is run, and its work in forward passes over its tokens."""

    run: Pass
    passes: float
    plain_towers: int = 0
    our_towers: int = 0
    checkpointing: bool = False
    has_update: bool = True


CASES = {
    "rollout": Case(run_rollout, 1, has_update=False),
    "reference": Case(run_reference, 1, has_update=False),
    "update": Case(run_update, TRAIN),
    "update_cached": Case(run_update_cached, TRAIN, plain_towers=1),
    "step": Case(run_step, 2 + TRAIN_CHECKPOINTED, plain_towers=3, our_towers=1, checkpointing=True),
    "step_cached": Case(run_step_cached, 2 + TRAIN_CHECKPOINTED, plain_towers=3, checkpointing=True),
    "eval": Case(run_eval, 1, plain_towers=1, our_towers=1, has_update=False),
    "dpo": Case(run_dpo, 1 + TRAIN),
    "sft": Case(run_sft, TRAIN, plain_towers=1, our_towers=1),
}


def theory(case: Case, work: Workload) -> float:
    """Return the ratio of linear-layer work, in tokens of the language model."""
    V, C, G, Q = work.shape.V, work.shape.C, work.shape.G, work.shape.Q
    tower = VISION_COST * work.num_video_tokens
    plain = Q * G * ((V + QUESTION_TOKENS + C) * case.passes + case.plain_towers * tower)
    ours = (V + Q * (QUESTION_TOKENS - 1) + Q * G * C) * case.passes + case.our_towers * tower
    return plain / ours


def cpu_seconds(run: Callable[[], None]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


@contextmanager
def checkpointing(model: Any, wanted: bool):
    """Switch gradient checkpointing on for a block."""
    if wanted:
        use_gradient_checkpointing(model)
    try:
        yield
    finally:
        if wanted:
            model.gradient_checkpointing_disable()


@contextmanager
def counting_saved(model: Any, found: list[float]):
    """Append the MiB that autograd keeps for the backward pass of a block, weights left out, each storage once."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would keep its own graph alive

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield
    found.append(sum(storages.values()) / MEBI)


def stock_seconds(bundle: Any, shape: Shape) -> dict[str, float]:
    """Time the layout of stock TRL for one question: every row with its pixels in every pass.

    The tower stands under the hook that PEFT with checkpointing installs, so gradients run through it for nothing.
    """
    work, model = Workload(bundle, shape, "auto"), bundle.model
    video = bundle.processor.video_processor(
        videos=[work.videos["video"].frames] * shape.G, do_sample_frames=False, do_resize=False, return_tensors="pt"
    )
    prompt = torch.tensor([*work.prefix, *work.questions[0]]).expand(shape.G, -1)
    ids = torch.cat([prompt, torch.tensor(work.completions[0])], dim=1)

    def inputs(ids: torch.Tensor) -> dict[str, Any]:
        kinds = (ids == bundle.processor.video_token_id).int() * 2
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": kinds, **video}

    @torch.no_grad()
    def generate() -> None:
        model.eval().generate(
            **inputs(prompt), max_new_tokens=shape.C, min_new_tokens=shape.C, do_sample=True, use_cache=True
        )

    def score() -> torch.Tensor:
        return model(**inputs(ids), logits_to_keep=shape.C + 1, use_cache=False).logits.log_softmax(dim=-1)

    @torch.no_grad()
    def reference() -> None:
        with model.disable_adapter():
            score()

    def update() -> None:
        score()[:, :-1].gather(2, ids[:, -shape.C :, None]).mean().backward()
        work.optimizer.zero_grad()

    found = {"rollout": cpu_seconds(generate)}
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    try:
        found |= {"reference": cpu_seconds(reference), "update": cpu_seconds(update)}
    finally:
        model.disable_input_require_grads()
        model.gradient_checkpointing_disable()
    return found | {"step": sum(found.values())}


def linearity(bundle: Any) -> float:
    """Return the seconds of a plain batch of two questions over twice those of one (V=256, reference pass)."""
    shape = Shape(256, 4, 14, 1)
    one, two = Workload(bundle, shape, "auto"), Workload(bundle, Shape(256, 4, 28, 1), "auto")
    times = [[cpu_seconds(lambda work=work: run_reference(work, True)) for work in (one, two)] for _ in range(3)]
    single, double = (min(column) for column in zip(*times, strict=True))
    return double / (2 * single)


def measure(bundle: Any, name: str, shape: Shape, attention: str) -> dict[str, Any]:
    """Return one line of the table."""
    case, work = CASES[name], Workload(bundle, shape, attention)
    rounds: list[list[float]] = []
    memory: list[float] = []
    with checkpointing(bundle.model, case.checkpointing):
        case.run(work, False)
        begun = time.monotonic()
        while len(rounds) < MAX_REPETITIONS and (not rounds or time.monotonic() - begun < WALL_SECONDS):
            rounds.append([])
            for plain in (True, False):
                counts = case.has_update and not case.checkpointing and len(memory) < 2
                with counting_saved(bundle.model, memory) if counts else nullcontext():
                    rounds[-1].append(cpu_seconds(lambda plain=plain: case.run(work, plain)))
    if case.checkpointing:
        for plain in (True, False):
            with counting_saved(bundle.model, memory):
                work.scores(plain, work.given)
    plain_s, ours_s = (min(times) for times in zip(*rounds, strict=True))
    plain_s *= shape.Q
    return {
        "case": name,
        **vars(shape),
        "plain_s": round(plain_s, 3),
        "ours_s": round(ours_s, 3),
        "ratio": round(plain_s / ours_s, 2),
        "theory": round(theory(case, work), 2),
        "plain_mb": round(memory[0], 1) if memory else None,
        "ours_mb": round(memory[1], 1) if memory else None,
        "extrapolated": shape.Q > 1,
    }


def show(line: dict[str, Any]) -> str:
    memory = "" if line["plain_mb"] is None else f"  saved {line['plain_mb']:.0f} -> {line['ours_mb']:.0f} MiB"
    memory += "" if line["plain_mb"] is None else f" ({line['plain_mb'] / line['ours_mb']:.1f}x)"
    shape = " ".join(f"{name}={line[name]}" for name in "VCGQ")
    seconds = f"{line['plain_s']:.2f} / {line['ours_s']:.2f} s"
    return f"{line['case']:14} {shape:26} {seconds:20} = {line['ratio']:.2f}x (theory {line['theory']:.2f}){memory}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", choices=(*CASES, bench_head.LONG), help="one case; without it the whole table and the linearity check"
    )
    for name, default, meaning in (
        ("V", 256, "system and video tokens"),
        ("C", 4, "completion tokens"),
        ("G", 14, "completions of a question"),
        ("Q", 1, "questions of the video"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{meaning} (with --only)")
    parser.add_argument("--attention", default="auto", help="kernel of the tree layout")
    parser.add_argument("--family", choices=FAMILIES, default="qwen2_vl", help="other than Qwen2-VL: no stock layout")
    parser.add_argument("--stock", action="store_true", help="with --only: also time stock TRL's layout")
    parser.add_argument("--json", action="store_true", help="print a JSON list on stdout, the table on stderr")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)
    out = sys.stderr if options.json else sys.stdout
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # it warns on stdout that there is no GPU
    shape = Shape(options.V, options.C, options.G, options.Q)
    rows = [(options.only, shape)] if options.only else [(name, Shape(*numbers)) for name, *numbers in TABLE]
    lines: list[dict[str, Any]] = []
    if options.only in (None, bench_head.LONG):
        lines.append(bench_head.long_update())
        print(bench_head.show(lines[-1]), file=out, flush=True)
    if options.only != bench_head.LONG:
        lines += measure_model(options, rows, shape, out)
    if options.json:
        print(json.dumps(lines))


def measure_model(options: Any, rows: Sequence[tuple[str, Shape]], shape: Shape, out: Any) -> list[dict[str, Any]]:
    """Measure and print the cases of one model."""
    lines = []
    # Libraries print on stdout while they load.
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        build_tiny(Path(folder), sizes=SIZES, family=options.family)
        has_delta = FAMILIES[options.family].tiny_shape().delta is not None
        targets = (*LINEAR_LAYERS, *(DELTA_LAYERS if has_delta else ()))
        lora = LoraSettings(r=8, alpha=16, targets=targets)
        bundle = load(folder, tune="lora", lora=lora, offline=True)
        for name, numbers in rows:
            lines.append(measure(bundle, name, numbers, options.attention))
            print(show(lines[-1]), file=out, flush=True)
        if not options.only:
            print(f"plain, two questions / twice one question: {linearity(bundle):.3f}", file=out)
        if options.family == "qwen2_vl" and (options.stock or not options.only):
            stock = stock_seconds(bundle, shape)
            seconds = ", ".join(f"{phase} {value:.1f} s" for phase, value in stock.items())
            print(f"stock TRL's layout, V={shape.V} C={shape.C} G={shape.G}, one question: {seconds}", file=out)
    return lines


if __name__ == "__main__":
    main()
