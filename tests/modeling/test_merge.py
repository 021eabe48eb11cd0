"""`vsgrpo merge`: an adapter becomes a folder that transformers loads alone."""

import json
from dataclasses import asdict

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from vsgrpo.cli import run
from vsgrpo.config.families import FAMILIES
from vsgrpo.data.leakage import TrainingManifest
from vsgrpo.errors import DataError
from vsgrpo.modeling.merge import merge_adapter
from vsgrpo.modeling.model import load_for_eval, load_model, save_model
from vsgrpo.modeling.model_card import write_model_card
from vsgrpo.modeling.save import read_vision

pytestmark = pytest.mark.integration
VISION = {"num_frames": 4, "min_pixels": 3136, "max_pixels": 6272}


@pytest.fixture
def adapter(tiny_folder, tmp_path):
    """A saved adapter that changes the model."""
    bundle = load_model(tiny_folder, tune="lora")
    with torch.no_grad():
        for name, parameter in bundle.model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.01)
    save_model(bundle, tmp_path / "adapter", merge=False, vision=VISION)
    (tmp_path / "adapter" / "training_manifest.json").write_text(json.dumps(asdict(TrainingManifest(name="x"))))
    return tmp_path / "adapter"


@pytest.mark.both_families
def test_merged_folder_loads_in_transformers_and_says_the_same(adapter, tmp_path, capsys):
    out = tmp_path / "merged"
    assert run(["merge", str(adapter), f"output={out}"]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    plain = AutoModelForImageTextToText.from_pretrained(out).eval()
    assert AutoProcessor.from_pretrained(out).chat_template
    assert read_vision(out) == VISION
    assert (out / "training_manifest.json").is_file()
    assert (out / "README.md").read_text().startswith("---\nmodel_name: x\n")
    name = FAMILIES[plain.config.model_type]
    assert f"A {name} model for" in (out / "README.md").read_text()
    assert f"An adapter (LoRA) of a {name} model for" in write_model_card(adapter).read_text()
    tokens = torch.arange(8).unsqueeze(0)
    with torch.no_grad():
        merged = plain(input_ids=tokens).logits
        unmerged = load_for_eval(adapter).model(input_ids=tokens).logits
    assert torch.allclose(merged, unmerged, atol=1e-5)


def test_what_is_no_adapter_or_would_be_overwritten_is_refused(adapter, tiny_folder, tmp_path, capsys):
    with pytest.raises(DataError, match="no adapter_config"):
        merge_adapter(tiny_folder, tmp_path / "merged")
    with pytest.raises(DataError, match="exists"):
        merge_adapter(adapter, adapter)
    assert run(["merge", str(adapter), "merged"]) == 2
    assert "not output=DIR" in capsys.readouterr().err
