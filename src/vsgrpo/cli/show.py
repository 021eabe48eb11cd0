"""Commands that show settings, runs, rows and this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vsgrpo.cli.app import PASS, ConfigDir, Debug, Json, app, print_result
from vsgrpo.errors import ConfigError
from vsgrpo.terminal import show


@app.command("configs")
def configs(
    group: Annotated[str | None, typer.Argument(help="One group, e.g. experiment.")] = None,
    config_dir: ConfigDir = None,
    debug: Debug = False,
) -> None:
    """List config groups and their options; with GROUP, what each option is for."""
    from vsgrpo.config.compose import config_dir as packaged
    from vsgrpo.config.compose import config_groups
    from vsgrpo.rules import suggest

    groups = config_groups(config_dir)
    if group is None:
        width = max(map(len, groups))
        show("\n".join(f"{name:<{width}}  {', '.join(options)}" for name, options in groups.items()))
        return
    if group not in groups:
        raise ConfigError(f"{group}: no such config group", hint=suggest(group, tuple(groups)))
    for option in groups[group]:
        paths = [folder / group / f"{option}.yaml" for folder in ([config_dir] if config_dir else []) + [packaged()]]
        text = next(path for path in paths if path.is_file()).read_text(encoding="utf-8")
        comments = [x.lstrip("# ") for x in text.splitlines() if x.startswith("#") and "@package" not in x]
        show(f"{option}: {comments[0] if comments else ''}")


@app.command("report", epilog="Example: vsgrpo report runs/beta0 runs/beta1e-4 output=compare.html")
def report(
    given: Annotated[list[str], typer.Argument(metavar="RUN_DIR... [output=FILE]", help="Run folders, overlaid.")],
    debug: Debug = False,
) -> None:
    """Write one HTML page about training runs: curves, alarms, phase times, what the model said, evaluations.

    One run: RUN_DIR/report.html. Several: compare.html in the folder they share.
    """
    from vsgrpo.report.run_page import write_report

    outputs = [Path(word.removeprefix("output=")) for word in given if word.startswith("output=")]
    folders = [Path(word) for word in given if not word.startswith("output=")]
    show(write_report(folders, outputs[-1] if outputs else None).table())


@app.command("inspect", epilog="Example: vsgrpo inspect runs/x/eval type=object_counting score=worst output=rows.html")
def inspect(
    given: Annotated[list[str], typer.Argument(metavar="DATASET|EVALUATION|RUN [KEY=VALUE]...")],
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Show so many rows (20).")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Print rows of a dataset, an evaluation or a GRPO run, or write a page with their frames and floor plans.

    Keys: type=NAME scene=NAME id=ID split=train|dev|test score=worst|best step=N rows=FILE output=FILE.html.
    Of a run: its completions, newest step first; their score is the reward.
    """
    from vsgrpo.inspect import inspect as run_inspect

    result = run_inspect(given, limit)
    show(json.dumps([item.to_json() for item in result.rows], indent=1) if as_json else result.table())


@app.command(
    "doctor", context_settings=PASS, epilog="Example: vsgrpo doctor experiment=vsgrpo_2b_24gb data=data/vsi100k"
)
def doctor(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[grpo|sft|dpo] [KEY=VALUE]...", help="Of a run: will it fit here?")
    ] = None,
    config_dir: ConfigDir = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Check versions, devices, decoders, disk, paths, and whether a run fits: what would fail, and how to fix it."""
    from vsgrpo.doctor.run import examine

    report = examine(overrides or [], config_dir)
    print_result(report, as_json)
    if report.failed:
        raise typer.Exit(1)


@app.command("version")
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    show(installed("vsgrpo"))
