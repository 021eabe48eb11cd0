"""Every option of the pinned TRL has one place, what is passed on acts, and defaults change no formula unseen."""

import dataclasses
import functools
import json
import tomllib
from pathlib import Path

import pytest
import torch
from tiny_runs import LORA, SPREAD, make_trainer
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.sft_config import SFTConfig

from vsgrpo.config import trainer
from vsgrpo.config.compose import load_config
from vsgrpo.config.trainer import NO_TRL_FIELD, OURS_BUT_NOT_PASSED, TRAINERS, refuse_option
from vsgrpo.config.trl_options import FIXED, PASSED, REFUSED, SCHEDULERS
from vsgrpo.errors import ConfigError
from vsgrpo.training.stages import trl_config

KINDS = {"grpo": GRPOConfig, "sft": SFTConfig, "dpo": DPOConfig}
GIVEN = ["data=d", "output=o", "model=tiny"]


@functools.cache
def valid(method):
    """Return a configuration of a method; composed once, Hydra takes a tenth of a second."""
    return load_config("train", [f"trainer={method}", *GIVEN])


def names(cls):
    return {item.name for item in dataclasses.fields(cls)}


@pytest.mark.parametrize("method", list(KINDS))
def test_every_field_of_the_installed_trl_is_in_exactly_one_place(method):
    ours = names(TRAINERS[method]) - set(NO_TRL_FIELD)
    places = [ours, set(FIXED), set(PASSED), set(REFUSED)]
    for name in names(KINDS[method]):
        found = sum(name in place for place in places)
        # a field that is ours for one method may be refused for another that has it too (loss_type of SFT)
        assert found == 1 or (found == 0 and (method, name) == ("sft", "loss_type")), (name, found)
    assert ours <= names(KINDS[method]), "a key of ours under a name that TRL does not have"


def test_the_table_names_nothing_that_trl_does_not_have():
    known = set().union(*map(names, KINDS.values()))
    assert {*FIXED, *PASSED, *REFUSED, *OURS_BUT_NOT_PASSED} <= known
    for name, passed in PASSED.items():
        assert all(name in names(KINDS[method]) for method in passed.methods), name


def test_the_table_names_no_option_twice():
    table = tomllib.loads(Path(trainer.__file__).with_name("trl_options.toml").read_text())
    options = [*table["fixed"], *(name for group in table["refused"] for name in group["options"].split())]
    assert len(options) == len(set(options)) == len(FIXED) + len(REFUSED)


@pytest.mark.parametrize("method", list(KINDS))
def test_every_other_field_is_refused_with_its_reason_and_a_way_out(method):
    """By the section itself, so that experiments and `load_config` are refused too; no hint names a refused option."""
    section = valid(method).trainer
    passed = {name for name, option in PASSED.items() if method in option.methods}
    for name in sorted(names(KINDS[method]) - passed):
        for value in (None, True, 0.5, "x"):
            with pytest.raises(ConfigError) as caught:
                dataclasses.replace(section, hf={name: value})
        error = caught.value
        assert error.message.startswith(f"trainer.hf.{name}: "), error.message
        assert (
            error.hint
            and "\n" not in error.hint
            and "trainer.hf." not in error.hint.replace("trainer.hf.steps_per_generation", "")
        )
        if "use trainer." in error.hint:  # no circle: the key named is there
            assert error.hint.rpartition(".")[2] in names(type(section)), error.hint


