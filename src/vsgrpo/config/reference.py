"""The settings as a reference: each key with value, type, rule, meaning and file. docs/configuration.md is made of it.

`vsgrpo configs WORD` searches it.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from vsgrpo.config.roots import ROOTS
from vsgrpo.config.trainer import TRAINERS
from vsgrpo.config.trl_options import FIXED, PASSED, REFUSED
from vsgrpo.config.yaml_files import (
    Entry,
    command_of,
    comments,
    config_dir,
    config_folders,
    config_groups,
    entries,
    option_entries,
)
from vsgrpo.rules import rules_of
from vsgrpo.scans.source import SOURCES, find_source

COMMANDS = {"train": "train grpo|sft|dpo", "eval": "eval", "serve": "serve"}
COMMANDS |= {"build_data": "build-data", "build_cot": "build-cot"}
"""Root file -> the command that it belongs to."""


class Setting(NamedTuple):
    """A key, or an option of a group, and where it is set."""

    key: str
    value: str
    rule: str
    meaning: str
    where: str
    """The command, `GROUP=OPTION`, or `experiment=NAME`."""


def search(word: str, extra_dir: Path | None = None) -> list[Setting]:
    """Return the settings in which each part of `word` (split at spaces) occurs.

    Those whose key has it come first, and the keys of commands before the values of experiments.
    """
    parts = word.lower().split()
    found = [item for item in settings(extra_dir) if all(part in " ".join(item).lower() for part in parts)]

    def rank(item: Setting) -> tuple[bool, bool]:
        is_aside = item.where.startswith(("experiment=", "refused")) or item.key.startswith("experiment=")
        return not all(part in item.key.lower() for part in parts), is_aside

    return sorted(found, key=rank)


def settings(extra_dir: Path | None = None) -> Iterator[Setting]:
    """Yield every setting: keys of the commands, then those of groups, options of groups, and options of TRL."""
    for root, cls in ROOTS.items():
        for entry in entries(config_dir() / f"{root}.yaml"):
            section, _, path = entry.key.partition(".")
            yield _setting(entry, type_text(hints_of(cls).get(section), path), f"vsgrpo {COMMANDS[root]}")
    groups = config_groups(extra_dir)
    for group, options in groups.items():
        for option in options:
            for folder in config_folders(extra_dir):
                if (file := folder / group / f"{option}.yaml").is_file():
                    yield from _of_file(group, option, file)
                    break
    for name, option in PASSED.items():
        rule = option.rule.__name__ if isinstance(option.rule, type) else option.rule.text()
        yield Setting(f"trainer.hf.{name}", "", rule, "option of TRL, passed on", f"train {'|'.join(option.methods)}")
    for name, instead in FIXED.items():
        yield Setting(f"trainer.{name}", "", "", f"option of TRL, decided by {instead}", "not to be set")
    for name, (reason, way_out) in REFUSED.items():
        yield Setting(f"trainer.{name}", "", "", f"option of TRL: {reason}; {way_out}", "refused")


def _of_file(group: str, option: str, file: Path) -> Iterator[Setting]:
    """Yield an option of a group, what it is for, and the keys that it sets."""
    about = " ".join(line for line in comments(file) if not line.startswith("vsgrpo "))
    yield Setting(f"{group}={option}", "", "", about, command_of(file) or f"group {group}")
    for entry in option_entries(group, file):
        section, _, path = entry.key.partition(".")
        rule = "" if group == "experiment" else type_text(group_class(section, option), path)
        yield _setting(entry, rule, f"{group}={option}")


def _setting(entry: Entry, rule: str, where: str) -> Setting:
    return Setting(entry.key, entry.value, rule, entry.note, where)


def group_class(group: str, option: str) -> type | None:
    """Return the dataclass that the keys of a group's option become, None where there is none."""
    if group == "trainer" and option in TRAINERS:
        return TRAINERS[option]
    if group == "source" and option in SOURCES:
        return find_source(option).options
    return next((types[group] for types in map(hints_of, ROOTS.values()) if group in types), None)


def hints_of(cls: type) -> dict[str, Any]:
    """Return field name -> type of a dataclass."""
    return typing.get_type_hints(cls)


def type_text(cls: Any, path: str) -> str:
    """Return type and rule of the field at a dotted path as text, "" where there is none."""
    if cls is None or not dataclasses.is_dataclass(cls):
        return _name(cls) if cls is not None and not path else ""
    head, _, rest = path.partition(".")
    hint = hints_of(typing.cast(type, cls)).get(head)
    if hint is None:
        return ""
    rule = rules_of(typing.cast(type, cls)).get(head)
    if rule is not None and not rest:
        return f"{_name(hint)}: {rule.text()}"
    if dataclasses.is_dataclass(hint):
        return type_text(hint, rest) if rest else ""
    return _name(hint)


def _name(hint: object) -> str:
    text = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
    return re.sub(r"Optional\[([^][]+)\]", r"\1 | None", text.replace("typing.", ""))
