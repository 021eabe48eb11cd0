"""The table of ranges and choices is complete, holds on every way in, and speaks before torch is imported."""

import copy
import dataclasses
import functools
import math
import subprocess
import sys
import typing

import pytest

from vsgrpo.config.compose import load_config, to_yaml
from vsgrpo.config.keys import build_section, section_classes
from vsgrpo.config.roots import ROOTS
from vsgrpo.config.trainer import TRAINERS
from vsgrpo.errors import ConfigError
from vsgrpo.rules import MAX_SEED, Section, rules_of
from vsgrpo.scans.source import SOURCES, find_source

GIVEN = {
    "train": ["trainer=grpo", "data=d", "output=o"],
    "build_data": ["source=demo", "output=o"],
    "build_cot": ["data=d", "output=o"],
    "eval": ["model=a/b", "benchmark.path=b", "output=o"],
    "serve": ["model=a/b"],
}
KINDS = {"trainer": [*TRAINERS.values()], "source": [find_source(name).options for name in SOURCES]}
FREE = {
    "run.name": "any text: shown by trackers",
    "run.method": "compared with the command",
    "trainer.name": "the method, from TRAINERS",
    "prompt.system": "any text is a system turn",
    "prompt.template": "a file, or the text of a template in config.yaml; read by families/prompt_record.py",
    "prompt.suffix": "any text may follow a question",
    "data.types": "train: compared with the rows",
    "data.mix": "its own rule, in TrainDataSection",
    "sources": "each entry has the rules of its source, in config/sources.py",
    "trainer.group_filter": "its own rule, in GrpoSection",
    "reward.schedule": "its own rule, in RewardSection",
    "benchmark.tasks": "compared with the benchmark's rows",
    "trainer.stages": "each value by the rule of its own key, in TrainerSection.stage",
    "trainer.hf": "config.trainer",
    "serve.args": "the arguments of another program",
}


def fields(root):
    """Return (dotted key, type, rule or None) of all keys of a command."""
    found = []

    def walk(cls, prefix):
        hints, rules = typing.get_type_hints(cls), rules_of(cls)
        for item in dataclasses.fields(cls):
            key = f"{prefix}.{item.name}" if prefix else item.name
            found.append((key, hints[item.name], rules.get(item.name)))

    for name, cls in section_classes(ROOTS[root]).items():
        for kind in KINDS.get(name, [cls]):
            walk(kind, name)
        for inner, kind in section_classes(cls).items():
            walk(kind, f"{name}.{inner}")
    walk(ROOTS[root], "")
    sections = {*section_classes(ROOTS[root]), "model.lora", "rollout.vllm", "decoding.vllm"}
    return [entry for entry in found if entry[0] not in sections]


@pytest.mark.parametrize("root", list(ROOTS))
def test_every_number_and_word_has_a_rule_or_a_reason_for_none(root):
    without = {key for key, hint, rule in fields(root) if rule is None and hint is not bool and hint != (bool | None)}
    assert without <= set(FREE), sorted(without - set(FREE))


@pytest.mark.parametrize("root", list(ROOTS))
def test_every_section_checks_its_rules_under_its_own_key(root):
    for name, cls in section_classes(ROOTS[root]).items():
        assert issubclass(cls, Section) and (cls.section_key == name or hasattr(cls, "check")), cls


def test_no_reason_is_left_over():
    assert set(FREE) <= {key for root in ROOTS for key, _, _ in fields(root)}


WHOLE = (
    "trainer.ema_decay",
    *("trainer.group_filter", "trainer.group_filter_rounds"),
    "trainer.num_train_epochs",
    *("trainer.adam_beta1", "trainer.adam_beta2", "trainer.adam_epsilon"),
    *("trainer.epsilon", "trainer.importance_sampling_level", "trainer.use_bias_correction_kl"),
    *("trainer.scale_rewards", "trainer.stages"),
    "model.lora.r",
    "model.lora.targets",
    "run",
    "reason",
    "balance",
    "prompt",
    "source",
    "output",
)
"""Errors of the whole command, or from before a section is made."""


@functools.cache
def composed(root):
    """Return a valid config of a command; composed once for many tests."""
    return load_config(root, GIVEN[root])


def build(root, name, changes):
    """Return one section of a command with some of its values changed."""
    section = getattr(composed(root), name)
    built = build_section(type(section), {**copy.deepcopy(dataclasses.asdict(section)), **changes}, name)
    if hasattr(built, "check"):
        built.check(name)
    return built


BAD = (math.nan, -7, 10**30, "", "abc", None, {"a": 1})
SECTIONS = [(r, n) for r in ROOTS for n in section_classes(ROOTS[r]) if n not in ("pseudo", "describe", "extract")]


