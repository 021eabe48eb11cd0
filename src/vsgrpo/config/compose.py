"""Compose a root config with Hydra and turn it into typed sections.

Hydra's loader over the packaged YAML and the user's, no ConfigStore: an unknown key, a wrong type or a failed rule is
one ConfigError that names the dotted key and suggests the nearest one.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vsgrpo.config.evaluate import EvalConfig, resolve_dtype
from vsgrpo.config.keys import (
    KEYS_HINT,
    build_section,
    check_groups,
    field_types,
    nearest,
    not_a_section,
    prepare_overrides,
    section_classes,
)
from vsgrpo.config.launching import check_launcher_variables, resolve_launch
from vsgrpo.config.roots import ROOTS, check_words, key_type, known_keys, one_value
from vsgrpo.config.sources import completed, refuse_both
from vsgrpo.config.train import TrainConfig
from vsgrpo.config.trainer import TRAINERS, refuse_option
from vsgrpo.config.yaml_files import command_of, config_folders, config_groups, group_file
from vsgrpo.devices import visible_gpus
from vsgrpo.errors import ConfigError, first_line
from vsgrpo.files import read_yaml
from vsgrpo.scans.source import find_source

NOT_GIVEN = "(not given)"


def load_config(root: str, overrides: Sequence[str], extra_dir: Path | None = None, allow_missing: bool = False) -> Any:
    """Compose `root` (a key of ROOTS) with `overrides` and return its typed config.

    With `allow_missing` (--dry-run) folders that were not named have the value NOT_GIVEN. launch=auto and
    model.dtype=auto become what they take on this machine.

    Raises:
        SetupError: one of them cannot be had here, or a launcher's variable is no number.
        ConfigError: unknown key or option, wrong type, missing value, broken rule, or a missing --config-dir.
    """
    if extra_dir is not None and not extra_dir.is_dir():
        raise ConfigError(f"--config-dir {extra_dir}: not a folder", hint="give a folder with YAML groups inside")
    check_launcher_variables()
    check_words(root, overrides, extra_dir)
    check_groups(overrides, config_groups(extra_dir))
    if root == "build_data" and any(item.startswith("sources=[") for item in overrides):
        refuse_both(overrides)
    _check_experiment(root, overrides, extra_dir)
    composed = _compose(root, prepare_overrides(root, overrides), extra_dir)
    _check_sections(root, composed)
    if root == "build_data" and composed.sources is not None:
        refuse_both(overrides)
        _take_sources(composed, extra_dir, allow_missing)
    if root == "train":
        composed.launch.update(resolve_launch(_plain(composed.launch)))
    config = _typed(root, composed, allow_missing)
    check_used(overrides, config)
    return config


def _take_sources(composed: Any, extra_dir: Path | None, allow_missing: bool) -> None:
    """Complete the entries of `sources`; the first of them becomes `source`."""
    from omegaconf import OmegaConf, open_dict

    given = _plain(OmegaConf.create({"sources": composed.sources}))["sources"]
    found = completed(given, str(composed.data.split), extra_dir, NOT_GIVEN if allow_missing else None)
    first = {key: value for key, value in found[0].items() if key != "split"}
    with open_dict(composed):
        composed.source, composed.sources = _escaped(first), _escaped(found)


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


def load_resolved(path: Path) -> TrainConfig:
    """Read the `config.yaml` of a run folder: the one file that workers read.

    Raises:
        DataError: it is broken.
        ConfigError: as `load_config`.
    """
    from omegaconf import OmegaConf

    composed = OmegaConf.create(read_yaml(path, "restore the file that the run wrote"))
    _check_sections("train", composed)
    return _typed("train", composed)


def to_yaml(config: Any) -> str:
    """Return the resolved config as YAML."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(_escaped(dataclasses.asdict(config))))


def _escaped(value: Any) -> Any:
    """Keep a `${` of a path from being read as an interpolation when a resolved value becomes a config again."""
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value


def _check_experiment(root: str, overrides: Sequence[str], extra_dir: Path | None) -> None:
    """Refuse an experiment of another command or method, or without keys, before Hydra trips over it."""
    given = dict(item.split("=", 1) for item in overrides if "=" in item)
    name, method = given.get("experiment"), given.get("trainer")
    if name is None or (file := group_file("experiment", name, extra_dir)) is None:
        return
    values = read_yaml(file, "write it again")
    for section, cls in section_classes(ROOTS[root]).items():
        if section in values and not isinstance(values[section], dict):
            raise not_a_section(section, values[section], cls)
    chosen = values.get("defaults")
    groups = [str(next(iter(item))) for item in chosen if isinstance(item, dict)] if isinstance(chosen, list) else []
    keys = [*values, *(re.sub(r"^(override )?/?|@.*$", "", group) for group in groups)]
    foreign = [key for key in keys if key not in {*field_types(ROOTS[root]), "defaults", "experiment"}]
    if foreign:
        what = f"experiment={name}: not made for `vsgrpo {root.replace('_', '-')}`, which has no {foreign[0]}"
        command = command_of(file)
        hint = "`vsgrpo configs experiment` says what each is for" if command is None else f"it is for: {command}"
        raise ConfigError(what, hint)
    wanted = values.get("run", {}).get("method")
    if method is not None and wanted not in (None, method):
        what = f"experiment={name}: made for `vsgrpo train {wanted}`, got `vsgrpo train {method}`"
        raise ConfigError(what, hint=f"run `vsgrpo train {wanted} experiment={name} ...` or choose another experiment")


