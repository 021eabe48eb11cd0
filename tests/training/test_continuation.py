"""Which runs may go on: the same values, and as many processes as the optimizer's state was cut into."""

import functools
import json
from dataclasses import replace

import pytest
from omegaconf import OmegaConf

from vsgrpo.config.compose import load_config
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.families.vision_record import with_rules
from vsgrpo.launch.start import as_started
from vsgrpo.training.run_folder import prepare_run_folder

pytestmark = pytest.mark.integration


@functools.cache
def config_of(launch, num_processes, batch, *overrides):
    given = [
        "trainer=grpo",
        "data=d",
        "output=r",
        "model=tiny",
        "model.freeze_vision=true",
        f"launch={launch}",
        *overrides,
    ]
    given += [f"launch.num_processes={num_processes}", f"trainer.per_device_train_batch_size={batch}"]
    return load_config("train", given)


def prepare(folder, *given, resume=False):
    config = config_of(*given)
    config = replace(config, run=replace(config.run, dir=str(folder)))
    config = with_rules(as_started(config, []) if resume else config)  # as `launch_training` does
    prepare_run_folder(folder, config, [], resume=resume, overwrite=False)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("zero2", 2), ("zero2", 1)),
        (("zero3", 2), ("zero3", 4)),
        (("zero3", 2), ("zero2", 2)),
        (("ddp", 2), ("zero2", 2)),
    ],
)
def test_a_sharded_state_goes_on_in_as_many_parts_only(before, after, tmp_path):
    prepare(tmp_path / "run", *before, 4)
    with pytest.raises(ConfigError) as caught:
        prepare(tmp_path / "run", *after, 4 * before[1] // after[1], resume=True)
    expected = f"launch={after[0]} with launch.num_processes={after[1]}: the checkpoints hold the optimizer state in "
    assert caught.value.message == f"{expected}{before[1]} parts of launch={before[0]}"
    assert f"resume with launch={before[0]} launch.num_processes={before[1]}" in caught.value.hint
    prepare(tmp_path / "run", *before, 4, resume=True)


def test_between_two_stages_a_sharded_run_goes_on_with_any_number(tmp_path):
    prepare(tmp_path / "run", "zero3", 2, 4)
    checkpoint = tmp_path / "run" / "checkpoint-10"
    checkpoint.mkdir()
    state = {"checkpoints": {"9": {"stage": 0, "step": 9}, "10": {"stage": 0, "step": 10}}}
    (tmp_path / "run" / "run.json").write_text(json.dumps(state))
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": 10, "max_steps": 12}))
    with pytest.raises(ConfigError, match="hold the optimizer state in 2 parts"):
        prepare(tmp_path / "run", "cpu", 1, 8, resume=True)
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": 10, "max_steps": 10}))
    with pytest.raises(ConfigError, match="samples per microbatch"):
        prepare(tmp_path / "run", "cpu", 1, 4, resume=True)
    prepare(tmp_path / "run", "cpu", 1, 8, resume=True)


def test_a_whole_state_goes_on_with_the_same_samples_per_step(tmp_path):
    prepare(tmp_path / "run", "ddp", 4, 4)
    with pytest.raises(ConfigError) as caught:
        prepare(tmp_path / "run", "ddp", 2, 4, resume=True)
    assert "4 x 2 samples per microbatch, the run was started with 4 x 4" in caught.value.message
    assert "trainer.per_device_train_batch_size=8" in caught.value.hint  # 4 x 4 = 16 = 8 x 2
    prepare(tmp_path / "run", "ddp", 2, 8, resume=True)
    prepare(tmp_path / "run", "cpu", 1, 16, resume=True)


def test_patience_and_limits_may_change_values_may_not(tmp_path):
    prepare(tmp_path / "run", "ddp", 2, 4)
    prepare(tmp_path / "run", "ddp", 2, 4, "launch.timeout_s=60", "video.max_quarantined=0.5", resume=True)
    with pytest.raises(ConfigError, match=r"trainer.beta=0.5: the run in .* was started with"):
        prepare(tmp_path / "run", "ddp", 2, 4, "trainer.beta=0.5", resume=True)


def test_a_run_from_before_a_key_was_there_goes_on_with_what_it_did(tmp_path):
    """Runs had TRL's KL correction before it was a key: the paper's default must not take over in their middle."""
    prepare(tmp_path / "run", "cpu", 1, 14)
    file = tmp_path / "run" / "config.yaml"
    new = ("use_bias_correction_kl", "optim:", "adam_epsilon", "min_p:", "epsilon_high", "delta:", "off_policy_mask")
    new += ("multi_objective", "importance_sampling_level", "top_entropy_quantile", "mask_truncated")
    lines = file.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not line.strip().startswith(new)]
    assert len(kept) == len(lines) - len(new)
    file.write_text("\n".join(kept) + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"use_bias_correction_kl=false: the run in .* was started with true"):
        prepare(tmp_path / "run", "cpu", 1, 14, resume=True)
    prepare(tmp_path / "run", "cpu", 1, 14, "trainer.use_bias_correction_kl=true", resume=True)


