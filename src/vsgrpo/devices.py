"""The GPUs that this machine shows to CUDA, counted without torch: nvidia-smi, else NVML, else the driver's folder.

`CUDA_VISIBLE_DEVICES` is read as CUDA does: entries up to the first that names no GPU count, an empty value hides all.
And how much faster its CPU is in bfloat16.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from vsgrpo.errors import DataError, SetupError
from vsgrpo.files import user_cache, write_atomic

DRIVER_FOLDER = Path("/proc/driver/nvidia/gpus")
"""One folder for each GPU that the kernel driver has taken."""
_LOGPS_CHUNK = {"cpu": 32, "cuda": 1024}
_CHUNK_VOCABULARY = 151_936
NVML = "libnvidia-ml.so.1"
TIMEOUT_S = 20
MEASURE_TIMEOUT_S = 300
SPEEDUP_NAME = "bfloat16.json"
"""In `files.user_cache()`: what `bfloat16_speedup` has measured, by processor."""
_MEASURE = """
import time, torch
torch.set_num_threads(1)
def seconds(dtype):
    tokens, weight = torch.ones(512, 576, dtype=dtype), torch.ones(1536, 576, dtype=dtype)
    best = float("inf")
    for _ in range(9):
        start = time.thread_time()
        torch.nn.functional.linear(tokens, weight)
        best = min(best, time.thread_time() - start)
    return best
print(seconds(torch.float32) / seconds(torch.bfloat16))
"""
"""A layer of small_lm's MLP on 512 tokens, best of nine in either type; CPU time, whatever else the machine does."""


