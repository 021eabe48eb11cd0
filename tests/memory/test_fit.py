"""What a run says it will need before it starts, what it is refused for and what it is warned of."""

import subprocess
import sys

import pytest

from vsgrpo.config import load_config
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.launch import describe, shortages
from vsgrpo.memory.disk import disk_need, num_checkpoints
from vsgrpo.memory.estimate import GIB, estimate_run
from vsgrpo.memory.fit import check_memory
from vsgrpo.memory.shapes import HUB


def config_of(*overrides, method="grpo", output="o"):
    return load_config("train", [f"trainer={method}", "data=d", f"output={output}", *overrides])


def test_the_plan_of_the_paper_in_numbers():
    text = describe(config_of("experiment=vsgrpo_2b_24gb"))
    # 16 frames = 8 pairs of 128 tokens. Features: 1024 x 1536 x 2 bytes = 3 MiB.
    assert "video tokens per sample: at most 1024" in text and "896 completions = 64 questions x 14" in text
    assert "features: 3.0 MiB a sample, 3.5 GiB for 1201 videos" in text
    assert "2,208,985,600 parameters, 73,859,072 trained; 1457 tokens in a microbatch" in text
    assert "memory there is: 24.0 GiB (launch.device_memory_gb)" in text


def test_a_plan_takes_less_than_two_seconds_of_cpu():
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "vsgrpo.cli", "train", "grpo", "experiment=vsgrpo_7b_v", "--dry-run"]
    subprocess.run(command, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2


def test_what_cannot_fit_is_refused_and_what_may_not_is_warned_of():
    # 7B in bfloat16: full fine-tuning with two moments and gradients takes 8 bytes a parameter on one device.
    words = ("model=qwen2_vl_7b", "model.tune=full", "launch=gpu1", "launch.device_memory_gb=24")
    with pytest.raises(ConfigError, match=r"take \d+\.\d GiB, there are 24.0 GiB launch.device_memory_gb") as refused:
        shortages(config_of(*words), [])
    assert "launch=zero3" in refused.value.hint
    assert "warning: refused here: weights, gradients and optimizer" in describe(config_of(*words))
    text = describe(config_of("experiment=vsgrpo_2b_24gb", "launch.device_memory_gb=16"))
    assert "warning: about 20" in text and "trainer.gradient_accumulation_steps" in text


def test_advice_names_what_is_largest():
    words = ("experiment=vsgrpo_2b_t", "trainer.gradient_checkpointing=false", "launch.device_memory_gb=40")
    assert "trainer.gradient_checkpointing=true" in describe(config_of(*words))
    found = estimate_run(config_of("experiment=vsgrpo_2b_v"))
    assert "video.feature_cache=disk" in check_memory(found, found.fixed + GIB, "here")


def test_checkpoints_that_no_disk_holds_are_refused_but_a_resume_is_warned(tmp_path):
    # 8.3e9 parameters: weights 2 bytes, moments 2 x 2: 46 GiB each, 10,000 of them
    words = ("model=qwen2_vl_7b", "model.tune=full", "launch=gpu1", "trainer.max_steps=1000000")
    config = config_of(*words, "trainer.save_total_limit=null", "trainer.beta=0", output=tmp_path / "run")
    with pytest.raises(DataError, match="10000 checkpoints of"):
        shortages(config, [])
    assert any("10000 checkpoints" in line for line in shortages(config, [], resume=True))


def test_checkpoints_are_counted_as_they_are_kept():
    words = ("trainer.max_steps=1000", "trainer.save_steps=100")
    # two kept and the one being written; the best one stays too; ten where none is dropped
    assert num_checkpoints(config_of(*words), 0) == 3
    assert num_checkpoints(config_of(*words, "trainer.dev_rows=8"), 0) == 4
    assert num_checkpoints(config_of(*words, "trainer.save_total_limit=null"), 0) == 10


def test_disk_by_hand():
    shape = HUB["Qwen/Qwen2-VL-2B-Instruct"]
    need = disk_need(config_of("experiment=vsgrpo_2b_24gb", "video.feature_cache=disk"), shape)
    # adapter in float32 with two moments; features of 1201 videos x 1024 tokens x 1536 x 2 bytes
    assert need.checkpoint == 12 * 73_859_072 and need.final == 4 * 73_859_072
    assert need.caches == 1201 * 1024 * 1536 * 2
    whole = disk_need(config_of("experiment=table2_2b_sft", method="sft"), shape)
    assert whole.final == 4 * 2_208_985_600  # SFT merges its adapter, in float32


def test_an_unknown_hub_id_is_trained_without_an_estimate():
    text = describe(config_of("model.path=someone/qwen2-vl-mine"))
    assert "not estimated, no config.json of model.path=someone/qwen2-vl-mine" in text
