"""vLLM servers as keys: their addresses, how they sample, and how long they are waited for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from vsgrpo.rules import Count, Faults, Name, Section, above, at_least, choice


@dataclass(frozen=True)
class ServersSection(Section):
    """vLLM servers and limits (times in seconds)."""

    base_urls: list[Name]
    sampling: Annotated[str, choice("keyed", "seeded")]
    concurrency: Count
    timeout_s: Annotated[float, above(0)]
    startup_timeout_s: Annotated[float, at_least(0)]
    max_logprob_gap: Annotated[float, above(0)]

    def faults(self) -> Faults:
        key = f"{self.section_key}.base_urls"
        example = f"for example {key}=[http://127.0.0.1:8000]"
        if not self.base_urls:
            yield f"{key}=[]: no server", example
        if len(set(self.base_urls)) < len(self.base_urls):
            yield f"{key}={self.base_urls}: one is in it twice", "name each server once"
        for url in self.base_urls:
            if not is_url(url):
                yield f"{key}: {url}: an address is needed", example


@dataclass(frozen=True)
class EvalServersSection(ServersSection, key="decoding.vllm"):
    """vLLM servers that answer the questions of an evaluation."""


def is_url(text: str) -> bool:
    """Tell whether a text is the address of a server."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and parts.port != 0
    except ValueError:  # a port that is no number
        return False
