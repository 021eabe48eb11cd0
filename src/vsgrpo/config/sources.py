"""`sources=[{name, root, split}, ...]` of build-data: several sources of scans for one dataset.

An entry has the keys of its source (`source.*`) and `split`, which stands for data.split. What it does not name is as
configs/source/NAME.yaml has it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vsgrpo.config.keys import SOURCES_EXAMPLE, build_section, nearest
from vsgrpo.config.yaml_files import group_file
from vsgrpo.errors import ConfigError
from vsgrpo.files import read_yaml
from vsgrpo.rules import choice
from vsgrpo.scans.source import ScanSource, SourceOptions, find_source

SPLIT = choice("train", "val_safe", "train+val_safe")


@dataclass(frozen=True)
class SourcePart:
    """One source of a dataset.

    Attributes:
        options: its keys.
        split: of its scans, as data.split.
        key: of the configuration that names it, for messages.
    """

    options: SourceOptions
    split: str
    key: str = "source"

    @property
    def source(self) -> ScanSource:
        """What the name stands for."""
        return find_source(self.options.name)

    @property
    def dataset(self) -> str:
        """Name of the data set in rows, folders and manifests."""
        return self.source.name

    def root(self, out: Path) -> Path:
        """Return the folder of its scans; a source that makes them does so in OUT/scans_root."""
        return Path(self.options.root) if self.options.root is not None else out / "scans_root"


def refuse_both(overrides: Sequence[str]) -> None:
    """Raise ConfigError where the command line chooses one source and several."""
    given = [item for item in overrides if item.partition("=")[0].partition(".")[0] == "source"]
    if given:
        hint = f"leave it out, and give the keys of a source in its entry: {SOURCES_EXAMPLE}"
        raise ConfigError(f"{given[0]}: has no effect beside sources=[...]", hint)


def completed(entries: Any, split: str, extra_dir: Path | None, allow_missing: str | None) -> list[dict[str, Any]]:
    """Return the entries of `sources` with every key of their source.

    Args:
        split: data.split, for entries without one.
        allow_missing: value of a root that is not given; None: that is an error.

    Raises:
        ConfigError: no list of entries with a name, an unknown source, key or split, or a value of the wrong type.
    """
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, Mapping) for entry in entries):
        raise ConfigError(f"sources={entries}: a list of sources is needed", f"write {SOURCES_EXAMPLE}")
    return [
        _completed(
            f"sources[{number}]", {str(key): value for key, value in entry.items()}, split, extra_dir, allow_missing
        )
        for number, entry in enumerate(entries)
    ]


def _completed(
    key: str, entry: dict[str, Any], split: str, extra_dir: Path | None, allow_missing: str | None
) -> dict[str, Any]:
    if not isinstance(entry.get("name"), str):
        raise ConfigError(f"{key}={entry}: has no name", f"write {SOURCES_EXAMPLE}")
    file = group_file("source", entry["name"], extra_dir)
    values = {"split": split, **(read_yaml(file, "write it again") if file is not None else {}), **entry}
    if file is not None:  # the file's own name may be package.module:NAME
        values["name"] = read_yaml(file, "write it again").get("name", entry["name"])
    if values.get("root") == "???":
        if allow_missing is None:
            raise ConfigError(f"{key}.root: no value given", f"write {SOURCES_EXAMPLE}")
        values["root"] = allow_missing
    part = part_of_entry(key, values)
    return {**dataclasses.asdict(part.options), "split": part.split}


def part_of_entry(key: str, entry: Mapping[str, Any]) -> SourcePart:
    """Return an entry of `sources` as a typed part; ConfigError where a key or a value is wrong."""
    given = {name: value for name, value in entry.items() if name != "split"}
    try:
        options = find_source(str(given.get("name"))).options
        names = {item.name for item in dataclasses.fields(options)}
        if unknown := [name for name in given if name not in names]:
            close = nearest(f"{key}.{unknown[0]}", [f"{key}.{name}" for name in sorted(names | {"split"})])
            raise ConfigError(f"{key}.{unknown[0]}: unknown key", close)
        SPLIT.check(f"{key}.split", entry.get("split"))
        section = build_section(options, given, key)
    except ConfigError as error:  # a rule names its section
        message, hint = (re.sub(r"\bsource\.(?=\w+=)", f"{key}.", text) for text in (error.message, error.hint))
        raise ConfigError(message, hint) from None
    return SourcePart(section, str(entry["split"]), key)
