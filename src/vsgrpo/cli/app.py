"""The app that the commands register with, the options that they share, and what they say alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vsgrpo.terminal import show

METHODS = ("grpo", "sft", "dpo")
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


def did_you_mean(name: str, choices: tuple[str, ...]) -> str:
    """Return a hint with the nearest choice, or all of them."""
    from difflib import get_close_matches

    close = get_close_matches(name, choices, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else "choose from: " + ", ".join(choices)


def print_yaml(config: Any) -> None:
    """Print a resolved config."""
    from vsgrpo.config.compose import to_yaml

    show(to_yaml(config).rstrip())
