"""The folder of a run before training: made or refused, locked against a second run, compared before a resume."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vsgrpo.config import TrainConfig
from vsgrpo.config.compose import to_yaml
from vsgrpo.config.train import WHOLE
from vsgrpo.config.trainer import BEFORE_KEYS
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.files import write_atomic

LOCK_NAME = ".lock"


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold RUN_DIR/.lock; the kernel gives it back when the process ends, however it ends.

    Raises:
        DataError: another process holds it, or the folder cannot be made.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        stream = (run_dir / LOCK_NAME).open("a")
    except OSError as error:
        raise _unwritable(run_dir, error) from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"run.dir={run_dir}: another process is training there", hint="wait, or choose another output=DIR"
            ) from None
        yield


def _unwritable(run_dir: Path, error: OSError) -> DataError:
    return DataError(f"run.dir={run_dir}: cannot be written: {error.strerror}", hint="choose another output=DIR")


def prepare_run_folder(
    run_dir: Path, config: TrainConfig, overrides: list[str], *, resume: bool, overwrite: bool
) -> None:
    """Create RUN_DIR with config.yaml, overrides.txt and env.json, or refuse.

    Raises:
        DataError: the folder holds something else, is in use, cannot be written, or has nothing to resume.
    """
    ours = (run_dir / "config.yaml").is_file()
    if run_dir.exists() and (not run_dir.is_dir() or (_content(run_dir) and not ours)):
        raise DataError(f"run.dir={run_dir}: exists and is no run folder", hint="choose another output=DIR")
    if ours:
        pid = _running_pid(run_dir)
        if pid is not None:
            raise DataError(
                f"run.dir={run_dir}: process {pid} is training there", hint="wait, or choose another output"
            )
        if not resume and not overwrite:
            raise DataError(
                f"run.dir={run_dir}: holds an earlier run",
                hint="add --resume to go on, --overwrite to start anew, or choose another output=DIR",
            )
        if overwrite:
            for path in _content(run_dir):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    elif resume:
        raise DataError(f"run.dir={run_dir}: nothing to resume", hint="leave --resume out to start the run")
    if resume and (run_dir / "config.yaml").is_file():
        _check_same_config(run_dir, config)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        write_atomic(run_dir / "config.yaml", to_yaml(config))
        write_atomic(run_dir / "overrides.txt", "\n".join(overrides) + "\n")
        write_atomic(run_dir / "env.json", json.dumps(environment(), indent=1) + "\n")
    except OSError as error:
        raise _unwritable(run_dir, error) from None


def _content(run_dir: Path) -> list[Path]:
    return [path for path in run_dir.iterdir() if path.name != LOCK_NAME]


def _check_same_config(run_dir: Path, config: TrainConfig) -> None:
    """Refuse to resume with values that would make the rest of the run another run."""
    from omegaconf import OmegaConf

    old = OmegaConf.to_container(OmegaConf.load(run_dir / "config.yaml"))
    new = OmegaConf.to_container(OmegaConf.create(to_yaml(config)))
    free = {("run", "dir"), ("run", "name"), ("trainer", "report_to"), ("trainer", "save_total_limit")}
    free.add(("video", "max_quarantined"))
    assert isinstance(old, dict) and isinstance(new, dict)
    if _check_same_processes(old, new, _at_stage_boundary(run_dir)):
        free.add(("trainer", "per_device_train_batch_size"))
    for section in new:
        if section == "launch":
            continue
        for key, value in new[section].items():
            before = old.get(section, {}).get(key, BEFORE_KEYS.get(f"{section}.{key}"))
            if before != value and (section, key) not in free:
                raise ConfigError(
                    f"{section}.{key}={value}: the run in {run_dir} was started with {before}",
                    hint=f"resume with {section}.{key}={before}, or start another run with another output=DIR",
                )


def _at_stage_boundary(run_dir: Path) -> bool:
    """Return whether the newest complete checkpoint ends its stage: the next one starts from its weights alone."""
    try:
        known = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))["checkpoints"]
        files = [run_dir / f"checkpoint-{number}" / "trainer_state.json" for number in sorted(known, key=int)]
        state = json.loads([file for file in files if file.is_file()][-1].read_text(encoding="utf-8"))
        return state["global_step"] >= state["max_steps"]
    except (OSError, ValueError, LookupError):
        return False


def _check_same_processes(old: dict[Any, Any], new: dict[Any, Any], only_weights: bool) -> bool:
    """Return whether a run goes on with another number of processes; refuse where it could not go on exactly.

    Data order, sampling and optimizer state belong to the run, not to a process, as long as one process holds the whole
    optimizer state and the batch of a step stays the same. Engines that shard it write one file per process.

    Args:
        only_weights: no optimizer state is taken over.

    Raises:
        ConfigError: a sharded optimizer state, or another number of samples per step.
    """
    before, after = old["launch"], new["launch"]
    counts = before["num_processes"], after["num_processes"]
    if before["profile"] == after["profile"] and counts[0] == counts[1]:
        return False
    engines = {before["profile"], after["profile"]}
    if not only_weights and not engines <= set(WHOLE):
        raise ConfigError(
            f"launch={after['profile']} with launch.num_processes={counts[1]}: the checkpoints hold the optimizer "
            f"state in {counts[0]} parts of launch={before['profile']}",
            hint=f"resume with launch={before['profile']} launch.num_processes={counts[0]}, or start a new run from "
            "model.path=CHECKPOINT",
        )
    batches = [values["trainer"]["per_device_train_batch_size"] for values in (old, new)]
    if batches[0] * counts[0] != batches[1] * counts[1]:
        raise ConfigError(
            f"launch.num_processes={counts[1]}: {batches[1]} x {counts[1]} samples per microbatch, the run was started "
            f"with {batches[0]} x {counts[0]}",
            hint=f"keep the product: trainer.per_device_train_batch_size={batches[0] * counts[0] / counts[1]:g}",
        )
    return True


def _running_pid(run_dir: Path) -> int | None:
    """Return the live process that run.json names as training here, if any."""
    try:
        state: dict[str, Any] = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
        pid = int(state["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if state.get("status") != "running" or pid == os.getpid() or state.get("host", platform.node()) != platform.node():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return pid
    return pid


def environment() -> dict[str, Any]:
    """Return versions, platform and command of this process, for env.json and results."""
    names = ("vsgrpo", "torch", "transformers", "trl", "accelerate", "peft", "deepspeed", "datasets", "numpy", "av")
    versions: dict[str, str | None] = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "versions": versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "commit": commit or None,
        "command": sys.argv,
    }
