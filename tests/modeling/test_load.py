import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tiny_inputs import QWEN3, make_video, randomize_adapter
from transformers import AutoModelForImageTextToText

from vsgrpo.errors import ConfigError, DataError
from vsgrpo.families import find_model
from vsgrpo.families.vision_record import read_vision, write_vision
from vsgrpo.modeling.bundle import base_model, use_gradient_checkpointing
from vsgrpo.modeling.load import LoraSettings, load
from vsgrpo.modeling.logps import logps
from vsgrpo.modeling.prompt import encode_prompt
from vsgrpo.modeling.rollout import rollout
from vsgrpo.modeling.sampling import Sampling
from vsgrpo.modeling.save import save_model
from vsgrpo.modeling.tree import build_trees
from vsgrpo.modeling.vision import FeatureStore
from vsgrpo.modeling.weights import read_config

LORA = LoraSettings(r=4, alpha=8)
VISION = {"num_frames": 8, "min_pixels": 3136, "max_pixels": 100352}


def behaviour(bundle, ask):
    """Greedy tokens and log-probs on one video: what a reloaded model must reproduce."""
    video = make_video(0)
    prompt = ask("How many chair(s) are in this room?", video)
    features = FeatureStore(bundle).features([video])
    greedy = Sampling(seed=0, step=0, max_new_tokens=8, eos_ids=(), greedy=True)
    (tokens,) = rollout(bundle.model, [prompt], features, [("row", 0)], greedy)
    with torch.no_grad():
        ((scores, _),) = logps(bundle.model, build_trees([prompt], [[[40, 41, 42, 43]]], False), features)
    return tokens, scores


