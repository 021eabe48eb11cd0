"""Checks of what GRPO rewards: rewards and options of algorithms against each other and against the rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from vsgrpo.config.train import TrainConfig
from vsgrpo.config.trainer import GrpoSection
from vsgrpo.data.prompts import check_map_room
from vsgrpo.data.row import Row
from vsgrpo.data.scene_files import boxes_text, scenes_of
from vsgrpo.errors import ConfigError
from vsgrpo.map_rewards import MAP_REWARDS, has_map, map_types
from vsgrpo.reward_loading import load_reward

NO_ACCURACY = ("format", "length", "overlong", "token_range", "plain", "follow")
"""Rewards that do not say whether an answer is right."""


def check_rewards(config: TrainConfig, rows: Sequence[Row], types: Collection[str]) -> None:
    """Load every reward by name; refuse rewards that teach nothing, and what they and the rows contradict.

    Args:
        types: question types that occur; `rows` may be a part of the run's only.

    Raises:
        ConfigError: a reward or an option of GRPO that has no effect with the others, or with these rows.
        DataError: a row whose extra.map is no map.
    """
    _check_names(config)
    _check_maps(config, rows, types)
    if "follow" in config.reward_names() and rows and not any(row.extra.get("pair") for row in rows):
        raise ConfigError(
            f"reward.names={config.reward_names()}: follow compares the rows of pairs, and none in {config.data.path} "
            f"is in one (data.split={config.data.split})",
            hint="set data.split=train_pairs (build-data counterfactual.*, docs/trust.md), or leave follow out",
        )
    for number, section in enumerate(config.stage_sections()):
        if isinstance(section, GrpoSection):
            where = f"trainer.stages[{number}]" if config.trainer.stages else "trainer"
            trained = set(types) & set(config.trainer.stage_types(number) or types)
            _check_section(config, section, where, [row for row in rows if row.question_type in trained], trained)


def _check_section(
    config: TrainConfig, section: GrpoSection, where: str, rows: Sequence[Row], types: Collection[str]
) -> None:
    """Refuse options of a stage that its rows contradict."""
    if section.scale_rewards == "ema" and len(types) == 1:
        what = f"{where}.scale_rewards=ema: balances question types, and all rows are {min(types)}"
        raise ConfigError(what, hint="set trainer.scale_rewards=group, or train on several types")
    if section.gpd_weight:
        _check_privileged(config, f"{where}.gpd_weight={section.gpd_weight:g}", rows)
    if not section.temporal_generations:
        return
    what, way_out = f"{where}.temporal_generations={section.temporal_generations}", "set it to 0"
    if (first := config.reward_names()[0]) in NO_ACCURACY:
        raise ConfigError(
            f"{what}: compares the first reward with and without shuffled frames, and {first} does not say whether an "
            "answer is right",
            hint=f"name accuracy first in reward.names, or {way_out}",
        )
    if rows and not any(item["kind"] == "video" for row in rows for item in row.media):
        raise ConfigError(f"{what}: shuffles the frames of videos, and all rows show images", hint=way_out)


def _check_privileged(config: TrainConfig, what: str, rows: Sequence[Row]) -> None:
    """Refuse a teacher that reads boxes where no row has any, or where they are those of another video."""
    if config.data.split.endswith("_pairs"):
        raise ConfigError(
            f"{what}: data.split={config.data.split} has edited videos, whose boxes are not known",
            hint="set trainer.gpd_weight=0, or data.split=train",
        )
    base = Path(config.data.path)
    if rows and not any(boxes_text(scene) for row in rows for scene in scenes_of([row], base).values()):
        raise ConfigError(
            f"{what}: the teacher reads the boxes of scenes, and no row of {config.data.path} has a scene with boxes",
            hint="build the rows with vsgrpo build-data (scenes/DATASET/SCENE.json), or set trainer.gpd_weight=0",
        )


def _check_names(config: TrainConfig) -> None:
    """Load every reward by name, and refuse rewards that teach nothing."""
    names = config.reward_names()
    for name in names:
        load_reward(name)
    if config.prompt.mode == "vanilla" and set(names) <= {"format", "length"}:
        raise ConfigError(
            f"reward.names={names}: the same for every answer in vanilla mode, nothing to learn from",
            hint="add accuracy, or set prompt=think",
        )
    if any(isinstance(s, GrpoSection) and s.group_filter for s in config.stage_sections()):
        for name, torn in {"follow": "pairs of rows", "token_range": "groups"}.items():
            if name in names:
                what = f"trainer.group_filter: tears the {torn} apart that reward.names={name} compares"
                raise ConfigError(what, hint=f"set trainer.group_filter=null, or leave {name} out of reward.names")


def _check_maps(config: TrainConfig, rows: Sequence[Row], types: Collection[str]) -> None:
    """Refuse rewards for maps where no row has one, or what is called so is none.

    Args:
        types: question types that occur; `rows` may be a part of the run's only.

    Raises:
        ConfigError: no row has a map, or completions are shorter than one.
        DataError: a row whose extra.map is no map.
    """
    limit = max(s.max_completion_length for s in config.stage_sections() if isinstance(s, GrpoSection))
    check_map_room(rows, "trainer.max_completion_length", limit)
    names = [name for name in config.reward_names() if name in MAP_REWARDS]
    if not names or not rows:
        return
    found = [has_map(row.answer_kind, row.extra.get("map"), f"row {row.key}") for row in rows]
    if not any(found) and not {*types} & {*map_types()}:
        raise ConfigError(
            f"reward.names={names}: no row in {config.data.path} has a map",
            hint="build rows with data.types=[map] or data.map=true, or leave the reward out",
        )
