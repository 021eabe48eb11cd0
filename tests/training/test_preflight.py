"""What is refused before a model loads: one key named, one way out, exit code 2 (see test_cli.py for the exit code)."""

from dataclasses import replace

import pytest

from vsgrpo.cli import run
from vsgrpo.config.compose import load_config
from vsgrpo.data.row import Row
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.training.launcher import device_line
from vsgrpo.training.preflight import check_enough_rows, check_run, warnings_of
from vsgrpo.training.stage_checks import check_stages

ROW = Row(
    schema_version=1,
    id="1",
    dataset="demo",
    split="train",
    scene_name="demo000001_00",
    room="demo000001",
    question_type="object_counting",
    question="How many chair(s) are in this room?",
    options=None,
    ground_truth="4",
    answer="4",
    answer_kind="number",
    unit=None,
    media=({"kind": "video", "path": "videos/1.mp4"},),
    rejected=None,
    reasoning=None,
    objects=(),
    generator={},
    extra={},
)


def config_of(method, *overrides):
    return load_config("train", [f"trainer={method}", "model=tiny", "data=d", "output=o", *overrides])


@pytest.mark.parametrize(
    ("overrides", "message", "hint"),
    [
        (["reward.names=[acuracy]"], "reward.names=acuracy: no such reward", "accuracy"),
        (["reward.names=[accuracy,format]", "reward.weights=[1,2]"], None, None),
        (["reward.names=[format]"], "nothing to learn from", "accuracy"),
        (["trainer.num_iterations=3", "trainer.save_steps=100"], "trainer.save_steps=100", "99 or 102"),
        (["trainer.stages=[{types: [route_planning]}]"], "no row is of these types", "object_counting"),
        (
            ["reward.names=[accuracy,follow]", "trainer.group_filter={min: 0.01, max: 0.99}"],
            "trainer.group_filter: tears the pairs",
            "follow",
        ),
        (
            [
                "reward.names=[accuracy,token_range]",
                "reward.token_range=[1,4]",
                "trainer.group_filter={min: 0.01, max: 0.99}",
            ],
            "trainer.group_filter: tears the groups apart that reward.names=token_range compares",
            "token_range",
        ),
        (["reward.names=[accuracy,follow]"], "follow compares the rows of pairs, and none in d", "train_pairs"),
        (["reward.names=[accuracy,map]"], "reward.names=['map']: no row in d has a map", "data.map=true"),
        (["reward.names=[map_published]"], "reward.names=['map_published']: no row in d has a map", "data.types=[map]"),
        (["reward.names=[accuracy,overlong]", "trainer.max_completion_length=33"], None, None),
        (["trainer.scale_rewards=ema"], "trainer.scale_rewards=ema: balances question types, and all", "several types"),
        (["trainer.temporal_generations=7"], None, None),
        (
            ["trainer.temporal_generations=7", "prompt=think", "reward.names=[format,accuracy]"],
            "trainer.temporal_generations=7: compares the first reward",
            "accuracy first",
        ),
        (["video.feature_cache=disk"], "video.feature_cache=disk", "model.freeze_vision=true"),
        (
            # a microbatch of 20 holds one group of 14 and a torn one; 28 is the next that holds whole groups
            ["trainer.shared_prefix=on", "trainer.per_device_train_batch_size=20"],
            "tears groups of num_generations=14",
            "per_device_train_batch_size=28",
        ),
        (["trainer.shared_prefix=on", "model.attn_implementation=eager"], "attn_implementation=eager", "sdpa"),
        (
            ["trainer.shared_prefix=on", "model.tune=lora", "model.freeze_vision=true", "model.lora.dropout=0.1"],
            "model.lora.dropout=0.1",
            "shared_prefix=off",
        ),
        (["trainer.decode_graph=true"], "trainer.decode_graph=true: GPU only, launch=cpu", "decode_graph=false"),
        (["trainer.decode_graph=true", "launch=gpu1"], None, None),
        (["trainer.decode_graph=true", "launch=zero2"], "launch=zero2 wraps or shards the weights", "launch=ddp"),
        (
            ["trainer.decode_graph=true", "launch=gpu1", "model.attn_implementation=eager"],
            "model.attn_implementation=eager looks at masks on the host",
            "decode_graph=false",
        ),
    ],
)
def test_rewards_and_stages(overrides, message, hint):
    config = config_of("grpo", *overrides)
    if message is None:
        check_stages(config)
        check_run(config, [ROW])
        return
    with pytest.raises(ConfigError) as caught:
        check_stages(config)
        check_run(config, [ROW])
    assert message in caught.value.message and hint in caught.value.hint


