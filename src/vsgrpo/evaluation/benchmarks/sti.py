"""STI-Bench: 2,064 questions with five options about measured space and motion, in videos of desks, rooms and streets.

qa.parquet as downloaded and the videos beside it, in `videos/` or `video/`, or still in video.zip. A question is about
a part of the video, which its text names; all of the video is shown (the authors show 30 frames). The score is the
share of right answers.

Harnesses: `official` (the authors' opensource_test.py, their script for Qwen2.5-VL: options "(A) ..." and its reader)
and `easi` (VLMEvalKit: the prompt of the authors' openai_test.py, which states the frames per second, and its own
reader). Deviation: an empty answer is wrong, the authors' script fails on it.

Source: arXiv 2503.23765; Hugging Face MINT-SJTU/STI-Bench; github.com/MINT-SJTU/STI-Bench commit 43ddebe; VLMEvalKit
commit e8e78f05, vlmeval/dataset/stibench.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from vsgrpo.data.room_ids import room_of
from vsgrpo.data.row import CHOICE_LETTERS, Row
from vsgrpo.errors import DataError
from vsgrpo.evaluation.accuracy import Published
from vsgrpo.evaluation.benchmark import Benchmark
from vsgrpo.evaluation.row_files import Version, question_row, records
from vsgrpo.records import decode_line
from vsgrpo.spatial.vlmevalkit_answers import easi_letter
from vsgrpo.video.place import files_of
from vsgrpo.video.reader import probe

NUM_FRAMES = 30
"""Frames that the authors show."""
KINDS = {
    **dict.fromkeys(("Dimensional Measurement", "Spatial Relation", "3D Video Grounding"), "static"),
    **dict.fromkeys(
        (
            *("Displacement & Path Length", "Speed & Acceleration", "Ego-Centric Orientation"),
            *("Trajectory Description", "Pose Estimation"),
        ),
        "dynamic",
    ),
}
"""Task -> kind of understanding."""
_MARKS = tuple(
    re.compile(mark, re.IGNORECASE | re.MULTILINE)
    for mark in (
        r"\(([A-E])\)",
        r"Ans\s*=\s*['\"]?([A-E])['\"]?",
        r"Answer\s*[:=]\s*([A-E])",
        r"Option\s+([A-E])",
        r"\b([A-E])\s*(?:is|was)\s*correct",
        r"\b([A-E])[.)]\s*$",
    )
)
_HINT = "compare with a row of STI-Bench's qa.parquet"
_TABLE = "arXiv 2503.23765v1, table 2"
_TASKS = (
    *("Dimensional Measurement", "Displacement & Path Length", "Speed & Acceleration", "Spatial Relation"),
    *("Ego-Centric Orientation", "Trajectory Description", "3D Video Grounding", "Pose Estimation"),
)
"""The columns of that table."""


def _published(name: str, overall: float, *tasks: float) -> Published:
    return Published(name, overall / 100, _TABLE, {task: each / 100 for task, each in zip(_TASKS, tasks, strict=True)})


def official_letter(text: str) -> str:
    """Return the letter that the authors' script reads in an answer, "" for none.

    The first kind of mark that is there counts: "(A)", "Ans='A'", "Answer: A", "Option A", "A is correct", "A." or "A)"
    at the end of a line, in capitals or not. Without a mark the last character, if it is a capital A to E.
    """
    for mark in _MARKS:
        if found := mark.search(text):
            return found[1].upper()
    last = text.strip()[-1:]
    return last if last in ("A", "B", "C", "D", "E") else ""


class StiBench(Benchmark):
    """STI-Bench's own prompt and reader of letters; see the module's docstring."""

    title = "STI-Bench"
    suffixes = (".parquet", ".jsonl")
    columns = ("Video", "Task", "Question", "time_start", "time_end", "Candidates", "Answer")
    question_types = tuple(KINDS)
    harnesses = ("official", "easi")
    scorer = "option letter"
    official_frames = NUM_FRAMES
    media_folders = ("videos", "video")
    versions = (Version("qa.parquet", 2064),)
    published = (
        _published("Qwen2.5-VL-72B", 40.8, 34.6, 28.1, 36.1, 45.5, 48.0, 46.2, 35.8, 60.5),
        _published("Gemini-2.5-Pro", 40.5, 32.9, 30.8, 34.0, 53.4, 55.7, 42.9, 36.2, 52.5),
        _published("Claude-3.7-Sonnet", 37.2, 32.5, 25.4, 34.4, 48.3, 26.5, 42.3, 34.7, 57.2),
        _published("Gemini-2.0-Flash", 35.6, 30.8, 25.1, 32.6, 48.0, 20.5, 48.7, 28.1, 59.1),
        _published("InternVL2.5-78B", 29.3, 26.0, 20.7, 27.0, 52.5, 19.7, 28.4, 25.6, 45.1),
        _published("GPT-4o", 28.3, 20.1, 20.6, 26.9, 48.0, 22.2, 35.9, 21.8, 42.8),
        _published("VideoLLaMA3-7B", 27.4, 26.3, 24.3, 24.5, 39.7, 21.1, 24.4, 27.8, 32.5),
        Published("Qwen2.5-VL-72B, VLMEvalKit", 0.421, "EASI docs/Benchmark_Verification.md, commit 0c1a41e"),
    )

    @classmethod
    def read_rows(cls, file: Path) -> Iterator[Row]:
        """Yield the questions of a row file, named by their number in it, from 0; `ID` alone is not unique."""
        for number, (where, data) in enumerate(records(file, cls.columns, cls.title)):
            yield _row(data, where, str(number))

    def official_text(self, row: Row) -> str:
        """Return the part of the video that is asked about, the question, its options, and what to answer with."""
        start, end = row.extra["time_start"], row.extra["time_end"]
        lettered = list(zip(CHOICE_LETTERS, row.options or (), strict=False))
        if self.harness == "easi":
            options = "\n".join(f"{letter} {option}" for letter, option in lettered)
            return (
                f"Answer the question below based on the frames provided, which are sampled at {self._rate(row)}.\n"
                f"Question: From {start} seconds to {end} seconds. {row.question}\n{options}\n"
                "Please output only the option you choose!"
            )
        options = "\n".join(f"({letter}) {option}" for letter, option in lettered)
        return f"From {start} s to {end} s. {row.question}\n{options}\nPlease output only the option letter!"

    def _rate(self, row: Row) -> str:
        """Return the frames per second of `NUM_FRAMES` frames, as VLMEvalKit says it; without a video it cannot."""
        (_, path), *_ = files_of(self.media(row))
        num_frames, fps = _length(path) if path.is_file() else (0, 0.0)
        return f"about {NUM_FRAMES / (num_frames / fps):.2f} FPS" if fps > 0 else "an unspecified frame rate"

    def read_answer(self, row: Row, answer: str) -> str | None:
        """Return the letter that the harness reads."""
        return (easi_letter(answer) if self.harness == "easi" else official_letter(answer)) or None

    def groups(self, row: Row) -> Mapping[str, Sequence[str]]:
        """Return the kind of understanding, and where the video was taken."""
        return {"understanding": (KINDS[row.question_type],), "scene": (scene_kind(row.media[0]["path"]),)}


@cache
def _length(path: Path) -> tuple[int, float]:
    header = probe(path)
    return header.num_frames, header.fps


def scene_kind(name: str) -> str:
    """Return where a video was taken, by its file name as in the authors' script: outdoor, indoor, desktop, unknown."""
    if "camera" in name:
        return "outdoor"
    if name.startswith("scene"):
        return "indoor"
    stem = name.split(".")[0]
    return "desktop" if stem.isdigit() and len(stem) == 6 else "unknown"


