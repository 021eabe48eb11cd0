"""`vsgrpo build-data` and `build-cot`: types, units and rules of their sections.

Values live in configs/build_data.yaml and configs/build_cot.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

from vsgrpo.config.evaluate import RunSection, StepSection
from vsgrpo.config.sources import SPLIT, SourcePart, part_of_entry
from vsgrpo.errors import ConfigError
from vsgrpo.rules import (
    Choice,
    Count,
    Faults,
    Name,
    Section,
    Seed,
    Share,
    above,
    at_least,
    between,
    choice,
    load_question_types,
    not_empty,
    suggest,
)
from vsgrpo.scans.source import ScanSource, SourceOptions
from vsgrpo.spatial.question import QuestionType
from vsgrpo.spatial.question_settings import QuestionSettings
from vsgrpo.spatial.question_types import QUESTION_TYPES, asked_types, family_names, type_names

FILTER_NAMES = ("format", "answer", "length", "language", "repetition", "contradiction", "reference")
LOCAL = "local"
"""As base_url: a transformers model in this process."""


@dataclass(frozen=True)
class BuildRunSection(Section, key="run"):
    """Name and seed; the output folder is data.path."""

    name: str | None
    seed: Seed
    method: str | None


@dataclass(frozen=True)
class BuildDataSection(Section, key="data"):
    """The scans to build from, and the questions to ask about them."""

    path: Name
    mode: Annotated[str, choice("vsi100k", "vsibench", "revsi")]
    split: Annotated[str, SPLIT]
    types: list[Annotated[str, Choice((*type_names(), *family_names()), takes_code=True)]] | None
    min_count: Annotated[int, at_least(0)]
    dev_fraction: Share
    keep_out: list[Name]
    unseen: Annotated[str, choice("drop", "flag")]
    reasoning: Annotated[str, choice("none", "template")]
    map: bool

    def faults(self) -> Faults:
        yield from not_empty("data.types", self.types)
        for name in load_question_types("data.types", self.types or ()):
            if self.mode == "vsi100k" and QUESTION_TYPES[name].held_out:
                what = f"data.types={name}: the paper holds this type out, data.mode=vsi100k never makes it"
                yield what, "use data.mode=vsibench, or leave it to the evaluation"


@dataclass(frozen=True)
class SpatialSection(Section, key="spatial"):
    """Choices of geometry; see vsgrpo.spatial.geometry."""

    box: Annotated[str, choice("upright_min", "aabb", "min_obb")]
    size_box: Annotated[str, choice("obb", "aabb")]
    distance: Annotated[str, choice("centroid", "closest_point")] | None
    alpha_points: Annotated[str, choice("random10k", "voxel5cm")]
    alpha: Annotated[float, above(0, "VSI-Bench uses spatial.alpha=5")]
    alpha_holes: Annotated[str, choice("fill", "keep")]


@dataclass(frozen=True)
class AppearanceSection(Section, key="appearance"):
    """When a video shows a category; see vsgrpo.spatial.held_out and vsgrpo.scans.visibility."""

    min_pixels: Count
    min_share: Share
    min_run: Count
    min_frames: Count
    min_gap_s: Annotated[float, above(0, "seconds")]
    glimpse_share: Share
    stride_s: Annotated[float, above(0, "seconds")] | None
    depth_tolerance: Share


@dataclass(frozen=True)
class RouteSection(Section, key="route"):
    """Length and clearance of made-up routes; see vsgrpo.spatial.held_out."""

    min_legs: Annotated[int, between(1, 4)]
    max_legs: Annotated[int, between(1, 4)]
    min_leg_m: Annotated[float, above(0)]
    max_leg_m: Annotated[float, above(0)]
    max_reach_m: Annotated[float, at_least(0)]
    clearance_m: Annotated[float, at_least(0)]

    def faults(self) -> Faults:
        if self.min_legs > self.max_legs:
            what = f"route.min_legs={self.min_legs}, route.max_legs={self.max_legs}"
            yield f"{what}: must rise within 1..4", "route.min_legs=2 route.max_legs=4"
        if self.min_leg_m >= self.max_leg_m:
            what = f"route.min_leg_m={self.min_leg_m}, route.max_leg_m={self.max_leg_m}"
            yield f"{what}: must rise from above 0", "route.min_leg_m=0.8 route.max_leg_m=6.0"


@dataclass(frozen=True)
class BuildSection(Section, key="build"):
    """Processes, shards and tolerated failures of a build."""

    num_workers: Annotated[int, at_least(1, "null: one process per core")] | None
    num_shards: Count
    shard: Annotated[int, at_least(0)]
    max_skipped: Annotated[float, between(0, 1)]
    report_scenes: Annotated[int, at_least(0)]

    def faults(self) -> Faults:
        if not 0 <= self.shard < self.num_shards:
            what = f"build.shard={self.shard}: must be in 0..{self.num_shards - 1} (build.num_shards={self.num_shards})"
            yield what, "a Slurm array of N tasks: build.num_shards=N build.shard=$SLURM_ARRAY_TASK_ID, numbered from 0"


@dataclass(frozen=True)
class BalanceSection(Section, key="balance"):
    """Thinning and evening out at the end of a build; dicts by question type, absent or null changes nothing."""

    mode: Annotated[str, choice("text", "paper")]
    letters: bool
    caps: dict[str, Annotated[int, at_least(1)] | None]
    weights: dict[str, Annotated[float, between(0, 1)] | None]
    max_share: dict[str, Annotated[float, between(0, 1)] | None]

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("caps", "weights", "max_share"):
            for key in getattr(self, name):
                if key not in QUESTION_TYPES:
                    raise ConfigError(f"balance.{name}.{key}: no such question type", suggest(key, type_names()))


@dataclass(frozen=True)
class BuildVideoSection(Section, key="video"):
    """Source and format of a dataset's videos (sizes in pixels)."""

    source: Annotated[str, choice("recorded", "mesh", "folder", "none")]
    folder: Name | None
    export_height: Annotated[int, at_least(28)]
    fps: Count
    crf: Annotated[int, between(0, 51)]
    walk_frames: Annotated[int, at_least(3)]
    walk_width: Annotated[int, at_least(28)]
    walk_height: Annotated[int, at_least(28)]
    seen_pixels: Count
    seen_frames: Annotated[int, at_least(0)]
    budgets: list[Annotated[int, at_least(2)]]
    frame_true: Annotated[str, choice("drop", "flag", "answer")]

    def __post_init__(self) -> None:
        if self.source == "sens":  # its name while ScanNet was the only source with a recording
            object.__setattr__(self, "source", "recorded")
        super().__post_init__()

    def faults(self) -> Faults:
        if (self.source == "folder") != (self.folder is not None):
            what = f"video.folder={self.folder}: video.source=folder needs it, other sources must not have it"
            yield what, "set video.source=folder video.folder=DIR with DIR/<scene>.mp4"
        if any(budget % 2 for budget in self.budgets) or len({*self.budgets}) < len(self.budgets):
            hint = "loaders show pairs of frames: even numbers such as video.budgets=[8,16,32,64], or [] to judge none"
            yield f"video.budgets={self.budgets}: must be different even numbers", hint


