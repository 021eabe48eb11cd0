"""`vsgrpo merge`: an adapter becomes a folder that transformers loads alone."""

import json
import shutil
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_inputs import adapt
from transformers import AutoModelForImageTextToText, AutoProcessor

from vsgrpo.cli import run
from vsgrpo.data.lineage import lineage_of
from vsgrpo.data.manifest import TrainingManifest
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.families import FAMILIES
from vsgrpo.families.vision_record import read_vision
from vsgrpo.modeling.load import load
from vsgrpo.modeling.model_card import write_model_card
from vsgrpo.modeling.save import merge_adapter, merged_weights, save_model

pytestmark = pytest.mark.integration
VISION = {"num_frames": 4, "min_pixels": 3136, "max_pixels": 6272}


@pytest.fixture
def adapter(tiny_folder, tmp_path):
    """A saved adapter that changes the model."""
    bundle = load(tiny_folder, tune="lora")
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
    assert read_vision(out).budget == VISION
    assert (out / "training_manifest.json").is_file()
    assert (out / "README.md").read_text().startswith("---\nmodel_name: x\n")
    name = FAMILIES[plain.config.model_type].label
    assert f"A {name} model for" in (out / "README.md").read_text()
    assert f"An adapter (LoRA) of a {name} model for" in write_model_card(adapter).read_text()
    tokens = torch.arange(8).unsqueeze(0)
    with torch.no_grad():
        merged = plain(input_ids=tokens).logits
        unmerged = load(adapter).model(input_ids=tokens).logits
    assert torch.allclose(merged, unmerged, atol=1e-5)


def test_a_model_of_before_the_key_keeps_its_rule_wherever_it_goes(adapter, tiny_folder, tmp_path):
    assert read_vision(adapter).text_after_video == load(adapter).text_after_video == "published"
    file = adapter / "vision.json"
    content = json.loads(file.read_text())
    del content["text_after_video"]
    file.write_text(json.dumps(content))
    loaded = (
        load(adapter),
        load(tiny_folder, adapter),
        load(adapter, tune="lora"),
        load(tiny_folder, adapter, tune="full"),
    )
    assert [bundle.text_after_video for bundle in loaded] == ["library"] * 4
    assert load(adapter, text_after_video="published").text_after_video == "published"
    merge_adapter(adapter, tmp_path / "merged")
    assert read_vision(tmp_path / "merged").text_after_video == load(tmp_path / "merged").text_after_video == "library"
    assert "`model.text_after_video=library`" in (tmp_path / "merged" / "README.md").read_text()
    save_model(loaded[2], tmp_path / "next", merge=False, vision=VISION)
    assert read_vision(tmp_path / "next").text_after_video == "library"
    with pytest.raises(ConfigError, match="text_after_video=paper: not one of published, library"):
        load(adapter, text_after_video="paper")


def test_a_base_that_only_the_adapters_config_names_stays_in_the_lineage(adapter, tiny_folder, tmp_path):
    """Its own record says "trained on nothing", its base was trained on a benchmark room: so was the merged model."""
    base = shutil.copytree(tiny_folder, tmp_path / "base")
    leaky = TrainingManifest(rooms={"scannet": ["scene0025"]}, num_rows=1, name="leaky")
    (base / "training_manifest.json").write_text(json.dumps(asdict(leaky)))
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(base)}))
    merge_adapter(adapter, tmp_path / "merged")
    assert lineage_of(str(adapter)).leaked_rooms() == lineage_of(str(tmp_path / "merged")).leaked_rooms() != []


CARRIED = (
    {"modules_to_save": ["lm_head"]},
    {"modules_to_save": ["embed_tokens", "merger"]},
    {"bias": "all"},
    {"lora_bias": True},
    {"use_dora": True, "use_rslora": True},
    {"target_modules": "all-linear"},
    {"target_modules": ["lm_head", "embed_tokens"]},
    {"trainable_token_indices": {"embed_tokens": [1, 2]}},
)


