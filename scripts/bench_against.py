"""Compare our side of the step bench with another checkout's: CPU seconds, rounds interleaved, medians.

python scripts/bench_against.py OTHER_CHECKOUT [--rounds 3] [--case step --case update]

Each round runs every case of `bench_grpo_step.TABLE` three times in a process of its own per checkout, ours only (the
tree layout, after one warm-up), on one thread, and keeps the median: single runs of one process differ by 15 %. Once
it counts tensor operations and floating-point operations, which no other work on the machine can change. Both run in
this interpreter's environment; OTHER_CHECKOUT needs no install.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
CHILD = """
import json, sys, tempfile, warnings, logging
from statistics import median
from contextlib import redirect_stdout
from pathlib import Path
warnings.simplefilter("ignore")
logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
with redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as folder:
    import torch
    import bench_grpo_step as bench
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import FlopCounterMode

    class Count(TorchDispatchMode):
        operations = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.operations += 1
            return func(*args, **(kwargs or {}))

    torch.set_num_threads(1)
    bench.build_tiny(Path(folder), sizes=bench.SIZES)
    lora = dict(tune="lora", lora=bench.LoraSettings(r=8, alpha=16), offline=True)
    bundle = bench.load(folder, **lora) if hasattr(bench, "load") else bench.load_model(folder, **lora)
    found = {}
    for name, *numbers in bench.TABLE:
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        work, case = bench.Workload(bundle, bench.Shape(*numbers), "auto"), bench.CASES[name]
        with bench.checkpointing(bundle.model, case.checkpointing):
            case.run(work, False)
            times = [bench.cpu_seconds(lambda: case.run(work, False)) for _ in range(3)]
            with FlopCounterMode(display=False) as flops, Count() as count:
                case.run(work, False)
            found[" ".join(map(str, (name, *numbers)))] = median(times), flops.get_total_flops(), count.operations
print(json.dumps(found))
"""


def measure(checkout: Path, cases: Sequence[str]) -> dict[str, tuple[float, int, int]]:
    """Return (CPU seconds, floating-point operations, tensor operations) of each case in a checkout."""
    paths = os.pathsep.join([str(checkout / "src"), str(checkout / "scripts")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", CHILD, *cases]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="folder of the other checkout")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", action="append", default=[], help="a case of the table; all where none is given")
    options = parser.parse_args(argv)
    rounds: dict[Path, list[dict[str, tuple[float, int, int]]]] = {options.other.resolve(): [], ROOT: []}
    for number in range(options.rounds):
        order = list(rounds) if number % 2 == 0 else list(rounds)[::-1]
        for checkout in order:
            rounds[checkout].append(measure(checkout, options.case))
    other, own = rounds.values()
    print(f"ours / other; seconds are medians of {options.rounds}")
    print(f"{'case V C G Q':28}{'other s':>9}{'ours s':>9}{'seconds':>9}{'FLOPs':>9}{'operations':>12}")
    for name in own[0]:
        before, now = (median(found[name][0] for found in side) for side in (other, own))
        flops, operations = (own[0][name][part] / other[0][name][part] for part in (1, 2))
        print(f"{name:28}{before:>9.3f}{now:>9.3f}{now / before:>9.3f}{flops:>9.4f}{operations:>12.4f}")


if __name__ == "__main__":
    main()
