import pytest
from tiny_runs import make_rows

from vsgrpo.errors import ConfigError
from vsgrpo.training.arguments import trl_config
from vsgrpo.training.preflight import buffer_steps, check_enough_rows, check_stages

PAPER = {
    "loss_type": "grpo",
    "scale_rewards": "group",
    "use_bias_correction_kl": False,
    "importance_sampling_level": "token",
    "top_entropy_quantile": 1.0,
    "mask_truncated_completions": False,
    "off_policy_mask_threshold": None,
    "epsilon_high": None,
    "delta": None,
    "epsilon": 0.2,
    "num_iterations": 1,
    "beta": 1e-4,
    "num_generations": 14,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "learning_rate": 1e-5,
}


def paper_config(*overrides):
    from vsgrpo.config import load_config

    given = ["trainer=grpo", "experiment=vsgrpo_2b_v", "data=rows", "output=run", "launch=cpu"]
    return load_config("train", [*given, "launch.num_processes=1", "trainer.bf16=false", *overrides])


def test_the_papers_values_reach_trl():
    args = trl_config(paper_config())
    assert {name: getattr(args, name) for name in PAPER} == PAPER
    assert args.use_cpu and not args.bf16
    assert args.logging_nan_inf_filter is False
    assert args.per_device_train_batch_size == 14 and args.gradient_accumulation_steps == 8


def test_a_stage_overrides_the_trainer_section():
    config = paper_config("trainer.stages=[{max_steps: 5}, {max_steps: 7, learning_rate: 2e-5}]")
    assert [trl_config(config, n).max_steps for n in (0, 1)] == [5, 7]
    assert [trl_config(config, n).learning_rate for n in (0, 1)] == [1e-5, 2e-5]


def test_hf_options_reach_trl_and_ours_are_refused():
    assert trl_config(paper_config("+trainer.hf.logging_first_step=true")).logging_first_step is True
    with pytest.raises(ConfigError, match="use_vllm"):
        trl_config(paper_config("+trainer.hf.use_vllm=true"))


def test_checkpoints_inside_a_rollout_buffer_are_refused():
    # 24 microbatches a buffer, 8 an update: a buffer lasts 3 updates.
    config = paper_config("+trainer.hf.steps_per_generation=24", "trainer.save_steps=100")
    with pytest.raises(ConfigError, match="lasts 3 optimizer steps") as error:
        check_stages(config)
    assert "99 or 102" in error.value.hint
    assert buffer_steps(config.trainer) == 3
    config = paper_config("+trainer.hf.steps_per_generation=24", "trainer.save_steps=2")
    with pytest.raises(ConfigError) as error:
        check_stages(config)
    assert error.value.hint == "set trainer.save_steps=3"


def test_too_few_rows_for_a_buffer_are_refused_as_trl_counts_them():
    config, rows = paper_config(), [row for scene in range(4) for row in make_rows(scene)]
    args = trl_config(config)  # 14 x 8 completions / 14 = 8 questions
    assert args.generation_batch_size // args.num_generations == 8
    check_enough_rows(config, rows)
    with pytest.raises(ConfigError, match="takes 8 "):
        check_enough_rows(config, rows[:7])
