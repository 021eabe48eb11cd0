"""Several models in one `vsgrpo eval`: `model=` given more than once, or as a pattern."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from vsgrpo.errors import ConfigError


def split_models(overrides: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return per model its name and the overrides that evaluate it; one entry ("" as its name) for a single model.

    Each model's results go into a folder of its name in the output folder. Names are the shortest ends of the paths
    that tell them apart. Checkpoints are taken in order of their numbers.

    Raises:
        ConfigError: a pattern that no folder matches, the same model twice, or no output folder.
    """
    given = [word for word in overrides if word.startswith(("model=", "model.path="))]
    others = [word for word in overrides if word not in given]
    paths: list[str] = []
    for word in given:
        value = word.partition("=")[2]
        if not glob.has_magic(value) or Path(value).exists():
            paths.append(value)
            continue
        found = sorted((name for name in glob.glob(value) if Path(name).is_dir()), key=_natural)
        if not found:
            raise ConfigError(f"{word}: no folder matches", hint="quote the pattern, and look at what it should find")
        paths += found
    if len(paths) < 2:
        return [("", [*others, *([f"model.path={paths[0]}"] if paths else [])])]
    if twice := [path for path in paths if paths.count(path) > 1]:
        raise ConfigError(f"model={twice[0]}: given twice", hint="give each model once")
    outputs = [word for word in others if word.startswith(("output=", "run.dir="))]
    if len(outputs) != 1:
        raise ConfigError(f"{len(paths)} models: output=DIR is needed", hint="each model gets a folder in it")
    folder = outputs[0].partition("=")[2]
    rest = [word for word in others if word not in outputs]
    named = zip(_names(paths), paths, strict=True)
    return [(name, [*rest, f"model.path={path}", f"output={folder}/{name}"]) for name, path in named]


def _natural(name: str) -> list[str | int]:
    """Sort key by which checkpoint-9 comes before checkpoint-10: every second part is a number."""
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r"(\d+)", name))]


def _names(paths: Sequence[str]) -> list[str]:
    """Return the shortest path ends, joined by "-", by which all paths differ."""
    parts = [Path(path).parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["-".join(part.strip("/") for part in path[-length:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    return [str(index) for index in range(len(paths))]
