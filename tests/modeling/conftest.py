import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_inputs import PATCH, randomize_adapter

from vsgrpo.families import FAMILIES
from vsgrpo.modeling.bundle import ModelBundle
from vsgrpo.modeling.load import LoraSettings, load
from vsgrpo.modeling.prompt import encode_prompt
from vsgrpo.modeling.tree import Prompt
from vsgrpo.video.loader import VideoInputs


@pytest.fixture(autouse=True)
def patch_side(request: pytest.FixtureRequest) -> None:
    """Let frames be made of patches of the family that a test marked `both_families` runs with."""
    params = getattr(request.node, "callspec", None)
    PATCH["side"] = FAMILIES[params.params.get("tiny_folder", "qwen2_vl") if params else "qwen2_vl"].patch


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> ModelBundle:
    """Frozen tiny model; not to be changed."""
    bundle = load(tiny_folder, tune="none", offline=True)
    bundle.model.eval()
    return bundle


@pytest.fixture(params=["published", "library"])
def rule(request: pytest.FixtureRequest, tiny: ModelBundle, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a rule of model.text_after_video, by which the tiny model goes."""
    monkeypatch.setattr(tiny.model, "text_after_video", request.param)
    return request.param


@pytest.fixture(scope="session")
def loaded_lora(tiny_folder: Path) -> ModelBundle:
    """Tiny model with an adapter that has some effect; not to be changed."""
    bundle = load(tiny_folder, tune="lora", lora=LoraSettings(r=4, alpha=8), offline=True)
    randomize_adapter(bundle.model)
    return bundle


@pytest.fixture
def lora(loaded_lora: ModelBundle) -> ModelBundle:
    """Fresh copy of the tiny model with an adapter: a quarter of the time of loading it."""
    return dataclasses.replace(loaded_lora, model=copy.deepcopy(loaded_lora.model))


@pytest.fixture(scope="session")
def ask(tiny: ModelBundle) -> Callable[..., Prompt]:
    """Build the prompt of a question about videos."""

    def build(text: str, *videos: VideoInputs) -> Prompt:
        ids = encode_prompt(tiny, text, [video.medium for video in videos])
        return Prompt(tuple(ids), tuple(video.key for video in videos))

    return build
