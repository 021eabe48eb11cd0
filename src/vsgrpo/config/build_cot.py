"""`vsgrpo build-cot`: types, units and rules of its sections. Values live in configs/build_cot.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from vsgrpo.config.evaluate import RunSection, StepSection
from vsgrpo.errors import ConfigError
from vsgrpo.rules import Count, Name, Section, Share, at_least, between, choice

FILTER_NAMES = ("format", "answer", "length", "language", "repetition", "contradiction", "reference")
LOCAL = "local"
"""As base_url: a transformers model in this process."""


@dataclass(frozen=True)
class CotDataSection(Section, key="data"):
    """The questions to think about."""

    path: Name
    split: Name
    form: Annotated[str, choice("auto", "rows", "images")]
    name: Name | None
    allow_val_safe: bool


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

    def __post_init__(self) -> None:
        super().__post_init__()
        if "format" not in self.names:
            raise ConfigError(
                f"filters.names={self.names}: without `format` there is no answer to write", hint="keep format in it"
            )
        if self.max_characters < self.min_characters:
            raise ConfigError(
                f"filters.max_characters={self.max_characters}: below filters.min_characters={self.min_characters}",
                hint=f"set filters.max_characters={self.min_characters} or more",
            )


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
                raise ConfigError(
                    f"{name}.concurrency, requests_per_minute, tokens_per_minute={own}: {other} limits the same "
                    f"endpoint to {theirs}",
                    hint=f"set {other}.* alone: {name} follows it",
                )