def logps_chunk(on_cpu: bool, vocabulary: int) -> int:
    """Return the predicting tokens that the language head takes at a time where no key says so (ours).

    32 on a CPU and 1,024 on a GPU at the vocabulary of Qwen2-VL; as many logits, so more tokens, of a smaller one.
    """
    return _LOGPS_CHUNK["cpu" if on_cpu else "cuda"] * max(1, _CHUNK_VOCABULARY // vocabulary)


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        name: empty where it is not known.
        uuid: GPU-...; empty likewise.
        memory: bytes; None where it is not known, as in the driver's folder.
    """

    name: str = ""
    uuid: str = ""
    memory: int | None = None


@dataclass(frozen=True)
class VisibleGpus:
    """The GPUs that a process started here may use, and why not others.

    Attributes:
        gpus: visible ones.
        hidden: how many the environment hides.
        source: what was asked, for messages.
    """

    gpus: tuple[Gpu, ...]
    hidden: int = 0
    source: str = ""

    def __len__(self) -> int:
        return len(self.gpus)

    def describe(self) -> str:
        """Return number and name, or why there is none."""
        if self.gpus:
            names = " and ".join(dict.fromkeys(gpu.name for gpu in self.gpus if gpu.name))
            return f"{len(self.gpus)} GPU{'s' if len(self.gpus) > 1 else ''}" + (f" ({names})" if names else "")
        if self.hidden:
            return f"no GPU: CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES')} hides {self.hidden}"
        return f"no GPU is seen ({self.source})"

    def smallest_memory(self) -> int | None:
        """Return the bytes of the smallest one, None where they are not known."""
        sizes = [gpu.memory for gpu in self.gpus]
        return min((size for size in sizes if size is not None), default=None) if None not in sizes else None


def visible_gpus() -> VisibleGpus:
    """Return the GPUs that torch would see in a process of this environment (NVIDIA's only)."""
    there, source = physical_gpus()
    shown = chosen(there, os.environ)
    value = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    by_index = value != "" and not value.startswith(("GPU-", "MIG-"))
    if by_index and len({gpu.memory for gpu in there}) > 1 and os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        shown = [Gpu() for _ in shown]  # CUDA counts the fastest first, nvidia-smi by slot: which ones is not known
    return VisibleGpus(tuple(shown), len(there) - len(shown), source)


def physical_gpus() -> tuple[list[Gpu], str]:
    """Return all GPUs that this machine or container has, and what said so."""
    tool = shutil.which("nvidia-smi")
    if tool is not None and (gpus := _ask_tool(tool)):
        return list(gpus), "nvidia-smi"
    if gpus := _ask_nvml():
        return list(gpus), "NVML"
    if gpus := [_from_driver(folder) for folder in sorted(DRIVER_FOLDER.glob("*"))]:
        return gpus, str(DRIVER_FOLDER)
    return [], f"{'nvidia-smi lists none' if tool else 'no nvidia-smi'}, no NVML, nothing in {DRIVER_FOLDER}"


@functools.cache
def _ask_tool(tool: str) -> tuple[Gpu, ...]:
    query = [tool, "--query-gpu=name,uuid,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return ()
    if done.returncode:
        return ()
    # a driver that fails writes its reason on stdout; a memory that is not known is a word
    lines = re.findall(r"^(.*?), *(GPU-[^\s,]*)(?:, *(\d+)\b)?", done.stdout, re.MULTILINE)
    return tuple(Gpu(name.strip(), uuid, int(size) * 2**20 if size else None) for name, uuid, size in lines)


class _Memory(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


@functools.cache
def _ask_nvml() -> tuple[Gpu, ...]:
    """Ask the library that nvidia-smi asks (containers often come without the tool)."""
    try:
        library = ctypes.CDLL(NVML)
        if library.nvmlInit_v2():
            return ()
    except (OSError, AttributeError):
        return ()
    found = []
    try:
        count = ctypes.c_uint()
        if library.nvmlDeviceGetCount_v2(ctypes.byref(count)):
            return ()
        for index in range(count.value):
            handle, memory = ctypes.c_void_p(), _Memory()
            texts = ctypes.create_string_buffer(96), ctypes.create_string_buffer(96)
            if library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)):
                continue  # of another user, or lost
            library.nvmlDeviceGetName(handle, texts[0], 96)
            library.nvmlDeviceGetUUID(handle, texts[1], 96)
            known = library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) == 0
            name, uuid = (text.value.decode("utf-8", "replace") for text in texts)
            found.append(Gpu(name, uuid, memory.total if known else None))
    finally:
        library.nvmlShutdown()
    return tuple(found)


def _from_driver(folder: Path) -> Gpu:
    """Read the lines `Model: NAME` and `GPU UUID: GPU-...` of a driver's folder, where it has them."""
    try:
        lines = (folder / "information").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return Gpu()
    values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return Gpu(values.get("Model", ""), values.get("GPU UUID", ""))


def chosen(there: Sequence[Gpu], environment: Mapping[str, str]) -> list[Gpu]:
    """Return those of `there` that CUDA_VISIBLE_DEVICES names, in its order; all where it is not set.

    An index or a UUID (GPU-..., the beginning is enough) names a GPU. Parts of one (MIG-...) count as one GPU in all:
    CUDA shows a process no more than one. A name that comes twice hides all, as in CUDA.
    """
    value = environment.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return list(there)
    names = [name.strip() for name in value.split(",")]
    if names[0].startswith("MIG-"):
        return [Gpu("MIG", names[0])] if there else []
    places: list[int] = []
    for name in names:
        place = _place(name, there)
        if place is None:
            break
        if place in places:
            return []
        places.append(place)
    return [there[place] for place in places]


def _place(name: str, there: Sequence[Gpu]) -> int | None:
    if name.startswith("GPU-"):
        fits = [place for place, gpu in enumerate(there) if gpu.uuid.startswith(name)]
        return fits[0] if len(fits) == 1 else None
    digits = re.match(r"\+?([0-9]+)", name)  # read as far as they go: "2gpu" is 2
    return int(digits[1]) if digits is not None and int(digits[1]) < len(there) else None


def bfloat16_speedup() -> float:
    """Return how many times faster this CPU multiplies matrices in bfloat16 than in float32, on one thread.

    Measured once, in a process of its own that imports torch, and kept by processor and torch's version.

    Raises:
        SetupError: it cannot be measured.
    """
    cache, key = user_cache(), _processor_key()
    known: dict[str, float] = {}
    if cache is not None:
        with suppress(OSError, ValueError, TypeError):
            read = json.loads((cache / SPEEDUP_NAME).read_text(encoding="utf-8"))
            known = {name: x for name, x in dict(read).items() if isinstance(x, float) and x > 0}
    if key not in known:
        known[key] = _measure_speedup()
        if cache is not None:
            with suppress(OSError, DataError):  # measured again by the next command
                write_atomic(cache / SPEEDUP_NAME, json.dumps(known, indent=1) + "\n")
    return known[key]


def _processor_key() -> str:
    """Return a name for processor, its features (a virtual machine may hide some) and torch."""
    lines = ""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    features = "".join(sorted({*re.findall(r"^(?:model name|flags|Features)\s*:.*$", lines, re.MULTILINE)}))
    torch = ""
    with suppress(PackageNotFoundError):
        torch = version("torch")
    return f"{sha256(features.encode()).hexdigest()[:16]} torch {torch}"


def _measure_speedup() -> float:
    command = [sys.executable, "-c", _MEASURE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=MEASURE_TIMEOUT_S, check=True)
        return float(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1:]
        what = f"model.dtype=auto: the CPU's speed in bfloat16 cannot be measured: {' '.join(reason)}"
        raise SetupError(what, hint="set model.dtype=float32, or install torch again") from None
