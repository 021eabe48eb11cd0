"""`vsgrpo eval`: types, units and rules of its sections. Values live in configs/eval.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from vsgrpo.config.shared import (
    ImageSection,
    ModelSection,
    PromptSection,
    RunSection,
    ShowsMedia,
    StepSection,
    VideoSection,
)
from vsgrpo.errors import ConfigError
from vsgrpo.rules import Count, Name, Section, at_least, choice, not_empty


@dataclass(frozen=True)
class EvalVideoSection(VideoSection):
    """Vision budget of an evaluation; None means: as the model's vision.json says."""

    shuffle: bool


@dataclass(frozen=True)
class DecodingSection(Section, key="decoding"):
    """Greedy at temperature 0, else `num_samples` keyed samples per question."""

    temperature: Annotated[float, at_least(0)]
    num_samples: Count
    max_new_tokens: Count
    batch_size: Count
    layout: Annotated[str, choice("tree", "plain")]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature == 0 and self.num_samples > 1:
            raise ConfigError(
                f"decoding.num_samples={self.num_samples}: greedy decoding gives one answer",
                hint="set decoding.temperature=1 too, or decoding.num_samples=1",
            )


@dataclass(frozen=True)
class BenchmarkSection(Section, key="benchmark"):
    """The rows to score on: vsibench (or a dataset folder), mathvista, or folder (any jsonl of questions)."""

    name: Name
    path: Name
    split: Annotated[str, choice("test", "train", "dev")]
    tasks: list[str] | None
    subset: Annotated[str, choice("full", "debiased", "pruned")]
    limit: Count | None

    def __post_init__(self) -> None:
        super().__post_init__()
        not_empty("benchmark.tasks", self.tasks)


@dataclass(frozen=True)
class EvalConfig(ShowsMedia, Section, key=""):
    """`vsgrpo eval`."""

    run: RunSection
    model: ModelSection
    benchmark: BenchmarkSection
    video: EvalVideoSection
    image: ImageSection
    prompt: PromptSection
    decoding: DecodingSection
    controls: list[Annotated[str, choice("blind", "blank", "first_frame", "shuffled")]]
    scorer: Annotated[str, choice("official", "lmms", "lenient")]
    extract: StepSection

    def __post_init__(self) -> None:
        super().__post_init__()
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
