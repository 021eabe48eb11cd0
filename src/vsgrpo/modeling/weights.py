"""The only place that reads configs, processors and weights of models: all of a model, or an error that names the rest.

Libraries fill tensors that a file lacks with random numbers, skip those that the model lacks, and print a warning. Here
a missing, unexpected or misshapen tensor is a DataError, for full models (`load_full`) and for adapters on them
(`attach_adapter`, `fill_adapter`). `modeling.load` makes of these what is trained and used.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils import load_peft_weights
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PretrainedConfig,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.utils import logging

from vsgrpo.errors import DataError, first_line
from vsgrpo.modeling.adapters import (
    ADAPTER_CONFIG,
    adapter_file,
    has_older_names,
    read_adapter_config,
    refuse_older_pattern,
    todays_module,
    todays_name,
)
from vsgrpo.modeling.bundle import ModelBundle
from vsgrpo.terminal import counted

_SUM = torch.float64
"""Type in which no sum of finite weights overflows."""
_NUM_NAMED = 3
"""Tensors of each kind that a message names."""
_WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "base_model.model.", "model.module.")
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations that write into the base weights whenever such an adapter is put on them."""
_TABLES = ("lm_head.lora_", "embed_tokens.lora_")
"""Parts of names of LoRA on the head or the embedding."""
_UNREADABLE = (OSError, SafetensorError, UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError)
_UNREADABLE += (AttributeError, ArithmeticError, StrictDataclassError)
"""What the libraries raise on a file that is missing, cut off or not what its name says."""

Misshapen = tuple[str, Sequence[int], Sequence[int]]
"""Name, shape in the file, shape in the model."""


def read_config(base: str, offline: bool) -> dict[str, Any]:
    """Return config.json of a folder or hub id.

    Raises:
        DataError: there is none, or its weights are quantised.
    """
    try:
        config: Any = PretrainedConfig.get_config_dict(base, local_files_only=offline)[0]
    except OSError as error:
        if (file := Path(base) / "config.json").is_file():
            raise DataError(f"{file}: cannot be read: {first_line(error)}", hint="save or copy it again") from error
        raise DataError(
            f"model.path={base}: no such folder, and its config.json cannot be had from the hub: {first_line(error)}",
            hint="give the path of a downloaded model" if offline else "check the name and the network",
        ) from error
    if not isinstance(config, dict):
        raise DataError(f"{base}/config.json: not a JSON object", hint="save or copy it again")
    if not config:  # the library's answer where the folder has none
        raise DataError(
            f"model.path={base}: no config.json there, or an empty one",
            hint="name a whole model: config.json, weights, processor",
        )
    _refuse_quantised(f"model.path={base}", config)
    return config


def read_processor(kind: Any, base: str, offline: bool, **options: Any) -> Any:
    """Return a processor or tokenizer of class `kind`; raise what the library raises (OSError, ValueError)."""
    return kind.from_pretrained(base, local_files_only=offline, **options)


def load_full(
    kind: Any,
    path: str | Path,
    *,
    dtype: Any,
    attn: str = "sdpa",
    offline: bool = True,
    device_map: str | None = None,
    key: str = "model.path",
    gguf_file: str | None = None,
) -> Any:
    """Load a full model of class `kind`, every tensor from its files. A head that is tied to the embedding needs none.

    Args:
        kind: a class of transformers with `from_pretrained`.
        path: folder or hub id.
        dtype: of the weights, or "auto": as they are stored.
        device_map: "meta" compares names and shapes and reads no weight.
        key: of the configuration, for messages.
        gguf_file: a file in the folder that holds config and weights in llama.cpp's format.

    Raises:
        DataError: files are missing or broken; a tensor is missing, unexpected or of another shape; an adapter lies in
            the same folder.
    """
    where = f"{key}={path}"
    options: dict[str, Any] = {"attn_implementation": attn, "local_files_only": offline}
    if device_map is not None:
        options["device_map"] = device_map
    if gguf_file is not None:
        options["gguf_file"] = gguf_file
    try:
        with _quiet():
            model, found = kind.from_pretrained(
                path, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **options
            )
    except _UNREADABLE as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise DataError(
            f"{where}: weights are missing or broken: {first_line(error)}", hint="copy or download the folder again"
        ) from error
    if getattr(model, "_hf_peft_config_loaded", False):
        raise DataError(f"{where}: an adapter is in the same repository", hint="give a folder with the full model only")
    check_tensors(where, found["missing_keys"], found["unexpected_keys"], found["mismatched_keys"])
    if found["error_msgs"]:
        raise DataError(f"{where}: {found['error_msgs'][0]}", hint="copy or download the folder again")
    _refuse_not_finite(where, model.named_parameters())
    return model


