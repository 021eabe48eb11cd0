"""What only a GPU can tell, in order of value, in about eight minutes; on a CPU the same code on a toy, in seconds.

    python scripts/gpu_check.py [--out FOLDER]          # a GPU if there is one: Qwen2-VL-2B's size, random weights
    python scripts/gpu_check.py --device cpu            # what CI runs
    python scripts/gpu_check.py --only correct,decode

Prints one JSON line per finding, {check, name, value, unit, expect, ok}, and appends it to FOLDER/gpu_check.jsonl, so
that a run which is cut off keeps what it has. `expect` is a bound, which `ok` judges, or, on a GPU, what docs/gpu.md
says: a floor (work over what an H100 reaches in practice) or a count. A check that fails prints its traceback, the next
one runs, and none begins after --seconds. Exit code 1 where one failed. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import full_size
from bench_tree_attention import check_merge
from bench_workload import Shape, Workload
from gpu_check_machine import BANDWIDTH, FLOPS, GIB, START, CountKernels, Machine, Report, with_adapter
from vsgrpo.devices import logps_chunk
from vsgrpo.memory.estimate import LOGIT_BYTES
from vsgrpo.modeling import sampling as sampling_module
from vsgrpo.modeling.bundle import language_model, use_gradient_checkpointing
from vsgrpo.modeling.head import score_hidden
from vsgrpo.modeling.sampling import draw_tokens, logits_processors, noise_keys
from vsgrpo.modeling.tiny import build_tiny

KERNELS = ("dense", "block", "split", "merge", "flex")


def kernels_of(machine: Machine, half: bool = True) -> list[str]:
    """Return the kernels that this device has, in float32 or in half of it."""
    left_out = (() if half else ("merge",)) if machine.is_gpu else ("flex",)
    return [kernel for kernel in KERNELS if kernel not in left_out]


def check_correct(report: Report, machine: Machine) -> None:
    """Compare every layout and kernel on this device with plain rows on the CPU (tiny model, float32)."""
    torch.backends.cuda.matmul.allow_tf32 = False
    folder = machine.folder / "tiny"
    build_tiny(folder)
    bundles = [with_adapter(folder, device, "float32") for device in ("cpu", machine.device)]
    here, there = (Workload(bundle, Shape(64, 6, 3, 2), "auto") for bundle in bundles)
    there.model.load_state_dict(here.model.state_dict())
    truth, drawn = gradient_of(here, "plain", "auto"), here.draw("plain")
    for layout, kernel in (("plain", "auto"), *(("tree", kernel) for kernel in kernels_of(machine, half=False))):
        with report.attempt("correct", f"{layout} {kernel}"):
            found = gradient_of(there, layout, kernel)
            for what, a, b, bound in zip(("log-probs", "gradient"), found, truth, (2e-5, 2e-4), strict=True):
                most = 1.0 if what == "log-probs" else float(b.abs().max())
                difference = float((a - b).abs().max()) / most
                report.add("correct", f"{layout} {kernel} {what}", difference, "max", bound, ok=difference < bound)
            tokens = there.draw(layout, kernel)
            same = sum(a == b for x, y in zip(tokens, drawn, strict=True) for a, b in zip(x, y, strict=True))
            total = sum(map(len, drawn))
            report.add("correct", f"{layout} {kernel} tokens", same, f"of {total}", total, ok=same == total)


def gradient_of(work: Workload, layout: str, kernel: str) -> tuple[Tensor, Tensor]:
    """Return log-probs and the adapter's gradient, on the CPU."""
    scores = work.score(layout, kernel)
    (scores * torch.linspace(-1, 1, len(scores), device=scores.device)).sum().backward()
    gradients = [weight.grad.flatten().cpu() for weight in work.model.parameters() if weight.grad is not None]
    work.model.zero_grad(set_to_none=True)
    return scores.detach().cpu(), torch.cat(gradients)


