"""The model families, one `Family` record each, and what a value of model.path stands for. Imports no torch.

VSGRPO_FAMILIES=MODULE:NAME[,MODULE:NAME] adds families of one's own (docs/extending.md).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vsgrpo.errors import ConfigError, DataError
from vsgrpo.families.family import Family, ModelShape
from vsgrpo.families.qwen2_5_vl import QWEN2_5_VL
from vsgrpo.families.qwen2_vl import QWEN2_VL
from vsgrpo.families.qwen3_5 import QWEN3_5
from vsgrpo.families.qwen3_vl import QWEN3_VL
from vsgrpo.families.small_lm import SMALL_LM, SMALL_LM_SHAPE, gguf_file
from vsgrpo.paths import path_fault
from vsgrpo.records import read_record
from vsgrpo.video.budget import VisionBudget

CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
"""The file that makes a folder a full model, and the one that makes it an adapter."""
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
_MISSING = {
    "qwen3_vl_moe": "a router whose choices are the same in rollout and update, LoRA on experts, their memory",
    "qwen3_5_moe": "a prefix tree for gated DeltaNet, and what experts need",
    "qwen4_exp": "a prefix tree for indexed attention, n-gram embeddings, hyper-connections, experts",
    "internvl": "prompts of image tiles, features of its tower, positions of one axis",
}
"""What would have to be built for architectures that somebody may expect here, by `model_type`."""
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
"""OWNER/NAME, as the hub has them."""


def _added() -> Iterator[tuple[str, Family]]:
    """Yield the families that VSGRPO_FAMILIES names, with their names; processes that a command starts inherit it."""
    for name in filter(None, os.environ.get("VSGRPO_FAMILIES", "").split(",")):
        from vsgrpo.rules import import_named

        needed = "NAME = Family(...) is needed, see docs/extending.md"
        yield name, import_named("VSGRPO_FAMILIES", name, "Family", needed, lambda value: isinstance(value, Family))


_ADDED = {family.model_type: (name, family) for name, family in _added()}
_OURS = (QWEN2_VL, QWEN2_5_VL, QWEN3_VL, QWEN3_5)
FAMILIES = {family.model_type: family for family in (*_OURS, *(family for _, family in _ADDED.values()))}
"""Families by `model_type` of config.json."""
BUILT = {**{family.tiny: family for family in FAMILIES.values()}, SMALL_LM: QWEN2_VL}
"""Families by the value of model.path that stands for a model of theirs which is built here, on first use."""
HUB = {name: shape for family in FAMILIES.values() for name, shape in family.hub.items()}
"""Sizes of the models in configs/model, from their config.json files, by hub id."""


def find_model(path: str, adapter: str | None = None, *, key: str = "model.path", any_family: bool = False) -> str:
    """Return the full model that a value of model.path stands for, or refuse the value: one rule for all commands.

    A value is the name of a model that is built here, the folder of a full model or of an adapter, or a hub id
    OWNER/NAME whose OWNER is no folder here. Files are looked at, the hub is not asked.

    Args:
        adapter: a folder that must hold an adapter.
        key: of the configuration, for messages.
        any_family: any model of transformers will do.

    Returns:
        `path`, or the folder or hub id that its adapter names as its base.

    Raises:
        ConfigError: an architecture this project does not know.
        DataError: anything else that cannot be loaded.
    """
    if adapter is not None:
        check_adapter(f"model.adapter={adapter}", Path(adapter))
    if path in BUILT:
        if path == SMALL_LM:
            gguf_file()
        return path
    where, folder = f"{key}={path}", Path(path)
    if not path or not folder.is_dir():
        if HUB_ID.fullmatch(path) and not folder.parent.is_dir():
            return path
        problem = "a file, not a folder" if path and folder.is_file() else "no such folder"
        raise DataError(f"{where}: {problem}", hint="give a model folder, a hub id OWNER/NAME, or model=tiny")
    is_full, is_adapter = ((folder / name).is_file() for name in (CONFIG, ADAPTER_CONFIG))
    if is_full and is_adapter:
        raise DataError(
            f"{where}: {CONFIG} and {ADAPTER_CONFIG} are both in this folder: a full model or an adapter?",
            hint="move the files of one of them to another folder",
        )
    if is_adapter:
        return _find_base(folder)
    if not is_full:
        final = folder / "final" if (folder / "final").is_dir() else "RUN_DIR/final"
        hint = f"give the folder of the weights, such as {final}"
        raise DataError(f"{where}: neither {CONFIG} nor {ADAPTER_CONFIG} in this folder", hint)
    if not any_family:
        _check_full(folder, where)
    return path


def check_adapter(where: str, folder: Path) -> None:
    """Raise DataError unless a folder holds an adapter; `where` names it in the message."""
    if not (folder / ADAPTER_CONFIG).is_file():
        problem = f"no {ADAPTER_CONFIG} in this folder" if folder.is_dir() else "no such folder"
        raise DataError(f"{where}: {problem}", hint="give the folder of a saved adapter, such as RUN_DIR/final")


def check_merge(adapter: Path, output: Path) -> None:
    """Refuse, before torch is imported, what `modeling.save.merge_adapter` cannot merge or write to."""
    if output.exists():
        raise DataError(f"output={output}: exists", hint="choose another output=DIR")
    check_adapter(str(adapter), adapter)
    find_model(str(adapter))


def check_architecture(config: Mapping[str, Any], where: str = "") -> Family:
    """Return the model family of a config.json, or refuse it by name.

    Raises:
        ConfigError: `model_type` is not one of FAMILIES.
    """
    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type in FAMILIES:
        return FAMILIES[model_type]
    missing = _MISSING.get(str(model_type))
    reason = f" (missing: {missing})" if missing else ""
    raise ConfigError(
        f"{where}: architecture {model_type} is not supported{reason}, only {', '.join(FAMILIES)}",
        hint=f"use a {' or '.join(family.label for family in FAMILIES.values())} model, e.g. model=qwen2_vl_2b",
    )


def family_of(path: str) -> Family | None:
    """Return the family of a model by its config.json, or by its name where that is not here; None if unknown."""
    if path in BUILT:
        return BUILT[path]
    base, config = _base_and_config(path)
    if config is not None:
        return FAMILIES.get(str(config.get("model_type")))
    return next((family for family in FAMILIES.values() if f"{family.label}-".lower() in base.lower()), None)


def family_files(path: str) -> list[tuple[str, Path]]:
    """Return ("family", file) of the user's own module that holds the family of a model; nothing for one of ours."""
    family = family_of(path)
    if family is None or family.model_type not in _ADDED:
        return []
    from vsgrpo.rules import module_file

    file = module_file(_ADDED[family.model_type][0])
    return [("family", file)] if file is not None else []


