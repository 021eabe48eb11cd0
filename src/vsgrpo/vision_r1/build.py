"""build-cot: questions in, cold-start rows out (SPLIT.jsonl, rejected.jsonl, manifest.json, images/).

Two passes over the questions. The first brings all answers into the cache (`bridge.generate`); the second reads them
from there in file order, filters and writes. So output does not depend on who answered first, a killed run goes on
where it stopped, and other filter settings cost nothing.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

from vsgrpo.config.build import BuildCotConfig
from vsgrpo.data.kept_out import keeping_out, kept_json
from vsgrpo.data.manifest import Manifest, file_record, write_manifest
from vsgrpo.data.row import Row, check_row
from vsgrpo.data.rows import row_to_dict
from vsgrpo.errors import DataError, RunError
from vsgrpo.evaluation.unpacking import write_image
from vsgrpo.families import find_model
from vsgrpo.files import link_or_copy, publish
from vsgrpo.packages import LOCAL_CHAT, check_command
from vsgrpo.paths import inside, locked, unwritable
from vsgrpo.records import read_jsonl
from vsgrpo.spatial.answers import parse_answer
from vsgrpo.terminal import counted
from vsgrpo.vision_r1.bridge import Rejected, Request, at_once, generate, request_key, walk
from vsgrpo.vision_r1.chat import Account, AnswerCache, Reply, cache_folder
from vsgrpo.vision_r1.filters import Candidate, Verdict, judge
from vsgrpo.vision_r1.questions import Item, Source, source_of

REJECTED_NAME = "rejected.jsonl"
FAILED = "failed"
"""Rows that an endpoint or a broken file left without an answer: the next run asks for them again."""
_NO_MEDIA = (".json", ".jsonl", ".parquet", ".csv", ".tsv", ".yaml", ".yml", ".html", ".md", ".txt", ".lock")
"""Suffixes of row files, manifests and pages: never those of a video or image."""
_FROM_ANNOTATION = "chains were made from the scenes' exact annotation (bridge=annotation), not from what was seen"
PAPER_REFLECTION = {"Wait": 585_719, "Hmm": 75_853, "Mistake": 26_697, "Alternatively": 188_187, "Check": 100_148}
"""Words of self-reflection in Vision-R1-cold, whole words in any case. Source: arXiv 2503.06749 Table 4."""
PAPER_ROWS = 200_000
_REFLECTION = {word: re.compile(rf"{word.lower()}(?<!\w{word.lower()})\b") for word in PAPER_REFLECTION}


def count_reflection(thought: str) -> Counter[str]:
    """Return how often each of the words of `PAPER_REFLECTION` occurs in a chain."""
    text = thought.lower()
    return Counter({word: len(pattern.findall(text)) for word, pattern in _REFLECTION.items()})


@dataclass
class CotSummary:
    """Result of one build; memory does not grow with the number of rows.

    Attributes:
        out: the row file.
        config: the settings.
        accounts: per step, requests and tokens of this run.
        answers: per step, the answers behind the rows, whichever run paid for them.
        rows, kept: rows read, rows written.
        rejected: rows not written, each once: under the first rule that fails, a step, or `FAILED`.
        failing: per rule all rows that fail it, also those counted under an earlier one.
        repairs: repaired connectives, by kind.
        reflection: words of self-reflection in the kept chains (`PAPER_REFLECTION`).
        characters: of the kept chains.
        examples: per reason the first row and what was wrong.
    """

    out: Path
    config: BuildCotConfig
    accounts: dict[str, Account] = field(default_factory=dict)
    answers: dict[str, Account] = field(default_factory=dict)
    rows: int = 0
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    failing: Counter[str] = field(default_factory=Counter)
    repairs: Counter[str] = field(default_factory=Counter)
    reflection: Counter[str] = field(default_factory=Counter)
    characters: int = 0
    examples: dict[str, str] = field(default_factory=dict)

    def reject(self, row_key: str, reason: str, detail: str) -> None:
        """Count a row that is not written."""
        self.rows += 1
        self.rejected[reason] += 1
        self.examples.setdefault(reason, f"{row_key}: {detail}")

    def judge(self, row_key: str, verdict: Verdict) -> None:
        """Count a row that the rules have judged."""
        self.failing.update(verdict.failed.keys())
        if verdict.failed:
            self.reject(row_key, *next(iter(verdict.failed.items())))
            return
        self.rows += 1
        self.kept += 1
        self.repairs.update(verdict.repairs)
        self.reflection.update(count_reflection(verdict.thought))
        self.characters += len(verdict.thought)

    def to_json(self) -> dict[str, Any]:
        """Return the summary as JSON."""
        return {"out": str(self.out), **self.counts_json()}

    def counts_json(self) -> dict[str, Any]:
        """Return the counts for manifest.json, with the accounts of this run and of the answers behind all rows."""
        steps = self.config.steps()
        return {
            "rows": self.rows,
            "kept": self.kept,
            "rejected": dict(sorted(self.rejected.items())),
            "failing": dict(sorted(self.failing.items())),
            "repairs": dict(sorted(self.repairs.items())),
            "reflection": {word: self.reflection[word] for word in PAPER_REFLECTION},
            "mean_characters": round(self.characters / self.kept, 1) if self.kept else None,
            "examples": dict(sorted(self.examples.items())),
            "steps": {
                "this_run": {name: account.to_json(steps[name]) for name, account in self.accounts.items()},
                "all_runs": {name: self.answers[name].bill(steps[name]) for name in steps if name in self.answers},
            },
        }

    def table(self) -> str:
        """Return rows in and out, reasons, words of self-reflection, tokens and cost."""
        lines = [f"{self.kept} of {counted(self.rows, 'row')} kept -> {self.out}"]
        for reason, number in self.rejected.most_common():
            lines.append(f"rejected {reason:<14} {number:>8}   such as {self.examples[reason]}")
        if self.repairs:
            named = ", ".join(f"{name} {number}" for name, number in sorted(self.repairs.items()))
            lines.append(f"connectives repaired: {named}")
        if self.kept:
            lines.append(f"{'word':<16} {'kept rows':>10} {'per 1,000':>10} {'Vision-R1-cold':>15}")
            for word, in_paper in PAPER_REFLECTION.items():
                number = self.reflection[word]
                ours, theirs = 1000 * number / self.kept, 1000 * in_paper / PAPER_ROWS
                lines.append(f"{word:<16} {number:>10} {ours:>10.1f} {theirs:>15.1f}")
        for name, account in self.accounts.items():
            paid = account.bill(self.config.steps()[name])["cost"]
            asked = (
                f"{counted(account.requests, 'request')} ({account.cached} from the cache, "
                f"{counted(account.retries.total(), 'retry', 'retries')})"
            )
            tokens = f"{account.prompt_tokens} + {counted(account.completion_tokens, 'token')}"
            lines.append(f"{name}: {asked}, {tokens}" + ("" if paid is None else f", cost {paid:.4f}"))
        if failed := self.rejected[FAILED]:
            lines.append(f"note: run the same command again to ask for {counted(failed, 'failed row')}")
        return "\n".join(lines)

    def raise_if_failed(self) -> None:
        """Raise RunError where none was kept, or more rows than cot.max_failed allows have no answer."""
        failed, max_failed = self.rejected[FAILED], self.config.cot.max_failed
        if self.rows and not self.kept:
            reason, number = self.rejected.most_common(1)[0]
            raise RunError(
                f"none of {counted(self.rows, 'row')} kept; {number} rejected by {reason}, such as "
                f"{self.examples[reason]}",
                f"look at {self.out.with_name(REJECTED_NAME)}; answers are kept, so other filters.* cost nothing",
            )
        if failed > max_failed * self.rows:
            raise RunError(
                f"{failed} of {counted(self.rows, 'row has', 'rows have')} no answer, more than "
                f"cot.max_failed={max_failed}, "
                f"such as {self.examples[FAILED]}",
                "run the same command again: only what is missing is asked for",
            )


def build_cot(config: BuildCotConfig, limit: int | None = None) -> CotSummary:
    """Make the cold-start rows of `config.data.path` in the folder `config.run.dir`.

    Raises:
        ConfigError, DataError: wrong settings, unreadable questions, a folder that holds something else.
        RunError: an endpoint can serve nothing; the answers so far are kept.
    """
    with keeping_out(config.data.keep_out):
        return _build_cot(config, limit)


def _build_cot(config: BuildCotConfig, limit: int | None) -> CotSummary:
    config.check_endpoints()
    for name, step in config.steps().items():
        if config.is_local(name):
            check_command(LOCAL_CHAT)
            find_model(str(step.model), key=f"{name}.model", any_family=True)
    source, out = source_of(config), Path(config.run.dir)
    summary = CotSummary(out / f"{config.data.split}.jsonl", config)
    _check_folder(summary.out, source)
    total = sum(1 for _ in source.items(limit))  # a broken line is found before anything is paid for
    with locked(out, "output", "writing"), _open_cache(config, out) as cache:
        try:
            summary.accounts = asyncio.run(generate(source.items(limit), config, cache, total))
        except RunError as error:
            raise RunError(error.message, f"{error.hint}; finished answers are kept in {cache.path}") from error
        write_filtered(source.items(limit), cache, summary)
        _write_manifest(source, summary)
    return summary


def _open_cache(config: BuildCotConfig, out: Path) -> AnswerCache:
    try:
        return AnswerCache(cache_folder(config))
    except OSError as error:
        raise unwritable(out, "run.dir", error) from None


def _check_folder(target: Path, source: Source) -> None:
    out = target.parent
    if target.resolve() == source.file.resolve():
        raise DataError(f"run.dir={out}: holds the questions themselves", "choose another output=DIR")
    if out.exists() and not out.is_dir():
        raise DataError(f"run.dir={out}: not a folder", "choose another output=DIR")
    if target.exists() and not (out / REJECTED_NAME).is_file():
        raise DataError(f"{target}: not written by build-cot", "choose another output=DIR")


def _replay(item: Item, cache: AnswerCache, summary: CotSummary) -> Candidate | Rejected:
    """Walk the steps with cached replies only."""

    async def answer(request: Request) -> Reply:
        reply = cache.get(request_key(item, request, summary.config))
        if reply is None:
            raise DataError(cache.failure(item.row.key) or f"no answer to step {request.step}")
        summary.answers.setdefault(request.step, Account()).add(reply)
        return reply

    try:
        return at_once(walk(item, summary.config.cot.bridge, answer))
    except DataError as error:
        return Rejected(FAILED, error.message)


def write_filtered(items: Iterator[Item], cache: AnswerCache, summary: CotSummary) -> None:
    """Filter every row into SPLIT.jsonl or rejected.jsonl and count it; both files appear whole or not at all."""
    config, targets = summary.config, (summary.out, summary.out.with_name(REJECTED_NAME))
    temporary = [path.with_name(f".{path.name}.tmp") for path in targets]
    with temporary[0].open("w", encoding="utf-8") as kept, temporary[1].open("w", encoding="utf-8") as rejected:
        for item in items:
            found = _replay(item, cache, summary)
            if isinstance(found, Rejected):
                summary.reject(item.row.key, found.reason, found.detail)
                _line(rejected, {"id": item.row.id, "reason": found.reason, "detail": found.detail})
                continue
            verdict = judge(found, config.filters)
            summary.judge(item.row.key, verdict)
            if verdict.failed:
                reason, detail = next(iter(verdict.failed.items()))
                record = {"id": item.row.id, "reason": reason, "detail": detail, "failed": verdict.failed}
                _line(rejected, {**record, "answer": found.answer, "thought": found.thought})
            else:
                _line(kept, row_to_dict(_cold_row(item, found, verdict, config, summary.out.parent)))
    for part, target in zip(temporary, targets, strict=True):
        publish(part, target)


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
    cold = replace(
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
    else:
        write_image(inside(out, media["path"]), item.images[index])
    return dict(media)


def link_media(base: Path, out: Path, path: str) -> None:
    """Give a video or image of one dataset folder the same path in another, if it is there.

    Raises:
        DataError: a path that leaves either folder, or that of a row file or manifest, which it would replace.
    """
    source, target = inside(base, path), inside(out, path)
    if PurePosixPath(path).suffix.lower() in _NO_MEDIA:
        hint = "leave the row out, or name its video or image"
        raise DataError(f"{base}: media path {path[:100]!r}: not a video or image", hint)
    if source.is_file():
        link_or_copy(source, target)


def _write_manifest(source: Source, summary: CotSummary) -> None:
    config, out = summary.config, summary.out.parent
    scans: dict[str, dict[str, Any]] = {}
    rooms: set[str] = set()
    if source.form == "rows" and summary.kept:
        for _, data in read_jsonl(summary.out):
            scans[data["scene_name"]] = {"status": "done", "room": data["room"]}
            rooms.add(data["room"])
    write_manifest(
        out,
        Manifest(
            dataset=source.name if source.form == "images" else "rows",
            config=asdict(config),
            seed=config.run.seed,
            scans=scans,
            rooms={config.data.split: sorted(rooms)},
            counts={
                **summary.counts_json(),
                **kept_json(config.data.keep_out),
                "source": {"file": str(source.file), "form": source.form, **file_record(source.file)},
            },
            files={path.name: file_record(path) for path in (summary.out, out / REJECTED_NAME)},
            notes=[_FROM_ANNOTATION] if config.cot.bridge == "annotation" else [],
        ),
    )
