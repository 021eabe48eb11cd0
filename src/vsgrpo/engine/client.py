"""A vLLM server as trainers and evaluations use it: what it is, its weights, and completions.

What can be mended is mended where it happens, once for each kind (`EngineError`): features that a server has forgotten
are sent again, a server that was started anew gets its adapter or weights back, one that went down is waited for.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace
from typing import Any

from vsgrpo.engine.connections import LONG_S, SHORT_S, Connections, EngineError, is_missing, text_of
from vsgrpo.engine.wire import Completion, Request, read_completion
from vsgrpo.errors import RunError

FIRST_SENDS = 4
"""Requests with features that go to a server at a time: one of 1,024 tokens of a 2B model in bfloat16 is 4.2 MB."""
HEALTH_S = 5.0
"""Seconds for an answer to whether it lives."""
POLL_S = 0.5
"""Seconds between two looks whether a server answers again."""
_PREEMPTIONS = "vllm:num_preemptions"
_FIRST_VERSION = "default"
"""Name of a server's weights until it is told another."""
_LOG = "look at the server's log"
_STALE = "nobody else may load weights into the server of a run"
_LORA = "start the server as `vsgrpo serve` writes it: runtime LoRA, enough rank, and the folder visible to it"
_SCALE_OUT = "start the server as `vsgrpo serve` writes it, with --enable-scale-out"


