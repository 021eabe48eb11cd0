"""TRL's and transformers' options: which are keys of ours, set by every run, passed on, or refused with the reason.

Every field of the pinned GRPOConfig, SFTConfig and DPOConfig (TrainingArguments included) has exactly one place:

- ours: a field of a trainer section under TRL's own name (configs/trainer/*.yaml), a value of the user's;
- `FIXED` (trl_options.toml): decided by another key of ours, or the same for every run (`training.engine` sets it);
- `REFUSED` (trl_options.toml): it would have no effect here, or a wrong one;
- `PASSED`: `trainer.hf.NAME=value`, which tests/training/test_trl_options.py shows to act.

`tests/training/test_trl_options.py` fails where the installed TRL has a field that is in none of them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vsgrpo.errors import ConfigError
from vsgrpo.rules import SHARE, Number, Rule, above, at_least

_TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
FIXED: dict[str, str] = _TABLE["fixed"]
"""Set by every run, and the key that decides it, or "no key: " and the reason."""
REFUSED: dict[str, tuple[str, str]] = {
    name: (group["why"], group["instead"]) for group in _TABLE["refused"] for name in group["options"].split()
}
"""Options of TRL and transformers that would be without effect or wrong here: reason and way out."""
NO_TRL_FIELD = (
    *("name", "dev_rows", "questions_per_video", "shared_prefix", "prefix_attention", "probe_longest"),
    *("max_bad_steps", "stages", "hf", "skip_zero_variance", "log_gradient_correlation"),
)
"""Fields of the trainer sections that TRL does not have."""
OURS_BUT_NOT_PASSED = ("gradient_checkpointing", "report_to", "save_total_limit")
"""Fields of the trainer sections that TRL has too, and that vsgrpo does itself."""


@dataclass(frozen=True)
class Passed:
    """An option that reaches TRL: `rule` of its value, and which methods and which loss (`loss_type`) it acts in."""

    rule: Rule | type
    methods: tuple[str, ...] = ("grpo", "sft", "dpo")
    loss_type: str | None = None


PASSED = {
    "lr_scheduler_kwargs": Passed(dict),  # see SCHEDULERS
    "logging_first_step": Passed(bool),
    "steps_per_generation": Passed(Number(low=1, whole=True), ("grpo",)),
    "num_completions_to_print": Passed(Number(low=0, whole=True), ("grpo",)),
    "sapo_temperature_pos": Passed(above(0), ("grpo",), "sapo"),
    "sapo_temperature_neg": Passed(above(0), ("grpo",), "sapo"),
    "vespo_k_pos": Passed(at_least(0), ("grpo",), "vespo"),
    "vespo_lambda_pos": Passed(above(0), ("grpo",), "vespo"),
    "vespo_k_neg": Passed(at_least(0), ("grpo",), "vespo"),
    "vespo_lambda_neg": Passed(above(0), ("grpo",), "vespo"),
}

NO_KEY = "no key: "
"""How a reason in FIXED begins."""
REFUSED_FOR = {
    ("sft", "loss_type"): (
        "SFT has one loss, the mean negative log-likelihood of the answer tokens",
        "leave it out: neither dft nor another loss is offered",
    )
}
"""Options that one method has and another must not have."""

SCHEDULERS: Mapping[str, tuple[str, ...]] = {
    "constant": (),
    "constant_with_warmup": (),
    "linear": (),
    "cosine": ("num_cycles",),
    "cosine_with_restarts": ("num_cycles",),
    "cosine_with_min_lr": ("min_lr", "min_lr_rate", "num_cycles"),
    "polynomial": ("lr_end", "power"),
    "inverse_sqrt": ("timescale",),
    "warmup_stable_decay": ("num_decay_steps", "num_stable_steps", "min_lr_ratio", "num_cycles"),
}
"""What `trainer.hf.lr_scheduler_kwargs` may hold by `trainer.lr_scheduler_type`."""
NEEDED = {"cosine_with_min_lr": ("min_lr", "min_lr_rate"), "warmup_stable_decay": ("num_decay_steps",)}
"""Schedules that cannot do without one of these."""
ARGUMENT_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("timescale", "num_decay_steps", "num_stable_steps"), Number(low=1, whole=True)),
    **dict.fromkeys(("min_lr_rate", "min_lr_ratio"), SHARE),
}
"""Rules of these arguments, where at least 0 is not enough; shares are of trainer.learning_rate."""


def check_hf(values: Mapping[str, Any], loss_type: str | None) -> None:
    """Check the values of `trainer.hf` but the schedule's; `trainer.refuse_option` has let their names pass.

    Raises:
        ConfigError: a value of the wrong type or out of range, or one that the other options leave without effect.
    """
    for name, value in values.items():
        key, passed = f"trainer.hf.{name}", PASSED[name]
        if passed.loss_type not in (None, loss_type):
            raise ConfigError(
                f"{key}={value}: trainer.loss_type={loss_type} does not use it",
                hint=f"set trainer.loss_type={passed.loss_type}, or leave {key} out",
            )
        if isinstance(passed.rule, type):
            if not isinstance(value, passed.rule):
                kind = {bool: "true or false", dict: "a dict, for example {num_cycles: 0.5}"}[passed.rule]
                raise ConfigError(f"{key}={value}: must be {kind}", hint=f"write it so, or leave {key} out")
        else:
            passed.rule.check(key, value)


def check_scheduler(scheduler: str, given: Mapping[str, Any], learning_rate: float) -> None:
    """Raise ConfigError for an argument that the schedule does not know, lacks, or that is out of range."""
    key = "trainer.hf.lr_scheduler_kwargs"
    known = SCHEDULERS[scheduler]
    for name, value in given.items():
        if name not in known:
            hint = f"it takes {', '.join(known)}" if known else "leave it out, or choose another lr_scheduler_type"
            raise ConfigError(f"{key}.{name}: trainer.lr_scheduler_type={scheduler} does not take it", hint=hint)
        ARGUMENT_RULES.get(name, at_least(0)).check(f"{key}.{name}", value)
    end = given.get("min_lr", given.get("lr_end", 1e-7 if scheduler == "polynomial" else 0.0))
    if end >= learning_rate:
        name = "lr_end" if scheduler == "polynomial" else "min_lr"
        raise ConfigError(
            f"{key}.{name}={end:g}: not below trainer.learning_rate={learning_rate:g}, where the schedule starts",
            hint=f"set {key}.{name}={learning_rate / 10:g}",
        )
    needed = NEEDED.get(scheduler, ())
    if needed and len(set(needed) & set(given)) != 1:
        example = f"{key}='{{{needed[0]}: {1 if needed[0] in ARGUMENT_RULES else 1e-6}}}'"
        raise ConfigError(
            f"trainer.lr_scheduler_type={scheduler}: needs {' or '.join(needed)} in {key}",
            hint=f"for example {example}",
        )
