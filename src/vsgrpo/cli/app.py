"""The app that commands register with, and the options and ways to print that they share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from vsgrpo.terminal import show

PASS = {"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name="vsgrpo",
    help="GRPO for visual-spatial reasoning: raw ScanNet scans to questions, a trained Qwen2-VL, VSI-Bench scores.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Config overrides.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved config and derived numbers, do nothing.")]
ConfigDir = Annotated[Path | None, typer.Option("--config-dir", help="Your YAML folder; its files shadow ours.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier run wrote there.")]
AllowChanged = Annotated[
    bool, typer.Option("--allow-changed", help="Go on although rows, videos or weights changed since the start.")
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Use only the first N.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def print_result(result: Any, as_json: bool) -> None:
    """Print what a command did or found: its `table()` for people, or its `to_json()` for programs."""
    show(json.dumps(result.to_json(), indent=1) if as_json else result.table())


def print_config(config: Any) -> None:
    """Print a resolved config as YAML."""
    from vsgrpo.config.compose import to_yaml

    show(to_yaml(config).rstrip())