def test_rows_with_a_map_take_rewards_for_maps():
    config = config_of("grpo", "reward.names=[accuracy,map]")
    check_run(config, [ROW, replace(ROW, extra={"map": {"bed": [[1, 2]]}})])
    truth = '<map>{"bed": [[1, 2]]}</map>'
    drawn = replace(ROW, question_type="object_map", answer_kind="map", answer=truth, ground_truth=truth)
    check_run(config, [drawn])
    # Two categories of two cells: 1 + 2 * (2 + 4 * 2) = 21 tokens at least, and completions have 16.
    longer = '<map>{"bed": [[1, 2], [3, 4]], "tv": [[5, 6], [7, 8]]}</map>'
    with pytest.raises(ConfigError, match=r"max_completion_length=16: cuts off the answers of 1 of 2 .* 21 tokens"):
        check_run(config, [drawn, replace(drawn, id="b", answer=longer, ground_truth=longer)])
    check_run(config, [ROW], types=["object_counting", "object_map"])  # a part of the rows of a large file
    with pytest.raises(DataError, match=r"row demo/1: extra\.map='kitchen\.png'") as caught:
        check_run(config, [replace(ROW, extra={"map": "kitchen.png"})])
    assert "data.map=true" in caught.value.hint


def test_a_shuffled_arm_needs_videos_of_several_patches():
    picture = replace(ROW, media=({"kind": "image", "path": "a.png"},))
    config = config_of("grpo", "trainer.temporal_generations=7")
    check_run(config, [picture, ROW])  # images of a mix have no arm
    with pytest.raises(ConfigError, match=r"trainer\.temporal_generations=7: shuffles the frames of videos"):
        check_run(config, [picture])
    staged = "trainer.stages=[{temporal_generations: 7}]"
    with pytest.raises(ConfigError, match=r"trainer\.stages\[0\]\.temporal_generations=7"):
        check_run(config_of("grpo", staged), [picture])
    with pytest.raises(ConfigError, match=r"video\.num_frames=2: one pair of frames"):
        config_of("grpo", "trainer.temporal_generations=7", "video.num_frames=2")


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("{format: [[0, 1.0]]}", r"reward\.schedule\.format=.* no reward of this run is called so"),
        ("{accuracy: 0.5}", r"reward\.schedule\.accuracy=0\.5: a list of \[step, factor\]"),
        ("{accuracy: [[0, -1]]}", r"both 0 or more"),
        ("{accuracy: [[0.5, 1]]}", r"both 0 or more"),
        ("{accuracy: [[5, 1], [5, 0.5]]}", "steps must rise"),
        ("{accuracy: [[5, 1], [9, 0]]}", "at step 9 all rewards weigh 0"),
        ("{}", "no reward in it"),
    ],
)
def test_schedules_that_say_nothing_are_refused(schedule, message):
    with pytest.raises(ConfigError, match=message):
        config_of("grpo", f"reward.schedule={schedule}")


def test_rewards_that_count_twice_or_punish_all_are_refused():
    with pytest.raises(ConfigError, match="map_published is the whole reward"):
        config_of("grpo", "reward.names=[accuracy,map_published]")
    with pytest.raises(ConfigError, match=r"reward.overlong_tokens=32: must be below trainer.max_completion_length=32"):
        config_of("grpo", "reward.names=[accuracy,overlong]", "trainer.max_completion_length=32")


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ("[33,40]", "begins above trainer.max_completion_length=32"),
        ("[9,8]", "must be"),
        ("[8]", "must be"),
        ("[0,8]", "reward.token_range"),
    ],
)
def test_a_length_that_no_completion_has_is_refused(bounds, message):
    given = ["reward.names=[accuracy,token_range]", "trainer.max_completion_length=32"]
    with pytest.raises(ConfigError, match=message):
        config_of("grpo", *given, f"reward.token_range={bounds}")
    assert config_of("grpo", *given, "reward.token_range=[8,32]").reward.token_range == [8, 32]


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_thoughts_are_needed_where_they_are_trained_on(method):
    config = config_of(method, "prompt=think")
    with pytest.raises(DataError, match=r"demo/1: reasoning=null: prompt.mode=think .* \(1 of 2 rows") as caught:
        check_run(config, [replace(ROW, id="2", reasoning="I count."), ROW])
    assert "prompt=vanilla" in caught.value.hint
    check_run(config, [replace(ROW, reasoning="I count.")])
    check_run(config_of("grpo", "prompt=think"), [ROW])  # GRPO finds its own thoughts


def test_dpo_needs_a_wrong_answer():
    maths = replace(ROW, answer="x^2", ground_truth="x^2", answer_kind="text")
    with pytest.raises(DataError, match="demo/1: rejected=null"):
        check_run(config_of("dpo"), [maths])
    check_run(config_of("dpo"), [replace(maths, rejected="x^3")])
    check_run(config_of("sft"), [maths])


def test_empty_reward_lists_and_weights_that_sum_to_nothing():
    with pytest.raises(ConfigError, match=r"reward.names=\[\]"):
        config_of("grpo", "reward.names=[]")
    with pytest.raises(ConfigError, match="must sum to more than 0"):
        config_of("grpo", "reward.names=[accuracy]", "reward.weights=[0]")


