"""What `vsgrpo doctor` finds out about a machine: Python, processor, GPUs, disk, packages, decoders, DeepSpeed, wandb.

Works when torch or trl is missing.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vsgrpo.devices import visible_gpus
from vsgrpo.errors import VsgrpoError
from vsgrpo.memory.fit import free_bytes, main_memory

GIB = 2**30
ENOUGH_GIB = 20
"""Checkpoints, videos and caches of a real run need tens of GB."""
SHOWN = ("torch", "transformers", "trl", "accelerate", "peft", "deepspeed", "decord")
OPTIONAL = ("deepspeed", "decord")


@dataclass(frozen=True)
class Finding:
    """One check: status is ok, warn (a feature is missing) or fail (training or reading data cannot work)."""

    check: str
    status: str
    found: str
    mend: str = ""


@dataclass
class Report:
    """All findings, in the order they were made."""

    findings: list[Finding] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """True if a check failed."""
        return any(item.status == "fail" for item in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return {"failed", "findings": [{check, status, found, mend}]}."""
        return {"failed": self.failed, "findings": [asdict(item) for item in self.findings]}

    def table(self) -> str:
        """Return one line per finding, the way out below it."""
        width = max(len(item.check) for item in self.findings)
        lines = []
        for item in self.findings:
            lines.append(f"{item.status:<4}  {item.check:<{width}}  {item.found}")
            if item.mend:
                lines.append(f"{'':<4}  {'':<{width}}  -> {item.mend}")
        return "\n".join(lines)


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
    """Return the flags that Linux lists for the first core, None elsewhere."""
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


def packages() -> list[Finding]:
    """Compare installed versions with those that pyproject.toml asks for."""
    from packaging.requirements import Requirement

    findings = []
    for line in requires("vsgrpo") or []:
        wanted = Requirement(line)
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        mend = f"pip install '{wanted.name}{wanted.specifier}'"
        try:
            installed = version(wanted.name)
        except PackageNotFoundError:
            status = "warn" if wanted.name in OPTIONAL else "fail"
            findings.append(Finding(wanted.name, status, "not installed", mend))
            continue
        if not wanted.specifier.contains(installed, prereleases=True):
            findings.append(Finding(wanted.name, "fail", f"{installed}, supported: {wanted.specifier}", mend))
        elif wanted.name in SHOWN:
            findings.append(Finding(wanted.name, "ok", installed))
    return findings


def decoders() -> list[Finding]:
    """Write a clip and read it back with every backend."""
    if find_spec("av") is None:
        return [Finding("video", "fail", "PyAV is missing", "pip install av")]
    import numpy as np

    from vsgrpo.video.reader import read_frames
    from vsgrpo.video.writer import write_video

    findings: list[Finding] = []
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        frames = [np.full((56, 56, 3), 30 * number, np.uint8) for number in range(8)]
        write_video(clip, frames, fps=24)
        for backend in ("decord", "pyav", "torchcodec"):
            try:
                shown = read_frames(clip, [0, 7], backend=backend)
                right = abs(int(shown[1].mean()) - 210) < 8 and int(shown[0].mean()) < 8
                mend = "" if right else "choose another video.backend"
                findings.append(Finding(f"video.backend={backend}", "ok" if right else "fail", "reads a clip", mend))
            except VsgrpoError as error:
                status = "warn" if any(f.status == "ok" for f in findings) or backend == "decord" else "fail"
                findings.append(Finding(f"video.backend={backend}", status, error.message[:160], error.hint))
    return findings


def deepspeed() -> list[Finding]:
    """Say whether DeepSpeed is there, what it could build operators with, and which it has built."""
    if find_spec("deepspeed") is None:
        return [Finding("launch=zero2|zero3", "warn", "DeepSpeed is not installed", "pip install deepspeed")]
    missing = [tool for tool in ("g++", "ninja") if shutil.which(tool) is None]
    text = f"no {', '.join(missing)}" if missing else "DeepSpeed and its build tools are there"
    mend = "install them if DeepSpeed asks to build an operator (launch=zero3_offload does)" if missing else ""
    return [Finding("launch=zero2|zero3", "warn" if missing else "ok", text, mend), *_operators()]


def _operators() -> list[Finding]:
    """Look into torch's folder of compiled extensions: an operator without a library was left half built."""
    folder = Path(os.path.expanduser(os.environ.get("TORCH_EXTENSIONS_DIR", "~/.cache/torch_extensions")))
    places = [path for path in sorted([*folder.glob("*"), *folder.glob("*/*")]) if (path / "build.ninja").is_file()]
    built = [path.name for path in places if any(path.glob("*.so"))]
    half = [path for path in places if path.name not in built]
    found = [Finding("DeepSpeed operators", "ok", "built: " + (", ".join(built) or "none yet (not needed on a CPU)"))]
    for path in half:
        mend = f"unless a process is building it now: rm -r {path}"
        found.append(Finding("DeepSpeed operators", "warn", f"{path.name} was left half built", mend))
    return found


def wandb() -> list[Finding]:
    """Say whether a run with --wandb could report."""
    if find_spec("wandb") is None:
        return [Finding("wandb", "warn", "not installed", "pip install wandb, or leave --wandb out")]
    mode = os.environ.get("WANDB_MODE", "online")
    netrc = Path(os.path.expanduser(os.environ.get("NETRC", "~/.netrc")))
    key = "WANDB_API_KEY" in os.environ or (netrc.is_file() and "wandb" in netrc.read_text(errors="replace"))
    mend = "" if key or mode != "online" else "before --wandb: `wandb login`, or WANDB_MODE=offline"
    return [Finding("wandb", "ok" if not mend else "warn", f"mode {mode}, {'' if key else 'no '}key found", mend)]
