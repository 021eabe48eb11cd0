"""An adapter knows the weights it was trained on, and is refused on others."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_inputs import randomize_adapter

from vsgrpo.errors import DataError
from vsgrpo.modeling import adapters
from vsgrpo.modeling.adapters import adapter_hash, base_identity
from vsgrpo.modeling.load import LoraSettings, load
from vsgrpo.modeling.save import save_model

LORA = LoraSettings(r=2, alpha=4)


@pytest.fixture
def base(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "base")


@pytest.fixture
def adapter(base, tmp_path):
    bundle = load(base, tune="lora", lora=LORA)
    randomize_adapter(bundle.model)
    save_model(bundle, tmp_path / "first", merge=False)
    return tmp_path / "first"


def change(folder, name, index, amount=1.0):
    tensors = {key: tensor.clone() for key, tensor in load_file(folder / "model.safetensors").items()}
    tensors[name].view(-1)[index] += amount
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def hash_of(folder):
    return base_identity(str(folder), load(folder).model.config)


def test_one_number_of_any_tensor_changes_the_identity_and_a_copy_does_not(base, tmp_path):
    before = hash_of(base)
    copy = shutil.copytree(base, tmp_path / "elsewhere")
    assert hash_of(copy) == before
    for name in ("lm_head.weight", "visual.merger.mlp.0.bias"):
        change(copy, name, 7, 0.001)
        after = hash_of(copy)
        assert after.weights != before.weights and after.config == before.config
        before = after


@pytest.mark.integration
def test_shards_are_the_same_weights(base):
    before = hash_of(base)
    model = load(base).model
    model.save_pretrained(base / "parts", max_shard_size="1MB")
    (base / "model.safetensors").unlink()
    for file in (base / "parts").glob("model*"):
        file.rename(base / file.name)
    assert len(list(base.glob("*.safetensors"))) > 1
    assert hash_of(base) == before


@pytest.mark.integration
def test_a_base_in_a_bin_file_of_either_format_carries_an_adapter(base, tmp_path):
    tensors = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    found = []
    for number, is_zip in enumerate((True, False)):  # the second as torch wrote it before 1.6: no zip file
        torch.save(tensors, base / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip)
        bundle = load(base, tune="lora", lora=LORA)
        save_model(bundle, tmp_path / str(number), merge=False)
        load(tmp_path / str(number))
        found.append(json.loads((tmp_path / str(number) / "base.json").read_text())["weights"])
    assert found[0] == found[1]


def test_blocks_of_a_large_tensor_begin_and_end_with_it():
    size = adapters.WHOLE_BYTES + 1
    blocks = adapters._blocks(size)
    assert len(blocks) == 16 and blocks[0][0] == 0 and blocks[-1][1] == size
    assert all(end - start == 4096 for start, end in blocks)
    assert adapters._blocks(size - 1) == [(0, size - 1)]


@pytest.mark.integration
@pytest.mark.parametrize(
    ("key", "value"), [("num_attention_heads", 2), ("rms_norm_eps", 1e-3), ("hidden_act", "gelu"), ("rope_theta", 1e4)]
)
def test_a_config_that_makes_another_model_of_the_same_weights_is_another_base(base, adapter, key, value):
    config = json.loads((base / "config.json").read_text())
    text = config["text_config"]
    (text["rope_parameters"] if key == "rope_theta" else text)[key] = value
    text |= {"num_key_value_heads": 1, "head_dim": 48} if key == "num_attention_heads" else {}
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=r"has other values in config\.json"):
        load(adapter)


def test_an_adapter_on_a_base_that_was_replaced_is_refused_with_the_way_out(base, adapter, caplog):
    load(adapter)
    change(base, "lm_head.weight", 0)
    uses = (
        lambda: load(adapter),
        lambda: load(adapter, tune="lora", lora=LORA),
        lambda: load(base, adapter=adapter, tune="none"),
        lambda: load(base, adapter),
        lambda: load(adapter, device="meta"),
    )
    for use in uses:
        with pytest.raises(DataError, match=r"first: trained on .*base; .*base has other weights") as caught:
            use()
        assert "model.adapter=" in caught.value.hint and "delete base.json" in caught.value.hint
    assert not caplog.records
    (adapter / "base.json").unlink()
    load(adapter)
    assert [record.getMessage() for record in caplog.records] == [
        f"{adapter}: no base.json in it: not checked whether {base} is the model it was trained on"
    ]


def test_a_base_that_moved_is_the_same_one(base, adapter, tmp_path):
    moved = base.rename(tmp_path / "moved")
    load(moved, adapter)
    with pytest.raises(DataError, match="no such folder"):
        load(adapter)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", r"'\[\]': must be an object"),
        ('{"schema_version": 9}', "schema_version=9"),
        ('{"schema_version": 1, "base": "x"}', "weights: is missing"),
    ],
)
def test_a_broken_record_is_named(adapter, content, message):
    (adapter / "base.json").write_text(content)
    with pytest.raises(DataError, match=rf"base\.json: {message}"):
        load(adapter)


@pytest.fixture
def second(adapter, tmp_path):
    """An adapter trained after the first one."""
    bundle = load(adapter, tune="lora", lora=LORA)
    randomize_adapter(bundle.model, seed=2)
    save_model(bundle, tmp_path / "second", merge=False)
    return tmp_path / "second"


def logits_of(bundle):
    with torch.no_grad():
        return bundle.model(input_ids=torch.arange(8)[None]).logits


def test_a_chain_gives_one_result_however_it_is_named(base, adapter, second):
    expected = logits_of(load(second))
    assert not torch.equal(expected, logits_of(load(adapter)))
    for path in (base, adapter):
        assert torch.equal(logits_of(load(path, second)), expected)
        start = load(path, adapter=second, tune="lora", lora=LORA)
        torch.testing.assert_close(logits_of(start), expected, atol=1e-5, rtol=1e-5)
        assert len(start.earlier_adapters) == 2


@pytest.mark.integration
def test_a_chain_that_lost_or_changed_a_link_is_refused(base, adapter, second, tmp_path):
    earlier = second / "earlier_adapters"
    with pytest.raises(DataError, match=r"second: was not trained on .*|first: was not trained on"):
        load(second, adapter)
    (earlier / "0").rename(earlier / "1")
    with pytest.raises(DataError, match=r"earlier_adapters: holds 1, needed are 0, 1, \.\.\. without gaps"):
        load(second)
    (earlier / "1").rename(earlier / "x")
    with pytest.raises(DataError, match="holds x"):
        load(second)
    kept = (earlier / "x").rename(tmp_path / "kept")
    with pytest.raises(DataError, match="trained on a base with 1 earlier adapter in it; found here: 0"):
        load(second)
    kept.rename(earlier / "0")
    other = load(base, tune="lora", lora=LORA)
    randomize_adapter(other.model, seed=5)
    save_model(other, tmp_path / "other", merge=False)
    shutil.copyfile(tmp_path / "other/adapter_model.safetensors", earlier / "0/adapter_model.safetensors")
    assert adapter_hash(earlier / "0") != adapter_hash(adapter)
    with pytest.raises(DataError, match="found here: 1 others"):
        load(second)


@pytest.mark.integration
def test_an_earlier_adapter_that_changed_while_a_run_trained_is_not_copied(base, adapter, tmp_path):
    bundle = load(adapter, tune="lora", lora=LORA)
    randomize_adapter(bundle.model, seed=2)
    expected = logits_of(bundle)
    other = load(base, tune="lora", lora=LORA)
    randomize_adapter(other.model, seed=5)
    save_model(other, adapter, merge=False)
    save_model(bundle, tmp_path / "late", merge=False)
    assert (tmp_path / "late" / "config.json").is_file()  # merged: the adapter alone would be another model
    torch.testing.assert_close(logits_of(load(tmp_path / "late")), expected, atol=1e-5, rtol=1e-5)
