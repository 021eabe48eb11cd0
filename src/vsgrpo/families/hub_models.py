"""Models named by a hub id: fetched whole, so that vision.json, prompt.json and lineage are read as of any folder."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

from vsgrpo import hub
from vsgrpo.errors import SetupError
from vsgrpo.families import BUILT, FAMILIES, HUB_ID, adapter_base
from vsgrpo.terminal import note, show

NO_NETWORK = "download it on another machine and give its folder: model=PATH"


def with_hub_models(config: Any) -> Any:
    """Return a configuration whose hub ids are folders of the hub's cache, and that asks the hub only where it can.

    A publisher's own model keeps its name, which says what it is; the model library reads it from the same cache.

    Raises:
        DataError: the hub has no such model.
        SetupError: it is not in the cache and the hub cannot be asked.
    """
    model = config.model
    values = {}
    for name in ("path", "adapter"):
        value = getattr(model, name)
        if value is None or not is_hub_id(value):
            continue
        if is_published(value):
            continue
        folder = hub.fetch(value, "model", f"model.{name}={value}", NO_NETWORK, offline=model.offline)
        note(f"model.{name}={value}: {folder}")
        values[name] = str(folder)
    model = dataclasses.replace(model, **values)
    bases = [model.path, *(adapter_base(Path(name)) for name in (model.path, model.adapter) if name is not None)]
    asked = [name for name in bases if name is not None and is_hub_id(name)]
    if asked and not model.offline and (reason := hub.why_unreachable()) is not None:
        for name in asked:
            if not hub.is_cached(name):
                raise SetupError(f"model.path={name}: no folder here, and {reason}", NO_NETWORK)
        show(f"{reason}: {', '.join(asked)} as downloaded before", sys.stderr)
        model = dataclasses.replace(model, offline=True)
    return dataclasses.replace(config, model=model)


def is_hub_id(value: str) -> bool:
    """Return whether a value of model.path names a model on the hub: OWNER/NAME where OWNER is no folder here."""
    path = Path(value)
    return value not in BUILT and not path.exists() and bool(HUB_ID.fullmatch(value)) and not path.parent.is_dir()


def is_published(name: str) -> bool:
    """Return whether a hub id is a publisher's own model, of a family that is known."""
    return any(re.fullmatch(family.published, name) for family in FAMILIES.values())
