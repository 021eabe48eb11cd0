"""The `trainer` section of `vsgrpo train`, one class per method: TRL's names, and what becomes of TRL's other options.

Every field of the pinned GRPOConfig, SFTConfig and DPOConfig (TrainingArguments included) has exactly one place, as
tests/training/test_trl_options.py checks:

- a key of ours: a field of a section here under TRL's own name, with its value in configs/trainer/*.yaml;
- `FIXED` (trl_options.py and .toml): decided by another key of ours, or the same for every run (`training` sets it);
- `REFUSED` (trl_options.toml): it would have no effect here, or a wrong one;
- `PASSED`: it reaches TRL by `trainer.hf.NAME=value`.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from vsgrpo.config.keys import field_types, nearest, typed_values
from vsgrpo.config.trl_options import FIXED, NO_KEY, PASSED, REFUSED, REFUSED_FOR, SCHEDULERS, check_scheduler
from vsgrpo.errors import ConfigError
from vsgrpo.rules import (
    Count,
    Faults,
    Number,
    Section,
    Share,
    above,
    at_least,
    between,
    check_value,
    choice,
    rules_of,
    up_to,
)
from vsgrpo.spatial.question_types import types_named
from vsgrpo.trackers import WITH_TABLES

NO_TRL_FIELD = (
    *("name", "dev_rows", "questions_per_video", "shared_prefix", "prefix_attention", "probe_longest"),
    *("tokens_per_pass", "logps_chunk", "max_bad_steps", "stages", "hf", "skip_zero_variance"),
    "vision_learning_rate",
    *("log_gradient_correlation", "decode_graph", "ema_decay", "group_filter", "group_filter_rounds", "table_steps"),
    *("temporal_generations", "temporal_ratio", "temporal_bonus", "gpd_weight", "gpd_below", "gpd_clip"),
)
"""Fields of the trainer sections that TRL does not have."""
OURS_BUT_NOT_PASSED = ("gradient_checkpointing", "report_to", "save_total_limit")
"""Fields of the trainer sections that TRL has too, and that vsgrpo does itself."""
CLIPPED = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")
"""GRPO's losses that take the smaller of the ratio and the clipped ratio."""
# fmt: off
TRACKERS = (
    "azure_ml", "clearml", "codecarbon", "comet_ml", "dagshub", "dvclive", "flyte", "kubeflow", "mlflow", "neptune",
    "swanlab", "tensorboard", "trackio", "wandb",
)

# fmt: on
"""What transformers 5.23 can report to."""
STAGE_EXAMPLE = "for example trainer.stages=[{types: [room_size_estimation]}, {max_steps: 100}]"


