"""Keys as a user writes them: overrides and shorthands before Hydra sees them, then plain values to a typed section.

Unknown keys and wrong types are refused here, rules by the section itself.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar

from vsgrpo.errors import ConfigError
from vsgrpo.rules import listed, suggest

PATH_KEYS = {
    *("model.path", "model.adapter", "data.path", "run.dir", "benchmark.path", "source.root", "prompt.template"),
    *("video.folder", "video.cache_dir", "run.name", "cot.cache_dir", "trust.train", "rollout.vllm.sync_dir"),
    *(f"{step}.{key}" for step in ("pseudo", "describe", "reason", "extract") for key in ("base_url", "model")),
}
SOURCES_EXAMPLE = "sources='[{name: scannet, root: DIR}, {name: scannetpp, root: DIR}]'"
FLAGS = ("--dry-run", "--resume", "--overwrite", "--json", "--debug", "--config-dir", "--limit", "--wandb")
FLAGS += ("--skip-missing", "--allow-leak", "--allow-changed", "--sweep", "--sbatch", "--stop-on-failure")
KEYS_HINT = "keys are SECTION.NAME=VALUE; `vsgrpo configs WORD` searches them, `vsgrpo configs` lists the groups"
SHORTHANDS = {"model": "model.path", "data": "data.path", "output": "run.dir"}
SHORTHANDS |= {"benchmark": "benchmark.name", "source": "source.name", "trust": "trust.report"}
TAGGED_TOKENS = 512
"""Tokens for an answer in think and observe mode where a shorthand chooses the mode and nothing names a number."""
ALIASES = {
    "lr": "trainer.learning_rate",
    "batch_size": "trainer.per_device_train_batch_size",
    "epochs": "trainer.num_train_epochs",
    "steps": "trainer.max_steps",
    "seed": "run.seed",
    "output_dir": "run.dir",
    "group_size": "trainer.num_generations",
    "max_new_tokens": "trainer.max_completion_length",
}
_BY_TYPE = re.compile(r"balance\.(caps|weights|max_share)(\.|=\{)")
_SWITCH = {"true": True, "yes": True, "on": True, "y": True, "false": False, "no": False, "off": False, "n": False}
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list", dict: "a dict"}
_T = TypeVar("_T")


def prepare_overrides(root: str, overrides: Sequence[str]) -> list[str]:
    """Return `overrides` ready for Hydra.

    `model=PATH`, `data=DIR`, `output=DIR` become `model.path`, `data.path`, `run.dir` (build-data: `data.path`) when
    the value has a path separator or names a folder (for data and output: always); `benchmark=package.module:Class`
    and `source=package.module:NAME` become `benchmark.name` and `source.name`; `prompt=MODE`, a group of `train`,
    becomes `prompt.mode` in eval and ask, with room for a thought in think and observe mode. Values of path keys are
    quoted, so that `=`, spaces, commas and brackets in a path need no escaping. With a source of one's own the keys of
    `source` are added: no YAML has them. So are those by question type (`balance.caps.TYPE`).

    Raises:
        ConfigError: an item that is not key=value, or takes keys away or adds them.
    """
    prepared = [_one(root, item) for item in overrides]
    has_length = any(item.startswith(("decoding.max_new_tokens=", "experiment=")) for item in overrides)
    if root == "eval" and not has_length and {"prompt=think", "prompt=observe"} & {*overrides}:
        prepared.append(f"decoding.max_new_tokens={TAGGED_TOKENS}")
    if root == "build_data" and any(item.startswith("source.name=") and ":" in item for item in prepared):
        prepared = [f"++{item}" if item.startswith("source.") else item for item in prepared]
    if root == "build_data":  # keys by question type: `BalanceSection` knows the types
        prepared = [f"++{item}" if _BY_TYPE.match(item) else item for item in prepared]
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
        raise ConfigError(f"{item}: overrides are key=value", hint=KEYS_HINT)
    if _is_shorthand(key, value) or (root in ("eval", "serve") and key == "model"):  # a group of `train` alone
        key = "data.path" if (root == "build_data" and key == "output") else SHORTHANDS[key]
    elif root == "eval" and key == "prompt" and not value.startswith(("{", "[")):
        key = "prompt.mode"
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
    text = value_text(value)
    return f"'{text}'" if re.search(r"[\s{}\"$*;&|<>()]", text) else text


def value_text(value: object) -> str:
    """Return a value as Hydra reads it behind KEY=."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {value_text(item)}" for name, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(map(value_text, value)) + "]"
    if isinstance(value, str) and not re.fullmatch(r"[\w.:/+-]+", value):
        return _quoted(value)
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def check_groups(overrides: Sequence[str], groups: Mapping[str, Sequence[str]]) -> None:
    """Raise ConfigError where several options of a group are chosen at once, or none: Hydra would keep the last."""
    for item in overrides:
        key, _, value = item.partition("=")
        if key not in groups or _is_shorthand(key, value):
            continue
        if key == "source" and (value.startswith("[") or "," in value):
            raise ConfigError(f"{item}: one source is needed", f"for several: {SOURCES_EXAMPLE}")
        if value.startswith(("[", "{")) or "," in value or (value in ("null", "") and key != "experiment"):
            first = re.sub(r"[\[\]{}\s]", "", value).split(",")[0]
            raise ConfigError(f"{item}: one {key} is needed", hint=suggest(first, list(groups[key])))
        if re.fullmatch(r"[-+]?[\d.][\d.eE+-]*|[-+]?(inf|nan)|true|false", value, re.IGNORECASE):  # no word for Hydra
            raise ConfigError(f"{item}: no such {key}", hint=suggest(value, list(groups[key])))


