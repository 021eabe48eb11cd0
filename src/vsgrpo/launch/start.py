"""Start a training run, or one for each of several seeds: check without torch, write the folder, start the worker.

One process runs here; several are started through `accelerate launch`; under an existing launcher (torchrun,
accelerate, srun) this process is one of the workers and joins. Workers read one file: RUN_DIR/config.yaml.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from vsgrpo.config.compose import to_yaml
from vsgrpo.config.launching import joins_launcher
from vsgrpo.config.train import TrainConfig
from vsgrpo.config.yaml_files import config_dir
from vsgrpo.data.inputs import look_at, model_folders
from vsgrpo.data.own_rows import with_own_rows
from vsgrpo.data.row_numbers import Rows, numbers_of
from vsgrpo.errors import ConfigError, VsgrpoError
from vsgrpo.families import find_model
from vsgrpo.families.vision_record import BEFORE_RULES, PUBLISHED, with_rules
from vsgrpo.files import write_atomic
from vsgrpo.memory.fit import check_disk, check_memory, plan_lines
from vsgrpo.memory.passes import GIB, device_memory, estimate_run
from vsgrpo.paths import locked, refuse_inputs_inside
from vsgrpo.records import read_jsonl
from vsgrpo.terminal import show
from vsgrpo.training.continuation import read_values
from vsgrpo.training.launcher import check_devices, device_line, forget_failures, needs_launcher, own_rank, supervise
from vsgrpo.training.preflight import (
    check_enough_rows,
    check_plan,
    check_run,
    input_files,
    load_rows,
    warnings_of,
)
from vsgrpo.training.run_folder import prepare_run_folder, settle
from vsgrpo.training.stage_checks import check_stages

SEEDS_SCHEMA_VERSION = 1
METRICS = ("reward", "rewards/accuracies", "rewards/margins", "loss", "kl", "entropy", "best_dev_score", "cpu_seconds")
"""Columns of the table over several seeds, of log.jsonl where it has them."""
LAST_LINES = 5
"""A value is the mean over so many of its last log lines; a single one is noise."""


def describe(config: TrainConfig) -> str:
    """Return the derived numbers, what is short here, and the launch command, as lines (no model, no data needed).

    What a run would be refused for on this machine is a warning: plans are made on other machines.

    Raises:
        VsgrpoError: what is wrong on every machine.
    """
    if all(Path(folder).exists() for folder, _ in config.data.folders()):
        config = with_own_rows(config)
    config, numbers = with_rules(config), check_plan(config)
    short: list[str] = []
    for check in (
        lambda: find_model(config.model.path, config.model.adapter),
        lambda: check_devices(config),
        lambda: short.extend(shortages(config, numbers)),
    ):
        try:
            check()
        except VsgrpoError as error:
            short.append(f"warning: refused here: {error.message} ({error.hint})")
    rule = f"text after a video: by model.text_after_video={config.model.text_after_video}"
    lines = ["# derived", device_line(config), rule, *plan_lines(config, numbers), *short]
    lines.append("launch: " + shlex.join(launch_command(config, Path(config.run.dir) / "config.yaml")))
    return "\n".join(lines)


def shortages(config: TrainConfig, rows: Rows, *, resume: bool = False) -> list[str]:
    """Compare what the run needs with device and disk; return warnings, and how much memory was compared with.

    Raises:
        VsgrpoError: it cannot fit.
    """
    available = device_memory(config)
    if available is None:
        line = "memory of the device: looked up by the workers (launch.device_memory_gb=N compares before)"
    else:
        warning = check_memory(estimate_run(config, rows), *available)
        line = warning or f"memory there is: {available[0] / GIB:.1f} GiB ({available[1]})"
    return [line, *check_disk(config, rows, resume=resume)]


def check_environment(config: TrainConfig) -> None:
    """Raise ConfigError where a variable of the environment would turn the engine off without a word."""
    value = os.environ.get("ACCELERATE_USE_CPU", "")
    if value.lower() in ("1", "true", "yes", "y", "t", "on") and config.launch.profile not in ("cpu", "gpu1", "ddp"):
        raise ConfigError(
            f"ACCELERATE_USE_CPU={value}: accelerate would train launch={config.launch.profile} as plain data "
            "parallelism",
            hint="unset ACCELERATE_USE_CPU, or set launch=ddp",
        )


def launch_command(config: TrainConfig, config_file: Path, resume: bool = False) -> list[str]:
    """Return the command that runs this config's workers."""
    worker = ["-m", "vsgrpo.training.worker", str(config_file), *(["--resume"] if resume else [])]
    launch = config.launch
    if not needs_launcher(config):
        return ["python", *worker]
    file = launch.accelerate_file or config_dir() / "accelerate" / f"{launch.profile}.yaml"
    command = ["accelerate", "launch", "--config_file", str(file)]
    command += ["--num_processes", str(launch.num_processes), "--num_machines", str(launch.num_machines)]
    command += ["--machine_rank", str(launch.machine_rank)]
    for name in ("main_process_ip", "main_process_port"):
        if getattr(launch, name) is not None:
            command += [f"--{name}", str(getattr(launch, name))]
    return [*command, *worker]


