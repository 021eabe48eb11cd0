"""Every YAML composes and types; the paper's values reach the experiment; wrong input is one clear error."""

import dataclasses
from pathlib import Path

import pytest

from vsgrpo.config.compose import (
    NOT_GIVEN,
    load_config,
    load_resolved,
    to_yaml,
)
from vsgrpo.config.keys import override_text, prepare_overrides
from vsgrpo.config.roots import ROOTS, known_keys
from vsgrpo.config.trainer import GrpoSection
from vsgrpo.config.yaml_files import config_dir, config_groups
from vsgrpo.errors import ConfigError, SetupError

FOLDERS = {
    "train": ["data=d", "output=o"],
    "build_data": ["source.root=r", "output=o"],
    "build_cot": ["data=d", "output=o"],
    "eval": ["model=a/b", "benchmark.path=b", "output=o"],
    "serve": ["model=a/b"],
}


@pytest.mark.integration
@pytest.mark.parametrize(
    ("group", "option"),
    [(g, o) for g, options in config_groups().items() if g in ("model", "prompt", "launch") for o in options],
)
def test_every_group_option_composes(group, option):
    load_config("train", ["trainer=grpo", f"{group}={option}", *FOLDERS["train"]])


@pytest.mark.parametrize("root", list(ROOTS))
def test_yaml_holds_exactly_the_keys_of_the_dataclasses(root):
    from omegaconf import OmegaConf

    extra = {"train": ["trainer=grpo"], "build_data": ["source=demo"], "build_cot": [], "eval": [], "serve": []}[root]
    folders = [item for item in FOLDERS[root] if not (root == "build_data" and item.startswith("source"))]
    config = load_config(root, [*extra, *folders])
    composed = OmegaConf.to_container(OmegaConf.create(to_yaml(config)))
    for section in dataclasses.fields(config):
        value = getattr(config, section.name)
        if dataclasses.is_dataclass(value):
            assert set(composed[section.name]) == {f.name for f in dataclasses.fields(value)}


def test_vsgrpo_2b_v_states_the_papers_values():
    config = load_config("train", ["trainer=grpo", "experiment=vsgrpo_2b_v", *FOLDERS["train"]])
    trainer = config.trainer
    assert isinstance(trainer, GrpoSection)
    # arXiv 2504.00883 section 3.3: 14 rollouts, temperature 1, beta 1e-4, learning rate 1e-5 (2B), LoRA
    assert (trainer.num_generations, trainer.temperature, trainer.beta) == (14, 1.0, 1e-4)
    assert (trainer.learning_rate, trainer.loss_type, trainer.scale_rewards) == (1e-5, "grpo", "group")
    assert (trainer.epsilon, trainer.num_iterations, trainer.top_p, trainer.top_k) == (0.2, 1, 1.0, 0)
    assert (config.model.tune, config.model.freeze_vision) == ("lora", True)
    assert (config.prompt.mode, config.prompt.wording, config.prompt.show_options) == ("vanilla", "train", False)
    assert config.reward_names() == ["accuracy"]
    assert (config.video.num_frames, config.video.max_pixels) == (16, 100352)


def test_format_reward_joins_in_tagged_modes_only():
    config = load_config("train", ["trainer=grpo", "prompt=think", *FOLDERS["train"]])
    assert config.reward_names() == ["accuracy", "format"]


@pytest.mark.parametrize(
    "path",
    ["data/a=b", "data/my scans", "a,b/c", "x[1]/y", "it's/here", 'quo"te/x', "trail\\", "${home}/x", "{a: b}/c"],
)
def test_paths_pass_hydras_grammar_unchanged(path):
    config = load_config("train", ["trainer=grpo", f"data={path}", f"output={path}/run", f"model={path}/m"])
    assert config.data.path == path
    assert config.run.dir == f"{path}/run"
    assert config.model.path == f"{path}/m"


def test_models_that_are_built_here_have_one_name_in_train_and_eval():
    assert load_config("eval", ["model=tiny", *FOLDERS["eval"][1:]]).model.path == "tiny"
    assert load_config("train", ["trainer=grpo", "model=tiny", *FOLDERS["train"]]).model.path == "tiny"


def test_shorthand_output_means_the_dataset_folder_in_build_data():
    assert load_config("build_data", ["source=demo", "output=data/x"]).data.path == "data/x"


def test_a_model_group_is_not_taken_for_a_path():
    assert load_config("train", ["trainer=sft", "model=tiny", *FOLDERS["train"]]).model.path == "tiny"


