"""Write a model folder that loads without this project, whole or not at all: as it was trained, or merged."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_base_model_state_dict
from peft.utils import ModulesToSaveWrapper
from PIL import Image
from torch import Tensor

from vsgrpo.errors import DataError
from vsgrpo.families import check_merge
from vsgrpo.families.prompt_record import find_prompt, write_prompt
from vsgrpo.families.vision_record import find_vision, write_vision
from vsgrpo.files import publish
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

PROBE = "How many chair(s) are in this room? Please answer the question using a single word or phrase."
ABSOLUTE, RELATIVE = 1e-3, 1e-4
"""How far log-probabilities may be apart in float32: the order of additions differs, nothing else."""


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
            write_vision(partial, vision, bundle.text_after_video, bundle.vision_marks)
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


def merge_adapter(adapter: Path, output: Path, dtype: str = "float32", *, offline: bool = False) -> float:
    """Write base + adapter as a model folder that transformers loads alone, with vision.json, lineage and card.

    The sum is computed in float32, written, loaded from what was written, and compared with the adapter on a prompt
    with a picture. The folder appears complete, or not at all.

    Args:
        adapter: a saved adapter; adapters merged into its base before it was trained are found in it.
        output: the new folder.
        dtype: of the weights written; bfloat16 rounds the sum, after the comparison.
        offline: do not ask the hub for the base.

    Returns:
        the largest difference of a log-probability in float32.

    Raises:
        ConfigError: an architecture this project does not know.
        DataError: no adapter there, its base is missing or another one, weights are incomplete, `output` exists, or the
            merged model answers otherwise than the adapter.
    """
    from vsgrpo.modeling.load import load  # not needed to save what is trained

    check_merge(adapter, output)
    recorded = find_vision(str(adapter))
    vision = recorded and recorded.budget
    bundle = load(adapter, offline=offline)
    expected = _probe_logps(bundle)
    with new_folder(output) as partial:
        partial.mkdir()
        exact = partial / "float32"
        save_model(bundle, exact, merge=True, vision=vision)
        rule, marks = bundle.text_after_video, bundle.vision_marks
        del bundle
        merged = load(exact, text_after_video=rule, vision_marks=marks)
        difference = _compared(expected, _probe_logps(merged), adapter)
        saved = partial / dtype
        if saved != exact:
            merged.model.to(getattr(torch, dtype))
            save_model(merged, saved, merge=False, vision=vision)
            shutil.rmtree(exact)
        for path in saved.iterdir():
            path.rename(partial / path.name)
        saved.rmdir()
        load(partial, offline=True, device="meta")
        _describe(partial, adapter, output.name)
    return difference


def _describe(folder: Path, adapter: Path, name: str) -> None:
    """Write lineage and card of a merged model that will be called `name`."""
    from vsgrpo.data.lineage import lineage_of
    from vsgrpo.data.manifest import write_training_manifest
    from vsgrpo.modeling.model_card import write_model_card

    if (lineage := lineage_of(str(adapter))).base != "unknown" or lineage.parents:
        write_training_manifest(folder, lineage)
    write_prompt(folder, *find_prompt(str(adapter)))
    run_dir = adapter.resolve().parent
    is_run = (run_dir / "config.yaml").is_file()
    write_model_card(folder, run_dir if is_run else None, of=adapter, name=name)


def _probe_logps(bundle: ModelBundle) -> Tensor:
    """Return the log-probabilities (tokens, vocabulary) of a prompt with a picture under a model in float32."""
    picture = Image.linear_gradient("L").resize((84, 56)).convert("RGB")
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROBE}]}]
    text = bundle.processor.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    inputs = bundle.processor(text=[text], images=[picture], return_tensors="pt")
    with torch.inference_mode():
        return torch.log_softmax(bundle.model(**inputs).logits[0].float(), dim=-1)


def _compared(expected: Tensor, found: Tensor, adapter: Path) -> float:
    """Return the largest difference, or raise DataError where one is too large or no number."""
    differences = (found - expected).abs()
    # Not `>`: NaN compares false.
    if not bool((differences <= ABSOLUTE + RELATIVE * expected.abs()).all()):
        raise DataError(
            f"{adapter}: merged into its base it answers otherwise: a log-probability differs by "
            f"{float(differences.max()):.3g}; nothing was written",
            hint="use the adapter unmerged: model=ADAPTER works wherever a model is asked for",
        )
    return float(differences.max())
