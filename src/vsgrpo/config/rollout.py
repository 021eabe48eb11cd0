"""The `rollout` section: who draws the completions of GRPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from vsgrpo.config.servers import ServersSection
from vsgrpo.config.trainer import GrpoSection, TrainerSection
from vsgrpo.rules import Faults, Name, Section, at_least, choice

OWN_TOKENS = 64
"""New tokens up to which rollout.engine=auto takes our own rollout."""


@dataclass(frozen=True)
class VllmSection(ServersSection, key="rollout.vllm"):
    """vLLM servers: how they sample and get weights, limits (times in seconds), and how log-probs are corrected."""

    sync: Annotated[str, choice("lora", "disk")]
    sync_dir: Name | None
    is_mode: Annotated[str, choice("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")]
    is_clip_max: Annotated[float, at_least(1)]


@dataclass(frozen=True)
class RolloutSection(Section, key="rollout"):
    """Who draws the completions of GRPO: our own rollout or vLLM servers; auto: our own up to 64 new tokens."""

    engine: Annotated[str, choice("own", "vllm", "auto")]
    vllm: VllmSection

    def engine_of(self, section: GrpoSection) -> str:
        """Return "own" or "vllm" for a stage."""
        if self.engine != "auto":
            return self.engine
        return "own" if section.max_completion_length <= OWN_TOKENS else "vllm"

    def sampling_of(self, section: GrpoSection) -> str:
        """Return how servers sample in a stage: "keyed" at temperature 1 where it is asked for, else "seeded".

        Keyed sampling adds its noise to the logits, so a server's log-probs are those of temperature 1 whatever
        temperature the noise was scaled for: at another one the correction would take them for what they are not.
        """
        return "keyed" if self.vllm.sampling == "keyed" and section.temperature == 1 else "seeded"

    def text(self, section: GrpoSection) -> str:
        """Return who draws the completions of a stage, in one line."""
        if self.engine_of(section) == "own":
            return "rollouts: by vsgrpo's own engine"
        sampling, urls = self.sampling_of(section), ", ".join(self.vllm.base_urls)
        turned = "" if sampling == self.vllm.sampling else f", as trainer.temperature={section.temperature:g} is not 1"
        weights = {"lora": "an adapter for each step", "disk": "whole weights for each step"}[self.vllm.sync]
        return f"rollouts: by vLLM at {urls}; sampling {sampling}{turned}; {weights}"

    def faults_of(self, section: TrainerSection, tune: str) -> Faults:
        """Yield what a stage that draws by servers cannot have."""
        assert isinstance(section, GrpoSection)
        why = "rollout.engine=vllm: the correction needs the probability of each token under the whole distribution"
        for name, off in (("top_p", 1), ("top_k", 0), ("min_p", None)):
            value = getattr(section, name)
            if value not in (off, off or 0):
                yield f"trainer.{name}={value:g}: {why}", f"set trainer.{name}={_word(off)}, or rollout.engine=own"
        if self.vllm.sync == "lora" and tune == "full":
            what = "rollout.vllm.sync=lora: model.tune=full has no adapter to send"
            yield what, "set rollout.vllm.sync=disk: weights go by a folder that the server reads"
        if section.loss_type == "vespo" and not self.vllm.is_mode.startswith("token"):
            what = f"rollout.vllm.is_mode={self.vllm.is_mode}: trainer.loss_type=vespo takes a ratio for each token"
            yield what, "set rollout.vllm.is_mode=token_truncate"


def _word(value: float | None) -> str:
    return "null" if value is None else f"{value:g}"
