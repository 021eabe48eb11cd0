"""One place reads weights, and it reads all of a model or names what is missing."""

import ast
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_inputs import adapt, randomize_adapter

from vsgrpo.data.inputs import model_folders
from vsgrpo.errors import DataError
from vsgrpo.families import FAMILIES
from vsgrpo.modeling import weights
from vsgrpo.modeling.load import LoraSettings, load
from vsgrpo.modeling.save import save_model
from vsgrpo.modeling.weights import attach_adapter, load_full

SRC = Path(__file__).parents[2] / "src" / "vsgrpo"
READERS = {
    "from_pretrained",
    "load_peft_weights",
    "load_adapter",
    "set_peft_model_state_dict",
    "load_file",
    "safe_open",
}
NAMES = {*READERS, "load_state_dict"}
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


def calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", ""), node


def test_nothing_else_reads_weights():
    for path in sorted(SRC.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if path.relative_to(SRC).as_posix() == "modeling/weights.py" or not any(name in text for name in NAMES):
            continue
        for name, node in calls(ast.parse(text)):
            where = f"{path}:{node.lineno}: {name}"
            assert name not in READERS, f"{where}: weights are read in modeling/weights.py only"
            lax = [k for k in node.keywords if k.arg == "strict" and getattr(k.value, "value", True) is False]
            assert name != "load_state_dict" or not lax, f"{where}: what does not fit would be skipped"


def compare(path):
    """Compare names and shapes with the files, without reading a weight."""
    return load(path, offline=True, device="meta")


def weights_of(folder):
    return load_file(folder / "model.safetensors")


@pytest.fixture
def broken(tiny_folder, tmp_path):
    """Copy the tiny model with changed tensors (by their names in the file) and config."""

    def make(change=lambda tensors: tensors, **config):
        folder = tmp_path / "model"
        shutil.copytree(tiny_folder, folder)
        save_file(change(weights_of(folder)), folder / "model.safetensors", metadata={"format": "pt"})
        if config:
            values = json.loads((folder / "config.json").read_text())
            values["text_config"] |= config
            values |= {key: value for key, value in config.items() if key == "tie_word_embeddings"}
            (folder / "config.json").write_text(json.dumps(values))
        return folder

    return make


def without(*parts):
    return lambda tensors: {n: t for n, t in tensors.items() if not any(part in n for part in parts)}


@pytest.mark.parametrize(
    ("change", "config", "message", "hint"),
    [
        (without("lm_head", "layers.0.mlp.up"), {}, r"2 missing \(lm_head\.weight, model\.l\S+\.layers", "copy"),
        (without("visual.merger"), {}, r"6 missing \(model\.visual\.merger\S*, .*, \.\.\.\)", "copy"),
        (lambda t: {f"module.{n}": v for n, v in t.items()}, {}, "46 not of this model", "begin with module.: it"),
        (lambda t: {f"base_model.model.{n}": v for n, v in t.items()}, {}, "46 missing", "begin with base_model"),
        (lambda t: {**t, "value_head.weight": torch.zeros(1, 96)}, {}, r"1 not of this model \(value_head", "copy"),
        (lambda t: {**t, Q_PROJ: torch.zeros(3, 5)}, {}, r"1 of another shape \(.*q_proj.weight: \[3, 5\] in the", ""),
        (lambda t: t, {"vocab_size": 900}, r"2 of another shape \(lm_head.*\[826, 96\] in the file, \[900, 96\]", ""),
        (lambda t: t, {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3}, "12 missing", ""),
        (lambda t: t, {"num_hidden_layers": 1, "layer_types": ["full_attention"]}, "12 not of this model", ""),
        (lambda t: {**t, "model.layers.0.self_attn.q_proj.lora_A.weight": torch.zeros(4, 96)}, {}, "lora_A", "adapter"),
    ],
)  # fmt: skip
def test_a_model_that_is_not_whole_is_refused_with_the_first_names(broken, change, config, message, hint):
    folder = broken(change, **config)
    for use in (load, compare):
        with pytest.raises(DataError, match=message) as caught:
            use(str(folder))
        assert str(folder) in caught.value.message and "\n" not in caught.value.message
        assert hint in caught.value.hint


def test_weights_that_are_no_numbers_are_refused(broken):
    folder = broken(lambda tensors: {**tensors, "lm_head.weight": tensors["lm_head.weight"] * float("nan")})
    with pytest.raises(DataError, match=r"1 tensor holds values that are no numbers \(lm_head\.weight\)"):
        load(str(folder))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.json", "[1]", "config.json: .*: must be an object"),
        ("config.json", '{"a', "config.json: not JSON"),
        ("tokenizer.json", "{}", "broken processor or config.json: KeyError"),
        ("processor_config.json", "[]", "broken processor or config.json: AttributeError"),
        ("chat_template.jinja", "{% if", "broken chat template: unexpected 'end of template'"),
    ],
)
def test_other_files_of_a_model_that_are_broken_are_named(broken, file, text, message):
    folder = broken()
    (folder / file).write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        load(str(folder))
    assert str(folder) in caught.value.message and "hub" not in caught.value.message