class Server:
    """One server; its methods may be called from several threads.

    Args:
        url: http://HOST:PORT.
        model: name of the base model there (`--served-model-name`, or its path).
        timeout_s: for a completion.
        patience_s: how long a server that went down may take to answer again; 0: not waited for.
        concurrency: requests at a time.
        max_model_len: tokens of prompt and completion that it takes; None until it is known.

    Attributes:
        weights: adapter to ask for instead of the model.
        version: name that the weights must have; None: not looked at.
        restore: called once after a server was started anew, brings adapter or weights back; may be called again later.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        timeout_s: float = 900.0,
        patience_s: float = 0.0,
        concurrency: int = 256,
        max_model_len: int | None = None,
    ) -> None:
        self._http = Connections(url)
        self.url, self.model, self.max_model_len = self._http.url, model, max_model_len
        self._timeout_s, self._patience_s, self._concurrency = timeout_s, patience_s, concurrency
        self.weights: str | None = None
        self.version: str | None = None
        self.restore: Callable[[], None] | None = None
        self._sent: set[str] = set()
        self._first_sends = threading.Semaphore(FIRST_SENDS)
        self._lock, self._recovery = threading.Lock(), threading.Lock()
        self._introductions: dict[str, threading.Lock] = {}
        self._stopped = threading.Event()
        self._lives = 0
        """Times that the server was found to have been started anew."""

    # --- what it is and does ------------------------------------------------------------------------------------

    def is_alive(self) -> bool:
        """Tell whether it answers `/health`.

        Raises:
            EngineError: "broken": something else answers there.
        """
        try:
            status, body = self._http.call("GET", "/health", timeout_s=HEALTH_S)
        except EngineError:
            return False
        if 400 <= status < 500:  # a server of vLLM says 503 where its engine is dead
            raise self._http.broken("/health", f"HTTP {status}: {text_of(body)}")
        return status == 200

    def wait_until_alive(self, seconds: float, say: Callable[[str], None] = lambda text: None) -> None:
        """Wait for `/health`; `say` is told once that it is waited for.

        Raises:
            EngineError: "down" after these seconds, "broken" as soon as something else answers.
        """
        end, told = time.monotonic() + seconds, False
        while not self.is_alive():
            if time.monotonic() >= end:
                raise EngineError(
                    "down",
                    f"{self.url}: no server answers" + (f" after {seconds:g} seconds" if seconds else ""),
                    "start it (`vsgrpo serve` writes the command), correct vllm.base_urls, or draw by engine=own",
                )
            if not told:
                say(f"waiting for the server at {self.url}")
                told = True
            if self._stopped.wait(POLL_S):
                raise EngineError("down", f"{self.url}: no longer waited for", _LOG)

    def vllm_version(self) -> str:
        """Return its version of vLLM.

        Raises:
            EngineError: "broken": it is no vLLM.
        """
        answer = self._http.fetch("/version", "its version")
        version = answer.get("version") if isinstance(answer, dict) else None
        if not isinstance(version, str):
            raise self._http.broken("/version", answer)
        return version

    def models(self) -> list[str]:
        """Return the names of models and adapters that it serves."""
        answer = self._http.fetch("/v1/models", "its models")
        try:
            return [str(each["id"]) for each in answer["data"]]
        except (KeyError, TypeError):
            raise self._http.broken("/v1/models", answer) from None

    def server_info(self) -> dict[str, Any]:
        """Return its configuration by section (`model_config`, `lora_config`, ...), as `/server_info` tells it."""
        answer = self._http.fetch("/server_info?config_format=json", "its configuration", LONG_S)
        found = answer.get("vllm_config") if isinstance(answer, dict) else None
        if not isinstance(found, dict):
            raise self._http.broken("/server_info", answer)
        return found

    def metrics(self) -> dict[str, float]:
        """Return its counters and gauges by name, summed over labels."""
        status, body = self._http.call("GET", "/metrics", timeout_s=SHORT_S)
        if status != 200:
            raise self._http.refused("its metrics", status, body)
        found: dict[str, float] = {}
        for line in body.decode("utf-8", "replace").splitlines():
            if (match := re.fullmatch(r"([A-Za-z_:][\w:]*)(?:\{.*\})?\s+(\S+)(?:\s+\d+)?", line)) is not None:
                with suppress(ValueError):
                    found[match[1]] = found.get(match[1], 0.0) + float(match[2])
        return found

    def preemptions(self) -> float:
        """Return how often it has put a completion aside for want of cache since it was started."""
        found = self.metrics()
        return found.get(f"{_PREEMPTIONS}_total", found.get(_PREEMPTIONS, 0.0))

    # --- weights and caches -------------------------------------------------------------------------------------

    def add_adapter(self, name: str, folder: str) -> None:
        """Load an adapter under a new name; one that has the name already counts as loaded."""
        status, body = self._http.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": folder})
        if status != 200 and not (status == 400 and b"already" in body):
            raise self._http.refused(f"to load the adapter {folder}", status, body, _LORA)

    def drop_adapter(self, name: str) -> None:
        """Drop an adapter; one that is not there counts as dropped."""
        status, body = self._http.post("/v1/unload_lora_adapter", {"lora_name": name})
        if status not in (200, 404):
            raise self._http.refused(f"to unload the adapter {name}", status, body, _LORA)

    def reload_weights(self, folder: str, version: str) -> None:
        """Read the weights of a folder, forget what was computed with those before, and give them a name."""
        asked = {"method": "reload_weights", "kwargs": {"weights_path": folder}}
        self._http.do("/collective_rpc", asked, f"to read {folder}", self._timeout_s)
        self.forget()
        self._http.do("/update_weight_version", {"new_version": version}, "to name its weights", SHORT_S)

    def weight_version(self) -> str:
        """Return the name of its weights."""
        answer = self._http.fetch("/weight_info", "the name of its weights")
        if not isinstance(answer, dict) or "weight_version" not in answer:
            raise self._http.broken("/weight_info", answer)
        return str(answer["weight_version"])

    def forget(self) -> None:
        """Empty its three caches: each keeps what was computed by weights or features of before."""
        for path in ("/reset_prefix_cache", "/reset_encoder_cache", "/reset_mm_cache"):
            self._http.do(path, None, "to empty a cache", self._timeout_s)
        self._sent.clear()

    def patiently(self, action: Callable[[], None]) -> None:
        """Do something with the server; if it is down, wait for it and do it once more."""
        try:
            action()
        except EngineError as error:
            if error.kind != "down" or not self._patience_s:
                raise
            self.wait_until_alive(self._patience_s)
            self._sent.clear()
            action()

    # --- completions --------------------------------------------------------------------------------------------

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Return the completions of requests, in order.

        The features of a video go with a request of one token of their own, whose prefix the others then find.

        Raises:
            EngineError: the first that could not be mended.
        """
        for request in requests:
            self._check_room(request)
        self._stopped.clear()
        first = {item.hash: request for request in requests for item in request.items if item.hash not in self._sent}
        pool = ThreadPoolExecutor(max(1, min(self._concurrency, len(requests))))
        try:
            self._all(pool, self._introduce, list({id(request): request for request in first.values()}.values()))
            return self._all(pool, self._complete, requests)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            self.stop()
            raise
        finally:
            pool.shutdown()

    def stop(self) -> None:
        """End the requests under way, and what waits for the server."""
        self._stopped.set()
        self._http.close()

    def _all(self, pool: ThreadPoolExecutor, send: Callable[[Request], Any], requests: Sequence[Request]) -> list[Any]:
        futures = [pool.submit(self._mended, send, request) for request in requests]
        wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            if future.done() and (error := future.exception()) is not None:
                raise error
        return [future.result() for future in futures]

    def _check_room(self, request: Request) -> None:
        wanted = len(request.token_ids) + request.params["max_tokens"]
        if self.max_model_len is not None and wanted > self.max_model_len:
            raise EngineError(
                "refused",
                f"a prompt of {len(request.token_ids)} tokens and {request.params['max_tokens']} new ones: {self.url} "
                f"takes {self.max_model_len}",
                f"start the server with --max-model-len {wanted} or more, or lower the length of completions",
            )

    def _mended(self, send: Callable[[Request], Any], request: Request) -> Any:
        """Send a request; where it fails in a way that has a way out, take that once for each kind."""
        tried: set[str] = set()
        while True:
            lives = self._lives
            try:
                return send(request)
            except EngineError as error:
                kind = error.kind
                if kind in ("down", "unknown", "stale", "slow") and kind not in tried and not self._stopped.is_set():
                    tried.add(kind)
                    if kind != "slow":
                        self._recover(error, lives)
                    continue
                raise

    def _recover(self, error: EngineError, lives: int) -> None:
        """Bring back what a server that was started anew has forgotten; one thread does it for all."""
        with self._recovery:
            if self._lives != lives:
                return
            if error.kind == "down":
                if not self._patience_s:
                    raise error
                self.wait_until_alive(self._patience_s)
            self._sent.clear()
            if self.restore is not None:
                self.restore()
            elif error.kind != "down":
                raise error
            self._lives += 1

    def _complete(self, request: Request) -> Completion:
        self._introduce(request)
        try:
            return self._send(request, with_data=False)
        except EngineError as error:
            if error.kind != "forgotten":
                raise
        with self._lock:
            self._sent.difference_update(item.hash for item in request.items)
        self._introduce(request)
        return self._send(request, with_data=False)

    def _introduce(self, request: Request) -> None:
        """Send the features that the server does not have, with a request of one token.

        The others of the same videos wait for it, and then find its prefix.
        """
        for item in request.items:
            with self._lock:
                own = self._introductions.setdefault(item.hash, threading.Lock())
            with own:
                if item.hash not in self._sent:
                    with self._first_sends:
                        self._send(replace(request, params={**request.params, "max_tokens": 1}), with_data=True)
                    with self._lock:
                        self._sent.update(each.hash for each in request.items)

    def _send(self, request: Request, with_data: bool) -> Completion:
        model, version = self.weights or self.model, self.version
        body = request.body(model, with_data)
        status, body = self._http.post("/inference/v1/generate", body, self._timeout_s)
        if status == 404 and is_missing(body):
            raise EngineError("refused", f"{self.url}: takes no token ids (no /inference/v1/generate)", _SCALE_OUT)
        if status == 404:
            hint = "the server is one of another model: start it with `vsgrpo serve`, or correct vllm.base_urls"
            raise EngineError("unknown", f"{self.url}: does not know the model {model}: {text_of(body)}", hint)
        if status == 500 and request.items and not with_data:
            raise EngineError("forgotten", f"{self.url}: has no features of a video any more: {text_of(body)}", _LOG)
        if status != 200:
            raise self._http.refused("a completion", status, body, _LOG)
        try:
            found = read_completion(json.loads(body))
        except ValueError:
            raise self._http.broken("/inference/v1/generate", text_of(body)) from None
        except RunError as error:
            raise EngineError("broken", f"{self.url}: {error.message}", error.hint) from None
        if version is not None and set(found.weight_versions) != {version}:
            names = ", ".join(found.weight_versions) or "unnamed ones"
            anew = " (it was started anew)" if _FIRST_VERSION in found.weight_versions else ""
            raise EngineError("stale", f"{self.url}: drew with the weights {names}, not with {version}{anew}", _STALE)
        return found
