"""The one way to a model, for every command: refuse what cannot work, load all of it, put adapters on it, freeze.

Before it: the pinned series of the libraries under a model, their chatter switched off, the device to compute on.
"""

import fcntl
import logging
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers.utils import logging as library_logging

from vsgrpo.devices import visible_gpus
from vsgrpo.errors import ConfigError, DataError, SetupError
from vsgrpo.families import BUILT, check_architecture, find_model
from vsgrpo.families.family import Family
from vsgrpo.families.small_lm import SMALL_LM
from vsgrpo.families.vision_record import marks_rule, text_rule
from vsgrpo.files import publish
from vsgrpo.modeling.adapters import adapter_chain, base_identity, check_chain
from vsgrpo.modeling.attention import use_tree_attention
from vsgrpo.modeling.bundle import ModelBundle, vision_tower
from vsgrpo.modeling.lora import use_short_lora
from vsgrpo.modeling.tiny import build_small_lm, build_tiny
from vsgrpo.modeling.tree_states import has_states
from vsgrpo.modeling.vision import use_batched_attention, use_matrix_product
from vsgrpo.modeling.weights import attach_adapter, load_chat, load_full, read_config, read_processor
from vsgrpo.records import NUMBER, check_shape

logger = logging.getLogger(__name__)

