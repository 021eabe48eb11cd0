"""Whether a run may go on with a configuration: the same values, but that it may become longer or change processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vsgrpo.config.compose import to_yaml
from vsgrpo.config.keys import build_section, override_text
from vsgrpo.config.launching import WHOLE
from vsgrpo.config.train import TrainConfig
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.families.vision_record import BEFORE_RULES, PUBLISHED
from vsgrpo.files import read_yaml
from vsgrpo.records import NUMBER, check_shape, read_record
from vsgrpo.terminal import counted

LENGTHS = ("max_steps", "num_train_epochs")
_FREE = {
    "run.dir",
    "run.name",
    "model.dtype_auto",  # how model.dtype was chosen
    "trainer.report_to",
    "trainer.table_steps",
    "trainer.save_total_limit",
    "video.max_quarantined",
    "data.keep_out",  # the rows stay the same, and are looked at again
    "trainer.logps_chunk",
    "trainer.tokens_per_pass",
    *(f"rollout.vllm.{name}" for name in ("base_urls", "sync_dir", "concurrency", "timeout_s", "startup_timeout_s")),
    "rollout.vllm.max_logprob_gap",
}
_FREE |= {"trainer.max_steps", "trainer.num_train_epochs", "trainer.stages"}
"""Keys that may change, or (lengths and stages) that are compared in a way of their own."""
SERVERS = "rollout.vllm"
"""A section in a section whose keys are compared one by one: some of them may change."""
STATE_NAME = "trainer_state.json"
_RESTORE = "restore the file that the run wrote"
_CONFIG = {
    str: {},  # every section is one
    "trainer": {
        "name": str,
        "max_steps": int,
        "num_train_epochs": NUMBER,
        "per_device_train_batch_size": int,
        "stages?": [dict],
        "hf?": dict,
    },
    "model?": {"text_after_video?": str},
    "prompt?": {"vision_marks?": str},
    "launch": {
        "profile": str,
        "num_processes": int,
        "num_machines?": int,
        "use_cpu?": bool,
        "accelerate_file?": str,
    },
}
"""config.yaml of a run, as far as it is read as plain values."""
_BEFORE_KEYS = {
    "model.text_after_video": BEFORE_RULES,
    "prompt.vision_marks": PUBLISHED,
    "prompt.template": None,
    "prompt.suffix": None,
    "data.frame_true": "drop",  # no row said at which frames it is true
    "trainer.use_bias_correction_kl": True,
    "trainer.optim": "adamw_torch_fused",
    "trainer.adam_epsilon": 1e-8,
    "trainer.vision_learning_rate": None,
    "trainer.min_p": None,
    "trainer.epsilon_high": None,
    "trainer.delta": None,
    "trainer.multi_objective_aggregation": "sum_then_normalize",
    "trainer.ema_decay": 0.99,
    "trainer.group_filter": None,
    "reward.overlong_tokens": 32,  # read by a reward that there was not
    "reward.token_range": [320, 512],  # as well
    "trainer.group_filter_rounds": 4,
    "reward.schedule": None,
    "trainer.gpd_weight": 0.0,
    "trainer.gpd_below": 0.5,
    "trainer.gpd_clip": 1.5,
    "trainer.temporal_generations": 0,
    "trainer.temporal_ratio": 0.8,
    "trainer.temporal_bonus": 0.3,
    "trainer.importance_sampling_level": "token",
    "trainer.top_entropy_quantile": 1.0,
    "trainer.off_policy_mask_threshold": None,
    "trainer.mask_truncated_completions": False,
    "trainer.decode_graph": False,
    "rollout.engine": "own",
    "rollout.vllm.sampling": "keyed",
    "rollout.vllm.sync": "lora",
    "rollout.vllm.is_mode": "token_truncate",
    "rollout.vllm.is_clip_max": 2.0,
}
"""What runs did before these keys were in their config.yaml (the libraries' defaults), for their resume."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint; stages count from 0.

    Attributes:
        number: steps of earlier stages + `step`.
        max_steps: the last step of the stage, as it was when the checkpoint was written.
    """

    path: Path
    number: int
    stage: int
    step: int
    max_steps: int


def newest_first(run_dir: Path, status: dict[str, Any]) -> Iterator[Checkpoint]:
    """Yield the checkpoints that `status` (run.json) names and whose state can be read."""
    known = status.get("checkpoints") or {}
    for number in sorted(known, key=int, reverse=True):
        path = run_dir / f"checkpoint-{number}"
        with suppress(DataError):
            state = read_record(path / STATE_NAME, {"max_steps": int}, "")
            yield Checkpoint(path, int(number), known[number]["stage"], known[number]["step"], state["max_steps"])


def check_same_config(run_dir: Path, config: TrainConfig, newest: Checkpoint | None) -> None:
    """Refuse to resume with values that would make the rest of the run another run; it may become longer.

    Raises:
        ConfigError: naming the first key that differs, and in its hint all of them, or the length that shrinks.
    """
    old, new = read_values(run_dir / "config.yaml"), read_values(config)
    methods = old["trainer"]["name"], config.trainer.name
    if methods[0] != methods[1]:
        raise ConfigError(
            f"train {methods[1]}: the run in {run_dir} was started with `train {methods[0]}`",
            hint=f"resume with `vsgrpo train {methods[0]}`, or start another run with another output=DIR",
        )
    _give_own_keys(old["trainer"], new["trainer"])
    unused = [set(section.unused()) for section in config.stage_sections()]
    lengthened = _check_lengths(old["trainer"], new["trainer"], newest, unused)
    only_weights = newest is not None and newest.step >= newest.max_steps and not lengthened
    other_processes = _check_same_processes(old, new, only_weights)
    free = _FREE | ({"trainer.per_device_train_batch_size"} if other_processes else set())
    now, before = _dotted(new), {**_BEFORE_KEYS, **_dotted(old)}
    compared = [name for name in now if not name.startswith("launch.") and name not in free]
    differing = [n for n in compared if before.get(n) != now[n] and config.why_unused(n) is None]
    if differing:
        started = _as_started(run_dir, config, {name: before.get(name) for name in differing})
        key, *others = differing
        more = f" (and {len(others)} more key{'s' if len(others) > 1 else ''})" if others else ""
        used = [name for name in differing if started.why_unused(name) is None]
        words = " ".join(f"{name}={override_text(before.get(name))}" for name in used)
        first = (
            f"{key}={override_text(now[key])}: the run in {run_dir} was started with {override_text(before.get(key))}"
        )
        raise ConfigError(
            f"{first}{more}",
            hint=f"resume with {words}, or start another run with another output=DIR",
        )


def _dotted(values: dict[str, Any]) -> dict[str, Any]:
    found = {f"{section}.{key}": value for section, keys in values.items() for key, value in keys.items()}
    return found | {f"{SERVERS}.{key}": value for key, value in found.pop(SERVERS, {}).items()}


def _give_own_keys(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Move what a run from before had in trainer.hf and has a key of its own now."""
    given = old.get("hf") or {}
    old["hf"] = {name: value for name, value in given.items() if name not in new}
    old.update({name: value for name, value in given.items() if name in new})


def _as_started(run_dir: Path, config: TrainConfig, started: dict[str, Any]) -> TrainConfig:
    """Return a configuration with the values that a run was started with.

    Raises:
        ConfigError: one of them is refused now: no words could resume the run.
    """
    sections = {name.partition(".")[0] for name in started}
    try:
        made = {}
        for section in sections:
            now = getattr(config, section)
            before = {n.partition(".")[2]: v for n, v in started.items() if n.startswith(f"{section}.")}
            values, inner = dataclasses.asdict(now), SERVERS.partition(".")[2]
            for name, value in before.items():
                within, _, key = name.rpartition(".")
                (values[inner] if within == inner else values)[key] = value
            made[section] = build_section(type(now), values, section)
        return dataclasses.replace(config, **made)
    except ConfigError as error:
        raise ConfigError(
            f"run.dir={run_dir}: was started with what is refused now: {error.message}",
            hint="start a new run from model.path=CHECKPOINT with another output=DIR",
        ) from None


def is_longer(run_dir: Path, config: TrainConfig) -> bool:
    """Return whether a config asks for other steps, epochs or stages than the run in the folder was started with."""
    old, new = read_values(run_dir / "config.yaml")["trainer"], read_values(config)["trainer"]
    return any(old.get(key) != new.get(key) for key in (*LENGTHS, "stages"))


def _check_lengths(old: dict[str, Any], new: dict[str, Any], newest: Checkpoint | None, unused: list[set[str]]) -> bool:
    """Compare steps, epochs and stages of two trainer sections; return whether the stage of `newest` becomes longer.

    Args:
        old: of the run.
        new: of the configuration.
        newest: checkpoint of the run.
        unused: options without effect, by stage.

    Raises:
        ConfigError: a stage is shorter, gone or over, or differs in more than its length.
    """
    stages: list[list[dict[str, Any]]] = [section.get("stages") or [{}] for section in (old, new)]
    hint = "a run can be lengthened: leave its stages as they are, add others behind them"
    if len(stages[1]) < len(stages[0]):
        raise ConfigError(f"trainer.stages: {len(stages[1])}, the run was started with {len(stages[0])}", hint=hint)
    current, longer = newest.stage if newest is not None else 0, False
    for number, (before, now) in enumerate(zip(*stages, strict=False)):
        where = f"trainer.stages[{number}]" if new.get("stages") else "trainer"
        left_out = {*LENGTHS, *unused[number]}
        kept = [{name: value for name, value in stage.items() if name not in left_out} for stage in (before, now)]
        if kept[0] != kept[1]:
            raise ConfigError(f"{where}={now}: the run was started with {before}", hint=hint)
        grows = _grows({**old, **before}, {**new, **now}, where, newest if number == current else None)
        if grows and number < current:
            raise ConfigError(
                f"{where}: longer than before, but the run is in stage {current} already",
                hint="lengthen the last stage, or add another one",
            )
        longer |= grows and number == current
    return longer


def _grows(before: dict[str, Any], now: dict[str, Any], where: str, newest: Checkpoint | None) -> bool:
    """Return whether a stage becomes longer; ConfigError where it becomes shorter."""
    steps, epochs = ([float(stage[name]) for stage in (before, now)] for name in LENGTHS)
    if steps[0] > 0:
        name, values = "max_steps", (steps[0], max(steps[1], 0.0))
    elif steps[1] > 0:  # counted in epochs until now
        name, values = "max_steps", (float(newest.max_steps) if newest is not None else 1.0, steps[1])
    else:
        name, values = "num_train_epochs", (epochs[0], epochs[1])
    if values[1] < values[0]:
        raise ConfigError(
            f"{where}.{name}={now[name]}: the run was started with {values[0]:g}; it can be lengthened, not shortened",
            hint=f"resume with {where}.{name}={values[0]:g} or more",
        )
    return values[1] > values[0]


def _check_same_processes(old: dict[Any, Any], new: dict[Any, Any], only_weights: bool) -> bool:
    """Return whether a run goes on with another number of processes; refuse where it could not go on exactly.

    Data order, sampling and optimizer state belong to the run, not to a process, as long as one process holds the whole
    optimizer state and the batch of a step stays the same. Engines that shard it write one file per process.

    Args:
        only_weights: no optimizer state is taken over.

    Raises:
        ConfigError: a sharded optimizer state, or another number of samples per step.
    """
    before, after = old["launch"], new["launch"]
    counts = before["num_processes"], after["num_processes"]
    if before["profile"] == after["profile"] and counts[0] == counts[1]:
        return False
    engines = {before["profile"], after["profile"]}
    if not only_weights and not engines <= set(WHOLE):
        raise ConfigError(
            f"launch={after['profile']} with launch.num_processes={counts[1]}: the checkpoints hold the optimizer "
            f"state in {counted(counts[0], 'part')} of launch={before['profile']}",
            hint=f"resume with launch={before['profile']} launch.num_processes={counts[0]}, or start a new run from "
            "model.path=CHECKPOINT",
        )
    batches = [values["trainer"]["per_device_train_batch_size"] for values in (old, new)]
    if batches[0] * counts[0] != batches[1] * counts[1]:
        raise ConfigError(
            f"launch.num_processes={counts[1]}: {batches[1]} x {counts[1]} samples per microbatch, the run was started "
            f"with {batches[0]} x {counts[0]}",
            hint=f"keep the product: trainer.per_device_train_batch_size={batches[0] * counts[0] / counts[1]:g}",
        )
    return True


def read_values(config: TrainConfig | Path) -> dict[str, Any]:
    """Return a configuration, or the file of one (perhaps of an earlier version), as plain values.

    Raises:
        DataError: the file is broken, or a section or a value that is read is of another kind.
    """
    from omegaconf import OmegaConf

    if isinstance(config, Path):
        found = read_yaml(config, _RESTORE)
        check_shape(found, _CONFIG, str(config), _RESTORE)
        return found
    values = OmegaConf.to_container(OmegaConf.create(to_yaml(config)))
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}
