"""How long `vsgrpo train` takes to start two workers besides importing libraries, and to refuse what is wrong.

    python scripts/bench_start.py [--repeat 3]

The start counts from the command to the first sign of a worker (its entry in run.json). Imports are measured beside
it, in fresh processes: the launcher's and then the two workers' side by side, as in the run. Wall seconds mean
something on a quiet machine only; CPU seconds, of all processes together, stand beside them. Limits: 3 s besides
imports, 2 s for an error.
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
TINY = "import pathlib, sys, vsgrpo.modeling.tiny as tiny; tiny.build_tiny(pathlib.Path(sys.argv[1]))"
TRAIN = ("train", "sft", "model.freeze_vision=true", "trainer.max_steps=1", "video.num_frames=4")
ERRORS = {
    "unknown key": ("train", "grpo", "lr=1", "data=d", "output=o"),
    "no data folder": ("train", "grpo", "data=no/such", "output=o"),
    "no model folder": ("train", "grpo", "data={data}", "output=o", "model=no/such/model"),
    "groups do not divide": ("train", "grpo", "data={data}", "output=o", "trainer.per_device_train_batch_size=5"),
    "nothing to resume": ("train", "grpo", "model=tiny", "data={data}", "output={out}/none", "--resume"),
    "not a benchmark": ("eval", "model=tiny", "benchmark.path=no/where", "output=o"),
}


def measure(*commands: list[str]) -> tuple[float, float, int]:
    """Return wall seconds and CPU seconds of commands that run side by side, and the last exit code."""
    began = time.perf_counter()
    started = [subprocess.Popen(c, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for c in commands]
    cpu, code = 0.0, 0
    for process in started:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = code = os.waitstatus_to_exitcode(status)
        cpu += usage.ru_utime + usage.ru_stime
    return time.perf_counter() - began, cpu, code


def cpu_of_tree(pid: int) -> float:
    """Return the CPU seconds so far of a process and all its descendants that are alive."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        number = int(stat.parent.name)
        parents[number] = int(fields[1])
        ticks[number] = sum(map(int, fields[11:15]))  # own and of children that have ended
    tree, size = {pid}, 0
    while len(tree) > size:
        size = len(tree)
        tree |= {number for number, parent in parents.items() if parent in tree}
    return sum(ticks.get(number, 0) for number in tree) / os.sysconf("SC_CLK_TCK")


def start(data: Path, model: Path, run_dir: Path) -> tuple[float, float]:
    """Start a run of two processes; return wall and CPU seconds until run.json says that a worker runs.

    The model is a saved folder, as in any real run: `model=tiny` would be built by the parent, which imports torch for
    it.
    """
    given = [
        *TRAIN,
        f"model.path={model}",
        f"data={data}",
        f"output={run_dir}",
        "launch=zero2",
        "launch.use_cpu=true",
        "launch.num_processes=2",
    ]
    began = time.perf_counter()
    process = subprocess.Popen([*VSGRPO, *given], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    state = run_dir / "run.json"
    while not (state.is_file() and json.loads(state.read_text()).get("pid")):
        if process.poll() is not None:
            sys.exit(f"the run ended before it began (exit code {process.returncode})")
        time.sleep(0.02)
    found = time.perf_counter() - began, cpu_of_tree(process.pid)
    process.wait()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3, help="runs of each; the median is printed")
    repeat = parser.parse_args().repeat
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with tempfile.TemporaryDirectory() as folder:
        data, model, out = (Path(folder) / name for name in ("data", "model", "out"))
        build = ["build-data", "source=demo", "source.num_scenes=3", f"output={data}"]
        subprocess.run([*VSGRPO, *build], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        subprocess.run([sys.executable, "-c", TINY, str(model)], check=True, stderr=subprocess.DEVNULL)
        rows = []
        for number in range(repeat):
            run = start(data, model, out / str(number))
            launcher = measure([sys.executable, "-c", LAUNCHER])[:2]
            workers = measure(*[[sys.executable, "-c", WORKER]] * 2)[:2]
            rows.append(
                [*run, *launcher, *workers, *(a - b - c for a, b, c in zip(run, launcher, workers, strict=True))]
            )
        medians = [statistics.median(column) for column in zip(*rows, strict=True)]
        for name, wall, cpu in zip(("all", "launcher", "workers", "ours"), medians[::2], medians[1::2], strict=True):
            print(f"start, {name}: {wall:.1f} s, {cpu:.1f} CPU s")
        for name, argv in ERRORS.items():
            command = [*VSGRPO, *(part.format(data=data, out=out) for part in argv)]
            runs = [measure(command) for _ in range(repeat)]
            wall, cpu = (statistics.median(run[i] for run in runs) for i in (0, 1))
            print(f"error, {name}: {wall:.2f} s, {cpu:.2f} CPU s (exit code {runs[0][2]})")


if __name__ == "__main__":
    main()
