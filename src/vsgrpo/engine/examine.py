"""vLLM as `vsgrpo doctor` sees it: the environment that is named, and the servers that a run would ask."""

from __future__ import annotations

import os
from collections.abc import Iterator

from vsgrpo.engine.client import Server
from vsgrpo.engine.handshake import Needs, meet
from vsgrpo.engine.serve import INTERPRETER, interpreter, vllm_version
from vsgrpo.errors import VsgrpoError
from vsgrpo.findings import Finding


def examine_environment() -> Iterator[Finding]:
    """Look at the environment of vLLM, where one is named: who draws by vsgrpo's own engine needs none."""
    if os.environ.get(INTERPRETER):
        try:
            yield Finding(INTERPRETER, "ok", f"vllm {vllm_version(interpreter())}")
        except VsgrpoError as error:
            yield Finding(INTERPRETER, "warn", error.message.removeprefix(f"{INTERPRETER}="), error.hint)


def examine_server(url: str, needs: Needs) -> Finding:
    """Compare a server with what a run needs; it is not waited for."""
    server = Server(url, "")
    try:
        meet(server, needs, 0.0)
    except VsgrpoError as error:
        return Finding("vLLM server", "fail", error.message, error.hint)
    text = f"{url}: {server.model}, {server.max_model_len} tokens"
    return Finding("vLLM server", "ok", f"{text}, as the run needs it (weights are compared before its first step)")
