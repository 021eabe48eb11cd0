"""Registry of the model families: one `Family` record per family, one file each. Imports no torch.

VSGRPO_FAMILIES=MODULE:NAME[,MODULE:NAME] adds families of one's own (docs/extending.md).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from vsgrpo.families.family import Family
from vsgrpo.families.qwen2_5_vl import QWEN2_5_VL
from vsgrpo.families.qwen2_vl import QWEN2_VL


def _added() -> Iterator[Family]:
    """Yield the families that VSGRPO_FAMILIES names; processes that a command starts inherit it."""
    for name in filter(None, os.environ.get("VSGRPO_FAMILIES", "").split(",")):
        from vsgrpo.plugins import import_named

        needed = "NAME = Family(...) is needed, see docs/extending.md"
        yield import_named("VSGRPO_FAMILIES", name, "Family", needed, lambda value: isinstance(value, Family))


FAMILIES = {family.model_type: family for family in (QWEN2_VL, QWEN2_5_VL, *_added())}
"""Families by `model_type` of config.json."""
TINY = {family.tiny: family for family in FAMILIES.values()}
"""Families by the value of model.path that stands for a tiny model of them."""
HUB = {name: shape for family in FAMILIES.values() for name, shape in family.hub.items()}
"""Sizes of the models in configs/model, from their config.json files, by hub id."""
