"""Every row of both tables of the paper and every ablation is one command, and says where its numbers come from."""

import functools
import re

import pytest

from vsgrpo.config.compose import load_config
from vsgrpo.config.yaml_files import config_dir, config_groups
from vsgrpo.launch.start import describe
from vsgrpo.memory.passes import GIB, estimate_run
from vsgrpo.reward_loading import load_reward

pytestmark = pytest.mark.integration

NAMES = config_groups()["experiment"]
PAPER = [
    name for name in NAMES if re.match(r"table\d_|vsgrpo_|ablation_|algorithm_|reward_|vision_r1_|qwen3_vl_", name)
]
ROWS = {f"table1_{size}_{mode}" for size in ("2b", "7b") for mode in ("think", "observe", "vanilla")}
ROWS |= {f"table2_{size}_{method}" for size in ("2b", "7b") for method in ("sft", "dpo")}
ROWS |= {"vsgrpo_2b_v", "vsgrpo_2b_t", "vsgrpo_2b_o", "vsgrpo_7b_v", "table2_eval_v", "table2_eval_t", "table2_eval_o"}
ROWS |= {f"vision_r1_{name}" for name in ("cold", "rl", "rl_3", "zero", "ci", "long", "mathvista", "vsi_cold", "vsi")}
ROWS |= {"ablation_kl0", "ablation_length_reward", "vsgrpo_2b_24gb"}


def text_of(name):
    return (config_dir() / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")


@functools.cache
def compose_command(name):
    """Compose, once, exactly what the file's first lines tell a user to type."""
    words = re.search(r"^# vsgrpo (.+)$", text_of(name), re.MULTILINE)[1].split()
    assert f"experiment={name}" in words
    if words[0] == "train":
        return load_config("train", [f"trainer={words[1]}", *words[2:]])
    given = [word for word in words[1:] if "=" in word]
    return load_config(words[0].replace("-", "_"), given, allow_missing=True)


def test_all_rows_of_the_tables_are_there():
    assert set(NAMES) >= ROWS


@pytest.mark.parametrize("name", NAMES)
def test_the_command_in_the_file_composes_and_dry_runs(name):
    config = compose_command(name)
    if text_of(name).split("# vsgrpo ", 1)[1].startswith("train"):
        assert "launch: " in describe(config) and "global batch: " in describe(config)
        for reward in config.reward_names():
            load_reward(reward)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("qwen3_vl_")])
def test_the_memory_in_the_file_is_what_is_estimated(name):
    said = float(re.search(r"About (\d+) GiB a process", text_of(name))[1])
    found = estimate_run(compose_command(name))
    assert found.total / GIB == pytest.approx(said, rel=0.25)
    # the published sizes: LoRA on 7 matrices of each block, the rest in bfloat16
    size = {"2b": 2_127_532_032, "4b": 4_437_815_808, "8b": 8_767_123_696}[name.split("_")[2]]
    assert found.parameters == size and compose_command(name).video.feature_cache == "disk"


@pytest.mark.parametrize("name", PAPER)
def test_every_number_says_whether_it_is_the_papers_or_ours(name):
    head, body = re.split(r"^(?=[a-z]+:)", text_of(name), maxsplit=1, flags=re.MULTILINE)
    assert "Source: arXiv" in head or "Ours" in head or "by estimate (ours)" in head
    body = re.split(r"^(?!defaults)(?=[a-z]+:)", text_of(name), maxsplit=1, flags=re.MULTILINE)[1]
    for line in body.splitlines():
        bare = re.fullmatch(r"\s*(|#.*|[a-z]+:|-? *\{max_completion.*|run: \{method: \w+\}|  method: \w+)", line)
        assert bare or re.search(r"# .*\((paper|ours|vision-r1|arXiv)", line) or line.startswith("    - {"), line


