"""The app that commands register with: `command`, the options that they share, and how a config is printed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from vsgrpo.terminal import set_verbosity, show

_HELP = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name="vsgrpo",
    no_args_is_help=True,
    add_completion=False,  # `vsgrpo completion`: typer's own completes no keys
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=_HELP,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        show(version("vsgrpo"))
        raise typer.Exit


@app.callback()
def every_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Show the log lines of libraries too; allowed behind a command.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="Show results, warnings and errors alone; allowed behind a command.")
    ] = False,
) -> None:
    """GRPO for visual-spatial reasoning: raw ScanNet scans to questions, a trained Qwen2-VL, VSI-Bench scores."""
    set_verbosity("verbose" if verbose else "quiet" if quiet else None)


Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Config overrides.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved config and derived numbers, do nothing.")]
ConfigDir = Annotated[Path | None, typer.Option("--config-dir", help="Your YAML folder; its files shadow ours.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier run wrote there.")]
AllowChanged = Annotated[
    bool, typer.Option("--allow-changed", help="Go on although rows, videos or weights changed since the start.")
]
AllowLeak = Annotated[bool, typer.Option("--allow-leak", help="Score a model trained on benchmark rooms.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Use only the first N.")]
Export = Annotated[
    str | None, typer.Option("--export", metavar="lmms|easi", help="Write lmms-eval's logs, or the EASI submission.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
"""Taken by every command for its help; `vsgrpo.cli.run` reads it."""


def command(name: str, example: str | None = None, *, takes_keys: bool = False) -> Callable[[Any], Any]:
    """Return a decorator that registers a function as `vsgrpo NAME`.

    Args:
        example: what follows the name in the example below the help.
        takes_keys: its words are KEY=VALUE; one that begins with - and is no option is refused with them.
    """
    settings = {"ignore_unknown_options": True, **_HELP} if takes_keys else None
    epilog = None if example is None else f"Example: vsgrpo {name} {example}"
    return app.command(name, context_settings=settings, epilog=epilog)


def print_config(config: Any) -> None:
    """Print a resolved config as YAML."""
    from vsgrpo.config.compose import to_yaml

    show(to_yaml(config).rstrip())
