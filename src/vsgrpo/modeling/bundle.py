"""A loaded model with all that belongs to it, and the way to the model inside wrappers and adapters."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn

from vsgrpo.modeling.adapters import BaseIdentity


@dataclass
class ModelBundle:
    """A loaded model with all that is needed to use and to save it."""

    model: Any
    """The family's `...ForConditionalGeneration`, or a `PeftModel` around it."""
    processor: Any
    tokenizer: Any
    family: Any
    """Its `Family`; None for an instruct model of another one (`load.load` with `any_family`)."""
    base: str
    """Folder or hub id of the full weights."""
    earlier_adapters: list[Path] = field(default_factory=list)
    """Adapter folders merged into the base in memory, in order, before this run's own adapter."""
    earlier_hashes: list[str] = field(default_factory=list)
    """`adapters.adapter_hash` of each of them as it was loaded."""
    identity: BaseIdentity | None = None
    """Identity of the full weights as they were loaded; None where no adapter is on them."""


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside distributed wrappers (`.module`), adapters kept."""
    while not hasattr(model, "config") and hasattr(model, "module"):
        model = model.module  # type: ignore[assignment]
    while hasattr(model, "module") and isinstance(model.module, nn.Module):
        model = model.module
    return model


def base_model(model: nn.Module) -> Any:
    """Return the `...ForConditionalGeneration` inside distributed wrappers and adapters."""
    model = unwrap(model)
    return model.get_base_model() if isinstance(model, PeftModel) else model


def vision_tower(model: nn.Module) -> Any:
    """Return the vision tower with its merger, inside wrappers and adapters."""
    return base_model(model).model.visual


def language_model(model: nn.Module) -> Any:
    """Return the language model without its head, inside wrappers and adapters."""
    return base_model(model).model.language_model


def vision_token_ids(model: nn.Module) -> tuple[int, ...]:
    """List the ids that a completion must never contain: placeholders and their marks."""
    config = base_model(model).config
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return tuple(sorted({getattr(config, name) for name in names}))


def use_gradient_checkpointing(model: Any) -> None:
    """Recompute activations in the backward pass of the language model only.

    Non-reentrant checkpoints need no input that requires a gradient, so the embedding hook that would also reach the
    frozen tower's patch embedding is not installed.
    """
    language_model(model).gradient_checkpointing_enable({"use_reentrant": False})
