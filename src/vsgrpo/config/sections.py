"""From plain values to a typed section: names, then types by OmegaConf; rules are the sections' own."""

from __future__ import annotations

import dataclasses
import difflib
import re
import sys
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

from vsgrpo.errors import ConfigError

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
_SWITCH_WORDS = ("true", "false", "yes", "no", "on", "off", "y", "n")
_KINDS = {"bool": "true or false", "int": "a whole number", "float": "a number", "str": "text"}
_T = TypeVar("_T")


def build_section(cls: type[_T], given: Mapping[str, Any], prefix: str) -> _T:
    """Return `given` as an instance of `cls`.

    Raises:
        ConfigError: a key that `cls` does not have, a value of the wrong type, or a broken rule.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.to_object(_merged(cls, given, prefix))  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise type_error(cls, prefix, given, error) from error


def typed_values(cls: type, given: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the values of some fields of `cls`, converted to the fields' types; rules are not applied.

    Raises:
        ConfigError: as `build_section`.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        merged = _merged(cls, given, prefix)
        values = {name: merged._get_node(name) for name in given}
        return {n: OmegaConf.to_object(v) if OmegaConf.is_config(v) else v._value() for n, v in values.items()}
    except OmegaConfBaseException as error:
        raise type_error(cls, prefix, given, error) from error


def _merged(cls: type, given: Mapping[str, Any], prefix: str) -> Any:
    from omegaconf import OmegaConf

    fields = {item.name for item in dataclasses.fields(cls)}
    for key in given:
        if key not in fields:
            close = [_dotted(prefix, name) for name in sorted(fields)]
            raise ConfigError(f"{_dotted(prefix, key)}: unknown key", hint=nearest(_dotted(prefix, key), close))
    for name, kind in section_classes(cls).items():
        if name in given and not isinstance(given[name], Mapping):
            raise not_a_section(_dotted(prefix, name), given[name], kind)
    _check_kinds(cls, prefix, given)
    schema = OmegaConf.structured(cls)
    for inner in [schema, *(schema._get_node(name) for name in fields)]:
        if OmegaConf.is_config(inner):
            OmegaConf.set_readonly(inner, False)
    return OmegaConf.merge(schema, escaped(dict(given)))


def _check_kinds(cls: type, prefix: str, given: Mapping[str, Any]) -> None:
    """Apply `_check_kind` to all values of a section and of the sections in it."""
    sections = section_classes(cls)
    for name, value in given.items():
        if name in sections:
            _check_kinds(sections[name], _dotted(prefix, name), value)
        else:
            _check_kind(cls, prefix, name, value)


def _check_kind(cls: type, prefix: str, name: str, value: Any) -> None:
    """Refuse what OmegaConf would take (a text for a list, 2 or '3' for a switch, digits of other scripts) or not name.

    It does not name a word in a list of dicts, nor a dict for a list.
    """
    hint, key = _hint(cls, name), _dotted(prefix, name)
    is_list, is_dict = "list" in hint, "dict" in hint and "list" not in hint
    other_kind = isinstance(value, Mapping | list) and not (is_dict if isinstance(value, Mapping) else is_list)
    if is_list or is_dict:
        other_kind |= isinstance(value, str)
    elif re.search(r"\bbool\b", hint):
        other_kind |= isinstance(value, int) and value not in (0, 1)
        other_kind |= isinstance(value, str) and value.lower() not in _SWITCH_WORDS
    elif re.search(r"\b(int|float)\b", hint):
        other_kind |= isinstance(value, str) and not value.isascii()
    if other_kind:
        wanted, example = _wanted(cls, name, value)
        raise ConfigError(f"{key}={value}: {wanted} is needed", hint=example.replace("{key}", key))
    for number, item in enumerate(value if isinstance(value, list) and "list[dict" in hint else []):
        if not isinstance(item, dict) or not all(isinstance(name, str) for name in item):
            shown = "null" if item is None else item
            raise ConfigError(f"{key}[{number}]={shown}: a dict is needed", hint=f"write {key}='[{{NAME: VALUE}}]'")


def _dotted(prefix: str, name: object) -> str:
    return f"{prefix}.{name}" if prefix else str(name)


def not_a_section(key: str, value: Any, kind: type) -> ConfigError:
    """Return what to say where a section was given as a word, a number, a list or null."""
    names = [item.name for item in dataclasses.fields(kind)]
    shown = ", ".join([*names[:6], "..."] if len(names) > 6 else names)
    return ConfigError(
        f"{key}={'null' if value is None else value}: a section, it has no value of its own",
        hint=f"set its keys, {key}.NAME=VALUE: {shown}",
    )


def type_error(cls: type, prefix: str, given: Any, error: Exception) -> ConfigError:
    """Turn OmegaConf's message about a value of the wrong type into ours."""
    path = str(getattr(error, "full_key", None) or "")
    key = _dotted(prefix, path) if path else prefix
    value = given
    for part in re.findall(r"[^.\[\]]+", path):
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (KeyError, IndexError, TypeError, ValueError):
            return ConfigError(f"{key}: {_first(error)}", hint=f"give {key} a value of the right type")
    shown = "null" if value is None else value
    names = path.split("[")[0].split(".")
    for name in names[:-1]:
        cls = section_classes(cls).get(name, cls)
    if "[" in path:  # an item of a list
        words = next((w for kind, w in _KINDS.items() if re.search(rf"\b{kind}\b", _hint(cls, names[-1]))), "a value")
        hint = f"write {key.split('[')[0]}=[VALUE], each {words}"
        return ConfigError(f"{key}={shown}: {words} is needed", hint=hint)
    wanted, example = _wanted(cls, names[-1], value)
    if not path or wanted is None:
        return ConfigError(f"{key}: {_first(error)}", hint=f"give {key} a value of the right type")
    return ConfigError(f"{key}={shown}: {wanted} is needed", hint=example.replace("{key}", key))


