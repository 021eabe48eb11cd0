"""The rows that a model was trained on last, found by its run: what the lamps of the trust report look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vsgrpo.data.manifest import TRAINING_MANIFEST_NAME, read_training_manifest
from vsgrpo.data.row import Row
from vsgrpo.data.rows import read_rows
from vsgrpo.errors import DataError
from vsgrpo.families import budget_of
from vsgrpo.families.vision_record import find_vision
from vsgrpo.files import file_sha256, read_yaml

WAY_OUT = "name them: trust.train=DIR"


@dataclass(frozen=True)
class TrainingRows:
    """The rows of the last training of a model.

    Attributes:
        rows: as the row files have them, of the question types trained on; empty where they are not found.
        source: where they are, in words.
        problem: why they are not known, "" where they are.
        drops_untrue: the run left out rows that are not true for its frames.
        frames: that the model was trained with, None where that is not recorded.
    """

    rows: tuple[Row, ...]
    source: str
    problem: str = ""
    drops_untrue: bool = False
    frames: int | None = None


def training_rows(model: str, adapter: str | None, given: str | None) -> TrainingRows:
    """Return the rows that a model was trained on: those given, else those that config.yaml of its run names.

    The latter are taken where training_manifest.json of the model has the very hash of the file.

    Args:
        given: trust.train: a dataset folder or a row file.

    Raises:
        DataError: no rows at `given`, or a broken file.
    """
    record = find_vision(adapter, model)
    frames = None if record is None else budget_of(model, dict(record.budget)).sampled_frames
    if given is not None:
        file = Path(given) / "train.jsonl" if Path(given).is_dir() else Path(given)
        if not file.is_file():
            raise DataError(f"trust.train={given}: no train.jsonl, or no such file", "give a dataset folder")
        return TrainingRows(tuple(read_rows(file)), str(file), frames=frames)
    folder = Path(adapter or model)
    config = folder.resolve().parent / "config.yaml"
    manifest = folder / TRAINING_MANIFEST_NAME
    if not config.is_file() or not manifest.is_file():
        missing = "config.yaml of its run" if manifest.is_file() else TRAINING_MANIFEST_NAME
        return TrainingRows((), "", f"{folder}: no {missing}", frames=frames)
    data = read_yaml(config, "restore the file that the run wrote").get("data") or {}
    try:
        folders = [data["path"], *(item["path"] for item in data.get("mix") or [])]
        files = [Path(name) / f"{data.get('split', 'train')}.jsonl" for name in dict.fromkeys(folders)]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{config}: no run's config ({error})", "restore the file that the run wrote") from None
    known = set(read_training_manifest(folder).hashes.values())
    for file in files:
        if not file.is_file():
            return TrainingRows((), str(file), f"{file}: not there any more", frames=frames)
        if file_sha256(file) not in known:
            return TrainingRows((), str(file), f"{file}: not the file that was trained on", frames=frames)
    return _rows_of(files, data, frames)


def _rows_of(files: list[Path], data: dict[str, Any], frames: int | None) -> TrainingRows:
    rows = [row for file in files for row in read_rows(file)]
    if data.get("types") is not None:
        rows = [row for row in rows if row.question_type in data["types"]]
    if data.get("limit") is not None and len(files) == 1:
        rows = rows[: data["limit"]]
    source = ", ".join(str(file) for file in files)
    return TrainingRows(tuple(rows), source, drops_untrue=data.get("frame_true") == "drop", frames=frames)