def load_chat(path: str, key: str) -> ModelBundle:
    """Load any instruct model of transformers with its processor, as its weights are stored, on the GPUs if any.

    Its processor is a mere tokenizer where it takes no images.

    Args:
        path: folder or hub id of a full model.
        key: of the configuration, for messages.

    Raises:
        DataError: it cannot be loaded whole.
    """
    hint = "give a folder or hub id that transformers can load, or an endpoint as base_url"
    try:
        config = AutoConfig.from_pretrained(path)
        sees = config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
        processor = (AutoProcessor if sees else AutoTokenizer).from_pretrained(path)
    except Exception as error:  # what the libraries raise on a broken file; tokenizers raises Exception itself
        raise DataError(f"{key}={path}: cannot be loaded: {first_line(error)}", hint) from None
    kind = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    device_map = "auto" if torch.cuda.is_available() else None
    model = load_full(kind, path, dtype="auto", offline=False, device_map=device_map, key=key).eval()
    return ModelBundle(model, processor, getattr(processor, "tokenizer", processor), family=None, base=path)


def attach_adapter(model: nn.Module, folder: Path) -> PeftModel:
    """Put a saved LoRA adapter on a model, every tensor from its file, unmerged.

    Adapters saved before transformers 4.52 name the language model `model` and the tower `visual`; they are read under
    today's names. The global random state is left as it was.

    Raises:
        DataError: files are missing or broken; not LoRA; a tensor is missing, unexpected or of another shape.
    """
    weights = _adapter_weights(folder)
    config = _adapter_config(folder, renamed=has_older_names(weights))
    if any(name in key for key in weights for name in _TABLES):
        _untie(model)
    try:
        with torch.random.fork_rng(devices=[]):
            peft = get_peft_model(model, config)  # type: ignore[arg-type]
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise DataError(
            f"{folder}: does not fit its base model: {first_line(error)}",
            hint="put it on the model it was trained on; target_modules of adapter_config.json names layers of it",
        ) from error
    _fill(peft, folder, weights)  # type: ignore[arg-type]
    return peft  # type: ignore[return-value]


def fill_adapter(model: PeftModel, folder: Path) -> None:
    """Read the tensors of a saved adapter into the active adapter of a model.

    Raises:
        DataError: as `attach_adapter`.
    """
    _fill(model, folder, _adapter_weights(folder))


def _fill(model: PeftModel, folder: Path, weights: Mapping[str, torch.Tensor]) -> None:
    weights = {todays_name(name): tensor for name, tensor in weights.items()}
    name = str(model.active_adapter)
    needed = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    known = (
        needed
        if needed.keys() >= weights.keys()
        else get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=True)
    )
    both = [key for key in weights if key in known]
    check_tensors(
        str(folder),
        [key for key in needed if key not in weights],
        [key for key in weights if key not in known],
        [(key, weights[key].shape, known[key].shape) for key in both if weights[key].shape != known[key].shape],
    )
    _refuse_not_finite(str(folder), weights.items())
    if any(tensor.is_meta for tensor in needed.values()):  # only compared, see `load_full`
        return
    left = set_peft_model_state_dict(model, weights, adapter_name=name).unexpected_keys
    check_tensors(str(folder), [], left, [])