@dataclass(frozen=True)
class TrainerSection(Section, key="trainer"):
    """Options that all methods share; names and meaning are TRL's (`TrainingArguments`)."""

    name: str
    per_device_train_batch_size: Count
    gradient_accumulation_steps: Count
    learning_rate: Annotated[float, up_to(1, "for example trainer.learning_rate=1e-5")]
    vision_learning_rate: Annotated[float, up_to(1, "null: as trainer.learning_rate")] | None
    lr_scheduler_type: Annotated[str, choice(*SCHEDULERS)]
    warmup_steps: Annotated[float, at_least(0)]
    optim: Annotated[str, choice("adamw_torch_fused", "adamw_torch", "sgd")]
    weight_decay: Annotated[float, between(0, 1)]
    adam_beta1: Share
    adam_beta2: Share
    adam_epsilon: Annotated[float, up_to(1, "for example trainer.adam_epsilon=1e-8")]
    max_grad_norm: Annotated[float, at_least(0, "0: gradients are not clipped")]
    max_steps: Annotated[int, Number(low=1, also=-1, hint="set 1 or more, or -1: as trainer.num_train_epochs says")]
    num_train_epochs: Annotated[float, above(0)]
    logging_steps: Count
    save_steps: Count
    save_total_limit: Annotated[int, at_least(1, "null: keep all checkpoints")] | None
    dev_rows: Annotated[int, at_least(0)]
    bf16: bool
    gradient_checkpointing: bool
    report_to: list[Annotated[str, choice(*TRACKERS)]]
    questions_per_video: Count
    shared_prefix: Annotated[str, choice("auto", "on", "off")]
    prefix_attention: Annotated[str, choice("auto", "dense", "block", "split", "merge", "flex")]
    probe_longest: Annotated[str, choice("auto", "on", "off")]
    tokens_per_pass: Count | None
    logps_chunk: Count | None
    max_bad_steps: Count
    stages: list[dict[str, Any]] | None
    hf: dict[str, Any]

    def faults(self) -> Faults:
        if self.warmup_steps > 1 and self.warmup_steps != int(self.warmup_steps):
            what = "from 1 on a number of steps, below 1 a share of all steps"
            way_out = f"set trainer.warmup_steps={int(self.warmup_steps)}, or a share such as 0.03"
            yield f"trainer.warmup_steps={self.warmup_steps}: {what}", way_out
        if self.warmup_steps and self.lr_scheduler_type == "constant":
            what = f"trainer.warmup_steps={self.warmup_steps:g}: trainer.lr_scheduler_type=constant has no warm-up"
            way_out = "set trainer.lr_scheduler_type=constant_with_warmup, or trainer.warmup_steps=0"
            yield what, way_out
        _check_hf(self.name, self.hf, getattr(self, "loss_type", None))
        check_scheduler(self.lr_scheduler_type, self.hf.get("lr_scheduler_kwargs", {}), self.learning_rate)
        for number in range(len(self.stages or [])):
            self.stage(number)

    def unused(self) -> dict[str, tuple[str, str]]:
        """Return the options that change nothing beside the others: name -> (reason, way out)."""
        found = {}
        if self.max_steps > 0:
            why = f"trainer.max_steps={self.max_steps} decides how long the run is"
            out = "set trainer.max_steps=-1 too, or leave trainer.num_train_epochs out"
            found["num_train_epochs"] = (why, out)
        if self.optim == "sgd":
            for name in ("adam_beta1", "adam_beta2", "adam_epsilon"):
                out = f"leave trainer.{name} out, or set trainer.optim=adamw_torch_fused"
                found[name] = ("trainer.optim=sgd keeps no moments", out)
        return found

    @property
    def num_moments(self) -> int:
        """Numbers that the optimizer keeps for each weight."""
        return 0 if self.optim == "sgd" else 2

    @property
    def num_stages(self) -> int:
        """How many trainers a run has, one after another; without `stages` it is one."""
        return max(len(self.stages or []), 1)

    def stage_types(self, number: int) -> list[str] | None:
        """Return the question types that a stage trains on, families as their types; None for all."""
        types = self.stages[number].get("types") if self.stages else None
        return None if types is None else list(types_named(types))

    def stage(self, number: int) -> TrainerSection:
        """Return the section of one stage: these values with the overrides of `stages[number]`.

        Raises:
            ConfigError: an override that is no option of a stage, of the wrong type, or against a rule.
        """
        if not self.stages:
            return dataclasses.replace(self, stages=None)
        where, given = f"trainer.stages[{number}]", dict(self.stages[number])
        types = given.pop("types", None)
        if types is not None and not (isinstance(types, list) and types and all(isinstance(t, str) for t in types)):
            raise ConfigError(f"{where}.types={types}: a list of question types is needed", hint=STAGE_EXAMPLE)
        allowed = sorted(field_types(type(self)).keys() - {"name", "stages", "hf", "dev_rows"})
        for name in given:
            if name not in allowed:
                close = nearest(f"{where}.{name}", [f"{where}.{other}" for other in allowed])
                hint = close if close.startswith("did") else f"a stage overrides trainer.* options: {STAGE_EXAMPLE}"
                raise ConfigError(f"{where}.{name}: not an option of a stage", hint=hint)
        values = typed_values(type(self), given, where)
        rules = rules_of(type(self))
        for name in values.keys() & rules.keys():
            check_value(f"{where}.{name}", values[name], rules[name])
        try:
            return dataclasses.replace(self, stages=None, **values)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error.message}", hint=error.hint) from None


