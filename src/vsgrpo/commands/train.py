"""`vsgrpo train`: one run, one for each of several seeds, or a sweep."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from vsgrpo.commands import app
from vsgrpo.errors import ConfigError
from vsgrpo.packages import check_command
from vsgrpo.terminal import print_result, show


@app.command("train", "grpo experiment=vsgrpo_2b_v data=data/vsi100k output=runs/vsgrpo_2b_v", takes_keys=True)
def train(
    method: Annotated[str, typer.Argument(metavar="grpo|sft|dpo")],
    overrides: app.Overrides = None,
    dry_run: app.DryRun = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in output=DIR.")] = False,
    overwrite: app.Overwrite = False,
    allow_changed: app.AllowChanged = False,
    limit: app.Limit = None,
    wandb: Annotated[bool, typer.Option("--wandb", help="Log to Weights & Biases too.")] = False,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="A run for each combination of KEY=A,B, one after another, in output=DIR.")
    ] = False,
    sbatch: Annotated[
        bool, typer.Option("--sbatch", help="With --sweep: write DIR/sweep.sbatch, a Slurm array, instead of running.")
    ] = False,
    stop_on_failure: Annotated[
        bool, typer.Option("--stop-on-failure", help="With --sweep: start no run after one that failed.")
    ] = False,
    config_dir: app.ConfigDir = None,
    as_json: app.Json = False,
    debug: app.Debug = False,
) -> None:
    """Train a model on a dataset folder; run.seed=[0,1,2] trains in turn and prints mean and spread.

    --resume trainer.max_steps=MORE (or num_train_epochs, or further stages) lengthens a run.
    trainer.learning_rate=1e-5,1e-4 --sweep trains once with each value and compares the runs on one page.
    """
    if resume and overwrite:
        raise ConfigError("--resume --overwrite: these exclude each other", hint="give one of the two")
    given = _of_method(method, overrides or [])
    from vsgrpo.config.compose import load_config
    from vsgrpo.launch.result import run_result
    from vsgrpo.launch.seeds import seed_list
    from vsgrpo.launch.start import describe, launch_training

    given += [f"data.limit={limit}"] * bool(limit) + ["trainer.report_to=[wandb]"] * wandb
    if sweep:
        options = ["--allow-changed"] * allow_changed + ["--debug"] * debug
        options += [f"--config-dir={config_dir}"] * (config_dir is not None)
        modes = {"resume": resume, "overwrite": overwrite, "stop_on_failure": stop_on_failure}
        _train_sweep(given, config_dir, options, modes, dry_run=dry_run, sbatch=sbatch, as_json=as_json)
        return
    if sbatch or stop_on_failure:
        raise ConfigError(f"{'--sbatch' if sbatch else '--stop-on-failure'}: of a sweep", hint="add --sweep")
    seeds = seed_list(given)
    if seeds is not None and not dry_run:
        flags = {"overwrite": overwrite, "allow_changed": allow_changed}
        raise typer.Exit(_train_seeds(seeds, given, config_dir, resume, flags, as_json))
    if seeds is not None:
        given.append(f"run.seed={seeds[0]}")
    config = load_config("train", given, config_dir, allow_missing=dry_run)
    if dry_run:
        app.print_config(config)
        show(describe(config))
        return
    code = launch_training(config, given, resume=resume, overwrite=overwrite, allow_changed=allow_changed)
    if code:
        raise typer.Exit(code)
    if config.launch.machine_rank == 0 and (result := run_result(Path(config.run.dir))) is not None:
        print_result(result, as_json)


def _of_method(method: str, overrides: list[str]) -> list[str]:
    """Return the overrides of `train METHOD`."""
    from vsgrpo.rules import suggest

    if method not in ("grpo", "sft", "dpo"):
        raise ConfigError(f"train {method}: no such method", hint=suggest(method, ("grpo", "sft", "dpo")))
    named = [item for item in overrides if item.partition("=")[0] in ("trainer", "trainer.name")]
    if named:
        raise ConfigError(f"{named[0]}: the method is the word after `train`", hint=f"vsgrpo train {method} KEY=VALUE")
    return [f"trainer={method}", *overrides]


def _train_seeds(
    seeds: list[int], given: list[str], config_dir: Path | None, resume: bool, flags: dict[str, bool], as_json: bool
) -> int:
    """Train once for each seed, print what came of them, and return the exit code."""
    from vsgrpo.config.compose import load_config
    from vsgrpo.launch.result import run_result
    from vsgrpo.launch.seeds import of_seed, run_seeds
    from vsgrpo.launch.start import launch_training
    from vsgrpo.training.continuation import is_longer

    first = load_config("train", [*given, f"run.seed={seeds[0]}"], config_dir)
    folder = Path(first.run.dir)

    def start(seed: int, run: Path, go_on: bool) -> int:
        words = of_seed(given, seed, folder)
        code = launch_training(load_config("train", words, config_dir), words, resume=go_on, **flags)
        if code == 0 and not as_json and (made := run_result(run)) is not None:
            show(made.table())
        return code

    code, text = run_seeds(seeds, folder, start, resume=resume, is_longer=partial(is_longer, config=first))
    if text and as_json:
        made = [run_result(folder / f"seed{seed}") for seed in seeds]
        show(json.dumps([run.to_json() for run in made if run is not None], indent=1))
    elif text:
        show(text)
    return code


def _train_sweep(
    given: list[str],
    config_dir: Path | None,
    options: list[str],
    modes: dict[str, bool],
    *,
    dry_run: bool,
    sbatch: bool,
    as_json: bool,
) -> None:
    """Check, list, run, or write as a Slurm array, the runs of a sweep; compare them on one page."""
    from vsgrpo.config.compose import load_config
    from vsgrpo.launch.sweep import make_sweep, run_sweep, write_sbatch, write_sweep

    sweep = make_sweep(given)
    for run in sweep.runs:  # a wrong value is found before the first run
        load_config("train", [*run.words, f"output={sweep.folder / run.name}"], config_dir, allow_missing=dry_run)
    if dry_run:
        print_result(sweep, as_json)
        return
    if not sbatch:
        check_command("train")
    write_sweep(sweep, resume=modes["resume"], overwrite=modes["overwrite"])
    if sbatch:
        if modes["overwrite"]:
            raise ConfigError("--sbatch --overwrite: a task that is requeued would start anew", "leave --overwrite out")
        show(f"sbatch {write_sbatch(sweep, options)}")
        return
    code = run_sweep(sweep, options, **modes, silent=as_json)
    if code <= 1:
        from vsgrpo.report.sweep_page import write_sweep_report

        print_result(write_sweep_report(sweep.folder), as_json)
    if code:
        raise typer.Exit(code)
