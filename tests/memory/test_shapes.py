"""Parameter counts from sizes alone, against the models themselves and the public figures."""

import json

import pytest

from vsgrpo.families import HUB, check_architecture, family_of, model_shape


def test_public_parameter_counts():
    # 2B by hand. Layer: q 1536^2 + 1536, k and v 2 (1536 x 256 + 256), o 1536^2, MLP 3 x 1536 x 8960, norms 2 x 1536
    # = 46,797,824; x 28 + embedding 151936 x 1536 + norm 1536 = 1,543,714,304. Tower 665,271,296 with its merger.
    # The first four equal the sum of the tensors in the published safetensors files (total_size / 2 bytes).
    found = {name.rpartition("/")[2]: shape.num_parameters() for name, shape in HUB.items()}
    assert found == {
        "Qwen2-VL-2B-Instruct": 2_208_985_600,
        "Qwen2-VL-7B-Instruct": 8_291_375_616,
        "Qwen2.5-VL-3B-Instruct": 3_754_622_976,
        "Qwen2.5-VL-7B-Instruct": 8_292_166_656,
        **{f"Qwen3-VL-2B-{kind}": 2_127_532_032 for kind in ("Instruct", "Thinking")},
        **{f"Qwen3-VL-4B-{kind}": 4_437_815_808 for kind in ("Instruct", "Thinking")},
        **{f"Qwen3-VL-8B-{kind}": 8_767_123_696 for kind in ("Instruct", "Thinking")},
        "Qwen3.5-2B": 2_213_241_664,
        "Qwen3.5-4B": 4_539_265_536,
    }
    shape = HUB["Qwen/Qwen2-VL-2B-Instruct"]
    assert (shape.language_parameters(), shape.tower.num_parameters()) == (1_543_714_304, 665_271_296)


def test_lora_counts_inputs_and_outputs_of_each_target():
    shape = HUB["Qwen/Qwen2-VL-2B-Instruct"]
    # r 64: q (1536 + 1536), v (1536 + 256) per layer: 64 x 4864 x 28
    assert shape.lora_parameters(64, ["q_proj", "v_proj"]) == 64 * 4864 * 28


@pytest.mark.parametrize(
    "name", ["Qwen/Qwen2-VL-7B-Instruct", "Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen3-VL-8B-Instruct"]
)
def test_counts_equal_the_models_built_without_storage(name):
    import torch
    import transformers

    family = "Qwen2_5_VL" if "2.5" in name else "Qwen3VL" if "Qwen3" in name else "Qwen2VL"
    shape = HUB[name]
    tower = {"depth": 32, "num_heads": 16}
    if family == "Qwen3VL":
        tower |= {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "out_hidden_size": shape.hidden}
    else:
        tower |= (
            {"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": shape.hidden}
            if shape.tower.gated
            else {"embed_dim": 1280, "mlp_ratio": 4, "hidden_size": shape.hidden}
        )
    text = {
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.mlp,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
    }
    config = getattr(transformers, f"{family}Config")(
        text_config=text, vision_config=tower, tie_word_embeddings=shape.tied
    )
    with torch.device("meta"):
        model = getattr(transformers, f"{family}ForConditionalGeneration")(config)
    model.tie_weights()
    assert sum(parameter.numel() for parameter in model.parameters()) == shape.num_parameters()
    assert check_architecture(config.to_dict()).shape_of(config.to_dict()) == shape


@pytest.mark.both_families
def test_the_tiny_model_to_the_last_parameter(tiny_folder):
    from safetensors.torch import load_file

    shape = model_shape(str(tiny_folder))
    known = {
        "qwen2_vl": ("tiny", 578_048),
        "qwen2_5_vl": ("tiny_2_5", 611_328),
        "qwen3_vl": ("tiny_3", 933_568),
        "qwen3_5": ("tiny_3_5", 883_448),
    }
    name, count = known[family_of(str(tiny_folder)).model_type]
    assert shape == model_shape(name)
    assert sum(weight.numel() for weight in load_file(tiny_folder / "model.safetensors").values()) == count
    assert shape.num_parameters() == count


def test_older_config_files_have_the_text_values_at_their_top(tmp_path):
    sizes = {
        "model_type": "qwen2_vl",
        "vocab_size": 151936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "vision_config": {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4, "hidden_size": 1536},
    }
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    assert model_shape(str(tmp_path)) == HUB["Qwen/Qwen2-VL-2B-Instruct"]
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path)}))
    assert model_shape(str(adapter)) == HUB["Qwen/Qwen2-VL-2B-Instruct"]
    assert model_shape("someone/other") is None