def test_an_option_of_another_method_and_a_slip_are_told_apart():
    for key, message, hint in (
        ("trainer.hf.loss_type", "SFT has one loss", "neither dft"),
        ("trainer.loss_type", "SFT has one loss", "neither dft"),
        ("trainer.hf.beta", "not an option of `train sft`", "`train grpo` and `train dpo`"),
        ("trainer.hf.sapo_temperature_pos", "not an option of `train sft`", "`train grpo`"),
        ("trainer.hf.logging_first_stp", "not an option of TRL", "trainer.hf.logging_first_step"),
        ("trainer.logging_first_step", "unknown key", "trainer.hf.logging_first_step"),
        ("trainer.eval_strategy", "does not evaluate itself", "vsgrpo eval"),
    ):
        error = refuse_option("sft", key)
        assert error is not None and message in error.message and hint in error.hint, error
    with pytest.raises(ConfigError, match="SFT has one loss"):  # the key does not exist: told by the same table
        load_config("train", ["trainer=sft", *GIVEN, "trainer.loss_type=dft"])


# Formula-changing fields that are no key of ours, and the value at which they change nothing.
NEUTRAL = {
    "grpo": {
        "use_vllm": False,  # no importance weights of another sampler
        "use_adaptive_entropy": False,
        "entropy_coef": 0.0,
        "label_smoothing_factor": 0.0,
        "repetition_penalty": 1.0,
        "cast_lm_head_to_fp32": False,
        "neftune_noise_alpha": None,
        "router_aux_loss_coef": None,
        "sync_ref_model": False,
        "optim_args": None,
        "optim_target_modules": None,
        "lr_scheduler_kwargs": None,
        "steps_per_generation": None,  # as gradient_accumulation_steps: one rollout buffer per update
        "use_liger_kernel": False,
        "fp16": False,
    },
    "sft": {"label_smoothing_factor": 0.0, "neftune_noise_alpha": None, "loss_type": "nll", "packing": False},
    "dpo": {
        "label_smoothing": 0.0,
        "label_smoothing_factor": 0.0,
        "ld_alpha": None,
        "f_divergence_type": "reverse_kl",
        "use_weighting": False,
        "loss_weights": None,
        "sync_ref_model": False,
        "precompute_ref_log_probs": False,
    },
}


@pytest.mark.parametrize("method", list(KINDS))
def test_formula_changing_options_without_a_key_of_ours_are_neutral_by_default(method):
    defaults = {item.name: item.default for item in dataclasses.fields(KINDS[method])}
    assert {name: defaults[name] for name in NEUTRAL[method]} == NEUTRAL[method]
    assert all(name in REFUSED or name in PASSED or name in FIXED or name == "loss_type" for name in NEUTRAL[method])


def test_losses_alone_use_the_passed_temperatures():
    """sapo_* and vespo_* need no key: no other loss reads them, and giving them without their loss is refused."""
    for name in ("sapo_temperature_pos", "vespo_k_neg"):
        with pytest.raises(ConfigError, match="does not use it"):
            dataclasses.replace(valid("grpo").trainer, hf={name: 2})


def test_dropout_is_that_of_lora_for_every_method():
    for method in ("grpo", "dpo"):
        assert trl_config(valid(method)).disable_dropout is False


@pytest.mark.parametrize("scheduler", list(SCHEDULERS))
def test_every_schedule_takes_the_arguments_of_its_row(scheduler):
    from transformers import get_scheduler

    values = {"num_decay_steps": 2, "min_lr": 1e-6, "lr_end": 1e-6, "min_lr_ratio": 0.1}
    left_out = ("min_lr_rate", "num_stable_steps")  # beside others of their row
    given = {name: values.get(name, 1) for name in SCHEDULERS[scheduler] if name not in left_out}
    config = valid("sft")
    section = dataclasses.replace(
        config.trainer, lr_scheduler_type=scheduler, warmup_steps=0.0, hf={"lr_scheduler_kwargs": given}
    )
    args = trl_config(dataclasses.replace(config, trainer=section))
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
    schedule = get_scheduler(args.lr_scheduler_type, optimizer, 0, 4, args.lr_scheduler_kwargs)
    optimizer.step()
    schedule.step()
    assert optimizer.param_groups[0]["lr"] > 0
    for extra in ({"x": 1}, dict.fromkeys(given, -1) or {"num_cycles": 1}):
        with pytest.raises(ConfigError, match="lr_scheduler_kwargs"):
            dataclasses.replace(section, hf={"lr_scheduler_kwargs": {**given, **extra}})


