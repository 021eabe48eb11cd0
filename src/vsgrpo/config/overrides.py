"""Command-line overrides: shorthands and paths before Hydra sees them, and which of them would have no effect."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from vsgrpo.config.evaluate import EvalConfig
from vsgrpo.config.train import TrainConfig
from vsgrpo.errors import ConfigError
from vsgrpo.rules import suggest

PATH_KEYS = {
    *("model.path", "model.adapter", "data.path", "run.dir", "benchmark.path", "source.root"),
    *("video.folder", "video.cache_dir", "run.name", "cot.cache_dir"),
    *(f"{step}.{key}" for step in ("pseudo", "describe", "reason", "extract") for key in ("base_url", "model")),
}
FLAGS = ("--dry-run", "--resume", "--overwrite", "--json", "--debug", "--config-dir", "--limit", "--wandb")
FLAGS += ("--skip-missing", "--allow-leak", "--allow-changed")
KEYS_HINT = "keys are SECTION.NAME; `vsgrpo configs` lists the groups"
SHORTHANDS = {"model": "model.path", "data": "data.path", "output": "run.dir"}
SHORTHANDS |= {"benchmark": "benchmark.name", "source": "source.name"}


def prepare_overrides(root: str, overrides: Sequence[str]) -> list[str]:
    """Return `overrides` ready for Hydra.

    `model=PATH`, `data=DIR`, `output=DIR` become `model.path`, `data.path`, `run.dir` (build-data: `data.path`) when
    the value has a path separator or names a folder (for data and output: always); `benchmark=package.module:Class`
    and `source=package.module:NAME` become `benchmark.name` and `source.name`. Values of path keys are quoted, so that
    `=`, spaces, commas and brackets in a path need no escaping. With a source of one's own the keys of `source` are
    added: no YAML has them.

    Raises:
        ConfigError: an item that is not key=value, or takes keys away or adds them.
    """
    prepared = [_one(root, item) for item in overrides]
    if root == "build_data" and any(item.startswith("source.name=") and ":" in item for item in prepared):
        prepared = [f"++{item}" if item.startswith("source.") else item for item in prepared]
    return prepared


def _one(root: str, item: str) -> str:
    if item.startswith("-"):
        bare = item.lstrip("-").partition("=")[0]
        close = difflib.get_close_matches(f"--{bare}", FLAGS, n=1, cutoff=0.7)
        hint = f"config keys are key=value: {bare.replace('-', '_')}=VALUE" if bare else "remove it"
        raise ConfigError(f"{item}: not an option of this command", f"did you mean {close[0]}?" if close else hint)
    if item.startswith("~"):
        raise ConfigError(f"{item}: keys cannot be removed", hint="set the key to another value, or to null")
    key, equals, value = item.partition("=")
    if not equals or not key:
        raise ConfigError(f"{item}: overrides are key=value", hint="`vsgrpo configs` lists groups and keys")
    if _is_shorthand(key, value):
        key = "data.path" if (root == "build_data" and key == "output") else SHORTHANDS[key]
    plain = key.lstrip("+")
    if plain.startswith("trainer.hf.") or (plain == "trainer.hf" and value.startswith("{")):
        return f"++{plain}={value}"
    if key.startswith("+"):
        raise ConfigError(f"{key}: keys cannot be added", hint="only trainer.hf.NAME=value reaches further TRL options")
    if key.partition(".")[0] == "hydra" or re.search(r"[@/:]", key):
        raise ConfigError(f"{key}: unknown key", KEYS_HINT)
    if key in PATH_KEYS and value not in ("null", "???"):
        value = _quoted(os.path.expanduser(value))
    return f"{key}={value}"


def _is_shorthand(key: str, value: str) -> bool:
    """Return whether KEY=VALUE is short for another key; `model`, `benchmark` and `source` are groups too.

    Options of the group `model` are no folders, and those of the others no `package.module:NAME`.
    """
    if key in ("benchmark", "source"):
        return ":" in value
    if key != "model":
        return key in SHORTHANDS
    return os.sep in value or "/" in value or (value != "" and Path(value).is_dir())


def _quoted(value: str) -> str:
    """Quote for Hydra's grammar: a backslash run before a quote is doubled, `${` is escaped for OmegaConf."""
    body = re.sub(r'(\\*)"', lambda m: m.group(1) * 2 + '\\"', value)
    body = re.sub(r"(\\+)$", lambda m: m.group(1) * 2, body)
    return '"' + body.replace("${", "\\${") + '"'


def override_text(value: object) -> str:
    """Return a value as it is written behind KEY= on a command line: null, true, [a,b], '{a: 1}'."""
    text = _override_text(value)
    return f"'{text}'" if re.search(r"[\s{}\"$*;&|<>()]", text) else text


def _override_text(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_override_text(item)}" for name, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(map(_override_text, value)) + "]"
    if isinstance(value, str) and not re.fullmatch(r"[\w.:/+-]+", value):
        return _quoted(value)
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def check_groups(overrides: Sequence[str], groups: Mapping[str, Sequence[str]]) -> None:
    """Raise ConfigError where several options of a group are chosen at once, or none: Hydra would keep the last."""
    for item in overrides:
        key, _, value = item.partition("=")
        if key not in groups or _is_shorthand(key, value):
            continue
        if value.startswith(("[", "{")) or "," in value or (value in ("null", "") and key != "experiment"):
            first = re.sub(r"[\[\]{}\s]", "", value).split(",")[0]
            raise ConfigError(f"{item}: one {key} is needed", hint=suggest(first, list(groups[key])))
        if re.fullmatch(r"[-+]?[\d.][\d.eE+-]*|[-+]?(inf|nan)|true|false", value, re.IGNORECASE):  # no word for Hydra
            raise ConfigError(f"{item}: no such {key}", hint=suggest(value, list(groups[key])))


def check_used(overrides: Sequence[str], config: object) -> None:
    """Raise ConfigError for a key on the command line that another key leaves without effect.

    Experiments may hold such keys: they describe several methods, or are overlaid by others.
    """
    if not isinstance(config, TrainConfig | EvalConfig):
        return
    for item in overrides:
        key = item.partition("=")[0]
        if (unused := config.why_unused(key)) is not None:
            raise ConfigError(f"{item}: {unused[0]}", hint=unused[1])
        if key == "trainer.stages" and isinstance(config, TrainConfig):
            _check_used_in_stages(config)


def _check_used_in_stages(config: TrainConfig) -> None:
    for number, (given, section) in enumerate(zip(config.trainer.stages or [], config.stage_sections(), strict=False)):
        unused, where = section.unused(), f"trainer.stages[{number}]."
        for name in [name for name in given if name in unused]:
            why, out = unused[name]
            raise ConfigError(f"{where}{name}={given[name]}: {why}", hint=out.replace("trainer.", where))
