"""Chats with models: the reply, what it costs, the cache of those already paid for, and a model in this process.

The cache is one sqlite file, keyed by the content of the request. Each answer is committed as it arrives, so a kill
loses only what was in flight, and memory does not grow with the number of rows. The key covers everything that decides
an answer (step, model, sampling, text, what is shown); the address of the endpoint does not decide it and is left out.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import sqlite3
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from vsgrpo.config.build import BuildCotConfig
from vsgrpo.config.evaluate import StepSection
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.families.hub_models import check_reachable, local_model
from vsgrpo.terminal import note

SCHEMA_VERSION = 1
CACHE_NAME = "answers.sqlite"
_CACHE_FOLDER = ".cot"


@dataclass(frozen=True)
class Reply:
    """Answer of an endpoint.

    Attributes:
        text: the content.
        reasoning: the chain of thought where the endpoint returns it apart from the content, else None.
        finish_reason: "stop", "length", ...; None where the endpoint does not say.
        prompt_tokens, completion_tokens: as billed; 0 where the endpoint does not say.
    """

    text: str
    reasoning: str | None
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int


@dataclass
class Account:
    """Requests and tokens of one step in this run, as billed; failed attempts count if the endpoint billed them."""

    requests: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    retries: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    def add(self, reply: Reply) -> None:
        """Add an answer that was paid for."""
        self.requests += 1
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens

    def bill(self, step: StepSection) -> dict[str, Any]:
        """Return answers, tokens and cost; null where the step has no prices."""
        return {
            "requests": self.requests,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cost": cost(step, self.prompt_tokens, self.completion_tokens),
        }

    def to_json(self, step: StepSection) -> dict[str, Any]:
        """Return the bill, and what was cached, retried and failed."""
        return {
            **self.bill(step),
            "cached": self.cached,
            "retries": dict(sorted(self.retries.items())),
            "failures": dict(sorted(self.failures.items())),
        }


def cost(step: StepSection, prompt_tokens: float, completion_tokens: float) -> float | None:
    """Return the price of some tokens in the currency of the config, None where a price is not set."""
    if step.price_prompt is None or step.price_completion is None:
        return None
    return round((prompt_tokens * step.price_prompt + completion_tokens * step.price_completion) / 1e6, 6)


def content_key(parts: Any) -> bytes:
    """Return the 32-byte key of JSON-able `parts`."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).digest()


def cache_folder(config: BuildCotConfig) -> Path:
    """Return the folder of a build's cache."""
    return Path(config.cot.cache_dir) if config.cot.cache_dir is not None else Path(config.run.dir) / _CACHE_FOLDER