PINNED_SERIES = {"trl": "1.16", "transformers": "5.23"}
"""Package -> the only minor series that our overrides of private methods (list: tests/modeling/test_versions.py) were
written against; pyproject.toml pins the same."""
TUNES = ("lora", "full", "none")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class LoraSettings:
    """LoRA on the linear layers of the language model."""

    r: int = 64
    alpha: int = 128
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Names of linear layers inside the language model; the vision tower never carries LoRA."""


def load(
    path: str | Path,
    adapter: str | Path | None = None,
    *,
    tune: str | None = None,
    freeze_vision: bool = True,
    lora: Any = None,
    dtype: str = "float32",
    attn: str = "sdpa",
    text_after_video: str | None = None,
    vision_marks: str | None = None,
    offline: bool = False,
    device: torch.device | str | None = None,
    tiny_folder: Path | None = None,
    seed: int = 0,
    engine_copies: bool = False,
    any_family: bool = False,
    key: str = "model.path",
) -> ModelBundle:
    """Load a model, to use it or to train it: the one way to a model for every command.

    To use it (`tune=None`), all is frozen and the last adapter stays unmerged: in bfloat16 merging rounds weights. To
    train it, all adapters are merged in memory first, so that "adapter off" is the start and KL is 0 at step 0.

    Args:
        path: folder of a full model or of a saved adapter, hub id, or a name of `BUILT` (built into `tiny_folder`).
        adapter: an adapter trained on `path`.
        tune: `lora` freezes all and adds LoRA to the language model, `full` trains the weights, `none` freezes all.
        freeze_vision: with `full`, keep the vision tower and its merger as they are.
        lora: r, alpha, dropout, targets; `LoraSettings()` where None.
        dtype: of the weights, but for those that `full` trains: they are float32, in which small updates count.
        attn: attention implementation of the language model; with `sdpa` the tower attends to its slices in one call.
        text_after_video: where text goes on after a video, `published` or `library`; None: as the model records it,
            else as the published weights (`vision_record.text_rule`).
        offline: never reach for the hub.
        device: where to move it; "meta" compares names and shapes of all tensors with the files and reads no weight.
        tiny_folder: where `tiny` is built, or found from an earlier build.
        seed: of the tiny model's weights and of LoRA's; the global random state is left as it was.
        engine_copies: the engine trains a float32 copy of its own (DeepSpeed's ZeRO): weights are of type `dtype`.
        any_family: a full model may be any instruct model of transformers, as `weights.load_chat` loads it.
        key: of the configuration that names an `any_family` model, for messages.

    Raises:
        ConfigError: an unknown choice, or an architecture this project does not know.
        DataError: files that are missing or incomplete, or an adapter that was trained on other weights.
    """
    if tune not in (*TUNES, None):
        raise ConfigError(f"model.tune={tune}: not one of {', '.join(TUNES)}")
    quiet_libraries()
    path, adapter = str(path), None if adapter is None else str(adapter)
    path, base, chain = _find(path, adapter, tiny_folder, seed, key, any_family)
    if any_family and not chain:
        return load_chat(base, key)
    rules = text_rule(path, adapter, text_after_video), marks_rule(path, adapter, vision_marks)
    held = "float32" if tune == "full" and not engine_copies else dtype
    bundle = _load_base(base, held, attn, offline, "meta" if device == "meta" else None, rules)
    _put_adapters(bundle, chain, tune)
    _choose_trained(bundle, tune, freeze_vision, lora or LoraSettings(), seed)
    bundle.model.to(device=device)
    return bundle


def _find(
    path: str, adapter: str | None, tiny_folder: Path | None, seed: int, key: str, any_family: bool
) -> tuple[str, str, list[Path]]:
    """Return the path, its full model, both built where they are a name of `BUILT`, and the adapters between."""
    base = find_model(path, adapter, key=key, any_family=any_family)
    if base in BUILT and not any_family:
        path = base = str(_built_model(base, tiny_folder, seed))
    return path, base, adapter_chain(path, adapter) if adapter is not None or base != path else []


def _choose_trained(bundle: ModelBundle, tune: str | None, freeze_vision: bool, lora: Any, seed: int) -> None:
    """Freeze what is not trained, and add the adapter that is."""
    bundle.model.requires_grad_(tune == "full")
    if freeze_vision:
        vision_tower(bundle.model).requires_grad_(False)
    if tune == "lora":
        bundle.model = _add_lora(bundle.model, lora, seed)
    elif not freeze_vision and tune == "none":
        logger.warning("model.freeze_vision=false has no effect with model.tune=none")
    use_short_lora(bundle.model)
    bundle.model.train(tune in ("lora", "full"))


def _built_model(name: str, folder: Path | None, seed: int) -> Path:
    """Return the folder of a model of `BUILT`, built there whole where it is not yet.

    Raises:
        ConfigError: no folder is given.
    """
    if folder is None:
        raise ConfigError(f"model.path={name}: needs a folder to build the model in", hint="give a path or a hub id")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:  # several processes may ask for it at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "config.json").is_file():
            partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
            if name == SMALL_LM:
                build_small_lm(partial, seed)
            else:
                build_tiny(partial, seed, family=BUILT[name].model_type)
            publish(partial, folder)
    return folder


def _load_base(
    base: str, dtype: str, attn: str, offline: bool, device: str | None, rules: tuple[str, str]
) -> ModelBundle:
    """Load a full model that reads positions and marks by `rules`."""
    if dtype not in DTYPES:
        raise ConfigError(f"model.dtype={dtype}: not one of {', '.join(DTYPES)}")
    family = check_architecture(read_config(base, offline), f"model.path={base}")
    processor = _load_processor(base, family, offline)
    with torch.random.fork_rng(devices=[]):  # a gated DeltaNet draws its decay before the file's replaces it
        model = load_full(
            family.model, base, dtype=getattr(torch, dtype), attn=attn, offline=offline, device_map=device
        )
    _check_token_ids(base, model.config, processor)
    use_batched_attention(model)
    use_matrix_product(model)
    use_tree_attention(model)
    if has_states(model):
        # Only where it is needed: it imports the kernels of fla where they are installed.
        from vsgrpo.modeling.delta_net import use_tree_states

        use_tree_states(model)
    model.text_after_video, marks = rules  # `bundle.prompt_positions` goes by the first
    return ModelBundle(model, processor, processor.tokenizer, family, base, vision_marks=marks)


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
    hint = "copy tokenizer, chat template and preprocessor files from the original model into it"
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


def _put_adapters(bundle: ModelBundle, chain: Sequence[Path], tune: str | None) -> None:
    """Check adapters against the base in memory and merge them into it, the last one only to train."""
    if chain or tune == "lora":
        bundle.identity = base_identity(bundle.base, bundle.model.config)
    hashes = check_chain(chain, bundle.base, bundle.identity) if bundle.identity is not None else []
    for number, (folder, digest) in enumerate(zip(chain, hashes, strict=True), 1):
        bundle.model = attach_adapter(bundle.model, folder)
        if number < len(chain) or tune is not None:
            bundle.model = bundle.model.merge_and_unload()
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


def check_versions() -> dict[str, str]:
    """Refuse trl or transformers outside the pinned minor series.

    Returns:
        package -> installed version.

    Raises:
        SetupError: a package is missing or of another series.
    """
    installed = {}
    for package, series in PINNED_SERIES.items():
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            raise SetupError(
                f"{package} is not installed: {series}.* is needed", hint=f"pip install '{package}=={series}.*'"
            ) from None
        if installed[package].split(".")[:2] != series.split("."):
            raise SetupError(
                f"{package}={installed[package]}: vsgrpo overrides private methods of {package} {series}.* only",
                hint=f"pip install '{package}=={series}.*'",
            )
    return installed


def quiet_libraries() -> None:
    """Silence progress bars of every file, renamed options and DeepSpeed's choice of device; report to nobody.

    To be called before a trainer is built: DeepSpeed is imported by then, and reads its part on import.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if not torch.cuda.is_available():
        # Otherwise it looks for devices, and says on stdout that it found none.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    library_logging.disable_progress_bar()
    # TRL 1.16 reads options that transformers 5.23 has renamed; both are pinned.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl)\.")
    # DeepSpeed calls collectives that torch has renamed, several times a step.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.")


def own_device() -> torch.device:
    """Return this process's GPU by LOCAL_RANK (of those that it sees), or the CPU where torch sees none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def device_line(device: torch.device | str) -> str:
    """Return what is computed on; on a CPU also why, as a warning where GPUs are there."""
    device = torch.device(device)
    if device.type == "cuda":
        return f"device: {device} ({torch.cuda.get_device_name(device)})"
    seen = visible_gpus()
    return f"warning: device: CPU, {why_no_gpu()}" if seen else f"device: CPU, {seen.describe()}"


def why_no_gpu() -> str:
    """Return why torch has no GPU to compute on."""
    seen = visible_gpus()
    if not seen:
        return seen.describe()
    built = "is built without CUDA" if torch.version.cuda is None else f"(CUDA {torch.version.cuda}) cannot use them"
    return f"{seen.describe()} there, but this torch {built}"