@pytest.mark.parametrize("name", ["2024", "w,2", "[a]", "inf", "true"])
def test_a_folder_here_is_a_model_whatever_its_name_looks_like(tmp_path: Path, monkeypatch, name):
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_config("train", ["trainer=sft", f"model={name}", *FOLDERS["train"]]).model.path == name
    with pytest.raises(ConfigError, match="one model is needed"):
        load_config("train", ["trainer=sft", "model=", *FOLDERS["train"]])


@pytest.mark.parametrize(
    ("root", "overrides", "message", "hint"),
    [
        ("train", ["trainer.num_generation=3"], "trainer.num_generation: unknown key", "trainer.num_generations"),
        ("train", ["lr=1"], "lr: unknown key", "trainer.learning_rate"),
        ("train", ["+trainer.foo=1"], "cannot be added", "trainer.hf"),
        ("train", ["trainer.num_generations=2.5"], "trainer.num_generations", "right type"),
        ("train", ["trainer.num_generations=abc"], "trainer.num_generations", "right type"),
        ("train", ["experiment=vsgrpo_2b_w"], "experiment=vsgrpo_2b_w", "vsgrpo_2b_v"),
        ("train", ["experiment=demo_sft"], "made for `vsgrpo train sft`", "train sft"),
        ("train", ["model=tinny"], "model=tinny", "tiny"),
        ("train", ["trainer.learning_rate=1,2"], "a run takes one value", "add --sweep to train with each"),
        ("train", ["trainer.hf.save_strat=no"], "trainer.hf.save_strat", "trainer.save_steps"),
        ("train", ["trainer.hf.beta=1"], "own key", "trainer.beta"),
        ("train", ["trainer.hf.output_dir=x"], "decided by another key", "output=DIR"),
        ("train", ["--lr"], "--lr", "did you mean trainer.learning_rate=VALUE?"),
        ("train", ["--dryrun"], "--dryrun", "--dry-run"),
        ("train", ["foo"], "key=value", "configs"),
        ("train", ["~trainer"], "cannot be removed", "null"),
        ("train", ["launch=cpu", "launch.num_processes=2"], "launch.num_processes=2", "zero2"),
        ("train", ["trainer.stages=[{max_step: 2}]"], "trainer.stages[0].max_step", "stages"),
        ("train", ["reward.weights=[1]"], "reward.weights", "equal length"),
        ("train", ["trainer.temperature=0"], "trainer.temperature=0", "temperature=1"),
        ("train", ["model.freeze_vision=false"], "model.freeze_vision", "model.tune=full"),
        (
            "train",
            ["trainer.vision_learning_rate=1e-3"],
            "trainer.vision_learning_rate=0.001",
            "model.freeze_vision=false",
        ),
        ("train", ["video.backend=cv2"], "video.backend=cv2", "decord"),
        ("train", ["trainer.shared_prefix=maybe"], "trainer.shared_prefix=maybe", "auto"),
        ("train", ["run.seed=-1"], "run.seed=-1", "0"),
        ("build_data", ["data.mode=vsi"], "data.mode=vsi", "vsi100k"),
        ("build_data", ["data.dev_fraction=1"], "data.dev_fraction=1", "0.1"),
        ("build_data", ["video.source=folder"], "video.folder", "video.folder=DIR"),
        ("build_cot", ["cot.bridge=words"], "cot.bridge=words", "annotation"),
        ("build_cot", ["filters.names=[answer]"], "without `format`", "keep format"),
        ("build_cot", ["filters.names=[format,magic]"], "filters.names=magic", "repetition"),
        ("build_cot", ["reason.price_prompt=1"], "price_prompt=1", "both"),
        ("build_cot", ["reason.concurency=1"], "reason.concurency: unknown key", "reason.concurrency"),
        ("eval", ["scorer=magic"], "scorer=magic", "official"),
        # kinds that the library would take, or name in its own words
        ("train", ["trainer.hf=[1]"], "trainer.hf=[1]: a dict is needed", "{NAME: VALUE}"),
        ("train", ["trainer.report_to={a: 1}"], "trainer.report_to={a: 1}: a list is needed", "[VALUE]"),
        ("train", ["trainer.stages=[{report_to: {a: 1}}]"], "stages[0].report_to={'a': 1}: a list", "[VALUE]"),
        ("train", ["data.mix={a: 1}"], "data.mix={'a': 1}: a list is needed", "{NAME: VALUE}"),
        ("train", ["trainer.stages=[{1: 2}]"], "trainer.stages[0]={1: 2}: a dict is needed", "NAME: VALUE"),
        ("train", ["video=[1]"], "video=[1]: a section", "video.NAME=VALUE"),
        ("train", ["model.lora=[1]"], "model.lora=[1]: a section", "model.lora.NAME=VALUE"),
        ("train", ["model.lora.targets=q_proj"], "model.lora.targets=q_proj: a list", "model.lora.targets=[q_proj]"),
        ("train", ["model.lora.targets=[null]"], "model.lora.targets[0]=null: text is needed", "each text"),
        ("train", ["reward.names=[accuracy]", "reward.weights=[true]"], "weights[0]=True: a number", "each a number"),
        ("train", ["reward.names=[accuracy,accuracy]"], "one is in it twice", "reward.weights"),
        ("train", ["trainer.bf16='3'"], "trainer.bf16=3: true or false is needed", "true or false"),
        ("train", ["trainer.bf16=007"], "trainer.bf16=007: true or false is needed", "true or false"),
        ("train", ["trainer.max_steps='٣'"], "trainer.max_steps=٣: a whole number is needed", "whole number"),
        ("train", ["trainer.max_steps=٣"], "trainer.max_steps=٣: not in the grammar", "quotes"),
        ("train", ["prompt.system=[a"], "prompt.system=[a: not in the grammar", "quotes"),
        ("train", ["trainer..x=1"], "trainer..x=1: not a key", "SECTION.NAME"),
        ("train", ["trainer.LEARNING_RATE=1"], "trainer.LEARNING_RATE: unknown key", "trainer.learning_rate"),
        ("train", ["model=1"], "model=1: no such model", "tiny"),
        ("train", ["launch.auto=false"], "launch.auto=false: says how", "launch=cpu"),
        ("train", ["trainer.hf.average_tokens_across_devices=false"], "not available: the loss is", "leave it out"),
        ("train", ["trainer.hf.packing=true"], "not available: rows carry videos", "leave it out"),
        ("train", ["experiment=demo_eval"], "not made for `vsgrpo train`", "vsgrpo eval experiment=demo_eval"),
        ("eval", ["experiment=demo_grpo"], "not made for `vsgrpo eval`", "vsgrpo train grpo experiment=demo_grpo"),
        ("eval", ["launch=cpu"], "launch: unknown key", "decoding.layout"),
        ("eval", ["extract.temperature=1"], "extract.temperature=1: extract.model=null", "leave extract.temperature"),
        ("eval", ["benchmark=folder", "benchmark.subset=pruned"], "benchmark=folder has no subsets", "leave"),
        ("eval", ["prompt=thnk"], "prompt.mode=thnk: not one of the choices", "did you mean think?"),
        ("eval", ["prompt=[think]"], "prompt=[think]: one prompt is needed", "did you mean think?"),
        ("build_cot", ["pseudo=1"], "pseudo=1: a section", "pseudo.NAME=VALUE"),
        ("eval", ["decoding.num_samples=4"], "decoding.num_samples=4", "temperature"),
        ("train", ["dta=x"], "dta: unknown key", "did you mean data?"),
        # the letters of the section say nothing about the key
        ("train", ["trainer.lrr=1"], "trainer.lrr: unknown key", "did you mean trainer.learning_rate?"),
        ("train", ["trainer.lr=1"], "trainer.lr: unknown key", "did you mean trainer.learning_rate?"),
        ("train", ["trainer.foo=1"], "trainer.foo: unknown key", "`vsgrpo configs WORD` searches them"),
    ],
)
def test_wrong_input_names_the_key_and_the_way_out(root, overrides, message, hint):
    start = ["trainer=grpo"] if root == "train" else []
    with pytest.raises(ConfigError) as caught:
        load_config(root, [*start, *FOLDERS[root], *overrides])
    assert message in caught.value.message and "\n" not in caught.value.message
    assert hint in caught.value.hint and "\n" not in caught.value.hint


