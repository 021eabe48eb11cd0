"""The benchmarks of `vsgrpo eval` by name, each a class in one file that is imported when it is asked for."""

from __future__ import annotations

from vsgrpo.evaluation.benchmark import Benchmark
from vsgrpo.rules import import_named, one_of

BENCHMARKS = {
    "vsibench": "vsgrpo.evaluation.benchmarks.vsibench:VsiBench",
    "mathvista": "vsgrpo.vision_r1.mathvista:MathVista",
    "folder": "vsgrpo.evaluation.benchmarks.folder:Folder",
}


def find_benchmark(name: str) -> type[Benchmark]:
    """Return the benchmark called `name`: one of `BENCHMARKS`, or "package.module:Class" of the user's own.

    Raises:
        ConfigError: no such name, module, or `Benchmark` in it.
    """
    if ":" not in name:
        one_of("benchmark.name", name, tuple(BENCHMARKS))
    needed = "a subclass of vsgrpo.evaluation.benchmark.Benchmark is needed"
    return import_named("benchmark.name", BENCHMARKS.get(name, name), "benchmark", needed, _is_benchmark)


def _is_benchmark(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Benchmark)
