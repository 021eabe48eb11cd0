"""Write a model folder that loads without this project, whole or not at all."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft import PeftModel

from vsgrpo.errors import DataError
from vsgrpo.modeling.rope import unwrap

if TYPE_CHECKING:
    from vsgrpo.modeling.model import ModelBundle

ADAPTER_CONFIG = "adapter_config.json"
EARLIER_ADAPTERS = "earlier_adapters"
"""Sub-folder of a saved adapter: adapters merged into its base before it was trained, named 0, 1, ..."""
VISION_FILE = "vision.json"
VISION_SCHEMA = 1
_VISION_KEYS = ("num_frames", "min_pixels", "max_pixels")
_IMAGE_KEYS = ("image_min_pixels", "image_max_pixels")
"""Of an image; models saved before images were shown have none."""


def save_model(
    bundle: "ModelBundle",
    folder: Path,
    *,
    merge: bool,
    vision: Mapping[str, int] | None = None,
    state_dict: Mapping[str, Any] | None = None,
) -> None:
    """Save a model with its processor; an existing folder is replaced only once the new one is complete.

    Args:
        bundle: what to save; its model is left as it was.
        folder: the target.
        merge: write a LoRA model as plain weights instead of an adapter. Without LoRA, plain weights are written
            either way. An adapter whose earlier adapters are gone from disk is merged too, since it alone would not
            be this model.
        vision: num_frames, min_pixels, max_pixels, and of images image_min_pixels, image_max_pixels, for vision.json.
        state_dict: gathered weights of a sharded model; merging needs them in the model itself, so it is not combined
            with `merge`.
    """
    model = unwrap(bundle.model)
    is_adapter = isinstance(model, PeftModel)
    merge = is_adapter and (merge or not all(path.is_dir() for path in bundle.earlier_adapters))
    if merge and state_dict is not None:
        raise ValueError("a gathered state_dict cannot be merged; save the adapter, then merge it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.parent / f".{folder.name}.partial-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    if merge:
        _save_merged(model, partial)  # type: ignore[arg-type]
    else:
        model.save_pretrained(partial, state_dict=state_dict)  # type: ignore[operator]
        if is_adapter:
            _finish_adapter(bundle, partial)
    bundle.processor.save_pretrained(partial)
    if vision is not None:
        write_vision(partial, vision)
    _replace(folder, partial)


def _save_merged(model: PeftModel, folder: Path) -> None:
    """Write base + adapter as plain weights; the weights in memory are restored bit for bit."""
    inner = model.get_base_model()
    # Kept in host memory: a second copy of the targets would not fit beside a large model.
    before = {
        name: tensor.to("cpu", copy=True)
        for name, tensor in inner.state_dict().items()
        if name.endswith("base_layer.weight")
    }
    model.merge_adapter()
    try:
        merged = {
            name.replace(".base_layer.", "."): tensor
            for name, tensor in inner.state_dict().items()
            if "lora_" not in name
        }
        inner.save_pretrained(folder, state_dict=merged)  # type: ignore[operator]
    finally:
        model.unmerge_adapter()
        # Subtracting what was added rounds; training must go on from the very same weights.
        inner.load_state_dict(before, strict=False)


def _finish_adapter(bundle: "ModelBundle", folder: Path) -> None:
    config = json.loads((folder / ADAPTER_CONFIG).read_text())
    base = Path(bundle.base)
    config["base_model_name_or_path"] = str(base.resolve()) if base.is_dir() else bundle.base
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for index, earlier in enumerate(bundle.earlier_adapters):
        target = folder / EARLIER_ADAPTERS / str(index)
        target.mkdir(parents=True)
        for name in (ADAPTER_CONFIG, "adapter_model.safetensors"):
            shutil.copyfile(earlier / name, target / name)


def _replace(folder: Path, partial: Path) -> None:
    if not folder.exists():
        partial.rename(folder)
        return
    old = folder.parent / f".{folder.name}.old-{os.getpid()}"
    folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old)


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
    try:
        content = json.loads(path.read_text())
        if content["schema_version"] != VISION_SCHEMA:
            raise DataError(
                f"{path}: schema_version={content['schema_version']}, this version reads {VISION_SCHEMA}",
                hint="update vsgrpo",
            )
        return {key: int(content[key]) for key in (*_VISION_KEYS, *(key for key in _IMAGE_KEYS if key in content))}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a vision.json ({error})", hint="delete it to use the defaults") from error
