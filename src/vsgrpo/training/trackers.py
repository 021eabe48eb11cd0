"""Trackers of `trainer.report_to`: the callbacks of transformers, with tables of completions and frames."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations.integration_utils import (
    TensorBoardCallback,
    WandbCallback,
    get_reporting_integration_callbacks,
)

from vsgrpo.errors import first_line
from vsgrpo.trackers import WITH_TABLES, Table, contact_sheet, local_folder, send_table, start_wandb
from vsgrpo.training.progress import Stage
from vsgrpo.training.run_folder import RunFolder
from vsgrpo.training.samples import Sample

EVENTS = tuple(name for name in vars(TrainerCallback) if name.startswith("on_"))
TABLE_NAME = "completions"
TABLE_COLUMNS = ("step", "id", "prompt", "frames", "answer", "completion", "reward", "advantage")
TABLE_QUESTIONS, TABLE_COMPLETIONS = 4, 8
"""Most questions of a table, and most completions of each."""


class Tracker(TrainerCallback):
    """Passes events on to a tracker (a callback of transformers) until one fails.

    A tracker never stops a run: what it raises becomes one warning, and it is left out from there on; log.jsonl has
    every number anyway. Steps are counted over all stages.

    Args:
        name: as in trainer.report_to.
        make: builds the tracker's callback.
        say: shows a line to the user.
        stage: of the run; the last one closes a W&B run, so that the next run of this process opens its own.
    """

    def __init__(
        self, name: str, make: Callable[[], TrainerCallback], say: Callable[[str], None], stage: Stage | None = None
    ) -> None:
        self._name = name
        self._say = say
        self._steps_before = stage.steps_before if stage else 0
        self._closes = stage is not None and stage.number == stage.num_stages - 1
        self._inner: TrainerCallback | None = None
        try:
            self._inner = make()
        except Exception as error:
            self._give_up(error)
        for event in EVENTS:
            setattr(self, event, self._passing(event))

    def send(self, make: Callable[[], Table], step: int) -> None:
        """Send a table, where the tracker takes any; `make` is called only then."""
        if self._inner is None or self._name not in WITH_TABLES:
            return
        try:
            send_table(self._name, make(), step, getattr(self._inner, "tb_writer", None))
        except Exception as error:
            self._give_up(error)

    def _passing(self, event: str) -> Callable[..., Any]:
        def pass_on(args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            if self._inner is None:
                return None
            if self._steps_before:
                state = copy.copy(state)
                state.global_step += self._steps_before
            try:
                result = getattr(self._inner, event)(args, state, control, **kwargs)
                if event == "on_train_end" and self._name == "wandb" and self._closes:
                    _finish_wandb()
                return result
            except Exception as error:
                self._give_up(error)
                return None

        return pass_on

    def _give_up(self, error: Exception) -> None:
        self._inner = None
        what = f"warning: trainer.report_to={self._name}: {first_line(error)}"
        self._say(f"{what}; training goes on without it (log.jsonl has all)")


class _Wandb(WandbCallback):
    """Opens its run in the project and folder that evaluations use too; a resumed run goes on in the W&B run it had.

    The id is in run.json, which --overwrite replaces. WANDB_RUN_ID goes before it.
    """

    def __init__(self, folder: RunFolder) -> None:
        super().__init__()
        self._folder = folder

    def setup(self, args: Any, state: Any, model: Any, **kwargs: Any) -> None:
        """Start the run unless a stage before has done so; the rest is as in transformers."""
        if state.is_world_process_zero and self._wandb.run is None:
            known = None if os.environ.get("WANDB_RUN_ID") else self._folder.read_status().get("wandb_run")
            again = {"id": known, "resume": "allow"} if known else {}
            run = start_wandb(Path(args.output_dir), args.run_name, **again)
            self._folder.update_status(wandb_run=run.id)
        super().setup(args, state, model, **kwargs)


def _finish_wandb() -> None:
    import wandb

    if wandb.run is not None:
        wandb.finish()


def open_trackers(names: Sequence[str], stage: Stage, say: Callable[[str], None]) -> list[Tracker]:
    """Return the trackers of one stage."""

    def make(name: str) -> TrainerCallback:
        if name == "wandb":
            return _Wandb(stage.folder)
        callback = get_reporting_integration_callbacks([name])[0]()
        if isinstance(callback, TensorBoardCallback):
            callback.logging_dir = str(local_folder(name, stage.folder.path))
        return callback

    return [Tracker(name, lambda name=name: make(name), say, stage) for name in names]


def completion_table(
    step: int, rows: Sequence[Mapping[str, Any]], samples: Sequence[Sample], texts: Sequence[str], advantages: Any
) -> Table:
    """Return the completions of the first questions of a buffer, with the frames that the model was shown.

    Args:
        advantages: one number for each sample.
    """
    lines = []
    numbered = list(zip(rows, samples, texts, advantages, strict=False))
    for _, group in islice(groupby(numbered, key=lambda item: item[1].row_key), TABLE_QUESTIONS):
        sheet = None
        for row, sample, text, advantage in islice(group, TABLE_COMPLETIONS):
            if sheet is None and sample.media:
                frames = [frame for item in sample.media for frame in item.frames.permute(0, 2, 3, 1).numpy()]
                sheet = contact_sheet(frames)
            cells = (step, sample.row_key, row["prompt"], sheet, row["answer"], text, sample.reward, float(advantage))
            lines.append(cells)
    return Table(TABLE_NAME, TABLE_COLUMNS, lines)
