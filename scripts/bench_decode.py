"""Time rollouts by layout and length: plain rows against the tree, interleaved, on one thread.

    python scripts/bench_decode.py [--case 1004,64,14,1 ...] [--rounds 2]

The model of bench_grpo_step.py in float32. Both layouts read each prompt once and draw the same tokens (checked). V =
system and video tokens, C = tokens drawn, G completions, Q questions of one video. Process CPU seconds, the best round
of each. `config.train.TREE_TOKENS` rests on this table.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from bench_workload import SIZES, Shape, Workload
from vsgrpo.modeling.load import LoraSettings, load
from vsgrpo.modeling.tiny import build_tiny

CASES = ("1004,8,14,1", "256,64,14,1", "1004,64,14,1", "256,256,14,1", "1004,256,14,1", "1004,640,14,1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="*", default=CASES, help="V,C,G,Q")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        build_tiny(Path(folder), sizes=SIZES)
        bundle = load(folder, tune="lora", lora=LoraSettings(r=8, alpha=16), offline=True)
    print("| V, C, G, Q | plain s | tree s | tree / plain |\n|---|---|---|---|")
    for case in options.case:
        work = Workload(bundle, Shape(*map(int, case.split(","))), "auto")
        seconds: dict[str, list[float]] = {"plain": [], "tree": []}
        drawn: dict[str, list[list[int]]] = {}
        for _ in range(options.rounds):
            for layout, times in seconds.items():
                start = time.process_time()
                drawn[layout] = work.draw(layout)
                times.append(time.process_time() - start)
        if drawn["plain"] != drawn["tree"]:
            raise SystemExit(f"{case}: the layouts drew different tokens")
        plain, tree = (min(times) for times in seconds.values())
        print(f"| {case.replace(',', ', ')} | {plain:.2f} | {tree:.2f} | {tree / plain:.2f} |", flush=True)


if __name__ == "__main__":
    main()