@dataclass(frozen=True)
class CounterfactualSection(Section, key="counterfactual"):
    """Edited videos, in pairs with the original; see vsgrpo.data.build.counterfactual."""

    removals: Annotated[int, at_least(0)]
    placebo_rows: Annotated[int, at_least(0)]
    query_drops: Annotated[int, at_least(0)]
    max_share: Annotated[float, between(0, 1)]
    min_frames: Count

    @property
    def wanted(self) -> bool:
        """Whether any edited video is."""
        return self.removals + self.query_drops > 0


@dataclass(frozen=True)
class BuildDataConfig:
    """`vsgrpo build-data`."""

    run: BuildRunSection
    source: SourceOptions
    data: BuildDataSection
    spatial: SpatialSection
    appearance: AppearanceSection
    route: RouteSection
    balance: BalanceSection
    build: BuildSection
    video: BuildVideoSection
    counterfactual: CounterfactualSection
    sources: list[dict[str, Any]] | None

    def __post_init__(self) -> None:
        if self.counterfactual.wanted and self.video.source != "mesh":
            what = "counterfactual.removals" if self.counterfactual.removals else "counterfactual.query_drops"
            raise ConfigError(
                f"{what} with video.source={self.video.source}: objects are taken out of a mesh that is filmed",
                hint="set video.source=mesh video.walk_frames=127",
            )
        self._check_video()

    def _check_video(self) -> None:
        """Raise ConfigError where a type that is listed needs to know what the video shows, and nobody looks."""
        looks = self.video.source in ("recorded", "mesh") and self.video.seen_frames > 0
        if self.data.map and not looks:
            what = f"video.source={self.video.source}, video.seen_frames={self.video.seen_frames}: nobody looks"
            hint = "set video.source=mesh or recorded and video.seen_frames=16, or data.map=false"
            raise ConfigError(f"data.map=true: y of a map is where the first frame looks; {what}", hint=hint)
        for kind in [] if looks or self.data.types is None else self.asked_types():
            if {"poses", "footage"} & set(kind.needs):
                what = f"video.source={self.video.source}, video.seen_frames={self.video.seen_frames}"
                raise ConfigError(
                    f"data.types: {kind.name} asks what the video shows and from where; {what}: nobody looks at it",
                    hint="set video.source=mesh or recorded and video.seen_frames=16, or leave the type out",
                )

    def asked_types(self) -> list[QuestionType]:
        """Return the types of questions that are asked."""
        types = None if self.data.types is None else load_question_types("data.types", self.data.types)
        return asked_types(QuestionSettings(mode=self.data.mode, types=types))

    @cached_property
    def parts(self) -> tuple[SourcePart, ...]:
        """The sources of the dataset: `source`, or those of `sources`, of which `source` is the first."""
        if self.sources is None:
            return (SourcePart(self.source, self.data.split),)
        return tuple(part_of_entry(f"sources[{number}]", entry) for number, entry in enumerate(self.sources))

    @property
    def dataset(self) -> str:
        """Names of the data sets in rows, folders and manifests, with + between."""
        return "+".join(sorted({part.dataset for part in self.parts}))

    def source_of(self, dataset: str) -> ScanSource:
        """Return the source of a data set's scans."""
        return next(part.source for part in self.parts if part.dataset == dataset)

    def name_in(self, dataset: str, name: str) -> str:
        """Return the name of a scan or room among all: with its data set where there are several sources."""
        return name if self.sources is None else f"{dataset}/{name}"


