"""The servers that a run draws its completions by: what they cannot draw, and whether they are what it needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vsgrpo.config.train import TrainConfig
from vsgrpo.config.trainer import GrpoSection
from vsgrpo.data.row_numbers import Rows
from vsgrpo.engine.client import Server
from vsgrpo.engine.handshake import Needs, meet
from vsgrpo.errors import ConfigError
from vsgrpo.families import adapter_base, check_served, family_of
from vsgrpo.families.vision_record import LIBRARY
from vsgrpo.memory.load import longest_sample

_OWN = "set rollout.engine=own"


def check_servable(config: TrainConfig) -> None:
    """Refuse a model whose completions servers would draw otherwise.

    Raises:
        ConfigError: a family that was not tried, another rule of positions than vLLM's, or a start from an adapter.
    """
    if not config.uses_servers():
        return
    family = family_of(config.model.path)
    if family is not None:
        check_served(family)
    if config.model.text_after_video == LIBRARY:
        what = "model.text_after_video=library: vLLM places text after a video as published"
        raise ConfigError(what, f"{_OWN} (docs/engine.md)")
    given = [("model.adapter", config.model.adapter)] if config.model.adapter is not None else []
    given += [("model.path", config.model.path)] if adapter_base(Path(config.model.path)) is not None else []
    if given and config.rollout.vllm.sync == "lora":
        key, path = given[0]
        what = f"{key}={path}: an adapter, merged here in memory; a server would have its base alone"
        way_out = f"`vsgrpo merge {path} output=DIR`, then serve DIR and train from model.path=DIR"
        raise ConfigError(what, way_out)


def meet_servers(
    config: TrainConfig,
    section: GrpoSection,
    rows: Rows,
    say: Callable[[str], None] = lambda text: None,
    wait_s: float | None = None,
) -> list[Server]:
    """Return the servers of a stage once each is what the stage needs.

    Args:
        say: is told that a server is waited for.
        wait_s: seconds to wait for each, None: rollout.vllm.startup_timeout_s.

    Raises:
        SetupError: one is not.
    """
    given, tokens = config.rollout.vllm, longest_sample(config, section, rows)
    needs = needs_of(config, section, tokens.prompt + tokens.completion)
    options = {"timeout_s": given.timeout_s, "patience_s": given.startup_timeout_s, "concurrency": given.concurrency}
    servers = [Server(url, "", **options) for url in given.base_urls]
    for server in servers:
        meet(server, needs, given.startup_timeout_s if wait_s is None else wait_s, say)
    return servers


def needs_of(config: TrainConfig, section: GrpoSection, tokens: int) -> Needs:
    """Return what a stage needs of its servers, `tokens` for a prompt and its completion."""
    return Needs(
        sampling=config.rollout.sampling_of(section),
        dtype="bfloat16" if config.autocasts(section) or config.model.dtype == "bfloat16" else "float32",
        tokens=tokens,
        lora_rank=config.model.lora.r if config.rollout.vllm.sync == "lora" else 0,
    )