@pytest.mark.parametrize(
    ("base", "message"), [(5, "names no base model"), ("gone/to/x", "no such folder"), ("{here}", "no config.json in")]
)
def test_an_adapter_whose_base_is_none_names_its_own_file(tmp_path, base, message):
    text = json.dumps({"base_model_name_or_path": str(tmp_path) if base == "{here}" else base})
    (tmp_path / "adapter_config.json").write_text(text)
    assert model_folders(tmp_path) == [tmp_path]
    with pytest.raises(DataError, match=rf"adapter_config\.json: .*{message}"):
        load(str(tmp_path))


@pytest.mark.integration
def test_a_head_that_is_tied_needs_no_tensor_and_one_that_differs_is_kept(broken, tmp_path):
    folder = broken(without("lm_head"), tie_word_embeddings=True)
    inner = load(folder).model
    assert inner.lm_head.weight is inner.model.language_model.embed_tokens.weight
    tensors = weights_of(folder)
    head = torch.randn(tensors["model.embed_tokens.weight"].shape)
    save_file({**tensors, "lm_head.weight": head}, folder / "model.safetensors", metadata={"format": "pt"})
    untied = load(folder)
    assert torch.equal(untied.model.lm_head.weight, head)
    save_model(untied, tmp_path / "again", merge=False)
    assert torch.equal(load(tmp_path / "again").model.lm_head.weight, head)