def test_a_missing_folder_is_named_unless_it_is_a_dry_run():
    with pytest.raises(ConfigError, match=r"run\.dir"):
        load_config("train", ["trainer=grpo", "data=d"])
    config = load_config("train", ["trainer=grpo"], allow_missing=True)
    assert config.data.path == config.run.dir == NOT_GIVEN


def test_the_users_folder_shadows_and_adds(tmp_path: Path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "model").mkdir()
    mine = "# @package _global_\ntrainer: {learning_rate: 0.5}\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(mine)
    (tmp_path / "experiment" / "vsgrpo_2b_v.yaml").write_text(mine)
    (tmp_path / "model" / "tiny.yaml").write_text((config_dir() / "model" / "tiny.yaml").read_text().replace("8", "4"))
    for name in ("mine", "vsgrpo_2b_v"):
        config = load_config("train", ["trainer=grpo", f"experiment={name}", "model=tiny", *FOLDERS["train"]], tmp_path)
        assert config.trainer.learning_rate == 0.5
        assert config.model.lora.r == 4
    assert "mine" in config_groups(tmp_path)["experiment"]
    assert load_config("train", ["trainer=grpo", "model=tiny", *FOLDERS["train"]]).model.lora.r == 8


def test_an_unknown_key_in_a_users_experiment_is_named(tmp_path: Path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "bad.yaml").write_text("# @package _global_\ntrainer: {learning_rat: 0.5}\n")
    with pytest.raises(ConfigError, match="learning_rat") as caught:
        load_config("train", ["trainer=grpo", "experiment=bad", *FOLDERS["train"]], tmp_path)
    assert "trainer.learning_rate" in caught.value.hint


