"""Start a training run: check without torch, write the folder, start the worker.

One process runs here; several are started through `accelerate launch`; under an existing launcher (torchrun,
accelerate, srun) this process is one of the workers and joins. Workers read one file: RUN_DIR/config.yaml.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from vsgrpo.config.compose import to_yaml
from vsgrpo.config.launching import joins_launcher
from vsgrpo.config.train import TrainConfig
from vsgrpo.config.yaml_files import config_dir
from vsgrpo.data.inputs import look_at, model_folders
from vsgrpo.data.kept_out import keeping_out, kept_line
from vsgrpo.data.mix import DrawnSource, write_mix
from vsgrpo.data.own_rows import own_rows_on_trial, with_own_rows
from vsgrpo.data.row_numbers import Rows, numbers_of
from vsgrpo.errors import ConfigError, VsgrpoError
from vsgrpo.families import find_model
from vsgrpo.families.hub_models import with_hub_models
from vsgrpo.families.vision_record import BEFORE_RULES, PUBLISHED, with_rules
from vsgrpo.memory.fit import check_disk, check_memory, plan_lines
from vsgrpo.memory.passes import GIB, device_memory, estimate_run
from vsgrpo.packages import check_command
from vsgrpo.paths import locked, refuse_inputs_inside
from vsgrpo.terminal import note, show
from vsgrpo.trackers import check_installed
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


def describe(config: TrainConfig) -> str:
    """Return the derived numbers, what is short here, and the launch command, as lines (no model, no data needed).

    What a run would be refused for on this machine is a warning: plans are made on other machines.

    Raises:
        VsgrpoError: what is wrong on every machine.
    """
    with keeping_out(config.data.keep_out):
        if Path(config.data.path).exists():
            with own_rows_on_trial(config) as completed:
                return _described(completed)
        return _described(config)


def _described(config: TrainConfig) -> str:
    config, numbers = with_rules(config), check_plan(config)
    short: list[str] = []
    for check in (
        lambda: check_installed_for(config),
        lambda: find_model(config.model.path, config.model.adapter),
        lambda: check_devices(config),
        lambda: check_trackers(config),
        lambda: short.append(memory_line(config, numbers)),
        lambda: short.extend(check_disk(config, numbers)),
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
    return [memory_line(config, rows), *check_disk(config, rows, resume=resume)]


def memory_line(config: TrainConfig, rows: Rows) -> str:
    """Compare what the run needs with the memory of its device; return a warning, or what there is.

    Raises:
        ConfigError: it cannot fit.
    """
    available = device_memory(config)
    if available is None:
        return "memory of the device: looked up by the workers (launch.device_memory_gb=N compares before)"
    warning = check_memory(estimate_run(config, rows), *available)
    return warning or f"memory there is: {available[0] / GIB:.1f} GiB ({available[1]})"


def check_environment(config: TrainConfig) -> None:
    """Raise ConfigError where a variable of the environment would turn the engine off without a word."""
    value = os.environ.get("ACCELERATE_USE_CPU", "")
    if value.lower() in ("1", "true", "yes", "y", "t", "on") and config.launch.profile not in ("cpu", "gpu1", "ddp"):
        raise ConfigError(
            f"ACCELERATE_USE_CPU={value}: accelerate would train launch={config.launch.profile} as plain data "
            "parallelism",
            hint="unset ACCELERATE_USE_CPU, or set launch=ddp",
        )


def check_installed_for(config: TrainConfig) -> None:
    """Raise SetupError where a package that this run needs is not installed."""
    serves = "vllm" in map(config.rollout_engine, config.stage_sections())
    more = [("deepspeed", "zero" in config.launch.profile), ("msgspec", serves)]
    check_command("train", *(name for name, is_needed in more if is_needed))


def check_trackers(config: TrainConfig) -> None:
    """Raise ConfigError for a tracker of trainer.report_to, of any stage, whose package is not installed here."""
    for section in config.stage_sections():
        check_installed(section.report_to, "trainer.report_to")


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
    with keeping_out(config.data.keep_out):
        return _launch(config, overrides, resume=resume, overwrite=overwrite, allow_changed=allow_changed)


def _launch(config: TrainConfig, overrides: list[str], *, resume: bool, overwrite: bool, allow_changed: bool) -> int:
    if resume:
        config = as_started(with_own_rows(config), overrides)
    check_stages(config)
    check_installed_for(config)
    check_trackers(config)
    check_devices(config)
    find_model(config.model.path, config.model.adapter)
    config = with_hub_models(with_own_rows(config))
    config = with_rules(config)
    said = kept_line(config.data.keep_out)
    drawn: list[DrawnSource] = []
    checked = load_rows(config, said.append, drawn)
    rows = checked[0]
    numbers = dataclasses.replace(numbers_of(rows, config.prompt), mix=tuple(drawn))
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
            write_mix(run_dir, drawn, config.run.seed)
            _show_plan(plan)
        if joins or not needs_launcher(config):
            if leads:
                note("starting the worker: loading torch and the libraries")
            from vsgrpo.training.worker import train, worker_process

            with worker_process(run_dir) as process:
                process.exit_code = train(config, checked, resume=resume)
            return process.exit_code
        return _supervise_workers(config, stack, leads=leads, resume=resume)


def _show_plan(lines: list[str]) -> None:
    """Print the plan of a run on stderr; with -q its warnings alone."""
    for line in lines:
        if line.startswith("warning: "):
            show(line, sys.stderr)
        else:
            note(line)


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
    note(f"starting {config.launch.num_processes} processes: {shlex.join(command)}")
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
    given += [("data.path", Path(folder)) for folder, *_ in config.data.sources()]
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