def split(folder, drop=None):
    """Write the weights of a folder as two shards with their index."""
    tensors = weights_of(folder)
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for name, part in shards.items():
        save_file({n: tensors[n] for n in part}, folder / name, metadata={"format": "pt"})
    where = {n: name for name, part in shards.items() for n in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


@pytest.mark.integration
def test_files_that_are_missing_or_cut_off_are_refused(broken):
    folder = split(broken())
    # Copies: the loaded ones are mapped from the files that are damaged next.
    expected = {name: tensor.clone() for name, tensor in load(folder).model.state_dict().items()}
    shard = folder / "model-00002-of-00002.safetensors"
    content = shard.read_bytes()
    for damage in (lambda: shard.write_bytes(content[:-400]), lambda: shard.write_bytes(content[:100]), shard.unlink):
        damage()
        for use in (load, compare):
            with pytest.raises(DataError, match="weights are missing or broken") as caught:
                use(str(folder))
            assert "\n" not in caught.value.message
    for name in folder.glob("model*"):
        name.unlink()
    torch.save(expected, folder / "pytorch_model.bin")
    found = load(folder).model.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    (folder / "pytorch_model.bin").write_bytes(b"no pickle at all")
    with pytest.raises(DataError, match="weights are missing or broken"):
        load(folder)


def test_quantised_weights_and_a_folder_of_two_kinds_are_refused(broken):
    folder = broken()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "awq"}}))
    with pytest.raises(DataError, match=r"quantised \(awq\), which is not supported"):
        load(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(DataError, match=r"config\.json and adapter_config\.json are both in this folder"):
        load(folder)


def logits_of(bundle):
    with torch.no_grad():
        return bundle.model(input_ids=torch.arange(8)[None]).logits


KINDS = (
    {},
    {"use_dora": True},
    {"use_rslora": True},
    {"bias": "all"},
    {"lora_bias": True},
    {"modules_to_save": ["lm_head"]},
    {"modules_to_save": ["embed_tokens", "merger"]},
    {"target_modules": "all-linear"},
    {"target_modules": ["embed_tokens", "q_proj"]},
    {"trainable_token_indices": {"embed_tokens": [1, 2]}},
    {"rank_pattern": {"q_proj": 2}},
)


@pytest.mark.integration
@pytest.mark.both_families
@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_adapters_of_every_lora_kind_load_whole(tiny_folder, tmp_path, options, caplog):
    expected = adapt(tiny_folder, tmp_path / "x", **options)
    found = load(tiny_folder, tmp_path / "x")
    assert torch.equal(logits_of(found), expected)
    assert caplog.text.count("no base.json in it") == 1


def rewrite(folder, change):
    file = folder / "adapter_model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in change(load_file(file)).items()}
    save_file(tensors, file, metadata={"format": "pt"})


def older(name):
    """Return the name before transformers 4.52: the language model was `model`, the tower `visual` beside it."""
    return name.replace("model.model.language_model.", "model.model.").replace("model.model.visual.", "model.visual.")


@pytest.mark.integration
@pytest.mark.both_families
@pytest.mark.parametrize(
    "options", [{}, {"target_modules": ["q_proj", "qkv"], "modules_to_save": ["lm_head", "merger"]}]
)
def test_names_before_transformers_4_52_are_read_under_todays(tiny_folder, tmp_path, options):
    expected = adapt(tiny_folder, tmp_path / "x", **options)
    rewrite(tmp_path / "x", lambda tensors: {older(name): tensor for name, tensor in tensors.items()})
    names = set(load_file(tmp_path / "x" / "adapter_model.safetensors"))
    assert any(
        re.fullmatch(r"base_model\.model\.model\.layers\.\d+\.self_attn\.q_proj\.lora_A\.weight", n) for n in names
    )
    assert torch.equal(logits_of(load(tiny_folder, tmp_path / "x")), expected)


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        (lambda t: dict(list(t.items())[:4]), {}, r"4 missing \(base_model\S+"),
        (lambda t: {}, {}, "8 missing"),
        (
            lambda t: {**t, "base_model.model.score.weight": torch.zeros(2)},
            {},
            r"1 not of this model \(base_model",
        ),
        (lambda t: {f"module.{n}": v for n, v in t.items()}, {}, "8 missing .*8 not of this model"),
        (lambda t: {n: v.fill_(float("inf")) for n, v in t.items()}, {}, "8 tensors hold values that are no numbers"),
        (lambda t: {n: torch.zeros(2, 2) for n in t}, {}, r"8 of another shape \(\S+: \[2, 2\] in the file, \[4, 96\]"),
        (lambda t: t, {"r": 8}, "8 of another shape"),
        (lambda t: t, {"target_modules": ["q_proj", "k_proj"]}, "4 missing .*4 not of this model"),
        (lambda t: t, {"target_modules": ["q_proj"]}, "4 not of this model"),
        (lambda t: t, {"target_modules": ["c_attn"]}, "does not fit its base model: Target modules"),
        (lambda t: t, {"modules_to_save": ["lm_head"]}, r"1 missing \(base_model\.model\.lm_head\.weight\)"),
        (lambda t: t, {"use_dora": True}, "4 missing .*magnitude"),
        (lambda t: t, {"peft_type": "IA3"}, "peft_type=IA3: only LORA"),
        (lambda t: t, {"init_lora_weights": "pissa_niter_4"}, "changes the model's own weights"),
        (
            lambda t: {older(n): v for n, v in t.items()},
            {"target_modules": r"model\.layers\.\d+\.self_attn\.(q|v)_proj"},
            "written for the layer names of transformers before 4.52",
        ),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_with_the_first_names(tiny_folder, tmp_path, change, config, message):
    folder = tmp_path / "x"
    adapt(tiny_folder, folder)
    rewrite(folder, change)
    values = json.loads((folder / "adapter_config.json").read_text()) | config
    (folder / "adapter_config.json").write_text(json.dumps({**values, "base_model_name_or_path": str(tiny_folder)}))
    for use in (load, compare):
        with pytest.raises(DataError, match=message) as caught:
            use(str(folder))
        assert str(folder) in caught.value.message and "\n" not in caught.value.message and caught.value.hint
    with pytest.raises(DataError, match=message):
        load(tiny_folder, adapter=folder)


@pytest.mark.integration
@pytest.mark.parametrize("damage", [lambda f: f.unlink(), lambda f: f.write_bytes(f.read_bytes()[:-9])])
def test_adapter_files_that_are_missing_or_broken_are_named(tiny_folder, tmp_path, damage):
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        folder = tmp_path / name
        adapt(tiny_folder, folder)
        damage(folder / name)
        with pytest.raises(DataError, match=name):
            load(tiny_folder, folder)


@pytest.mark.integration
def test_a_bin_file_is_an_adapter_too_and_survives_as_an_earlier_one(tiny_folder, tmp_path):
    expected = adapt(tiny_folder, tmp_path / "x")
    tensors = load_file(tmp_path / "x" / "adapter_model.safetensors")
    (tmp_path / "x" / "adapter_model.safetensors").unlink()
    torch.save(tensors, tmp_path / "x" / "adapter_model.bin")
    second = load(tiny_folder, adapter=tmp_path / "x", tune="lora", lora=LoraSettings(r=2))
    torch.testing.assert_close(logits_of(second), expected)
    save_model(second, tmp_path / "y", merge=False)
    torch.testing.assert_close(logits_of(load(tmp_path / "y")), expected)


def test_loading_an_adapter_draws_no_random_numbers(tiny_folder, tmp_path):
    adapt(tiny_folder, tmp_path / "x")
    family = json.loads((tiny_folder / "config.json").read_text())["model_type"]
    model = load_full(FAMILIES[family].model, tiny_folder, dtype=torch.float32)
    before = torch.get_rng_state()
    attach_adapter(model, tmp_path / "x")
    assert torch.equal(torch.get_rng_state(), before)


def test_an_adapters_tensors_are_read_once(tiny_folder, tmp_path, monkeypatch):
    adapt(tiny_folder, tmp_path / "x")
    family = json.loads((tiny_folder / "config.json").read_text())["model_type"]
    model = load_full(FAMILIES[family].model, tiny_folder, dtype=torch.float32)
    reads = []
    real = weights.load_peft_weights
    monkeypatch.setattr(weights, "load_peft_weights", lambda *a, **k: (reads.append(a), real(*a, **k))[1])
    attach_adapter(model, tmp_path / "x")
    assert reads == [(str(tmp_path / "x"),)]


@pytest.mark.integration
@pytest.mark.parametrize("options", [{}, {"target_modules": ["lm_head", "embed_tokens"]}], ids=str)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_adapter_merged_before_training_counts_in_full(broken, tmp_path, options):
    folder = broken(without("lm_head"), tie_word_embeddings=True)
    expected = adapt(folder, tmp_path / "x", **options)
    started = load(folder, adapter=tmp_path / "x", tune="lora", lora=LoraSettings(r=2))
    torch.testing.assert_close(logits_of(started), expected, atol=1e-4, rtol=1e-4)
    randomize_adapter(started.model)
    before = logits_of(started)
    save_model(started, tmp_path / "full", merge=True)
    torch.testing.assert_close(logits_of(load(tmp_path / "full")), before, atol=1e-4, rtol=1e-4)
    assert torch.equal(logits_of(started), before)
