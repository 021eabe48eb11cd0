"""The run folder: checkpoints numbered over all stages, `run.json`, `final/`; all of it appears whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import rotate_checkpoints

from vsgrpo.errors import DataError
from vsgrpo.files import publish, write_atomic, write_checksums
from vsgrpo.paths import drop_aside
from vsgrpo.records import RUN_STATUS, read_record
from vsgrpo.training.launcher import own_rank

SCHEMA_VERSION = 1
STATE_NAME = "trainer_state.json"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: `number` = steps of earlier stages + `step`; stages count from 0."""

    path: Path
    number: int
    stage: int
    step: int

    @property
    def max_steps(self) -> int:
        """The last step of the stage, as it was when the checkpoint was written."""
        return TrainerState.load_from_json(str(self.path / STATE_NAME)).max_steps


class RunFolder:
    """RUN_DIR as the training process sees it; only process 0 writes.

    Args:
        describe: writes what every model folder carries (vision.json, training_manifest.json) into a folder.
        keep: how many checkpoints stay; None keeps all.
    """

    def __init__(self, path: Path, describe: Callable[[Path], None], keep: int | None = None) -> None:
        self.path = path
        self.describe = describe
        self._keep = keep

    @property
    def partial(self) -> Path:
        """Where the Trainer writes a checkpoint before it gets its number."""
        return self.path / ".partial"

    def read_status(self) -> dict[str, Any]:
        """Return run.json, empty where there is none yet.

        Raises:
            DataError: it is broken or of another schema.
        """
        path = self.path / "run.json"
        if not path.is_file():
            return {}
        status = read_record(path, RUN_STATUS, "put a copy back, or start anew with --overwrite or another output=DIR")
        if status.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
            raise DataError(
                f"{path}: schema_version={status['schema_version']}: this version reads {SCHEMA_VERSION}",
                "resume with the version that started the run",
            )
        return status

    def update_status(self, **values: Any) -> None:
        """Set keys of run.json, the others stay; only process 0 writes."""
        if own_rank() > 0:
            return
        status = {"schema_version": SCHEMA_VERSION, **self.read_status(), **values}
        write_atomic(self.path / "run.json", json.dumps(status, indent=1) + "\n")

    def publish(self, stage: int, step: int, number: int) -> Path:
        """Give the checkpoint just written its final name, enter it into run.json, drop the oldest ones.

        It has checksums and is on disk before run.json names it. What an --overwrite had set aside goes with the first.
        """
        source = self.partial / f"checkpoint-{step}"
        target = self.path / f"checkpoint-{number}"
        self.describe(source)
        write_checksums(source)
        publish(source, target)
        shutil.rmtree(self.partial)
        status = self.read_status()
        known = {**status.get("checkpoints", {}), str(number): {"stage": stage, "step": step}}
        self.update_status(checkpoints=known)
        best = status.get("best")
        kept = None if best is None else str(self.path / f"checkpoint-{best['checkpoint']}")
        rotate_checkpoints(str(self.path), save_total_limit=self._keep, best_model_checkpoint=kept)
        self.update_status(checkpoints={n: c for n, c in known.items() if (self.path / f"checkpoint-{n}").is_dir()})
        drop_aside(self.path)
        return target

    def note_score(self, number: int, score: float) -> float:
        """Enter the dev score of checkpoint `number` into run.json; return the best one (the earlier of equals)."""
        status = self.read_status()
        scores = {**status.get("dev_scores", {}), str(number): score}
        best = min(scores, key=lambda name: (-scores[name], int(name)))
        self.update_status(dev_scores=scores, best={"checkpoint": int(best), "dev_score": scores[best]})
        return scores[best]

    def checkpoints(self) -> list[Checkpoint]:
        """Return the complete checkpoints, oldest first."""
        found = [
            Checkpoint(self.path / f"checkpoint-{number}", int(number), entry["stage"], entry["step"])
            for number, entry in self.read_status().get("checkpoints", {}).items()
        ]
        complete = [checkpoint for checkpoint in found if (checkpoint.path / STATE_NAME).is_file()]
        return sorted(complete, key=lambda checkpoint: checkpoint.number)

    def latest_checkpoint(self) -> Checkpoint | None:
        """Return the newest complete checkpoint, None where there is none."""
        return next(reversed(self.checkpoints()), None)

    def publish_final(self, save: Callable[[Path], None], writes: bool = True) -> Path:
        """Let `save` write the trained model, then give it the name `final`; every process calls this.

        Args:
            writes: True on the process that renames and describes.
        """
        source, target = self.path / ".final.partial", self.path / "final"
        if writes:
            shutil.rmtree(source, ignore_errors=True)
        save(source)
        if writes:
            self.describe(source)
            publish(source, target)
            drop_aside(self.path)
        return target
