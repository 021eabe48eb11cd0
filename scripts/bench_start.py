"""How long `vsgrpo train` takes to start two workers besides importing libraries, and to refuse what is wrong.

    python scripts/bench_start.py [--repeat 3]

The start counts from the command to the first sign of a worker (its entry in run.json). Imports are timed beside it:
the launcher's and then the workers' (two at a time, as in the run), in fresh processes. Limits: 3 s besides imports,
2 s for an error.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VSGRPO = [sys.executable, "-m", "vsgrpo.cli"]
LAUNCHER = "import torch, accelerate.commands.launch, torch.distributed.elastic.multiprocessing.api, deepspeed"
WORKER = "import deepspeed.ops, vsgrpo.training.worker"
TRAIN = ("train", "sft", "model=tiny", "model.freeze_vision=true", "trainer.max_steps=1", "video.num_frames=4")
ERRORS = {
    "unknown key": ("train", "grpo", "lr=1", "data=d", "output=o"),
    "no data folder": ("train", "grpo", "data=no/such", "output=o"),
    "no model folder": ("train", "grpo", "data={data}", "output=o", "model=no/such/model"),
    "groups do not divide": ("train", "grpo", "data={data}", "output=o", "trainer.per_device_train_batch_size=5"),
    "nothing to resume": ("train", "grpo", "model=tiny", "data={data}", "output={out}/none", "--resume"),
    "not a benchmark": ("eval", "model=tiny", "benchmark.path=no/where", "output=o"),
}


def seconds(*commands: list[str]) -> float:
    """Return the wall seconds of commands that run side by side."""
    began = time.perf_counter()
    started = [subprocess.Popen(c, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for c in commands]
    for process in started:
        process.wait()
    return time.perf_counter() - began


def start_seconds(data: Path, run_dir: Path) -> float:
    """Start a run of two processes; return the seconds until run.json says that a worker runs."""
    given = [*TRAIN, f"data={data}", f"output={run_dir}", "launch=zero2", "launch.num_processes=2"]
    began = time.perf_counter()
    process = subprocess.Popen([*VSGRPO, *given], stderr=subprocess.PIPE, text=True)
    state = run_dir / "run.json"
    while not (state.is_file() and json.loads(state.read_text()).get("pid")):
        if process.poll() is not None:
            sys.exit(f"the run ended before it began:\n{process.communicate()[1]}")
        time.sleep(0.01)
    found = time.perf_counter() - began
    process.communicate()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3, help="runs of each; the median is printed")
    repeat = parser.parse_args().repeat
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "data", Path(folder) / "out"
        build = ["build-data", "source=demo", "source.num_scenes=3", f"output={data}"]
        subprocess.run([*VSGRPO, *build], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        rows = []
        for number in range(repeat):
            total = start_seconds(data, out / str(number))
            launcher = seconds([sys.executable, "-c", LAUNCHER])
            worker = seconds(*[[sys.executable, "-c", WORKER]] * 2)
            rows.append((total, launcher, worker, total - launcher - worker))
        total, launcher, worker, own = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"start of two workers: {total:.1f} s, of it imports {launcher:.1f} + {worker:.1f} s, ours {own:.1f} s")
        for name, argv in ERRORS.items():
            command = [*VSGRPO, *(part.format(data=data, out=out) for part in argv)]
            code = subprocess.run(command, capture_output=True, check=False).returncode
            median = statistics.median(seconds(command) for _ in range(repeat))
            print(f"error, {name}: {median:.2f} s (exit code {code})")


if __name__ == "__main__":
    main()
