from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_inputs import randomize_adapter

from vsgrpo.modeling.bundle import ModelBundle, encode_prompt
from vsgrpo.modeling.load import LoraSettings, load
from vsgrpo.modeling.tree import Prompt
from vsgrpo.video.loader import VideoInputs


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> ModelBundle:
    """Frozen tiny model; not to be changed."""
    bundle = load(tiny_folder, tune="none", offline=True)
    bundle.model.eval()
    return bundle


@pytest.fixture
def lora(tiny_folder: Path) -> ModelBundle:
    """Fresh tiny model with an adapter that has some effect."""
    bundle = load(tiny_folder, tune="lora", lora=LoraSettings(r=4, alpha=8), offline=True)
    randomize_adapter(bundle.model)
    return bundle


@pytest.fixture(scope="session")
def ask(tiny: ModelBundle) -> Callable[..., Prompt]:
    """Build the prompt of a question about videos."""

    def build(text: str, *videos: VideoInputs) -> Prompt:
        ids = encode_prompt(tiny.processor, text, [video.medium for video in videos])
        return Prompt(tuple(ids), tuple(video.key for video in videos))

    return build
