"""Scores on dev.jsonl during training: greedy answers at every checkpoint; the best checkpoint is kept.

The score is the mean of the accuracy reward with VSI-Bench's MRA for numbers: the benchmark's own measure, on rooms
that are not trained on. It decides nothing about training itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback, TrainerState
from trl.models.utils import unwrap_model_for_generation

from vsgrpo.config import GrpoSection, TrainConfig
from vsgrpo.data.leakage import Links, TrainingManifest, name_some, read_checked_rows, rooms_of
from vsgrpo.data.room_ids import room_label
from vsgrpo.data.row import Row
from vsgrpo.data.rows import read_rows
from vsgrpo.errors import DataError
from vsgrpo.modeling.bundle import vision_token_ids
from vsgrpo.modeling.rollout import rollout
from vsgrpo.modeling.sampling import Sampling
from vsgrpo.modeling.vision import FeatureStore
from vsgrpo.rewards import accuracy_reward
from vsgrpo.training.base import StageTrainer
from vsgrpo.training.callbacks import append_line
from vsgrpo.training.samples import SampleMaker, compute_features, rows_to_dataset
from vsgrpo.video.loader import VideoLoader

BATCH = 32
"""Questions answered together; rows of one video stand side by side in a row file."""
MAX_NEW_TOKENS = {"vanilla": 16, "think": 512, "observe": 512}
"""Where the method has no length of its own."""


def dev_dataset(config: TrainConfig) -> Dataset | None:
    """Return trainer.dev_rows rows of dev.jsonl, evenly spread over it; None where none are wanted.

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
    prompt = config.prompt
    return rows_to_dataset(
        spread(rows, config.trainer.dev_rows),
        base,
        mode=prompt.mode,
        wording=prompt.wording,
        show_options=prompt.show_options,
        system=prompt.system,
    )


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
    return f"{len(known)} of {len(rooms)} rooms of dev.jsonl are trained on ({name_some(known)}): its scores say little"


def spread(rows: Sequence[Row], count: int) -> list[Row]:
    """Return `count` rows at even distances, all of them where there are no more."""
    if len(rows) <= count:
        return list(rows)
    return [rows[i * len(rows) // count] for i in range(count)]


class DevScore(TrainerCallback):
    """Answers the dev rows after each checkpoint and enters score and best checkpoint into run.json and log.jsonl.

    Args:
        rows: `dev_dataset`.
        config: of the run.
        loader: of the videos.
    """

    trainer: StageTrainer
    """Set once it is built; callbacks are made before."""

    def __init__(self, rows: Dataset, config: TrainConfig, loader: VideoLoader) -> None:
        self._rows = rows
        self._config = config
        self._loader = loader

    def on_save(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Score the weights just saved; every process takes its part of the rows."""
        trainer = self.trainer
        score = self.score()
        if trainer.is_world_process_zero():
            number = trainer.run_step
            best = trainer.stage.folder.note_score(number, score)
            record = {"schema_version": 1, "step": number, "stage": trainer.stage.number, "dev_score": score}
            append_line(trainer.stage.folder.path / "log.jsonl", {**record, "best_dev_score": best})

    def score(self) -> float:
        """Return the mean score of all dev rows whose video can be read; 0 where none can."""
        trainer = self.trainer
        accelerator = trainer.accelerator
        mine = [self._rows[i] for i in range(accelerator.process_index, len(self._rows), accelerator.num_processes)]
        training = trainer.model.training
        total, count = 0.0, 0
        with (
            torch.no_grad(),
            unwrap_model_for_generation(trainer.model_wrapped, accelerator) as model,
            accelerator.autocast(),
        ):
            for start in range(0, len(mine), BATCH):
                scores = self._scores(model, mine[start : start + BATCH])
                total, count = total + sum(scores), count + len(scores)
        trainer.model.train(training)
        sums: Any = accelerator.reduce(torch.tensor([total, float(count)], device=accelerator.device), reduction="sum")
        total, count = sums.tolist()
        return round(total / max(count, 1.0), 6)

    def _scores(self, model: Any, rows: Sequence[dict[str, Any]]) -> list[float]:
        bundle, timer = self.trainer.bundle, self.trainer.timer
        maker = SampleMaker(bundle, self._loader, timer)
        samples = maker.make(rows, [0] * len(rows))
        kept = [(row, sample) for row, sample in zip(rows, samples, strict=True) if sample.media is not None]
        if not kept:
            return []
        samples = [sample for _, sample in kept]
        # A store of its own: features of dev videos would crowd the run's cache, and a trained tower's change.
        features = compute_features(samples, FeatureStore(bundle), timer)
        layout = self.trainer._layout  # type: ignore[attr-defined]
        completions = rollout(
            model,
            [sample.prompt for sample in samples],
            features,
            [(sample.row_key, 0) for sample in samples],
            self._sampling(),
            layout=layout,
        )
        texts = bundle.tokenizer.batch_decode(completions, skip_special_tokens=True)
        columns = {
            name: [row[name] for row, _ in kept] for name in ("answer", "answer_kind", "ground_truth", "prompt_mode")
        }
        return accuracy_reward(
            completions=texts, numeric="mra", show_options=self._config.prompt.show_options, **columns
        )

    def _sampling(self) -> Sampling:
        config, tokenizer = self._config, self.trainer.bundle.tokenizer
        section = config.trainer
        own = section.max_completion_length if isinstance(section, GrpoSection) else None
        ends = {tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.eos_token_id}
        return Sampling(
            seed=config.run.seed,
            step=0,
            max_new_tokens=own or MAX_NEW_TOKENS[config.prompt.mode],
            eos_ids=tuple(sorted(ends)),
            suppress=vision_token_ids(self.trainer.bundle.model),
            greedy=True,
        )
