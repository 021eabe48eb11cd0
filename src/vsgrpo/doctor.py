"""`vsgrpo doctor`: what would fail on this machine, with or without torch, and in the run that was asked about."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import requires
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from vsgrpo import hub
from vsgrpo.config.compose import NOT_GIVEN, load_config
from vsgrpo.config.train import TrainConfig
from vsgrpo.config.trainer import TRAINERS, GrpoSection
from vsgrpo.data.kept_out import keeping_out
from vsgrpo.devices import visible_gpus
from vsgrpo.engine.examine import examine_environment, examine_server
from vsgrpo.errors import VsgrpoError
from vsgrpo.families import BUILT, find_model
from vsgrpo.families.hub_models import NO_NETWORK
from vsgrpo.families.vision_record import other_rule, with_rules
from vsgrpo.findings import Finding, Report, judged
from vsgrpo.memory.fit import check_disk, check_memory, free_bytes, memory_lines
from vsgrpo.memory.passes import GIB, device_memory, estimate_run, main_memory
from vsgrpo.packages import FEATURES, NEEDS, install_command, installed_version, needed_by
from vsgrpo.terminal import counted
from vsgrpo.trackers import missing_package
from vsgrpo.training.launcher import check_devices, device_line
from vsgrpo.training.preflight import check_plan
from vsgrpo.training.servers import needs_of

if TYPE_CHECKING:
    from packaging.requirements import Requirement

ENOUGH_GIB = 20
"""Checkpoints, videos and caches of a real run need tens of GB."""
SHOWN = ("torch", "transformers", "trl", "accelerate", "peft", "deepspeed", "decord")


def examine(words: Sequence[str] = (), config_dir: Path | None = None) -> Report:
    """Run all checks; `words` may be those of a training run, or name source.root (see `examine_run`)."""
    checks = (python, packages, processor, gpus, decoders, deepspeed, disk, wandb, examine_environment)
    return Report([*(item for check in checks for item in check()), *examine_run(words, config_dir)])


def python() -> Iterator[Finding]:
    """Compare the interpreter with what we support."""
    mend = "" if (3, 11) <= sys.version_info[:2] <= (3, 12) else "use Python 3.11 or 3.12"
    yield judged("python", platform.python_version(), mend, "fail")


def processor() -> Iterator[Finding]:
    """Count cores and memory; name the vector instructions that torch and the decoders are fast with."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = main_memory()
    size = "unknown" if memory is None else f"{memory / GIB:.1f} GiB"
    yield Finding("cpu", "ok", f"{counted(cores, 'core')}, {size} memory, {platform.machine()} {platform.system()}")
    flags = cpu_flags()
    if flags is None:
        return
    names = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16") if name in flags]
    bf16 = any(name.endswith("bf16") for name in names)
    text = (", ".join(names) or "no vector instructions that we know") + ("" if bf16 else "; bfloat16 is emulated")
    mend = "" if {"avx2", "asimd"} & flags else "torch is several times slower here: use another machine for training"
    yield judged("cpu flags", text, mend)


