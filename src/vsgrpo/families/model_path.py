"""What a value of model.path (tiny model, folder of a model or adapter, hub id) says without torch or the hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vsgrpo.errors import ConfigError, DataError
from vsgrpo.families import FAMILIES, HUB, TINY
from vsgrpo.families.family import Family, ModelShape, TinySizes
from vsgrpo.records import read_record
from vsgrpo.video.budget import VisionBudget

_TINY_VOCABULARY = 826
"""Tokens that the tokenizer of `modeling.tiny` has at its default size."""
_MAX_ADAPTERS = 8
"""Longest chain of adapters, each trained on the one before, that is followed to its base."""


def family_of(path: str) -> Family | None:
    """Return the family of a model by its config.json, or by its name where that is not here; None if unknown."""
    if path in TINY:
        return TINY[path]
    base, config = _base_and_config(path)
    if config is not None:
        return FAMILIES.get(str(config.get("model_type")))
    return next((family for family in FAMILIES.values() if f"{family.label}-".lower() in base.lower()), None)


def model_shape(path: str) -> ModelShape | None:
    """Return the sizes of a model by its config.json, or by its hub id where that is not here; None if unknown."""
    if path in TINY:
        return _tiny_shape(TINY[path])
    base, config = _base_and_config(path)
    if config is None:
        return HUB.get(base)
    try:
        return check_architecture(config, path).shape_of(config)
    except (ConfigError, ValueError, KeyError, TypeError):
        return None


def budget_of(path: str | None, values: Mapping[str, int]) -> VisionBudget:
    """Return the vision budget of a model: frames and pixels as given, patches of its family.

    Args:
        path: model.path; None: the patches of Qwen2-VL.
        values: by the names of `VisionBudget`.

    Raises:
        ConfigError: a value out of range, by its dotted key.
    """
    family = None if path is None else family_of(path)
    if family is None:
        return VisionBudget(**values)
    return VisionBudget(**values, patch=family.patch, merge=family.merge, temporal_patch=family.temporal_patch)


def check_architecture(config: Mapping[str, Any], path: str = "") -> Family:
    """Return the model family of a config.json, or refuse it by name.

    Raises:
        ConfigError: `model_type` is not one of FAMILIES.
    """
    model_type = config.get("model_type")
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    raise ConfigError(
        f"model.path={path}: architecture {model_type} is not supported, only {', '.join(FAMILIES)}",
        hint=f"use a {' or '.join(family.label for family in FAMILIES.values())} model, e.g. model=qwen2_vl_2b",
    )


def check_model_place(path: str, adapter: str | None = None) -> None:
    """Raise DataError unless a model can be at `path`: tiny, a folder, or a hub id whose OWNER is no folder here.

    The hub is not asked.

    Args:
        adapter: folder that must hold an adapter.
    """
    folder = Path(path)
    if folder.is_dir():
        if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
            hint = "give the folder of the weights, such as RUN_DIR/final"
            raise DataError(f"model.path={path}: neither config.json nor adapter_config.json in this folder", hint)
    elif path not in TINY:
        looks_like_hub_id = path.count("/") == 1 and not path.startswith((".", "/", "~")) and not folder.parent.is_dir()
        if not looks_like_hub_id:
            hint = "give a model folder, a hub id, or model=tiny"
            raise DataError(f"model.path={path}: no such folder", hint=hint)
    if adapter is not None and not (Path(adapter) / "adapter_config.json").is_file():
        problem = "no adapter_config.json in this folder" if Path(adapter).is_dir() else "no such folder"
        raise DataError(
            f"model.adapter={adapter}: {problem}", hint="give the folder of a saved adapter, such as RUN_DIR/final"
        )


def adapter_base(folder: Path) -> str | None:
    """Return the folder or hub id of the base that FOLDER/adapter_config.json names, None if it names none."""
    try:
        config = read_record(folder / "adapter_config.json", {"base_model_name_or_path": str}, "")
    except DataError:
        return None
    return config["base_model_name_or_path"] or None


def _base_and_config(path: str) -> tuple[str, dict[str, Any] | None]:
    """Follow adapters to the full model: its folder or hub id, and its config.json; {} if broken, None if not here."""
    for _ in range(_MAX_ADAPTERS):
        file = Path(path) / "config.json"
        if file.is_file():
            try:
                return path, read_record(file, {}, "")
            except DataError:
                return path, {}
        base = adapter_base(Path(path))
        if base is None:
            break
        path = base
    return path, None


def _tiny_shape(family: Family) -> ModelShape:
    sizes = TinySizes()
    return ModelShape(
        vocab=_TINY_VOCABULARY,
        hidden=sizes.hidden_size,
        mlp=sizes.intermediate_size,
        layers=sizes.num_layers,
        heads=sizes.num_heads,
        kv_heads=sizes.num_kv_heads,
        head_width=sizes.hidden_size // sizes.num_heads,
        tied=False,
        tower=family.tower(family.tiny_tower(sizes)),
    )