def test_a_schedule_does_not_end_above_its_start():
    section = valid("sft").trainer
    for scheduler, kwargs in (("polynomial", {"lr_end": 1.0}), ("cosine_with_min_lr", {"min_lr": 1.0})):
        with pytest.raises(ConfigError, match=r"not below trainer\.learning_rate"):
            dataclasses.replace(section, lr_scheduler_type=scheduler, hf={"lr_scheduler_kwargs": kwargs})


def test_the_least_rate_is_a_share_of_the_first():
    """A factor of 5 let the rate rise to 5 times trainer.learning_rate where it should fall."""
    section = valid("sft").trainer
    for scheduler, given in (
        ("cosine_with_min_lr", {"min_lr_rate": 0.0}),
        ("warmup_stable_decay", {"num_decay_steps": 2, "min_lr_ratio": 0.0}),
    ):
        name = list(given)[-1]
        for share in (0.0, 0.5):
            kwargs = {**given, name: share}
            dataclasses.replace(section, lr_scheduler_type=scheduler, hf={"lr_scheduler_kwargs": kwargs})
        for share in (1, 5, -0.1):
            kwargs = {**given, name: share}
            with pytest.raises(ConfigError, match=rf"{name}={share}: must be at least 0 and below 1"):
                dataclasses.replace(section, lr_scheduler_type=scheduler, hf={"lr_scheduler_kwargs": kwargs})


# --- what is passed on acts, and so do the keys that change the formula ----------------------------------------------

TWO_REWARDS = "reward.names=[spread_reward:spread,spread_reward:thirds]"
STEP = ("model.freeze_vision=true", "trainer.beta=0.5", "trainer.temperature=0.9")


