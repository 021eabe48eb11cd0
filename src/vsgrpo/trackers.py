"""Experiment trackers that get tables with frames: Weights & Biases, trackio and TensorBoard.

Training sends its numbers through the callbacks of transformers; this module adds what those do not have: tables of
text, numbers and pictures, pages, and where local files go.
"""

from __future__ import annotations

import html
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vsgrpo.errors import ConfigError

WITH_TABLES = ("wandb", "trackio", "tensorboard")
"""Trackers that get tables and pages; the others that transformers knows get numbers."""
PROJECT = "vsgrpo"
"""Project of runs where WANDB_PROJECT names none."""
MODULES = {"azure_ml": "azureml", "flyte": "flytekit"}
"""Modules of trackers that are not called as the tracker is."""
PACKAGES = {"azure_ml": "azureml-core", "comet_ml": "comet-ml", "flyte": "flytekit"}
"""Packages of trackers that are not called as the tracker is."""
SHEET_FRAMES, SHEET_HEIGHT = 8, 96
"""Most frames of a contact sheet, and its height in pixels."""
_STAGED: set[str] = set()
"""Values of WANDB_DATA_DIR that this process has set itself, for earlier runs."""
Cell = str | float | int | None | NDArray[np.uint8]
"""A value of a table; an array (H, W, 3) is a picture."""


@dataclass(frozen=True)
class Table:
    """A table for a tracker.

    Attributes:
        name: key it is sent under.
        columns: names.
        rows: one cell for each column.
    """

    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def check_installed(names: Sequence[str], key: str) -> None:
    """Raise ConfigError for a tracker whose package is not installed."""
    for name in names:
        if (package := missing_package(name)) is not None:
            hint = f"pip install {package}, or leave {name} out of {key}"
            raise ConfigError(f"{key}={name}: the package {package} is not installed", hint)


def missing_package(name: str) -> str | None:
    """Return the package that a tracker needs and that is not installed, None where there is nothing to install."""
    if name == "kubeflow" or find_spec(MODULES.get(name, name)) is not None:  # kubeflow: a server's address is all
        return None
    return PACKAGES.get(name, name)


def local_folder(name: str, run_dir: Path) -> Path:
    """Return where a tracker keeps its local files: as its own variable says, else inside the run folder.

    W&B makes a folder `wandb` in what it is given. trackio keeps one database for all projects (TRACKIO_DIR).
    """
    if name == "wandb":
        return Path(os.environ.get("WANDB_DIR") or run_dir)
    return Path(os.environ.get("TENSORBOARD_LOGGING_DIR") or run_dir / "tensorboard").expanduser()


def start_wandb(run_dir: Path, name: str, **given: Any) -> Any:
    """Start a W&B run in the project of WANDB_PROJECT, else `PROJECT`; local files go to WANDB_DIR, else to the run.

    W&B stages the pictures of tables in the home directory unless WANDB_DATA_DIR says otherwise. They are put beside
    the run's files, so that a folder of an offline run has all that `wandb sync` needs.
    """
    import wandb

    folder = local_folder("wandb", run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if os.environ.get("WANDB_DATA_DIR") in (None, *_STAGED):
        os.environ["WANDB_DATA_DIR"] = str(folder / "wandb")
        _STAGED.add(str(folder / "wandb"))
    return wandb.init(project=os.environ.get("WANDB_PROJECT", PROJECT), name=name, dir=str(folder), **given)


def contact_sheet(frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8] | None:
    """Return up to `SHEET_FRAMES` frames (H, W, 3) side by side as one picture, None without frames.

    Of more frames, evenly spread ones are taken, first and last among them.
    """
    if not frames:
        return None
    from PIL import Image

    count = min(len(frames), SHEET_FRAMES)
    places = np.linspace(0, len(frames) - 1, count).round().astype(int)
    small = []
    for place in places:
        image = Image.fromarray(np.ascontiguousarray(frames[place]))
        width = max(1, round(image.width * SHEET_HEIGHT / image.height))
        small.append(np.asarray(image.resize((width, SHEET_HEIGHT))))
    return np.concatenate(small, axis=1)


def send_table(tracker: str, table: Table, step: int, writer: Any = None) -> None:
    """Send a table to a tracker whose run is open.

    Args:
        step: optimizer steps done.
        writer: of TensorBoard, a SummaryWriter.
    """
    if tracker == "wandb":
        import wandb

        rows = _with_pictures(table, wandb.Image)
        wandb.log({table.name: wandb.Table(columns=list(table.columns), data=rows), "train/global_step": step})
    elif tracker == "trackio":
        import trackio

        rows: list[Any] = [dict(zip(table.columns, row, strict=True)) for row in _with_pictures(table, trackio.Image)]
        trackio.log({table.name: trackio.Table(data=rows), "train/global_step": step})
    elif tracker == "tensorboard":
        _to_tensorboard(writer, table, step)


def send_evaluation(
    tracker: str,
    run_dir: Path,
    name: str,
    settings: Mapping[str, Any],
    values: Mapping[str, float],
    tables: Sequence[Table],
    page: Path,
) -> None:
    """Send one evaluation as a run of its own: settings, numbers, tables, and its page where there is one.

    Args:
        run_dir: folder of the evaluation.
        name: of the run.
        page: an HTML file. TensorBoard shows no HTML and gets its place as text.
    """
    if tracker == "wandb":
        import wandb

        with start_wandb(run_dir, name, job_type="eval", config=dict(settings)) as run:
            pages = {"eval/report": wandb.Html(page.read_text(encoding="utf-8"))} if page.is_file() else {}
            made = {t.name: wandb.Table(list(t.columns), _with_pictures(t, wandb.Image)) for t in tables}
            run.log({**values, **made, **pages})
    elif tracker == "trackio":
        import trackio

        trackio.init(project=PROJECT, name=name, config=dict(settings), resume="allow")
        trackio.log(dict(values))
        for table in tables:
            send_table(tracker, table, 0)
        trackio.finish()
    elif tracker == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(local_folder(tracker, run_dir))) as writer:
            for key, value in values.items():
                writer.add_scalar(key, value, 0)
            for table in tables:
                _to_tensorboard(writer, table, 0)
            writer.add_text("eval/report", str(page), 0)


def _with_pictures(table: Table, picture: Callable[[Any], Any]) -> list[Any]:
    """Return the rows with pictures as the tracker takes them; one that several rows share is sent once."""
    arrays = {id(cell): cell for row in table.rows for cell in row if isinstance(cell, np.ndarray)}
    made = {key: picture(array) for key, array in arrays.items()}
    return [[made.get(id(cell), cell) for cell in row] for row in table.rows]


def _to_tensorboard(writer: Any, table: Table, step: int) -> None:
    """Write a table as Markdown text, and its pictures beside it under NAME/picture_N."""
    numbers = itertools.count()

    def add(pixels: NDArray[np.uint8]) -> str:
        name = f"{table.name}/picture_{next(numbers)}"
        writer.add_image(name, pixels, step, dataformats="HWC")
        return name

    rows = [[_markdown(cell) for cell in row] for row in _with_pictures(table, add)]
    head = [list(table.columns), ["---"] * len(table.columns)]
    writer.add_text(table.name, "\n".join(f"| {' | '.join(row)} |" for row in head + rows), step)
    writer.flush()


def _markdown(cell: Any) -> str:
    return "" if cell is None else html.escape(str(cell)).replace("|", "\\|").replace("\n", "<br>")