def check_phases(report: Report, machine: Machine) -> None:
    """Time each phase of a step at Q = 1 and 8 questions of a video, beside its floor; host share and peak."""
    V, C, G = (1004, 8, 14) if machine.is_gpu else (64, 4, 3)
    flops = machine.flops_per_token()
    for Q in (1, 8) if machine.is_gpu else (1, 2):
        work = machine.work(V, C, G, Q)
        tokens, prompt = V + Q * (20 - 1) + Q * G * C, V + Q * 20

        def add(name: str, value: float | None, unit: str = "ms", floor: float | None = None, Q: int = Q) -> None:
            report.add("phases", f"Q={Q} {name}", value, unit, floor)

        with report.attempt("phases", f"Q={Q}"), machine.mixed():
            add("vision", machine.ms(lambda work=work: work.features(plain=False)))
            one, all_tokens = machine.ms(lambda work=work: work.draw("tree", num_tokens=1)), machine.ms(work.draw)
            add("prefill and 1 token", one, floor=1e3 * flops * prompt / FLOPS)
            add("one more token", (all_tokens - one) / (C - 1), floor=1e3 * flops / BANDWIDTH)
            floor = 1e3 * flops * tokens / FLOPS
            reference = lambda work=work: work.reference(False, work.given)  # noqa: E731
            update = lambda work=work: work.update(False, work.given)  # noqa: E731
            add("reference", machine.ms(reference), floor=floor)
            add("reference, host", machine.host_ms(reference))
            add("update", machine.ms(update), floor=2 * floor)
            add("update, host", machine.host_ms(update))
            add("update peak", machine.peak_gib(update), "GiB")
            if Q == 1:
                plain = lambda work=work: work.update(True, work.given)  # noqa: E731
                add("update in plain rows", machine.ms(plain, 1), floor=2e3 * flops * G * (V + 20 + C) / FLOPS)
                with CountKernels() as counter:
                    work.draw(num_tokens=2)
                report.add("phases", "kernels of prefill and 2 tokens", counter.count, "aten")
            work.model.zero_grad(set_to_none=True)


def check_decode(report: Report, machine: Machine) -> None:
    """Time a rollout's tokens by layout; on a GPU profile launches, waits and how busy it is."""
    flops = machine.flops_per_token()
    for Q in (1, 8) if machine.is_gpu else (1,):
        work = machine.work(*((1004, 64, 14, Q) if machine.is_gpu else (64, 6, 3, Q)))
        for layout in ("tree", "plain"):
            with report.attempt("decode", f"{layout} Q={Q}"), machine.mixed():
                run = lambda layout=layout, work=work: work.draw(layout)  # noqa: E731
                first = machine.ms(lambda layout=layout, work=work: work.draw(layout, num_tokens=1), 1)
                step = (machine.ms(run, 1) - first) / (work.shape.C - 1)
                report.add("decode", f"{layout} Q={Q} step", step, "ms", 1e3 * flops / BANDWIDTH)
                report.add("decode", f"{layout} Q={Q}", Q * work.shape.G / max(step, 1e-9) * 1e3, "tokens/s")
                report.add("decode", f"{layout} Q={Q} peak", machine.peak_gib(run), "GiB")
        if Q == 1:
            with report.attempt("decode", "profile"), machine.mixed():
                profile_decode(report, machine, work)


def profile_decode(report: Report, machine: Machine, work: Workload) -> None:
    """Count the calls that launch a kernel; on a GPU say how busy it is, and how often the host launches and waits.

    Prefill and 16 tokens, divided by 16. As many launches are expected as calls are counted in the same run: the number
    depends on the model's layers and on the code.
    """
    from torch.profiler import ProfilerActivity, profile

    with CountKernels() as counter:
        work.draw(num_tokens=16)
    report.add("decode", "kernels per token", counter.count / 16, "aten")
    if not machine.is_gpu:
        return
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
        start = time.perf_counter()
        work.draw(num_tokens=16)
        machine.wait()
        wall = 1e6 * (time.perf_counter() - start)
    rows = found.key_averages()
    report.add("decode", "GPU busy", sum(row.self_device_time_total for row in rows) / wall, "of wall", 0.15)
    for name, word, expect in (("launches", "LaunchKernel", counter.count / 16), ("waits", "Synchronize", 0.13)):
        report.add("decode", f"{name} per token", sum(row.count for row in rows if word in row.key) / 16, "", expect)


