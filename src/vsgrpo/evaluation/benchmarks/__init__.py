"""The benchmarks of `vsgrpo eval` by name, one file each."""

from __future__ import annotations

from vsgrpo.evaluation.benchmark import Benchmark
from vsgrpo.evaluation.benchmarks.folder import Folder
from vsgrpo.evaluation.benchmarks.mathvista import MathVista
from vsgrpo.evaluation.benchmarks.vsibench import VsiBench
from vsgrpo.plugins import import_named
from vsgrpo.rules import one_of

BENCHMARKS: dict[str, type[Benchmark]] = {
    "vsibench": VsiBench,
    "mathvista": MathVista,
    "folder": Folder,
}


def find_benchmark(name: str) -> type[Benchmark]:
    """Return the benchmark called `name`: one of `BENCHMARKS`, or "package.module:Class" of your own.

    Raises:
        ConfigError: no such name, module, or `Benchmark` in it.
    """
    if ":" not in name:
        one_of("benchmark.name", name, tuple(BENCHMARKS))
        return BENCHMARKS[name]
    needed = "a subclass of vsgrpo.evaluation.benchmark.Benchmark is needed"
    return import_named("benchmark.name", name, "benchmark", needed, _is_benchmark)


def _is_benchmark(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Benchmark)
