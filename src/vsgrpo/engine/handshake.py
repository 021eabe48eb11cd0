"""Whether a server is the one that a run needs: what it says of itself, before anything is drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vsgrpo.engine.client import Server
from vsgrpo.engine.connections import NO_VLLM, EngineError
from vsgrpo.engine.wire import LOGPROBS_MODES, VLLM_VERSIONS
from vsgrpo.errors import SetupError

PRECISION = ("float32", "bfloat16")
"""Types that a server may compute in, the more precise one first."""


@dataclass(frozen=True)
class Needs:
    """What a run needs of a server.

    Attributes:
        sampling: "keyed" or "seeded".
        dtype: the type that this side computes in, "float32" or "bfloat16".
        tokens: of a prompt and its completion together.
        lora_rank: of the adapters that are sent; 0: none.
    """

    sampling: str
    dtype: str
    tokens: int = 0
    lora_rank: int = 0


def meet(server: Server, needs: Needs, wait_s: float, say: Callable[[str], None] = lambda text: None) -> None:
    """Wait for a server and compare it with what is needed; afterwards it knows its model's name and its room.

    Args:
        wait_s: seconds to wait until it answers.
        say: is told that it is waited for.

    Raises:
        SetupError: no server, another version, too little room, other log-probs, no such adapters, or another type.
    """
    try:
        server.wait_until_alive(wait_s, say)
        version = server.vllm_version()
        if version.partition("+")[0] not in VLLM_VERSIONS:
            known = ", ".join(VLLM_VERSIONS)
            raise SetupError(f"{server.url}: vLLM {version}; compared with vsgrpo were {known} only", _SERVE)
        names = server.models()
        if not names:
            raise SetupError(f"{server.url}: serves no model", NO_VLLM)
        server.model = names[0]
        _compare(server, needs, server.server_info())
    except EngineError as error:
        raise SetupError(error.message, error.hint) from error


def _compare(server: Server, needs: Needs, info: dict[str, Any]) -> None:
    model, lora = info.get("model_config") or {}, info.get("lora_config") or {}
    try:
        room, rank = int(model["max_model_len"]), int(lora.get("max_lora_rank") or 0)
        mode, dtype = str(model["logprobs_mode"]), str(model["dtype"]).removeprefix("torch.")
    except (KeyError, TypeError, ValueError):
        raise SetupError(f"{server.url}/server_info: no configuration of vLLM: {str(model)[:200]}", NO_VLLM) from None
    if room < needs.tokens:
        what = f"{server.url}: takes {room} tokens, a prompt and its completion have up to {needs.tokens}"
        raise SetupError(what, f"start it with serve.max_model_len={needs.tokens}, or lower the length of completions")
    wanted = LOGPROBS_MODES[needs.sampling]
    if mode != wanted:
        what = f"{server.url}: returns {mode}, sampling={needs.sampling} needs {wanted}"
        raise SetupError(what, f"start it with serve.sampling={needs.sampling}")
    if rank < needs.lora_rank:
        have = f"adapters of rank {rank} at most" if rank else "no adapters"
        what = f"{server.url}: takes {have}, model.lora.r={needs.lora_rank}"
        raise SetupError(what, f"start it with serve.max_lora_rank={needs.lora_rank}")
    if dtype not in PRECISION or PRECISION.index(dtype) > PRECISION.index(needs.dtype):
        what = f"{server.url}: computes in {dtype}, this side in {needs.dtype}"
        raise SetupError(what, f"start it with model.dtype={needs.dtype}")
    server.max_model_len = room


_SERVE = "start the server with `vsgrpo serve`, from an environment with one of these versions"
