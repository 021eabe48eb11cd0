"""`vsgrpo build-cot`: types, units and rules of its sections. Values live in configs/build_cot.yaml."""

from __future__ import annotations

from dataclasses import dataclass

import vsgrpo.config.ranges as ranges
from vsgrpo.config.rules import check_values
from vsgrpo.config.shared import RunSection
from vsgrpo.errors import ConfigError

LOCAL = "local"
"""As base_url: a transformers model in this process."""


@dataclass(frozen=True)
class CotDataSection:
    """The questions to think about."""

    path: str
    split: str
    form: str
    name: str | None
    allow_val_safe: bool

    def __post_init__(self) -> None:
        check_values(self, "data", ranges.COT_DATA)


@dataclass(frozen=True)
class CotSection:
    """What stands in for the pictures, and how much of them the multimodal model sees (pixels an image or frame)."""

    bridge: str
    num_frames: int
    max_pixels: int
    jpeg_quality: int
    cache_dir: str | None
    max_failed: float

    def __post_init__(self) -> None:
        check_values(self, "cot", ranges.COT)


@dataclass(frozen=True)
class StepSection:
    """One step's endpoint: address, limits (time-out in seconds), sampling, prices per million tokens."""

    base_url: str | None
    model: str | None
    api_key_env: str | None
    stream: bool
    concurrency: int
    requests_per_minute: int | None
    tokens_per_minute: int | None
    timeout_s: float
    max_retries: int
    temperature: float
    top_p: float
    max_tokens: int
    expected_tokens: int
    price_prompt: float | None
    price_completion: float | None

    def check(self, prefix: str) -> None:
        """Raise ConfigError for a value that breaks its rule; `prefix` is the step's section."""
        check_values(self, prefix, ranges.STEP)
        if (self.price_prompt is None) != (self.price_completion is None):
            prices = f"price_prompt={_or_null(self.price_prompt)} price_completion={_or_null(self.price_completion)}"
            raise ConfigError(
                f"{prefix}.{prices}: one price without the other gives no cost", hint="set both, or neither"
            )


def _or_null(value: float | None) -> str:
    return "null" if value is None else f"{value:g}"


@dataclass(frozen=True)
class FilterSection:
    """Rules that a chain of thought must pass; see vsgrpo.data.cot.filters."""

    names: list[str]
    min_characters: int
    max_characters: int
    max_foreign: float
    min_stopwords: float
    max_compression: float
    max_repeats: int

    def __post_init__(self) -> None:
        check_values(self, "filters", ranges.FILTERS)
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
