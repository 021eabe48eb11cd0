"""Reports of a run while it trains: lines on stderr, log.jsonl, completions.jsonl."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute
from transformers import TrainerCallback, TrainerState

from vsgrpo.terminal import note
from vsgrpo.training.launcher import own_rank
from vsgrpo.training.measure import PhaseTimer

if TYPE_CHECKING:
    from vsgrpo.training.run_folder import RunFolder

LOG_SCHEMA_VERSION = 1
_TAIL_BYTES = 1 << 15


@dataclass(frozen=True)
class Stage:
    """One trainer of a run.

    Attributes:
        folder: of the run.
        number: from 0.
        num_stages: of the run.
        steps_before: optimizer steps of all earlier stages.
        name: of the method, for the progress line.
    """

    folder: RunFolder
    number: int
    num_stages: int
    steps_before: int
    name: str


class JsonLog(TrainerCallback):
    """Appends every log of the Trainer to log.jsonl, with the CPU seconds of this process since training began.

    Numbers that JSON cannot say are the strings "NaN", "Infinity".
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._path = stage.folder.path / "log.jsonl"
        self._cpu_start = time.process_time()

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Count CPU seconds of this process from here on."""
        self._cpu_start = time.process_time()

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Ask for the log of the last steps, where trainer.logging_steps would leave them out."""
        control.should_log |= state.global_step >= state.max_steps

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Write one line; `step` counts over all stages."""
        if not state.is_world_process_zero:
            return
        record = {
            "schema_version": LOG_SCHEMA_VERSION,
            "step": self._stage.steps_before + state.global_step,
            "stage": self._stage.number,
            "clock": round(time.time(), 3),
            "cpu_seconds": round(time.process_time() - self._cpu_start, 3),
            **{name: json_number(value) for name, value in (logs or {}).items()},
        }
        append_records(self._path, [record])


def json_number(value: Any) -> Any:
    """Return a value as JSON can say it: numbers that are none as "NaN", "Infinity", "-Infinity"."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def append_records(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Append records as lines of JSON."""
    with path.open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def last_group(path: Path, dataset: Any = None) -> SampleGroup | None:
    """Return the last group in completions.jsonl, None where there is none yet.

    Args:
        dataset: `rows_to_dataset`, to look the question up.
    """
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        cut = max(0, path.stat().st_size - _TAIL_BYTES)
        stream.seek(cut)
        lines = stream.read().splitlines()[1 if cut else 0 :]
    records = []
    for line in reversed(lines):
        try:
            record = json.loads(line)
        except ValueError:
            continue  # it is being written
        if records and (record["step"], record["id"]) != (records[0]["step"], records[0]["id"]):
            break
        records.append(record)
    if not records:
        return None
    counts: dict[str, list[float]] = {}
    for record in records:
        counts.setdefault(record["completion"], []).append(record["reward"] or 0.0)
    answers = [(text, len(found), sum(found) / len(found)) for text, found in counts.items()]
    answers.sort(key=lambda item: (-item[1], item[0]))
    head = records[0]
    return SampleGroup(head["question_type"], _question(dataset, head["id"]), head["answer"], answers)


def _question(dataset: Any, row_key: str) -> str:
    if dataset is None:
        return row_key
    place = pyarrow.compute.index(dataset.data["row_key"], row_key).as_py()
    return row_key if place < 0 else dataset.data["question"][place].as_py()


@dataclass(frozen=True)
class SampleGroup:
    """The completions of one question: (text, how often, mean reward), most frequent first."""

    question_type: str
    question: str
    answer: str
    texts: Sequence[tuple[str, int, float]]


class Progress(TrainerCallback):
    """Prints a line per log with step, main numbers, seconds per step and time left; times the optimizer's step.

    The live view builds on it.

    Args:
        stage: of the run.
        timer: of the trainer's phases.
    """

    def __init__(self, stage: Stage, timer: PhaseTimer) -> None:
        self._stage = stage
        self.timer = timer
        self._since = time.monotonic()
        self._first_step = 0

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Start the clock (a resumed stage does not start at 0)."""
        self._since = time.monotonic()
        self._first_step = state.global_step
        self.timer.take_summary()  # forget what building the trainer took

    def on_pre_optimizer_step(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Start the phase."""
        self.timer.start("optimizer")

    def on_optimizer_step(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Stop the phase."""
        self.timer.stop()

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Print step, main numbers, seconds per step and time left."""
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        seconds = self._pace(state)
        left = round(seconds * (state.max_steps - state.global_step))
        named = {name: logs.get(name) for name in ("loss", "reward", "kl", "entropy")}
        numbers = [f"{name} {value:.4g}" for name, value in named.items() if isinstance(value, int | float)]
        line = f"{self._title()} step {state.global_step}/{state.max_steps}  {'  '.join(numbers)}"
        note(f"{line}  {seconds:.2f} s/step  {left // 60}m{left % 60:02d}s left")

    def say(self, text: str) -> None:
        """Tell the user something from inside a signal handler (where a buffered stream may be in the middle)."""
        if own_rank() == 0:
            os.write(2, f"{text}\n".encode())

    def close(self) -> None:
        """Give the terminal back; may be called twice."""

    def _title(self) -> str:
        stage = f" stage {self._stage.number + 1}/{self._stage.num_stages}" if self._stage.num_stages > 1 else ""
        return self._stage.name + stage

    def _pace(self, state: TrainerState) -> float:
        return (time.monotonic() - self._since) / max(state.global_step - self._first_step, 1)
