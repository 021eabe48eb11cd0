"""Passes by tokens and by memory: what is merged, what is cut, and what stays as configured."""

import pytest

from vsgrpo.config.compose import load_config
from vsgrpo.data.row_numbers import RowNumbers
from vsgrpo.errors import ConfigError
from vsgrpo.memory.load import longest_sample
from vsgrpo.memory.passes import PASS_TOKENS, Passes, estimate_run, plan_passes


def config_of(*overrides, method="grpo"):
    return load_config("train", [f"trainer={method}", "data=d", "output=o", "launch=cpu", *overrides])


def planned(*overrides, method="grpo", rows=()):
    return plan_passes(config_of(*overrides, method=method), 0, rows)


GROUPS = (
    "trainer.num_generations=14",
    "trainer.per_device_train_batch_size=28",
    "trainer.gradient_accumulation_steps=6",
)
"""An update of 168 completions, 12 whole groups."""


def tokens_of(trees, completions):
    """Tokens of that many trees with so many completions in all: a prompt each, 16 tokens a completion."""
    prompt = longest_sample(config_of(*GROUPS), config_of(*GROUPS).trainer, ()).prompt
    return trees * prompt + 16 * completions


@pytest.mark.parametrize(
    ("trees", "completions", "update", "scored"),
    [
        (12, 168, 168, 168),
        (11, 154, 84, 84),  # of 12 groups 12, 6, 4 or 2 make equal passes: 6 x 14; no gradient: 84 or 168 of 168
        (4, 56, 56, 56),
        (3, 42, 28, 28),
        (1, 14, 14, 14),  # parts of the 28: whole groups first
        (1, 7, 7, 7),  # then torn ones
        (1, 13, 7, 7),
        (1, 1, 1, 1),
    ],
)
def test_passes_are_the_largest_that_hold_no_more_tokens(trees, completions, update, scored):
    limit = tokens_of(trees, completions)
    assert planned(*GROUPS, f"trainer.tokens_per_pass={limit}") == Passes(update, scored)


def test_the_boxes_that_a_teacher_reads_count():
    # 40 boxes and the sentence around them, 45 tokens each: 41 x 45 = 1,845 for each of 4 questions (56 completions)
    given, room = (*GROUPS, "trainer.gpd_weight=0.003"), tokens_of(4, 56) + 4 * 1845
    assert planned(*given, f"trainer.tokens_per_pass={room}") == Passes(56, 56)
    assert planned(*given, f"trainer.tokens_per_pass={room - 1}") == Passes(28, 28)
    plain, taught = estimate_run(config_of(*GROUPS, "model=tiny")), estimate_run(config_of(*given, "model=tiny"))
    assert plain is not None and taught is not None
    assert "teacher" not in plain.phases and taught.phases["teacher"] > 0
    assert taught.phases["update"] == plain.phases["update"]


def test_a_pass_that_holds_not_one_row_is_refused_by_its_key():
    least = tokens_of(1, 1)
    with pytest.raises(
        ConfigError, match=rf"trainer.tokens_per_pass={least - 1}: one row .* {least} tokens"
    ) as refused:
        planned(*GROUPS, f"trainer.tokens_per_pass={least - 1}")
    assert f"trainer.tokens_per_pass={least} or more" in refused.value.hint


def test_a_pass_lies_within_a_rollout_buffer_and_within_an_update():
    # 6 microbatches an update, 4 a buffer: passes of gcd(6, 4) = 2; without gradient the buffer of 4 x 28 at once
    sizes = (*GROUPS, "trainer.hf.steps_per_generation=4", "trainer.tokens_per_pass=1000000")
    assert planned(*sizes) == Passes(56, 112)
    section = planned(*sizes).section(config_of(*sizes).trainer)
    assert section.per_device_train_batch_size == 56 and section.gradient_accumulation_steps == 3
    assert section.hf["steps_per_generation"] == 2


@pytest.mark.parametrize(
    "word", ["trainer.loss_type=bnpo", "trainer.top_entropy_quantile=0.5", "trainer.skip_zero_variance=true"]
)
def test_a_loss_that_knows_microbatches_keeps_them(word):
    gpu = ("model=qwen2_vl_2b", "launch=gpu1", "launch.device_memory_gb=80", "trainer.bf16=true")
    assert planned(*gpu).update > planned(*gpu, word).update == 14
    with pytest.raises(ConfigError, match=r"trainer.tokens_per_pass=99999: trainer\.") as refused:
        planned(word, "trainer.tokens_per_pass=99999")
    assert "null" in refused.value.hint


def test_a_gpu_takes_what_fits_its_memory_and_a_cpu_what_was_configured():
    words = ("model=qwen2_vl_2b", "model.dtype=bfloat16", "trainer.bf16=true", "trainer.num_generations=14")
    assert planned(*words) == Passes(14, 14)
    found = {}
    for memory in (12, 16, 24, 80):
        config = config_of(*words, "launch=gpu1", f"launch.device_memory_gb={memory}")
        found[memory] = plan_passes(config, 0).update
        assert memory < 16 or estimate_run(config).total <= memory * 2**30
        assert estimate_run(config).load.update_tokens <= PASS_TOKENS
    assert 14 <= found[16] < found[24] <= found[80] == 112  # 8 questions: the whole update of the default
    more = ("trainer.gradient_checkpointing=true", "trainer.gradient_accumulation_steps=64")
    few = config_of(*words, "launch=gpu1", "launch.device_memory_gb=80", *more)
    # 64 trees of 1,233 + 14 x 16 tokens: 16 of them are 23,312 tokens, 32 are above 32,768
    assert plan_passes(few, 0).update == 16 * 14


@pytest.mark.parametrize(("rows", "processes"), [(60, 1), (40, 2)])
def test_rows_of_an_epoch_that_fill_no_pass_keep_no_pass_small(rows, processes):
    # 2 microbatches of 8 answers: one pass of 16, whether 40 rows fill passes of 2 x 16 or not
    words = ("trainer.tokens_per_pass=1000000", f"launch.num_processes={processes}", "launch.use_cpu=true")
    launch = "launch=ddp" if processes > 1 else "launch=cpu"
    assert planned(launch, *words, method="sft", rows=RowNumbers(count=rows)).update == 16


def test_the_plan_says_what_a_pass_is():
    words = (*GROUPS, f"trainer.tokens_per_pass={tokens_of(4, 56)}")
    config = config_of(*words)
    text = plan_passes(config, 0).text(config, config.trainer, ())
    assert text == f"update: 6 microbatches of 28 completions in 3 passes of up to {tokens_of(4, 56):,} tokens"
