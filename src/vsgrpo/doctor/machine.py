"""Python, processor, GPUs, disk."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from vsgrpo.devices import visible_gpus
from vsgrpo.doctor.findings import Finding
from vsgrpo.memory.disk import free_bytes, main_memory

GIB = 2**30
ENOUGH_GIB = 20
"""Checkpoints, videos and caches of a real run want tens of GB."""


def python() -> list[Finding]:
    """Compare the interpreter with what we support."""
    ok = (3, 11) <= sys.version_info[:2] <= (3, 12)
    mend = "" if ok else "use Python 3.11 or 3.12"
    return [Finding("python", "ok" if ok else "fail", platform.python_version(), mend)]


def processor() -> list[Finding]:
    """Count cores and memory; name the vector instructions that torch and the decoders are fast with."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = main_memory()
    size = "unknown" if memory is None else f"{memory / GIB:.1f} GiB"
    found = [Finding("cpu", "ok", f"{cores} cores, {size} memory, {platform.machine()} {platform.system()}")]
    flags = cpu_flags()
    if flags is None:
        return found
    names = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16") if name in flags]
    fast = "avx2" in flags or "asimd" in flags
    bf16 = any(name.endswith("bf16") for name in names)
    text = (", ".join(names) or "no vector instructions that we know") + ("" if bf16 else "; bfloat16 is emulated")
    mend = "" if fast else "torch is several times slower here: use another machine for training"
    return [*found, Finding("cpu flags", "ok" if fast else "warn", text, mend)]


def cpu_flags() -> set[str] | None:
    """Return the flags that Linux tells of the first core, None elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, values = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return set(values.split())
    return None


def gpus() -> list[Finding]:
    """Count the GPUs that CUDA would show, and compare them with the torch that is installed."""
    seen = visible_gpus()
    if not seen:
        return [Finding("gpu", "warn", seen.describe(), "fine for launch=cpu; real models need a GPU")]
    memory = seen.smallest_memory()
    text = seen.describe() + ("" if memory is None else f", {memory / GIB:.0f} GiB each at least")
    if seen.hidden:
        text += f"; CUDA_VISIBLE_DEVICES hides {seen.hidden} more"
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = ""  # said among the packages
    if torch.endswith("+cpu"):
        return [Finding("gpu", "fail", f"{text}; torch {torch} cannot use them", "install torch built for CUDA")]
    return [Finding("gpu", "ok", text)]


def disk() -> list[Finding]:
    """Look at what is free here, and where models are downloaded to."""
    found = [_free("disk", Path("."), "here")]
    cache = hub_cache()
    if cache.resolve().anchor and free_bytes(cache) != free_bytes(Path(".")):
        found.append(_free("model cache", cache, f"in {cache}"))
    return found


def hub_cache() -> Path:
    """Return the folder that huggingface_hub downloads to."""
    if "HF_HUB_CACHE" in os.environ:
        return Path(os.path.expanduser(os.environ["HF_HUB_CACHE"]))
    return Path(os.path.expanduser(os.environ.get("HF_HOME", "~/.cache/huggingface"))) / "hub"


def _free(check: str, folder: Path, where: str) -> Finding:
    free = free_bytes(folder) / GIB
    mend = "" if free > ENOUGH_GIB else "checkpoints, models and caches of a real run want tens of GB"
    return Finding(check, "warn" if mend else "ok", f"{free:.0f} GiB free {where}", mend)