def launch_training(
    config: TrainConfig, overrides: list[str], *, resume: bool, overwrite: bool, allow_changed: bool = False
) -> int:
    """Check, write the run folder, run the worker(s); return the exit code.

    Under a launcher (torchrun, accelerate, one srun task per process) this process is one of the workers.

    Args:
        overwrite: replace an earlier run; it comes back where the new one ends before its first checkpoint.
        allow_changed: resume with other rows, videos or models than the run was started with.
    """
    if resume:
        config = as_started(with_own_rows(config), overrides)
    check_stages(config)
    check_devices(config)
    find_model(config.model.path, config.model.adapter)
    config = with_own_rows(config)
    config = with_rules(config)
    said: list[str] = []
    checked = load_rows(config, said.append)
    rows = checked[0]
    numbers = numbers_of(rows, config.prompt)
    check_run(config, rows)
    check_enough_rows(config, numbers)
    check_environment(config)
    join_slurm(config)
    for warning in warnings_of(config):
        show(f"warning: {warning}", sys.stderr)
    run_dir = Path(config.run.dir)
    joins = joins_launcher()
    leads = own_rank() == 0 and config.launch.machine_rank == 0
    plan = []
    if leads:
        plan = [device_line(config), *plan_lines(config, numbers), *shortages(config, numbers, resume=resume), *said]
    with ExitStack() as stack:
        if leads:
            inputs = input_files(config, rows)
            if overwrite:
                _refuse_own_inputs(run_dir, config, inputs)
            stack.enter_context(locked(run_dir, "run.dir", "training"))
            stack.callback(settle, run_dir)
            seen = look_at(inputs)
            changes = {"resume": resume, "overwrite": overwrite, "allow_changed": allow_changed}
            prepare_run_folder(run_dir, config, overrides, inputs=seen, **changes)
            show("\n".join(plan), sys.stderr)
        if joins or not needs_launcher(config):
            from vsgrpo.training.worker import train, worker_process

            with worker_process(run_dir) as process:
                process.exit_code = train(config, checked, resume=resume)
            return process.exit_code
        return _supervise_workers(config, stack, leads=leads, resume=resume)


def _supervise_workers(config: TrainConfig, stack: ExitStack, *, leads: bool, resume: bool) -> int:
    """Start this machine's workers through accelerate; return the exit code of the run."""
    # Other machines may come before the first one has written the run folder: each starts from a file of its own.
    run_dir = Path(config.run.dir)
    config_file = run_dir / "config.yaml"
    if leads:
        forget_failures(run_dir)
    else:
        config_file = Path(stack.enter_context(TemporaryDirectory())) / "config.yaml"
        config_file.write_text(to_yaml(config), encoding="utf-8")
    command = launch_command(config, config_file, resume)
    show(f"starting {config.launch.num_processes} processes: {shlex.join(command)}", sys.stderr)
    launcher = [sys.executable, "-m", "vsgrpo.training.launcher", str(run_dir), *command[2:]]
    return supervise(launcher, run_dir, config.launch, leads=leads)


def as_started(config: TrainConfig, overrides: list[str]) -> TrainConfig:
    """Return the config of a resume: what launch=auto, model.dtype=auto or a null rule chose stays as it was.

    Another machine's GPUs must not turn a run into one of another batch or device without a word: where those it was
    started with are missing, `check_devices` says so, and launch=PROFILE chooses others.
    """
    model, launch, file = config.model, config.launch, Path(config.run.dir) / "config.yaml"
    if not file.is_file():
        return config
    before = read_values(file)  # as it was written: an earlier version may have had other keys
    rule, dtype = model.text_after_video or before["model"].get("text_after_video", BEFORE_RULES), model.dtype
    if model.dtype_auto:
        dtype = before["model"]["dtype"]
    marks = config.prompt.vision_marks or before.get("prompt", {}).get("vision_marks", PUBLISHED)
    prompt = dataclasses.replace(config.prompt, vision_marks=marks)
    model = dataclasses.replace(model, text_after_video=rule, dtype=dtype)
    config = dataclasses.replace(config, model=model, prompt=prompt)
    chosen = any(word.startswith(("launch.num_processes=", "launch.use_cpu=", "launch.profile=")) for word in overrides)
    if not launch.auto or chosen:
        return config
    kept = ("profile", "num_processes", "num_machines", "use_cpu", "accelerate_file")
    values = {name: before["launch"][name] for name in kept if name in before["launch"]}
    return dataclasses.replace(config, launch=dataclasses.replace(launch, **values))


def _refuse_own_inputs(run_dir: Path, config: TrainConfig, inputs: list[tuple[str, Path]]) -> None:
    """Refuse to overwrite a run that holds what the new one reads, down to the base of an adapter."""
    given: list[tuple[str, Path | str | None]] = [("launch.accelerate_file", config.launch.accelerate_file)]
    given += [("model.path", folder) for folder in model_folders(config.model.path)]
    given += [("model.adapter", folder) for folder in model_folders(config.model.adapter)]
    given += [("data.path", Path(folder)) for folder, _ in config.data.folders()]
    media = {path.parent for _, path in inputs}
    refuse_inputs_inside(run_dir, "run.dir", [*given, *(("data.path: a file of its rows", path) for path in media)])


