"""How answers are decoded, as settings.json keeps it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Self

from vsgrpo.config.evaluate import EvalConfig


@dataclass(frozen=True)
class Decoding:
    """Greedy at temperature 0 (one sample), else `num_samples` keyed samples per question (step 0)."""

    temperature: float = 0.0
    num_samples: int = 1
    max_new_tokens: int = 16
    batch_size: int = 32
    seed: int = 42
    layout: str = "tree"
    """tree: questions of a video share its prefix; plain: every prompt on its own. The same answers in fp32."""

    think_below: float | None = None
    """Answers of a lower probability are given again with a thought (`evaluation.unsure`); None: all by one prompt."""

    @classmethod
    def of(cls, config: EvalConfig) -> Self:
        """Return what a config says about decoding."""
        given = {name: value for name, value in asdict(config.decoding).items() if name not in ("engine", "vllm")}
        return cls(**given, seed=config.run.seed)
