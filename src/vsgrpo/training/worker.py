"""`python -m vsgrpo.training.worker RUN_DIR/config.yaml [--resume]`: one process of a run, all that a launcher starts.

Exit codes: 0 done, 1 the run failed, 2 configuration or input error, 130 / 143 stopped by SIGINT / SIGTERM after a
checkpoint.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import platform
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import torch

from vsgrpo.config.compose import load_resolved
from vsgrpo.config.launching import SHARDED
from vsgrpo.config.train import TrainConfig
from vsgrpo.config.trainer import GrpoSection
from vsgrpo.data.kept_out import keeping_out, kept_json
from vsgrpo.data.leak_guard import judge_rows
from vsgrpo.data.lineage import continued, lineage_of
from vsgrpo.data.manifest import (
    TRAINING_MANIFEST_NAME,
    TrainingManifest,
    file_record,
    read_training_manifest,
    training_manifest,
    write_training_manifest,
)
from vsgrpo.data.row import Row
from vsgrpo.data.row_numbers import numbers_of
from vsgrpo.devices import visible_gpus
from vsgrpo.errors import RunError, SetupError, VsgrpoError, from_machine
from vsgrpo.families.prompt_record import write_prompt
from vsgrpo.families.vision_record import write_vision
from vsgrpo.memory.fit import check_memory
from vsgrpo.memory.passes import estimate_run, plan_passes
from vsgrpo.modeling.bundle import ModelBundle
from vsgrpo.modeling.load import check_versions, load, own_device, quiet_libraries, why_no_gpu
from vsgrpo.modeling.model_card import write_model_card
from vsgrpo.modeling.save import save_model
from vsgrpo.terminal import complain, note, show
from vsgrpo.training.base import RunParts, StageTrainer
from vsgrpo.training.callbacks import dev_dataset, dev_overlap
from vsgrpo.training.continuation import Checkpoint
from vsgrpo.training.launcher import allows_tf32, check_devices, cpu_hint, end_with_parent, own_rank, record_failure
from vsgrpo.training.measure import PhaseTimer
from vsgrpo.training.preflight import load_rows, row_files
from vsgrpo.training.progress import Stage
from vsgrpo.training.rows import make_loader, readable_rows, training_table
from vsgrpo.training.run_folder import RunFolder
from vsgrpo.training.servers import meet_servers
from vsgrpo.training.stages import open_stage, reference_model, trl_config
from vsgrpo.training.waits import watched


def main(argv: list[str] | None = None) -> int:
    """Train as the config file says; return the exit code."""
    parser = argparse.ArgumentParser(prog="vsgrpo.training.worker")
    parser.add_argument("config", type=Path, help="RUN_DIR/config.yaml")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of RUN_DIR")
    options = parser.parse_args(argv)
    with worker_process(options.config.parent) as process:
        config = load_resolved(options.config)
        process.run_dir = Path(config.run.dir)  # another machine's worker has a config file of its own elsewhere
        with keeping_out(config.data.keep_out):
            process.exit_code = train(config, resume=options.resume)
    return process.exit_code


@dataclass
class WorkerProcess:
    """This process of a run: the run's folder, and the code to exit with."""

    run_dir: Path
    exit_code: int = 0


@contextmanager
def worker_process(run_dir: Path) -> Iterator[WorkerProcess]:
    """Set this process up to train; turn what ends the block into an exit code and one message.

    Under our launcher a failure is written to a file, and the launcher reports the first one; otherwise it is reported
    here.
    """
    end_with_parent()
    quiet_libraries()
    if not torch.cuda.is_available():
        skip_shm_build()
    process, rank = WorkerProcess(run_dir), own_rank()
    if rank > 0:  # one process speaks
        logging.getLogger("vsgrpo").setLevel(logging.ERROR)
    try:
        check_versions()
        yield process
    except KeyboardInterrupt as stop:
        process.exit_code = 128 + (stop.args[0] if stop.args else signal.SIGINT)
    except Exception as error:
        known = error if isinstance(error, VsgrpoError) else from_machine(error)
        process.exit_code = known.exit_code if known else 1
        if record_failure(process.run_dir, rank, known or error):
            return
        if known is None or (known is not error and os.environ.get("VSGRPO_DEBUG") == "1"):
            raise
        if rank == 0:
            complain(known.message, known.hint)