@pytest.mark.parametrize("value", ["cpu", "null", "[1]", "1"])
@pytest.mark.parametrize("section", ["launch", "run"])
def test_an_experiment_whose_section_is_a_word_is_refused(tmp_path: Path, section, value):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "word.yaml").write_text(f"# @package _global_\n{section}: {value}\n")
    with pytest.raises(ConfigError, match=rf"^{section}(=.*)?: a section, it has no value of its own") as caught:
        load_config("train", ["trainer=grpo", "experiment=word", *FOLDERS["train"]], tmp_path)
    assert f"{section}.NAME=VALUE" in caught.value.hint


def test_an_interpolation_of_launch_that_leads_nowhere_is_named():
    with pytest.raises(ConfigError, match=r"use_cpu: .*nowhere"):
        load_config("train", ["trainer=grpo", "launch.use_cpu=${nowhere}", *FOLDERS["train"]])


def test_a_missing_config_dir_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="not a folder"):
        load_config("train", ["trainer=grpo", *FOLDERS["train"]], tmp_path / "none")


def test_the_written_config_reads_back_equal(tmp_path: Path):
    config = load_config("train", ["trainer=grpo", "experiment=demo_grpo", "trainer.hf.top_h=1"][:2] + FOLDERS["train"])
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert load_resolved(tmp_path / "config.yaml") == config


def test_hf_options_reach_the_open_section():
    config = load_config("train", ["trainer=grpo", "trainer.hf.logging_first_step=true", *FOLDERS["train"]])
    assert config.trainer.hf == {"logging_first_step": True}
    config = load_config("train", ["trainer=grpo", "trainer.hf={logging_first_step: true}", *FOLDERS["train"]])
    assert config.trainer.hf == {"logging_first_step": True}


@pytest.mark.parametrize(
    "value", [None, True, 4, 0.5, "a b", "m:f", ["m:f", "accuracy"], [{"max_steps": 4}], {"a": None}]
)
def test_a_value_in_a_hint_reads_back_from_the_shell(value):
    import shlex

    from hydra.core.override_parser.overrides_parser import OverridesParser

    (word,) = shlex.split(f"key={override_text(value)}")
    assert OverridesParser.create().parse_override(word).value() == value


def test_known_keys_and_fields_are_what_errors_suggest_from():
    assert {"trainer.num_generations", "model.lora.r", "run.dir", "experiment"} <= set(known_keys("train"))
    assert prepare_overrides("train", ["trainer.hf.logging_first_step=true"]) == [
        "++trainer.hf.logging_first_step=true"
    ]


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_NTASKS"])
@pytest.mark.parametrize("value", ["x", "", "-1", "2(x3)"])
def test_a_launchers_variable_that_is_no_number_is_named(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    for root in ("train", "eval"):
        with pytest.raises(SetupError, match=f"{name}=.*: launchers set it"):
            load_config(root, [*(["trainer=grpo"] if root == "train" else []), *FOLDERS[root]])


@pytest.mark.parametrize(
    ("value", "key"), [("prompt.system=${x}", "prompt.system"), ("prompt.system=${run.none}", "prompt.system")]
)
def test_an_interpolation_of_a_key_that_is_not_there_names_the_key(value, key):
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")) as error:
        load_config("train", ["trainer=grpo", "model=tiny", "data=d", "output=o", value])
    assert error.value.hint == "`${...}` must name another key"
    with pytest.raises(ConfigError):
        load_config("train", ["trainer=grpo", "model=tiny", value], allow_missing=True)