def score(trainer, batch):
    """Return the log-probs of a microbatch, with gradient."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    trainer._samples = batch["samples"]
    return trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, batch["completion_ids"].size(1))[0]


def noise(like, seed):
    return 0.8 * torch.rand(like.shape, generator=torch.Generator().manual_seed(seed)) - 0.4


def make_batch(trainer, off_policy=True):
    """Roll out two groups of four; policy and reference are then moved, so that ratios and KL are not 1 and 0."""
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    batch = trainer._generate_and_score_completions([dict(trainer.train_dataset[i]) for i in (0, 2) for _ in range(4)])
    for row, mask in enumerate(batch["completion_mask"]):
        mask[3 + row :] = 0  # ragged: random weights seldom end a completion
    own = score(trainer, batch).detach()
    batch["ref_per_token_logps"] = own + noise(own, 1)
    if off_policy:
        batch["old_per_token_logps"] = own + noise(own, 2)
    return batch


def gradient_of(trainer, loss):
    trainer.model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


def step_gradient(make_config, *words):
    """Return the gradient of one GRPO step under a configuration, all parameters in one row."""
    trainer = make_trainer(make_config("grpo", TWO_REWARDS, *STEP, *words))
    return gradient_of(trainer, trainer._compute_loss(trainer.model, make_batch(trainer)))


SAPO, VESPO = "trainer.loss_type=sapo", "trainer.loss_type=vespo"
ACTING = {
    (): [
        *("trainer.beta=0.1", "trainer.use_bias_correction_kl=true", "trainer.epsilon=0.1", "trainer.epsilon_high=0.3"),
        *("trainer.delta=1.21", "trainer.importance_sampling_level=sequence", "trainer.top_entropy_quantile=0.5"),
        *("trainer.off_policy_mask_threshold=1e-6", "trainer.mask_truncated_completions=true"),
        *("trainer.multi_objective_aggregation=normalize_then_sum", "trainer.scale_rewards=none"),
        *("trainer.scale_rewards=batch", "trainer.loss_type=bnpo", "trainer.loss_type=dr_grpo"),
        *("trainer.loss_type=dapo", "trainer.loss_type=luspo", SAPO, VESPO, "reward.weights=[1,2]"),
        *("trainer.temperature=1.2", "trainer.top_p=0.5", "trainer.top_k=2", "trainer.min_p=0.5"),
    ],
    (SAPO,): ["trainer.hf.sapo_temperature_pos=3", "trainer.hf.sapo_temperature_neg=3"],
    (VESPO,): [
        *("trainer.hf.vespo_k_pos=1", "trainer.hf.vespo_k_neg=1"),
        *("trainer.hf.vespo_lambda_pos=1", "trainer.hf.vespo_lambda_neg=1"),
    ],
    ("trainer.loss_type=cispo", "trainer.epsilon_high=1"): ["trainer.epsilon_high=1.2"],
}


@pytest.mark.integration
@pytest.mark.parametrize("base", list(ACTING), ids=lambda base: "+".join(base) or "default")
def test_an_option_changes_the_gradient_of_a_step(make_config, base):
    """Through the configuration and a real step: an option that TRL stopped reading would be found here."""
    before = step_gradient(make_config, *base)
    assert before.norm() > 0
    assert torch.equal(before, step_gradient(make_config, *base))
    for option in ACTING[base]:
        changed = step_gradient(make_config, *base, option)
        assert (changed - before).norm() > 1e-3 * before.norm(), option


FORMULA = {
    "beta": 0.1,
    "epsilon": 0.1,
    "epsilon_high": 1.1,
    "delta": 1.21,
    "use_bias_correction_kl": True,
    "importance_sampling_level": "sequence",
    "top_entropy_quantile": 0.5,
    "off_policy_mask_threshold": 1e-6,
    "scale_rewards": "none",
    "multi_objective_aggregation": "normalize_then_sum",
}
"""Keys of the loss, and a value that is not the default."""
BESIDE = (
    ({}, tuple(FORMULA)),
    ({"use_bias_correction_kl": True}, ("importance_sampling_level",)),
    ({"beta": 0.0}, ("use_bias_correction_kl",)),
    ({"multi_objective_aggregation": "normalize_then_sum"}, ("scale_rewards",)),
)
CLIPPED = [pytest.param(name, marks=pytest.mark.slow) for name in ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")]
"""Other means over the same terms; ACTING has `grpo`."""


@pytest.mark.integration
@pytest.mark.parametrize("loss", ["cispo", "sapo", "vespo", *CLIPPED])
def test_a_key_changes_the_gradient_of_a_loss_or_is_refused_beside_it(make_config, loss):
    """Off-policy: on-policy every ratio is 1, and what acts on ratios could not be told."""
    config = make_config("grpo", TWO_REWARDS, *STEP)
    start = {"loss_type": loss, "epsilon_high": 1.0 if loss == "cispo" else None}

    def gradient(section):
        trainer = make_trainer(dataclasses.replace(config, trainer=section))
        return gradient_of(trainer, trainer._compute_loss(trainer.model, make_batch(trainer)))

    for beside, names in BESIDE:
        before = gradient(dataclasses.replace(config.trainer, **start, **beside))
        for name in names:
            try:
                section = dataclasses.replace(config.trainer, **{**start, **beside, name: FORMULA[name]})
            except ConfigError:
                continue
            acts = (gradient(section) - before).norm() > 1e-3 * before.norm()
            assert acts == (name not in section.unused()), (name, beside)


@pytest.mark.integration
def test_the_kl_term_has_the_papers_gradient(make_config):
    """arXiv 2402.03300 eq. 4: k3 = exp(d) - d - 1 with d = reference - policy, weighted by beta and nothing else.

    TRL 1.16's default multiplies by the ratio of policy to old policy: on-policy the same value, another gradient.
    """
    trainer = make_trainer(make_config("grpo", SPREAD, *STEP))
    batch = make_batch(trainer, off_policy=False)
    batch["advantages"] = torch.zeros_like(batch["advantages"])  # the KL term alone is left
    found = gradient_of(trainer, trainer._compute_loss(trainer.model, batch))
    mask = batch["completion_mask"]
    difference = batch["ref_per_token_logps"] - score(trainer, batch)
    k3 = torch.exp(difference) - difference - 1
    expected = gradient_of(trainer, 0.5 * ((k3 * mask).sum(-1) / mask.sum(-1)).mean())
    assert (found - expected).norm() < 1e-5 * expected.norm()

    trainer.args.use_bias_correction_kl = True  # TRL's way, asked for
    other = gradient_of(trainer, trainer._compute_loss(trainer.model, batch))
    assert (other - expected).norm() > 1e-2 * expected.norm()


@pytest.mark.integration
def test_dropout_of_lora_acts_in_dpo(make_config):
    """TRL's DPO switches dropout off by default: model.lora.dropout was accepted and did nothing."""
    found = {}
    for value in ("0", "0.5"):
        words = (*LORA, f"model.lora.dropout={value}", "trainer.per_device_train_batch_size=2")
        trainer = make_trainer(make_config("dpo", *words, name=f"dropout{value}"))
        trainer.model.train()
        torch.manual_seed(0)
        rows = trainer.data_collator([trainer.train_dataset[i] for i in range(2)])
        found[value] = gradient_of(trainer, trainer.compute_loss(trainer.model, rows))
    assert (found["0.5"] - found["0"]).norm() > 1e-2 * found["0"].norm()


