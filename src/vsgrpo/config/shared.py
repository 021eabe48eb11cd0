"""Sections that several commands have."""

from __future__ import annotations

from dataclasses import dataclass

import vsgrpo.config.ranges as ranges
from vsgrpo.config.rules import check_values
from vsgrpo.errors import ConfigError


@dataclass(frozen=True)
class RunSection:
    """What a run is called, where it goes and which seed keys it."""

    dir: str
    name: str | None
    seed: int
    method: str | None

    def __post_init__(self) -> None:
        check_values(self, "run", ranges.RUN)


@dataclass(frozen=True)
class PromptSection:
    """Which sentence follows the question, whether choice questions show their options, and the system turn."""

    mode: str
    wording: str
    show_options: bool
    system: str | None

    def __post_init__(self) -> None:
        check_values(self, "prompt", ranges.PROMPT)


def check_pixels(prefix: str, low: int | None, high: int | None) -> None:
    """Raise ConfigError where the most pixels are fewer than the fewest."""
    if low is not None and high is not None and high < low:
        raise ConfigError(
            f"{prefix}.max_pixels={high}: below {prefix}.min_pixels={low}",
            hint=f"set {prefix}.max_pixels={low} or more, or lower {prefix}.min_pixels",
        )