def test_a_run_keeps_where_its_text_goes_on_after_a_video(tmp_path):
    """A run without the key is of before it, when the library's positions were the only ones."""
    key, file = "model.text_after_video", tmp_path / "run" / "config.yaml"
    prepare(tmp_path / "run", "cpu", 1, 14)
    assert "text_after_video: published" in file.read_text(encoding="utf-8")
    prepare(tmp_path / "run", "cpu", 1, 14, f"{key}=published", resume=True)
    with pytest.raises(ConfigError, match=f"{key}=library: the run in .* was started with published") as caught:
        prepare(tmp_path / "run", "cpu", 1, 14, f"{key}=library", resume=True)
    assert caught.value.hint.startswith(f"resume with {key}=published, or")
    edit(tmp_path / "run", model={"text_after_video": None})
    with pytest.raises(ConfigError, match=f"{key}=published: the run in .* was started with library"):
        prepare(tmp_path / "run", "cpu", 1, 14, f"{key}=published", resume=True)
    prepare(tmp_path / "run", "cpu", 1, 14, resume=True)
    assert "text_after_video: library" in file.read_text(encoding="utf-8")


def edit(folder, **sections):
    """Change keys in the config.yaml of a run, as an earlier version would have written them; None takes a key out."""
    file = folder / "config.yaml"
    values = OmegaConf.to_container(OmegaConf.load(file))
    for name, changed in sections.items():
        merged = {**values[name], **changed}
        values[name] = {key: value for key, value in merged.items() if value is not None}
    file.write_text(OmegaConf.to_yaml(OmegaConf.create(values)), encoding="utf-8")


def test_an_option_of_before_that_has_its_own_key_now_is_resumed_by_that(tmp_path):
    prepare(tmp_path / "run", "cpu", 1, 14)
    options = {"epsilon_high": 0.28, "use_bias_correction_kl": False, "logging_first_step": True}
    edit(tmp_path / "run", trainer={"epsilon_high": None, "use_bias_correction_kl": None, "hf": options})
    with pytest.raises(ConfigError) as caught:
        prepare(tmp_path / "run", "cpu", 1, 14, resume=True)
    words = "trainer.hf='{logging_first_step: true}' trainer.epsilon_high=0.28"
    assert caught.value.hint.startswith(f"resume with {words}, or")
    words = [word.replace("'", "") for word in words.rsplit(" ", 1)]  # as a shell reads them
    prepare(tmp_path / "run", "cpu", 1, 14, *words, resume=True)


