"""`vsgrpo doctor`: what would fail on this machine, and in the run that was asked about; how to fix it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from vsgrpo.config.compose import NOT_GIVEN, load_config
from vsgrpo.config.train import TrainConfig
from vsgrpo.data.row_numbers import RowNumbers
from vsgrpo.doctor import machine
from vsgrpo.doctor.machine import GIB, Finding, Report, hub_cache
from vsgrpo.errors import VsgrpoError
from vsgrpo.families import BUILT, find_model
from vsgrpo.memory.estimate import estimate_run
from vsgrpo.memory.fit import check_disk, check_memory, device_memory, memory_lines
from vsgrpo.training.launcher import check_devices, device_line
from vsgrpo.training.preflight import check_plan

METHODS = ("grpo", "sft", "dpo")
HUB = "huggingface.co"
REACH_S = 3.0


def examine(words: Sequence[str] = (), config_dir: Path | None = None) -> Report:
    """Run all checks; `words` may be those of a training run, or name source.root (see `examine_run`)."""
    checks = (machine.python, machine.packages, machine.processor, machine.gpus, machine.decoders)
    found = [item for check in (*checks, machine.deepspeed, machine.disk, machine.wandb) for item in check()]
    return Report([*found, *examine_run(words, config_dir)])


def examine_run(words: Sequence[str], config_dir: Path | None = None) -> list[Finding]:
    """Look at the paths that were named, and at a training run where anything else was.

    Args:
        words: KEY=VALUE as for `vsgrpo train`, with the method as a word of its own where no experiment says it;
            source.root of build-data may be among them.
        config_dir: of the user's own YAML files.
    """
    findings = [item for word in words if word.startswith("source.root=") for item in _scans(word)]
    method = [f"trainer={word}" for word in words if word in METHODS]
    rest = [word for word in words if word not in METHODS and not word.startswith("source")]
    if not method and not rest:
        return findings
    try:
        config = load_config("train", [*method, *rest], config_dir, allow_missing=True)
    except VsgrpoError as error:
        return [*findings, Finding("config", "fail", error.message, error.hint)]
    return [
        *findings,
        *_model(config.model.path, config.model.adapter),
        *_data(config),
        *_reporters(config.trainer.report_to),
        *_fit(config),
    ]


def _scans(word: str) -> list[Finding]:
    path = Path(os.path.expanduser(word.partition("=")[2]))
    if not path.is_dir():
        return [Finding(word, "fail", "no such folder", "give the folder that holds scans/")]
    return [Finding(word, "ok", f"{sum(1 for _ in (path / 'scans').glob('*'))} scans")]


def _model(path: str, adapter: str | None) -> list[Finding]:
    if path == NOT_GIVEN:
        return []
    check = f"model.path={path}"
    try:
        find_model(path, adapter)
        has_libraries = all(find_spec(name) for name in ("torch", "transformers", "peft"))
        if Path(path).is_dir() and has_libraries:
            from vsgrpo.modeling.load import load

            load(path, adapter, offline=True, device="meta")
    except VsgrpoError as error:
        return [Finding(check, "fail", error.message, error.hint)]
    if path in BUILT:
        return [Finding(check, "ok", "built on first use")]
    if Path(path).is_dir():
        text = "all tensors fit" if has_libraries else "model and processor files are there"
        return [Finding(check, "ok", text)]
    snapshots = hub_cache() / f"models--{path.replace('/', '--')}" / "snapshots"
    if any(snapshots.glob("*/config.json")):
        return [Finding(check, "ok", f"downloaded, in {hub_cache()}")]
    mend = "download it on another machine and give its folder: model=PATH"
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("0", ""):
        return [Finding(check, "fail", "not downloaded, and HF_HUB_OFFLINE is set", mend)]
    reached = reaches(HUB)
    text = f"not downloaded yet; {HUB} " + ("can be reached" if reached else "cannot be reached")
    return [Finding(check, "ok" if reached else "fail", text, "" if reached else mend)]


def reaches(host: str, port: int = 443) -> bool:
    """Tell whether a connection opens within `REACH_S` seconds."""
    try:
        with socket.create_connection((host, port), timeout=REACH_S):
            return True
    except OSError:
        return False


def _data(config: TrainConfig) -> list[Finding]:
    if config.data.path == NOT_GIVEN:
        return []
    found = []
    for name, _ in config.data.folders():
        path = Path(os.path.expanduser(name))
        rows = path / f"{config.data.split}.jsonl"
        check = f"data.path={name}"
        if not rows.is_file():
            mend = "build it: vsgrpo build-data source.root=DIR output=DIR"
            found.append(
                Finding(check, "fail", f"{rows.name} is not there" if path.is_dir() else "no such folder", mend)
            )
            continue
        manifest = "with" if (path / "manifest.json").is_file() else "without"
        found.append(Finding(check, "ok", f"{rows.name}, {manifest} manifest.json (vsgrpo check-data looks at rows)"))
    return found


def _reporters(names: Sequence[str]) -> list[Finding]:
    return [
        Finding(
            "trainer.report_to", "warn", f"{name} is not installed", f"pip install {name}; training goes on without"
        )
        for name in names
        if find_spec(name) is None
    ]


def _fit(config: TrainConfig) -> list[Finding]:
    """Check batch and rows as `vsgrpo train` does, then memory and disk."""
    found: list[Finding] = []
    numbers = [RowNumbers()]

    def attempt(check: str, look: Callable[[], str | None], good: str) -> None:
        try:
            warning = look()
        except VsgrpoError as error:
            found.append(Finding(check, "fail", error.message, error.hint))
            return
        text, _, mend = (warning or good).removeprefix("warning: ").partition(": ")
        found.append(Finding(check, "warn", text, mend) if warning else Finding(check, "ok", good))

    def look_at_config() -> None:
        numbers[0] = check_plan(config)

    def look_at_devices() -> str | None:
        check_devices(config)
        return line if line.startswith("warning: ") else None

    line = device_line(config)
    attempt("config", look_at_config, "batches, stages and rewards hold")
    attempt("launch", look_at_devices, line.removeprefix("device: "))
    if found[0].status == "fail":
        return found
    estimate = estimate_run(config, numbers[0])
    if estimate is None:
        text = f"not estimated: no config.json of {config.model.path} is at hand"
        return [*found, Finding("fits: memory", "warn", text, "give a model folder: model=PATH")]
    need = memory_lines(estimate)[0].removeprefix("memory of one process: ")
    available = device_memory(config)
    if available is None:
        mend = "no GPU is seen here: name its memory with launch.device_memory_gb=N"
        found.append(Finding("fits: memory", "warn", need, mend))
    else:
        have = f"{need}; there are {available[0] / GIB:.1f} GiB {available[1]}"
        attempt("fits: memory", lambda: check_memory(estimate, *available), have)
    attempt("fits: disk", lambda: next(iter(check_disk(config, numbers[0])), None), "checkpoints and caches have room")
    return found
