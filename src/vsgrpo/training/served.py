"""Completions of GRPO drawn by vLLM servers (rollout.engine=vllm): weights go there, token ids and log-probs come back.

Every process sends its own requests, as noise and seeds are keyed; process 0 brings the weights. What fails on one
process is told to all before anyone goes on: they have the next collective call in common. A run that cannot go on is
stopped with a checkpoint.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate.utils import broadcast_object_list, gather_object

from vsgrpo.config.train import TrainConfig
from vsgrpo.config.trainer import GrpoSection
from vsgrpo.data.row_numbers import Rows
from vsgrpo.engine.draw import ServerRollout
from vsgrpo.engine.sync import WeightSync
from vsgrpo.engine.watch import check_gap, mean_gap
from vsgrpo.engine.wire import Completion
from vsgrpo.errors import DataError, RunError, SetupError, VsgrpoError, first_line, from_machine
from vsgrpo.modeling.bundle import MediaFeatures, ModelBundle
from vsgrpo.modeling.logps import logps
from vsgrpo.modeling.sampling import Sampling
from vsgrpo.modeling.save import new_folder, save_model
from vsgrpo.modeling.tree import build_trees
from vsgrpo.training.samples import Sample, SampleMaker, compute_features
from vsgrpo.training.servers import meet_servers

if TYPE_CHECKING:
    from vsgrpo.training.base import RunParts

FOLDER = "rollout_weights"
"""In the run folder: the weights that servers read."""
LIMIT = "rollout.vllm.max_logprob_gap"
_COMPARED_TOKENS = 16
_LOOKED_AT = 64
"""Rows among which the handshake looks for the video that reaches farthest."""


def open_served(trainer: Any, run: RunParts, section: GrpoSection) -> ServedRollout | None:
    """Return what draws the completions of a stage by servers, None where our own rollout does.

    TRL's trainer then corrects for log-probs that are not ours. It is told after it was made: else it would make a
    client of its own.
    """
    config = run.config
    if config.rollout_engine(section) != "vllm":
        return None
    trainer.use_vllm = trainer.vllm_importance_sampling_correction = True
    trainer.vllm_importance_sampling_mode = config.rollout.vllm.is_mode
    trainer.vllm_importance_sampling_clip_max = config.rollout.vllm.is_clip_max
    trainer.vllm_importance_sampling_clip_min = None
    leads = trainer.is_world_process_zero()
    return ServedRollout(config, section, run.bundle, leads, run.rows, trainer.bad_steps.say)


class ServedRollout:
    """Servers that draw the completions of one stage.

    Args:
        config: of the run.
        section: of the stage.
        bundle: its model is the one that is trained.
        leads: this is process 0.
        rows: of the run, for the length of prompts.
        say: shows a line to the user.

    Raises:
        SetupError: a server is not what the stage needs.
    """

    def __init__(
        self, config: TrainConfig, section: GrpoSection, bundle: ModelBundle, leads: bool, rows: Rows, say: Any
    ) -> None:
        given = config.rollout.vllm
        self._bundle, self._limit, self._leads = bundle, given.max_logprob_gap, leads
        self.servers = meet_servers(config, section, rows, say if self._leads else lambda text: None)
        self._sampling = config.rollout.sampling_of(section)
        self._rollout = ServerRollout(self.servers, bundle.model, self._sampling)
        run_dir = Path(config.run.dir)
        # The same for all starts of one run, and of this start: weights of an earlier start are others.
        owner = f"vsgrpo-{blake2b(str(run_dir.resolve()).encode(), digest_size=4).hexdigest()}"
        (token,) = broadcast_object_list([secrets.token_hex(4)])
        folder, self._merges = Path(given.sync_dir or run_dir / FOLDER), given.sync == "disk"
        self._sync = WeightSync(self.servers, folder, f"{owner}-{token}", given.sync)
        if self._leads:
            self._sync.clear(owner)
        self._step: int | None = None
        self._drawn: list[Completion | None] = []
        self._failure: VsgrpoError | None = None
        self._preemptions = 0.0
        self._new_preemptions()  # those before this run are not its own

    def draw(self, trainer: Any, samples: Sequence[Sample], features: Mapping[str, MediaFeatures]) -> None:
        """Bring the weights of the step, compare both sides before the first, and draw the completions of this process.

        All processes call it, where weights are whole. What fails is kept for `take`.
        """
        sampling = trainer._sampling()
        if self._bring(trainer.run_step):
            self._compare(trainer, sampling)
        self._drawn = [None] * len(samples)
        seen = [place for place, sample in enumerate(samples) if sample.media is not None]
        if self._failure is not None or not seen:
            return
        prompts, keys = zip(*((samples[i].prompt, (samples[i].row_key, samples[i].index)) for i in seen), strict=True)
        try:
            for place, completion in zip(seen, self._rollout.rollout(prompts, features, keys, sampling), strict=True):
                self._drawn[place] = completion
        except VsgrpoError as error:
            self._failure = error

    def _bring(self, step: int) -> bool:
        """Bring the weights of a step to the servers, unless they have them; return whether they are the first."""
        if step == self._step:
            return False
        name = self._agree(partial(self._sync.bring, step, self._write))
        is_first, self._step = self._step is None, step
        if name is not None:
            self._sync.follow(name)
        return is_first

    def _agree(self, action: Callable[[], Any]) -> Any:
        """Let process 0 do something, and return on all processes what it returned; None where it failed."""
        given: list[Any] = [None, None]
        if self._leads and self._failure is None:
            try:
                given[0] = action()
            except VsgrpoError as error:
                given[1] = error
            except OSError as error:
                given[1] = from_machine(error) or RunError(f"{FOLDER}: {first_line(error)}")
        found, error = broadcast_object_list(given)
        self._failure = self._failure or error
        return found

    def _write(self, folder: Path) -> None:
        if self._merges:
            save_model(self._bundle, folder, merge=True)
            return
        with new_folder(folder) as part:  # an adapter and its config are all that a server reads
            cast(Any, self._bundle.model).save_pretrained(str(part))

    def _compare(self, trainer: Any, sampling: Sampling) -> None:
        """Score one row with a long video on both sides; all processes do, as a forward may be a collective call."""
        scored = None
        if self._failure is None:
            try:
                scored = self._drawn_far(trainer, sampling)
            except VsgrpoError as error:
                self._failure = SetupError(f"before the first step: {error.message}", error.hint)
        if not all(gather_object([scored is not None])) or scored is None:
            return
        sample, features, drawn = scored
        trees = build_trees([sample.prompt], [[drawn.token_ids]], False)
        temperature = sampling.temperature if self._sampling == "seeded" else 1.0
        ((scores, _),) = logps(self._bundle.model, trees, features, temperature=temperature)
        try:
            check_gap(mean_gap([drawn.logprobs], [scores.tolist()]), self._limit, f"row {sample.row_key}", LIMIT)
        except RunError as error:
            self._failure = SetupError(f"before the first step: {error.message}", error.hint)

    def _drawn_far(self, trainer: Any, sampling: Sampling) -> tuple[Sample, dict[str, MediaFeatures], Completion]:
        sample = farthest(trainer._maker, trainer.train_dataset, self._bundle)
        features = compute_features([sample], trainer._store, trainer.timer)
        short = replace(sampling, max_new_tokens=min(_COMPARED_TOKENS, sampling.max_new_tokens))
        key = (f"{sample.row_key} compared", 0)
        (drawn,) = self._rollout.rollout([sample.prompt], features, [key], short)
        return sample, features, drawn

    def take(self, trainer: Any) -> tuple[list[list[int]], list[list[float]]]:
        """Return token ids and log-probs of what was drawn; all processes call it.

        A sample without media was not asked about: it is one end token, whose log-prob is NaN, which TRL takes for a
        ratio of 1.

        Raises:
            VsgrpoError: any process failed; the run is saved.
        """
        failure = next((error for error in gather_object([self._failure]) if error is not None), None)
        if failure is not None:
            raise stopped(trainer, failure)
        ids = [trainer.eos_token_ids[:1] if each is None else list(each.token_ids) for each in self._drawn]
        return ids, [[math.nan] if each is None else list(each.logprobs) for each in self._drawn]

    def watch(self, trainer: Any, output: dict[str, Any]) -> None:
        """Compare the log-probs of a rollout with ours, and log the distance; all processes call it.

        Args:
            output: of TRL's `_generate_and_score_completions`, dead rows masked; NaNs in it become our log-probs.

        Raises:
            RunError: they are too far from ours; the run is saved.
        """
        ours, theirs = output["old_per_token_logps"], output["sampling_per_token_logps"]
        known = ~theirs.isnan()
        output["sampling_per_token_logps"] = torch.where(known, theirs, ours)
        counted = known & output["completion_mask"].bool()
        own = torch.stack([(ours - theirs)[counted].abs().sum().float(), counted.sum().float()])
        total, count = trainer.accelerator.reduce(own, reduction="sum").tolist()
        gap = total / count if count else 0.0
        metrics = trainer._metrics["train"]
        metrics["sampling/gap"].append(gap)
        metrics["sampling/preemptions"].append(self._new_preemptions())
        try:
            check_gap(gap, self._limit, "completions", LIMIT)
        except RunError as error:
            raise stopped(trainer, error) from None

    def _new_preemptions(self) -> float:
        """Return how often servers have put completions aside since the last rollout, as process 0 sees it."""
        if not self._leads:
            return 0.0
        before, self._preemptions = self._preemptions, 0.0
        for server in self.servers:
            try:
                self._preemptions += server.preemptions()
            except RunError:  # a count is nothing to stop for
                self._preemptions += 0.0
        return max(0.0, self._preemptions - before)

    def close(self) -> None:
        """Take the weights of the run away from servers and disk."""
        if self._leads:
            self._sync.close()


def farthest(maker: SampleMaker, rows: Iterable[Mapping[str, Any]], bundle: ModelBundle) -> Sample:
    """Return a sample of the row whose text is moved farthest by its videos, where two rules of positions part.

    Raises:
        DataError: nothing of what the rows show can be read.
    """
    rows = list(rows)
    some = rows[:: max(1, len(rows) // _LOOKED_AT)][:_LOOKED_AT]
    for row in sorted(some, key=partial(_reach, maker, bundle), reverse=True):
        (sample,) = maker.make([row], [0])
        if sample.media:
            return sample
    raise DataError("no video or image of the rows can be read", "`vsgrpo check-data` names what is wrong")


def _reach(maker: SampleMaker, bundle: ModelBundle, row: Mapping[str, Any]) -> tuple[float, int]:
    """Return how far a row's videos reach in time beyond rows and columns, and the tokens of what it shows."""
    reach, tokens = 0.0, 0
    for item in row["media"]:
        try:
            medium = maker.medium(item["path"], item["kind"])
        except DataError:
            return (-1.0, 0)
        patches, height, width = medium.grid_thw
        per_patch = 2 * (medium.seconds_per_patch or 0.0) if bundle.family.seconds_argument else 1.0
        reach += max(0.0, patches * per_patch - max(height, width) / bundle.family.merge)
        tokens += medium.num_tokens
    return reach, tokens


def stopped(trainer: Any, error: VsgrpoError) -> VsgrpoError:
    """Save where a run stands, and return the error that ends it; all processes call it."""
    number = trainer.run_step
    if not trainer.state.global_step:
        return error
    known = trainer.stage.folder.read_status().get("checkpoints", {})
    if str(number) not in known:
        trainer._save_checkpoint(trainer.model, trial=None)
    hint = f"{error.hint}; " if error.hint else ""
    kind = RunError if isinstance(error, RunError) else type(error)
    return kind(f"step {number}: {error.message}", f"{hint}checkpoint-{number} is written, --resume goes on from it")