@pytest.mark.integration
@pytest.mark.parametrize(("root", "name"), SECTIONS)
def test_any_value_gives_a_section_or_one_error_that_names_the_key(root, name):
    """Numbers that get through are finite and inside; nothing else ends in a traceback."""
    for key in dataclasses.asdict(getattr(composed(root), name)):
        for bad in BAD:
            try:
                found = getattr(build(root, name, {key: bad}), key)
            except ConfigError as error:
                assert "\n" not in error.message + error.hint
                assert name in error.message, error.message
                continue
            if isinstance(found, (int, float)) and not isinstance(found, bool):
                assert 0 <= found <= MAX_SEED, (key, bad)


@pytest.mark.parametrize(
    ("root", "words", "message", "hint"),
    [
        ("train", ["trainer.learning_rate=-1"], "trainer.learning_rate=-1: must be above 0", "1e-5"),
        ("train", ["trainer.learning_rate=nan"], "trainer.learning_rate=nan: must be a finite number", "1e-5"),
        ("train", ["trainer.adam_beta2=1.5"], "trainer.adam_beta2=1.5: must be at least 0 and below 1", "0.1"),
        ("train", ["model.attn_implementation=flash_attention_2"], "flash_attn is not installed", "sdpa"),
        ("train", ["model.attn_implementation=spda"], "not one of the choices", "did you mean sdpa?"),
        ("train", ["trainer.loss_type=grppo"], "trainer.loss_type=grppo", "did you mean grpo?"),
        ("train", ["trainer.epsilon=-0.5"], "trainer.epsilon=-0.5: must be above 0", "0.2"),
        ("train", ["trainer.top_p=3"], "trainer.top_p=3: must be above 0 and at most 1", "trainer.top_p"),
        ("train", ["trainer.max_grad_norm=-1"], "trainer.max_grad_norm=-1", "0: gradients are not clipped"),
        ("train", ["trainer.weight_decay=-2"], "trainer.weight_decay=-2", "set trainer.weight_decay=0"),
        ("train", ["trainer.max_steps=0"], "trainer.max_steps=0: must be at least 1, or -1", "num_train_epochs"),
        ("train", ["trainer.lr_scheduler_type=cosin"], "trainer.lr_scheduler_type=cosin", "did you mean cosine?"),
        ("train", ["trainer.warmup_steps=2.5", "trainer.lr_scheduler_type=cosine"], "warmup_steps=2.5", "=2"),
        ("train", ["trainer.warmup_steps=2"], "constant has no warm-up", "constant_with_warmup"),
        ("train", ["trainer.stages=[{max_steps: 3}, {learning_rate: nan}]"], "trainer.stages[1].learning_rate", "1e-5"),
        (
            "train",
            ["trainer.stages=[{max_steps: 9}, {num_generations: 1}]"],
            "trainer.stages[1].num_generations=1",
            "2",
        ),
        ("train", ["trainer.stages=[{max_steps: 0}]"], "trainer.stages[0].max_steps=0", "1 or more"),
        ("train", ["trainer.stages=[{max_steps: abc}]"], "stages[0].max_steps=abc: a whole number", "whole number"),
        ("train", ["trainer.stages=[{loss_type: grop}]"], "trainer.stages[0].loss_type=grop", "did you mean grpo?"),
        ("train", ["trainer.stages=[{warmup_steps: 5}]"], "trainer.stages[0]: trainer.warmup_steps=5", "with_warmup"),
        ("train", ["trainer.stages=[a]"], "trainer.stages[0]=a: a dict is needed", "trainer.stages"),
        ("train", ["trainer.stages=5"], "trainer.stages=5: a list is needed", "[{NAME: VALUE}]"),
        ("train", ["trainer.hf.steps_per_generation=0"], "trainer.hf.steps_per_generation=0", "1 or more"),
        ("train", ["trainer.hf.steps_per_generation=x"], "trainer.hf.steps_per_generation=x: a number", "1 or more"),
        (
            "train",
            ["trainer.hf.vespo_k_pos=nan", "trainer.loss_type=vespo"],
            "vespo_k_pos=nan",
            "trainer.hf.vespo_k_pos",
        ),
        ("train", ["trainer.hf=5"], "trainer.hf=5: a dict is needed", "trainer.hf"),
        ("train", ["trainer.loss_type=cispo"], "trainer.epsilon_high=null", "trainer.epsilon_high=5"),
        ("train", ["trainer.loss_type=sapo", "trainer.delta=2"], "trainer.delta=2", "trainer.delta=null"),
        ("train", ["trainer.loss_type=cispo", "trainer.epsilon_high=5", "trainer.epsilon=0.3"], "clip by it", "leave"),
        ("train", ["trainer.loss_type=sapo", "trainer.epsilon=0.3"], "loss_type=sapo does not clip by it", "leave"),
        ("train", ["trainer.loss_type=vespo", "trainer.epsilon=0.3"], "loss_type=vespo does not clip by it", "leave"),
        (
            "train",
            ["trainer.loss_type=vespo", "trainer.importance_sampling_level=sequence"],
            "loss_type=vespo has one weight per completion",
            "leave",
        ),
        ("train", ["trainer.optim=sgd", "trainer.adam_beta1=0.8"], "optim=sgd keeps no moments", "adamw_torch_fused"),
        ("train", ["trainer.beta=0", "trainer.use_bias_correction_kl=true"], "there is no KL term", "beta above 0"),
        (
            "train",
            ["trainer.multi_objective_aggregation=normalize_then_sum", "trainer.scale_rewards=none"],
            "divides each reward by its group's deviation",
            "sum_then_normalize",
        ),
        (
            "train",
            ["trainer.multi_objective_aggregation=normalize_then_sum", "trainer.scale_rewards=ema"],
            "trainer.scale_rewards=ema: trainer.multi_objective_aggregation=normalize_then_sum scales by itself",
            "sum_then_normalize",
        ),
        ("train", ["trainer.group_filter={min: 0.1}"], "two numbers are needed, min and max", "{min: 0.01, max: 0.99}"),
        ("train", ["trainer.group_filter={min: 0.9, max: 0.1}"], "min is not below max", "{min: 0.01, max: 0.99}"),
        ("train", ["trainer.group_filter={min: a, max: 1}"], "two numbers are needed", "{min: 0.01, max: 0.99}"),
        ("train", ["trainer.group_filter_rounds=2"], "group_filter=null draws nothing anew", "leave"),
        ("train", ["trainer.ema_decay=0.9"], "trainer.scale_rewards=group keeps no average", "scale_rewards=ema"),
        (
            "train",
            ["trainer.max_steps=5", "trainer.stages=[{},{num_train_epochs: 2.0}]"],
            "trainer.stages[1].num_train_epochs=2.0: trainer.max_steps=5 decides",
            "set trainer.stages[1].max_steps=-1 too",
        ),
        (
            "train",
            ["trainer.stages=[{loss_type: sapo, epsilon: 0.1}]"],
            "trainer.stages[0].epsilon=0.1: trainer.loss_type=sapo does not clip by it",
            "leave trainer.stages[0].epsilon out",
        ),
        ("train", ["video.timeout_s=0"], "video.timeout_s=0", "null"),
        ("train", ["video.num_frames=1"], "video.num_frames=1: must be at least 2", "video.num_frames=2"),
        ("train", ["video.max_pixels=800"], "below video.min_pixels=3136", "video.max_pixels=3136"),
        ("train", ["reward.names=accuracy"], "reward.names=accuracy: a list is needed", "reward.names=[accuracy]"),
        ("train", ["reward.weights=[nan]", "reward.names=[accuracy]"], "reward.weights=nan", "reward.weights"),
        ("train", ["launch.machine_rank=3"], "launch.machine_rank=3", "launch.machine_rank=0"),
        (
            "train",
            ["launch.main_process_port=99999"],
            "launch.main_process_port=99999: must be at least 1 and at most 65535",
            "port",
        ),
        ("train", ["launch.profile=gpu"], "launch.profile=gpu", "did you mean gpu1?"),
        ("train", ["run.seed=4294967296"], "run.seed=4294967296", "run.seed"),
        ("train", ["run=5"], "run=5: a section", "run.NAME=VALUE"),
        ("train", ["model.lora=8"], "model.lora=8: a section", "model.lora.NAME=VALUE"),
        ("train", ["model.lora.targets=[q_porj]"], "model.lora.targets=q_porj", "did you mean q_proj?"),
        ("train", ["output="], "run.dir='': a text in one line", "run.dir"),
        ("train", ["prompt=[think,observe]"], "prompt=[think,observe]: one prompt", "did you mean think?"),
        ("train", ["trainer.bf16=2"], "trainer.bf16=2: true or false", "true or false"),
        ("train", ["trainer.num_train_epochs=3"], "trainer.max_steps=1000 decides", "trainer.max_steps=-1"),
        ("train", ["model=tiny", "model.lora.r=4"], "model.tune=full trains", "model.tune=lora"),
        ("train", ["hydra.verbose=true"], "hydra.verbose: unknown key", "configs"),
        ("build_data", ["balance=paper"], "balance=paper: a section", "balance.NAME=VALUE"),
        ("build_data", ["balance.caps=5"], "balance.caps=5: a dict is needed", "balance.caps"),
        ("build_data", ["balance.weights.room_size_estimation=nan"], "balance.weights.room_size_estimation=nan", "0"),
        ("build_data", ["source=[demo,scannet]"], "source=[demo,scannet]: one source", "for several: sources="),
        ("build_data", ["source=null"], "source=null: one source", "demo, scannet"),
        ("build_data", ["data.types=[object_countin]"], "data.types=object_countin", "did you mean object_counting?"),
        ("build_data", ["data.types=[]"], "data.types=[]", "data.types=null"),
        ("build_data", ["video.crf=-1"], "video.crf=-1", "video.crf=0"),
        ("build_data", ["source.preset=esay"], "source.preset=esay", "did you mean easy?"),
        ("build_data", ["build.num_shards=0"], "build.num_shards=0", "1 or more"),
        ("build_cot", ["reason.temperature=nan"], "reason.temperature=nan", "reason.temperature=0"),
        ("build_cot", ["pseudo.top_p=3"], "pseudo.top_p=3", "pseudo.top_p"),
        ("build_cot", ["cot.jpeg_quality=101"], "cot.jpeg_quality=101", "cot.jpeg_quality"),
        ("build_cot", ["reason=5"], "reason=5: a section", "reason.NAME=VALUE"),
        ("eval", ["decoding.temperature=nan"], "decoding.temperature=nan", "decoding.temperature=0"),
        ("eval", ["decoding.max_new_tokens=0"], "decoding.max_new_tokens=0", "1 or more"),
        ("eval", ["extract.top_p=0"], "extract.top_p=0", "extract.top_p"),
        ("eval", ["controls=blind"], "controls=blind: a list is needed", "controls=[blind]"),
        ("eval", ["controls=[blank,blnid]"], "controls=blnid", "did you mean blind?"),
        ("eval", ["image.min_pixels=100352", "image.max_pixels=3136"], "below image.min_pixels", "100352"),
        ("eval", ["model.attn_implementation=flash_attention_2"], "flash_attn is not installed", "sdpa"),
    ],
)
def test_a_bad_value_is_one_error_with_key_value_rule_and_way_out(root, words, message, hint):
    from omegaconf import OmegaConf

    key = words[-1].partition("=")[0]
    name = key.partition(".")[0]
    with pytest.raises(ConfigError) as caught:
        if key in WHOLE or name in ("controls", "hydra"):
            load_config(root, [*GIVEN[root], *words])
        else:
            build(root, name, OmegaConf.to_container(OmegaConf.from_dotlist(words))[name])
    assert message in caught.value.message, caught.value.message
    assert hint in caught.value.hint, caught.value.hint


