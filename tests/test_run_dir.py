"""Which runs may go on: the same values, and as many processes as the optimizer's state was cut into."""

import functools
import json
from dataclasses import replace

import pytest

from vsgrpo.config import load_config
from vsgrpo.errors import ConfigError
from vsgrpo.run_dir import prepare_run_folder


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