def skip_shm_build() -> None:
    """Keep DeepSpeed from compiling `deepspeed_shm_comm` when it starts on a CPU.

    It speeds up reductions between processes of one machine, needs g++ and ninja, and takes minutes; without it gloo
    does the work. There is no setting for it: DeepSpeed 0.19 asks this table whether the operator can be built.
    """
    if "ACCELERATE_USE_DEEPSPEED" in os.environ:
        import deepspeed.ops

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def train(config: TrainConfig, checked: tuple[list[Row], str] | None = None, *, resume: bool = False) -> int:
    """Run all stages and write final/; run.json says at any time how far the run is.

    Args:
        checked: what `load_rows` returned, where this process has called it already.
        resume: go on from the last checkpoint.

    Returns:
        0, or 128 + the number of the signal that stopped the run.

    Raises:
        VsgrpoError: what the user can fix.
    """
    folder = RunFolder(Path(config.run.dir), lambda path: None, config.trainer.save_total_limit)
    with _failure_noted(folder):
        join_processes(config, int(os.environ.get("WORLD_SIZE", "1")))
        rows, verdict = checked or load_rows(config)
        if verdict != "clean" and own_rank() == 0:
            unknown = judge_rows(rows).unknown_text()
            show(f"leak check: {verdict}" + (f": {unknown}" if unknown else ""), sys.stderr)
        checkpoint = next(folder.checkpoints(), None) if resume else None
        if checkpoint is None:
            folder.update_status(rows_once=True)
        else:
            folder.repeats_rows = not folder.read_status().get("rows_once", False)
        with watched(PhaseTimer(), config.launch, lambda: 0):
            parts = prepare_run(config, folder, rows, checkpoint)
        reference, stages = reference_model(config, parts.bundle), config.trainer.num_stages
        steps = checkpoint.number - checkpoint.step if checkpoint else 0
        for number in range(checkpoint.stage if checkpoint else 0, stages):
            stage = Stage(folder, number, stages, steps, config.trainer.name)
            with open_stage(parts, stage, reference, checkpoint) as opened:
                trainer = opened.trainer
                if not opened.is_done:
                    trainer.train(resume_from_checkpoint=opened.start)
            if opened.stop.stopped:
                # Slurm's early warning ends a run like the SIGTERM that would follow.
                stop = signal.SIGINT if opened.stop.received == signal.SIGINT else signal.SIGTERM
                folder.update_status(status="stopped", signal=stop.name, error=None)
                return 128 + stop
            steps += checkpoint.step if checkpoint and opened.is_done else trainer.state.global_step
            checkpoint = None
        with watched(trainer.timer, config.launch, lambda: steps), trainer.timer.phase("save"):
            folder.publish_final(lambda path: save_final(trainer, config, path), trainer.is_world_process_zero())
        folder.update_status(status="done", signal=None, error=None)
    if own_rank() == 0 and (best := folder.read_status().get("best")):
        where = f"{folder.path / 'checkpoint-'}{best['checkpoint']} (score {best['dev_score']:.3f})"
        note(f"best on dev.jsonl: {where}; final is the last state, whichever was best")
    return 0


@contextmanager
def _failure_noted(folder: RunFolder) -> Iterator[None]:
    """Enter into run.json that this process trains, and why it ended where an exception ends it."""
    ids = {"pid": os.getpid(), "ppid": os.getppid(), "host": platform.node()}
    folder.update_status(status="running", stage=0, signal=None, **ids)
    try:
        yield
    except BaseException as error:
        status = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
        with suppress(OSError):
            folder.update_status(status=status, error=str(error) or type(error).__name__)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise RunError(
                f"{folder.path}: {error}", hint="checkpoints so far are complete; free disk space, then --resume"
            ) from error
        raise


def prepare_run(config: TrainConfig, folder: RunFolder, rows: list[Row], checkpoint: Checkpoint | None) -> RunParts:
    """Return what all stages share: rows whose videos can be read, the loader, the model, rows to score on.

    Args:
        checkpoint: the one that the run goes on from: what it was trained on stays on record.
    """
    loader = make_loader(config)
    for number in range(config.trainer.num_stages):  # what TRL refuses; accelerate starts the process group here
        trl_config(config, number, plan_passes(config, number, rows))
    rows = readable_rows(config, rows, loader)
    dev = dev_dataset(config)
    check_device(config, rows)
    if own_rank() == 0:  # before minutes of loading
        for section in config.stage_sections():
            if isinstance(section, GrpoSection) and config.rollout_engine(section) == "vllm":
                meet_servers(config, section, rows, note)
    if own_rank() == 0:
        note(f"loading model: {config.model.adapter or config.model.path}")
    bundle = make_model(config)
    bundle.check_mode(config.prompt.mode)
    if bundle.family.needs_timing:
        loader.timed_for = bundle.family.timed_label
        rows = readable_rows(config, rows, loader)
    manifest = run_manifest(config, rows, own_rank() == 0)
    if checkpoint is not None and (checkpoint.path / TRAINING_MANIFEST_NAME).is_file():
        manifest = continued(manifest, read_training_manifest(checkpoint.path))

    def describe(path: Path) -> None:
        write_vision(path, config.vision(), bundle.text_after_video, bundle.vision_marks)
        write_prompt(path, config.prompt.template, config.prompt.suffix)
        write_training_manifest(path, manifest)
        write_model_card(path, folder.path)

    folder.describe = describe
    folder.update_status(parents=[parent.name for parent in manifest.parents])
    if own_rank() == 0:
        for parent in manifest.parents:
            if parent.verdict() != "clean":
                show(f"leak check of {parent.name or config.model.path}: {parent.reason()}", sys.stderr)
        if overlap := dev_overlap(config, manifest):
            show(f"note: {overlap}", sys.stderr)
    numbers = numbers_of(rows, config.prompt)
    return RunParts(config, bundle, training_table(config, rows), loader, folder, dev, numbers)


