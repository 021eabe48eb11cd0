"""build-cot: questions in, cold-start rows out (SPLIT.jsonl, rejected.jsonl, manifest.json, images/).

Two passes over the questions. The first brings all answers into the cache (`generate`); the second reads them from
there in file order, filters and writes. So output does not depend on who answered first, a killed run goes on where it
stopped, and other filter settings cost nothing.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from vsgrpo.config.build_cot import BuildCotConfig
from vsgrpo.data.linking import link_media
from vsgrpo.data.manifest import Manifest, file_record, write_manifest
from vsgrpo.data.row import Row
from vsgrpo.data.row_rules import check_row
from vsgrpo.data.rows import row_to_dict
from vsgrpo.errors import DataError, RunError
from vsgrpo.families import find_model
from vsgrpo.files import publish
from vsgrpo.paths import inside, locked
from vsgrpo.records import read_jsonl
from vsgrpo.spatial.answers import parse_answer
from vsgrpo.vision_r1.answers import AnswerCache, Reply
from vsgrpo.vision_r1.bridge import Rejected, Request, media_budget, request_key, walk
from vsgrpo.vision_r1.endpoint import cost
from vsgrpo.vision_r1.filters import Candidate, FilterSettings, Verdict, judge
from vsgrpo.vision_r1.generate import generate
from vsgrpo.vision_r1.media import estimated_tokens
from vsgrpo.vision_r1.questions import Item, Source, find_source
from vsgrpo.vision_r1.report import FAILED, CotSummary, Counts

REJECTED_NAME = "rejected.jsonl"
_CACHE_FOLDER = ".cot"


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
    source, out = _source(config), Path(config.run.dir)
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


def estimate(config: BuildCotConfig, limit: int | None = None) -> str:
    """Return what a build would ask and cost; nothing is sent.

    Tokens of answers not given yet are the mean of those in the cache, else `expected_tokens` of the step; text
    counts four characters a token, pictures their full budget.
    """
    source, out = _source(config), Path(config.run.dir)
    steps = config.steps()
    needed = {name: [0, 0, 0.0] for name in steps}  # requests, prompt tokens, completion tokens
    total = cached = unreadable = 0
    folder = _cache_folder(config, out)
    cache = AnswerCache(folder) if folder.is_dir() else None
    means = {name: reply for name, (_, reply) in cache.averages().items()} if cache else {}
    for item in source.items(limit):
        total += 1
        try:
            for request, reply in _imagine(item, config, cache, means):
                if reply is not None:
                    cached += 1
                    continue
                shown = estimated_tokens(item, media_budget(config)) if request.shows else 0
                entry = needed[request.step]
                entry[0] += 1
                entry[1] += len(request.text) // 4 + shown
                entry[2] += means.get(request.step) or steps[request.step].expected_tokens
        except DataError:
            unreadable += 1
    lines = [f"{total} rows of {source.file} ({source.form}); {cached} answers are in the cache"]
    lines += [f"{unreadable} rows cannot be asked (media or annotation missing)"] if unreadable else []
    costs = [cost(steps[name], entry[1], entry[2]) for name, entry in needed.items()]
    for (name, (requests, prompt, completion)), paid in zip(needed.items(), costs, strict=True):
        price = "no price set" if paid is None else f"cost {paid:.2f}"
        lines.append(f"{name}: {requests} requests, about {prompt:,.0f} + {completion:,.0f} tokens, {price}")
    lines.append("all: " + ("no price set" if None in costs else f"cost {sum(filter(None, costs)):.2f}"))
    return "\n".join(lines)


def _imagine(
    item: Item, config: BuildCotConfig, cache: AnswerCache | None, means: dict[str, float]
) -> Iterator[tuple[Request, Reply | None]]:
    """Walk the steps with cached replies, and stand-ins of the expected length for the others."""
    steps = walk(item, config.cot.bridge)
    try:
        request = next(steps)
        while True:
            reply = cache.get(request_key(item, request, config)) if cache else None
            yield request, reply
            length = int(means.get(request.step) or config.steps()[request.step].expected_tokens)
            request = steps.send(reply or Reply("word" * length, None, "stop", 0, length))
    except StopIteration:
        return


def _source(config: BuildCotConfig) -> Source:
    data = config.data
    source = find_source(data.path, data.split, data.form, data.name, data.allow_val_safe)
    if config.cot.bridge == "annotation" and source.form != "rows":
        raise DataError(
            f"{source.file}: cot.bridge=annotation: image questions have no annotated scene", "use cot.bridge=caption"
        )
    return source


def _cache_folder(config: BuildCotConfig, out: Path) -> Path:
    return Path(config.cot.cache_dir) if config.cot.cache_dir is not None else out / _CACHE_FOLDER


def _open_cache(config: BuildCotConfig, out: Path) -> AnswerCache:
    try:
        return AnswerCache(_cache_folder(config, out))
    except OSError as error:
        raise DataError(f"run.dir={out}: cannot be written: {error.strerror}", "choose another output=DIR") from None


def _check_folder(out: Path, target: Path, source: Source) -> None:
    if target.resolve() == source.file.resolve():
        raise DataError(f"run.dir={out}: holds the questions themselves", "choose another output=DIR")
    if out.exists() and not out.is_dir():
        raise DataError(f"run.dir={out}: not a folder", "choose another output=DIR")
    if target.exists() and not (out / REJECTED_NAME).is_file():
        raise DataError(f"{target}: not written by build-cot", "choose another output=DIR")


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
    settings = FilterSettings(**dataclasses.asdict(config.filters))
    counts = Counts()
    temporary = [path.with_name(f".{path.name}.tmp") for path in (target, out / REJECTED_NAME)]
    with temporary[0].open("w", encoding="utf-8") as kept, temporary[1].open("w", encoding="utf-8") as rejected:
        for item in items:
            found = _replay(item, config, cache, counts)
            if isinstance(found, Rejected):
                counts.reject(item.row.key, found.reason, found.detail)
                _line(rejected, {"id": item.row.id, "reason": found.reason, "detail": found.detail})
                continue
            verdict = judge(found, settings)
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

    `ground_truth` stays as it was. `generator.cot` tells the bridge and the models, so that rows made from exact
    annotation can be told from rows made from captions.
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


def _write_manifest(config: BuildCotConfig, source: Source, summary: CotSummary) -> None:
    out = summary.out.parent
    scans: dict[str, dict[str, Any]] = {}
    rooms: set[str] = set()
    if source.form == "rows" and summary.counts.kept:
        for _, data in read_jsonl(summary.out):
            scans[data["scene_name"]] = {"status": "done", "room": data["room"]}
            rooms.add(data["room"])
    settings = dataclasses.asdict(config)
    write_manifest(
        out,
        Manifest(
            version=version("vsgrpo"),
            dataset=source.name if source.form == "images" else "rows",
            config=settings,
            seed=config.run.seed,
            scans=scans,
            rooms={config.data.split: sorted(rooms)},
            counts={
                **summary.counts.to_json(),
                "steps": summary.steps_json(),
                "source": {"file": str(source.file), "form": source.form, **file_record(source.file)},
            },
            files={path.name: file_record(path) for path in (summary.out, out / REJECTED_NAME)},
            notes=_notes(config),
        ),
    )


def _notes(config: BuildCotConfig) -> list[str]:
    if config.cot.bridge == "annotation":
        return ["chains were made from the scenes' exact annotation (bridge=annotation), not from what was seen"]
    return []
