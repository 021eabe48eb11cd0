"""What a run says it will need before it starts, what it is refused for and what it is warned of."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from vsgrpo.config.compose import load_config
from vsgrpo.data import row_numbers
from vsgrpo.data.rows import make_row, write_rows
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.families import HUB
from vsgrpo.launch.start import describe, shortages
from vsgrpo.memory.estimate import GIB
from vsgrpo.memory.fit import check_disk, check_memory, disk_need, num_checkpoints, planned_steps, steps_per_epoch
from vsgrpo.memory.passes import estimate_run
from vsgrpo.spatial.question import Question
from vsgrpo.spatial.question_types import QUESTION_TYPES
from vsgrpo.training import preflight

pytestmark = pytest.mark.integration


def config_of(*overrides, method="grpo", output="o"):
    return load_config("train", [f"trainer={method}", "data=d", f"output={output}", *overrides])


def test_the_plan_of_the_paper_in_numbers():
    text = describe(config_of("experiment=vsgrpo_2b_24gb"))
    # 16 frames = 8 pairs of 128 tokens. Features: 1024 x 1536 x 2 bytes = 3 MiB.
    assert "video tokens per sample: at most 1024" in text and "896 completions = 64 questions x 14" in text
    assert "features: 3.0 MiB a sample, 3.5 GiB for 1201 videos" in text
    assert "2,208,985,600 parameters, 73,859,072 trained; 23312 tokens in a pass" in text
    # 64 trees of 1233 + 14 x 16 = 1457 tokens: 16 of them are below 32,768
    assert "update: 64 microbatches of 14 completions in 4 passes of up to 23,312 tokens" in text
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


def test_a_full_disk_hides_no_shortage_of_memory(monkeypatch):
    monkeypatch.setattr("vsgrpo.memory.fit.free_bytes", lambda folder: 0)
    text = describe(config_of("experiment=vsgrpo_2b_24gb", "launch.device_memory_gb=16"))
    assert "warning: refused here: run.dir=" in text and "warning: about 20" in text
    text = describe(config_of("experiment=vsgrpo_2b_24gb", "launch.device_memory_gb=4"))
    assert "refused here: run.dir=" in text and "refused here: weights, gradients and optimizer" in text


def test_advice_names_what_is_largest():
    words = (
        "experiment=vsgrpo_2b_t",
        "trainer.gradient_checkpointing=false",
        "launch.device_memory_gb=8",
    )  # not one row fits
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


def test_steps_of_an_epoch_by_hand():
    words = ("trainer.per_device_train_batch_size=2", "trainer.gradient_accumulation_steps=2", "launch=ddp")
    words += ("launch.num_processes=2", "launch.use_cpu=true", "trainer.max_steps=-1", "trainer.num_train_epochs=1.5")
    sft = config_of(*words, method="sft")
    # 11 rows in steps of 2 x 2 x 2: 8 and 3; 1.5 x 2 = 3 steps
    assert (steps_per_epoch(sft, 0, 11), planned_steps(sft, 0, 11)) == (2, 3)
    grpo = config_of(*words, "trainer.num_generations=4", "trainer.num_iterations=2", method="grpo")
    # buffers of 8 / 4 = 2 questions: 5 of 11 rows, two steps each; 1.5 x 10
    assert (steps_per_epoch(grpo, 0, 11), planned_steps(grpo, 0, 11)) == (10, 15)


def test_disk_by_hand():
    shape = HUB["Qwen/Qwen2-VL-2B-Instruct"]
    need = disk_need(config_of("experiment=vsgrpo_2b_24gb", "video.feature_cache=disk"), shape)
    # adapter in float32 with two moments; features of 1201 videos x 1024 tokens x 1536 x 2 bytes
    assert need.checkpoint == 12 * 73_859_072 and need.final == 4 * 73_859_072
    assert need.caches == 1201 * 1024 * 1536 * 2
    assert disk_need(config_of("experiment=vsgrpo_2b_24gb", "trainer.optim=sgd"), shape).checkpoint == 4 * 73_859_072
    whole = disk_need(config_of("experiment=table2_2b_sft", method="sft"), shape)
    assert whole.final == 4 * 2_208_985_600  # SFT merges its adapter, in float32


def test_disk_of_the_weights_that_servers_read(tmp_path, monkeypatch):
    shape, words = HUB["Qwen/Qwen2-VL-2B-Instruct"], ["experiment=vsgrpo_2b_24gb", "rollout.engine=vllm"]
    assert disk_need(config_of("experiment=vsgrpo_2b_24gb"), shape).served == 0
    # Those of a step are written before those of the step before are removed: two copies of an adapter in float32,
    # or of what merging writes, all weights in float32.
    assert disk_need(config_of(*words), shape).served == 2 * 4 * 73_859_072
    assert disk_need(config_of(*words, "rollout.vllm.sync=disk"), shape).served == 2 * 4 * 2_208_985_600
    # 2 x 4 x 73,859,072 bytes are 0.55 GiB, 2 x 4 x 2,208,985,600 are 16.46 GiB.
    assert "weights for servers 0.55 GiB" in describe(config_of(*words))
    monkeypatch.setattr("vsgrpo.memory.fit.free_bytes", lambda folder: 16 * GIB if folder.name == "sync" else 1 << 50)
    monkeypatch.chdir(tmp_path)
    apart = config_of(*words, "rollout.vllm.sync=disk", f"rollout.vllm.sync_dir={tmp_path}/sync")
    with pytest.raises(DataError, match=r"sync_dir=.*of 8.23 GiB, take 16.5 GiB, 16.0 GiB are free"):
        check_disk(apart, ())
    (warning,) = check_disk(apart, (), resume=True)
    assert "take 16.5 GiB" in warning


def test_an_unknown_hub_id_is_trained_without_an_estimate():
    text = describe(config_of("model.path=someone/qwen2-vl-mine"))
    assert "not estimated, no config.json of model.path=someone/qwen2-vl-mine" in text


def plan_rows_file(path, number):
    """Write rows of two types and three videos; the longest question is in the last line but two."""
    rows = [
        make_row(
            Question(kind, f"How many {'tall ' * (9 * (k == number - 3))}chairs, {k}?", None, "2", "2", ()),
            dataset="mine",
            split="train",
            scene_name=f"a{k % 3}",
            room=f"a{k % 3}",
            video=f"videos/a{k % 3}.mp4",
            generator={"q": '"question_type": "none"'},
        )
        for k in range(number)
        for kind in [QUESTION_TYPES[("object_counting", "room_size_estimation")[k % 4 == 0]]]
    ]
    write_rows(path, [replace(rows[0], media=(*rows[0].media, {"kind": "image", "path": "a]}.png"})), *rows[1:]])


@pytest.mark.parametrize(
    "words", [(), ("data.types=[object_counting]",), ("data.limit=10",), ("data.mix=[{{path: {0}, weight: 2}}]",)]
)
def test_a_plan_of_a_large_file_has_the_numbers_of_all_rows_and_says_what_it_read(tmp_path, monkeypatch, words):
    for name in ("d", "e"):
        plan_rows_file(tmp_path / name / "train.jsonl", 40)
    words = [f"data={tmp_path / 'd'}", *(word.format(tmp_path / "e") for word in words)]
    config = load_config("train", ["trainer=sft", "output=o", "model=tiny", "launch=cpu", *words])
    whole = describe(config).splitlines()
    monkeypatch.setattr(preflight, "SKETCHED_BYTES", 0)
    monkeypatch.setattr(row_numbers, "_SAMPLED", 8)
    monkeypatch.setattr(row_numbers, "_LONGEST", 2)
    sketched = describe(config).splitlines()
    looked = [line for line in sketched if line.startswith("rows looked at:")]
    assert len(looked) == 1 and "40 lines counted by types" in looked[0] and "check-data, read all" in looked[0]
    assert 8 <= int(looked[0].split("media, ")[1].split()[0]) <= 12
    if "data.limit=10" not in words:  # which ten rows a run takes is not looked at: the longest of all counts
        assert [line for line in sketched if line not in looked] == whole
    assert next(line for line in sketched if line.startswith("rows: ")) in whole


def test_a_plan_of_a_large_file_finds_what_a_run_would_refuse(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "SKETCHED_BYTES", 0)
    plan_rows_file(tmp_path / "train.jsonl", 12)
    words = ["trainer=sft", f"data={tmp_path}", "output=o", "model=tiny", "launch=cpu"]
    with pytest.raises(ConfigError, match=r"data.types: route_planning is not in .*train\.jsonl"):
        describe(load_config("train", [*words, "data.types=[route_planning]"]))
    lines = (tmp_path / "train.jsonl").read_text().splitlines(keepends=True)
    spaced = [json.dumps(dict(sorted(json.loads(line).items()))) + "\n" for line in lines]  # another writer's order
    (tmp_path / "train.jsonl").write_text("".join([*spaced[:6], "\n", *lines[6:]]))
    assert "rows: 12; " in describe(load_config("train", words))
    (tmp_path / "train.jsonl").write_text("".join([*lines[:6], lines[6].replace('"a0"', '"scene0025_00"'), *lines[7:]]))
    with pytest.raises(DataError, match="scene0025 is in VSI-Bench"):
        describe(load_config("train", words))
