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
from contextlib import suppress
from pathlib import Path

import torch

from vsgrpo.config import TrainConfig, load_resolved
from vsgrpo.config.launch import SHARDED
from vsgrpo.data.leakage import (
    TrainingManifest,
    judge_rows,
    lineage_of,
    training_manifest,
    write_training_manifest,
)
from vsgrpo.data.manifest import file_record
from vsgrpo.data.row import Row
from vsgrpo.errors import DataError, RunError, VsgrpoError, from_machine
from vsgrpo.families.model_path import budget_of
from vsgrpo.memory.estimate import estimate_run
from vsgrpo.memory.fit import check_memory
from vsgrpo.modeling.bundle import ModelBundle
from vsgrpo.modeling.device import own_device
from vsgrpo.modeling.model import LoraSettings, load_model
from vsgrpo.modeling.model_card import write_model_card
from vsgrpo.modeling.quiet import quiet_libraries
from vsgrpo.modeling.save import save_model, write_vision
from vsgrpo.modeling.versions import check_versions
from vsgrpo.terminal import complain, show
from vsgrpo.training.arguments import check_enough_rows, trl_config
from vsgrpo.training.checkpoints import RunFolder
from vsgrpo.training.dev_score import dev_dataset, dev_overlap
from vsgrpo.training.guards import check_backend, join_processes
from vsgrpo.training.launcher import record_failure
from vsgrpo.training.rows_dataset import rows_to_dataset
from vsgrpo.training.run_inputs import load_rows, row_files
from vsgrpo.training.stage_trainer import StageTrainer
from vsgrpo.training.stages import RunParts, run_stages
from vsgrpo.training.supervise import end_with_parent
from vsgrpo.video.loader import BadVideo, VideoLoader


def main(argv: list[str] | None = None) -> int:
    """Train as the config file says; return the exit code."""
    parser = argparse.ArgumentParser(prog="vsgrpo.training.worker")
    parser.add_argument("config", type=Path, help="RUN_DIR/config.yaml")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of RUN_DIR")
    options = parser.parse_args(argv)
    try:
        config = load_resolved(options.config)
    except VsgrpoError as error:
        rank = int(os.environ.get("RANK", "0"))
        if not record_failure(options.config.parent, rank, error) and rank == 0:
            complain(error.message, error.hint)
        return error.exit_code
    return run_worker(config, resume=options.resume)


def run_worker(config: TrainConfig, *, resume: bool = False) -> int:
    """Train as one process of a run; return the exit code.

    Under our launcher a failure is written down, for the launcher to tell the first of them; otherwise it is told here.
    """
    end_with_parent()
    quiet_libraries()
    if not torch.cuda.is_available():
        skip_shm_build()
    rank, run_dir = int(os.environ.get("RANK", "0")), Path(config.run.dir)
    if rank > 0:  # one process speaks
        logging.getLogger("vsgrpo").setLevel(logging.ERROR)
    try:
        check_versions()
        return train(config, resume=resume)
    except KeyboardInterrupt as stop:
        return 128 + (stop.args[0] if stop.args else signal.SIGINT)
    except VsgrpoError as error:
        if not record_failure(run_dir, rank, error) and rank == 0:
            complain(error.message, error.hint)
        return error.exit_code
    except Exception as error:
        known = from_machine(error)
        if record_failure(run_dir, rank, known or error):
            return known.exit_code if known else 1
        if known is None or os.environ.get("VSGRPO_DEBUG") == "1":
            raise
        if rank == 0:
            complain(known.message, known.hint)
        return known.exit_code


def skip_shm_build() -> None:
    """Keep DeepSpeed from compiling `deepspeed_shm_comm` when it starts on a CPU.

    It speeds up reductions between processes of one machine, needs g++ and ninja, and takes minutes; without it gloo
    does the work. There is no setting for it: DeepSpeed 0.19 asks this table whether the operator can be built.
    """
    if "ACCELERATE_USE_DEEPSPEED" in os.environ:
        import deepspeed.ops

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def train(config: TrainConfig, *, resume: bool = False) -> int:
    """Run all stages and write final/; run.json says at any time how it stands.

    Returns:
        0, or 128 + the number of the signal that stopped the run.

    Raises:
        VsgrpoError: what the user can mend.
    """
    run_dir = Path(config.run.dir)
    is_main = int(os.environ.get("RANK", "0")) == 0
    folder = RunFolder(run_dir, lambda path: None, config.trainer.save_total_limit)
    if is_main:
        ids = {"pid": os.getpid(), "ppid": os.getppid(), "host": platform.node()}
        folder.update_status(status="running", stage=0, signal=None, **ids)
    try:
        code = _train(config, folder, resume)
    except BaseException as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if is_main:
            stopped = isinstance(error, KeyboardInterrupt)
            with suppress(OSError):
                folder.update_status(
                    status="stopped" if stopped else "failed", error=str(error) or type(error).__name__
                )
        if full:
            raise RunError(
                f"{run_dir}: {error}", hint="checkpoints so far are complete; free disk space, then --resume"
            ) from error
        raise
    if is_main:
        stop = signal.Signals(code - 128).name if code else None
        folder.update_status(status="stopped" if code else "done", signal=stop, error=None)
        if not code:
            _tell_result(folder)
    return code


def _tell_result(folder: RunFolder) -> None:
    show(f"trained: {folder.path / 'final'}", sys.stderr)
    if best := folder.read_status().get("best"):
        where = folder.path / f"checkpoint-{best['checkpoint']}"
        show(
            f"best on dev.jsonl: {where} (score {best['dev_score']:.3f}); final is the last state, whichever was best",
            sys.stderr,
        )