def _first(error: Exception) -> str:
    return " ".join(str(error).split("\n")[0].split())


def _wanted(cls: type, name: str, value: Any) -> tuple[str | None, str]:
    hint = _hint(cls, name)
    if "list" in hint and not isinstance(value, list):
        example = value if value and not isinstance(value, Mapping) else "" if value is None else "VALUE"
        return "a list", "write {key}=" + ("'[{NAME: VALUE}]'" if "dict" in hint else f"[{example}]")
    if "dict" in hint and "list" not in hint:
        return "a dict", "write {key}='{NAME: VALUE}'"
    for kind, words in _KINDS.items():
        if re.search(rf"\b{kind}\b", hint):
            return words, "give {key} a value of the right type: " + words
    return None, ""


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, vars(sys.modules[cls.__module__]))


def _hint(cls: type, name: str) -> str:
    hint = _hints(cls).get(name, "")
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


@cache
def section_classes(owner: type) -> dict[str, type]:
    """Return the fields of a dataclass that are sections themselves, and their classes."""
    hints = _hints(owner)
    return {
        item.name: hints[item.name]
        for item in dataclasses.fields(owner)
        if dataclasses.is_dataclass(hints[item.name]) and isinstance(hints[item.name], type)
    }


def nearest(name: str, choices: Sequence[str]) -> str:
    """Return a hint with the key that `name` may have been meant for."""
    if ALIASES.get(name) in choices:
        return f"did you mean {ALIASES[name]}?"
    name = name.lower()
    section, _, last = name.rpartition(".")
    inside = {c.rpartition(".")[2]: c for c in choices if section and c.rpartition(".")[0] == section}
    inside |= {short: key for short, key in ALIASES.items() if key in inside.values()}
    if inside:  # the section is right: its letters say nothing about the key
        found = [inside[near] for near in difflib.get_close_matches(last, inside, n=1, cutoff=0.5)]
    else:
        ends = {c.rpartition(".")[2]: c for c in choices}
        found = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
        found = found or [ends[near] for near in difflib.get_close_matches(last, ends, n=1, cutoff=0.5)]
    if found:
        return f"did you mean {found[0]}?"
    return "choose from: " + ", ".join(choices) if len(choices) <= 20 else "`vsgrpo configs` lists what there is"


def escaped(value: Any) -> Any:
    """Keep a `${` of a path from being read as an interpolation when a resolved value becomes a config again."""
    if isinstance(value, dict):
        return {key: escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [escaped(item) for item in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value