def cpu_flags() -> set[str] | None:
    """Return the flags that Linux lists for the first core, None elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    values = (line.partition(":") for line in lines)
    return next((set(flags.split()) for key, _, flags in values if key.strip() in ("flags", "Features")), None)


def gpus() -> Iterator[Finding]:
    """Count the GPUs that CUDA would show, and compare them with the torch that is installed."""
    seen = visible_gpus()
    if not seen:
        yield Finding("gpu", "warn", seen.describe(), "fine for launch=cpu; real models need a GPU")
        return
    memory = seen.smallest_memory()
    text = seen.describe() + ("" if memory is None else f", {memory / GIB:.0f} GiB each at least")
    if seen.hidden:
        text += f"; CUDA_VISIBLE_DEVICES hides {seen.hidden} more"
    torch = installed_version("torch")
    if torch.endswith("+cpu"):
        yield Finding("gpu", "fail", f"{text}; torch {torch} cannot use them", "install torch built for CUDA")
    else:
        yield Finding("gpu", "ok", text)


def disk() -> Iterator[Finding]:
    """Look at what is free here, and where models are downloaded to."""
    yield _free("disk", Path("."), "here")
    cache = hub_cache()
    if free_bytes(cache) != free_bytes(Path(".")):
        yield _free("model cache", cache, f"in {cache}")


def hub_cache() -> Path:
    """Return the folder that huggingface_hub downloads to."""
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    return Path(os.path.expanduser(os.environ.get("HF_HUB_CACHE", f"{home}/hub")))


def _free(check: str, folder: Path, where: str) -> Finding:
    free = free_bytes(folder) / GIB
    mend = "" if free > ENOUGH_GIB else "checkpoints, models and caches of a real run want tens of GB"
    return judged(check, f"{free:.0f} GiB free {where}", mend)


def packages() -> Iterator[Finding]:
    """Compare installed versions with those that pyproject.toml asks for."""
    for wanted in _asked_for():
        mend = install_command([wanted.name])
        installed = installed_version(wanted.name)
        if not installed:
            text = f"not installed; it is for {needed_by(wanted.name)}"
            yield Finding(wanted.name, "warn" if wanted.name in FEATURES else "fail", text, mend)
        elif not wanted.specifier.contains(installed, prereleases=True):
            yield Finding(wanted.name, "fail", f"{installed}, supported: {wanted.specifier}", mend)
        elif wanted.name in SHOWN:
            yield Finding(wanted.name, "ok", installed)
    if not installed_version("torch"):
        text = f"without torch: {', '.join(NEEDS)} cannot run, every other command can"
        yield Finding("light install", "warn", text, "for all commands: `pip install .` in the checkout, or the wheel")


def _asked_for() -> list[Requirement]:
    """Return what pyproject.toml asks for on this platform."""
    from packaging.requirements import Requirement

    lines = map(Requirement, requires("vsgrpo") or [])
    return [line for line in lines if line.marker is None or line.marker.evaluate({"extra": ""})]


def _is_named(package: str) -> bool:
    """Return whether `packages` says that a package is missing: one line says so."""
    return not installed_version(package) and package in {line.name for line in _asked_for()}


def decoders() -> Iterator[Finding]:
    """Write a clip and read it back with every backend."""
    if _is_named("av"):
        return
    import numpy as np

    from vsgrpo.video.reader import read_frames
    from vsgrpo.video.writer import write_video

    can_read = False
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        frames = [np.full((56, 56, 3), 30 * number, np.uint8) for number in range(8)]
        write_video(clip, frames, fps=24)
        for backend in ("decord", "pyav", "torchcodec"):
            check = f"video.backend={backend}"
            if _is_named(backend):
                continue
            try:
                shown = read_frames(clip, [0, 7], backend=backend)
                is_right = abs(int(shown[1].mean()) - 210) < 8 and int(shown[0].mean()) < 8
                can_read |= is_right
                yield judged(check, "reads a clip", "" if is_right else "choose another video.backend", "fail")
            except VsgrpoError as error:
                status = "warn" if can_read or backend == "decord" else "fail"
                yield Finding(check, status, error.message[:160], error.hint)


def deepspeed() -> Iterator[Finding]:
    """Report whether DeepSpeed is there, what it could build operators with, and which it has built."""
    check = "launch=zero2|zero3"
    if _is_named("deepspeed"):
        return
    if not installed_version("deepspeed"):
        yield Finding(check, "warn", "DeepSpeed is not installed", "pip install deepspeed")
        return
    missing = [tool for tool in ("g++", "ninja") if shutil.which(tool) is None]
    text = f"no {', '.join(missing)}" if missing else "DeepSpeed and its build tools are there"
    mend = "install them if DeepSpeed asks to build an operator (launch=zero3_offload does)" if missing else ""
    yield judged(check, text, mend)
    # torch's folder of compiled extensions: an operator without a library was left half built
    folder = Path(os.path.expanduser(os.environ.get("TORCH_EXTENSIONS_DIR", "~/.cache/torch_extensions")))
    places = [path for path in sorted([*folder.glob("*"), *folder.glob("*/*")]) if (path / "build.ninja").is_file()]
    built = [path.name for path in places if any(path.glob("*.so"))]
    yield Finding("DeepSpeed operators", "ok", "built: " + (", ".join(built) or "none yet (not needed on a CPU)"))
    for path in places:
        if path.name not in built:
            mend = f"unless a process is building it now: rm -r {path}"
            yield Finding("DeepSpeed operators", "warn", f"{path.name} was left half built", mend)


def wandb() -> Iterator[Finding]:
    """Report whether a run with --wandb could log."""
    if _is_named("wandb"):
        return
    mode = os.environ.get("WANDB_MODE", "online")
    netrc = Path(os.path.expanduser(os.environ.get("NETRC", "~/.netrc")))
    key = "WANDB_API_KEY" in os.environ or (netrc.is_file() and "wandb" in netrc.read_text(errors="replace"))
    mend = "" if key or mode != "online" else "before --wandb: `wandb login`, or WANDB_MODE=offline"
    yield judged("wandb", f"mode {mode}, {'' if key else 'no '}key found", mend)


def examine_run(words: Sequence[str], config_dir: Path | None = None) -> Iterator[Finding]:
    """Look at the paths that `words` name, and at the training run that they describe.

    The words are those of `vsgrpo train` (the method where no experiment has it), and source.root of `build-data`.
    """
    for word in [word for word in words if word.startswith("source.root=")]:
        path = Path(os.path.expanduser(word.partition("=")[2]))
        if path.is_dir():
            yield Finding(word, "ok", counted(sum(1 for _ in (path / "scans").glob("*")), "scan"))
        else:
            yield Finding(word, "fail", "no such folder", "give the folder that holds scans/")
    method = [f"trainer={word}" for word in words if word in TRAINERS]
    rest = [word for word in words if word not in TRAINERS and not word.startswith("source")]
    if not method and not rest:
        return
    try:
        config = with_rules(load_config("train", [*method, *rest], config_dir, allow_missing=True))
    except VsgrpoError as error:
        yield Finding("config", "fail", error.message, error.hint)
        return
    if config.model.path != NOT_GIVEN:
        yield _model(config.model.path, config.model.adapter)
        yield _attempt("text after a video", lambda: other_rule(config), str(config.model.text_after_video))
    if config.data.path != NOT_GIVEN:
        yield from _data(config)
    for name in config.trainer.report_to:
        if (package := missing_package(name)) is not None:
            mend = f"pip install {package}, or leave {name} out"
            yield Finding("trainer.report_to", "fail", f"{name} is not installed", mend)
    yield from _servers(config)
    yield from _fit(config)


def _servers(config: TrainConfig) -> Iterator[Finding]:
    """Look at the servers of the stage with the longest completions; how long prompts are is known with the rows."""
    sections = [section for section in config.stage_sections() if isinstance(section, GrpoSection)]
    served = [section for section in sections if config.rollout_engine(section) == "vllm"]
    if served:
        longest = max(served, key=lambda section: section.max_completion_length)
        needs = needs_of(config, longest, longest.max_completion_length)
        yield from (examine_server(url, needs) for url in config.rollout.vllm.base_urls)


def _model(path: str, adapter: str | None) -> Finding:
    check = f"model.path={path}"
    try:
        find_model(path, adapter)
        has_libraries = all(find_spec(name) for name in ("torch", "transformers", "peft"))
        if Path(path).is_dir() and has_libraries:
            from vsgrpo.modeling.load import load

            load(path, adapter, offline=True, device="meta")
    except VsgrpoError as error:
        return Finding(check, "fail", error.message, error.hint)
    if path in BUILT:
        return Finding(check, "ok", "built on first use")
    if Path(path).is_dir():
        return Finding(check, "ok", "all tensors fit" if has_libraries else "model and processor files are there")
    snapshots = hub_cache() / f"models--{path.replace('/', '--')}" / "snapshots"
    if any(snapshots.glob("*/config.json")):
        return Finding(check, "ok", f"downloaded, in {hub_cache()}")
    mend = NO_NETWORK
    if (reason := hub.why_unreachable()) is not None:
        return Finding(check, "fail", f"not downloaded yet; {reason}", mend)
    return Finding(check, "ok", f"not downloaded yet; {hub.endpoint()} can be reached")


def _data(config: TrainConfig) -> Iterator[Finding]:
    for name, *_ in config.data.sources():
        path = Path(os.path.expanduser(name))
        rows, check = path / f"{config.data.split}.jsonl", f"data.path={name}"
        if path.is_file():
            yield Finding(check, "ok", "a file of rows (vsgrpo check-data looks at them)")
        elif rows.is_file():
            manifest = "with" if (path / "manifest.json").is_file() else "without"
            yield Finding(check, "ok", f"{rows.name}, {manifest} manifest.json (vsgrpo check-data looks at rows)")
        else:
            found = f"{rows.name} is not there" if path.is_dir() else "no such folder"
            yield Finding(
                check, "fail", found, "vsgrpo build-data source.root=DIR output=DIR, or rows of your own: data=FILE"
            )


def _attempt(check: str, look: Callable[[], str | None], good: str) -> Finding:
    """Return a finding of a check that raises what is wrong, or returns a warning."""
    try:
        warning = look()
    except VsgrpoError as error:
        return Finding(check, "fail", error.message, error.hint)
    if not warning:
        return Finding(check, "ok", good)
    text, _, mend = warning.removeprefix("warning: ").partition(": ")
    return Finding(check, "warn", text, mend)


def _fit(config: TrainConfig) -> Iterator[Finding]:
    """Check batch and rows as `vsgrpo train` does, then memory and disk."""
    try:
        with keeping_out(config.data.keep_out):
            numbers = check_plan(config)
        yield Finding("config", "ok", "batches, stages and rewards hold")
    except VsgrpoError as error:
        numbers = None
        yield Finding("config", "fail", error.message, error.hint)
    line = device_line(config)
    warning = line if line.startswith("warning: ") else None
    yield _attempt("launch", lambda: check_devices(config) or warning, line.removeprefix("device: "))
    if numbers is None:
        return
    estimate = estimate_run(config, numbers)
    if estimate is None:
        text = f"not estimated: no config.json of {config.model.path} is at hand"
        yield Finding("fits: memory", "warn", text, "give a model folder: model=PATH")
        return
    need = memory_lines(estimate)[0].removeprefix("memory of one process: ")
    available = device_memory(config)
    if available is None:
        mend = "no GPU is seen here: name its memory with launch.device_memory_gb=N"
        yield Finding("fits: memory", "warn", need, mend)
    else:
        have = f"{need}; there are {available[0] / GIB:.1f} GiB {available[1]}"
        yield _attempt("fits: memory", lambda: check_memory(estimate, *available), have)
    room = "checkpoints and caches have room"
    yield _attempt("fits: disk", lambda: next(iter(check_disk(config, numbers)), None), room)