def tie(folder):
    """Let the head of a model be its embedding, as in the 2B model."""
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = True
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("options", CARRIED, ids=str)
@pytest.mark.parametrize("tied", [False, True])
def test_everything_an_adapter_carries_survives(tiny_folder, tmp_path, options, tied):
    base = shutil.copytree(tiny_folder, tmp_path / "base")
    if tied:
        tie(base)
    adapt(base, tmp_path / "x", **options)
    config = json.loads((tmp_path / "x/adapter_config.json").read_text())
    (tmp_path / "x/adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(base)}))
    assert merge_adapter(tmp_path / "x", tmp_path / "merged") < 1e-4
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged").eval()
    tokens = torch.arange(8).unsqueeze(0)
    with torch.no_grad():
        merged = plain(input_ids=tokens).logits
        unmerged = load(tmp_path / "x").model(input_ids=tokens).logits
    torch.testing.assert_close(merged, unmerged, atol=1e-4, rtol=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "merged", "x"]


def test_bfloat16_rounds_the_sum_once(adapter, tmp_path):
    merge_adapter(adapter, tmp_path / "exact")
    merge_adapter(adapter, tmp_path / "rounded", "bfloat16")
    exact, rounded = (load_file(tmp_path / name / "model.safetensors") for name in ("exact", "rounded"))
    assert exact.keys() == rounded.keys()
    assert all(torch.equal(rounded[name], tensor.to(torch.bfloat16)) for name, tensor in exact.items())
    files = {path.name for path in (tmp_path / "exact").iterdir()}
    assert files == {path.name for path in (tmp_path / "rounded").iterdir()} >= {"README.md", "vision.json"}


def test_a_merge_that_answers_otherwise_publishes_nothing(adapter, tmp_path, monkeypatch, capsys):
    def drop_part(model):
        return {name: t * 1.01 if "layers.1.mlp.up_proj" in name else t for name, t in merged_weights(model).items()}

    monkeypatch.setattr("vsgrpo.modeling.save.merged_weights", drop_part)
    assert run(["merge", str(adapter), f"output={tmp_path / 'merged'}"]) == 2
    error = capsys.readouterr().err
    assert "merged into its base it answers otherwise" in error and "nothing was written" in error
    assert not [path for path in tmp_path.iterdir() if "merged" in path.name]


@pytest.mark.parametrize("at", ["model_card.write_model_card", "load.load"])
def test_a_merge_that_ends_before_its_card_leaves_no_folder(adapter, tmp_path, monkeypatch, at):
    def stop(*_, **options):
        if at == "load.load" and options.get("device") != "meta":  # the loads before the last check
            return load(*_, **options)
        assert not (tmp_path / "merged").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(f"vsgrpo.modeling.{at}", stop)
    with pytest.raises(KeyboardInterrupt):
        merge_adapter(adapter, tmp_path / "merged")
    assert not [path for path in tmp_path.iterdir() if "merged" in path.name]


def test_half_an_adapter_is_not_merged(adapter, tmp_path, capsys):
    tensors = load_file(adapter / "adapter_model.safetensors")
    half = {name: tensor.clone() for name, tensor in list(tensors.items())[:5]}
    save_file(half, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    assert run(["merge", str(adapter), f"output={tmp_path / 'merged'}"]) == 2
    assert "23 missing (base_model.model." in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()


def test_what_is_no_adapter_or_would_be_overwritten_is_refused(adapter, tiny_folder, tmp_path, capsys):
    with pytest.raises(DataError, match="no adapter_config"):
        merge_adapter(tiny_folder, tmp_path / "merged")
    with pytest.raises(DataError, match="exists"):
        merge_adapter(adapter, adapter)
    assert run(["merge", str(adapter), "merged"]) == 2
    assert "not output=DIR" in capsys.readouterr().err
