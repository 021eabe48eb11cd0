"""What becomes of TRL's options that are no keys of ours (trl_options.toml), and of the arguments of schedules."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vsgrpo.errors import ConfigError
from vsgrpo.rules import SHARE, Number, Rule, above, at_least

_TABLE = tomllib.loads(Path(__file__).with_name("trl_options.toml").read_text(encoding="utf-8"))
FIXED: dict[str, str] = _TABLE["fixed"]
"""Set by every run, and the key that decides it, or "no key: " and the reason."""
REFUSED: dict[str, tuple[str, str]] = {
    name: (group["why"], group["instead"]) for group in _TABLE["refused"] for name in group["options"].split()
}
"""Options of TRL and transformers that would be without effect or wrong here: reason and way out."""


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
SCHEDULERS: dict[str, list[str]] = _TABLE["schedulers"]
"""What `trainer.hf.lr_scheduler_kwargs` may hold by `trainer.lr_scheduler_type`."""
NEEDED = {"cosine_with_min_lr": ("min_lr", "min_lr_rate"), "warmup_stable_decay": ("num_decay_steps",)}
"""Schedules that cannot do without one of these."""
ARGUMENT_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("timescale", "num_decay_steps", "num_stable_steps"), Number(low=1, whole=True)),
    **dict.fromkeys(("min_lr_rate", "min_lr_ratio"), SHARE),
}
"""Rules of these arguments, where at least 0 is not enough; shares are of trainer.learning_rate."""


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
        what = f"{key}.{name}={end:g}: not below trainer.learning_rate={learning_rate:g}, where the schedule starts"
        raise ConfigError(what, hint=f"set {key}.{name}={learning_rate / 10:g}")
    needed = NEEDED.get(scheduler, ())
    if needed and len(set(needed) & set(given)) != 1:
        what = f"trainer.lr_scheduler_type={scheduler}: needs {' or '.join(needed)} in {key}"
        value = 1 if needed[0] in ARGUMENT_RULES else 1e-6
        raise ConfigError(what, hint=f"for example {key}='{{{needed[0]}: {value}}}'")
