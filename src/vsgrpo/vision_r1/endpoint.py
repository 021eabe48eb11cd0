"""One OpenAI-compatible endpoint: concurrency, rate limits, retries with backoff, and an account of what it cost.

Retried: 408, 409, 425, 429, 5xx, connection errors, time-outs, malformed JSON, streams that end early. A row that the
endpoint refuses (400) or that fails every retry is a `RowError`: the row is counted and the rest goes on. A wrong key,
an unknown model, an endpoint that is down, or many failures in a row end the run with an `EndpointError`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

from vsgrpo.config.evaluate import StepSection
from vsgrpo.errors import ConfigError, RunError, SetupError
from vsgrpo.packages import install_command
from vsgrpo.vision_r1.chat import Account, Reply

T = TypeVar("T")
MAX_PAUSE_S = 300.0
"""Longest wait that a Retry-After header is granted."""
_SHORTEST_KEY = 6
"""Characters: shorter ones are no secrets, and would be words of many answers."""
_FIRST_RETRY_S = 1.0
_MAX_BACKOFF_S = 60.0
MAX_BODY_BYTES = 16 * 2**20
"""Longest answer that is read: a server that streams without end must not fill the memory."""
_RETRIED_STATUS = frozenset({408, 409, 425, 429})
_MAX_FAILURES_IN_A_ROW = 10
_RETRIES_BEFORE_FIRST_SUCCESS = 2


class RowError(Exception):
    """The endpoint gave no usable answer to one request; the message says why."""


class EndpointError(RunError):
    """The endpoint can serve nothing more; the run ends, answers so far are kept."""


class _Retry(Exception):
    """An attempt failed in a way that another may not."""

    def __init__(self, kind: str, message: str, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.wait_s = wait_s


class Pace:
    """Space requests so that neither requests nor tokens per minute go over; a pause holds all of them back."""

    def __init__(
        self, per_minute: int | None, tokens_per_minute: int | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._request_s = 60.0 / per_minute if per_minute else 0.0
        self._token_s = 60.0 / tokens_per_minute if tokens_per_minute else 0.0
        self._clock = clock
        self._next = self._resume = 0.0

    def delay(self, tokens: int) -> float:
        """Book a request of about `tokens` tokens and return the seconds to wait before sending it."""
        now = self._clock()
        start = max(now, self._next, self._resume)
        self._next = start + max(self._request_s, tokens * self._token_s)
        return start - now

    def settle(self, tokens: int, billed: int) -> None:
        """Correct the booking once the bill is known."""
        self._next += (billed - tokens) * self._token_s

    def pause(self, seconds: float) -> None:
        """Send nothing for `seconds`."""
        self._resume = max(self._resume, self._clock() + min(seconds, MAX_PAUSE_S))


class Endpoint:
    """A model behind a base URL; steps that name the same one share its limits."""

    def __init__(self, name: str, step: StepSection) -> None:
        try:
            import openai
        except ImportError:
            raise SetupError("openai: not installed, build-cot needs it", install_command(["openai"])) from None
        import httpx2

        self.name, self.base_url = name, step.base_url
        self._key_env = step.api_key_env
        key = os.environ.get(step.api_key_env, "") if step.api_key_env else "EMPTY"
        if not key:
            raise ConfigError(
                f"{name}.api_key_env={step.api_key_env}: this environment variable is not set",
                hint=f"export {step.api_key_env}=..., or {name}.api_key_env=null for a server without keys",
            )
        self._openai = openai
        self._transport, self._unconnected = (httpx2.HTTPError, httpx2.StreamError), httpx2.ConnectError
        self._broken = (openai.APIError, *self._transport, ValueError, TimeoutError)
        self._key = key if step.api_key_env else ""
        transport = openai.DefaultAsyncHttpxClient(
            event_hooks={"response": [_limit_body]}, headers={"accept-encoding": "identity"}
        )
        self._client: Any = openai.AsyncOpenAI(
            base_url=step.base_url, api_key=key, max_retries=0, http_client=transport
        )
        self._slots = asyncio.Semaphore(step.concurrency)
        self._pace = Pace(step.requests_per_minute, step.tokens_per_minute)
        self._answered = False
        self._failures_in_a_row = 0

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def ask(self, step: StepSection, messages: list[dict[str, Any]], seed: int, account: Account) -> Reply:
        """Return the model's answer, retrying what may pass.

        Raises:
            RowError: this request got no answer; others may.
            EndpointError: no request will.
        """
        tokens = _estimate(messages) + step.expected_tokens
        attempt = 0
        while True:
            attempt += 1
            async with self._slots:
                await asyncio.sleep(self._pace.delay(tokens))
                try:
                    reply = await self._attempt(step, messages, seed)
                except _Retry as error:
                    failed = error
                except RowError as error:
                    account.failures["refused"] += 1
                    self._count_failure(str(error))
                    raise
                else:
                    self._pace.settle(tokens, reply.prompt_tokens + reply.completion_tokens)
                    self._answered, self._failures_in_a_row = True, 0
                    account.add(reply)
                    return reply
            is_down = failed.kind == "connection" and not self._answered
            if attempt > (min(step.max_retries, _RETRIES_BEFORE_FIRST_SUCCESS) if is_down else step.max_retries):
                account.failures[failed.kind] += 1
                if is_down:
                    raise self._fatal(str(failed), f"is the server up? set {self.name}.base_url") from None
                self._count_failure(str(failed))
                raise RowError(f"{failed} ({attempt} attempts)") from None
            account.retries[failed.kind] += 1
            await self._back_off(failed, attempt)

    async def _back_off(self, failed: _Retry, attempt: int) -> None:
        if failed.wait_s is not None:
            self._pace.pause(failed.wait_s)
            return
        # Half of the wait is random, so that requests that failed together do not come back together.
        wait = min(_FIRST_RETRY_S * 2 ** (attempt - 1), _MAX_BACKOFF_S)
        await asyncio.sleep(wait * random.uniform(0.5, 1.0))

    def _count_failure(self, reason: str) -> None:
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= _MAX_FAILURES_IN_A_ROW:
            hint = "repair the endpoint and run the same command again: finished answers are kept"
            raise self._fatal(f"{self._failures_in_a_row} requests in a row failed, the last: {reason}", hint)

    def _fatal(self, what: str, hint: str) -> EndpointError:
        return EndpointError(f"{self.name}.base_url={self.base_url}: {what}", hint)

    async def _attempt(self, step: StepSection, messages: list[dict[str, Any]], seed: int) -> Reply:
        options: dict[str, Any] = {"temperature": step.temperature, "top_p": step.top_p, "max_tokens": step.max_tokens}
        if step.stream:
            options |= {"stream": True, "stream_options": {"include_usage": True}}
        try:
            async with asyncio.timeout(step.timeout_s):
                answer = await self._client.chat.completions.create(
                    model=step.model, messages=messages, seed=seed, timeout=step.timeout_s, **options
                )
                reply = await _read_stream(answer) if step.stream else _read_completion(answer)
                return replace(
                    reply, text=self._redact(reply.text), reasoning=self._redact(reply.reasoning or "") or None
                )
        except self._broken as error:
            # Not from `error`: what the client raises holds the request, and so the key.
            raise await self._explain(error, step) from None

    def _redact(self, text: str) -> str:
        """Return text without the key, which some servers repeat in what they refuse."""
        return text.replace(self._key, "[key]") if len(self._key) >= _SHORTEST_KEY else text

    async def _explain(self, error: BaseException, step: StepSection) -> Exception:
        """Turn what the client raised into a retry, a row's error or the end of the run."""
        if isinstance(error, (TimeoutError, self._openai.APITimeoutError)):
            return _Retry("timeout", f"no answer within {step.timeout_s:g} s")
        status = getattr(error, "status_code", None)
        text = self._redact(_one_line(error))
        if status is None:
            cause = error.__cause__ or error
            if isinstance(cause, self._transport):
                kind = "connection" if isinstance(cause, self._unconnected) else "truncated"
                return _Retry(kind, f"connection failed ({self._redact(_one_line(cause))})")
            return _Retry("malformed", f"broken answer ({text})")
        if status in (401, 403):
            where = f"{self._key_env} has" if self._key_env else f"{self.name}.api_key_env=null gives no key;"
            return self._fatal(f"HTTP {status}, the key was refused", f"check what {where} to hold for this endpoint")
        if status == 404:
            return self._fatal(f"{self.name}.model={step.model}: HTTP 404 ({text})", await self._known_models())
        if status == 429 and "insufficient_quota" in text:
            return self._fatal(f"HTTP 429, the quota is used up ({text})", "raise it, then run the command again")
        if status in _RETRIED_STATUS or status >= 500:
            return _Retry(f"http_{status}", f"HTTP {status} ({text})", _retry_after(error))
        return RowError(f"HTTP {status} ({text})")

    async def _known_models(self) -> str:
        with contextlib.suppress(*self._broken, AttributeError, TypeError):
            async with asyncio.timeout(5.0):
                if names := [model.id for model in (await self._client.models.list()).data]:
                    return f"the endpoint serves {', '.join(names[:5])}"
        return f"check {self.name}.base_url (it ends in /v1 for most servers) and {self.name}.model"


