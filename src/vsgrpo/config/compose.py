"""Compose a root config with Hydra and turn it into typed sections.

Hydra's compose API over the packaged YAML, no ConfigStore: an unknown key, a wrong type or a failed rule is one
ConfigError that names the dotted key and suggests the nearest one.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from vsgrpo.config.auto_launch import resolve_launch
from vsgrpo.config.build_cot import BuildCotConfig
from vsgrpo.config.build_data import BuildDataConfig
from vsgrpo.config.evaluate import EvalConfig
from vsgrpo.config.overrides import prepare_overrides
from vsgrpo.config.train import DpoSection, GrpoSection, SftSection, TrainConfig
from vsgrpo.errors import ConfigError

ROOTS: dict[str, type] = {
    "train": TrainConfig,
    "build_data": BuildDataConfig,
    "build_cot": BuildCotConfig,
    "eval": EvalConfig,
}
TRAINERS: dict[str, type] = {"grpo": GrpoSection, "sft": SftSection, "dpo": DpoSection}
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
NOT_GIVEN = "(not given)"
_T = TypeVar("_T")


def config_dir() -> Path:
    """Return the folder of the packaged YAML: inside the wheel, or at the root of an editable checkout."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "configs", package.parents[1] / "configs"):
        if (candidate / "train.yaml").is_file():
            return candidate
    raise ConfigError(f"{package / 'configs'}: packaged configs not found", hint="reinstall vsgrpo: pip install -e .")


def config_groups(extra_dir: Path | None = None) -> dict[str, list[str]]:
    """Return group -> option names, the user's own folder included."""
    groups: dict[str, set[str]] = {}
    for folder in [config_dir(), *([extra_dir] if extra_dir else [])]:
        for path in sorted(folder.glob("*/*.yaml")):
            if path.parent.name != "accelerate":
                groups.setdefault(path.parent.name, set()).add(path.stem)
    return {name: sorted(options) for name, options in sorted(groups.items())}


def load_config(root: str, overrides: Sequence[str], extra_dir: Path | None = None, allow_missing: bool = False) -> Any:
    """Compose `root` (a key of ROOTS) with `overrides` and return its typed config.

    With `allow_missing` (--dry-run) folders that were not named have the value NOT_GIVEN. launch=auto becomes what it
    takes on this machine.

    Raises:
        SetupError: launch=auto cannot be had here.
        ConfigError: unknown key or option, wrong type, missing value, broken rule, or a missing --config-dir.
    """
    if extra_dir is not None and not extra_dir.is_dir():
        raise ConfigError(f"--config-dir {extra_dir}: not a folder", hint="give a folder with YAML groups inside")
    _check_method(overrides, extra_dir)
    composed = _compose(root, prepare_overrides(root, overrides), extra_dir)
    if root == "train":
        resolve_launch(composed.launch)
    return _typed(root, composed, allow_missing)


def load_resolved(path: Path) -> TrainConfig:
    """Read the `config.yaml` of a run folder: the one file that workers read."""
    from omegaconf import OmegaConf

    return _typed("train", OmegaConf.load(path))


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


def _check_method(overrides: Sequence[str], extra_dir: Path | None) -> None:
    """Refuse an experiment of another method before Hydra trips over that method's keys."""
    from omegaconf import OmegaConf

    given = dict(item.split("=", 1) for item in overrides if "=" in item)
    name, method = given.get("experiment"), given.get("trainer")
    for folder in [*([extra_dir] if extra_dir else []), config_dir()]:
        path = folder / "experiment" / f"{name}.yaml"
        if method is None or not path.is_file():
            continue
        wanted = OmegaConf.select(OmegaConf.load(path), "run.method")
        if wanted not in (None, method):
            raise ConfigError(
                f"experiment={name}: made for `vsgrpo train {wanted}`, got `vsgrpo train {method}`",
                hint=f"run `vsgrpo train {wanted} experiment={name} ...` or choose another experiment",
            )
        return


def _compose(root: str, overrides: list[str], extra_dir: Path | None) -> Any:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.plugins import Plugins
    from hydra.errors import HydraException
    from hydra.plugins.search_path_plugin import SearchPathPlugin
    from omegaconf.errors import OmegaConfBaseException

    class UserConfigs(SearchPathPlugin):
        """Puts the user's folder before ours, so that a file of the same name shadows ours."""

        def manipulate_search_path(self, search_path: Any) -> None:
            if extra_dir is not None:
                search_path.prepend("user", f"file://{extra_dir.resolve()}", anchor="main")

    GlobalHydra.instance().clear()
    plugins = Plugins.instance()
    plugins.register(UserConfigs)
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            return compose(root, overrides)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise _translate(root, error, extra_dir) from error
    finally:
        plugins.class_name_to_class.pop(f"{UserConfigs.__module__}.{UserConfigs.__qualname__}", None)
        plugins.plugin_type_to_subclass_list[SearchPathPlugin] = [
            p for p in plugins.plugin_type_to_subclass_list[SearchPathPlugin] if p is not UserConfigs
        ]


