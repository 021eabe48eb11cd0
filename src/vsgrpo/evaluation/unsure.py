"""Think where unsure (`decoding.think_below`): answer without a thought, think where the model hardly believes it.

Source: arXiv 2601.05175 (VideoAuto-R1): a first answer whose log-probability is high is the answer. Deviation: the
first answer is asked for by the vanilla prompt, so any model that knows both prompts can be asked this way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vsgrpo.config.evaluate import EvalConfig
from vsgrpo.data.row import Row
from vsgrpo.errors import ConfigError
from vsgrpo.evaluation.benchmark import Benchmark

if TYPE_CHECKING:
    from vsgrpo.modeling.tree import Prompt

Draw = Callable[[Sequence["Prompt"], Sequence[tuple[str, int]]], list[list[int]]]
"""Prompts and keys -> one completion for each."""
Score = Callable[[Sequence["Prompt"], Sequence[Sequence[int]]], list[float]]
"""Prompts and completions -> mean probability of a token of each, geometric."""


@dataclass(frozen=True)
class Drawn:
    """One answer: its tokens, and with `think_below` how sure the first one was (`first` where it was thought over)."""

    tokens: list[int]
    mode: str
    probability: float | None = None
    first: list[int] | None = None


def check_unsure(config: EvalConfig, kind: type[Benchmark]) -> None:
    """Refuse decoding.think_below where no second prompt can be made: prompts of one's own, or of a benchmark.

    Call it when what the model records of its prompt is in the config.
    """
    if (bound := config.decoding.think_below) is None:
        return
    what, way_out = (
        f"decoding.think_below={bound:g}: asks by the vanilla and by the think prompt, and",
        "set it to null",
    )
    for name in ("template", "suffix"):
        if getattr(config.prompt, name) is not None:
            raise ConfigError(
                f"{what} prompt.{name} takes the place of both", hint=f"set prompt.{name}=none, or {way_out}"
            )
    if kind.text is not Benchmark.text or kind.media_in_text:
        raise ConfigError(f"{what} benchmark={config.benchmark.name} asks by its own", hint=way_out)


def draw_unsure(
    asked: Sequence[Row],
    prompts: Mapping[str, Sequence[Prompt]],
    below: float,
    draw: Draw,
    score: Score,
) -> list[Drawn]:
    """Return an answer for each row: the first one, or, where its probability is below `below`, the one with a thought.

    Args:
        prompts: "vanilla" and "think" -> the prompt of each row.
        draw, score: see `Draw` and `Score`.
    """
    keys = [(row.key, 0) for row in asked]
    first = draw(prompts["vanilla"], keys)
    found = [
        Drawn(tokens, "vanilla", round(p, 4)) for tokens, p in zip(first, score(prompts["vanilla"], first), strict=True)
    ]
    unsure = [i for i, each in enumerate(found) if each.probability is not None and each.probability < below]
    if unsure:
        thought = draw([prompts["think"][i] for i in unsure], [keys[i] for i in unsure])
        for i, tokens in zip(unsure, thought, strict=True):
            found[i] = replace(found[i], tokens=tokens, mode="think", first=found[i].tokens)
    return found