@dataclass(frozen=True)
class CotDataSection(Section, key="data"):
    """The questions to think about."""

    path: Name
    split: Name
    form: Annotated[str, choice("auto", "rows", "images")]
    name: Name | None
    allow_val_safe: bool
    keep_out: list[Name]


@dataclass(frozen=True)
class CotSection(Section, key="cot"):
    """What stands in for the pictures, and how much of them the multimodal model sees (pixels an image or frame)."""

    bridge: Annotated[str, choice("caption", "annotation")]
    num_frames: Count
    max_pixels: Annotated[int, at_least(3136)]
    jpeg_quality: Annotated[int, between(1, 100)]
    cache_dir: Name | None
    max_failed: Share


@dataclass(frozen=True)
class FilterSection(Section, key="filters"):
    """Rules that a chain of thought must pass; see vsgrpo.vision_r1.filters."""

    names: list[Annotated[str, choice(*FILTER_NAMES)]]
    min_characters: Count
    max_characters: Count
    max_foreign: Share
    min_stopwords: Share
    max_compression: Annotated[float, at_least(1)]
    max_repeats: Count

    def faults(self) -> Faults:
        if "format" not in self.names:
            yield f"filters.names={self.names}: without `format` there is no answer to write", "keep format in it"
        if self.max_characters < self.min_characters:
            what = f"filters.max_characters={self.max_characters}: below filters.min_characters={self.min_characters}"
            yield what, f"set filters.max_characters={self.min_characters} or more"


@dataclass(frozen=True)
class BuildCotConfig:
    """`vsgrpo build-cot`."""

    run: RunSection
    data: CotDataSection
    cot: CotSection
    pseudo: StepSection
    describe: StepSection
    reason: StepSection
    filters: FilterSection

    def __post_init__(self) -> None:
        for name in ("pseudo", "describe", "reason"):
            getattr(self, name).check(name)

    def steps(self) -> dict[str, StepSection]:
        """Return the steps of the bridge by name, in order."""
        if self.cot.bridge == "annotation":
            return {"reason": self.reason}
        return {"pseudo": self.pseudo, "describe": self.describe, "reason": self.reason}

    def is_local(self, name: str) -> bool:
        """Return whether a step is answered by a model in this process."""
        return self.steps()[name].base_url == LOCAL

    def check_endpoints(self) -> None:
        """Raise ConfigError for a step without an endpoint, or two that limit the same endpoint differently."""
        limits: dict[tuple[str | None, ...], tuple[str, tuple[int | None, ...]]] = {}
        for name, step in self.steps().items():
            for key in ("base_url", "model"):
                if getattr(step, key) is None:
                    hint = f"{name}.base_url=http://HOST:PORT/v1 (or local) {name}.model=NAME, or cot.bridge=annotation"
                    raise ConfigError(f"{name}.{key}=null: the step needs an endpoint", hint=hint)
            own = (step.concurrency, step.requests_per_minute, step.tokens_per_minute)
            other, theirs = limits.setdefault((step.base_url, step.model, step.api_key_env), (name, own))
            if theirs != own:
                what = f"{name}.concurrency, requests_per_minute, tokens_per_minute={own}"
                limit = f"{other} limits the same endpoint to {theirs}"
                raise ConfigError(f"{what}: {limit}", hint=f"set {other}.* alone: {name} follows it")
