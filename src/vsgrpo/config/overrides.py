"""Command-line overrides before Hydra sees them: shorthands, paths quoted, trainer.hf names checked."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from vsgrpo.config.train import DpoSection, GrpoSection
from vsgrpo.errors import ConfigError

PATH_KEYS = {
    *("model.path", "model.adapter", "data.path", "run.dir", "benchmark.path", "source.root"),
    *("video.folder", "video.cache_dir", "run.name", "cot.cache_dir"),
    *(f"{step}.{key}" for step in ("pseudo", "describe", "reason", "extract") for key in ("base_url", "model")),
}
FLAGS = ("--dry-run", "--resume", "--overwrite", "--json", "--debug", "--config-dir", "--limit", "--wandb")
FLAGS += ("--skip-missing", "--allow-leak", "--allow-changed")
SHORTHANDS = {"model": "model.path", "data": "data.path", "output": "run.dir"}
# trainer.hf.NAME is refused for these: another key of ours decides them.
OWNED = {
    "output_dir": "output=DIR",
    "seed": "run.seed",
    "data_seed": "run.seed",
    "use_cpu": "launch=cpu",
    "deepspeed": "launch=zero2 or launch=zero3",
    "fsdp": "launch=...",
    "resume_from_checkpoint": "--resume",
    "reward_weights": "reward.weights",
    "gradient_checkpointing_kwargs": "trainer.gradient_checkpointing",
    "model_init_kwargs": "model.*",
    "remove_unused_columns": "no key: the trainer needs the row columns",
    "run_name": "run.name",
}


@cache
def trl_fields() -> tuple[str, ...]:
    """Return the option names of the pinned TRL's GRPOConfig, SFTConfig and DPOConfig, sorted."""
    text = (files("vsgrpo.tables") / "trl_fields.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line and not line.startswith("#"))


def prepare_overrides(root: str, overrides: Sequence[str]) -> list[str]:
    """Return `overrides` ready for Hydra.

    `model=PATH`, `data=DIR`, `output=DIR` become `model.path`, `data.path`, `run.dir` (build-data: `data.path`) when
    the value has a path separator (or, for data and output, always); values of path keys are quoted, so that `=`,
    spaces, commas and brackets in a path need no escaping.

    Raises:
        ConfigError: an item that is not key=value, or a trainer.hf name that TRL does not have or that we own.
    """
    return [_one(root, item) for item in overrides]


def _one(root: str, item: str) -> str:
    if item.startswith("-"):
        bare = item.lstrip("-").partition("=")[0]
        close = difflib.get_close_matches(f"--{bare}", FLAGS, n=1, cutoff=0.7)
        hint = f"config keys are key=value: {bare.replace('-', '_')}=VALUE" if bare else "remove it"
        raise ConfigError(f"{item}: not an option of this command", f"did you mean {close[0]}?" if close else hint)
    if item.startswith("~"):
        raise ConfigError(f"{item}: keys cannot be removed", hint="set the key to another value, or to null")
    key, equals, value = item.partition("=")
    if not equals or not key:
        raise ConfigError(f"{item}: overrides are key=value", hint="`vsgrpo configs` lists groups and keys")
    if key in SHORTHANDS and (key != "model" or os.sep in value or "/" in value or Path(value).is_dir()):
        key = "data.path" if (root == "build_data" and key == "output") else SHORTHANDS[key]
    plain = key.lstrip("+")
    if plain.startswith("trainer.hf."):
        _check_hf(plain.removeprefix("trainer.hf."))
        return f"++{plain}={value}"
    if key.startswith("+"):
        raise ConfigError(f"{key}: keys cannot be added", hint="only trainer.hf.NAME=value reaches further TRL options")
    if key in PATH_KEYS and value not in ("null", "???"):
        return f"{key}={_quoted(os.path.expanduser(value))}"
    return item if key == item.partition("=")[0] else f"{key}={value}"


def _quoted(value: str) -> str:
    """Quote for Hydra's grammar: a backslash run before a quote is doubled, `${` is escaped for OmegaConf."""
    body = re.sub(r'(\\*)"', lambda m: m.group(1) * 2 + '\\"', value)
    body = re.sub(r"(\\+)$", lambda m: m.group(1) * 2, body)
    return '"' + body.replace("${", "\\${") + '"'


def _check_hf(name: str) -> None:
    name = name.split(".")[0]
    if name in {item.name for cls in (GrpoSection, DpoSection) for item in dataclasses.fields(cls)}:
        raise ConfigError(f"trainer.hf.{name}: this option has its own key", hint=f"use trainer.{name}")
    if name in OWNED:
        raise ConfigError(f"trainer.hf.{name}: decided by another key", hint=f"use {OWNED[name]}")
    known = trl_fields()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean trainer.hf.{close[0]}?" if close else "see TRL's GRPOConfig, SFTConfig and DPOConfig"
        raise ConfigError(f"trainer.hf.{name}: not an option of TRL", hint=hint)