@dataclass(frozen=True)
class GrpoSection(TrainerSection):
    """GRPO's own options (TRL's names)."""

    num_generations: Annotated[int, at_least(2)]
    temperature: Annotated[float, above(0, "rollouts are sampled: set trainer.temperature=1")]
    top_p: Annotated[float, up_to(1)]
    top_k: Annotated[int, at_least(0, "0: all tokens")]
    min_p: Annotated[float, between(0, 1)] | None
    beta: Annotated[float, at_least(0)]
    use_bias_correction_kl: bool
    epsilon: Annotated[float, up_to(1, "for example trainer.epsilon=0.2")]
    epsilon_high: Annotated[float, above(0, "null: as trainer.epsilon")] | None
    delta: Annotated[float, above(1, "null: no second clip")] | None
    num_iterations: Count
    loss_type: Annotated[str, choice(*CLIPPED, "cispo", "sapo", "vespo")]
    scale_rewards: Annotated[str, choice("group", "batch", "none", "ema")]
    ema_decay: Share
    multi_objective_aggregation: Annotated[str, choice("sum_then_normalize", "normalize_then_sum")]
    importance_sampling_level: Annotated[str, choice("token", "sequence")]
    top_entropy_quantile: Annotated[float, up_to(1)]
    off_policy_mask_threshold: Annotated[float, above(0, "null: no mask")] | None
    mask_truncated_completions: bool
    max_completion_length: Count
    skip_zero_variance: bool
    group_filter: dict[str, Any] | None
    group_filter_rounds: Count
    temporal_generations: Annotated[int, at_least(0, "0: none")]
    temporal_ratio: Annotated[float, above(0)]
    temporal_bonus: Annotated[float, above(0)]
    gpd_weight: Annotated[float, at_least(0, "0: no teacher")]
    gpd_below: Annotated[float, above(0)]
    gpd_clip: Annotated[float, above(0)]
    log_gradient_correlation: bool
    table_steps: Annotated[int, at_least(0, "0: no tables")]
    decode_graph: bool

    def unused(self) -> dict[str, tuple[str, str]]:
        """Return the options that change no gradient beside the others (TRL 1.16, `GRPOTrainer._compute_loss`)."""
        found, loss = super().unused(), f"trainer.loss_type={self.loss_type}"
        if self.loss_type not in CLIPPED:
            found["epsilon"] = (f"{loss} does not clip by it", "leave trainer.epsilon out, or set another loss_type")
        if self.loss_type == "vespo" and (self.beta == 0 or not self.use_bias_correction_kl):
            out = "leave trainer.importance_sampling_level out, or set another loss_type"
            found["importance_sampling_level"] = (f"{loss} has one weight per completion, always", out)
        if self.beta == 0:
            out = "set trainer.beta above 0, or leave trainer.use_bias_correction_kl out"
            found["use_bias_correction_kl"] = ("trainer.beta=0: there is no KL term", out)
        if self.group_filter is None:
            out = "set trainer.group_filter={min: 0.01, max: 0.99}, or leave trainer.group_filter_rounds out"
            found["group_filter_rounds"] = ("trainer.group_filter=null draws nothing anew", out)
        for name in ("temporal_ratio", "temporal_bonus") if not self.temporal_generations else ():
            out = f"set trainer.temporal_generations above 0, or leave trainer.{name} out"
            found[name] = ("trainer.temporal_generations=0 draws nothing for shuffled frames", out)
        for name in ("gpd_below", "gpd_clip") if not self.gpd_weight else ():
            out = f"set trainer.gpd_weight above 0, or leave trainer.{name} out"
            found[name] = ("trainer.gpd_weight=0: there is no teacher", out)
        if not set(self.report_to) & set(WITH_TABLES):
            out = f"set trainer.report_to=[{WITH_TABLES[0]}], or leave trainer.table_steps out"
            found["table_steps"] = (f"trainer.report_to={self.report_to}: no tracker takes tables", out)
        if self.scale_rewards != "ema":
            out = "set trainer.scale_rewards=ema, or leave trainer.ema_decay out"
            found["ema_decay"] = (f"trainer.scale_rewards={self.scale_rewards} keeps no average", out)
        if self.multi_objective_aggregation == "normalize_then_sum" and self.scale_rewards != "ema":
            why = "trainer.multi_objective_aggregation=normalize_then_sum divides each reward by its group's deviation"
            found["scale_rewards"] = (why, "leave trainer.scale_rewards out, or set sum_then_normalize")
        return found

    def faults(self) -> Faults:
        yield from super().faults()
        given, example = self.group_filter, "for example trainer.group_filter={min: 0.01, max: 0.99}"
        if given is not None and (given.keys() != {"min", "max"} or not all(map(_is_finite, given.values()))):
            yield f"trainer.group_filter={given}: two numbers are needed, min and max", example
        elif given is not None and given["min"] >= given["max"]:
            yield f"trainer.group_filter={given}: min is not below max", example
        if self.scale_rewards == "ema" and self.multi_objective_aggregation == "normalize_then_sum":
            what = "trainer.scale_rewards=ema: trainer.multi_objective_aggregation=normalize_then_sum scales by itself"
            yield what, "set trainer.multi_objective_aggregation=sum_then_normalize, or trainer.scale_rewards=group"
        if self.delta is not None and self.loss_type in ("cispo", "sapo", "vespo"):
            what = f"trainer.delta={self.delta:g}: trainer.loss_type={self.loss_type} does not clip a second time"
            yield what, "set trainer.delta=null, or another trainer.loss_type"
        if self.epsilon_high is not None and self.loss_type in ("sapo", "vespo"):
            what = f"trainer.epsilon_high={self.epsilon_high:g}: trainer.loss_type={self.loss_type} does not clip"
            yield what, "set trainer.epsilon_high=null, or another trainer.loss_type"
        if self.loss_type == "cispo" and (self.epsilon_high is None or self.epsilon_high < 1):
            shown = "null" if self.epsilon_high is None else f"{self.epsilon_high:g}"
            what = "trainer.loss_type=cispo bounds the ratio itself by it, which is 1 on the samples of the policy"
            yield f"trainer.epsilon_high={shown}: {what}", "set trainer.epsilon_high=5 (arXiv 2510.13786)"