def check_device(config: TrainConfig, rows: list[Row]) -> None:
    """Set how a GPU multiplies float32, and compare the estimate with its memory, before the model loads.

    Raises:
        ConfigError: weights, gradients and optimizer alone do not fit.
    """
    if config.launch.on_cpu or not torch.cuda.is_available():  # `join_processes` has compared the two
        return
    torch.backends.cuda.matmul.allow_tf32 = allows_tf32(config)
    device = torch.cuda.get_device_properties(own_device())
    warning = check_memory(estimate_run(config, rows), float(device.total_memory), f"on {device.name}")
    if warning and own_rank() == 0:
        show(warning, sys.stderr)


def make_model(config: TrainConfig) -> ModelBundle:
    """Load the model to train; a tiny one is built into RUN_DIR/tiny."""
    model = config.model
    return load(
        model.path,
        model.adapter,
        tune=model.tune,
        freeze_vision=model.freeze_vision,
        lora=model.lora,
        dtype=model.dtype,
        attn=model.attn_implementation,
        text_after_video=model.text_after_video,
        vision_marks=config.prompt.vision_marks,
        offline=model.offline,
        tiny_folder=Path(config.run.dir) / "tiny",
        seed=config.run.seed,
        engine_copies=config.launch.profile.startswith("zero"),
    )


def run_manifest(config: TrainConfig, rows: list[Row], hash_videos: bool = True) -> TrainingManifest:
    """Return the lineage of this run: its rows and videos, and the manifests of the models it starts from.

    Args:
        hash_videos: record the hashes of the videos; one process of a run writes them.
    """
    files = row_files(config)
    names = [file.name for file in files] if len(files) == 1 else [f"{f.parent.name}/{f.name}" for f in files]
    parents = [lineage_of(config.model.path)]
    if config.model.adapter is not None:
        parents.append(lineage_of(config.model.adapter))
    manifest = training_manifest(
        rows,
        {name: file_record(file)["sha256"] for name, file in zip(names, files, strict=True)},
        parents,
        name=config.run.name or Path(config.run.dir).name,
        allow_val_safe=config.data.allow_val_safe,
        base=Path(config.data.path),
        hash_videos=hash_videos,
    )
    return replace(manifest, keep_out=kept_json(config.data.keep_out).get("keep_out", {}))


def save_final(trainer: StageTrainer, config: TrainConfig, path: Path) -> None:
    """Save the trained model; every process takes part, one writes.

    Sharded weights are gathered by the trainer, which saves an adapter as it is.
    """
    whole = config.merges() and config.model.tune == "lora" and config.launch.profile not in SHARDED
    if trainer.is_fsdp_enabled or (trainer.is_deepspeed_enabled and not whole):
        trainer.save_model(str(path))
    elif trainer.is_world_process_zero():
        if config.merges() and config.model.tune == "lora":
            # The sum of a bfloat16 base and its adapter would round off what was trained; the run is over.
            trainer.bundle.model.to("cpu", torch.float32)
        save_model(trainer.bundle, path, merge=config.merges())


def join_processes(config: TrainConfig, num_processes: int) -> None:
    """Start torch's process group on CPUs, whose time limit no option of the Trainer reaches.

    On a GPU `trl_config` passes the limit on, and accelerate starts the group.

    Raises:
        SetupError: torch sees no GPU though the profile needs one (accelerate would train on the CPU), sees one that
            launch=auto has not counted, or FSDP2 is asked for on CPUs.
    """
    launch = config.launch
    if not launch.on_cpu:
        if not torch.cuda.is_available():
            raise SetupError(f"launch={launch.profile}: needs GPUs: {why_no_gpu()}", hint=cpu_hint(launch))
        return
    check_devices(config)
    if launch.auto and not launch.use_cpu and launch.num_processes == 1 and torch.cuda.is_available():
        raise SetupError(
            f"launch=auto counted no GPU, torch sees {torch.cuda.device_count()}: {visible_gpus().source}",
            hint="set launch=cpu to train on the CPU, or make nvidia-smi work",
        )
    if num_processes > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=config.launch.timeout_s))


if __name__ == "__main__":
    sys.exit(main())