def _row(data: dict[str, Any], where: str, name: str) -> Row:
    """Return the row of a record; one of an unknown task is left out later."""
    video, answer = data["Video"], data["Answer"]
    for key in ("Video", "Question", "Task"):
        if not isinstance(data[key], str) or not data[key].strip():
            raise DataError(f"{where}: {key}={data[key]!r}: must be a text", _HINT)
    options = _options(data["Candidates"], where)
    letters = CHOICE_LETTERS[: len(options)]
    if not isinstance(answer, str) or len(answer) != 1 or answer not in letters:
        raise DataError(f"{where}: Answer={answer!r}: must be a letter of {letters}", _HINT)
    for key in ("time_start", "time_end"):
        if isinstance(data[key], bool) or not isinstance(data[key], int | float | str):
            raise DataError(f"{where}: {key}={data[key]!r}: must be a time in seconds", _HINT)
    scene = video.rsplit(".", 1)[0]
    return question_row(
        name,
        data["Question"],
        options[letters.index(answer)],
        [("video", video)],
        dataset="sti",
        question_type=data["Task"],
        options=options,
        ground_truth=answer,
        scene_name=scene,
        room=room_of(scene),
        extra={key: data[key] for key in ("ID", "time_start", "time_end", "Source") if key in data},
    )


def _options(candidates: Any, where: str) -> list[str]:
    """Return the options of {"A": ..., "B": ...}, or of that object as JSON text; letters that hold null are none."""
    if isinstance(candidates, str):
        candidates = decode_line(candidates.encode(), f"{where}: Candidates")
    given = (
        {key: value for key, value in candidates.items() if value is not None} if isinstance(candidates, dict) else {}
    )
    letters = list(CHOICE_LETTERS[: len(given)])
    if len(given) < 2 or sorted(given) != letters:
        rule = 'must be an object of at least two options, {"A": ..., "B": ...}'
        raise DataError(f"{where}: Candidates={candidates!r}: {rule}", _HINT)
    return [str(given[letter]) for letter in letters]
