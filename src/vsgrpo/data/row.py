"""The record of the row schema v1: one question of one video or of images, as row files and trainers hold it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from hashlib import blake2b
from pathlib import Path
from typing import Any

from vsgrpo.errors import DataError
from vsgrpo.paths import inside

SCHEMA_VERSION = 1
ANSWER_KINDS = ("number", "choice", "text")
MEDIA_KINDS = ("video", "image")
LETTERS = "ABCD"


@dataclass(frozen=True, slots=True)
class Row:
    """One question; field by field the row schema of design.md section 3.

    Attributes:
        schema_version: always `SCHEMA_VERSION`.
        id: stable within a dataset (`row_id`); sampling is keyed by `key`, that is dataset/id.
        room: grouping key for splits and leak checks ("scene0000" of "scene0000_00").
        question_type: a VSI-Bench name.
        options: the 2-4 candidates of a choice question without "A. " prefix, in shown order; None otherwise.
        ground_truth: option letter (choice), or number text.
        answer: what the model is trained to say: word or number text.
        answer_kind: number | choice | text.
        unit: "m", "m2", "cm" or None.
        media: {"kind": "video" | "image", "path": relative to the row file}.
        rejected: a wrong answer for DPO, or None.
        reasoning: text to be thought before the answer (think and observe SFT), or None.
        objects: {"category", "instance_id"} of the objects asked about.
        generator: what made the row (version, mode, distance, size_box).
        extra: anything else.
    """

    schema_version: int
    id: str
    dataset: str
    split: str
    scene_name: str
    room: str
    question_type: str
    question: str
    options: tuple[str, ...] | None
    ground_truth: str
    answer: str
    answer_kind: str
    unit: str | None
    media: tuple[dict[str, str], ...]
    rejected: str | None
    reasoning: str | None
    objects: tuple[dict[str, Any], ...]
    generator: dict[str, Any]
    extra: dict[str, Any]

    @property
    def key(self) -> str:
        """The name that sampling noise and predictions are keyed by: dataset/id."""
        return f"{self.dataset}/{self.id}"

    def media_paths(self, base: Path) -> tuple[tuple[str, Path], ...]:
        """Return (kind, path) of each video and image, in the order they are shown; `base` holds the row file.

        Raises:
            DataError: a path that leads out of `base` by a link.
        """
        return tuple((item["kind"], media_place(base, item["path"])) for item in self.media)

    def video_path(self, base: Path) -> Path:
        """Return the first video of the row; `base` is the folder that holds the row file."""
        for item in self.media:
            if item["kind"] == "video":
                return media_place(base, item["path"])
        raise DataError(
            f"row {self.key}: media={list(self.media)!r}: no video", "give the row a media entry of kind video"
        )


FIELD_NAMES = tuple(field.name for field in fields(Row))


def row_to_dict(row: Row) -> dict[str, Any]:
    """Return the JSON object of a row, fields in schema order."""
    data = {name: getattr(row, name) for name in FIELD_NAMES}
    for name in ("options", "media", "objects"):
        data[name] = None if data[name] is None else list(data[name])
    return data


def media_place(base: Path, path: str) -> Path:
    """Return where a media path of a row leads; `base` holds the row file.

    Raises:
        DataError: a path that leads out of `base` by a link.
    """
    # `..` is in no row file (`check_row`): only rows that `mix.rebase` moved from one folder to another have it. It has
    # looked where their links lead.
    return Path(base) / path if path.startswith("../") else inside(base, path)


def row_id(dataset: str, scene_name: str, question_type: str, question: str) -> str:
    """Return the stable 16-digit id of a question: blake2b of its dataset, scene, type and text."""
    text = "\x1f".join((dataset, scene_name, question_type, question))
    return blake2b(
        text.encode(errors="surrogatepass"), digest_size=8
    ).hexdigest()  # `check_row` refuses the text itself
