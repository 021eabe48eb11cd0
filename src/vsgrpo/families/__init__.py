"""Registry of the model families: one `Family` record per family, one file each. Imports no torch.

VSGRPO_FAMILIES=MODULE:NAME[,MODULE:NAME] adds families of one's own (docs/extending.md).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator

from vsgrpo.errors import ConfigError
from vsgrpo.families.family import Family
from vsgrpo.families.qwen2_5_vl import QWEN2_5_VL
from vsgrpo.families.qwen2_vl import QWEN2_VL


def _added() -> Iterator[Family]:
    """Yield the families that VSGRPO_FAMILIES names; processes that a command starts inherit it."""
    for name in filter(None, os.environ.get("VSGRPO_FAMILIES", "").split(",")):
        module, _, attribute = name.partition(":")
        hint = "give MODULE:NAME of a vsgrpo.families.family.Family, with the module's folder in PYTHONPATH"
        try:
            family = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(f"VSGRPO_FAMILIES={name}: {error}", hint) from None
        if not isinstance(family, Family):
            raise ConfigError(f"VSGRPO_FAMILIES={name}: a {type(family).__name__}, not a Family", hint)
        yield family


FAMILIES = {family.model_type: family for family in (QWEN2_VL, QWEN2_5_VL, *_added())}
"""Families by `model_type` of config.json."""
TINY = {family.tiny: family for family in FAMILIES.values()}
"""Families by the value of model.path that stands for a tiny model of them."""
HUB = {name: shape for family in FAMILIES.values() for name, shape in family.hub.items()}
"""Sizes of the models in configs/model, from their config.json files, by hub id."""
