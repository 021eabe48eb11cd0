"""Ask the endpoints for what the cache does not hold yet, many questions at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Protocol

from vsgrpo.config.build_cot import BuildCotConfig
from vsgrpo.config.evaluate import StepSection
from vsgrpo.errors import DataError
from vsgrpo.terminal import Progress
from vsgrpo.vision_r1.answers import AnswerCache, Reply
from vsgrpo.vision_r1.bridge import Request, messages, request_key, walk
from vsgrpo.vision_r1.endpoint import Account, Endpoint, RowError
from vsgrpo.vision_r1.questions import Item


class Chat(Protocol):
    """What answers: an `Endpoint`, or a model in this process (`local_chat`)."""

    async def ask(self, step: StepSection, messages: list[dict[str, Any]], seed: int, account: Account) -> Reply:
        """Return the answer and book it; raise RowError where this one fails and others may not."""
        ...

    async def close(self) -> None:
        """Let go of what is held."""
        ...


def generate(items: Iterator[Item], config: BuildCotConfig, cache: AnswerCache, total: int) -> dict[str, Account]:
    """Bring every item's answers into the cache and return what each step cost; failures are noted in the cache.

    As many items are in memory as requests may be in flight.

    Raises:
        EndpointError, ConfigError, SetupError: an endpoint can serve nothing; what came before is in the cache.
        DataError: the items cannot be read on.
    """
    return asyncio.run(_Generation(config, cache, Progress("rows", total)).run(items))


class _Generation:
    def __init__(self, config: BuildCotConfig, cache: AnswerCache, progress: Progress) -> None:
        self._config, self._cache, self._progress = config, cache, progress
        self._steps = config.steps()
        self._accounts = {name: Account() for name in self._steps}
        self._num_failed = 0

    async def run(self, items: Iterator[Item]) -> dict[str, Account]:
        shared: dict[tuple[str | None, ...], Chat] = {}
        self._endpoints: dict[str, Chat] = {}
        slots = 0
        for name, step in self._steps.items():
            place = (step.base_url, step.model, step.api_key_env)
            if place not in shared:
                shared[place] = self._connect(name, step)
                slots += step.concurrency
            self._endpoints[name] = shared[place]
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(slots):
                    group.create_task(self._work(items))
        except* Exception as errors:
            raise _first(errors) from None
        finally:
            for endpoint in shared.values():
                await endpoint.close()
        return self._accounts

    def _connect(self, name: str, step: StepSection) -> Chat:
        """Return what answers a step: a model in this process, or an endpoint."""
        if self._config.is_local(name):
            from vsgrpo.vision_r1.local_chat import LocalChat  # imports torch

            return LocalChat(name, step)
        return Endpoint(name, step)

    async def _work(self, items: Iterator[Item]) -> None:
        """Take items until none is left; the iterator is only touched between awaits."""
        for item in items:
            try:
                await self._answer(item)
            except (RowError, DataError) as error:
                self._num_failed += 1
                self._cache.fail(item.row.key, str(error))
            self._progress.advance(f"{self._num_failed} failed" if self._num_failed else "")
            await asyncio.sleep(0)

    async def _answer(self, item: Item) -> None:
        steps = walk(item, self._config.cot.bridge)
        try:
            request = next(steps)
            while True:
                request = steps.send(await self._reply(item, request))
        except StopIteration:
            self._cache.fail(item.row.key, None)

    async def _reply(self, item: Item, request: Request) -> Reply:
        key = await asyncio.to_thread(request_key, item, request, self._config)
        found = self._cache.get(key)
        if found is not None:
            self._accounts[request.step].cached += 1
            return found
        turn = await asyncio.to_thread(messages, item, request, self._config)
        step = self._steps[request.step]
        account = self._accounts[request.step]
        reply = await self._endpoints[request.step].ask(step, turn, self._config.run.seed, account)
        self._cache.put(key, request.step, reply)
        return reply


def _first(errors: BaseExceptionGroup) -> BaseException:
    found: BaseException = errors
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
