"""The folder of a saved adapter: its files, its base, and the adapters that came before it. No weight is read here."""

import json
import re
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

from vsgrpo.errors import DataError
from vsgrpo.families import ADAPTER_CONFIG
from vsgrpo.files import file_sha256
from vsgrpo.records import read_record

ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
"""Files of an adapter's tensors, in the order in which they are looked for."""
EARLIER_ADAPTERS = "earlier_adapters"
"""Sub-folder of a saved adapter: adapters merged into its base before it was trained, named 0, 1, ..."""
_PREFIX = "base_model.model."
"""Prefix of the names in an adapter's file."""


def adapter_file(folder: Path) -> Path:
    """Return the file that holds an adapter's tensors.

    Raises:
        DataError: there is none.
    """
    for name in ADAPTER_WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder}: no {ADAPTER_WEIGHTS[0]} in this folder", hint="copy the adapter again, with all files")


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Return adapter_config.json as it stands.

    Raises:
        DataError: missing, or not a JSON object.
    """
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        raise DataError(f"{folder}: no {ADAPTER_CONFIG} in this folder", hint="give the folder of an adapter")
    return read_record(path, {}, "copy the adapter again")


def adapter_hash(folder: Path) -> str:
    """Return the sha256 of an adapter's tensors and of its adapter_config.json, the name of the base aside."""
    config = read_adapter_config(folder)
    config.pop("base_model_name_or_path", None)
    text = f"{file_sha256(adapter_file(folder))} {json.dumps(config, sort_keys=True)}"
    return sha256(text.encode()).hexdigest()


def adapter_chain(path: str | Path, adapter: str | Path | None = None) -> list[Path]:
    """Return the adapters of a model in the order in which they apply: those of `path`, then `adapter` with its own.

    Raises:
        DataError: `earlier_adapters` of a folder has gaps; no adapter there; `adapter` was trained after others than
            those of `path`.
    """
    is_adapter = (Path(path) / ADAPTER_CONFIG).is_file() and not (Path(path) / "config.json").is_file()
    chain = _with_earlier(Path(path)) if is_adapter else []
    if adapter is None:
        return chain
    read_adapter_config(Path(adapter))
    own = _with_earlier(Path(adapter))
    if not chain:
        return own
    if [adapter_hash(folder) for folder in own[:-1]] != [adapter_hash(folder) for folder in chain]:
        raise DataError(
            f"model.adapter={adapter}: was not trained on model.path={path}, which is an adapter itself",
            hint="leave model.adapter out, or give the plain model that it was trained on as model.path",
        )
    return [*chain, own[-1]]


def _with_earlier(folder: Path) -> list[Path]:
    """List the adapters of a saved adapter folder in the order they apply, itself last."""
    found = {path.name: path for path in (folder / EARLIER_ADAPTERS).glob("*/")}
    names = [str(number) for number in range(len(found))]
    if found.keys() != set(names):
        raise DataError(
            f"{folder / EARLIER_ADAPTERS}: holds {', '.join(sorted(found))}, needed are 0, 1, ... without gaps",
            hint="copy the adapter's whole folder again",
        )
    return [*(found[name] for name in names), folder]


def has_older_names(names: Iterable[str]) -> bool:
    """Return whether tensors of an adapter have names from before transformers 4.52."""
    return any(todays_name(name) != name for name in names)


def todays_name(name: str) -> str:
    """Return the name that a tensor of an adapter has since transformers 4.52."""
    return _PREFIX + todays_module(name.removeprefix(_PREFIX)) if name.startswith(_PREFIX) else name


def todays_module(name: str) -> str:
    """Return the name that a module has since transformers 4.52.

    Source: its renaming in both Qwen2 families: `model` -> `model.language_model`, `visual` -> `model.visual`.
    """
    if name.startswith("visual."):
        return "model." + name
    return re.sub(r"^model\.(?!language_model\.|visual\.)", "model.language_model.", name)


def refuse_older_pattern(path: Path, pattern: str) -> None:
    """Refuse a pattern over layer names of transformers before 4.52, unless it reads the same today."""
    sample = "model.layers.0.self_attn.q_proj"
    if re.fullmatch(pattern, sample) and not re.fullmatch(pattern, todays_module(sample)):
        raise DataError(
            f"{path}: target_modules={pattern}: written for the layer names of transformers before 4.52",
            hint="write model.language_model.layers where it says model.layers, and model.visual for visual",
        )
