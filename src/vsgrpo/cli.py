"""`vsgrpo`: the command line. Imports nothing heavy; every command loads what it needs when it runs.

Results go to stdout, progress and messages to stderr. Exit codes: 0 done, 1 the run failed, 2 usage, configuration or
input error (one `error:` and one `hint:` line), 130 / 143 interrupted.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import typer

from vsgrpo.commands import data, models, settings, train  # noqa: F401  (registers commands, in the order of `--help`)
from vsgrpo.commands.app import app
from vsgrpo.commands.completion import VARIABLE, complete_line
from vsgrpo.errors import VsgrpoError, from_machine
from vsgrpo.packages import explain_missing
from vsgrpo.terminal import VERBOSITY, complain, show

# typer carries its own copy of click's exceptions in some versions and click's in others: take them from typer.
_UsageError: type[Exception] = typer.BadParameter.__mro__[2]  # ClickException
_EVERYWHERE = ("-v", "--verbose", "-q", "--quiet")
"""Options of `vsgrpo` itself that may stand behind the command as well."""
INTERRUPTED = "interrupted: what was finished is kept, the same command goes on (train: add --resume)"


def main(argv: list[str] | None = None) -> None:
    """Entry point: run the app and turn errors into one `error:` and one `hint:` line."""
    for stream in (sys.stdout, sys.stderr):  # a terminal that cannot write a letter gets its escape
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if VARIABLE in os.environ:  # Tab was pressed
        show(complete_line().rstrip("\n"))
        return
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: list[str]) -> int:
    """Run one command and return its exit code."""
    flags = [word for word in argv if word in _EVERYWHERE]
    argv = [*flags, *(word for word in argv if word not in _EVERYWHERE)]
    level = os.environ.get(VERBOSITY)
    try:
        return _run(flags, argv)
    finally:  # of this call alone, where several are made in one process
        os.environ.pop(VERBOSITY, None)
        if level is not None:
            os.environ[VERBOSITY] = level


def _run(flags: list[str], argv: list[str]) -> int:
    debug = "--debug" in argv or os.environ.get("VSGRPO_DEBUG") == "1"
    try:
        result: Any = app(
            args=argv if len(argv) > len(flags) else ["--help"], standalone_mode=False, prog_name="vsgrpo"
        )
        if result == 130:  # typer turns KeyboardInterrupt into this
            print(INTERRUPTED, file=sys.stderr)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except VsgrpoError as error:
        if debug:
            raise
        complain(error.message, error.hint)
        return error.exit_code
    except _UsageError as error:
        what, _, close = " ".join(error.format_message().split()).partition(" Did you mean ")  # type: ignore[attr-defined]
        command, shows = "vsgrpo", "the commands"
        named = argv[len(flags) :]
        if named and not named[0].startswith("-") and not what.startswith("No such command"):
            command, shows = f"vsgrpo {named[0]}", "its options"
        hint = f"did you mean {close}" if close else f"`{command} --help` shows {shows}"
        complain(what.rstrip(".").replace("Missing argument", "missing argument"), hint)
        return 2
    except typer.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print(INTERRUPTED, file=sys.stderr)
        return 130
    except (BrokenPipeError, SystemExit) as error:  # typer turns the one into the other
        pipe = error if isinstance(error, BrokenPipeError) else error.__context__
        if not isinstance(pipe, BrokenPipeError):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # who reads has read enough (`| head`)
        return 0
    except Exception as error:
        known = from_machine(error) or explain_missing(error)
        if known is None or debug:
            raise
        complain(known.message, known.hint)
        return known.exit_code


if __name__ == "__main__":  # a spawned process imports this module too
    main()
