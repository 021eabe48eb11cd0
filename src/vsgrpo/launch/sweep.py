"""`vsgrpo train ... KEY=A,B --sweep`: a run for each combination of values, one after another or as a Slurm array.

Values are in Hydra's grammar: `KEY=A,B`, `KEY=choice(A,B)`, `KEY=range(1,4)`. Each run has a folder inside output=DIR
that is called after its values, so that the same command goes on where it stopped: finished runs are left alone, one
that was interrupted is resumed. Runs are processes of their own: one that fails or is killed leaves the others alone.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vsgrpo.errors import ConfigError
from vsgrpo.files import write_atomic
from vsgrpo.records import read_record
from vsgrpo.terminal import counted, note, show
from vsgrpo.training.launcher import STOP_SIGNALS, exit_code
from vsgrpo.training.run_folder import read_status

SCHEMA_VERSION = 1
SWEEP_NAME = "sweep.json"
SBATCH_NAME = "sweep.sbatch"
MAX_NAME = 120
"""Most characters of a run's folder name; of a longer one the end is a hash."""
_SHAPE = {"schema_version": int, "fixed": [str], "runs": [{"name": str, "words": [str]}]}


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Attributes:
        name: of its folder: the swept keys and their values.
        values: swept key -> value, as text in the grammar of overrides.
        words: all overrides of the run but its output folder.
    """

    name: str
    values: dict[str, str]
    words: list[str]


@dataclass(frozen=True)
class Sweep:
    """All runs of a sweep.

    Attributes:
        folder: gets a folder for each run.
        fixed: overrides that all runs share.
    """

    folder: Path
    fixed: list[str]
    runs: list[SweepRun]

    def table(self) -> str:
        """Return one line for each run: its folder and what is particular to it."""
        lines = [
            f"{self.folder / run.name}: {' '.join(f'{k}={v}' for k, v in run.values.items())}" for run in self.runs
        ]
        return "\n".join([*lines, counted(len(self.runs), "run")])

    def to_json(self) -> dict[str, Any]:
        """Return the content of sweep.json."""
        runs = [{"name": run.name, "values": run.values, "words": run.words} for run in self.runs]
        return {"schema_version": SCHEMA_VERSION, "fixed": self.fixed, "runs": runs}


def make_sweep(overrides: Sequence[str]) -> Sweep:
    """Return the runs that overrides with several values stand for, in the order of the values, the last key fastest.

    Raises:
        ConfigError: no key has several values, a value cannot be listed, or no output folder is given.
    """
    outputs = [item for item in overrides if item.startswith(("output=", "run.dir="))]
    if not outputs:
        raise ConfigError("--sweep: no output folder", hint="add output=DIR: each run gets a folder in it")
    seeds = [item for item in overrides if re.match(r"run\.seed=\[", item)]
    if seeds:
        values = seeds[-1].partition("=")[2].strip("[]")
        raise ConfigError(f"{seeds[-1]} --sweep: a list of seeds is one run", hint=f"write run.seed={values}")
    kept = [item for item in overrides if item not in outputs]
    swept = {item.partition("=")[0]: values for item in kept if (values := _values(item)) is not None}
    if not swept:
        hint = "give a key several values: trainer.learning_rate=1e-5,1e-4"
        raise ConfigError("--sweep: every key has one value", hint=hint)
    fixed = [item for item in kept if item.partition("=")[0] not in swept]
    runs = []
    for combination in itertools.product(*swept.values()):
        chosen = dict(zip(swept, combination, strict=True))
        runs.append(SweepRun(_name(chosen), chosen, [*fixed, *(f"{key}={value}" for key, value in chosen.items())]))
    names = [run.name for run in runs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"--sweep: {twice[0]}: two runs of this name", hint="name each value once")
    return Sweep(Path(outputs[-1].partition("=")[2]), fixed, runs)


def _values(item: str) -> list[str] | None:
    """Return the values of KEY=A,B and of the functions of Hydra's grammar, None for a single one."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_override(item)
    except HydraException:  # composing says what is wrong; a path may have any sign
        return None
    if not parsed.is_sweep_override():
        return None
    if not parsed.is_discrete_sweep() or "glob(" in item:
        raise ConfigError(f"{item}: its values cannot be listed", hint="write KEY=A,B or choice(A,B) or range(1,4)")
    return list(parsed.sweep_string_iterator())


def _name(values: dict[str, str]) -> str:
    """Return the folder name of a run: last parts of the keys where these differ, with their values."""
    ends = [key.rpartition(".")[2] for key in values]
    keys = ends if len(set(ends)) == len(ends) else list(values)
    texts = [re.sub(r"[^\w.+-]+", "-", value).strip("-.") for value in values.values()]
    name = "_".join(f"{key}-{text}" for key, text in zip(keys, texts, strict=True))
    if len(name) > MAX_NAME or not all(texts):
        digest = hashlib.sha256("\n".join(values.values()).encode()).hexdigest()[:8]
        name = f"{name[: MAX_NAME - 9]}-{digest}"
    return name