@dataclass(frozen=True)
class SftSection(TrainerSection):
    """SFT has no option of its own."""


@dataclass(frozen=True)
class DpoSection(TrainerSection):
    """DPO's own options (TRL's names)."""

    beta: Annotated[float, above(0, "DPO divides by the distance to the reference: set trainer.beta=0.1")]
    loss_type: Annotated[str, choice("sigmoid", "hinge", "ipo")]


TRAINERS: dict[str, type[TrainerSection]] = {"grpo": GrpoSection, "sft": SftSection, "dpo": DpoSection}


def refuse_option(method: str, key: str) -> ConfigError | None:
    """Return why `train METHOD` does not take `key` (trainer.NAME or trainer.hf.NAME), None where it does."""
    name = key.rpartition(".")[2]
    is_hf = key.startswith("trainer.hf.")
    own = field_types(TRAINERS[method]).keys() - {"name", "hf", "stages"}
    if name in own:
        return ConfigError(f"{key}: this option has its own key", hint=f"use trainer.{name}") if is_hf else None
    if (given := REFUSED_FOR.get((method, name)) or REFUSED.get(name)) is not None:
        return ConfigError(f"{key}: not available: {given[0]}", hint=given[1])
    if name in FIXED and FIXED[name].startswith(NO_KEY):
        return ConfigError(f"{key}: not available: {FIXED[name].removeprefix(NO_KEY)}", hint="leave it out")
    if name in FIXED:
        return ConfigError(f"{key}: decided by another key", hint=f"use {FIXED[name]}")
    methods = [other for other, section in TRAINERS.items() if name in field_types(section)]
    methods = PASSED[name].methods if name in PASSED else methods
    if methods and method not in methods:
        where = " and ".join(f"`train {other}`" for other in methods)
        return ConfigError(f"{key}: not an option of `train {method}`", hint=f"it is one of {where}: leave it out")
    if name in PASSED:
        return None if is_hf else ConfigError(f"{key}: unknown key", hint=f"use trainer.hf.{name}")
    if not is_hf:
        return None
    close = difflib.get_close_matches(name, sorted({*own, *PASSED}), n=1, cutoff=0.6)
    prefix = "trainer." if close and close[0] in own else "trainer.hf."
    hint = f"did you mean {prefix}{close[0]}?" if close else f"there are: {', '.join(sorted(PASSED))}"
    return ConfigError(f"{key}: not an option of TRL", hint=hint)


def _check_hf(method: str, values: Mapping[str, Any], loss_type: str | None) -> None:
    """Raise ConfigError for an option of `trainer.hf` that is refused, without effect, or has a wrong value."""
    for name, value in values.items():
        key = f"trainer.hf.{name}"
        if (refused := refuse_option(method, key)) is not None:
            raise refused
        passed = PASSED[name]
        if passed.loss_type not in (None, loss_type):
            what = f"{key}={value}: trainer.loss_type={loss_type} does not use it"
            raise ConfigError(what, hint=f"set trainer.loss_type={passed.loss_type}, or leave {key} out")
        if isinstance(passed.rule, type):
            if not isinstance(value, passed.rule):
                kind = {bool: "true or false", dict: "a dict, for example {num_cycles: 0.5}"}[passed.rule]
                raise ConfigError(f"{key}={value}: must be {kind}", hint=f"write it so, or leave {key} out")
        else:
            passed.rule.check(key, value)


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
