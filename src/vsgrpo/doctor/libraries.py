"""Packages, video decoders, DeepSpeed's operators, Weights & Biases."""

from __future__ import annotations

import os
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from vsgrpo.doctor.findings import Finding
from vsgrpo.errors import VsgrpoError

SHOWN = ("torch", "transformers", "trl", "accelerate", "peft", "deepspeed", "decord")
OPTIONAL = ("deepspeed", "decord")


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