def write_sweep(sweep: Sweep, *, resume: bool, overwrite: bool) -> None:
    """Write sweep.json; values may be added to a sweep, and runs that it no longer names stay in it.

    Raises:
        ConfigError: the folder holds a sweep with other settings, and neither `resume` nor `overwrite`.
    """
    path = sweep.folder / SWEEP_NAME
    content = sweep.to_json()
    if path.is_file() and not overwrite:
        before = read_record(path, _SHAPE, "put a copy back, or choose another output=DIR")
        if sorted(before["fixed"]) != sorted(sweep.fixed) and not resume:
            other = sorted({*before["fixed"]} ^ {*sweep.fixed})
            raise ConfigError(
                f"output={sweep.folder}: holds a sweep with other settings: {', '.join(other)}",
                hint="choose another output=DIR; --resume lets each run compare them, --overwrite starts anew",
            )
        names = {run.name for run in sweep.runs}
        content["runs"] += [run for run in before["runs"] if run["name"] not in names]
    sweep.folder.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(content, indent=1) + "\n")


def is_finished(run_dir: Path) -> bool:
    """Return whether a run is over."""
    return read_status(run_dir).get("status") == "done" and (run_dir / "final").is_dir()


def run_sweep(
    sweep: Sweep, options: Sequence[str], *, resume: bool, overwrite: bool, stop_on_failure: bool, silent: bool = False
) -> int:
    """Run what is not finished, one after another; return 0, 1 where a run failed, 128 + N where signal N stopped it.

    Args:
        options: of `vsgrpo train`, for each run.
        resume: let finished runs compare their settings with the present ones, and become longer.
        overwrite: replace the runs.
        stop_on_failure: start no further run after one that failed.
        silent: runs write nothing on stdout.
    """
    failed: list[str] = []
    for number, run in enumerate(sweep.runs, 1):
        folder = sweep.folder / run.name
        title = f"run {number}/{len(sweep.runs)} {run.name}"
        if is_finished(folder) and not overwrite and not resume:
            note(f"{title}: finished already")
            continue
        going_on = (folder / "config.yaml").is_file() and not overwrite
        note(f"{title}: {'goes on' if going_on else 'starts'}")
        flags = [*options, *(["--resume"] if going_on else []), *(["--overwrite"] if overwrite else [])]
        code, signalled = _run_alone(["train", *_words(run), f"output={folder}", *flags], silent)
        if signalled and code:
            show(f"{title}: stopped; the same command goes on", sys.stderr)
            return code
        if code:
            failed.append(run.name)
            show(f"{title}: failed (exit code {code})", sys.stderr)
            if stop_on_failure:
                break
    if failed:
        what = f"{len(failed)} of {counted(len(sweep.runs), 'run')} failed: {', '.join(failed)}"
        show(f"{what}; the same command tries again", sys.stderr)
    return 1 if failed else 0


def _words(run: SweepRun) -> list[str]:
    """Return method and overrides of a run, as `vsgrpo train` takes them."""
    method, *words = run.words
    return [method.removeprefix("trainer="), *words]


def _run_alone(words: list[str], silent: bool) -> tuple[int, bool]:
    """Run `vsgrpo WORDS` in a session of its own; return its exit code, and whether this process was signalled.

    A terminal's Ctrl-C reaches this process alone, which passes it on: the run saves, and the sweep ends.
    """
    sink = subprocess.DEVNULL if silent else None
    child = subprocess.Popen([sys.executable, "-m", "vsgrpo.cli", *words], start_new_session=True, stdout=sink)
    asked: list[int] = []

    def pass_on(number: int, frame: Any) -> None:
        asked.append(number)
        child.send_signal(number)

    previous = {number: signal.signal(number, pass_on) for number in STOP_SIGNALS}
    try:
        return exit_code(child.wait()), bool(asked)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


_SBATCH = """#!/bin/bash
# A sweep as an array, one run in each task, written by `vsgrpo train ... --sweep --sbatch`. Set the resources to yours.
# Start: sbatch {script}    Some runs again: sbatch --array=3,7 {script}    Afterwards: vsgrpo report {folder}
#SBATCH --job-name=vsgrpo-sweep
#SBATCH --array=0-{last}
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --output=%x-%A_%a.log
set -euo pipefail

case "$SLURM_ARRAY_TASK_ID" in
{cases}
  *) echo "task $SLURM_ARRAY_TASK_ID: runs are 0 to {last}" >&2; exit 2 ;;
esac

if grep -qs '"status": "done"' "$RUN/run.json"; then echo "$RUN: finished already"; exit 0; fi
RESUME=()
if [ -f "$RUN/config.yaml" ]; then RESUME=(--resume); fi
# 300 s before the limit: finish the step, save, requeue; the next start goes on from there.
STOPPED=
trap 'STOPPED=1; kill -USR1 $!' USR1
vsgrpo train "${{WORDS[@]}}" output="$RUN" "${{RESUME[@]}}" &
CODE=0
wait $! || CODE=$?
if [ -n "$STOPPED" ] && [ $CODE -eq 138 ]; then  # 128 + USR1: the wait has ended, not the run
  CODE=0
  wait $! || CODE=$?
fi
if [ -n "$STOPPED" ] && [ $CODE -gt 128 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit $CODE
"""


def write_sbatch(sweep: Sweep, options: Sequence[str]) -> Path:
    """Write a Slurm array of the sweep into its folder, one run in each task; return the script."""
    path = sweep.folder / SBATCH_NAME
    cases = []
    for number, run in enumerate(sweep.runs):
        words = shlex.join([*_words(run), *options])
        cases.append(f"  {number}) RUN={shlex.quote(str(sweep.folder / run.name))}; WORDS=({words}) ;;")
    values = {"script": path, "folder": sweep.folder, "last": len(sweep.runs) - 1, "cases": "\n".join(cases)}
    write_atomic(path, _SBATCH.format(**values))
    path.chmod(0o755)
    return path