def _compose(root: str, overrides: list[str], extra_dir: Path | None) -> Any:
    """Return Hydra's composition; a file of the user's folder shadows ours of the same name."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from vsgrpo.config.composition import compose

    try:
        return compose(root, overrides, config_folders(extra_dir))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise _translate(root, error, extra_dir, overrides) from error


def _unreadable(overrides: Sequence[str]) -> ConfigError | None:
    """Return an error for the first override that is not in Hydra's grammar, None where all are."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    for item in overrides:
        try:
            parser.parse_override(item)
        except HydraException:
            item = item.removeprefix("++")
            key = item.partition("=")[0]
            if not re.fullmatch(r"\w+(\.\w+)*", key):
                return ConfigError(f"{item}: not a key", KEYS_HINT)
            hint = f"a text with other signs than letters, digits and -_./ needs quotes: '{key}=\"TEXT\"'"
            return ConfigError(f"{item}: not in the grammar of overrides", hint=hint)
    return None


def _other_kind(root: str, overrides: Sequence[str], key: str, kind: str) -> ConfigError:
    """Return an error for a dict given to a list (`kind` list), or a list to a dict or a section."""
    values = [item.partition("=")[2] for item in overrides if item.removeprefix("++").startswith(f"{key}=")]
    given = f"{key}={values[-1]}" if values else key
    inner = [name.removeprefix(f"{key}.") for name in known_keys(root) if name.startswith(f"{key}.")]
    if inner:
        hint = f"set its keys, {key}.NAME=VALUE: {', '.join(inner[:6])}"
        return ConfigError(f"{given}: a section, it has no value of its own", hint=hint)
    hint = f"write {key}=" + ("[VALUE]" if kind == "list" else "'{NAME: VALUE}'")
    return ConfigError(f"{given}: a {kind} is needed", hint=hint)


def _translate(root: str, error: Exception, extra_dir: Path | None, overrides: Sequence[str]) -> ConfigError:
    """Turn Hydra's message into ours: dotted key, what is wrong, nearest right name."""
    text, cause = str(error), error.__cause__
    given = [item.removeprefix("trainer=") for item in overrides if item.startswith("trainer=")]
    method = given[-1] if given and given[-1] in TRAINERS else None
    if option := re.search(r"Could not find '([^/']+)/([^']+)'", text):
        group, name = option.groups()
        return ConfigError(f"{group}={name}: no such {group}", nearest(name, config_groups(extra_dir).get(group, [])))
    if "--multirun" in text:
        item = text.split("'")[1]
        key, _, value = item.partition("=")
        return one_value(root, key, value, key_type(root, key, method))
    if unknown := re.search(r"Could not override '([^']+)'", text):
        key = unknown[1]
        if key in section_classes(ROOTS[root]):  # a group of `train` alone
            return _other_kind(root, overrides, key, "section")
        refused = refuse_option(method, key) if method and re.fullmatch(r"trainer\.\w+", key) else None
        return refused or ConfigError(f"{key}: unknown key", hint=nearest(key, known_keys(root, method)))
    other_kind = re.search(r"Cannot merge \w+ with \w+\s+full_key: (\S+)\s+object_type=(list|dict)", str(cause or text))
    if other_kind is not None:
        return _other_kind(root, overrides, *other_kind.groups())
    if (unreadable := _unreadable(overrides)) is not None:
        return unreadable
    first = " ".join((str(cause) if cause else text).split())[:300]
    return ConfigError(first, hint="overrides are key=value in Hydra's grammar; see `vsgrpo configs`")


def _check_sections(root: str, composed: Any) -> None:
    """Refuse a section that is a word, null or absent, first: interpolations into it are the library's errors."""
    from omegaconf import OmegaConf

    for name, cls in section_classes(ROOTS[root]).items():
        node = composed._get_node(name)
        if not OmegaConf.is_dict(node) or node._is_none():
            raise not_a_section(name, None if node is None else node._value(), cls)


@contextmanager
def _interpolating() -> Iterator[None]:
    """Name the key whose `${...}` cannot be resolved."""
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "a value"
        raise ConfigError(f"{key}: {first_line(error)}", hint="`${...}` must name another key") from error


def _plain(node: Any) -> dict[str, Any]:
    """Return a composed config or section as plain values, its interpolations resolved."""
    from omegaconf import OmegaConf

    with _interpolating():
        values = OmegaConf.to_container(node, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _typed(root: str, composed: Any, allow_missing: bool = False) -> Any:
    """Return the typed config of a composed one."""
    from omegaconf import OmegaConf

    with _interpolating():
        missing = sorted(OmegaConf.missing_keys(composed))
    if missing and not allow_missing:
        ways = {"data.path": "data=DIR", "run.dir": "output=DIR", "model.path": "model=DIR"}
        ways["benchmark.path"] = "benchmark.path=PATH: its row file or folder, as downloaded"
        ways["source.root"] = "source.root=DIR: the folder of scans"
        if root == "build_data":
            ways["data.path"] = "output=DIR: the dataset folder to write"
        raise ConfigError(f"{missing[0]}: no value given", hint=f"add {ways.get(missing[0], f'{missing[0]}=VALUE')}")
    for key in missing:
        OmegaConf.update(composed, key, NOT_GIVEN)
    given = _plain(composed)
    given.pop("experiment", None)
    if root == "train":
        name = given["trainer"].get("name")
        if name not in TRAINERS:
            raise ConfigError(f"trainer={name}: no such trainer", hint="choose grpo, sft or dpo")
        given["trainer"] = build_section(TRAINERS[name], given["trainer"], "trainer")
    if root in ("train", "eval"):
        launch = given.get("launch", {})
        on_cpu = launch.get("profile") == "cpu" or launch.get("use_cpu") is True or not visible_gpus()
        given["model"] |= resolve_dtype(given["model"], on_cpu)
    if root == "build_data":
        options = find_source(str(given["source"].get("name"))).options
        given["source"] = build_section(options, given["source"], "source")
    return build_section(ROOTS[root], given, "")
