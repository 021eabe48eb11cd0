"""A vLLM server for tests: the endpoints that the client uses, over our own rollout and log-probs of a tiny model.

What was measured of vLLM 0.32 it does too: a hash names the first features that came with it, for good; an unknown hash
is HTTP 500; a LoRA name cannot be taken twice; new weights are not seen by a prompt until the prefix cache is emptied,
and kill the engine where the encoder cache is not; `max_tokens` beyond the context is shortened without a word.
"""

import base64
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import torch

from vsgrpo.modeling.bundle import MediaFeatures
from vsgrpo.modeling.load import load
from vsgrpo.modeling.logps import logps
from vsgrpo.modeling.rollout import rollout
from vsgrpo.modeling.sampling import Sampling
from vsgrpo.modeling.tree import Prompt, build_trees
from vsgrpo.video.budget import Medium

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int64": torch.int64}


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, **other: Any) -> None:
        super().__init__(message)
        self.status, self.body = status, other or {"error": {"message": message, "code": status}}


def decode_item(message: str) -> dict[str, torch.Tensor]:
    """Read a message of `encode_features` as vLLM does."""
    found = {}
    for name, value in msgspec.msgpack.decode(base64.b64decode(message)).items():
        dtype, shape, ext = value["data"]
        assert ext.code == 3
        found[name] = torch.frombuffer(bytearray(ext.data), dtype=TYPES[dtype]).reshape(shape)
    return found


@dataclass
class Behaviour:
    """What a test makes go wrong.

    Attributes:
        version: what `/version` says.
        info: replaces parts of `/server_info`, by section.
        delay_s: before a completion.
        finish_reason: instead of the true one.
        mute: completions that are never answered.
        shift: added to the log-probs of tokens, in turn.
        event: called with the number of each completion before it is drawn.
        weight_version: instead of the true one.
        error: status of every completion.
    """

    version: str = "0.32.0"
    info: dict[str, dict[str, Any]] = field(default_factory=dict)
    delay_s: float = 0.0
    finish_reason: str | None = None
    mute: int = 0
    shift: tuple[float, ...] = (0.0,)
    event: Callable[[int], None] = lambda number: None
    weight_version: str | None = None
    error: int | None = None