async def work_through(items: Iterator[T], num_workers: int, work: Callable[[T], Awaitable[None]]) -> None:
    """Let `num_workers` tasks take items until none is left; the first error ends all of them."""

    async def take() -> None:
        for item in items:  # the iterator is touched between awaits only
            await work(item)
            await asyncio.sleep(0)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(num_workers):
                group.create_task(take())
    except* Exception as errors:
        found: BaseException = errors
        while isinstance(found, BaseExceptionGroup):
            found = found.exceptions[0]
        raise found from None


async def _limit_body(response: Any) -> None:
    """Let a response fail once it is longer than `MAX_BODY_BYTES`, whole or streamed; a compressed one at once."""
    import httpx2

    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        # Not asked for, and a few compressed bytes may expand to any number.
        raise httpx2.ReadError(f"the answer is compressed ({encoding[:40]})")

    class Limited(httpx2.AsyncByteStream):
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for chunk in self._inner:
                size += len(chunk)
                if size > MAX_BODY_BYTES:
                    raise httpx2.ReadError(f"the answer is longer than {MAX_BODY_BYTES} bytes")
                yield chunk

        async def aclose(self) -> None:
            await self._inner.aclose()

    response.stream = Limited(response.stream)


def _read_completion(answer: Any) -> Reply:
    """Read a whole answer; what a server left out or misspelt is a retry."""
    choices = getattr(answer, "choices", None)
    message = getattr(choices[0], "message", None) if choices else None
    if not choices or message is None:
        raise _Retry("malformed", "broken answer (no message in it)")
    return _reply(message.content, _reasoning(message), choices[0].finish_reason, getattr(answer, "usage", None))


