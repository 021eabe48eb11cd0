"""`vsgrpo serve`: types and rules of its sections. Values live in configs/serve.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from vsgrpo.rules import Count, Faults, Name, Section, Share, between, choice

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Largest ranks that vLLM 0.32 reserves room for."""
OWN_ARGUMENTS = ("--host", "--port", "--max-model-len", "--dtype", "--max-lora-rank", "--logprobs-mode")
OWN_ARGUMENTS += ("--tensor-parallel-size", "--gpu-memory-utilization", "--logits-processors", "--generation-config")
OWN_ARGUMENTS += ("--enable-lora", "--max-loras", "--max-cpu-loras", "--limit-mm-per-prompt")
"""What `vsgrpo serve` sets itself."""


@dataclass(frozen=True)
class ServedModelSection(Section, key="model"):
    """The model that is served."""

    path: Name
    dtype: Annotated[str, choice("bfloat16", "float32")]


@dataclass(frozen=True)
class ServeSection(Section, key="serve"):
    """Address and sizes of a vLLM server."""

    host: Name
    port: Annotated[int, between(1, 65535)]
    max_model_len: Count
    max_lora_rank: Annotated[int, between(0, LORA_RANKS[-1])]
    sampling: Annotated[str, choice("keyed", "seeded")]
    tensor_parallel_size: Count
    gpu_memory_utilization: Share
    args: list[str]

    def faults(self) -> Faults:
        for word in self.args:
            if (name := word.partition("=")[0]) in OWN_ARGUMENTS:
                yield f"serve.args={word}: vsgrpo serve sets {name} itself", "leave it out, and set its key"


@dataclass(frozen=True)
class ServeConfig(Section, key=""):
    """`vsgrpo serve`."""

    model: ServedModelSection
    serve: ServeSection