def model_shape(path: str) -> ModelShape | None:
    """Return the sizes of a model by its config.json, or by its hub id where that is not here; None if unknown."""
    if path in BUILT:
        return SMALL_LM_SHAPE if path == SMALL_LM else BUILT[path].tiny_shape()
    base, config = _base_and_config(path)
    if config is None:
        return HUB.get(base)
    try:
        return check_architecture(config).shape_of(config)
    except (ConfigError, ValueError, KeyError, TypeError):
        return None


def adapter_base(folder: Path) -> str | None:
    """Return the folder or hub id of the base that FOLDER/adapter_config.json names, None if it names none."""
    if not (folder / ADAPTER_CONFIG).is_file():
        return None
    try:
        config = read_record(folder / ADAPTER_CONFIG, {"base_model_name_or_path": str}, "")
    except DataError:
        return None
    return config["base_model_name_or_path"] or None


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


def _find_base(adapter: Path) -> str:
    """Return the full model that an adapter folder names as its base."""
    file, base = adapter / ADAPTER_CONFIG, adapter_base(adapter)
    if base is None:
        raise DataError(f"{file}: names no base model", hint="set base_model_name_or_path in it")
    where = f"{file}: base_model_name_or_path={base}"
    if (Path(base) / CONFIG).is_file():
        _check_full(Path(base), where)
    elif Path(base).is_dir() or not HUB_ID.fullmatch(base):
        raise DataError(
            f"{where}: {f'no {CONFIG} in that folder' if Path(base).is_dir() else 'no such folder'}",
            hint=f"give the full model it was trained on: model=BASE model.adapter={adapter}, or correct the file",
        )
    return base


def check_served(family: Family, where: str = "rollout.engine=vllm") -> None:
    """Raise ConfigError where completions of a family cannot be drawn by a vLLM server; `where` asks for one."""
    if family.not_served:
        what = f"{where}: {family.label} is not drawn from by a server: {family.not_served}"
        raise ConfigError(what, "roll out and evaluate it with vsgrpo's own engine (the default)")


def _check_full(folder: Path, where: str) -> None:
    """Refuse the folder of a full model that is of another family or has no processor."""
    check_architecture(read_record(folder / CONFIG, {}, "save or copy it again"), where)
    for names in (_PROCESSOR_FILES, _TOKENIZER_FILES):
        if not any((folder / name).is_file() for name in names):
            raise DataError(
                f"{where}: no processor in this folder ({' or '.join(names)})",
                hint="copy tokenizer, chat template and preprocessor files from the original model into it",
            )
    _check_parts(folder)


def _check_parts(folder: Path) -> None:
    """Refuse an index that names weights in another folder: nobody would read what that model was trained on."""
    for index in sorted(folder.glob("*.index.json")):
        parts = read_record(index, {"weight_map": {str: str}}, "copy or download the folder again")["weight_map"]
        faults = ((part, path_fault(part)) for part in dict.fromkeys(parts.values()))
        if found := next((item for item in faults if item[1] is not None), None):
            hint = "put all files of the model into its folder, or links to them"
            raise DataError(f"{index}: weight_map: {found[0][:100]!r} {found[1]}", hint)


def _base_and_config(path: str) -> tuple[str, dict[str, Any] | None]:
    """Return the full model below `path` and its config.json; {} if that is broken, None if it is not here."""
    base = path if (Path(path) / CONFIG).is_file() else adapter_base(Path(path)) or path
    if not (Path(base) / CONFIG).is_file():
        return base, None
    try:
        return base, read_record(Path(base) / CONFIG, {}, "")
    except DataError:
        return base, {}
