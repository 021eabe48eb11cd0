"""Answers by vLLM servers (decoding.engine=vllm): a video's questions go to one server, answers are kept as they come.

This process decodes videos and runs the vision tower; the servers read prompts and draw answers meanwhile.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import exp
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from vsgrpo.data.row import Row
from vsgrpo.engine.client import Server
from vsgrpo.engine.draw import ServerRollout
from vsgrpo.engine.handshake import Needs, meet
from vsgrpo.engine.watch import check_gap, mean_gap
from vsgrpo.engine.wire import Completion
from vsgrpo.errors import DataError, RunError
from vsgrpo.evaluation.generate import Asked, Generator, Processes, view_of
from vsgrpo.evaluation.predictions import Ledger, Media, VideoQuestions
from vsgrpo.evaluation.unsure import Drawn, draw_unsure
from vsgrpo.modeling.adapters import adapter_chain, adapter_hash, read_adapter_config
from vsgrpo.modeling.bundle import MediaFeatures, language_model
from vsgrpo.modeling.logps import logps
from vsgrpo.modeling.tree import Prompt, build_trees
from vsgrpo.terminal import Progress, counted, note

if TYPE_CHECKING:
    from vsgrpo.config.evaluate import EvalConfig
    from vsgrpo.config.servers import ServersSection

Prompts = dict[str, list[Prompt]]
"""Mode -> the prompt of one question: the mode it is asked in, and with decoding.think_below "vanilla" too."""
PROBE_TOKENS = 16
"""Tokens by which the weights of a server are compared with the model here."""
KEPT = "answers that came are kept, the same command goes on after them"


def _server(url: str, section: ServersSection) -> Server:
    return Server(
        url,
        "",
        timeout_s=section.timeout_s,
        patience_s=section.startup_timeout_s,
        concurrency=section.concurrency,
    )


def _give(server: Server, folder: Path) -> None:
    """Let a server draw with an adapter, under a name made of its content; it gets it again if it is started anew."""
    name, path = f"vsgrpo-{adapter_hash(folder)[:16]}", str(folder.resolve())
    server.add_adapter(name, path)
    server.weights, server.restore = name, lambda: server.add_adapter(name, path)


@dataclass
class _Visit:
    """The questions of one arm about one video (or images) that are not answered yet, and the time they took."""

    arm: Asked
    ledger: Ledger
    media: Media
    rows: list[Row]
    left: int = 0
    began: float = 0.0
    clock: dict[str, float] = field(default_factory=lambda: {"decode": 0.0, "vision": 0.0, "generate": 0.0})


class ServedGenerator(Generator):
    """Answers questions by the servers of a config, once they are found to have the model's weights.

    Args:
        own: what answers questions without them: its model is used for the vision tower and the tokenizer.
    """

    def __init__(self, config: EvalConfig, own: Generator) -> None:
        super().__init__(own.bundle, own.loader, own.prompt, own.decoding, own.system, own.text_of)
        self._config, section = config, config.decoding.vllm
        servers = [_server(url, section) for url in section.base_urls]
        self._servers = ServerRollout(servers, own.bundle.model, section.sampling)
        self._at_once = max(1, section.concurrency * len(servers) // self.decoding.num_samples)
        """Questions that are asked at a time."""

    def run(self, arms: Sequence[Asked], timing: Path, processes: Processes = Processes()) -> None:
        """Answer all questions of all arms, appending each answer as it comes; those that are there are kept.

        The files end as the bytes that answers in order would have made: until then those that came early wait in a
        part file beside them.

        Args:
            timing: one line per video and arm, {"videos", "questions", seconds per phase}.

        Raises:
            DataError: a file of predictions holds answers to other questions.
            SetupError: no server, another version, or one that was started otherwise.
            RunError: a server has other weights, or failed.
        """
        plans = [[VideoQuestions(group.media, (row,)) for group in arm.groups for row in group.rows] for arm in arms]
        ledgers = [
            Ledger(arm.predictions, [[one] for one in plan], self.decoding.num_samples, in_order=False)
            for arm, plan in zip(arms, plans, strict=True)
        ]
        for ledger in ledgers:
            ledger.merge()
        jobs = [(plans[k][index], k) for k, ledger in enumerate(ledgers) for index in ledger.pending()]
        jobs.sort(key=lambda job: (job[0].media, job[1]))
        visits = [
            _Visit(arms[k], ledgers[k], media, [row for one, _ in found for row in one.rows])
            for (media, k), found in itertools.groupby(jobs, key=lambda job: (job[0].media, job[1]))
        ]
        if not jobs:
            return
        self._meet(arms[0].groups)
        each = f"answers of up to {counted(self.decoding.max_new_tokens, 'token')}"
        self._progress, self._timing = Progress("questions", len(jobs), each), timing
        self._answer_all(visits)
        for ledger in ledgers:
            ledger.merge()

    def _meet(self, asked: Sequence[VideoQuestions]) -> None:
        """Look at the servers, give them the adapter, compare them on the longest video, and drop our own layers."""
        model, section = self._config.model, self._config.decoding.vllm
        probe, features = self._probe(asked)
        chain = adapter_chain(model.path, model.adapter)  # one at most, see `check_servable`
        rank = max((int(read_adapter_config(folder).get("r", 1)) for folder in chain), default=0)
        needs = Needs(section.sampling, model.dtype, len(probe.token_ids) + self.decoding.max_new_tokens, rank)
        for server in self._servers.servers:
            meet(server, needs, section.startup_timeout_s, note)
            for folder in chain:
                _give(server, folder)
            gap = self._gap(server, probe, features)
            check_gap(gap, section.max_logprob_gap, server.url, "decoding.vllm.max_logprob_gap")
            note(f"server: {server.url}, log-probs {gap:.1e} from the model's here")
        language_model(self.bundle.model).layers.to("meta")

    def _probe(self, asked: Sequence[VideoQuestions]) -> tuple[Prompt, Mapping[str, MediaFeatures]]:
        """Return the first question about the longest video that can be read, and what it shows."""
        longest: tuple[float, VideoQuestions] | None = None
        for group in asked:
            with suppress(DataError):  # rows of media that cannot be read are kept without an answer
                media = [self.loader.medium(path, kind, *clip) for kind, path, *clip in group.media]
                seconds = max(((item.seconds_per_patch or 0) * item.grid_thw[0] for item in media), default=0.0)
                if longest is None or seconds > longest[0]:
                    longest = seconds, group
        if longest is None:
            return self._prompt(asked[0].rows[0], ()), {}
        shown = tuple(self.loader.load(path, kind, *clip) for kind, path, *clip in longest[1].media)
        return self._prompt(longest[1].rows[0], shown), self.store.features(shown)

    def _gap(self, server: Server, prompt: Prompt, features: Mapping[str, MediaFeatures]) -> float:
        """Return the mean distance of log-probs of one completion on a server from those of the model here."""
        sampling = replace(self.sampling, greedy=False, temperature=1.0, max_new_tokens=PROBE_TOKENS)
        only = ServerRollout([server], self.bundle.model, self._config.decoding.vllm.sampling)
        (drawn,) = only.rollout([prompt], features, [("probe", 0)], sampling)
        with torch.no_grad():
            trees = build_trees([prompt], [[drawn.token_ids]], share=False)
            ((own, _),) = logps(self.bundle.model, trees, features)
        return mean_gap([drawn.logprobs], [own.tolist()])

    def _answer_all(self, visits: Sequence[_Visit]) -> None:
        pool = ThreadPoolExecutor(self._at_once)
        going: dict[Future[list[Drawn]], tuple[_Visit, Row]] = {}
        try:
            for visit, row, prompts, features in self._asked(visits):
                while len(going) >= self._at_once:
                    self._collect(going)
                going[pool.submit(self._draw, row, prompts, features)] = visit, row
            while going:
                self._collect(going)
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            for server in self._servers.servers:
                server.stop()
            if isinstance(error, RunError):
                raise RunError(error.message, f"{error.hint}; {KEPT}" if error.hint else KEPT) from error
            raise
        finally:
            pool.shutdown()

    def _asked(self, visits: Sequence[_Visit]) -> Iterator[tuple[_Visit, Row, Prompts, Mapping[str, MediaFeatures]]]:
        """Yield the questions with prompts and features; those about media that cannot be read are answered here."""
        for number, visit in enumerate(visits):
            visit.left, began = len(visit.rows), time.perf_counter()
            wanted = () if visit.arm.view == "none" else visit.media
            try:
                loaded = (self.loader.load(path, kind, *clip) for kind, path, *clip in wanted)
                shown = tuple(view_of(item, visit.arm.view) for item in loaded)
            except DataError as error:
                for row in visit.rows:
                    self._keep(visit, row, None, error.message)
                continue
            visit.clock["decode"] = time.perf_counter() - began
            began = time.perf_counter()
            features = self.store.features(shown)
            visit.began = time.perf_counter()
            visit.clock["vision"] = visit.began - began
            if number + 1 == len(visits) or visits[number + 1].media != visit.media:  # no other arm shows it
                self.store.forget(features)
            for row in visit.rows:
                prompts = {self.prompt.mode: [self._prompt(row, shown)]}
                if self.decoding.think_below is not None:
                    prompts["vanilla"] = [self._prompt(row, shown, "vanilla")]
                yield visit, row, prompts, features

    def _draw(self, row: Row, prompts: Prompts, features: Mapping[str, MediaFeatures]) -> list[Drawn]:
        drawn: list[Completion] = []

        def draw(prompts: Sequence[Prompt], keys: Sequence[tuple[str, int]]) -> list[list[int]]:
            drawn[:] = self._servers.rollout(prompts, features, keys, self.sampling)
            return [list(each.token_ids) for each in drawn]

        def score(prompts: Sequence[Prompt], completions: Sequence[Sequence[int]]) -> list[float]:
            return [exp(fmean(each.logprobs)) for each in drawn]  # those of the server, drawn just before

        if (below := self.decoding.think_below) is not None:
            return draw_unsure([row], prompts, below, draw, score)
        keys = [(row.key, sample) for sample in range(self.decoding.num_samples)]
        return [Drawn(tokens, self.prompt.mode) for tokens in draw(prompts[self.prompt.mode], keys)]

    def _collect(self, going: dict[Future[list[Drawn]], tuple[_Visit, Row]]) -> None:
        """Keep the answers of those that are done, at least one."""
        for future in wait(going, return_when=FIRST_COMPLETED).done:
            visit, row = going.pop(future)
            self._keep(visit, row, future.result(), None)

    def _keep(self, visit: _Visit, row: Row, drawn: list[Drawn] | None, error: str | None) -> None:
        samples = range(self.decoding.num_samples)
        visit.ledger.add(self._record(row, k, None if drawn is None else drawn[k], error) for k in samples)
        self._progress.advance()
        visit.left -= 1
        if visit.left:
            return
        if visit.began:
            visit.clock["generate"] = time.perf_counter() - visit.began
        line: dict[str, Any] = {"videos": 1, "questions": len(visit.rows)}
        line |= {name: round(seconds, 4) for name, seconds in visit.clock.items()}
        with self._timing.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line if visit.arm.view == "own" else {**line, "view": visit.arm.view}) + "\n")
