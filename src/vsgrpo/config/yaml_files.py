"""The YAML files of the configuration as text: where they are, their groups, keys, values and comments.

Imports nothing heavy: Tab completion and `vsgrpo configs` read the files through it without composing anything.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from vsgrpo.errors import ConfigError

_LINE = re.compile(r"^(?P<indent> *)(?P<key>[\w.]+):(?P<value>[^#]*(?:\"[^\"]*\"[^#]*)?)(?:#\s*(?P<note>.*))?$")
_SECTION = "(section)"


class Entry(NamedTuple):
    """One key of a YAML file: dotted from the top of the file, its value as written, and its comment."""

    key: str
    value: str
    note: str


def config_dir() -> Path:
    """Return the folder of the packaged YAML: inside the wheel, or at the root of an editable checkout."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "configs", package.parents[1] / "configs"):
        if (candidate / "train.yaml").is_file():
            return candidate
    raise ConfigError(f"{package / 'configs'}: packaged configs not found", hint="reinstall vsgrpo: pip install -e .")


def config_folders(extra_dir: Path | None) -> list[Path]:
    """Return the folders of YAML, the user's own first: its files shadow ours."""
    return [*([extra_dir] if extra_dir else []), config_dir()]


def config_groups(extra_dir: Path | None = None) -> dict[str, list[str]]:
    """Return group -> option names, the user's own folder included."""
    groups: dict[str, set[str]] = {}
    for folder in config_folders(extra_dir):
        for path in sorted(folder.glob("*/*.yaml")):
            if path.parent.name != "accelerate":
                groups.setdefault(path.parent.name, set()).add(path.stem)
    return {name: sorted(options) for name, options in sorted(groups.items())}


def group_file(group: str, option: str, extra_dir: Path | None = None) -> Path | None:
    """Return the file of an option, the user's own before ours; None where there is none."""
    files = (folder / group / f"{option}.yaml" for folder in config_folders(extra_dir))
    return next((file for file in files if file.is_file()), None)


def option_entries(group: str, file: Path) -> list[Entry]:
    """Return the keys that a file of a group sets, dotted from the top of the configuration.

    A file that begins with `# @package _global_` may set keys of other sections too.
    """
    if file.read_text(encoding="utf-8").startswith("# @package _global_"):
        return entries(file)
    return [entry._replace(key=f"{group}.{entry.key}") for entry in entries(file)]


def entries(file: Path) -> list[Entry]:
    """Return the keys of a file, sections with a comment included; a comment line alone continues the one before."""
    found: list[list[str]] = []
    parents: list[tuple[int, str]] = []
    in_defaults = False
    for line in file.read_text(encoding="utf-8").splitlines():
        match = _LINE.match(line)
        if match is None:
            continuation = re.match(r"^ {20,}#\s*(.*)$", line)
            if continuation and found:
                found[-1][2] += " " + continuation.group(1)
            continue
        indent, key, value = len(match["indent"]), match["key"], match["value"].strip()
        in_defaults = key == "defaults" if indent == 0 else in_defaults
        if in_defaults:
            continue
        while parents and parents[-1][0] >= indent:
            parents.pop()
        dotted = ".".join([*(name for _, name in parents), key])
        if value == "":
            parents.append((indent, key))
            value = _SECTION
        found.append([dotted, value, match["note"] or ""])
    given = (Entry(*item) for item in found if item[1] != _SECTION or item[2])
    return [entry._replace(value="") if entry.value == _SECTION else entry for entry in given]


def comments(file: Path) -> list[str]:
    """Return the comment lines that a file begins with."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            found.append(line.lstrip("# ").strip())
    return found


def command_of(file: Path) -> str | None:
    """Return the command that the comment of an experiment says it is for, None where it has none."""
    return next((line for line in comments(file) if line.startswith("vsgrpo ")), None)


def purpose(file: Path) -> str:
    """Return what a file is for: its first comment line that is no command, "" where it has none."""
    line = next((line for line in comments(file) if not line.startswith("vsgrpo ")), "")
    return re.sub(r"[ :]*\bAs (\w+) but for:$", r" (changes \1)", line).strip()
