"""Where gpu_check.py runs and what it says: the device, the model, clocks, and findings as JSON lines."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import full_size
from bench_workload import Shape, Workload
from vsgrpo.families import model_shape
from vsgrpo.modeling.bundle import ModelBundle
from vsgrpo.modeling.load import LoraSettings, load
from vsgrpo.modeling.tiny import build_tiny

GIB = 2**30
FLOPS, BANDWIDTH = 400e12, 3.0e12
"""Products in bfloat16 and bytes a second that an H100 reaches in practice; floors are work over these."""
START = time.monotonic()


class Report:
    """Findings as JSON lines.

    Args:
        folder: gets gpu_check.jsonl; None: they are only printed.
        floors: print what is expected of a GPU, too.
    """

    def __init__(self, folder: Path | None, *, floors: bool) -> None:
        self.failed = 0
        self._floors = floors
        self._file = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / "gpu_check.jsonl").open("a", encoding="utf-8")

    def add(
        self, check: str, name: str, value: Any, unit: str = "", expect: Any = None, *, ok: bool | None = None
    ) -> None:
        """Print a finding."""
        if value is None:  # a peak on a CPU
            return
        expect = expect if self._floors or ok is not None else None
        value, expect = (float(f"{x:.5g}") if isinstance(x, float) else x for x in (value, expect))
        seconds = round(time.monotonic() - START, 1)
        line = {"at": seconds, "check": check, "name": name, "value": value, "unit": unit, "expect": expect, "ok": ok}
        self.failed += ok is False
        for file in (sys.stdout, self._file):
            if file is not None:
                print(json.dumps(line), file=file, flush=True)

    @contextlib.contextmanager
    def attempt(self, check: str, name: str) -> Iterator[None]:
        """Go on after a failure, which is a finding."""
        try:
            yield
        except (Exception, SystemExit) as error:
            self.add(check, name, f"{type(error).__name__}: {str(error)[:300]}", ok=False)
            traceback.print_exc(limit=-4)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@dataclasses.dataclass
class Machine:
    """Where and on what the checks run.

    Attributes:
        device: "cuda" or "cpu".
        folder: holds the weights.
        bundle: the model with an adapter; None until it is needed, and again while a command trains.
    """

    device: str
    folder: Path
    bundle: ModelBundle | None = None

    @property
    def is_gpu(self) -> bool:
        return self.device == "cuda"

    def model_folder(self) -> Path:
        """Return the folder of random weights: Qwen2-VL-2B's size on a GPU, a tiny model on a CPU."""
        folder = self.folder / full_size.MODEL
        if not (folder / "config.json").is_file():
            (full_size.build if self.is_gpu else build_tiny)(folder)
        return folder

    def work(self, V: int, C: int, G: int, Q: int) -> Workload:
        """Return a workload on the device; see bench_grpo_step.py for the letters."""
        if self.bundle is None:
            self.bundle = with_adapter(self.model_folder(), self.device, "bfloat16" if self.is_gpu else "float32")
        return Workload(self.bundle, Shape(V, C, G, Q), "auto")

    def flops_per_token(self) -> float:
        """Return the products of one token in the layers of the language model."""
        shape = model_shape(str(self.model_folder()))
        assert shape is not None
        return 2.0 * shape.layers * shape.layer_parameters()

    def wait(self) -> None:
        """Wait until the device has done all that was asked."""
        if self.is_gpu:
            torch.cuda.synchronize()

    def ms(self, run: Callable[[], Any], repeats: int = 3) -> float:
        """Return the best wall time; the first call warms up."""
        run()
        best = float("inf")
        for _ in range(repeats if self.is_gpu else 1):
            self.wait()
            start = time.perf_counter()
            run()
            self.wait()
            best = min(best, time.perf_counter() - start)
        return 1e3 * best

    def host_ms(self, run: Callable[[], Any]) -> float:
        """Return the time until the last launch returns: equal to `ms` where the host is the limit."""
        self.wait()
        start = time.perf_counter()
        run()
        spent = time.perf_counter() - start
        self.wait()
        return 1e3 * spent

    def peak_gib(self, run: Callable[[], Any]) -> float | None:
        """Return the memory above what was held before; None on a CPU."""
        if not self.is_gpu:
            run()
            return None
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / GIB

    def mixed(self) -> Any:
        """Return the trainer's autocast (trainer.bf16=true on a GPU)."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.is_gpu)


def with_adapter(folder: Path, device: str, dtype: str) -> ModelBundle:
    """Return the model with an adapter that has some effect."""
    lora = LoraSettings(r=64 if dtype == "bfloat16" else 8)
    bundle = load(folder, tune="lora", lora=lora, dtype=dtype, device=device, offline=True)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in bundle.model.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.01)
    return bundle


class CountKernels(TorchDispatchMode):
    """Count the aten calls that launch a kernel: no views, no empty allocations."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not (func.is_view or "empty" in func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))