@pytest.mark.parametrize(
    ("section", "changed", "reason"),
    [
        ("trainer", {"hf": {"entropy_coef": 0.1}}, "trainer.hf.entropy_coef: not available: entropies"),
        ("trainer", {"hf": {"optim": "adafactor"}, "optim": None}, "trainer.optim=adafactor: not one of"),
        ("trainer", {"epsilon_high": -0.5}, "trainer.epsilon_high=-0.5: must be above 0"),
        ("trainer", {"learning_rate": [1]}, "trainer.learning_rate=[1]: a number is needed"),
        ("video", {"backend": "cv2"}, "video.backend=cv2: not one of"),
    ],
)
def test_a_run_started_with_what_is_refused_now_says_so(tmp_path, section, changed, reason):
    """Its hint named words that were refused in turn: the way out is another run."""
    prepare(tmp_path / "run", "cpu", 1, 14)
    edit(tmp_path / "run", **{section: changed})
    with pytest.raises(ConfigError) as caught:
        prepare(tmp_path / "run", "cpu", 1, 14, resume=True)
    assert caught.value.message.startswith(
        f"run.dir={tmp_path / 'run'}: was started with what is refused now: {reason}"
    )
    assert "start a new run from model.path=CHECKPOINT" in caught.value.hint


def test_what_changes_nothing_is_not_compared(tmp_path):
    """Accepted when the run was started, refused on a command line now: neither value could be given."""
    words = ("trainer.beta=0", "trainer.loss_type=sapo")
    prepare(tmp_path / "run", "cpu", 1, 14, *words)
    edit(tmp_path / "run", trainer={"epsilon": 0.1, "use_bias_correction_kl": True}, model={"lora": {"r": 99}})
    prepare(tmp_path / "run", "cpu", 1, 14, *words, resume=True)
    with pytest.raises(ConfigError) as caught:  # nor do the words that a hint names hold it
        prepare(tmp_path / "run", "cpu", 1, 14, "trainer.beta=0", resume=True)
    assert caught.value.hint.startswith("resume with trainer.loss_type=sapo, or")


def test_what_changes_nothing_in_a_stage_is_not_compared(tmp_path):
    stages = "trainer.stages=[{loss_type: sapo},{loss_type: dapo}]"
    prepare(tmp_path / "run", "cpu", 1, 14, stages)
    edit(tmp_path / "run", trainer={"stages": [{"loss_type": "sapo", "epsilon": 0.1}, {"loss_type": "dapo"}]})
    prepare(tmp_path / "run", "cpu", 1, 14, stages, resume=True)
    edit(tmp_path / "run", trainer={"stages": [{"loss_type": "sapo"}, {"loss_type": "dapo", "epsilon": 0.1}]})
    with pytest.raises(ConfigError, match=r"trainer.stages\[1\]=.*: the run was started with"):
        prepare(tmp_path / "run", "cpu", 1, 14, stages, resume=True)


def test_a_run_of_another_method_is_named(tmp_path):
    prepare(tmp_path / "run", "cpu", 1, 14)
    with pytest.raises(ConfigError, match=r"train sft: the run in .* was started with `train grpo`") as caught:
        prepare(tmp_path / "run", "cpu", 1, 14, "trainer=sft", resume=True)
    assert "resume with `vsgrpo train grpo`" in caught.value.hint


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("launch", "cpu", "launch='cpu': must be an object"),
        ("launch", None, "launch='None': must be an object"),
        ("trainer", [1], "trainer='[1]': must be an object"),
        ("video", 3, "video='3': must be an object"),
        ("launch.num_processes", None, "launch.num_processes: is missing"),
        ("launch.num_processes", "two", "launch.num_processes='two': must be a whole number"),
        ("trainer.max_steps", "many", "trainer.max_steps='many': must be a whole number"),
        ("trainer.stages", ["a"], "trainer.stages.0='a': must be an object"),
        ("trainer.hf", "x", "trainer.hf='x': must be an object"),
    ],
)
def test_a_config_of_a_run_with_other_kinds_of_values_is_refused(tmp_path, key, value, message):
    prepare(tmp_path / "run", "cpu", 1, 14)
    file = tmp_path / "run" / "config.yaml"
    content = OmegaConf.load(file)
    OmegaConf.update(content, key, value, merge=False)
    file.write_text(OmegaConf.to_yaml(content), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        prepare(tmp_path / "run", "cpu", 1, 14, resume=True)
    assert caught.value.message == f"{file}: {message}" and caught.value.hint == "restore the file that the run wrote"