def test_dev_rows_need_a_dev_file(tmp_path):
    config = load_config("train", ["trainer=sft", "model=tiny", f"data={tmp_path}", "output=o", "trainer.dev_rows=8"])
    with pytest.raises(DataError, match=r"dev.jsonl: no such file"):
        check_run(config, [ROW])
    (tmp_path / "dev.jsonl").touch()
    check_run(config, [ROW])


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["grpo", "reward.names=[acuracy]"], "reward.names=acuracy"),
        (["grpo", "reward.names=[accuracy]", "reward.weights=[0]"], "reward.weights=[0.0]"),
        (["grpo", "trainer.stages=[{max_steps: 5}, {num_generations: 5}]"], "trainer.stages[1].num_generations=5"),
        (["dpo", "trainer.beta=0"], "trainer.beta=0"),
        (["dpo", "trainer.loss_type=magic"], "trainer.loss_type=magic"),
    ],
)
def test_the_command_says_one_error_and_one_hint_and_exits_with_2(words, key, capsys):
    assert run(["train", *words, "model=tiny", "--dry-run"]) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ") and key in error and hint.startswith("hint: ")


@pytest.mark.integration
@pytest.mark.parametrize(
    ("words", "neighbours"),
    [
        # 6 x 3 = 18 completions: batches of 7 or 14 x 3, or 7 x 6, or groups of 9 or 18 fit 18
        (
            ("6", "3", "14"),
            ("per_device_train_batch_size=14", "gradient_accumulation_steps=7", "num_generations=9 or 18"),
        ),
        # 4 x 2 = 8: group of 6 wants multiples of 3 (x 2), or 3 steps; 4 and 8 divide 8
        (("4", "2", "6"), ("batch_size=3 or 6", "steps=3", "num_generations=4 or 8")),
    ],
)
def test_neighbours_that_divide_are_named_for_every_key(words, neighbours):
    batch, steps, group = words
    keys = ("per_device_train_batch_size", "gradient_accumulation_steps", "num_generations")
    given = [f"trainer.{key}={value}" for key, value in zip(keys, (batch, steps, group), strict=True)]
    with pytest.raises(ConfigError) as refused:
        check_stages(config_of("grpo", *given))
    for part in neighbours:
        assert part in refused.value.hint
    for choice in refused.value.hint.removeprefix("set ").split(", or "):
        key, _, values = choice.partition("=")
        for value in values.split(" or "):
            check_stages(config_of("grpo", *given, f"{key}={value}"))


def test_processes_that_machines_do_not_divide_name_their_neighbours():
    with pytest.raises(ConfigError) as refused:
        config_of("grpo", "launch=ddp", "launch.num_processes=7", "launch.num_machines=2")
    assert "launch.num_processes=6 or launch.num_processes=8" in refused.value.hint


def test_fewer_rows_than_a_rollout_buffer_are_refused_before_the_model_loads():
    # 4 completions x 6 steps x 2 processes / groups of 4 = 12 questions; 9 rows fill 9 x 4 / (4 x 2) = 4 steps
    words = (
        "launch=ddp",
        "launch.num_processes=2",
        "trainer.num_generations=4",
        "trainer.gradient_accumulation_steps=6",
    )
    config = config_of("grpo", *words, "trainer.per_device_train_batch_size=4", "trainer.save_steps=6")
    check_enough_rows(config, [ROW] * 12)
    with pytest.raises(ConfigError, match="9 rows: one rollout buffer takes 12") as refused:
        check_enough_rows(config, [ROW] * 9)
    assert "gradient_accumulation_steps=4" in refused.value.hint


SERVED = (
    "model=tiny",
    "model.tune=lora",
    "model.freeze_vision=true",
    "launch=ddp",
    "launch.num_processes=1",
    "rollout.engine=vllm",
    "launch.use_cpu=true",
)


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (("model=qwen2_vl_2b", "launch=gpu1"), ["trainer.bf16=false"]),  # the defaults of the groups
        (("model=qwen2_vl_2b", "launch=gpu1", "trainer.bf16=true"), []),
        (("model=qwen2_vl_2b", "launch=cpu"), []),
        (("model=qwen2_vl_2b", "launch=gpu1", "model.dtype=float32"), []),
        (("model=tiny", "launch=cpu", "trainer.beta=0"), ["trainer.beta=0"]),
        # a frozen server: 2 x 900 s + 600 s, the other process waits 1800 s
        ((*SERVED, "launch.num_processes=2"), ["launch.timeout_s=1800"]),
        ((*SERVED, "launch.num_processes=2", "launch.timeout_s=3000"), []),
        (SERVED, []),
    ],
)
def test_what_nobody_would_want_without_knowing_is_said(words, keys):
    config = load_config("train", ["trainer=grpo", "data=d", "output=o", *words])
    assert [text.partition(":")[0] for text in warnings_of(config)] == keys


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "in TF32"),  # the defaults of the groups: weights in bfloat16, adapters in float32
        (("trainer.bf16=true",), "without TF32"),
        (("model.dtype=float32",), "without TF32"),
        (("model.tune=full",), "without TF32"),
    ],
)
def test_a_gpu_multiplies_float32_in_tf32_only_beside_bfloat16_weights(words, said):
    words = ("trainer=grpo", "data=d", "output=o", "model=qwen2_vl_2b", "launch=gpu1", *words)
    assert device_line(load_config("train", words)).endswith(f"; float32 products {said}")