class FakeServer:
    """A server in threads of this process; `url` is its address.

    Args:
        folder: of the model.
        sampling: the value of rollout.vllm.sampling that it is started for.
        port: 0 takes a free one.
        memory: videos that it remembers at a time.
    """

    def __init__(
        self, folder: Path, sampling: str = "keyed", port: int = 0, max_model_len: int = 4096, memory: int = 10**6
    ) -> None:
        self.folder, self.sampling, self.max_model_len, self.memory = folder, sampling, max_model_len, memory
        self.does = Behaviour()
        self.requests: list[tuple[str, Any]] = []
        """Path and body of each request."""
        self.preemptions = self.number = 0
        self._lock = threading.Lock()
        self.port = port
        self.start()

    def start(self) -> None:
        """Begin anew, as a process does that was started again: weights of the folder, no adapter, no features."""
        self.bundle = load(self.folder, tune="none", offline=True)
        self.bundle.model.eval()
        self.base = self.bundle.model
        self.adapters: dict[str, Any] = {}
        self.features: dict[str, MediaFeatures] = {}
        self.weights, self.pending, self.is_encoder_stale = "default", None, False
        self.alive = True
        self.connections: set[socket.socket] = set()
        handler = type("Handler", (_Handler,), {"fake": self})
        self._http = _Listener(("127.0.0.1", self.port), handler)
        self.port = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Die: whoever waits for an answer gets none."""
        self.alive = False
        self._http.shutdown()
        self._http.server_close()
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def restart(self) -> None:
        """Die and begin anew at the same address."""
        self.stop()
        self.start()

    def count(self, path: str) -> int:
        """Return how many requests a path had."""
        return sum(asked == path for asked, _ in self.requests)

    def sent_with_data(self) -> list[str]:
        """Return the hashes that came with features, in order."""
        found = []
        for path, body in self.requests:
            given = (body or {}).get("features") if path == "/inference/v1/generate" else None
            for kind, hashes in (given or {}).get("mm_hashes", {}).items():
                found += [h for h, data in zip(hashes, given["kwargs_data"][kind], strict=True) if data is not None]
        return found

    # --- endpoints ----------------------------------------------------------------------------------------------

    def answer(self, path: str, body: Any) -> Any:
        self.requests.append((path, body))
        own = {
            "/health": lambda: "",
            "/version": lambda: {"version": self.does.version},
            "/v1/models": lambda: {"data": [{"id": name} for name in [self.name, *self.adapters]]},
            "/server_info": lambda: {"vllm_config": self.info()},
            "/weight_info": lambda: {"weight_version": self.weights},
            "/metrics": lambda: f'# HELP x\nvllm:num_preemptions_total{{engine="0"}} {self.preemptions}\n',
            "/v1/load_lora_adapter": lambda: self.load_adapter(body),
            "/v1/unload_lora_adapter": lambda: self.unload_adapter(body),
            "/collective_rpc": lambda: self.reload(body),
            "/reset_prefix_cache": self.reset_prefix_cache,
            "/reset_encoder_cache": self.reset_encoder_cache,
            "/reset_mm_cache": self.reset_mm_cache,
            "/update_weight_version": lambda: self.name_weights(body),
            "/inference/v1/generate": lambda: self.generate(body),
        }
        if path not in own:
            raise Refusal(404, "Not Found", detail="Not Found")
        return own[path]()

    @property
    def name(self) -> str:
        return str(self.folder)

    def info(self) -> dict[str, Any]:
        mode = {"keyed": "raw_logprobs", "seeded": "processed_logprobs"}[self.sampling]
        found: dict[str, dict[str, Any]] = {
            "model_config": {"dtype": "torch.float32", "max_model_len": self.max_model_len, "logprobs_mode": mode},
            "lora_config": {"max_lora_rank": 64, "max_loras": 1},
        }
        for section, values in self.does.info.items():
            found[section] = {**found.get(section, {}), **values}
        return found

    def load_adapter(self, body: Any) -> str:
        name, folder = body["lora_name"], Path(body["lora_path"])
        if name in self.adapters:
            raise Refusal(400, f"The lora adapter '{name}' has already been loaded.")
        if not (folder / "adapter_model.safetensors").is_file():
            raise Refusal(404, f"Loading lora {name} failed: No adapter found for {folder}")
        with self._lock:
            self.adapters[name] = load(self.folder, folder, tune="none", offline=True).model.eval()
        return "Success"

    def unload_adapter(self, body: Any) -> str:
        if self.adapters.pop(body["lora_name"], None) is None:
            raise Refusal(404, f"The lora adapter '{body['lora_name']}' cannot be found.")
        return "Success"

    def reload(self, body: Any) -> Any:
        assert body["method"] == "reload_weights"
        self.pending, self.is_encoder_stale = body["kwargs"]["weights_path"], True
        return {"results": [None]}

    def reset_prefix_cache(self) -> Any:
        if self.pending is not None:  # until now, prompts that were read before have their old keys and values
            with self._lock:
                self.base = load(self.pending, tune="none", offline=True).model.eval()
            self.pending = None
        return {}

    def reset_encoder_cache(self) -> Any:
        self.is_encoder_stale = False
        return {}

    def reset_mm_cache(self) -> Any:
        self.features.clear()
        return {}

    def name_weights(self, body: Any) -> Any:
        self.weights = body["new_version"]
        return {"success": True}

    # --- completions --------------------------------------------------------------------------------------------

    def generate(self, body: Any) -> Any:
        with self._lock:
            self.number += 1
            self.does.event(self.number)
        if not self.alive:
            raise ConnectionResetError
        if self.does.mute:
            self.does.mute -= 1
            while self.alive:
                time.sleep(0.01)
            raise ConnectionResetError
        time.sleep(self.does.delay_s)
        if self.does.error is not None:
            raise Refusal(self.does.error, "Internal server error")
        if body["model"] not in (self.name, *self.adapters):
            raise Refusal(404, f"The model `{body['model']}` does not exist.")
        ids, params = body["token_ids"], body["sampling_params"]
        if len(ids) >= self.max_model_len:
            raise Refusal(400, f"The prompt ({len(ids)}) is longer than the model's context ({self.max_model_len})")
        if self.is_encoder_stale:
            self.stop_soon()
            raise Refusal(500, "Encoder cache miss")
        prompt, features = self.read(ids, body.get("features"))
        with self._lock, torch.no_grad():
            model = self.adapters.get(body["model"], self.base)
            sampling, key = self.sampling_of(params, len(ids))
            (drawn,) = rollout(model, [prompt], features, [key], sampling)
            temperature = sampling.temperature if self.sampling == "seeded" and not sampling.greedy else 1.0
            (scored,) = logps(model, build_trees([prompt], [[tuple(drawn)]], False), features, temperature=temperature)
        reason = "stop" if drawn[-1] in sampling.eos_ids else "length"
        content = [
            {"token_id": token, "logprob": value + shift, "rank": 1, "top_logprobs": []}
            for token, value, shift in zip(drawn, scored[0].tolist(), itertools.cycle(self.does.shift))
        ]
        choice = {"index": 0, "token_ids": drawn, "logprobs": {"content": content}}
        choice["finish_reason"] = self.does.finish_reason or reason
        version = self.does.weight_version or self.weights
        choice["weight_versions"] = [{"version": version, "start": 0, "end": len(drawn)}]
        return {"request_id": "x", "choices": [choice]}

    def sampling_of(self, params: Any, length: int) -> tuple[Sampling, tuple[str, int]]:
        keyed = (params.get("extra_args") or {}).get("keyed")
        assert params["logprobs"] == 0 and params["output_kind"] == 2
        suppress = tuple(sorted(int(token) for token in params.get("logit_bias") or ()))
        common = {
            "max_new_tokens": min(params["max_tokens"], self.max_model_len - length),
            "eos_ids": tuple(params["stop_token_ids"]),
        }
        if keyed is None:
            greedy = params["temperature"] == 0
            options = {"greedy": True} if greedy else {"temperature": params["temperature"]}
            own = Sampling(seed=params.get("seed", 0), step=0, suppress=suppress, **common, **options)
            return own, ("", 0)
        names = {"seed", "step", "row", "index", "temperature", "suppress"}
        if params["temperature"] != 0 or set(keyed) != names:
            raise Refusal(400, f"keyed sampling wants temperature=0 and {sorted(names)}")
        noise = {"greedy": True} if keyed["temperature"] == 0 else {"temperature": keyed["temperature"]}
        own = Sampling(seed=keyed["seed"], step=keyed["step"], suppress=tuple(keyed["suppress"]), **common, **noise)
        return own, (keyed["row"], keyed["index"])

    def read(self, ids: list[int], given: Any) -> tuple[Prompt, dict[str, MediaFeatures]]:
        hashes, found = [], {}
        for kind, own in (given or {}).get("mm_hashes", {}).items():
            rows = zip(own, given["mm_placeholders"][kind], given["kwargs_data"][kind], strict=True)
            for name, place, data in rows:
                pad = getattr(self.bundle.model.config, f"{kind}_token_id")
                assert ids[place["offset"] : place["offset"] + place["length"]] == [pad] * place["length"]
                if data is not None and name not in self.features:
                    item = decode_item(data)
                    grid = tuple(item[f"{kind}_grid_thw"].tolist())
                    seconds = item["second_per_grid_ts"].item() if "second_per_grid_ts" in item else None
                    tensor = item[f"{kind}_embeds"].to(self.base.dtype)
                    self.features[name] = MediaFeatures(tensor, Medium(kind, grid, len(tensor), seconds))
                    while len(self.features) > self.memory:
                        self.features.pop(next(iter(self.features)))
                if name not in self.features:
                    raise Refusal(500, "Internal server error")
                found[name] = self.features[name]
                hashes.append((place["offset"], name))
        return Prompt(tuple(ids), tuple(name for _, name in sorted(hashes))), found

    def stop_soon(self) -> None:
        threading.Thread(target=self.stop, daemon=True).start()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def setup(self) -> None:
        super().setup()
        self.fake.connections.add(self.connection)

    def finish(self) -> None:
        self.fake.connections.discard(self.connection)
        with suppress(OSError):
            super().finish()

    def handle(self) -> None:
        with suppress(OSError):
            super().handle()

    def do_GET(self) -> None:
        given = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            found, status = self.fake.answer(self.path.partition("?")[0], json.loads(given) if given else None), 200
        except Refusal as refusal:
            found, status = refusal.body, refusal.status
        if not self.fake.alive:
            self.close_connection = True
            return
        text = (found if isinstance(found, str) else json.dumps(found)).encode()
        with suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    do_POST = do_GET