class AnswerCache:
    """The store of one folder; only one process may have it open.

    Raises:
        DataError: another process has it open, or the file is no cache of answers.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / CACHE_NAME
        try:
            # No shared memory is needed with an exclusive lock, so the log works on network file systems too.
            self._db = sqlite3.connect(self.path, timeout=1.0, isolation_level=None)
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("BEGIN EXCLUSIVE")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, SCHEMA_VERSION):
                hint = "use the version of vsgrpo that wrote it, or another cot.cache_dir"
                raise DataError(f"{self.path}: schema_version={version}: this version reads {SCHEMA_VERSION}", hint)
            self._db.execute("CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, step TEXT, reply TEXT)")
            self._db.execute("CREATE TABLE IF NOT EXISTS failures (row_key TEXT PRIMARY KEY, reason TEXT)")
            self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            hint = "wait for it to end, or choose another output=DIR"
            raise DataError(f"{self.path}: in use by another build-cot, or not writable ({error})", hint) from None
        except sqlite3.DatabaseError as error:
            hint = "remove it, or choose another DIR"
            raise DataError(f"{self.path}: not a cache of answers ({error})", hint) from None

    def __enter__(self) -> AnswerCache:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def get(self, key: bytes) -> Reply | None:
        """Return the stored reply, or None."""
        found = self._db.execute("SELECT reply FROM answers WHERE key = ?", (key,)).fetchone()
        return Reply(**json.loads(found[0])) if found else None

    def put(self, key: bytes, step: str, reply: Reply) -> None:
        """Store a reply; it is there after a kill of the process."""
        text = json.dumps(asdict(reply), ensure_ascii=False)
        self._db.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", (key, step, text))

    def mean_completion_tokens(self) -> dict[str, float]:
        """Return per step the mean completion tokens of the stored replies."""
        query = "SELECT step, AVG(json_extract(reply, '$.completion_tokens')) FROM answers GROUP BY step"
        return dict(self._db.execute(query).fetchall())

    def fail(self, row_key: str, reason: str | None) -> None:
        """Note why a row has no reply, or with None that it has."""
        if reason is None:
            self._db.execute("DELETE FROM failures WHERE row_key = ?", (row_key,))
        else:
            self._db.execute("INSERT OR REPLACE INTO failures VALUES (?, ?)", (row_key, reason))

    def failure(self, row_key: str) -> str | None:
        """Return why a row has no reply, or None."""
        found = self._db.execute("SELECT reason FROM failures WHERE row_key = ?", (row_key,)).fetchone()
        return found[0] if found else None


class Chat(Protocol):
    """A model that answers: behind an `Endpoint`, or in this process (`LocalChat`)."""

    async def ask(self, step: StepSection, messages: list[dict[str, Any]], seed: int, account: Account) -> Reply:
        """Return the answer and add it to the account; RowError: this request got none, others may."""
        ...

    async def close(self) -> None:
        """Close connections, if there are any."""
        ...


class LocalChat:
    """A transformers model in this process (`pseudo.base_url=local`); steps that name the same one share it.

    One answer at a time: right for a laptop, a few hundred rows, or a machine without a server; vLLM or SGLang answers
    many at once. Sampling is keyed by seed and request, so an answer does not depend on the order of the rows.

    Args:
        name: of the step, for messages.
        step: its `model` is a folder (an adapter's too) or a hub id.

    Raises:
        DataError: it cannot be loaded, or has no chat template.
        SetupError: it is on the hub, and the hub cannot be asked.
    """

    def __init__(self, name: str, step: StepSection) -> None:
        from vsgrpo.modeling.load import device_line, load, own_device  # imports torch

        self.name, self.model_name = name, str(step.model)
        self._lock = asyncio.Lock()
        device = own_device()
        note(f"{name}.model={step.model}: {device_line(device)}")
        dtype = "float32" if device.type == "cpu" else "bfloat16"
        path, key = local_model(self.model_name, f"{name}.model={step.model}"), f"{name}.model"
        offline = not check_reachable([path])
        bundle = load(path, dtype=dtype, device=device, any_family=True, key=key, offline=offline)
        self._model, self._processor, self._tokenizer = bundle.model, bundle.processor, bundle.tokenizer
        self.sees = self._processor is not self._tokenizer
        if not self._processor.chat_template:
            raise DataError(f"{name}.model={self.model_name}: has no chat template", "choose an instruct model")

    async def close(self) -> None:
        """Nothing to close."""

    async def ask(self, step: StepSection, messages: list[dict[str, Any]], seed: int, account: Account) -> Reply:
        """Return the model's answer; time-out, retries and rate limits of the step mean nothing here.

        Raises:
            ConfigError: pictures are shown to a model that sees none.
        """
        async with self._lock:
            reply = await asyncio.to_thread(self._answer, step, messages, seed)
        account.add(reply)
        return reply

    def _answer(self, step: StepSection, messages: list[dict[str, Any]], seed: int) -> Reply:
        import torch

        content = messages[-1]["content"]
        parts: list[Any] = [{"type": "text", "text": content}] if isinstance(content, str) else content
        images = [_picture(part["image_url"]["url"]) for part in parts if part["type"] == "image_url"]
        text = "".join(part["text"] for part in parts if part["type"] == "text")
        if images and not self.sees:
            hint = f"give {self.name}.model a multimodal model, or cot.bridge=annotation"
            raise ConfigError(f"{self.name}.model={self.model_name}: sees no pictures, the step shows some", hint)
        inputs = self._inputs(text, images).to(self._model.device)
        prompt_tokens = inputs["input_ids"].shape[1]
        sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if step.temperature > 0:
            sampling = {"do_sample": True, "temperature": step.temperature, "top_p": step.top_p, "top_k": 0}
        digest = hashlib.blake2b(json.dumps([seed, messages], sort_keys=True).encode(), digest_size=8).digest()
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(int.from_bytes(digest, "big") >> 1)
            ids = self._model.generate(**inputs, max_new_tokens=step.max_tokens, **sampling)[0, prompt_tokens:]
        ends = self._model.generation_config.eos_token_id
        ended = int(ids[-1]) in (ends if isinstance(ends, list) else [ends])
        answer = self._tokenizer.decode(ids, skip_special_tokens=True)
        return Reply(answer, None, "stop" if ended else "length", prompt_tokens, len(ids))

    def _inputs(self, text: str, images: list[Any]) -> Any:
        parts = [*({"type": "image"} for _ in images), {"type": "text", "text": text}]
        turn = [{"role": "user", "content": parts if self.sees else text}]
        rendered = self._processor.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        if not self.sees:
            return self._processor([rendered], return_tensors="pt", add_special_tokens=False)
        return self._processor(text=[rendered], images=images or None, return_tensors="pt")


def _picture(url: str) -> Any:
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")
