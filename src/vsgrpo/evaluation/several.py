"""Several models in one `vsgrpo eval`: model=A model=B, or a pattern such as model='runs/x/checkpoint-*'."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from vsgrpo.errors import ConfigError

_MODEL = re.compile(r"model(?:\.path)?=")
_OUTPUT = re.compile(r"(?:output|run\.dir)=")


def split_models(overrides: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return per model its name and the overrides that evaluate it; one entry ("" as its name) for a single model.

    Each model's results go into a folder of its name in the output folder. Names are the shortest ends of the paths
    that tell them apart. Checkpoints are taken in order of their numbers.

    Raises:
        ConfigError: a pattern that no folder matches, the same model twice, or no output folder.
    """
    given = [word for word in overrides if _MODEL.match(word)]
    others = [word for word in overrides if not _MODEL.match(word)]
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
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ConfigError(f"model={twice}: given twice", hint="give each model once")
    outputs = [word for word in others if _OUTPUT.match(word)]
    if len(outputs) != 1:
        raise ConfigError(f"{len(paths)} models: output=DIR is needed", hint="each model gets a folder in it")
    folder = outputs[0].partition("=")[2]
    rest = [word for word in others if not _OUTPUT.match(word)]
    named = zip(_names(paths), paths, strict=True)
    return [(name, [*rest, f"model.path={path}", f"output={folder}/{name}"]) for name, path in named]


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key by which checkpoint-9 comes before checkpoint-10."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]


def _names(paths: Sequence[str]) -> list[str]:
    """Return the shortest path ends, joined by "-", by which all paths differ."""
    parts = [Path(path).parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["-".join(part.strip("/") for part in path[-length:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    return [str(index) for index in range(len(paths))]
