"""A chat endpoint on loopback that answers by script: real HTTP, streams included, and every way to fail."""

import gzip
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GOOD = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}


@dataclass
class Say:
    """A good answer."""

    text: str
    reasoning: str | None = None
    finish_reason: str = "stop"
    wait_s: float = 0.0


@dataclass
class Fail:
    """A bad one: an HTTP status, or one of the other kinds that `_fail` knows."""

    status: int = 200
    kind: str = "status"
    retry_after: str | None = None
    message: str = "scripted"


class ChatServer:
    """Serves `script(text of the user turn, how often this text came) -> Say | Fail` at `base_url`."""

    def __init__(self, script: Callable[[str, int], Say | Fail], key: str | None = None, models=("judge", "seer")):
        self.script, self.key, self.models = script, key, models
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.bodies: list[dict] = []
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()
        self.released = threading.Event()
        handler = type("Handler", (_Handler,), {"chat": self})
        self.http = _Quiet(("127.0.0.1", 0), handler)
        self.base_url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self.released.set()
        self.http.shutdown()
        self.http.server_close()


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that was cut off or killed is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    chat: ChatServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self._json(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in self.chat.models]})

    def do_POST(self):
        chat = self.chat
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        content = body["messages"][-1]["content"]
        text = content if isinstance(content, str) else content[-1]["text"]
        if chat.key is not None and self.headers["authorization"] != f"Bearer {chat.key}":
            return self._json(401, {"error": {"message": "Incorrect API key", "code": "invalid_api_key"}})
        if body["model"] not in chat.models:
            return self._json(404, {"error": {"message": f"The model {body['model']} does not exist"}})
        with chat.lock:
            chat.asked[text] += 1
            chat.bodies.append(body)
            number = chat.asked[text]
            chat.in_flight += 1
            chat.most_in_flight = max(chat.most_in_flight, chat.in_flight)
        try:
            action = chat.script(text, number)
            if isinstance(action, Fail):
                self._fail(action, body)
            else:
                time.sleep(action.wait_s)
                self._say(action, body)
                with chat.lock:
                    chat.answered[text] += 1
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with chat.lock:
                chat.in_flight -= 1

    def _say(self, say, body):
        if body.get("stream"):
            half = len(say.text) // 2
            deltas = [{"reasoning_content": say.reasoning}] if say.reasoning else []
            deltas += [{"content": say.text[:half]}, {"content": say.text[half:]}]
            chunks = [{"choices": [{"index": 0, "delta": d, "finish_reason": None}]} for d in deltas]
            chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": say.finish_reason}]})
            chunks.append({"choices": [], "usage": GOOD})
            return self._stream(chunks, whole=True)
        message = {"role": "assistant", "content": say.text, "reasoning_content": say.reasoning}
        choice = {"index": 0, "message": message, "finish_reason": say.finish_reason}
        return self._json(200, {"id": "1", "object": "chat.completion", "choices": [choice], "usage": GOOD})

    def _fail(self, fail, body):
        if fail.kind == "hang":
            self.chat.released.wait(30)
            self.close_connection = True
        elif fail.kind == "malformed":
            self._raw(200, b'{"choices": [{"mess', "application/json")
        elif fail.kind == "no_message":
            self._json(200, {"id": "1", "choices": []})
        elif fail.kind == "html":
            self._raw(200, b"<html>gateway</html>", "text/html")
        elif fail.kind == "endless":
            self.send_response(200)
            self.send_header("content-type", "text/event-stream" if body.get("stream") else "application/json")
            self.send_header("connection", "close")
            self.end_headers()
            while not self.chat.released.is_set():  # until the client has had enough
                self.wfile.write(b": " + b"x" * 2**20 + b"\n\n")
        elif fail.kind == "gzip":
            assert self.headers["accept-encoding"] == "identity"
            self._raw(200, gzip.compress(bytes(64 * 2**20), 1), "application/json", {"content-encoding": "gzip"})
        elif fail.kind == "cut_stream":
            self._stream([{"choices": [{"index": 0, "delta": {"content": "<think>half"}}]}], whole=False)
        elif fail.kind == "cut_body":
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", "5000")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
            self.close_connection = True
        else:
            extra = {"retry-after": fail.retry_after} if fail.retry_after else {}
            self._json(fail.status, {"error": {"message": fail.message}}, extra)

    def _stream(self, chunks, whole):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for chunk in chunks:
            data = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", **chunk}
            self.wfile.write(f"data: {json.dumps(data)}\n\n".encode())
        if whole:
            self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _json(self, status, data, extra=None):
        self._raw(status, json.dumps(data).encode(), "application/json", extra)

    def _raw(self, status, content, kind, extra=None):
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(content)), **(extra or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