def _translate(root: str, error: Exception, extra_dir: Path | None) -> ConfigError:
    """Turn Hydra's message into ours: dotted key, what is wrong, nearest right name."""
    text = str(error)
    cause = error.__cause__
    option = re.search(r"Could not find '([^/']+)/([^']+)'", text)
    if option:
        group, name = option.groups()
        options = config_groups(extra_dir).get(group, [])
        return ConfigError(f"{group}={name}: no such {group}", hint=_nearest(name, options))
    if "--multirun" in text:
        item = text.split("'")[1]
        key, _, value = item.partition("=")
        return ConfigError(f"{item}: a comma needs a list or quotes", hint=f"write {key}=[{value}], or quote the value")
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        key = unknown.group(1)
        return ConfigError(f"{key}: unknown key", hint=_nearest(key, known_keys(root)))
    group_unknown = re.search(r"Could not override '?([\w./@]+)'?\.?\s*No match in the defaults list", text)
    if group_unknown:
        return ConfigError(
            f"{group_unknown.group(1)}: unknown key", hint=_nearest(group_unknown.group(1), known_keys(root))
        )
    first = " ".join((str(cause) if cause else text).split())[:300]
    return ConfigError(first, hint="overrides are key=value in Hydra's grammar; see `vsgrpo configs`")


def known_keys(root: str) -> list[str]:
    """Return every dotted key of `root`'s dataclasses, and its groups."""
    keys = set(config_groups())

    def walk(cls: type, prefix: str) -> None:
        for item in dataclasses.fields(cls):
            kind = _section_class(item.type, cls)
            if kind is None:
                keys.add(prefix + item.name)
            else:
                walk(kind, f"{prefix}{item.name}.")

    walk(ROOTS[root], "")
    for cls in TRAINERS.values() if root == "train" else ():
        walk(cls, "trainer.")
    return sorted(keys)


def _section_class(annotation: Any, owner: type) -> type | None:
    import sys
    import typing

    hints = typing.get_type_hints(owner, vars(sys.modules[owner.__module__]))
    for item in dataclasses.fields(owner):
        if item.type is annotation and dataclasses.is_dataclass(hints[item.name]):
            return typing.cast(type, hints[item.name])
    return None


def _nearest(name: str, choices: Sequence[str]) -> str:
    if ALIASES.get(name) in choices:
        return f"did you mean {ALIASES[name]}?"
    last = {c.split(".")[-1]: c for c in choices}
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    close = close or [last[c] for c in difflib.get_close_matches(name.split(".")[-1], last, n=1, cutoff=0.5)]
    if close:
        return f"did you mean {close[0]}?"
    return "choose from: " + ", ".join(choices) if len(choices) <= 20 else "`vsgrpo configs` lists what there is"


def _typed(root: str, composed: Any, allow_missing: bool = False) -> Any:
    """Build the root dataclass section by section: types by OmegaConf, rules by each section's __post_init__."""
    from omegaconf import MissingMandatoryValue, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    root_class = ROOTS[root]
    missing = sorted(OmegaConf.missing_keys(composed))
    if allow_missing:
        for key in missing:
            OmegaConf.update(composed, key, NOT_GIVEN)
    elif missing:
        raise ConfigError(f"{missing[0]}: no value given", hint=_missing_hint(root, missing[0]))
    values: dict[str, Any] = {}
    names = {item.name for item in dataclasses.fields(root_class)}
    extra = sorted(set(map(str, composed)) - names - {"experiment"})
    if extra:
        raise ConfigError(f"{extra[0]}: unknown section", hint=_nearest(extra[0], sorted(names)))
    for item in dataclasses.fields(root_class):
        cls = _section_class(item.type, root_class)
        if item.name == "trainer":
            cls = TRAINERS.get(str(composed.trainer.get("name")))
            if cls is None:
                name = composed.trainer.get("name")
                raise ConfigError(f"trainer={name}: no such trainer", hint="choose grpo, sft or dpo")
        if cls is None:
            values[item.name] = composed[item.name]
            continue
        try:
            values[item.name] = section(cls, composed[item.name], item.name)
        except (OmegaConfBaseException, MissingMandatoryValue) as error:
            raise _type_error(root, item.name, error) from error
    return root_class(**values)


def section(cls: type[_T], node: Any, prefix: str) -> _T:
    """Return `node` as an instance of `cls`, or raise ConfigError for a key `cls` does not have."""
    from omegaconf import OmegaConf, SCMode

    given = OmegaConf.to_container(node, resolve=True, structured_config_mode=SCMode.DICT)
    assert isinstance(given, dict)
    fields = {item.name for item in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in given:
        if key not in fields:
            close = [f"{prefix}.{name}" for name in sorted(fields)]
            raise ConfigError(f"{prefix}.{key}: unknown key", hint=_nearest(f"{prefix}.{key}", close))
    schema = OmegaConf.structured(cls)
    for inner in [schema, *(schema._get_node(name) for name in fields)]:
        if OmegaConf.is_config(inner):
            OmegaConf.set_readonly(inner, False)
    merged = OmegaConf.merge(schema, _escaped(given))
    return OmegaConf.to_object(merged)  # type: ignore[return-value]


def _type_error(root: str, prefix: str, error: Exception) -> ConfigError:
    key = getattr(error, "full_key", None) or ""
    dotted = f"{prefix}.{key}" if key else prefix
    first = str(error).splitlines()[0]
    if "not in" in first and key:
        return ConfigError(f"{dotted}: unknown key", hint=_nearest(dotted, known_keys(root)))
    return ConfigError(f"{dotted}: {first}", hint=f"give {dotted} a value of the right type")


def _missing_hint(root: str, key: str) -> str:
    short = {"data.path": "data=DIR", "run.dir": "output=DIR", "model.path": "model=DIR"}
    if root == "build_data" and key == "data.path":
        return "add output=DIR: the dataset folder to write"
    return f"add {short.get(key, key + '=VALUE')}"
