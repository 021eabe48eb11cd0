"""What a format is, and what it is given: one row as it is asked, with the places of its media in the export."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import PurePosixPath
from typing import Any

from vsgrpo.data.frame_true import JUDGED_AT, TRUE_AT
from vsgrpo.data.prompts import option_lines, question_text, target_text, wrong_answer
from vsgrpo.data.row import Row
from vsgrpo.data.rows import checked_line
from vsgrpo.errors import DataError
from vsgrpo.spatial.moments import FRAMES_SHOWN, MOMENT

VIDEO_TOKEN = "<video>"


class LeftOut(Exception):
    """A row that a format cannot say; the reason is counted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Exported:
    """A row to write.

    Attributes:
        row: as it is in its file.
        split: of its file.
        method: sft, grpo or dpo; None for formats of data sets.
        mode, show_options: of the prompt.
        seed: of a wrong answer that the row does not have itself.
        video: place of the video in the export, "" where the format has none.
        frames: places of its frames, in order, where the format is given frames instead.
    """

    row: Row
    split: str
    method: str | None
    mode: str
    show_options: bool
    seed: int
    video: str
    frames: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        """The user turn: one token for the video, the question, the mode's own sentence."""
        return VIDEO_TOKEN + question_text(self.row, self.mode, "train", self.show_options)

    @property
    def target(self) -> str:
        """What the model is trained to say.

        Raises:
            LeftOut: the mode trains on a thought, and the row has none.
        """
        return self._said(None)

    @property
    def rejected(self) -> str:
        """What a preference pair rejects.

        Raises:
            LeftOut: no wrong answer can be told, or it is none of the options shown.
        """
        try:
            wrong = wrong_answer(self.row, self.seed)
        except DataError:
            raise LeftOut("no wrong answer can be told") from None
        return self._said(wrong)

    def _said(self, answer: str | None) -> str:
        try:
            return target_text(self.row, self.mode, self.show_options, answer)
        except DataError:
            is_thought = self.mode != "vanilla" and self.row.reasoning is None
            what = f"no reasoning, which prompt.mode={self.mode} trains on"
            raise LeftOut(what if is_thought else "its wrong answer is none of its options") from None

    @property
    def solution(self) -> str:
        """The bare answer that a reward compares with: the letter where options are shown, else word or number."""
        return target_text(self.row, "vanilla", self.show_options)

    @property
    def options(self) -> list[str] | None:
        """The options as "A. word", None where the row has none."""
        return None if self.row.options is None else option_lines(self.row.options)

    @property
    def columns(self) -> dict[str, Any]:
        """What every format repeats; readers of the formats ignore these, `import-data` reads them back."""
        row = self.row
        return {
            "id": row.id,
            "dataset": row.dataset,
            "scene_name": row.scene_name,
            "room": row.room,
            "question_type": row.question_type,
            "answer_kind": row.answer_kind,
            "unit": row.unit,
            "options": self.options,
            "answer": row.answer,
            "true_at": row.extra.get(TRUE_AT),
            "judged_at": row.extra.get(JUDGED_AT),
            "source_row": row_hash(row),
            **{name: row.extra[name] for name in (MOMENT, FRAMES_SHOWN) if name in row.extra},
        }


def row_hash(row: Row) -> str:
    """Return the sha256 of the row's line in its file, by which an exported row is found again."""
    return sha256(checked_line(row).encode()).hexdigest()


def own_place(row: Row, split: str) -> str:
    """Return the place that a video has in its data set."""
    return row.media[0]["path"]


def one_file(suffix: str) -> Callable[[Row, str], str]:
    """Return the naming of formats with one file of rows."""
    return lambda row, split: f"{split}.{suffix}"


def no_files(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return no further files."""
    return {}


@dataclass(frozen=True)
class ExportFormat:
    """A form of rows that another project reads.

    Attributes:
        write: a row -> the object that is written; LeftOut where the format cannot say it.
        file_of: (row, split) -> name of its file: .jsonl, .json (a list) or .parquet.
        source: the reader that it was held against.
        use: how to point that reader at the files.
        methods: what rows are written for, the usual one first; none for formats of data sets.
        has_prompt: the text is that of a prompt mode; else it is the format's own.
        frame_lists: rows may name frames instead of a video.
        place_of: (row, split) -> place of a video in the export; None: the format names no video.
        more_files: settings as the manifest records them -> name -> value of further JSON files.
    """

    write: Callable[[Exported], dict[str, Any]]
    file_of: Callable[[Row, str], str]
    source: str
    use: str
    methods: tuple[str, ...] = ()
    has_prompt: bool = True
    frame_lists: bool = False
    place_of: Callable[[Row, str], str] | None = own_place
    more_files: Callable[[Mapping[str, Any]], dict[str, Any]] = no_files


def file_name(path: str) -> str:
    """Return the last part of a path of a row."""
    return PurePosixPath(path).name