def join_slurm(config: TrainConfig) -> None:
    """Name this process for torch.distributed where srun started one task per worker (not one per machine).

    Raises:
        ConfigError: no address of the first machine.
    """
    tasks, launch = os.environ.get("SLURM_NTASKS"), config.launch
    one_per_machine = launch.num_machines == launch.num_processes or tasks == str(launch.num_machines)
    if "RANK" in os.environ or "SLURM_STEP_ID" not in os.environ or launch.num_processes == 1 or one_per_machine:
        return
    if tasks is None or tasks != str(launch.num_processes):
        return
    if launch.main_process_ip is None:
        raise ConfigError(
            "launch.main_process_ip=null: srun started every worker, they need the address of the first machine",
            hint='set launch.main_process_ip="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n1)"',
        )
    os.environ.update(
        RANK=os.environ["SLURM_PROCID"],
        LOCAL_RANK=os.environ["SLURM_LOCALID"],
        WORLD_SIZE=tasks,
        MASTER_ADDR=launch.main_process_ip,
        MASTER_PORT=str(launch.main_process_port or 29500),
    )


# --- the same run under several seeds: run.seed=[0,1,2]


def seed_list(overrides: Sequence[str]) -> list[int] | None:
    """Return the seeds of `run.seed=[..]` (the last one given), None where it is a single number or not there.

    Raises:
        ConfigError: not a list of different whole numbers.
    """
    given = [item.partition("=")[2] for item in overrides if item.startswith("run.seed=")]
    if not given or not given[-1].startswith("["):
        return None
    text = given[-1]
    if not re.fullmatch(r"\[\s*\d+\s*(,\s*\d+\s*)*\]", text):
        raise ConfigError(f"run.seed={text}: a list of whole numbers is needed", hint="for example run.seed=[0,1,2]")
    seeds = [int(part) for part in text.strip("[]").split(",")]
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"run.seed={text}: a seed is given twice", hint="name each seed once")
    return seeds


def of_seed(overrides: Sequence[str], seed: int, folder: Path) -> list[str]:
    """Return the overrides of one seed's run: its own seed, and FOLDER/seedN as run folder."""
    kept = [item for item in overrides if item.partition("=")[0] not in ("run.seed", "output", "run.dir")]
    return [*kept, f"run.seed={seed}", f"run.dir={folder / f'seed{seed}'}"]


def run_seeds(
    seeds: Sequence[int],
    folder: Path,
    start: Callable[[int, Path, bool], int],
    *,
    resume: bool,
    is_longer: Callable[[Path], bool] = lambda run: False,
) -> tuple[int, str]:
    """Run all seeds in turn; return the exit code and the table.

    Args:
        seeds: of the runs.
        folder: gets seedN/ for each and seeds.json.
        start: (seed, run folder, resume) -> exit code of one run.
        resume: leave finished runs alone and go on with the one that was stopped.
        is_longer: whether a finished run is to go on.
    """
    for seed in seeds:
        run = folder / f"seed{seed}"
        if resume and (run / "final").is_dir() and not is_longer(run):
            continue
        code = start(seed, run, resume and (run / "config.yaml").is_file())
        if code:
            return code, ""
    found = {seed: last_values(folder / f"seed{seed}" / "log.jsonl") for seed in seeds}
    record = {"schema_version": SEEDS_SCHEMA_VERSION, "seeds": found, "summary": summary(list(found.values()))}
    write_atomic(folder / "seeds.json", json.dumps(record, indent=1) + "\n")
    return 0, table(found)


def last_values(log: Path) -> dict[str, float]:
    """Return each metric's mean over its last lines in log.jsonl."""
    series: dict[str, list[float]] = {}
    for _, record in read_jsonl(log):
        for name in METRICS:
            if isinstance(record.get(name), int | float):
                series.setdefault(name, []).append(record[name])
    single = ("best_dev_score", "cpu_seconds")  # running totals: the last one counts
    return {name: statistics.fmean(v[-1:] if name in single else v[-LAST_LINES:]) for name, v in series.items()}


def summary(values: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return mean and spread (sample standard deviation, 0 for one run) of each metric that all runs have."""
    names = [name for name in METRICS if all(name in value for value in values)]
    columns = {name: [value[name] for value in values] for name in names}
    return {
        name: {"mean": statistics.fmean(column), "spread": statistics.stdev(column) if len(column) > 1 else 0.0}
        for name, column in columns.items()
    }


def table(found: dict[int, dict[str, float]]) -> str:
    """Return one line per seed, then mean and spread."""
    totals = summary(list(found.values()))
    body = [["seed", *totals]]
    body += [[str(seed), *(f"{value[name]:.4g}" for name in totals)] for seed, value in found.items()]
    body += [[kind, *(f"{total[kind]:.4g}" for total in totals.values())] for kind in ("mean", "spread")]
    widths = [max(len(line[i]) for line in body) for i in range(len(body[0]))]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in body)
