"""Answers and what they cost; those already paid for are kept in one sqlite file, keyed by the content of the request.

Each answer is committed as it arrives, so a kill loses only what was in flight, and memory does not grow with the
number of rows. The key covers everything that decides an answer (step, model, sampling, text, what is shown); the
address of the endpoint does not decide it and is left out.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vsgrpo.config.build import BuildCotConfig
from vsgrpo.config.evaluate import StepSection
from vsgrpo.errors import DataError

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
            raise DataError(
                f"{self.path}: not a cache of answers ({error})", "remove it, or choose another DIR"
            ) from None

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
