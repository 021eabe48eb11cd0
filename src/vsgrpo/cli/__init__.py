"""`vsgrpo`: the command line. Imports nothing heavy; every command loads what it needs when it runs.

Results go to stdout, progress and messages to stderr. Exit codes: 0 done, 1 the run failed, 2 usage, configuration or
input error (one `error:` and one `hint:` line), 130 / 143 interrupted.
"""

from vsgrpo.cli import data, models, show  # noqa: F401  (registers commands, in the order of `--help`)
from vsgrpo.cli.app import app, main, run

__all__ = ["app", "main", "run"]
