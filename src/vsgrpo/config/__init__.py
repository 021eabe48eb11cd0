"""Typed configuration: values live in YAML (configs/), types, units and rules in frozen dataclasses."""

from vsgrpo.config.build_data import BuildDataConfig
from vsgrpo.config.compose import config_groups, load_config, load_resolved
from vsgrpo.config.evaluate import EvalConfig
from vsgrpo.config.train import TrainConfig
from vsgrpo.config.trainer import DpoSection, GrpoSection, SftSection

__all__ = [
    "BuildDataConfig",
    "DpoSection",
    "EvalConfig",
    "GrpoSection",
    "SftSection",
    "TrainConfig",
    "config_groups",
    "load_config",
    "load_resolved",
]
