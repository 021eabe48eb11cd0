"""`vsgrpo build-data`: types, units and rules of its sections. Values live in configs/build_data.yaml."""

from __future__ import annotations

from dataclasses import dataclass

import vsgrpo.config.ranges as ranges
from vsgrpo.config.rules import check_values, not_empty, one_of
from vsgrpo.errors import ConfigError
from vsgrpo.plugins import load_question_types
from vsgrpo.spatial.question_types import QUESTION_TYPES, type_names


@dataclass(frozen=True)
class BuildRunSection:
    """Name and seed; the output folder is data.path."""

    name: str | None
    seed: int
    method: str | None

    def __post_init__(self) -> None:
        check_values(self, "run", ranges.BUILD_RUN)


@dataclass(frozen=True)
class SourceSection:
    """Where scans come from; the demo writes its rooms first."""

    name: str
    root: str | None
    num_scenes: int | None = None
    preset: str | None = None
    seed: int | None = None
    num_frames: int | None = None
    frame_size: int | None = None

    def __post_init__(self) -> None:
        check_values(self, "source", ranges.SOURCE)


@dataclass(frozen=True)
class BuildDataSection:
    """What to ask about the scans, and which scans."""

    path: str
    mode: str
    split: str
    types: list[str] | None
    min_count: int
    dev_fraction: float
    unseen: str
    reasoning: str

    def __post_init__(self) -> None:
        check_values(self, "data", ranges.BUILD_DATA)
        not_empty("data.types", self.types)
        for name in load_question_types("data.types", self.types or ()):
            if self.mode == "vsi100k" and QUESTION_TYPES[name].held_out:
                what = f"data.types={name}: the paper holds this type out, data.mode=vsi100k never makes it"
                raise ConfigError(what, hint="use data.mode=vsibench, or leave it to the evaluation")


@dataclass(frozen=True)
class SpatialSection:
    """Choices of geometry; see vsgrpo.spatial.geometry."""

    box: str
    size_box: str
    distance: str | None
    alpha_points: str
    alpha: float
    alpha_holes: str

    def __post_init__(self) -> None:
        check_values(self, "spatial", ranges.SPATIAL)


@dataclass(frozen=True)
class AppearanceSection:
    """When a video shows a category; see vsgrpo.spatial.appearance and vsgrpo.scans.visibility."""

    min_pixels: int
    min_share: float
    min_run: int
    min_frames: int
    min_gap_s: float
    glimpse_share: float
    stride_s: float | None
    depth_tolerance: float

    def __post_init__(self) -> None:
        check_values(self, "appearance", ranges.APPEARANCE)


@dataclass(frozen=True)
class RouteSection:
    """What a made-up route looks like; see vsgrpo.spatial.routes."""

    min_legs: int
    max_legs: int
    min_leg_m: float
    max_leg_m: float
    max_reach_m: float
    clearance_m: float

    def __post_init__(self) -> None:
        check_values(self, "route", ranges.ROUTE)
        if self.min_legs > self.max_legs:
            what = f"route.min_legs={self.min_legs}, route.max_legs={self.max_legs}"
            raise ConfigError(f"{what}: must rise within 1..4", hint="route.min_legs=2 route.max_legs=4")
        if self.min_leg_m >= self.max_leg_m:
            what = f"route.min_leg_m={self.min_leg_m}, route.max_leg_m={self.max_leg_m}"
            raise ConfigError(f"{what}: must rise from above 0", hint="route.min_leg_m=0.8 route.max_leg_m=6.0")


@dataclass(frozen=True)
class BuildSection:
    """How the work is spread."""

    num_workers: int | None
    num_shards: int
    shard: int
    max_skipped: float
    report_scenes: int

    def __post_init__(self) -> None:
        check_values(self, "build", ranges.BUILD)
        if not 0 <= self.shard < self.num_shards:
            raise ConfigError(
                f"build.shard={self.shard}: must be in 0..{self.num_shards - 1} (build.num_shards={self.num_shards})",
                hint="a Slurm array of N tasks: build.num_shards=N build.shard=$SLURM_ARRAY_TASK_ID, numbered from 0",
            )


@dataclass(frozen=True)
class BalanceSection:
    """What is thinned and evened out at the end of a build; dicts go by question type, null changes nothing."""

    letters: bool
    caps: dict[str, int | None]
    weights: dict[str, float | None]
    max_share: dict[str, float | None]

    def __post_init__(self) -> None:
        for name in ("caps", "weights", "max_share"):
            for key, value in getattr(self, name).items():
                one_of(f"balance.{name}", key, type_names())
                if value is not None:
                    ranges.BALANCE[name].check(f"balance.{name}.{key}", value)


@dataclass(frozen=True)
class BuildVideoSection:
    """Where the videos of a dataset come from (sizes in pixels)."""

    source: str
    folder: str | None
    export_height: int
    fps: int
    crf: int
    walk_frames: int
    walk_width: int
    walk_height: int
    seen_pixels: int
    seen_frames: int

    def __post_init__(self) -> None:
        check_values(self, "video", ranges.BUILD_VIDEO)
        if (self.source == "folder") != (self.folder is not None):
            raise ConfigError(
                f"video.folder={self.folder}: video.source=folder needs it, other sources must not have it",
                hint="set video.source=folder video.folder=DIR with DIR/<scene>.mp4",
            )


@dataclass(frozen=True)
class BuildDataConfig:
    """`vsgrpo build-data`."""

    run: BuildRunSection
    source: SourceSection
    data: BuildDataSection
    spatial: SpatialSection
    appearance: AppearanceSection
    route: RouteSection
    balance: BalanceSection
    build: BuildSection
    video: BuildVideoSection
