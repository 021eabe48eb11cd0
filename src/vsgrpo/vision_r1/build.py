"""build-cot: questions in, cold-start rows out (SPLIT.jsonl, rejected.jsonl, manifest.json, images/).

Two passes over the questions. The first brings all answers into the cache (`generate`); the second reads them from
there in file order, filters and writes. So output does not depend on who answered first, a killed run goes on where it
stopped, and other filter settings cost nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol

from vsgrpo.config.build import BuildCotConfig
from vsgrpo.config.evaluate import StepSection
from vsgrpo.data.manifest import Manifest, file_record, write_manifest
from vsgrpo.data.row import Row, row_to_dict
from vsgrpo.data.row_rules import check_row
from vsgrpo.errors import DataError, RunError
from vsgrpo.families import find_model
from vsgrpo.files import link_or_copy, publish
from vsgrpo.paths import inside, locked
from vsgrpo.records import read_jsonl
from vsgrpo.spatial.answers import parse_answer
from vsgrpo.terminal import Progress
from vsgrpo.vision_r1.answers import Account, AnswerCache, Reply, cache_folder
from vsgrpo.vision_r1.bridge import Rejected, Request, messages, request_key, walk
from vsgrpo.vision_r1.chain import Candidate
from vsgrpo.vision_r1.endpoint import Endpoint, RowError, work_through
from vsgrpo.vision_r1.filters import Verdict, judge
from vsgrpo.vision_r1.questions import Item, Source, source_of
from vsgrpo.vision_r1.report import FAILED, CotSummary, Counts

REJECTED_NAME = "rejected.jsonl"
_NO_MEDIA = (".json", ".jsonl", ".parquet", ".csv", ".tsv", ".yaml", ".yml", ".html", ".md", ".txt", ".lock")
"""Suffixes of row files, manifests and pages: never those of a video or image."""
_FROM_ANNOTATION = "chains were made from the scenes' exact annotation (bridge=annotation), not from what was seen"


def build_cot(config: BuildCotConfig, limit: int | None = None) -> CotSummary:
    """Make the cold-start rows of `config.data.path` in the folder `config.run.dir`.

    Raises:
        ConfigError, DataError: wrong settings, unreadable questions, a folder that holds something else.
        RunError: an endpoint can serve nothing; the answers so far are kept.
    """
    config.check_endpoints()
    for name, step in config.steps().items():
        if config.is_local(name):
            find_model(str(step.model), key=f"{name}.model", any_family=True)
    source, out = source_of(config), Path(config.run.dir)
    target = out / f"{config.data.split}.jsonl"
    _check_folder(out, target, source)
    total = sum(1 for _ in source.items(limit))  # a broken line is found before anything is paid for
    with locked(out, "output", "writing"), _open_cache(config, out) as cache:
        try:
            accounts = generate(source.items(limit), config, cache, total)
        except RunError as error:
            raise RunError(error.message, f"{error.hint}; finished answers are kept in {cache.path}") from error
        counts = write_filtered(source.items(limit), config, cache, out, target)
        summary = CotSummary(target, counts, accounts, config)
        _write_manifest(config, source, summary)
    return summary


def _open_cache(config: BuildCotConfig, out: Path) -> AnswerCache:
    try:
        return AnswerCache(cache_folder(config))
    except OSError as error:
        raise DataError(f"run.dir={out}: cannot be written: {error.strerror}", "choose another output=DIR") from None


def _check_folder(out: Path, target: Path, source: Source) -> None:
    if target.resolve() == source.file.resolve():
        raise DataError(f"run.dir={out}: holds the questions themselves", "choose another output=DIR")
    if out.exists() and not out.is_dir():
        raise DataError(f"run.dir={out}: not a folder", "choose another output=DIR")
    if target.exists() and not (out / REJECTED_NAME).is_file():
        raise DataError(f"{target}: not written by build-cot", "choose another output=DIR")


class Chat(Protocol):
    """A model that answers: behind an `Endpoint`, or in this process (`local_chat`)."""

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
            await work_through(items, slots, self._work)
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

    async def _work(self, item: Item) -> None:
        try:
            await self._answer(item)
        except (RowError, DataError) as error:
            self._num_failed += 1
            self._cache.fail(item.row.key, str(error))
        self._progress.advance(f"{self._num_failed} failed" if self._num_failed else "")

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


def _replay(item: Item, config: BuildCotConfig, cache: AnswerCache, counts: Counts) -> Candidate | Rejected:
    """Walk the steps with cached replies only."""
    try:
        steps = walk(item, config.cot.bridge)
        request = next(steps)
        while True:
            reply = cache.get(request_key(item, request, config))
            if reply is None:
                return Rejected(FAILED, cache.failure(item.row.key) or f"no answer to step {request.step}")
            counts.use(request.step, reply)
            request = steps.send(reply)
    except StopIteration as end:
        return end.value
    except DataError as error:
        return Rejected(FAILED, error.message)


def write_filtered(
    items: Iterator[Item], config: BuildCotConfig, cache: AnswerCache, out: Path, target: Path
) -> Counts:
    """Filter every row into SPLIT.jsonl or rejected.jsonl; both files appear whole or not at all."""
    counts = Counts()
    temporary = [path.with_name(f".{path.name}.tmp") for path in (target, out / REJECTED_NAME)]
    with temporary[0].open("w", encoding="utf-8") as kept, temporary[1].open("w", encoding="utf-8") as rejected:
        for item in items:
            found = _replay(item, config, cache, counts)
            if isinstance(found, Rejected):
                counts.reject(item.row.key, found.reason, found.detail)
                _line(rejected, {"id": item.row.id, "reason": found.reason, "detail": found.detail})
                continue
            verdict = judge(found, config.filters)
            counts.judge(item.row.key, verdict)
            if verdict.failed:
                reason, detail = next(iter(verdict.failed.items()))
                record = {"id": item.row.id, "reason": reason, "detail": detail, "failed": verdict.failed}
                _line(rejected, {**record, "answer": found.answer, "thought": found.thought})
            else:
                _line(kept, row_to_dict(_cold_row(item, found, verdict, config, out)))
    publish(temporary[0], target)
    publish(temporary[1], out / REJECTED_NAME)
    return counts


def _line(stream: IO[str], record: dict[str, Any]) -> None:
    stream.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")


def _cold_row(item: Item, found: Candidate, verdict: Verdict, config: BuildCotConfig, out: Path) -> Row:
    """Return the row with its chain of thought; number rows say the number that the chain arrives at.

    `ground_truth` stays as it was. `generator.cot` names the bridge and the models, so that rows made from exact
    annotation are distinguishable from rows made from captions.
    """
    row = item.row
    answer = row.answer
    if row.answer_kind == "number":
        number = parse_answer(found.answer, "vanilla").number
        answer = row.answer if number is None or number == float(row.answer) else f"{number:g}"
    models = {name: step.model for name, step in config.steps().items()}
    cold = dataclasses.replace(
        row,
        answer=answer,
        rejected=None if row.rejected == answer else row.rejected,
        reasoning=verdict.thought,
        media=tuple(_placed(item, index, out) for index in range(len(row.media))),
        generator={**row.generator, "cot": {"bridge": config.cot.bridge, "models": models}},
    )
    check_row(cold, f"row {row.key}")
    return cold


def _placed(item: Item, index: int, out: Path) -> dict[str, str]:
    """Return a media entry relative to `out`; files are linked there, images that came as bytes written."""
    media = item.row.media[index]
    if item.images is None:
        link_media(item.base, out, media["path"])
        return dict(media)
    path = inside(out, media["path"])
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_bytes(item.images[index])
        publish(temporary, path)
    return dict(media)


def link_media(base: Path, out: Path, path: str) -> None:
    """Give a video or image of one dataset folder the same path in another; what is missing stays missing.

    Raises:
        DataError: a path that leaves either folder, or that of a row file or manifest, which it would replace.
    """
    source, target = inside(base, path), inside(out, path)
    if PurePosixPath(path).suffix.lower() in _NO_MEDIA:
        hint = "leave the row out, or name its video or image"
        raise DataError(f"{base}: media path {path[:100]!r}: not a video or image", hint)
    if source.is_file():
        link_or_copy(source, target)


def _write_manifest(config: BuildCotConfig, source: Source, summary: CotSummary) -> None:
    out = summary.out.parent
    scans: dict[str, dict[str, Any]] = {}
    rooms: set[str] = set()
    if source.form == "rows" and summary.counts.kept:
        for _, data in read_jsonl(summary.out):
            scans[data["scene_name"]] = {"status": "done", "room": data["room"]}
            rooms.add(data["room"])
    write_manifest(
        out,
        Manifest(
            version=version("vsgrpo"),
            dataset=source.name if source.form == "images" else "rows",
            config=dataclasses.asdict(config),
            seed=config.run.seed,
            scans=scans,
            rooms={config.data.split: sorted(rooms)},
            counts={
                **summary.counts.to_json(),
                "steps": summary.steps_json(),
                "source": {"file": str(source.file), "form": source.form, **file_record(source.file)},
            },
            files={path.name: file_record(path) for path in (summary.out, out / REJECTED_NAME)},
            notes=[_FROM_ANNOTATION] if config.cot.bridge == "annotation" else [],
        ),
    )