def assert_same_behaviour(one, other):
    assert one[0] == other[0]
    torch.testing.assert_close(one[1], other[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("model_type", "missing"),
    [
        ("qwen3_vl_moe", " (missing: a router whose"),
        ("qwen4_exp", " (missing: a prefix tree for indexed attention"),
        ("internvl", " (missing: prompts of image tiles"),
        ("llama", ", only qwen2_vl, qwen2_5_vl, qwen3_vl, qwen3_5"),
        (None, ", only"),
    ],
)
def test_other_architectures_are_refused_by_name_before_any_weight_is_read(tmp_path, model_type, missing):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(ConfigError) as caught:
        load(folder, offline=True)
    assert f"architecture {model_type} is not supported{missing}" in caught.value.message
    assert str(folder) in caught.value.message and "\n" not in caught.value.message
    assert caught.value.hint == "use a Qwen2-VL or Qwen2.5-VL or Qwen3-VL or Qwen3.5 model, e.g. model=qwen2_vl_2b"


@pytest.mark.parametrize(
    ("missing", "rule"),
    [
        ("config.json", "neither config.json nor adapter_config.json in this folder"),
        ("processor_config.json", "no processor in this folder"),
        ("tokenizer.json", "no processor in this folder"),
        ("chat_template.jinja", "no chat template"),
        ("model.safetensors", "weights are missing"),
    ],
)
def test_an_incomplete_folder_is_refused(tiny_folder, tmp_path, missing, rule):
    folder = tmp_path / "a model=1"
    shutil.copytree(tiny_folder, folder)
    (folder / missing).unlink()
    with pytest.raises(DataError, match=rule) as caught:
        load(folder, offline=True)
    assert "\n" not in caught.value.message and "\n" not in caught.value.hint


def test_a_model_without_config_is_said_to_have_none(tmp_path):
    with pytest.raises(DataError, match=r"no config\.json there"):
        read_config(str(tmp_path), offline=True)


@pytest.mark.parametrize(
    ("name", "content", "rule"),
    [
        ("tokenizer.json", "[]", "broken processor"),
        ("tokenizer.json", '{"added_tokens": [], "model": 3}', "broken processor"),
        ("tokenizer_config.json", "null", "broken processor"),
        ("processor_config.json", "3", "broken processor"),
        ("processor_config.json", {"video_processor": {"rescale_factor": "x"}}, "rescale_factor='x': must be"),
        ("processor_config.json", {"image_processor": {"patch_size": [14]}}, "patch_size="),
        ("config.json", {"vision_start_token_id": {}}, "broken processor or config"),
        ("config.json", {"text_config": {"hidden_act": 3}}, "broken processor or config"),
        ("config.json", {"video_token_id": 10**25}, "video_token_id=1"),
        ("config.json", {"image_token_id": 7}, "image_token_id=7: its tokenizer has"),
    ],
)
def test_what_the_libraries_raise_on_a_broken_file_is_one_line(tiny_folder, tmp_path, name, content, rule):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    if isinstance(content, dict):
        file = json.loads((folder / name).read_text())
        for key, value in content.items():
            file[key] = {**file[key], **value} if isinstance(value, dict) and value else value
        content = json.dumps(file)
    (folder / name).write_text(content)
    with pytest.raises(DataError, match=rule) as caught:
        load(folder, offline=True)
    assert caught.value.message.startswith(f"model.path={folder}") and "\n" not in caught.value.message


@pytest.mark.both_families
def test_files_as_the_hub_has_them_are_the_same_model(tiny, tiny_folder, ask, tmp_path):
    folder = tmp_path / "hub"
    shutil.copytree(tiny_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    text, is_3 = config.pop("text_config"), tiny.family.model_type in QWEN3
    rope = text.pop("rope_parameters")
    text.pop("layer_types", None)
    scaling = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    if is_3:
        scaling = {"rope_type": "default", "mrope_section": rope["mrope_section"], "mrope_interleaved": True}
    text |= {"rope_theta": rope["rope_theta"], "rope_scaling": scaling}
    kind = text.pop("model_type")  # the older families have the values of the text at the top
    published = {**config, "text_config": {**text, "model_type": kind}} if is_3 else {**text, **config}
    (folder / "config.json").write_text(json.dumps(published))
    (folder / "processor_config.json").unlink()
    kinds = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": type(tiny.processor).__name__}
    sizes = {"min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2}
    if is_3:
        sizes |= {"patch_size": 16, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (folder / "preprocessor_config.json").write_text(json.dumps({**kinds, **sizes}))
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert find_model(str(folder)) == str(folder)
    loaded = load(folder, offline=True)
    assert_same_behaviour(behaviour(loaded, ask), behaviour(tiny, ask))
    video = make_video(0)
    assert encode_prompt(loaded, "Why?", [video.medium]) == list(ask("Why?", video).token_ids)


def test_folders_that_are_not_models_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"model\.path=\S+/nothing: no such folder"):
        load(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"neither config\.json nor adapter_config\.json"):
        load(tmp_path)
    with pytest.raises(DataError, match="cannot be had from the hub"):
        load("no-one/no-model", offline=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tune": "some"}, r"model\.tune=some"),
        ({"dtype": "float8"}, r"model\.dtype=float8"),
        ({"lora": LoraSettings(targets=("q_proj", "query"))}, r"model\.lora\.targets=query"),
    ],
)
def test_unknown_choices_are_refused(tiny_folder, options, message):
    with pytest.raises(ConfigError, match=message):
        load(tiny_folder, **{"tune": "lora", **options})


@pytest.mark.parametrize(("path", "family"), [("tiny", "qwen2_vl"), ("tiny_2_5", "qwen2_5_vl")])
def test_tiny_is_built_once_in_the_folder_given(tmp_path, path, family):
    first = load(path, tune="none", tiny_folder=tmp_path / "tiny", seed=3)
    written = (tmp_path / "tiny" / "model.safetensors").stat().st_mtime_ns
    again = load(path, tune="none", tiny_folder=tmp_path / "tiny", seed=3)
    assert (tmp_path / "tiny" / "model.safetensors").stat().st_mtime_ns == written
    assert first.family.model_type == again.family.model_type == again.model.config.model_type == family
    assert first.base == again.base == str(tmp_path / "tiny")


@pytest.mark.both_families
def test_lora_sits_on_the_language_model_only_and_depends_on_the_seed_alone(tiny_folder):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = load(tiny_folder, tune="lora", lora=LORA, seed=7).model
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    two = load(tiny_folder, tune="lora", lora=LORA, seed=7).model
    trained = {name: p for name, p in one.named_parameters() if p.requires_grad}
    # 7 targets x (A, B) x 2 blocks, or 3 of Qwen3-VL; of Qwen3.5 3 x (A, B) x 4 blocks, and 4 x (A, B) with attention
    assert len(trained) == {"qwen3_vl": 42, "qwen3_5": 32}.get(one.config.model_type, 28)
    assert all("language_model" in name and "lora_" in name for name in trained)
    for name, parameter in two.named_parameters():
        assert not parameter.requires_grad or torch.equal(parameter, trained[name])
    assert one.training


@pytest.mark.both_families
def test_full_tuning_freezes_the_tower_or_trains_it(tiny_folder):
    frozen = load(tiny_folder, tune="full", freeze_vision=True).model
    assert {name.split(".")[1] for name, p in frozen.named_parameters() if not p.requires_grad} == {"visual"}
    free = load(tiny_folder, tune="full", freeze_vision=False).model
    assert all(p.requires_grad for p in free.parameters())


@pytest.mark.both_families
@pytest.mark.parametrize("merge", [False, True])
def test_a_saved_adapter_gives_the_same_tokens_and_scores(lora, ask, tmp_path, merge):
    before = {name: tensor.clone() for name, tensor in lora.model.state_dict().items()}
    expected = behaviour(lora, ask)
    save_model(lora, tmp_path / "final", merge=merge, vision=VISION)
    assert (tmp_path / "final" / "config.json").exists() == merge
    for name, tensor in lora.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    reloaded = load(tmp_path / "final", offline=True)
    assert not reloaded.model.training and not any(p.requires_grad for p in reloaded.model.parameters())
    assert_same_behaviour(behaviour(reloaded, ask), expected)
    assert read_vision(tmp_path / "final").budget == VISION
    if merge:
        plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "final", local_files_only=True)
        assert type(plain) is type(base_model(lora.model))
        assert set(plain.state_dict()) == set(lora.model.get_base_model().state_dict()) - {
            name for name in lora.model.get_base_model().state_dict() if "lora_" in name or "base_layer" in name
        } | {n.replace("base_layer.", "") for n in lora.model.get_base_model().state_dict() if "base_layer" in n}


@pytest.mark.both_families
def test_a_saved_full_model_gives_the_same_tokens_and_scores(tiny_folder, ask, tmp_path):
    bundle = load(tiny_folder, tune="full")
    with torch.no_grad():
        for parameter in bundle.model.parameters():
            parameter.mul_(1.1)
    expected = behaviour(bundle, ask)
    save_model(bundle, tmp_path / "final", merge=False)
    assert_same_behaviour(behaviour(load(tmp_path / "final", offline=True), ask), expected)
    assert read_vision(tmp_path / "final") is None


@pytest.mark.both_families
def test_training_from_an_adapter_starts_at_its_behaviour_with_the_reference_there(lora, ask, tmp_path):
    expected = behaviour(lora, ask)
    save_model(lora, tmp_path / "first", merge=False)
    by_path = load(tmp_path / "first", tune="lora", lora=LORA, offline=True)
    by_key = load(lora.base, adapter=tmp_path / "first", tune="lora", lora=LORA, offline=True)
    for second in (by_path, by_key):
        assert_same_behaviour(behaviour(second, ask), expected)
        with second.model.disable_adapter():
            assert_same_behaviour(behaviour(second, ask), expected)  # KL = 0 at step 0
        assert second.earlier_adapters == [tmp_path / "first"]


def test_a_chain_of_adapters_survives_saving_and_the_loss_of_its_first_folder(lora, ask, tmp_path):
    save_model(lora, tmp_path / "first", merge=False)
    second = load(tmp_path / "first", tune="lora", lora=LORA, offline=True)
    randomize_adapter(second.model, seed=2)
    expected = behaviour(second, ask)
    save_model(second, tmp_path / "second", merge=False)
    shutil.rmtree(tmp_path / "first")
    assert_same_behaviour(behaviour(load(tmp_path / "second", offline=True), ask), expected)
    third = load(tmp_path / "second", tune="lora", lora=LORA, offline=True)
    assert len(third.earlier_adapters) == 2
    assert_same_behaviour(behaviour(third, ask), expected)
    # The first adapter is gone, so an adapter of `second` alone would be another model: it is merged.
    save_model(second, tmp_path / "late", merge=False)
    assert (tmp_path / "late" / "config.json").is_file()
    assert_same_behaviour(behaviour(load(tmp_path / "late", offline=True), ask), expected)


def test_saving_replaces_a_folder_whole_and_a_failure_leaves_the_old_one(lora, tmp_path, monkeypatch):
    save_model(lora, tmp_path / "final", merge=False)
    (tmp_path / "final" / "stale.txt").write_text("old")
    monkeypatch.setattr(type(lora.processor), "save_pretrained", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_model(lora, tmp_path / "final", merge=False)
    assert (tmp_path / "final" / "stale.txt").exists()
    monkeypatch.undo()
    save_model(lora, tmp_path / "final", merge=False)
    assert not (tmp_path / "final" / "stale.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["final"]


def test_all_of_a_folder_is_on_disk_before_it_has_its_name(lora, tmp_path, monkeypatch):
    events, fsync, replace = [], os.fsync, os.replace

    def record_sync(handle):
        events.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        fsync(handle)

    def record_replace(path, target):
        events.append(f"rename to {Path(target).name}")
        replace(path, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "replace", record_replace)
    save_model(lora, tmp_path / "final", merge=False, finish=lambda folder: (folder / "lineage").write_text("x"))
    named = events.index("rename to final")
    files = {path.name for path in (tmp_path / "final").iterdir()}
    assert files > {"adapter_model.safetensors", "base.json", "lineage", "tokenizer.json"}
    assert files <= set(events[:named])
    assert events[named + 1 :] == [tmp_path.name]


def test_eval_keeps_the_adapter_unmerged(lora, tmp_path):
    save_model(lora, tmp_path / "final", merge=False)
    assert isinstance(load(tmp_path / "final", offline=True).model, PeftModel)


def test_a_broken_vision_file_is_named(tmp_path):
    write_vision(tmp_path, VISION, "published")
    (tmp_path / "vision.json").write_text('{"schema_version": 9}')
    with pytest.raises(DataError, match=r"vision\.json: schema_version=9"):
        read_vision(tmp_path)
    (tmp_path / "vision.json").write_text("{")
    with pytest.raises(DataError, match=r"vision\.json: not JSON"):
        read_vision(tmp_path)


@pytest.mark.both_families
def test_checkpointing_recomputes_the_language_model_only_and_rollouts_keep_their_cache(lora, ask):
    video = make_video(0)
    prompt = ask("Which?", video)
    features = FeatureStore(lora).features([video])
    settings = Sampling(seed=0, step=0, max_new_tokens=4, eos_ids=())
    expected = rollout(lora.model, [prompt], features, [("row", 0)], settings)
    calls = {"language": 0, "tower": 0}
    inner = lora.model.get_base_model().model
    # Checkpointing wraps `forward` of a layer, so only hooks of its parts see the second call, and only at their start:
    # recomputation stops as soon as it has what the backward needs.
    inner.language_model.layers[0].mlp.register_forward_pre_hook(
        lambda *_: calls.update(language=calls["language"] + 1)
    )
    inner.visual.blocks[0].mlp.register_forward_pre_hook(lambda *_: calls.update(tower=calls["tower"] + 1))
    use_gradient_checkpointing(lora.model)
    assert rollout(lora.model, [prompt], features, [("row", 0)], settings) == expected
    calls["language"] = 0
    features = FeatureStore(lora).features([video])
    logps(lora.model, build_trees([prompt], [[[40, 41]]], False), features)[0][0].sum().backward()
    assert calls == {"language": 2, "tower": 1}


def test_scores_and_rollouts_see_through_distributed_wrappers(lora, ask):
    video = make_video(0)
    trees = build_trees([ask("Which?", video)], [[[40, 41]]], False)
    features = FeatureStore(lora).features([video])
    wrapped = torch.nn.DataParallel(lora.model)  # one process, no device: passes calls on to `.module`
    settings = Sampling(seed=0, step=0, max_new_tokens=4, eos_ids=())
    with torch.no_grad():
        for options in ({}, {"adapter": False}, {"layout": "tree"}):
            ours = logps(wrapped, trees, features, **options)[0][0]
            assert torch.equal(ours, logps(lora.model, trees, features, **options)[0][0])
    prompt = next(trees[0].prompts())
    drawn = [rollout(model, [prompt], features, [("row", 0)], settings) for model in (wrapped, lora.model)]
    assert drawn[0] == drawn[1]


def test_lora_gradients_b_first_then_a(lora, tiny_folder, ask):
    fresh = load(tiny_folder, tune="lora", lora=LORA)
    video = make_video(0)
    trees = build_trees([ask("Which?", video)], [[[40, 41]]], False)
    features = FeatureStore(fresh).features([video])
    optimizer = torch.optim.SGD([p for p in fresh.model.parameters() if p.requires_grad], lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        (-logps(fresh.model, trees, features)[0][0].sum()).backward()
        sums = dict.fromkeys(("lora_A", "lora_B"), 0.0)
        for name, parameter in fresh.model.named_parameters():
            if parameter.grad is not None:
                sums[name.split(".")[-3]] += float(parameter.grad.abs().sum())
        assert sums["lora_B"] > 0 and (sums["lora_A"] > 0) == (step > 0)
        optimizer.step()