def test_the_rules_hold_for_stages_when_they_are_used():
    config = load_config("train", [*GIVEN["train"], "trainer.stages=[{max_steps: '5'}, {learning_rate: 1e-4}]"])
    first, second = config.stage_sections()
    assert (first.max_steps, second.max_steps, second.learning_rate) == (5, 1000, 1e-4)


def test_a_written_config_reads_back_with_the_same_rules(tmp_path):
    from omegaconf import OmegaConf

    from vsgrpo.config.compose import load_resolved

    text = to_yaml(load_config("train", GIVEN["train"]))
    broken = OmegaConf.create(text)
    broken.trainer.learning_rate = math.nan
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(broken))
    with pytest.raises(ConfigError, match=r"trainer\.learning_rate=nan"):
        load_resolved(tmp_path / "config.yaml")


@pytest.mark.integration
@pytest.mark.parametrize(
    "words",
    [
        ["train", "grpo", "trainer.learning_rate=nan", "data=d", "output=o"],
        ["train", "sft", "trainer.hf.loss_type=dft", "data=d", "output=o"],
        ["build-data", "source=[demo,scannet]", "output=o"],
        ["ask", "video.mp4", "How many chairs?", "model=a/b", "decoding.max_new_tokens=0"],
    ],
)
def test_the_shell_says_it_in_two_lines_without_torch(words, tmp_path):
    code = "import sys; from vsgrpo.cli import main; sys.argv = ['vsgrpo', *sys.argv[1:]]\n"
    code += "try:\n    main()\nfinally:\n    print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout.split() == ["False", "False"]
    error, hint = done.stderr.strip().splitlines()
    assert error.startswith("error: ") and hint.startswith("hint: ")
    assert not list(tmp_path.iterdir())