async def _read_stream(stream: Any) -> Reply:
    """Join the pieces of a stream; one that ends without a finish reason was cut."""
    content: list[str] = []
    reasoning: list[str] = []
    finish_reason = usage = None
    async for chunk in stream:
        usage = getattr(chunk, "usage", None) or usage
        for choice in getattr(chunk, "choices", None) or ():
            delta = choice.delta
            content.append(getattr(delta, "content", None) or "")
            reasoning.append(_reasoning(delta) or "")
            finish_reason = choice.finish_reason or finish_reason
    if finish_reason is None:
        raise _Retry("truncated", "the stream ended early")
    return _reply("".join(content), "".join(reasoning), finish_reason, usage)


def _reasoning(message: Any) -> Any:
    """Return the chain of thought of a message or a piece of one; servers name it in two ways."""
    return getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)


def _reply(content: Any, reasoning: Any, finish_reason: Any, usage: Any) -> Reply:
    if not isinstance(content, str | None) or not isinstance(reasoning, str | None):
        raise _Retry("malformed", "broken answer (its content is no text)")
    if any("\ud800" <= letter <= "\udfff" for letter in (content or "") + (reasoning or "")):
        raise _Retry("malformed", "broken answer (half a character in its text)")
    return Reply(
        text=content or "",
        reasoning=reasoning or None,
        finish_reason=finish_reason,
        prompt_tokens=int(getattr(usage, "prompt_tokens", 0) or 0),
        completion_tokens=int(getattr(usage, "completion_tokens", 0) or 0),
    )


def _estimate(messages: list[dict[str, Any]]) -> int:
    """Return about how many tokens the text of the messages has (4 characters each); pictures count 500."""
    contents = [message["content"] for message in messages]
    parts = [part for content in contents for part in ([{"text": content}] if isinstance(content, str) else content)]
    return sum(len(part["text"]) // 4 if "text" in part else 500 for part in parts)


def _retry_after(error: BaseException) -> float | None:
    headers = getattr(getattr(error, "response", None), "headers", {})
    try:
        return max(float(headers["retry-after"]), 0.0)
    except (KeyError, ValueError):  # a date instead of seconds: the usual backoff will do
        return None


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
