"""The configurations of the commands by name, their keys, and what a word that is none of them was meant for."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vsgrpo.config.build import BuildCotConfig, BuildDataConfig
from vsgrpo.config.evaluate import EvalConfig
from vsgrpo.config.keys import FLAGS, KEYS_HINT, closest, field_types, section_classes
from vsgrpo.config.serve import ServeConfig
from vsgrpo.config.train import TrainConfig
from vsgrpo.config.trainer import TRAINERS
from vsgrpo.config.yaml_files import config_groups
from vsgrpo.errors import ConfigError
from vsgrpo.scans.source import SOURCES, find_source

ROOTS: dict[str, type] = {
    "train": TrainConfig,
    "build_data": BuildDataConfig,
    "build_cot": BuildCotConfig,
    "eval": EvalConfig,
    "serve": ServeConfig,
}


def known_keys(root: str, method: str | None = None) -> list[str]:
    """Return every dotted key of `root`'s dataclasses, and its groups; with `method`, of that trainer alone."""

    def keys_of(cls: type, prefix: str = "") -> set[str]:
        sections = section_classes(cls)
        keys = {prefix + name for name in field_types(cls).keys() - sections.keys()}
        return keys.union(*(keys_of(inner, f"{prefix}{name}.") for name, inner in sections.items()))

    keys = keys_of(ROOTS[root]) | (config_groups().keys() & {*field_types(ROOTS[root]), "experiment"})
    if root == "train":
        keys.update(*(keys_of(cls, "trainer.") for name, cls in TRAINERS.items() if method in (None, name)))
    if root == "build_data":
        keys.update(*(keys_of(find_source(name).options, "source.") for name in SOURCES))
    return sorted(keys - {"model.dtype_auto"})  # not to be given


def key_type(root: str, key: str, method: str | None = None) -> Any:
    """Return the type of a dotted key, None where `root` has none of that name."""
    owner: Any = ROOTS[root]
    for name in key.split("."):
        if owner is None or not dataclasses.is_dataclass(owner):
            return None
        owner = TRAINERS[method] if (name, method) == ("trainer", method) and method else field_types(owner).get(name)
    return owner


def one_value(root: str, key: str, value: str, kind: Any) -> ConfigError:
    """Return the error for KEY=A,B, by the type of the key: a list, a text with a comma, or several runs meant."""
    kinds = [typing.get_origin(item) or item for item in (kind, *typing.get_args(kind))]
    if list in kinds or kind is None:
        hint = f"write {key}=[{value}]" + ("" if kind else ", or quote the value")
        return ConfigError(f"{key}={value}: a comma needs a list or quotes", hint)
    if str in kinds:
        sweep = "; or add --sweep to train with each" if root == "train" else ""
        return ConfigError(f"{key}={value}: a text with a comma needs quotes", f"write '{key}=\"{value}\"'{sweep}")
    first = value.split(",")[0].strip()
    if root == "train":
        return ConfigError(
            f"{key}={value}: a run takes one value", f"set {key}={first}; add --sweep to train with each"
        )
    loop = f"for v in {value.replace(',', ' ')}; do vsgrpo ... {key}=$v output=runs/$v; done"
    hint = f"set {key}={first}; for several runs: {loop}"
    return ConfigError(f"{key}={value}: a run takes one value", hint)


def check_words(root: str, overrides: Sequence[str], extra_dir: Path | None) -> None:
    """Refuse a word that is no KEY=VALUE with what it may have been meant for: an option, a key, a folder, a name."""
    for number, item in enumerate(overrides):
        given = [word.removeprefix("trainer=") for word in overrides if word.startswith("trainer=")]
        keys = known_keys(root, given[-1] if given and given[-1] in TRAINERS else None)
        if item.startswith("--") and not difflib.get_close_matches(item.partition("=")[0], FLAGS, n=1, cutoff=0.7):
            name, equals, value = item.lstrip("-").partition("=")
            value = value if equals else next(iter(overrides[number + 1 : number + 2]), "VALUE")
            key = closest(name.replace("-", "_"), keys)
            hint = KEYS_HINT if key is None else f"did you mean {key}={'VALUE' if '=' in value else value}?"
            raise ConfigError(f"{item}: not an option of this command", hint)
        if "=" in item or item.startswith(("-", "~", "+")):
            continue
        options = [f"{name}={item}" for name, known in config_groups(extra_dir).items() if item in known]
        path = "benchmark.path" if root == "eval" else "data"
        options += [f"{path}={item}"] if Path(item).exists() and root != "build_data" else []
        options += [f"{key}=VALUE"] if (key := closest(item, keys)) else []
        hint = f"did you mean {options[0]}?" if options else KEYS_HINT
        raise ConfigError(f"{item}: overrides are key=value", hint)