def check_tensors(
    where: str, missing: Iterable[str], unexpected: Iterable[str], misshapen: Iterable[Misshapen]
) -> None:
    """Raise DataError with the first names of each kind, unless all are empty.

    Args:
        where: what was loaded, for the message.
        missing: in the model and not in the file.
        unexpected: in the file and not in the model.
        misshapen: in both, with different shapes.
    """
    missing, unexpected, misshapen = sorted(missing), sorted(unexpected), sorted(misshapen)
    shapes = [f"{name}: {list(theirs)} in the file, {list(ours)} in the model" for name, theirs, ours in misshapen]
    kinds = {"missing": missing, "not of this model": unexpected, "of another shape": shapes}
    faults = [f"{len(names)} {kind} ({_some(names)})" for kind, names in kinds.items() if names]
    if faults:
        hint = _hint(missing, unexpected, shapes)
        raise DataError(f"{where}: these tensors do not fit the model: {'; '.join(faults)}", hint=hint)


def _refuse_not_finite(where: str, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Raise DataError where a tensor holds NaN or infinity, as after a step that diverged; one sum each shows it."""
    with torch.no_grad():
        found = [name for name, tensor in tensors if not bool(tensor.is_meta or tensor.sum(dtype=_SUM).isfinite())]
    if found:
        raise DataError(
            f"{where}: {counted(len(found), 'tensor holds', 'tensors hold')} values that are no numbers "
            f"({_some(found)})",
            hint="take an earlier checkpoint, or copy or download the folder again",
        )


def _hint(missing: Sequence[str], unexpected: Sequence[str], shapes: Sequence[str]) -> str:
    wrapper = next((w for w in _WRAPPERS if unexpected and all(name.startswith(w) for name in unexpected)), None)
    is_adapter = any("lora_" in name for name in (*missing, *unexpected, *shapes))
    if wrapper is not None and not is_adapter:
        return f"its names begin with {wrapper}: it was saved from inside a wrapper; save the model inside it"
    if is_adapter:
        return "put the adapter on the model it was trained on, or copy or train it again"
    return "copy or download the folder again, or save it again with all tensors and the config.json they belong to"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NUM_NAMED]) + (", ..." if len(names) > _NUM_NAMED else "")


def _adapter_weights(folder: Path) -> dict[str, torch.Tensor]:
    file = adapter_file(folder)
    try:
        return load_peft_weights(str(folder), device="cpu")
    except _UNREADABLE as error:
        raise DataError(f"{file}: missing or broken: {first_line(error)}", hint="copy the adapter again") from error


def _adapter_config(folder: Path, renamed: bool) -> LoraConfig:
    path = folder / ADAPTER_CONFIG
    kind = read_adapter_config(folder).get("peft_type")
    if kind != "LORA":
        raise DataError(f"{path}: peft_type={kind}: only LORA is supported", hint="train a LoRA adapter")
    try:
        config: Any = LoraConfig.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: broken: {first_line(error)}", hint="copy the adapter again") from error
    start = str(config.init_lora_weights).lower()
    if start.startswith(_CHANGES_BASE):
        raise DataError(
            f"{path}: init_lora_weights={start}: putting this adapter on a model changes the model's own weights",
            hint="convert it: save_pretrained(..., path_initial_model_for_weight_conversion=...) of PEFT",
        )
    if renamed and isinstance(config.target_modules, set | list):
        config.target_modules = {todays_module(name) for name in config.target_modules}
    elif renamed and isinstance(config.target_modules, str):
        refuse_older_pattern(path, config.target_modules)
    config.inference_mode = True
    return config


def _untie(model: Any) -> None:
    """Give the head a matrix of its own: LoRA on it or on the embedding, merged, would change both where they share."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head.weight is embedding.weight:
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=head.weight.requires_grad)
        for part in (model.config, model.config.get_text_config()):
            part.tie_word_embeddings = False


def _refuse_quantised(where: str, config: Mapping[str, Any]) -> None:
    quantised = config.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method", "unknown") if isinstance(quantised, Mapping) else quantised
        raise DataError(
            f"{where}: quantization_config: its weights are quantised ({method}), which is not supported",
            hint="give the model with its original weights",
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the library's report of tensors that do not fit: it becomes an error here."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
