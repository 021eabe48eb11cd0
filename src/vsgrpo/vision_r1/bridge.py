"""The steps of modality bridging for one question, told once: generating, replaying and estimating all walk them.

`walk` yields a `Request` and is sent the `Reply`; it returns what the filters are to judge. Who answers (an endpoint,
the cache, an estimate) is the caller's matter.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from vsgrpo.config.build_cot import BuildCotConfig
from vsgrpo.vision_r1 import wording
from vsgrpo.vision_r1.annotation import item_text
from vsgrpo.vision_r1.answers import Reply, content_key
from vsgrpo.vision_r1.filters import Candidate, read_candidate
from vsgrpo.vision_r1.media import MediaBudget, media_digests, media_urls
from vsgrpo.vision_r1.questions import Item

STEPS = ("pseudo", "describe", "reason")


@dataclass(frozen=True)
class Rejected:
    """Why a row has nothing to be judged; `reason` is what it is counted under."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Request:
    """One question to a generator.

    Attributes:
        step: pseudo, describe or reason.
        text: of the user turn.
        shows: whether the row's media stand before the text.
    """

    step: str
    text: str
    shows: bool


def media_budget(config: BuildCotConfig) -> MediaBudget:
    """Return how much of the media is shown."""
    return MediaBudget(config.cot.num_frames, config.cot.max_pixels, config.cot.jpeg_quality)


def walk(item: Item, bridge: str) -> Generator[Request, Reply, Candidate | Rejected]:
    """Ask for pseudo-CoT and description (bridge=caption) or take the annotation, then for the chain of thought.

    Raises:
        DataError: the row's media or annotation cannot be read.
    """
    row = item.row
    if bridge == "annotation":
        description = item_text(item)
    else:
        pseudo = yield Request("pseudo", wording.pseudo_cot_text(row), True)
        if not _is_usable(pseudo):
            return Rejected("pseudo", _why(pseudo))
        described = yield Request("describe", wording.description_text(row, pseudo.text), True)
        if not _is_usable(described):
            return Rejected("describe", _why(described))
        description = described.text.strip()
    reply = yield Request("reason", wording.reasoning_text(row, description), False)
    return read_candidate(row, reply.text, reply.reasoning, reply.finish_reason)


def request_key(item: Item, request: Request, config: BuildCotConfig) -> bytes:
    """Return the cache key: all that decides the answer, and nothing of where it is asked."""
    step = config.steps()[request.step]
    sampling = [step.model, step.temperature, step.top_p, step.max_tokens, config.run.seed]
    shown = media_digests(item, media_budget(config)) if request.shows else []
    return content_key([wording.VERSION, request.step, sampling, request.text, shown])


def messages(item: Item, request: Request, config: BuildCotConfig) -> list[dict[str, Any]]:
    """Return the request as chat messages; media are read and encoded here."""
    if not request.shows:
        return [{"role": "user", "content": request.text}]
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": url}} for url in media_urls(item, media_budget(config))
    ]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": request.text}]}]


def _is_usable(reply: Reply) -> bool:
    return bool(reply.text.strip()) and reply.finish_reason in (None, "stop")


def _why(reply: Reply) -> str:
    return f"not finished ({reply.finish_reason})" if reply.text.strip() else "empty answer"