def build_section(cls: type[_T], given: Mapping[str, Any], prefix: str) -> _T:
    """Return `given` as an instance of `cls`.

    Raises:
        ConfigError: a key that `cls` does not have, a missing value, one of the wrong type, or a broken rule.
    """
    values = typed_values(cls, given, prefix)
    for item in dataclasses.fields(cls):  # type: ignore[arg-type]
        if item.name not in values and item.default is dataclasses.MISSING:
            key = _dotted(prefix, item.name)
            raise ConfigError(f"{key}: no value given", hint=f"add {key}=VALUE")
    return cls(**values)


def typed_values(cls: type, given: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the values of some fields of `cls`, converted to the fields' types; rules are not applied.

    Raises:
        ConfigError: an unknown key, or a value of the wrong type.
    """
    hints = field_types(cls)
    for key in given:
        if key not in hints:
            close = [_dotted(prefix, name) for name in sorted(hints)]
            raise ConfigError(f"{_dotted(prefix, key)}: unknown key", hint=nearest(_dotted(prefix, key), close))
    return {name: _typed(hints[name], value, _dotted(prefix, name)) for name, value in given.items()}


def _typed(hint: Any, value: Any, key: str, way_out: str = "") -> Any:
    """Return a value of the type `hint`: digits become numbers, and words such as `on` switches.

    Args:
        way_out: hint for an item of a list, which names the list.
    """
    if NoneType in typing.get_args(hint):
        if value is None:
            return None
        hint = next(kind for kind in typing.get_args(hint) if kind is not NoneType)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        if isinstance(value, typing.cast(type, hint)):
            return value
        if not isinstance(value, Mapping):
            raise not_a_section(key, value, typing.cast(type, hint))
        return build_section(typing.cast(type, hint), value, key)
    kind, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    try:
        if kind is list and isinstance(value, list):
            item_kind = typing.get_origin(inner[0]) or inner[0]
            each = f"write {key}='[{{NAME: VALUE}}]'"
            each = each if item_kind is dict else f"write {key}=[VALUE], each {_WORDS[item_kind]}"
            return [_typed(inner[0], item, f"{key}[{number}]", each) for number, item in enumerate(value)]
        if kind is dict and isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
            return {name: _typed(inner[1], item, f"{key}.{name}") for name, item in value.items()}
        return _scalar(kind, value)
    except (ValueError, OverflowError):
        shown = "null" if value is None else value
        raise ConfigError(f"{key}={shown}: {_WORDS[kind]} is needed", way_out or _way_out(hint, value, key)) from None


def _scalar(kind: type, value: Any) -> Any:
    """Return a value as bool, int, float or str; ValueError where it is none, and for digits of other scripts."""
    if kind is bool:
        if isinstance(value, int) and value in (0, 1):
            return bool(value)
        if isinstance(value, str) and value.lower() in _SWITCH:
            return _SWITCH[value.lower()]
    elif kind is str and isinstance(value, str | int | float):
        return str(value)
    elif (kind is int and type(value) in (str, int)) or (kind is float and type(value) in (str, int, float)):
        if not isinstance(value, str) or value.isascii():
            return kind(value)
    raise ValueError


def _way_out(hint: Any, value: Any, key: str) -> str:
    kind = typing.get_origin(hint) or hint
    if kind is dict:
        return f"write {key}='{{NAME: VALUE}}'"
    if kind is list and typing.get_origin(typing.get_args(hint)[0]) is dict:
        return f"write {key}='[{{NAME: VALUE}}]'"
    if kind is list:
        example = "" if value is None else value if value and not isinstance(value, Mapping) else "VALUE"
        return f"write {key}=[{example}]"
    return f"give {key} a value of the right type: {_WORDS[kind]}"


def _dotted(prefix: str, name: object) -> str:
    return f"{prefix}.{name}" if prefix else str(name)


def not_a_section(key: str, value: Any, kind: type) -> ConfigError:
    """Return the error for a section given as a word, a number, a list or null."""
    names = list(field_types(kind))
    shown = ", ".join([*names[:6], "..."] if len(names) > 6 else names)
    what = f"{key}={'null' if value is None else value}: a section, it has no value of its own"
    return ConfigError(what, hint=f"set its keys, {key}.NAME=VALUE: {shown}")


@cache
def field_types(cls: type) -> dict[str, Any]:
    """Return field name -> type of a dataclass, without the rules."""
    hints = typing.get_type_hints(cls)
    return {item.name: hints[item.name] for item in dataclasses.fields(cls)}


def section_classes(owner: type) -> dict[str, type]:
    """Return the fields of a dataclass that are sections themselves, and their classes."""
    return {
        name: typing.cast(type, hint) for name, hint in field_types(owner).items() if dataclasses.is_dataclass(hint)
    }


def nearest(name: str, choices: Sequence[str]) -> str:
    """Return a hint with the key that `name` may have been meant for."""
    found = closest(name, choices)
    return f"did you mean {found}?" if found else listed(choices)


def closest(name: str, choices: Sequence[str]) -> str | None:
    """Return the key, or the short word for it, that `name` may have been meant for; None where none is near."""
    if (known := ALIASES.get(name)) in choices:
        return known
    name = name.lower()
    section, _, last = name.rpartition(".")
    words = [] if section else [word for word, key in SHORTHANDS.items() if key in choices]
    if near := difflib.get_close_matches(name, words, n=1, cutoff=0.75):
        return near[0]
    inside = {c.rpartition(".")[2]: c for c in choices if section and c.rpartition(".")[0] == section}
    inside |= {short: key for short, key in ALIASES.items() if key in inside.values()}
    if inside:  # the section is right: its letters say nothing about the key
        found = [inside[near] for near in difflib.get_close_matches(last, inside, n=1, cutoff=0.5)]
    else:
        ends = {c.rpartition(".")[2]: c for c in choices}
        found = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
        found = found or [ends[near] for near in difflib.get_close_matches(last, ends, n=1, cutoff=0.5)]
    return found[0] if found else None
