"""Commands that help to find settings: `configs` lists and searches them, `completion` makes Tab complete them."""

from __future__ import annotations

import difflib
import json
import textwrap
from pathlib import Path
from typing import Annotated

import typer

from vsgrpo.commands import app
from vsgrpo.commands.completion import SCRIPTS
from vsgrpo.errors import ConfigError
from vsgrpo.terminal import show

MOST_SHOWN = 40
"""Settings that a search prints; a longer list is no answer."""


@app.command("configs", "learning rate")
def configs(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[GROUP | WORD...]", help="One group, or words to search for.")
    ] = None,
    config_dir: app.ConfigDir = None,
    as_json: app.Json = False,
    debug: app.Debug = False,
) -> None:
    """List config groups and their options; of a GROUP, what each option is for; else search all settings for words.

    A search looks in keys, values, rules, meanings, sources, experiments and options of TRL.
    """
    from vsgrpo.config.yaml_files import config_groups

    if config_dir is not None and not config_dir.is_dir():
        raise ConfigError(f"--config-dir {config_dir}: not a folder", hint="give a folder with YAML groups inside")
    groups = config_groups(config_dir)
    if not words:
        width = max(map(len, groups))
        show("\n".join(f"{name:<{width}}  {', '.join(options)}" for name, options in groups.items()))
        show("\n`vsgrpo configs GROUP` says what each option is for, `vsgrpo configs WORD` searches every key.")
    elif len(words) == 1 and words[0] in groups:
        show(_options_text(words[0], groups[words[0]], config_dir))
    else:
        _show_found(" ".join(words), config_dir, as_json)


def _options_text(group: str, options: list[str], extra_dir: Path | None) -> str:
    """Return a line for each option of a group: its name and its purpose."""
    from vsgrpo.config.yaml_files import group_file, purpose

    width, lines = max(map(len, options)), []
    for option in options:
        file = group_file(group, option, extra_dir)
        assert file is not None
        lines.append(f"{option + ':':<{width + 1}} {purpose(file)}".rstrip())
    return "\n".join(lines)


def _show_found(word: str, extra_dir: Path | None, as_json: bool) -> None:
    """Print the settings that a search finds.

    Raises:
        ConfigError: there is none.
    """
    from vsgrpo.config.keys import ALIASES
    from vsgrpo.config.reference import search
    from vsgrpo.config.roots import ROOTS, known_keys
    from vsgrpo.config.yaml_files import config_groups

    found = search(ALIASES.get(word, word), extra_dir)
    if not found:
        names = {key.rpartition(".")[2] for root in ROOTS for key in known_keys(root)}
        near = difflib.get_close_matches(word.lower(), sorted({*names, *config_groups(extra_dir), *ALIASES}), n=1)
        hint = (
            f"did you mean {near[0]}?" if near else "`vsgrpo configs` lists the groups, docs/configuration.md every key"
        )
        raise ConfigError(f"configs {word}: found in no key, value, meaning or source", hint)
    if as_json:
        show(json.dumps([item._asdict() for item in found], indent=1))
        return
    for item in found[:MOST_SHOWN]:
        value = f"={item.value}" if item.value else ""
        note = "; ".join(filter(None, (item.rule, item.meaning)))
        show(f"{item.key}{value}  [{item.where}]")
        if note:
            show(textwrap.fill(note, 100, initial_indent="    ", subsequent_indent="    "))
    if len(found) > MOST_SHOWN:
        show(f"... and {len(found) - MOST_SHOWN} more: add a word to search for (--json prints all)")


@app.command("completion", "bash >> ~/.bashrc")
def completion(
    shell: Annotated[str, typer.Argument(metavar="bash|zsh")],
    debug: app.Debug = False,
) -> None:
    """Print the script that makes Tab complete commands, methods, groups, experiments, keys and their values."""
    if shell not in SCRIPTS:
        raise ConfigError(f"completion {shell}: no such shell here", hint=f"choose from: {', '.join(SCRIPTS)}")
    show(SCRIPTS[shell].rstrip("\n"))
