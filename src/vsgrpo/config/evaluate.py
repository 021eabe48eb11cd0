"""`vsgrpo eval`: types, units and rules of its sections. Values live in configs/eval.yaml."""

from __future__ import annotations

from dataclasses import dataclass

import vsgrpo.config.ranges as ranges
from vsgrpo.config.build_cot import StepSection
from vsgrpo.config.installed import check_attention
from vsgrpo.config.rules import check_value, check_values, not_empty
from vsgrpo.config.shared import PromptSection, RunSection, check_pixels
from vsgrpo.errors import ConfigError


@dataclass(frozen=True)
class EvalModelSection:
    """The model to evaluate."""

    path: str
    adapter: str | None
    dtype: str
    attn_implementation: str
    offline: bool

    def __post_init__(self) -> None:
        check_values(self, "model", ranges.EVAL_MODEL)
        check_attention(self.attn_implementation)


@dataclass(frozen=True)
class EvalVideoSection:
    """Vision budget of an evaluation; None means: as the model's vision.json says."""

    num_frames: int | None
    min_pixels: int | None
    max_pixels: int | None
    backend: str
    frame_cache: str
    cache_dir: str | None
    timeout_s: float | None
    shuffle: bool

    def __post_init__(self) -> None:
        check_values(self, "video", ranges.EVAL_VIDEO)
        check_pixels("video", self.min_pixels, self.max_pixels)


@dataclass(frozen=True)
class EvalImageSection:
    """Pixels of an image; None means: as the model's vision.json says."""

    min_pixels: int | None
    max_pixels: int | None

    def __post_init__(self) -> None:
        check_values(self, "image", ranges.IMAGE)
        check_pixels("image", self.min_pixels, self.max_pixels)


@dataclass(frozen=True)
class DecodingSection:
    """Greedy at temperature 0, else `num_samples` keyed samples per question."""

    temperature: float
    num_samples: int
    max_new_tokens: int
    batch_size: int
    layout: str

    def __post_init__(self) -> None:
        check_values(self, "decoding", ranges.DECODING)
        if self.temperature == 0 and self.num_samples > 1:
            raise ConfigError(
                f"decoding.num_samples={self.num_samples}: greedy decoding gives one answer",
                hint="set decoding.temperature=1 too, or decoding.num_samples=1",
            )


@dataclass(frozen=True)
class BenchmarkSection:
    """The rows to score on: vsibench (or a dataset folder), mathvista, or folder (any jsonl of questions)."""

    name: str
    path: str
    split: str
    tasks: list[str] | None
    subset: str
    limit: int | None

    def __post_init__(self) -> None:
        check_values(self, "benchmark", ranges.BENCHMARK)
        not_empty("benchmark.tasks", self.tasks)


@dataclass(frozen=True)
class EvalConfig:
    """`vsgrpo eval`."""

    run: RunSection
    model: EvalModelSection
    benchmark: BenchmarkSection
    video: EvalVideoSection
    image: EvalImageSection
    prompt: PromptSection
    decoding: DecodingSection
    controls: list[str]
    scorer: str
    extract: StepSection

    def vision(self) -> dict[str, int | None]:
        """Return what is given of the vision budget, by the names of `VisionBudget`."""
        video, image = self.video, self.image
        return {
            "num_frames": video.num_frames,
            "min_pixels": video.min_pixels,
            "max_pixels": video.max_pixels,
            "image_min_pixels": image.min_pixels,
            "image_max_pixels": image.max_pixels,
        }

    def __post_init__(self) -> None:
        check_value("controls", self.controls, ranges.CONTROLS)
        check_value("scorer", self.scorer, ranges.SCORERS)
        self.extract.check("extract")
        if self.decoding.layout == "tree" and self.model.attn_implementation != "sdpa":
            raise ConfigError(
                f"model.attn_implementation={self.model.attn_implementation}: a shared video prefix needs sdpa",
                hint="set decoding.layout=plain",
            )
        if (self.extract.base_url is None) != (self.extract.model is None):
            raise ConfigError(
                f"extract.base_url={self.extract.base_url} extract.model={self.extract.model}: one without the other",
                hint="set both, or neither (answers are then extracted by rule)",
            )
        if self.extract.model is not None and self.benchmark.name != "mathvista":
            raise ConfigError(
                f"extract.model={self.extract.model}: only benchmark=mathvista has answers extracted by a model",
                hint="leave extract.model=null",
            )
