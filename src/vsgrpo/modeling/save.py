"""Write a model folder that loads without this project, whole or not at all."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_base_model_state_dict
from peft.utils import ModulesToSaveWrapper
from torch import Tensor

from vsgrpo.errors import DataError
from vsgrpo.files import publish, read_yaml
from vsgrpo.modeling.adapters import (
    ADAPTER_CONFIG,
    BASE_FILE,
    EARLIER_ADAPTERS,
    adapter_file,
    adapter_hash,
    read_adapter_config,
    write_base_record,
)
from vsgrpo.modeling.bundle import ModelBundle, unwrap
from vsgrpo.records import read_record

VISION_FILE = "vision.json"
VISION_SCHEMA = 1
_VISION_KEYS = ("num_frames", "min_pixels", "max_pixels")
_IMAGE_KEYS = ("image_min_pixels", "image_max_pixels")
"""Of an image; models saved before images were shown have none."""
_RUN_OUTPUT = re.compile(r"final|checkpoint-\d+")


def save_model(
    bundle: ModelBundle,
    folder: Path,
    *,
    merge: bool,
    vision: Mapping[str, int] | None = None,
    state_dict: Mapping[str, Any] | None = None,
    finish: Callable[[Path], None] | None = None,
) -> None:
    """Save a model with its processor; an existing folder is replaced only once the new one is complete and on disk.

    Args:
        bundle: what to save; its model is left as it was.
        folder: the target.
        merge: write a LoRA model as plain weights instead of an adapter. Without LoRA, plain weights are written
            either way. An adapter whose earlier adapters are gone from disk, or are others by now, is merged too, since
            it alone would not be this model.
        vision: num_frames, min_pixels, max_pixels, and of images image_min_pixels, image_max_pixels, for vision.json.
        state_dict: gathered weights of a sharded model; merging needs them in the model itself, so it is not combined
            with `merge`.
        finish: writes what else belongs into the folder, before it has its name.
    """
    model: Any = unwrap(bundle.model)
    is_adapter = isinstance(model, PeftModel)
    merge = is_adapter and (merge or not _earlier_is_there(bundle))
    if merge and state_dict is not None:
        raise ValueError("a gathered state_dict cannot be merged; save the adapter, then merge it")
    with new_folder(folder) as partial:
        if merge:
            _save_merged(model, partial)
        elif is_adapter:
            model.save_pretrained(str(partial), state_dict=state_dict)
            _finish_adapter(bundle, partial)
        else:
            with _saved_as_tied(model.config, model.state_dict() if state_dict is None else state_dict):
                model.save_pretrained(partial, state_dict=state_dict)
        bundle.processor.save_pretrained(partial)
        if vision is not None:
            write_vision(partial, vision)
        if finish is not None:
            finish(partial)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder beside `folder` to write into; it gets that name at the end, and is removed on an exception."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.parent / f".{folder.name}.partial-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        yield partial
        publish(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _earlier_is_there(bundle: ModelBundle) -> bool:
    """Tell whether the adapters merged into the base are still on disk as they were when they were loaded."""
    folders, hashes = bundle.earlier_adapters, bundle.earlier_hashes
    return all(
        folder.is_dir() and adapter_hash(folder) == digest for folder, digest in zip(folders, hashes, strict=True)
    )


def _save_merged(model: PeftModel, folder: Path) -> None:
    """Write base + adapter as plain weights; the weights in memory are restored bit for bit."""
    inner: Any = model.get_base_model()
    # Kept in host memory: a second copy of the targets would not fit beside a large model.
    own = inner.state_dict()
    before = {name: tensor.to("cpu", copy=True) for name, tensor in own.items() if ".base_layer." in name}
    model.merge_adapter()
    try:
        weights = merged_weights(model)
        with _saved_as_tied(inner.config, weights):
            inner.save_pretrained(folder, state_dict=weights)
    finally:
        model.unmerge_adapter()
        # Subtracting what was added rounds; training must go on from the very same weights.
        with torch.no_grad():
            for name, tensor in before.items():
                own[name].copy_(tensor)


def merged_weights(model: PeftModel) -> dict[str, Tensor]:
    """Return the weights of a model whose adapter is merged, by the names of the plain model.

    That is the base's (with LoRA, its biases and token rows in them) and whole modules that the adapter carries
    (`modules_to_save`).
    """
    weights = dict(get_base_model_state_dict(model))
    for name, module in model.get_base_model().named_modules():
        if isinstance(module, ModulesToSaveWrapper):
            own = module.modules_to_save[str(model.active_adapter)].state_dict()
            weights |= {f"{name}.{key}": tensor for key, tensor in own.items()}
    return weights


@contextmanager
def _saved_as_tied(config: Any, weights: Mapping[str, Any]) -> Iterator[None]:
    """Say in a config that head and embedding are two tensors where they are: one of them would not be written."""
    tables = [tensor for name, tensor in weights.items() if name.endswith(("lm_head.weight", "embed_tokens.weight"))]
    differ = len(tables) == 2 and tables[0].data_ptr() != tables[1].data_ptr() and not torch.equal(*tables)
    tied = [part for part in (config, config.get_text_config()) if getattr(part, "tie_word_embeddings", False)]
    parts = tied if differ else []
    for part in parts:
        part.tie_word_embeddings = False
    try:
        yield
    finally:
        for part in parts:
            part.tie_word_embeddings = True


def _finish_adapter(bundle: ModelBundle, folder: Path) -> None:
    config = read_adapter_config(folder)
    base = Path(bundle.base)
    name = str(base.resolve()) if base.is_dir() else bundle.base
    config["base_model_name_or_path"] = name
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for index, earlier in enumerate(bundle.earlier_adapters):
        target = folder / EARLIER_ADAPTERS / str(index)
        target.mkdir(parents=True)
        for file in (earlier / ADAPTER_CONFIG, adapter_file(earlier), earlier / BASE_FILE):
            if file.is_file():  # adapters of others have no base.json
                shutil.copyfile(file, target / file.name)
    if bundle.identity is not None:
        write_base_record(folder, name, bundle.identity, bundle.earlier_hashes)


def write_vision(folder: Path, vision: Mapping[str, int]) -> None:
    """Record the vision budget that a model was trained with, for evaluation and later stages."""
    keys = (*_VISION_KEYS, *(key for key in _IMAGE_KEYS if key in vision))
    content = {"schema_version": VISION_SCHEMA, **{key: int(vision[key]) for key in keys}}
    (folder / VISION_FILE).write_text(json.dumps(content, indent=2) + "\n")


def read_vision(folder: Path) -> dict[str, int] | None:
    """Read the vision budget of a model folder, by the names of `VisionBudget`; None where it records none.

    Raises:
        DataError: broken file or unknown schema version.
    """
    path = folder / VISION_FILE
    if not path.is_file():
        return None
    shape = {**dict.fromkeys(_VISION_KEYS, int), **{f"{key}?": int for key in _IMAGE_KEYS}}
    content = read_record(path, shape, "delete it to use the defaults", schema_version=VISION_SCHEMA)
    return {key: content[key] for key in (*_VISION_KEYS, *_IMAGE_KEYS) if content.get(key) is not None}


def recorded_vision(folder: Path) -> tuple[dict[str, int], Path] | None:
    """Return the vision budget that a model was trained with and the file that records it, None where nothing does.

    That is its vision.json; without one, config.yaml of the run whose final/ or checkpoint-N/ it is.

    Raises:
        DataError: a broken file.
    """
    found = read_vision(folder)
    if found is not None:
        return found, folder / VISION_FILE
    run_config = folder.resolve().parent / "config.yaml"
    if not (_RUN_OUTPUT.fullmatch(folder.resolve().name) and folder.is_dir() and run_config.is_file()):
        return None
    sections = read_yaml(run_config, "move the model out of that folder")
    try:
        video, image = sections["video"], sections.get("image") or {}
        budget = {key: int(video[key]) for key in _VISION_KEYS}
        return budget | {f"image_{key}": int(image[key]) for key in _VISION_KEYS[1:] if key in image}, run_config
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{run_config}: no run's config ({error})", hint="move the model out of that folder") from None