def log_lines(config):
    lines = (Path(config.run.dir) / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [line for line in map(json.loads, lines) if "loss" in line]


@pytest.mark.integration
def test_options_of_rollouts_and_files_change_batches_and_files(make_config):
    from vsgrpo.training.worker import train

    few = ("trainer.num_generations=2", "trainer.per_device_train_batch_size=4", "trainer.logging_steps=3")
    few += ("trainer.gradient_accumulation_steps=2", "trainer.save_steps=2")
    options = ("trainer.hf.num_completions_to_print=1", "trainer.hf.logging_first_step=true")
    options += ("trainer.hf.steps_per_generation=4",)
    counts, steps = {}, {}
    for name, words in (("plain", ()), ("other", options)):
        config = make_config("grpo", SPREAD, *few, *words, name=name)
        assert train(config) == 0
        written = (Path(config.run.dir) / "completions.jsonl").read_text(encoding="utf-8").splitlines()
        counts[name] = [json.loads(line)["step"] for line in written]
        steps[name] = [line["step"] for line in log_lines(config)]
    # logging_steps=3 is more than the two steps: the last one is logged all the same
    # plain: one buffer of 2 x 4 completions per update; other: one of 4 x 4 for both updates, its first one written
    assert counts == {"plain": [0] * 8 + [1] * 8, "other": [0]}
    assert steps == {"plain": [2], "other": [1, 2]}


@pytest.mark.integration
def test_arguments_of_the_schedule_change_the_learning_rate(make_config):
    from vsgrpo.training.worker import train

    rates = {}
    for name, value in (("low", 1e-6), ("high", 1e-3)):
        words = ("trainer.lr_scheduler_type=cosine_with_min_lr", "trainer.learning_rate=2e-3", "trainer.warmup_steps=0")
        config = make_config("sft", *words, f"trainer.hf.lr_scheduler_kwargs.min_lr={value}", name=name)
        assert train(config) == 0
        rates[name] = [line["learning_rate"] for line in log_lines(config)]
    # half way down the cosine: (2e-3 + min_lr) / 2
    assert rates["low"] == pytest.approx([2e-3, 1.0005e-3]) and rates["high"] == pytest.approx([2e-3, 1.5e-3])
