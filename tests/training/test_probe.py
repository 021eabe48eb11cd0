"""The largest microbatch before training: it changes nothing, and memory that is too small is found at once."""

import resource

import pytest
import torch
from tiny_runs import LORA, SPREAD, make_parts
from two_processes import completions, distance, log, weights

from vsgrpo.errors import ConfigError, RunError
from vsgrpo.modeling.load import load
from vsgrpo.modeling.vision import FeatureStore
from vsgrpo.training.measure import blank_media, name_media, wants_probe
from vsgrpo.training.progress import Stage
from vsgrpo.training.stages import open_stage, reference_model
from vsgrpo.training.worker import train
from vsgrpo.video.budget import Medium, VisionBudget

GRPO = (SPREAD, "trainer.beta=0.01", "trainer.learning_rate=5e-3", "trainer.questions_per_video=2")


@pytest.mark.integration
@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("grpo", (*GRPO, *LORA, "model.lora.dropout=0.1")),
        ("grpo", (*GRPO, "model.freeze_vision=true", "trainer.max_completion_length=6")),
        ("dpo", ("trainer.learning_rate=5e-3", "trainer.per_device_train_batch_size=4")),
    ],
    ids=["grpo-lora-dropout", "grpo-tree", "dpo-tower-trained"],
)
def test_a_run_is_the_same_with_and_without_it(make_config, capsys, method, words):
    runs = []
    for probe in ("off", "on"):
        config = make_config(method, *words, f'trainer.probe_longest="{probe}"', name=probe)
        assert train(config) == 0
        runs.append(config.run.dir)
        assert ("largest microbatch tried" in capsys.readouterr().err) == (probe == "on")
    assert distance(weights(runs[0]), weights(runs[1])) == 0.0
    assert [line["grad_norm"] for line in log(runs[0])] == [line["grad_norm"] for line in log(runs[1])]
    assert all(line["grad_norm"] > 0 for line in log(runs[0]))
    if method == "grpo":
        assert completions(runs[0]) == completions(runs[1])


def test_media_of_another_kind_or_size_have_other_names_in_one_tree(tiny_folder):
    sizes = [Medium("video", (2, 4, 4), 8), Medium("video", (2, 4, 6), 12), Medium("video", (2, 6, 4), 12)]
    sizes += [Medium("image", (1, 4, 4), 4), Medium("video", (1, 4, 4), 4)]
    budget = VisionBudget()
    prompts, shown = zip(*(name_media(((1, 2), blank_media([size], budget)), "video 0") for size in sizes), strict=True)
    assert len({prompt.videos for prompt in prompts}) == len(sizes)
    store = FeatureStore(load(tiny_folder, tune="none", offline=True))
    found = store.features([item for media in shown for item in media])
    assert [len(found[prompt.videos[0]].tensor) for prompt in prompts] == [8, 12, 12, 4, 4]
    again, _ = name_media(((5,), blank_media(sizes[:1], budget)), "video 0")
    assert again.videos == prompts[0].videos


@pytest.mark.integration
def test_too_little_memory_is_found_before_the_first_step(make_config):
    # 8 completions x 30,000 tokens x 826 logits x 4 bytes = 793 MB at a time; there may be 400 MB more than now
    parts = make_parts(make_config("grpo", *GRPO, "trainer.probe_longest=on", "trainer.max_completion_length=30000"))
    reference = reference_model(parts.config, parts.bundle)
    with open("/proc/self/statm") as stream:
        used = int(stream.read().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 400_000_000, limits[1]))
    try:
        with (
            pytest.raises(RunError, match=r"out of memory on the largest microbatch .*completions of 30000") as stopped,
            open_stage(parts, Stage(parts.folder, 0, 1, 0, "grpo"), reference, None),
        ):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert "trainer.per_device_train_batch_size" in stopped.value.hint


def test_auto_is_for_gpus_and_sharded_engines_refuse_it(make_config):
    config = make_config("grpo")
    assert config.trainer.probe_longest == "auto"
    assert wants_probe(config, config.trainer) == torch.cuda.is_available()
    with pytest.raises(ConfigError, match="launch=zero2 reduces gradients inside a backward pass"):
        make_config("grpo", "launch=zero2", "trainer.probe_longest=on")
