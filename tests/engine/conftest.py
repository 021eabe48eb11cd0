"""Fixtures of the engine's tests: a server of a tiny model, and requests to it."""

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Any:
    """Frozen tiny model; not to be changed."""
    from vsgrpo.modeling.load import load

    return load(tiny_folder, tune="none", offline=True)


@pytest.fixture
def lora(tiny_folder: Path) -> Any:
    """Fresh tiny model with an adapter that has some effect."""
    import torch

    from vsgrpo.modeling.load import LoraSettings, load

    bundle = load(tiny_folder, tune="lora", lora=LoraSettings(r=4, alpha=8), offline=True)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in bundle.model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return bundle
