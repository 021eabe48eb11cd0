"""The app that commands register with: the options and ways to print that they share, and how one of them is run."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from vsgrpo.errors import VsgrpoError, from_machine
from vsgrpo.terminal import complain, show

# typer carries its own copy of click's exceptions in some versions and click's in others: take them from typer.
_UsageError: type[Exception] = typer.BadParameter.__mro__[2]  # ClickException
INTERRUPTED = "interrupted: what was finished is kept, the same command goes on (train: add --resume)"

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


def main(argv: list[str] | None = None) -> None:
    """Entry point: run the app and turn errors into one `error:` and one `hint:` line."""
    for stream in (sys.stdout, sys.stderr):  # a terminal that cannot write a letter gets its escape
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: list[str]) -> int:
    """Run one command and return its exit code."""
    debug = "--debug" in argv or os.environ.get("VSGRPO_DEBUG") == "1"
    try:
        result: Any = app(args=argv or ["--help"], standalone_mode=False, prog_name="vsgrpo")
        if result == 130:  # typer turns KeyboardInterrupt into this
            print(INTERRUPTED, file=sys.stderr)
        return result if isinstance(result, int) else 0
    except VsgrpoError as error:
        if debug:
            raise
        complain(error.message, error.hint)
        return error.exit_code
    except _UsageError as error:
        what, _, close = " ".join(error.format_message().split()).partition(" Did you mean ")  # type: ignore[attr-defined]
        command, shows = "vsgrpo", "the commands"
        if argv and not argv[0].startswith("-") and not what.startswith("No such command"):
            command, shows = f"vsgrpo {argv[0]}", "its options"
        hint = f"did you mean {close}" if close else f"`{command} --help` shows {shows}"
        complain(what.rstrip(".").replace("Missing argument", "missing argument"), hint)
        return 2
    except typer.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print(INTERRUPTED, file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        known = from_machine(error)
        if known is None or debug:
            raise
        complain(known.message, known.hint)
        return known.exit_code
