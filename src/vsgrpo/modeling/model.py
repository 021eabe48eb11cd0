"""Load a model for training or evaluation: refuse what cannot work, freeze, add LoRA."""

import logging
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from vsgrpo.errors import ConfigError, DataError
from vsgrpo.families import TINY
from vsgrpo.families.family import Family
from vsgrpo.families.model_path import check_architecture
from vsgrpo.files import publish
from vsgrpo.modeling.adapters import adapter_chain, base_of
from vsgrpo.modeling.attention import use_tree_attention
from vsgrpo.modeling.bundle import ModelBundle, language_model, vision_tower
from vsgrpo.modeling.identity import base_identity, check_chain
from vsgrpo.modeling.load import attach_adapter, load_full, read_config, read_processor
from vsgrpo.modeling.tiny import build_tiny
from vsgrpo.modeling.vision import use_batched_attention, use_matrix_product
from vsgrpo.records import NUMBER, check_shape

logger = logging.getLogger(__name__)

TUNES = ("lora", "full", "none")
DTYPES = ("float32", "bfloat16", "float16")
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json")


@dataclass(frozen=True)
class LoraSettings:
    """LoRA on the linear layers of the language model."""

    r: int = 64
    alpha: int = 128
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Names of linear layers inside the language model; the vision tower never carries LoRA."""


def load_model(
    path: str | Path,
    *,
    tune: str = "lora",
    freeze_vision: bool = True,
    lora: Any = None,
    adapter: str | Path | None = None,
    dtype: str = "float32",
    attn: str = "sdpa",
    offline: bool = False,
    tiny_folder: Path | None = None,
    seed: int = 0,
    engine_copies: bool = False,
) -> ModelBundle:
    """Load a model to train.

    Args:
        path: folder of a full model or of a saved adapter, hub id, or `tiny`, `tiny_2_5` (built into `tiny_folder`).
        tune: `lora` freezes all and adds LoRA to the language model, `full` trains the weights, `none` freezes all.
        freeze_vision: with `full`, keep the vision tower and its merger as they are.
        lora: r, alpha, dropout, targets; `LoraSettings()` where None.
        adapter: start from this adapter. It is merged into the weights in memory first, so that "adapter off" is the
            start of this run and KL is 0 at step 0.
        dtype: of the weights, but for those that `full` trains: they are float32, in which small updates count.
        attn: attention implementation of the language model; with `sdpa` the tower attends to its slices in one call.
        offline: never reach for the hub.
        tiny_folder: where `tiny` is built, or found from an earlier build.
        seed: of the tiny model's weights and of LoRA's; the global random state is left as it was.
        engine_copies: the engine trains a float32 copy of its own (DeepSpeed's ZeRO): weights are of type `dtype`.

    Raises:
        ConfigError: an unknown choice, or an architecture this project cannot train.
        DataError: a folder that is missing or incomplete; weights that are not all of the model; an adapter that was
            trained on others.
    """
    if tune not in TUNES:
        raise ConfigError(f"model.tune={tune}: not one of {', '.join(TUNES)}")
    if str(path) in TINY:
        path = tiny_model(str(path), tiny_folder, seed)
    chain = adapter_chain(path, adapter)
    held = "float32" if tune == "full" and not engine_copies else dtype
    bundle = _load_base(str(path), held, attn, offline)
    if chain or tune == "lora":
        bundle.identity = base_identity(bundle.base, bundle.model.config)
    _merge_earlier(bundle, chain, chain)
    model = bundle.model
    model.requires_grad_(tune == "full")
    if freeze_vision:
        vision_tower(model).requires_grad_(False)
    if tune == "lora":
        bundle.model = _add_lora(model, lora or LoraSettings(), seed)
    elif not freeze_vision and tune == "none":
        logger.warning("model.freeze_vision=false has no effect with model.tune=none")
    bundle.model.train(tune != "none")
    return bundle


def load_for_eval(
    path: str | Path,
    adapter: str | Path | None = None,
    *,
    dtype: str = "float32",
    attn: str = "sdpa",
    offline: bool = False,
    tiny_folder: Path | None = None,
) -> ModelBundle:
    """Load a plain model folder, a hub id, or a saved adapter on the base it records; all frozen, in eval mode.

    The last adapter stays unmerged, however it is given: in bfloat16 merging rounds the weights to something that was
    never trained. Earlier ones are merged, as they were when the last one was trained.

    Args:
        path: folder of a full model or of an adapter, hub id, or `tiny`, `tiny_2_5` (built untrained).
        adapter: an adapter trained on `path`.
        dtype: of the weights.
        attn: attention implementation of the language model.
        offline: never reach for the hub.
        tiny_folder: where `tiny` is built.

    Raises:
        ConfigError: an architecture this project does not know.
        DataError: as `load_model`.
    """
    if str(path) in TINY:
        path = tiny_model(str(path), tiny_folder, 0)
    chain = adapter_chain(path, adapter)
    bundle = _load_base(str(path), dtype, attn, offline)
    if chain:
        bundle.identity = base_identity(bundle.base, bundle.model.config)
        _merge_earlier(bundle, chain, chain[:-1])
        bundle.model = attach_adapter(bundle.model, chain[-1])
    bundle.model.requires_grad_(False)
    bundle.model.eval()
    return bundle


def check_weights(path: str, adapter: str | None = None) -> None:
    """Compare all tensors of a model on this machine with what its config needs, by name and shape; no weight is read.

    An adapter's base is compared with the one it was trained on, too.

    Raises:
        ConfigError, DataError: as `load_model`.
    """
    chain = adapter_chain(path, adapter)
    base = base_of(path)
    family = check_architecture(read_config(base, offline=True), base)
    for number in range(max(1, len(chain))):
        model = load_full(family.model, base, dtype=torch.float32, device_map="meta")
        if number == 0 and chain:
            check_chain(chain, base, base_identity(base, model.config))
        if chain:
            attach_adapter(model, chain[number])


def use_gradient_checkpointing(model: Any) -> None:
    """Recompute activations in the backward pass of the language model only.

    Non-reentrant checkpoints need no input that requires a gradient, so the embedding hook that would also reach the
    frozen tower's patch embedding is not installed.
    """
    language_model(model).gradient_checkpointing_enable({"use_reentrant": False})


def tiny_model(name: str, folder: Path | None, seed: int) -> Path:
    """Return the folder of a tiny model, built there whole where it is not yet.

    Raises:
        ConfigError: no folder is given.
    """
    if folder is None:
        raise ConfigError(f"model.path={name}: needs a folder to build the model in", hint="give a path or a hub id")
    if not (folder / "config.json").is_file():
        partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
        build_tiny(partial, seed, family=TINY[name].model_type)
        if (folder / "config.json").is_file():  # another process was faster
            shutil.rmtree(partial)
        else:
            publish(partial, folder)
    return folder


def _load_base(path: str, dtype: str, attn: str, offline: bool) -> ModelBundle:
    if dtype not in DTYPES:
        raise ConfigError(f"model.dtype={dtype}: not one of {', '.join(DTYPES)}")
    base = base_of(path)
    family = check_architecture(read_config(base, offline), base)
    processor = _load_processor(base, family, offline)
    model = load_full(family.model, base, dtype=getattr(torch, dtype), attn=attn, offline=offline)
    _check_token_ids(base, model.config, processor)
    use_batched_attention(model)
    use_matrix_product(model)
    use_tree_attention(model)
    return ModelBundle(model, processor, processor.tokenizer, family, base)


def _check_pixels(base: str, processor: Any) -> None:
    """Refuse a processor whose settings of pixels are of the wrong kind: reading frames would fail at some step."""
    shape = {"patch_size": int, "temporal_patch_size": int, "merge_size": int, "rescale_factor": NUMBER}
    shape |= {"image_mean": [NUMBER], "image_std": [NUMBER]}
    for part in ("image_processor", "video_processor"):
        values = {name: getattr(getattr(processor, part), name) for name in shape}
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        check_shape(values, shape, f"model.path={base}: {part}", "copy the processor's files of the original model")


def _check_token_ids(base: str, config: Any, processor: Any) -> None:
    """Refuse a model whose config.json names other tokens for images and videos than its tokenizer writes."""
    for name in ("image_token_id", "video_token_id"):
        said, written = getattr(config, name), getattr(processor, name)
        if said != written:
            raise DataError(
                f"model.path={base}: config.json: {name}={str(said)[:60]}: its tokenizer has {written}",
                hint="copy config.json and the tokenizer files of the original model into it",
            )


def _load_processor(base: str, family: Family, offline: bool) -> Any:
    folder = Path(base)
    hint = "copy tokenizer, chat template and preprocessor files from the original model into it"
    if folder.is_dir():
        for names in (_PROCESSOR_FILES, _TOKENIZER_FILES):
            if not any((folder / name).is_file() for name in names):
                raise DataError(f"model.path={base}: no processor in this folder ({' or '.join(names)})", hint=hint)
    try:
        processor = read_processor(family.processor, base, offline)
        _check_pixels(base, processor)
    except DataError:
        raise
    except Exception as error:  # the libraries raise KeyError, AttributeError, their own, ... on broken files
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"model.path={base}: broken processor or config.json: {type(error).__name__}: {reason}", hint=hint
        ) from error
    if not processor.chat_template:
        raise DataError(f"model.path={base}: its processor has no chat template", hint=hint)
    try:
        processor.apply_chat_template([{"role": "user", "content": [{"type": "text", "text": "x"}]}], tokenize=False)
    except TemplateError as error:
        raise DataError(f"model.path={base}: broken chat template: {error}", hint=hint) from error
    return processor


def _merge_earlier(bundle: ModelBundle, chain: Sequence[Path], merged: Sequence[Path]) -> None:
    """Check a chain of adapters against the base in memory and merge the first of them into it."""
    if chain:
        assert bundle.identity is not None
        hashes = check_chain(chain, bundle.base, bundle.identity)
        for folder, digest in zip(merged, hashes, strict=False):
            bundle.model = attach_adapter(bundle.model, folder).merge_and_unload()
            bundle.earlier_adapters.append(folder)
            bundle.earlier_hashes.append(digest)


def _add_lora(model: nn.Module, lora: Any, seed: int) -> PeftModel:
    targets: Sequence[str] = tuple(lora.targets)
    pattern = rf".*\blanguage_model\..*\.({'|'.join(map(re.escape, targets))})"
    known = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if unknown := [target for target in targets if target not in known]:
        raise ConfigError(f"model.lora.targets={unknown[0]}: no linear layer of that name in the language model")
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=pattern,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(model, config)  # type: ignore[arg-type, return-value]
