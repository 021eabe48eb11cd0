"""Models named by a hub id: one rule for every command that takes a model, once `find_model` has accepted the name.

A model is fetched whole (by commands that load no weights, its records alone), so that vision.json, prompt.json and
lineage are read as of any folder. A publisher's own model keeps its name, which says what it is; the model library
reads it from the same cache. `train --dry-run` and `doctor` describe a plan and fetch nothing.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vsgrpo import hub
from vsgrpo.errors import SetupError
from vsgrpo.families import BUILT, FAMILIES, HUB_ID, adapter_base
from vsgrpo.terminal import note, show

NO_NETWORK = "download it on another machine and give its folder instead of its name"
RECORDS = ["*.json", "*.jinja", "*.md"]
"""Files of a model repository that say what a model is."""


def with_hub_models(config: Any, *, records: bool = False) -> Any:
    """Return a configuration whose hub ids are folders of the hub's cache, and that asks the hub only where it can.

    Args:
        records: no weights are needed.

    Raises:
        DataError, SetupError: as `local_model` and `check_reachable`.
    """
    model = config.model
    given = {name: getattr(model, name) for name in ("path", "adapter") if getattr(model, name) is not None}
    values = {
        name: local_model(value, f"model.{name}={value}", offline=model.offline, records=records)
        for name, value in given.items()
    }
    model = dataclasses.replace(model, **values)
    if not records and not model.offline and not check_reachable(values.values()):
        model = dataclasses.replace(model, offline=True)
    return dataclasses.replace(config, model=model)


def local_model(value: str, what: str, *, offline: bool = False, records: bool = False) -> str:
    """Return the folder in the hub's cache of a model named by its hub id; any other value as it is.

    Args:
        what: stands first in messages, such as "model.path=OWNER/NAME".
        offline: do not ask the hub.
        records: no weights are needed.

    Raises:
        DataError: the hub has no such model.
        SetupError: it is not in the cache and the hub cannot be asked.
    """
    if not is_hub_id(value) or is_published(value):
        return value
    folder = hub.fetch(value, "model", what, NO_NETWORK, offline=offline, only=RECORDS if records else None)
    note(f"{what}: {folder}")
    return str(folder)


def check_reachable(models: Iterable[str]) -> bool:
    """Return whether the hub can be asked for those models, and bases of adapters, that are named by a hub id.

    Raises:
        SetupError: it cannot, and one of them is not in the hub's cache.
    """
    names = [name for model in models for name in (model, adapter_base(Path(model))) if name is not None]
    asked = [name for name in names if is_hub_id(name)]
    if not asked or (reason := hub.why_unreachable()) is None:
        return True
    for name in asked:
        if not hub.is_cached(name):
            raise SetupError(f"model.path={name}: no folder here, and {reason}", NO_NETWORK)
    show(f"{reason}: {', '.join(asked)} as downloaded before", sys.stderr)
    return False


def is_hub_id(value: str) -> bool:
    """Return whether a value of model.path names a model on the hub: OWNER/NAME where OWNER is no folder here."""
    path = Path(value)
    return value not in BUILT and not path.exists() and bool(HUB_ID.fullmatch(value)) and not path.parent.is_dir()


def is_published(name: str) -> bool:
    """Return whether a hub id is a publisher's own model, of a family that is known."""
    return any(re.fullmatch(family.published, name) for family in FAMILIES.values())
