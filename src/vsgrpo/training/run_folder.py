"""The run folder: made or refused before training, checkpoints numbered over all stages, `run.json`, `final/`."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vsgrpo.config.compose import to_yaml
from vsgrpo.config.train import TrainConfig
from vsgrpo.data.inputs import (
    InputFile,
    changes,
    hash_in_background,
    read_inputs,
    refuse_changes,
    stop_hashing,
    write_inputs,
)
from vsgrpo.errors import DataError
from vsgrpo.files import find_damage, publish, write_atomic, write_checksums
from vsgrpo.paths import ASIDE_NAME, LOCK_NAME, drop_aside, is_set_aside, remove, set_aside, take_back, unwritable
from vsgrpo.records import RUN_STATUS, read_record
from vsgrpo.terminal import show
from vsgrpo.training.continuation import Checkpoint, check_same_config, newest_first
from vsgrpo.training.launcher import own_rank

SCHEMA_VERSION = 1
_OWN = ("config.yaml", "overrides.txt", "env.json", "inputs.json", "run.json", "log.jsonl", "completions.jsonl")
_OWN += ("mix.json", "checkpoint-*", "damaged-checkpoint-*", "final", "tiny", ".partial", ".final.*")
_OWN += ("bad_batch-*.json", "rollout_weights", "report.html", "samples.html", "wandb", "tensorboard")
"""Files that a run writes: --overwrite replaces them, and the evaluations inside the folder. Caches serve the next run
too; `failures` is that of the latest start."""
_DIAGNOSES = "bad_batch-*.json"
"""Files that say why a run failed; they stay when the earlier run comes back."""


@dataclass
class RunFolder:
    """RUN_DIR as the training process sees it; only process 0 writes.

    Args:
        describe: writes what every model folder carries (vision.json, training_manifest.json) into a folder.
        keep: how many checkpoints stay; None keeps all.
        repeats_rows: the run began with a version whose processes, in SFT and DPO, fill the last microbatch of an epoch
            with rows from its beginning; it goes on so.
    """

    path: Path
    describe: Callable[[Path], None]
    keep: int | None = None
    repeats_rows: bool = False

    @property
    def partial(self) -> Path:
        """Folder in which the Trainer writes a checkpoint before it gets its number."""
        return self.path / ".partial"

    def read_status(self) -> dict[str, Any]:
        """Return run.json, empty where there is none yet.

        Raises:
            DataError: it is broken or of another schema.
        """
        path = self.path / "run.json"
        if not path.is_file():
            return {}
        status = read_record(path, RUN_STATUS, "put a copy back, or start anew with --overwrite or another output=DIR")
        if status.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
            raise DataError(
                f"{path}: schema_version={status['schema_version']}: this version reads {SCHEMA_VERSION}",
                "resume with the version that started the run",
            )
        return status

    def update_status(self, **values: Any) -> None:
        """Set keys of run.json, the others stay; only process 0 writes."""
        if own_rank() > 0:
            return
        status = {"schema_version": SCHEMA_VERSION, **self.read_status(), **values}
        write_atomic(self.path / "run.json", json.dumps(status, indent=1) + "\n")

    def publish(self, stage: int, step: int, number: int) -> None:
        """Give the checkpoint just written its final name, enter it into run.json, drop the oldest ones.

        It has checksums and is on disk before run.json names it. What an --overwrite had set aside goes with the first.
        """
        source = self.partial / f"checkpoint-{step}"
        target = self.path / f"checkpoint-{number}"
        self.describe(source)
        write_checksums(source)
        publish(source, target)
        shutil.rmtree(self.partial)
        status = self.read_status()
        known = {**status.get("checkpoints", {}), str(number): {"stage": stage, "step": step}}
        self.update_status(checkpoints=known)
        best = status.get("best")
        kept = None if best is None else str(self.path / f"checkpoint-{best['checkpoint']}")
        from transformers.trainer_utils import rotate_checkpoints  # it imports torch

        rotate_checkpoints(str(self.path), save_total_limit=self.keep, best_model_checkpoint=kept)
        self.update_status(checkpoints={n: c for n, c in known.items() if (self.path / f"checkpoint-{n}").is_dir()})
        drop_aside(self.path)

    def note_score(self, number: int, score: float) -> float:
        """Enter the dev score of checkpoint `number` into run.json; return the best one (the earlier of equals)."""
        status = self.read_status()
        scores = {**status.get("dev_scores", {}), str(number): score}
        best = min(scores, key=lambda name: (-scores[name], int(name)))
        self.update_status(dev_scores=scores, best={"checkpoint": int(best), "dev_score": scores[best]})
        return scores[best]

    def checkpoints(self) -> Iterator[Checkpoint]:
        """Yield the complete checkpoints, newest first."""
        return newest_first(self.path, self.read_status())

    def publish_final(self, save: Callable[[Path], None], writes: bool = True) -> None:
        """Let `save` write the trained model, then give it the name `final`; every process calls this.

        Args:
            writes: True on the process that renames and describes.
        """
        source, target = self.path / ".final.partial", self.path / "final"
        if writes:
            shutil.rmtree(source, ignore_errors=True)
        save(source)
        if writes:
            self.describe(source)
            publish(source, target)
            drop_aside(self.path)


def read_status(run_dir: Path) -> dict[str, Any]:
    """Return run.json, empty where it cannot be read (`RunFolder.read_status` says why)."""
    path = run_dir / "run.json"
    if not path.is_file():
        return {}
    try:
        return read_record(path, RUN_STATUS, "")
    except DataError:
        return {}


def prepare_run_folder(
    run_dir: Path,
    config: TrainConfig,
    overrides: list[str],
    *,
    resume: bool,
    overwrite: bool,
    inputs: dict[str, InputFile] | None = None,
    allow_changed: bool = False,
) -> None:
    """Create RUN_DIR with config.yaml, overrides.txt, env.json and inputs.json, or refuse; called under its lock.

    With `overwrite` an earlier run is set aside until the new one has a checkpoint (`settle`). A run that made no step
    is replaced unasked: there is nothing of it to lose or to go on from.

    Args:
        inputs: what the run reads, as it is now (`data.inputs.look_at`); None compares and records nothing.
        allow_changed: go on with inputs that differ from those the run was started with.

    Raises:
        DataError: the folder holds something else, is in use, cannot be written, has nothing to resume or nothing but
            damaged checkpoints, or its inputs changed.
        ConfigError: a resume with other values.
    """
    is_run = _check_folder(run_dir, resume)
    began = is_run and made_steps(run_dir)
    if began and not resume and not overwrite:
        raise DataError(
            f"run.dir={run_dir}: holds an earlier run",
            hint="add --resume to go on, --overwrite to start anew, or choose another output=DIR",
        )
    if resume:
        _leave_damaged(run_dir)
        check_same_config(run_dir, config, next(newest_first(run_dir, read_status(run_dir)), None))
        if began and inputs is not None:
            _check_same_inputs(run_dir, inputs, allow_changed)
    try:
        if began and overwrite:
            _set_run_aside(run_dir)
        elif is_run and not resume:
            for path in _own(run_dir):
                remove(path)
        run_dir.mkdir(parents=True, exist_ok=True)
        write_atomic(run_dir / "config.yaml", to_yaml(config))
        write_atomic(run_dir / "overrides.txt", "\n".join(overrides) + "\n")
        write_atomic(run_dir / "env.json", json.dumps(environment(), indent=1) + "\n")
        if inputs is not None:
            write_inputs(run_dir, inputs)
            hash_in_background(run_dir, inputs)
    except OSError as error:
        raise unwritable(run_dir, "run.dir", error) from None


def _check_folder(run_dir: Path, resume: bool) -> bool:
    """Return whether the folder holds a run; refuse another folder, one in use, and a resume of nothing."""
    is_other = run_dir.exists() and not run_dir.is_dir()
    if not is_other:
        settle(run_dir)
        is_run = (run_dir / "config.yaml").is_file()
        is_other = not is_run and bool(_entries(run_dir))
    if is_other:
        raise DataError(f"run.dir={run_dir}: exists and is no run folder", hint="choose another output=DIR")
    if resume and not is_run:
        raise DataError(f"run.dir={run_dir}: nothing to resume", hint="leave --resume out to start the run")
    pid = _running_pid(run_dir)
    if pid is not None:
        raise DataError(f"run.dir={run_dir}: process {pid} is training there", hint="wait, or choose another output")
    return is_run


def settle(run_dir: Path) -> None:
    """End what an --overwrite left open: the earlier run comes back where the new one has no checkpoint, or goes.

    For the end of every start, however it ended, and the beginning of the next one.
    """
    if not is_set_aside(run_dir):
        return
    if (run_dir / ASIDE_NAME).is_dir() and (read_status(run_dir).get("checkpoints") or (run_dir / "final").is_dir()):
        drop_aside(run_dir)
        return
    stop_hashing(run_dir)
    new = [path for path in _own(run_dir) if not fnmatch(path.name, _DIAGNOSES)]
    take_back(run_dir, new)
    show(f"run.dir={run_dir}: --overwrite ended before its first checkpoint: the earlier run is back", sys.stderr)


def made_steps(run_dir: Path) -> bool:
    """Return whether a run got as far as an optimizer step that left a trace, or the folder was not written by us."""
    if not (run_dir / "env.json").is_file():
        return True
    if read_status(run_dir).get("checkpoints") or any(run_dir.glob("*checkpoint-*")) or (run_dir / "final").is_dir():
        return True
    log = run_dir / "log.jsonl"
    return log.is_file() and log.stat().st_size > 0


def _entries(run_dir: Path) -> list[Path]:
    if not run_dir.is_dir():
        return []
    return [path for path in sorted(run_dir.iterdir()) if path.name not in (LOCK_NAME, "failures", "cache")]


def _own(run_dir: Path) -> list[Path]:
    return [path for path in _entries(run_dir) if any(fnmatch(path.name, pattern) for pattern in _OWN)]


def _set_run_aside(run_dir: Path) -> None:
    """Set the run and the evaluations of its checkpoints aside; name what stays because vsgrpo did not write it."""
    going = {*_own(run_dir), *(path.parent for path in run_dir.glob("*/predictions*.jsonl"))}
    going |= {path.parent for path in run_dir.glob("*/results.json")}
    staying = [path.name for path in _entries(run_dir) if path not in going]
    if staying:
        show(f"run.dir={run_dir}: not of the run, left in place: {', '.join(staying)}", sys.stderr)
    set_aside(run_dir, sorted(path.name for path in going))


def _leave_damaged(run_dir: Path) -> None:
    """Rename damaged checkpoints, newest first, until one is whole, and take them out of run.json.

    Raises:
        DataError: all of them are damaged.
    """
    status = read_status(run_dir)
    known: dict[str, Any] = status.get("checkpoints") or {}
    damage: dict[str, str] = {}
    for number in sorted(known, key=int, reverse=True):
        path = run_dir / f"checkpoint-{number}"
        whole = path.is_dir() and (path / "trainer_state.json").is_file()
        found = find_damage(path) if whole else f"{'trainer_state.json: ' if path.is_dir() else ''}missing"
        if found is None:
            break
        damage[number] = found
    if not damage:
        return
    texts = [f"checkpoint-{number} is damaged ({text})" for number, text in damage.items()]
    left = {number: entry for number, entry in known.items() if number not in damage}
    if not left:
        raise DataError(
            f"run.dir={run_dir}: {'; '.join(texts)}: there is no other one",
            hint="put a copy back, or start anew with --overwrite or another output=DIR",
        )
    for number in damage:
        if (run_dir / f"checkpoint-{number}").is_dir():
            remove(run_dir / f"damaged-checkpoint-{number}")
            os.replace(run_dir / f"checkpoint-{number}", run_dir / f"damaged-checkpoint-{number}")
    write_atomic(run_dir / "run.json", json.dumps({**status, "checkpoints": left}, indent=1) + "\n")
    show(f"warning: {'; '.join(texts)}: going on from checkpoint-{max(left, key=int)}", sys.stderr)


def _check_same_inputs(run_dir: Path, inputs: dict[str, InputFile], allow_changed: bool) -> None:
    """Refuse to go on with other inputs, or (`allow_changed`) enter into run.json that the run did."""
    before = read_inputs(run_dir)
    if before is None:
        note = "no inputs.json, as of an earlier version: rows, videos and models not compared"
        show(f"note: run.dir={run_dir}: {note}", sys.stderr)
    found = changes(before, inputs) if before is not None else []
    if not allow_changed:
        refuse_changes(found, f"run.dir={run_dir}")
    elif found:
        status = read_status(run_dir)
        step = max((int(number) for number in status.get("checkpoints") or {}), default=0)
        status.setdefault("changed_inputs", []).append({"step": step, "inputs": found})
        write_atomic(run_dir / "run.json", json.dumps(status, indent=1) + "\n")
        show(f"warning: from step {step} on with other inputs: {'; '.join(found)}", sys.stderr)


def _running_pid(run_dir: Path) -> int | None:
    """Return the live process that run.json names as training here, if any."""
    import psutil

    state, host = read_status(run_dir), platform.node()
    pid = state.get("pid")
    if state.get("status") != "running" or state.get("host", host) != host or not isinstance(pid, int):
        return None
    return pid if pid != os.getpid() and psutil.pid_exists(pid) else None


def environment() -> dict[str, Any]:
    """Return versions, platform and command of this process, for env.json and results."""
    names = ("vsgrpo", "torch", "transformers", "trl", "accelerate", "peft", "deepspeed", "datasets", "numpy", "av")
    versions: dict[str, str | None] = dict.fromkeys(names)
    for name in names:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
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
