"""HTTP to one server by the standard library: kept connections, time limits, and errors told apart by kind."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from vsgrpo.errors import RunError

SHORT_S = 30.0
"""Seconds in which a server must answer what is not a completion."""
LONG_S = 180.0
"""The same where it looks at its machine first."""
DEV_MODE = "start the server as `vsgrpo serve` writes it, with VLLM_SERVER_DEV_MODE=1"
NO_VLLM = "correct vllm.base_urls: they name vLLM servers (`vsgrpo serve` writes the command)"
_DOWN = "look at the server's log; once it answers again, go on (train: with --resume)"
_MISSING = "Not Found"
"""What a web server says of a path that it does not have."""


class EngineError(RunError):
    """A server did not do what it was asked.

    Each kind has another way out:

        down       no connection, or it broke off: wait until the server answers again, then send once more
        slow       no answer in time: send once more
        unknown    404: the server does not know the model or adapter (it was started anew)
        forgotten  500 to a hash without features: they are sent once more
        stale      other weights drew the completion than those that were asked for
        refused    everything else that the server says no to
        broken     the answer makes no sense

    Args:
        kind: one of these.
    """

    def __init__(self, kind: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.kind = kind

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        """Travel to other processes whole."""
        return type(self), (self.kind, self.message, self.hint)


class Connections:
    """Connections to one server, one for each thread; `close` ends what waits on them.

    Args:
        url: http://HOST:PORT, perhaps with a path before those of the server.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._parts = urlsplit(self.url)
        self._local = threading.local()
        self._open: set[http.client.HTTPConnection] = set()
        self._closes = 0
        """Times that `close` was called."""

    def call(self, method: str, path: str, body: bytes | None = None, timeout_s: float = SHORT_S) -> tuple[int, bytes]:
        """Return status and body of the answer.

        Raises:
            EngineError: "down" or "slow".
        """
        kept: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        closes = self._closes
        while True:
            connection = kept or self._connect()
            connection.timeout = timeout_s
            if connection.sock is not None:
                connection.sock.settimeout(timeout_s)
            self._open.add(connection)
            try:
                connection.request(method, self._parts.path + path, body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                answer = response.status, response.read()
                self._local.connection = connection
                return answer
            except TimeoutError:
                self._drop(connection)
                what = f"{self.url}{path.partition('?')[0]}: no answer in {timeout_s:g} seconds"
                raise EngineError("slow", what, "look at the server, or raise vllm.timeout_s") from None
            except (OSError, http.client.HTTPException) as error:
                self._drop(connection)
                cut = isinstance(error, http.client.IncompleteRead) or closes != self._closes
                if connection is kept and not cut:
                    kept = None  # a server closes connections that lie idle
                    continue
                raise EngineError("down", f"{self.url}: {_reason(error)}", _DOWN) from error
            finally:
                self._open.discard(connection)

    def close(self) -> None:
        """End all requests under way."""
        self._closes += 1
        for connection in list(self._open):
            if connection.sock is not None:
                with suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)

    def post(self, path: str, body: Mapping[str, Any] | None, timeout_s: float = SHORT_S) -> tuple[int, bytes]:
        """Send JSON."""
        return self.call("POST", path, None if body is None else json.dumps(body).encode(), timeout_s)

    def fetch(self, path: str, what: str, timeout_s: float = SHORT_S) -> Any:
        """Return what a GET answers as JSON.

        Raises:
            EngineError: there is no such answer.
        """
        status, body = self.call("GET", path, timeout_s=timeout_s)
        if status != 200:
            raise self.refused(
                what, status, body, DEV_MODE if path.startswith(("/server_info", "/weight_info")) else NO_VLLM
            )
        try:
            return json.loads(body)
        except ValueError:
            raise self.broken(path, text_of(body)) from None

    def do(self, path: str, body: Mapping[str, Any] | None, what: str, timeout_s: float) -> None:
        """Send JSON to which the answer must be 200."""
        status, answer = self.post(path, body, timeout_s)
        if status != 200:
            raise self.refused(what, status, answer, DEV_MODE if status == 404 else "")

    def refused(self, what: str, status: int, body: bytes, hint: str = "") -> EngineError:
        """Return the error of a server that says no."""
        return EngineError("refused", f"{self.url}: refused {what} (HTTP {status}): {text_of(body)}", hint)

    def broken(self, path: str, answer: Any) -> EngineError:
        """Return the error of an answer that no vLLM server would give."""
        return EngineError("broken", f"{self.url}{path}: no answer of a vLLM server: {str(answer)[:200]}", NO_VLLM)

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        return kind(self._parts.hostname or "", self._parts.port)

    def _drop(self, connection: http.client.HTTPConnection) -> None:
        connection.close()
        self._local.connection = None


def is_missing(body: bytes) -> bool:
    """Tell whether a 404 means that the server has no such path (and not: no such model)."""
    with suppress(ValueError, AttributeError):
        return json.loads(body).get("detail") == _MISSING
    return False


def text_of(body: bytes) -> str:
    """Return what an error says, in one line."""
    text = body.decode("utf-8", "replace")
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        found = json.loads(text)
        text = str(found["error"]["message"] if isinstance(found.get("error"), dict) else found.get("error", text))
    return " ".join(text.split())[:300] or "nothing"


def _reason(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
