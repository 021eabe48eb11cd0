"""Report of a build-cot: rows kept and rejected, words of self-reflection, tokens and cost; before it, an estimate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vsgrpo.config.build import BuildCotConfig
from vsgrpo.errors import DataError, RunError
from vsgrpo.vision_r1.answers import Account, AnswerCache, Reply, cache_folder, cost
from vsgrpo.vision_r1.bridge import Request, request_key, walk
from vsgrpo.vision_r1.chain import REFLECTION_WORDS, count_reflection
from vsgrpo.vision_r1.filters import Verdict
from vsgrpo.vision_r1.questions import Item, estimated_tokens, source_of

# Vision-R1-cold, 200,000 rows: arXiv 2503.06749 Table 4.
PAPER_REFLECTION = {"Wait": 585_719, "Hmm": 75_853, "Mistake": 26_697, "Alternatively": 188_187, "Check": 100_148}
PAPER_ROWS = 200_000
FAILED = "failed"
"""Rows that an endpoint or a broken file left without an answer: the next run asks for them again."""


@dataclass
class Counts:
    """Counts of one pass over the rows; memory does not grow with their number.

    Attributes:
        rows, kept: rows read, rows written.
        rejected: rows not written, each once: under the first rule that fails, a step, or `FAILED`.
        failing: per rule all rows that fail it, also those booked under an earlier one.
        repairs: repaired connectives, by kind.
        reflection: words of self-reflection in the kept chains.
        characters: of the kept chains.
        examples: per reason the first row and what was wrong.
        answers: per step the answers behind the rows, whichever run paid for them.
    """

    rows: int = 0
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    failing: Counter[str] = field(default_factory=Counter)
    repairs: Counter[str] = field(default_factory=Counter)
    reflection: Counter[str] = field(default_factory=Counter)
    characters: int = 0
    examples: dict[str, str] = field(default_factory=dict)
    answers: dict[str, Account] = field(default_factory=dict)

    def use(self, step: str, reply: Reply) -> None:
        """Book an answer that the pass uses."""
        self.answers.setdefault(step, Account()).add(reply)

    def reject(self, row_key: str, reason: str, detail: str) -> None:
        """Book a row that is not written."""
        self.rows += 1
        self.rejected[reason] += 1
        self.examples.setdefault(reason, f"{row_key}: {detail}")

    def judge(self, row_key: str, verdict: Verdict) -> None:
        """Book a row that the rules have judged."""
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
        """Return the counts for manifest.json."""
        return {
            "rows": self.rows,
            "kept": self.kept,
            "rejected": dict(sorted(self.rejected.items())),
            "failing": dict(sorted(self.failing.items())),
            "repairs": dict(sorted(self.repairs.items())),
            "reflection": {word: self.reflection[word] for word in REFLECTION_WORDS},
            "mean_characters": round(self.characters / self.kept, 1) if self.kept else None,
            "examples": dict(sorted(self.examples.items())),
        }


@dataclass(frozen=True)
class CotSummary:
    """Result of one build.

    Attributes:
        out: the row file.
        counts: where the rows went.
        accounts: per step, requests and tokens of this run.
        config: the settings.
    """

    out: Path
    counts: Counts
    accounts: dict[str, Account]
    config: BuildCotConfig

    def to_json(self) -> dict[str, Any]:
        """Return the summary as JSON."""
        return {"out": str(self.out), **self.counts.to_json(), "steps": self.steps_json()}

    def steps_json(self) -> dict[str, Any]:
        """Return per step the account of this run, and of the answers behind all rows."""
        steps = self.config.steps()
        used = self.counts.answers
        return {
            "this_run": {name: account.to_json(steps[name]) for name, account in self.accounts.items()},
            "all_runs": {name: used[name].bill(steps[name]) for name in steps if name in used},
        }

    def table(self) -> str:
        """Return rows in and out, reasons, words of self-reflection, tokens and cost."""
        counts = self.counts
        lines = [f"{counts.kept} of {counts.rows} rows kept -> {self.out}"]
        for reason, number in counts.rejected.most_common():
            lines.append(f"rejected {reason:<14} {number:>8}   such as {counts.examples[reason]}")
        if counts.repairs:
            named = ", ".join(f"{name} {number}" for name, number in sorted(counts.repairs.items()))
            lines.append(f"connectives repaired: {named}")
        if counts.kept:
            lines.append(f"{'word':<16} {'kept rows':>10} {'per 1,000':>10} {'Vision-R1-cold':>15}")
            for word in REFLECTION_WORDS:
                number = counts.reflection[word]
                theirs = 1000 * PAPER_REFLECTION[word] / PAPER_ROWS
                lines.append(f"{word:<16} {number:>10} {1000 * number / counts.kept:>10.1f} {theirs:>15.1f}")
        for name, account in self.accounts.items():
            paid = account.bill(self.config.steps()[name])["cost"]
            retried = sum(account.retries.values())
            lines.append(
                f"{name}: {account.requests} requests ({account.cached} from the cache, {retried} retries), "
                f"{account.prompt_tokens} + {account.completion_tokens} tokens"
                + ("" if paid is None else f", cost {paid:.4f}")
            )
        if counts.rejected[FAILED]:
            lines.append(f"note: run the same command again to ask for the {counts.rejected[FAILED]} failed rows")
        return "\n".join(lines)

    def raise_if_failed(self) -> None:
        """Raise RunError where none was kept, or more rows than cot.max_failed allows have no answer."""
        counts = self.counts
        failed = counts.rejected[FAILED]
        if counts.rows and not counts.kept:
            reason, number = counts.rejected.most_common(1)[0]
            raise RunError(
                f"none of {counts.rows} rows kept; {number} rejected by {reason}, such as {counts.examples[reason]}",
                f"look at {self.out.with_name('rejected.jsonl')}; answers are kept, so other filters.* cost nothing",
            )
        if failed > self.config.cot.max_failed * counts.rows:
            raise RunError(
                f"{failed} of {counts.rows} rows have no answer, more than "
                f"cot.max_failed={self.config.cot.max_failed}, such as {counts.examples[FAILED]}",
                "run the same command again: only what is missing is asked for",
            )


def estimate(config: BuildCotConfig, limit: int | None = None) -> str:
    """Return what a build would ask and cost; nothing is sent.

    Tokens of answers not given yet are the mean of those in the cache, else `expected_tokens` of the step; text
    counts four characters a token, pictures their full budget.
    """
    source = source_of(config)
    steps = config.steps()
    needed = {name: [0, 0, 0.0] for name in steps}  # requests, prompt tokens, completion tokens
    total = cached = unreadable = 0
    folder = cache_folder(config)
    cache = AnswerCache(folder) if folder.is_dir() else None
    means = {name: reply for name, (_, reply) in cache.averages().items()} if cache else {}
    for item in source.items(limit):
        total += 1
        try:
            for request, reply in _imagine(item, config, cache, means):
                if reply is not None:
                    cached += 1
                    continue
                shown = estimated_tokens(item, config.cot) if request.shows else 0
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
    """Walk the steps with cached replies, and placeholders of the expected length for the others."""
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
