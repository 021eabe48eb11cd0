"""Model families that can be loaded, by `model_type` of config.json, and the tiny models that are built.

What differs between families is in modeling/rope.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vsgrpo.errors import ConfigError, DataError

FAMILIES = {"qwen2_vl": "Qwen2-VL", "qwen2_5_vl": "Qwen2.5-VL"}
TINY = {"tiny": "qwen2_vl", "tiny_2_5": "qwen2_5_vl"}
"""Values of model.path that are built and not found, and the family of each."""
TIMED = "qwen2_5_vl"
"""The family whose positions count seconds of video, so that every video must state its frame rate."""


def family_of(path: str) -> str | None:
    """Return the model family of a tiny model, a folder or a hub id by its name; None where it cannot be told."""
    if path in TINY:
        return TINY[path]
    config = Path(path) / "config.json"
    if config.is_file():
        try:
            family = json.loads(config.read_text(encoding="utf-8")).get("model_type")
        except (OSError, ValueError, AttributeError, RecursionError):
            return None
        return family if family in FAMILIES else None
    return next((family for family, name in FAMILIES.items() if f"{name}-".lower() in path.lower()), None)


def check_architecture(config: dict[str, Any], path: str = "") -> str:
    """Return the model family of a config.json, or refuse it by name.

    Raises:
        ConfigError: `model_type` is not one of FAMILIES.
    """
    family = config.get("model_type")
    if family in FAMILIES:
        return family
    raise ConfigError(
        f"model.path={path}: architecture {family} is not supported, only {', '.join(FAMILIES)}",
        hint=f"use a {' or '.join(FAMILIES.values())} model, e.g. model=qwen2_vl_2b",
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
