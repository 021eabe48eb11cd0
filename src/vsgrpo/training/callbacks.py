"""Callbacks that act on a run: scores on dev.jsonl after each checkpoint, stopping on a signal."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState
from trl.models.utils import unwrap_model_for_generation

from vsgrpo.config.train import TrainConfig
from vsgrpo.config.trainer import GrpoSection
from vsgrpo.data.frame_true import rows_of_run
from vsgrpo.data.leak_guard import Links, name_some, read_checked_rows
from vsgrpo.data.manifest import TrainingManifest, rooms_of
from vsgrpo.data.room_ids import room_label
from vsgrpo.data.row import Row
from vsgrpo.data.rows import read_rows
from vsgrpo.errors import DataError
from vsgrpo.modeling.bundle import vision_token_ids
from vsgrpo.modeling.rollout import rollout
from vsgrpo.modeling.sampling import Sampling
from vsgrpo.modeling.vision import FeatureStore
from vsgrpo.rewards import accuracy_reward
from vsgrpo.terminal import counted
from vsgrpo.training.base import StageTrainer
from vsgrpo.training.distributed import largest, unsharded
from vsgrpo.training.launcher import OVERDUE, STOP_SIGNALS, SUPERVISED, LostProcess, own_rank
from vsgrpo.training.progress import append_records
from vsgrpo.training.rows import rows_to_dataset
from vsgrpo.training.samples import END_OF_TURN, SampleMaker, compute_features

DEV_BATCH = 32
"""Questions answered together; rows of one video are neighbours in a row file."""
MAX_NEW_TOKENS = {"vanilla": 16, "think": 512, "observe": 512}
"""Longest dev answer by prompt mode, for methods without trainer.max_completion_length."""
SCORE_COLUMNS = ("answer", "answer_kind", "ground_truth", "prompt_mode", "question_type")
PATIENCE_S = 3.0
LAST_S = 10.0
"""Seconds in which a process whose time is up has to come back to Python."""
STOPPING = "{}: finishing the step, then saving a checkpoint; once more (Ctrl-C) stops now and saves nothing"


class DevScore(TrainerCallback):
    """Answers the dev rows after each checkpoint and enters score and best checkpoint into run.json and log.jsonl.

    Args:
        trainer: whose weights are scored.
        rows: `rows.dev_dataset`.
        config: of the run.
    """

    def __init__(self, trainer: StageTrainer, rows: Dataset, config: TrainConfig) -> None:
        self.trainer = trainer
        self._rows = rows
        self._show_options = config.prompt.show_options
        section, tokenizer = config.trainer, trainer.bundle.tokenizer
        own = section.max_completion_length if isinstance(section, GrpoSection) else None
        self._sampling = Sampling(
            seed=config.run.seed,
            step=0,
            max_new_tokens=own or MAX_NEW_TOKENS[config.prompt.mode],
            eos_ids=tuple(sorted({tokenizer.convert_tokens_to_ids(END_OF_TURN), tokenizer.eos_token_id})),
            suppress=vision_token_ids(trainer.bundle.model),
            greedy=True,
        )

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Score the checkpoint that a run goes on from, where the run ended before that."""
        self.score_missed(self.trainer.run_step if state.global_step else None)

    def on_save(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Score the weights just saved; every process takes its part of the rows."""
        self._note(self.trainer.run_step)

    def score_missed(self, number: int | None) -> None:
        """Score the weights as they are under the number of their checkpoint, if it has no score yet."""
        status = self.trainer.stage.folder.read_status()
        missed = str(number) in status.get("checkpoints", {}) and str(number) not in status.get("dev_scores", {})
        if number is not None and largest(int(missed), self.trainer.args.device):
            self._note(number)

    def _note(self, number: int) -> None:
        trainer = self.trainer
        score = self.score()
        if trainer.is_world_process_zero():
            best = trainer.stage.folder.note_score(number, score)
            record = {"schema_version": 1, "step": number, "stage": trainer.stage.number, "dev_score": score}
            append_records(trainer.stage.folder.path / "log.jsonl", [{**record, "best_dev_score": best}])

    def score(self) -> float:
        """Return the mean score of all dev rows whose video can be read; 0 where none can."""
        trainer = self.trainer
        accelerator = trainer.accelerator
        mine = [self._rows[i] for i in range(accelerator.process_index, len(self._rows), accelerator.num_processes)]
        training = trainer.model.training
        total, count = 0.0, 0
        with (
            torch.no_grad(),
            unsharded(trainer.model_wrapped),
            unwrap_model_for_generation(trainer.model_wrapped, accelerator) as model,
            accelerator.autocast(),
        ):
            for start in range(0, len(mine), DEV_BATCH):
                scores = self._scores(model, mine[start : start + DEV_BATCH])
                total, count = total + sum(scores), count + len(scores)
        trainer.model.train(training)
        sums: Any = accelerator.reduce(torch.tensor([total, float(count)], device=accelerator.device), reduction="sum")
        total, count = sums.tolist()
        return round(total / max(count, 1.0), 6)

    def _scores(self, model: Any, rows: Sequence[dict[str, Any]]) -> list[float]:
        bundle, timer = self.trainer.bundle, self.trainer.timer
        samples = SampleMaker(bundle, self.trainer.loader, timer).make(rows, [0] * len(rows))
        rows = [row for row, sample in zip(rows, samples, strict=True) if sample.media is not None]
        samples = [sample for sample in samples if sample.media is not None]
        if not samples:
            return []
        # A store of its own: features of dev videos would crowd the run's cache, and a trained tower's change.
        features = compute_features(samples, FeatureStore(bundle), timer)
        prompts, keys = [sample.prompt for sample in samples], [(sample.row_key, 0) for sample in samples]
        with timer.phase("generate"):
            completions = rollout(model, prompts, features, keys, self._sampling, layout=self.trainer._layout)
        texts = bundle.answers(completions)
        columns = {name: [row[name] for row in rows] for name in SCORE_COLUMNS}
        return accuracy_reward(completions=texts, numeric="mra", show_options=self._show_options, **columns)


@dataclass(eq=False)
class StopOnSignal(TrainerCallback):
    """SIGTERM, SIGINT or SIGUSR1: finish the rollout buffer, save a checkpoint, stop. Signalled again, end at once.

    Ctrl-C counts as asked again whenever it comes. Other signals may reach a process on several ways (a batch system or
    a system that shuts down signals parent, launcher and workers, which pass it on), and a launcher that is not ours
    passes on the Ctrl-C that a terminal has sent to every process: these count `PATIENCE_S` after the first one. Our
    launcher sends SIGINT to all workers only where the user has asked twice (`supervise`). Where one worker has failed,
    it sends SIGTERM to the others: no step can be finished without that one.

    All processes agree on the step by an all-reduce of the flag: a launcher may signal some of them later. (The
    Trainer's own checkpoint on SIGTERM can fire inside a step and saves a state that trains a batch twice.)

    Args:
        every: optimizer steps of one rollout buffer; a checkpoint inside a buffer cannot be resumed exactly.
        say: shows a line about the signal to the user; called inside the signal handler.
        lost: whether another process of this run has failed.
        save_timeout_s: seconds from the signal to the end; then the process ends as it is. Our launcher's parent counts
            for its workers.

    Attributes:
        received: the signal, None so far.
        stopped: training stopped for it.
    """

    every: int = 1
    say: Callable[[str], None] = lambda text: None
    lost: Callable[[], bool] = lambda: False
    save_timeout_s: float = 1800.0
    received: int | None = None
    stopped: bool = False

    def __post_init__(self) -> None:
        self._timer: threading.Timer | None = None
        self._overdue = False
        self._ended = threading.Event()
        self._supervised = SUPERVISED in os.environ
        self._foreign = "LOCAL_RANK" in os.environ and not self._supervised
        self._previous: dict[int, Any] = {}
        self._since = 0.0

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Take the signals over."""
        self._previous = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Give the signals back."""
        self.restore()

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> TrainerControl:
        """Ask for a checkpoint and the end where any process got a signal."""
        if state.global_step % self.every:
            return control
        number = largest(self.received or 0, args.device)
        if number:
            self.received = number
            self.stopped = state.global_step < state.max_steps
            control.should_save = True
            control.should_training_stop = True
        return control

    def restore(self) -> None:
        """Give the signals back to whoever had them, and stop counting."""
        self._ended.set()
        if self._timer is not None:
            self._timer.cancel()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM and self.lost():
            self.restore()
            raise LostProcess("another process failed")
        now = time.monotonic()
        first = self.received is None
        if first:
            self.received, self._since = number, now
            if not self._supervised:
                self._timer = threading.Timer(self.save_timeout_s, self._give_up)
                self._timer.daemon = True
                self._timer.start()
        at_once = number == signal.SIGINT and not self._foreign
        by_launcher = at_once and self._supervised and own_rank() > 0
        if self._overdue or by_launcher or (not first and (at_once or now - self._since > PATIENCE_S)):
            self.restore()
            raise KeyboardInterrupt(number)
        if first:
            self.say(STOPPING.format(signal.Signals(number).name))

    def _give_up(self) -> None:
        """End at once: by an exception where Python runs, without one where a library does not come back."""
        number = self.received or signal.SIGTERM
        self._overdue = True
        self.say(OVERDUE.format(self.save_timeout_s))
        signal.pthread_kill(threading.main_thread().ident or 0, number)
        if not self._ended.wait(LAST_S):
            os._exit(128 + number)


def dev_dataset(config: TrainConfig) -> Dataset | None:
    """Return trainer.dev_rows rows of dev.jsonl, evenly spread over it; None if that is 0.

    Raises:
        DataError: there is no dev.jsonl, or it is empty.
    """
    if config.trainer.dev_rows == 0:
        return None
    base = Path(config.data.path)
    rows, _ = read_checked_rows(base / "dev.jsonl", allow_val_safe=config.data.allow_val_safe)
    if not rows:
        raise DataError(
            f"{base / 'dev.jsonl'}: no rows to score on",
            hint="build the data with data.dev_fraction above 0, or set trainer.dev_rows=0",
        )
    rows = rows_of_run(config, rows, base / "dev.jsonl")
    return rows_to_dataset(spread(rows, config.trainer.dev_rows), base, config.prompt)


def dev_overlap(config: TrainConfig, manifest: TrainingManifest) -> str | None:
    """Say how many rooms of dev.jsonl the run, or a model it starts from, trains on; None where none are.

    The dev score then is of rooms that the model knows.
    """
    base = Path(config.data.path)
    if config.trainer.dev_rows == 0:
        return None
    links = Links(base)
    rooms = {room for row in read_rows(base / "dev.jsonl") for room in rooms_of(row, *links(row))}
    known = sorted(room_label(*room) for room in rooms & manifest.known_rooms())
    if not known:
        return None
    return (
        f"{len(known)} of {counted(len(rooms), 'room of dev.jsonl is', 'rooms of dev.jsonl are')} trained on "
        f"({name_some(known)}): its scores say little"
    )


def spread(rows: Sequence[Row], count: int) -> list[Row]:
    """Return `count` rows at even distances, all of them where there are no more."""
    if len(rows) <= count:
        return list(rows)
    return [rows[i * len(rows) // count] for i in range(count)]
