"""Sections that several commands have."""

from __future__ import annotations

from dataclasses import dataclass

from vsgrpo.config.rules import at_least, one_of


@dataclass(frozen=True)
class RunSection:
    """What a run is called, where it goes and which seed keys it."""

    dir: str
    name: str | None
    seed: int
    method: str | None

    def __post_init__(self) -> None:
        at_least("run.seed", self.seed, 0)


@dataclass(frozen=True)
class PromptSection:
    """Which sentence follows the question, whether choice questions show their options, and the system turn."""

    mode: str
    wording: str
    show_options: bool
    system: str | None

    def __post_init__(self) -> None:
        one_of("prompt.mode", self.mode, ("vanilla", "think", "observe"))
        one_of("prompt.wording", self.wording, ("train", "eval"))