def check_graph(report: Report, machine: Machine) -> None:
    """Draw by a recorded step: the tokens of the ordinary loop (tiny model, float32), then the time of a token."""
    folder = machine.folder / "tiny"
    if not folder.is_dir():
        build_tiny(folder)
    small = Workload(with_adapter(folder, machine.device, "float32"), Shape(64, 24, 3, 2), "auto")
    work = machine.work(*((1004, 64, 14, 1) if machine.is_gpu else (64, 6, 3, 1)))
    for layout in ("tree", "plain"):
        with report.attempt("graph", layout):
            pairs = zip(small.draw(layout, graph=True), small.draw(layout), strict=True)
            same, total = sum(a == b for x, y in pairs for a, b in zip(x, y, strict=True)), 24 * 3 * 2
            report.add("graph", f"{layout} tokens", same, f"of {total}", total, ok=same == total)
            with machine.mixed():
                few, many = (
                    machine.ms(lambda n=n, layout=layout: work.draw(layout, num_tokens=n, graph=True), 1)
                    for n in (work.shape.C // 2, work.shape.C)
                )
            # 2,000 kernels at 2 us each
            report.add("graph", f"{layout} step", (many - few) / (work.shape.C - work.shape.C // 2), "ms", 4.0)


def check_head(report: Report, machine: Machine) -> None:
    """Time log-probs from hidden states, and the most positions that fit."""
    bundle = machine.work(64, 4, 3, 1).bundle
    weight = bundle.model.get_base_model().lm_head.weight.detach()
    for n in (2048, 8192, 16_384) if machine.is_gpu else (64,):
        hidden = torch.randn(n, weight.shape[1], device=machine.device, dtype=weight.dtype).requires_grad_()
        targets = torch.randint(0, len(weight), (n,), device=machine.device)
        run = lambda h=hidden, t=targets: score_hidden(h, weight, t, 1.0, True)[0].sum().backward()  # noqa: E731
        rows = min(n, logps_chunk(not machine.is_gpu, len(weight)))
        expect = (LOGIT_BYTES * rows * len(weight) + 10 * hidden.numel()) / GIB
        with report.attempt("head", f"n={n}"):
            report.add("head", f"n={n} peak", machine.peak_gib(run), "GiB", expect)
            report.add("head", f"n={n}", machine.ms(run, 1), "ms", 1e3 * 4 * n * weight.numel() / FLOPS)


def check_kernels(report: Report, machine: Machine) -> None:
    """Time each kernel of the tree, forward and backward, and its distance to plain rows."""
    shapes = ((1004, 8, 14, 8), (1004, 512, 14, 1), (1004, 2048, 8, 1)) if machine.is_gpu else ((64, 4, 3, 2),)
    bound = 0.05 if machine.is_gpu else 1e-4
    flops = machine.flops_per_token()
    for V, C, G, Q in shapes:
        work = machine.work(V, C, G, Q)
        use_gradient_checkpointing(work.model)
        with torch.no_grad(), machine.mixed():
            truth = work.score("plain", rows_per_pass=max(1, 32_768 // (V + C)))
        for kernel in kernels_of(machine):
            name = f"V={V} C={C} G={G} Q={Q} {kernel}"
            run = lambda kernel=kernel, work=work: work.score("tree", kernel).mean().backward()  # noqa: E731
            with report.attempt("kernels", name), machine.mixed():
                with torch.no_grad():
                    difference = float((work.score("tree", kernel) - truth).abs().mean())
                report.add("kernels", f"{name} mean difference", difference, "nats", bound, ok=difference < bound)
                report.add("kernels", name, machine.ms(run, 2), "ms", 3e3 * flops * (V + Q * G * C) / FLOPS)
                report.add("kernels", f"{name} peak", machine.peak_gib(run), "GiB")
            work.model.zero_grad(set_to_none=True)
        language_model(work.model).gradient_checkpointing_disable()


def check_noise(report: Report, machine: Machine) -> None:
    """Time the noise of 112 rows by rows at a time, and compare the tokens with the CPU's."""
    work = machine.work(64, 4, 3, 1)
    rows, vocab = 112 if machine.is_gpu else 6, len(work.bundle.tokenizer)
    logits, keys = (
        torch.randn(rows, vocab, generator=torch.Generator().manual_seed(0)),
        [("row", g) for g in range(rows)],
    )
    devices = [torch.device(device) for device in ("cpu", machine.device)]
    (noise, processors), (own_noise, own_processors) = (
        (noise_keys(keys, [0], work.sampling, device)[0], logits_processors(work.sampling, device))
        for device in devices
    )
    truth, there = draw_tokens(logits, noise, processors), logits.to(machine.device)
    kept = sampling_module.NOISE_ENTRIES[machine.device]
    try:
        for at_once in (4, 16, rows):
            sampling_module.NOISE_ENTRIES[machine.device] = at_once * vocab
            run = lambda: draw_tokens(there, own_noise, own_processors)  # noqa: E731
            name, floor = f"{at_once} rows at a time", 1e3 * rows * vocab * 240 / BANDWIDTH
            report.add("noise", name, machine.ms(run), "ms", floor)
            report.add("noise", f"{name}, peak", machine.peak_gib(run), "GiB", at_once * vocab * 24 / GIB)
            same = int((run().cpu() == truth).sum())
            report.add("noise", f"{name}, tokens", same, f"of {rows}", rows, ok=same == rows)
    finally:
        sampling_module.NOISE_ENTRIES[machine.device] = kept


def check_long(report: Report, machine: Machine) -> None:
    """Find the longest completions whose update fits, two in a pass."""
    for C in (1024, 4096, 8192) if machine.is_gpu else (8,):
        work = machine.work(1004 if machine.is_gpu else 64, C, 2, 1)
        use_gradient_checkpointing(work.model)
        run = lambda work=work: work.update(False, work.given)  # noqa: E731
        with report.attempt("long", f"2 x {C}"), machine.mixed():
            report.add("long", f"2 x {C} peak", machine.peak_gib(run), "GiB")
            report.add("long", f"2 x {C}", machine.ms(run, 1), "ms")
        work.model.zero_grad(set_to_none=True)
        language_model(work.model).gradient_checkpointing_disable()


def check_step(report: Report, machine: Machine) -> None:
    """Run `vsgrpo train grpo` for two steps as a user does, in a process of its own."""
    machine.bundle = None
    gc.collect()
    if machine.is_gpu:
        torch.cuda.empty_cache()
    data, out = machine.folder / "data", machine.folder / "run"
    program = [sys.executable, "-m", "vsgrpo.cli"]
    rooms, words = ["source.num_scenes=4", f"output={data}"], [f"model.path={machine.model_folder()}"]
    if machine.is_gpu:
        rooms += ["source.frame_size=448"]
        words += ["launch=gpu1", "trainer.bf16=true", "model.dtype=bfloat16"]
    else:
        words += ["launch=cpu", "video.num_frames=4", "trainer.num_generations=4", "trainer.max_completion_length=8"]
        words += ["trainer.per_device_train_batch_size=4", "trainer.gradient_accumulation_steps=1"]
    words += ["model.offline=true", f"data={data}", f"output={out}", "trainer.max_steps=2", "trainer.save_steps=2"]
    words += [f"reward.names=[{full_size.__name__}:spread]"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    commands = ([*program, "build-data", "experiment=demo_data", *rooms], [*program, "train", "grpo", *words])
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    last = [line for line in lines if "loss" in line][-1]
    for key in sorted(key for key in last if key.startswith("time/")):
        report.add("step", key, last[key], "s")
    moved = full_size.check_step(out)
    report.add("step", "peak", last.get("memory/peak_gib"), "GiB")
    report.add("step", "adapter moved by", moved, "max", "above 0", ok=moved > 0)


CHECKS: dict[str, Callable[[Report, Machine], None]] = {
    "correct": check_correct,
    "phases": check_phases,
    "decode": check_decode,
    "graph": check_graph,
    "head": check_head,
    "kernels": check_kernels,
    "merge": check_merge,
    "noise": check_noise,
    "long": check_long,
    "step": check_step,
}
"""In order of value."""


def main() -> int:
    """Run the checks that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", default=",".join(CHECKS), help=f"some of {','.join(CHECKS)}")
    parser.add_argument("--out", type=Path, help="folder of gpu_check.jsonl")
    parser.add_argument("--seconds", type=float, default=420, help="no check begins later than this")
    options = parser.parse_args()
    wanted = options.only.split(",")
    if unknown := set(wanted) - set(CHECKS):
        parser.error(f"--only: no check {', '.join(sorted(unknown))}; there are {', '.join(CHECKS)}")
    if options.device == "cpu":
        torch.set_num_threads(1)
    report = Report(options.out, floors=options.device == "cuda")
    where = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    report.add("machine", where, f"torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(options.device, Path(folder))
        for name in wanted:
            if time.monotonic() - START > options.seconds:
                report.add(name, "left out", f"{options.seconds:g} s were over")
                continue
            with report.attempt(name, "failed"):
                CHECKS[name](report, machine)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