def test_the_papers_values_reach_their_experiments():
    # arXiv 2504.00883 section 4.1: learning rate 1e-5 (2B), 5e-6 (7B); beta 1e-4, 0 in the ablation; 14 rollouts
    found = {name: compose_command(name) for name in PAPER}
    assert found["vsgrpo_7b_v"].trainer.learning_rate == 5e-6 and "7B" in found["vsgrpo_7b_v"].model.path
    for name in ("vsgrpo_2b_v", "vsgrpo_2b_t", "vsgrpo_2b_o", "vsgrpo_7b_v", "vsgrpo_2b_24gb"):
        trainer = found[name].trainer
        assert (trainer.beta, trainer.num_generations, trainer.temperature) == (1e-4, 14, 1.0), name
        assert found[name].model.tune == "lora" and not found[name].merges()
    assert found["ablation_kl0"].trainer.beta == 0.0 and found["ablation_kl0"].prompt.mode == "think"
    assert found["ablation_length_reward"].reward_names() == ["accuracy", "format", "length"]
    for name in ("vsgrpo_2b_t", "vsgrpo_2b_o"):
        assert found[name].reward_names() == ["accuracy", "format"]
    assert found["vsgrpo_2b_v"].reward_names() == ["accuracy"]
    # the 24 GB file keeps the number of questions per update: 8 processes x 8 = 1 x 64
    steps = {name: found[name].trainer.gradient_accumulation_steps for name in ("vsgrpo_2b_v", "vsgrpo_2b_24gb")}
    assert steps["vsgrpo_2b_v"] * found["vsgrpo_2b_v"].launch.num_processes == steps["vsgrpo_2b_24gb"]
    for name in ("table2_2b_sft", "table2_2b_dpo", "table2_7b_sft", "table2_7b_dpo"):
        assert found[name].merges() and found[name].prompt.mode == "vanilla"
    # arXiv 2503.06749: 4k x 16, then 8k x 8, 100 steps each
    stages = [
        (s["max_completion_length"], s["num_generations"], s["max_steps"]) for s in found["vision_r1_rl"].trainer.stages
    ]
    assert stages == [(4096, 16, 100), (8192, 8, 100)]
    for name in ("vision_r1_rl", "vision_r1_rl_3", "vision_r1_zero", "vision_r1_long"):
        trainer = found[name].trainer
        assert (trainer.beta, trainer.epsilon, found[name].prompt.system) == (1e-2, 0.2, "none"), name
    assert found["vision_r1_rl"].reward_names() == ["hard_format_result"]
    zero, long = found["vision_r1_zero"].trainer, found["vision_r1_long"].trainer
    assert (zero.max_completion_length, zero.num_generations, zero.max_steps, zero.stages) == (4096, 16, 300, None)
    assert (long.max_completion_length, long.num_generations, long.max_steps, long.stages) == (16384, 4, 300, None)
    assert found["vision_r1_zero"].reward_names() == ["format", "accuracy"]
    served = ("vision_r1_rl", "vision_r1_rl_3", "vision_r1_zero", "vision_r1_long", "vision_r1_vsi", "vsgrpo_2b_t")
    for name in (*served, "vsgrpo_2b_o"):  # long answers; Qwen3-VL has no servers, and short answers need none
        assert found[name].uses_servers() and found[name].rollout.engine == "auto", name
    assert not any(found[name].uses_servers() for name in ("vsgrpo_2b_v", "qwen3_vl_2b_t", "qwen3_vl_8b_t"))
    cold = found["vision_r1_cold"]
    assert (cold.trainer.num_train_epochs, cold.trainer.learning_rate, cold.trainer.warmup_steps) == (2.0, 5e-6, 0.05)
    assert cold.model.tune == "full" and cold.merges() is not None and cold.launch.profile == "zero3"
    batch = cold.trainer.per_device_train_batch_size * cold.trainer.gradient_accumulation_steps
    assert batch * cold.launch.num_processes == 32