def _train(config: TrainConfig, folder: RunFolder, resume: bool) -> int:
    join_processes(config, int(os.environ.get("WORLD_SIZE", "1")))
    rows, verdict = load_rows(config)
    is_main = int(os.environ.get("RANK", "0")) == 0
    if verdict != "clean" and is_main:
        told = judge_rows(rows).unknown_text()
        show(f"leak check: {verdict}" + (f": {told}" if told else ""), sys.stderr)
    loader = make_loader(config)
    rows = readable_rows(rows, Path(config.data.path), loader, config.video.max_quarantined)
    dev = dev_dataset(config)
    for number in range(config.trainer.num_stages):  # what TRL refuses, before the model loads
        check_enough_rows(len(rows), trl_config(config, number))
    check_device(config, rows)
    bundle = make_model(config)
    if bundle.family.needs_timing:
        loader.timed_for = bundle.family.timed_label
        rows = readable_rows(rows, Path(config.data.path), loader, config.video.max_quarantined)
    manifest = run_manifest(config, rows, is_main)
    folder.describe = lambda path: _describe(path, config, manifest)
    if is_main:
        for parent in manifest.parents:
            if parent.verdict() != "clean":
                show(f"leak check of {parent.name or config.model.path}: {parent.reason()}", sys.stderr)
        if overlap := dev_overlap(config, manifest):
            show(f"note: {overlap}", sys.stderr)
        folder.update_status(parents=[parent.name for parent in manifest.parents])
    prompt = config.prompt
    dataset = rows_to_dataset(
        rows,
        Path(config.data.path),
        mode=prompt.mode,
        wording=prompt.wording,
        show_options=prompt.show_options,
        system=prompt.system,
        targets=config.trainer.name in ("sft", "dpo"),
        rejected_seed=config.run.seed if config.trainer.name == "dpo" else None,
    )
    checkpoint = folder.latest_checkpoint() if resume else None
    outcome = run_stages(
        RunParts(config, bundle, dataset, loader, folder, dev),
        checkpoint,
        lambda trainer: check_backend(trainer, config),
    )
    if outcome.trainer is None:
        raise RunError("trainer.stages=[]: nothing to train", hint="leave trainer.stages=null")
    if outcome.stopped_by is not None:
        # Slurm's early warning ends a run like the SIGTERM that would follow.
        return 128 + (signal.SIGINT if outcome.stopped_by == signal.SIGINT else signal.SIGTERM)
    trainer = outcome.trainer
    with trainer.timer.phase("save"):
        folder.publish_final(lambda path: save_final(trainer, config, path), trainer.is_world_process_zero())
    return 0


def check_device(config: TrainConfig, rows: list[Row]) -> None:
    """Compare the estimate with the memory of this process's GPU, before the model loads.

    Raises:
        ConfigError: weights, gradients and optimizer alone do not fit.
    """
    if config.launch.on_cpu or not torch.cuda.is_available():  # `join_processes` has compared the two
        return
    device = torch.cuda.get_device_properties(own_device())
    warning = check_memory(estimate_run(config, rows), float(device.total_memory), f"on {device.name}")
    if warning and int(os.environ.get("RANK", "0")) == 0:
        show(warning, sys.stderr)


def make_loader(config: TrainConfig) -> VideoLoader:
    """Return the loader of the config's vision budget."""
    video = config.video
    return VideoLoader(
        budget_of(config.model.path, config.vision()),
        backend=video.backend,
        timeout_s=video.timeout_s,
        frame_cache=video.frame_cache,
        cache_dir=video.cache_dir or Path(config.run.dir) / "cache",
        on_bad=video.on_bad,
    )


def readable_rows(rows: list[Row], base: Path, loader: VideoLoader, share: float) -> list[Row]:
    """Leave out the rows of videos and images whose header cannot be read (video.on_bad=skip), and say which.

    Args:
        share: of the files that may turn out bad, here or later in the run.

    Raises:
        DataError: one is bad under video.on_bad=error, more than `share` of them are, or no row is left.
    """
    bad: dict[tuple[str, Path], str] = {}
    places = dict.fromkeys(place for row in rows for place in row.media_paths(base))
    if loader.max_quarantined is None:  # a second look, at fewer files, allows no fewer of them
        loader.max_quarantined = int(share * len(places))
    for kind, path in places:
        try:
            loader.medium(path, kind)
        except BadVideo as error:
            bad[kind, path] = error.message
    for (kind, _), message in bad.items():
        show(f"skipped {kind}: {message}", sys.stderr)
    loader.check_quarantine()
    kept = [row for row in rows if not any(place in bad for place in row.media_paths(base))]
    if not kept:
        raise DataError(f"{base}: none of {len(bad)} videos and images can be read", hint="build the dataset again")
    return kept


def make_model(config: TrainConfig) -> ModelBundle:
    """Load the model to train; a tiny one is built into RUN_DIR/tiny."""
    model = config.model
    lora = model.lora
    return load_model(
        model.path,
        tune=model.tune,
        freeze_vision=model.freeze_vision,
        lora=LoraSettings(lora.r, lora.alpha, lora.dropout, tuple(lora.targets)),
        adapter=model.adapter,
        dtype=model.dtype,
        attn=model.attn_implementation,
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
    return training_manifest(
        rows,
        {name: file_record(file)["sha256"] for name, file in zip(names, files, strict=True)},
        parents,
        name=config.run.name or Path(config.run.dir).name,
        allow_val_safe=config.data.allow_val_safe,
        base=Path(config.data.path),
        hash_videos=hash_videos,
    )


def _describe(path: Path, config: TrainConfig, manifest: TrainingManifest) -> None:
    write_vision(path, config.vision())
    write_training_manifest(path, manifest)
    write_model_card(path, Path(config.run.dir))


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


if __name__ == "__main__":
    sys.exit(main())
