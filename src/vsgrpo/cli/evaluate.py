"""Commands that score and ask models."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from vsgrpo.cli.app import (
    PASS,
    AllowChanged,
    ConfigDir,
    Debug,
    DryRun,
    Json,
    Limit,
    Overrides,
    Overwrite,
    app,
    print_yaml,
)
from vsgrpo.terminal import show

AllowLeak = Annotated[bool, typer.Option("--allow-leak", help="Score a model trained on benchmark rooms.")]


@app.command(
    "eval",
    context_settings=PASS,
    epilog="Example: vsgrpo eval model=runs/x/final benchmark.path=data/vsibench output=runs/x/eval",
)
def evaluate(
    overrides: Overrides = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    limit: Limit = None,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Go on without videos that are missing.")
    ] = False,
    allow_leak: AllowLeak = False,
    allow_changed: AllowChanged = False,
    wandb: Annotated[bool, typer.Option("--wandb", help="Log scores and report to Weights & Biases too.")] = False,
    config_dir: ConfigDir = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Score a model on VSI-Bench or on a dataset folder; a second run goes on where the first stopped.

    benchmark=mathvista and benchmark=folder score answers to image questions.
    model= may be given several times, or as a quoted pattern: all are scored, and compared in one table.
    """
    from vsgrpo.config import load_config
    from vsgrpo.evaluation.several import split_models

    given = [*(overrides or []), *([f"benchmark.limit={limit}"] if limit else [])]
    models = split_models(given)
    configs = [load_config("eval", words, config_dir, allow_missing=dry_run) for _, words in models]
    if dry_run:
        for config in configs:
            print_yaml(config)
        return
    from vsgrpo.evaluation.compare import compare_table
    from vsgrpo.evaluation.leak import check_lineage
    from vsgrpo.evaluation.run import check_models
    from vsgrpo.evaluation.run_questions import run_benchmark

    if len(configs) > 1:  # the last model is refused now, not when the others are done
        for config in configs:
            check_models(config)
        for config in configs:
            check_lineage(config.model.path, config.model.adapter, allow_leak=allow_leak)
    found = {}
    for (name, _), config in zip(models, configs, strict=True):
        report = run_benchmark(
            config,
            skip_missing=skip_missing,
            allow_leak=allow_leak,
            overwrite=overwrite,
            wandb=wandb,
            allow_changed=allow_changed,
        )
        if report is not None:  # under a launcher one process of several reports
            found[name] = report.to_json() if as_json else report.table()
    if found:
        show(json.dumps(found if len(models) > 1 else found[""], indent=1) if as_json else "\n\n".join(found.values()))
    if len(found) > 1 and not as_json and configs[0].benchmark.name == "vsibench":
        named = [(name, config.run.dir) for (name, _), config in zip(models, configs, strict=True)]
        show("\n" + compare_table(named, "all models"))


@app.command("score", epilog="Example: vsgrpo score predictions.jsonl benchmark.path=data/vsibench/test.jsonl")
def score(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE [FILE2] [KEY=VALUE]...", help="Predictions; two: their difference.")
    ],
    allow_leak: AllowLeak = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Score predictions of any make (ours, lmms-eval logs, Video-R1 files, result lists) with all scorers.

    Two files: compare them. field=NAME: where the answers are, if not under `prediction`, `output`, `raw_answer`, ...

    Keys: benchmark.path=ROWS joins lines that carry an id only; benchmark.tasks=[NAME,...] keeps these question types;
    benchmark.split, prompt.mode, prompt.wording and prompt.show_options say how foreign predictions were asked for;
    model.path names the model, for the leak check.
    benchmark=mathvista benchmark.path=TESTMINI scores answers to MathVista.
    """
    if "benchmark=mathvista" in files:
        _mathvista(files, allow_leak, as_json)
        return
    from vsgrpo.evaluation.score_file import score_command

    report = score_command(files, allow_leak=allow_leak)
    show(json.dumps(report.to_json(), indent=1) if as_json else report.table())


@app.command("ask", epilog='Example: vsgrpo ask model=runs/x/final video=room.mp4 "How many chairs are in this room?"')
def ask(
    given: Annotated[list[str], typer.Argument(metavar="model=PATH video=FILE|image=FILE... QUESTION [KEY=VALUE]...")],
    config_dir: ConfigDir = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Ask a model one question about a video or images. Keys are those of eval: prompt.mode, image.max_pixels, ..."""
    from vsgrpo.evaluation.ask import answer, parse_request

    request = parse_request(given)
    from vsgrpo.config import load_config
    from vsgrpo.training.run_inputs import check_model

    config = load_config("eval", request.overrides, config_dir)
    check_model(config.model.path, config.model.adapter)
    reply = answer(config, request)
    show(json.dumps(reply.to_json(), indent=1) if as_json else "\n".join(reply.answers))


def _mathvista(words: list[str], allow_leak: bool, as_json: bool) -> None:
    from vsgrpo.evaluation.mathvista import mathvista_command

    report = mathvista_command(words, allow_leak=allow_leak)
    show(json.dumps(report.to_json(), indent=1) if as_json else report.table())
