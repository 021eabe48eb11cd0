"""check-data: would `train` and `eval` take these rows and videos? Names everything that is wrong, not one thing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vsgrpo.data.answer_table import AnswerLine, answer_lines, answer_table
from vsgrpo.data.manifest import MANIFEST_NAME, changed_files, read_manifest
from vsgrpo.data.row_guard import Judgement, judge_rows, name_some, worst
from vsgrpo.data.rows import Row, read_jsonl, row_from_dict
from vsgrpo.errors import DataError
from vsgrpo.progress import Progress
from vsgrpo.video.image import image_size
from vsgrpo.video.reader import probe

_SHOWN = 20


@dataclass(frozen=True)
class CheckReport:
    """What was found.

    Attributes:
        files: rows per row file.
        answers: per row file, one line per question type.
        verdict: leak verdict over all rows but those of a test file: clean, unknown or leak.
        num_videos: videos that can be read; frames of the shortest and longest.
        num_images: images whose header can be read.
        problems: each names file, line or video and the rule; empty: all is well.
        notes: worth knowing, no fault.
    """

    files: dict[str, int]
    answers: dict[str, list[AnswerLine]]
    verdict: str
    num_videos: int
    num_images: int
    frames: tuple[int, int]
    problems: list[str]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON."""
        return asdict(self)

    def table(self) -> str:
        """Return counts, verdict, problems and notes."""
        lines: list[str] = []
        for name, answers in self.answers.items():
            lines += [f"{name}: {self.files[name]} rows", *answer_table(answers, name=Path(name).stem)[:-1]]
        lines.append(f"videos: {self.num_videos} readable, {self.frames[0]} to {self.frames[1]} frames")
        if self.num_images:
            lines.append(f"images: {self.num_images} readable")
        lines.append(f"leak check: {self.verdict}")
        lines += [f"problem: {problem}" for problem in self.problems[:_SHOWN]]
        if len(self.problems) > _SHOWN:
            lines.append(f"... and {len(self.problems) - _SHOWN} more problems")
        lines += [f"note: {note}" for note in self.notes]
        lines.append("all is well" if not self.problems else f"{len(self.problems)} problem(s)")
        return "\n".join(lines)

    def raise_if_bad(self) -> None:
        """Raise DataError if there is a problem."""
        if self.problems:
            raise DataError(f"{len(self.problems)} problem(s), the first: {self.problems[0]}", "they are listed above")


def check_data(path: Path, limit: int | None = None) -> CheckReport:
    """Check a row file, or the row files of a folder, and the videos they name.

    Args:
        limit: open only so many videos and images (all are looked for).

    Raises:
        DataError: there is no row file.
    """
    files = _row_files(path)
    problems: list[str] = []
    rows = {file: _read(file, problems) for file in files}
    judged = {file: judge_rows(part, file.parent) for file, part in rows.items() if file.stem != "test"}
    problems += _leak_problems(judged)
    problems += _shared_rooms(rows)
    num_videos, num_images, frames, bad = _media(rows, limit)
    problems += bad
    notes = _notes(list(judged.values()))
    folder = files[0].parent
    if (folder / MANIFEST_NAME).is_file():
        manifest = read_manifest(folder)
        names = [name for name in manifest.files if name.endswith(".jsonl")]
        notes += [f"{folder / name} was changed after it was built" for name in changed_files(folder, manifest, names)]
    return CheckReport(
        files={file.name: len(part) for file, part in rows.items()},
        answers={file.name: answer_lines(part) for file, part in rows.items()},
        verdict=worst(found.verdict for found in judged.values()),
        num_videos=num_videos,
        num_images=num_images,
        frames=frames,
        problems=problems,
        notes=notes,
    )


def _row_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = [path / f"{name}.jsonl" for name in ("train", "dev", "test") if (path / f"{name}.jsonl").is_file()]
    if not files:
        hint = "give a row file or a dataset folder with train.jsonl; import-data reads other formats"
        raise DataError(f"{path}: no row file", hint)
    return files


def _read(file: Path, problems: list[str]) -> list[Row]:
    """Return the good rows; every bad one becomes a problem."""
    rows: dict[str, Row] = {}
    try:
        for number, data in read_jsonl(file):
            try:
                row = row_from_dict(data, f"{file}:{number}")
            except DataError as error:
                problems.append(error.message)
                continue
            if row.key in rows:
                problems.append(f"{file}:{number}: id={row.id}: used before in this file")
            rows[row.key] = row
    except DataError as error:  # a line that is no JSON: what follows it cannot be trusted
        problems.append(error.message)
    if not rows and not problems and file.stem != "dev":
        problems.append(f"{file}: holds no rows")
    return list(rows.values())


def _leak_problems(judged: dict[Path, Judgement]) -> list[str]:
    return [
        f"{file}: {len(found.leaks)} rows show rooms of {found.leaks[0][1][0].benchmark} "
        f"({name_some(sorted({row.scene_name for row, _ in found.leaks}))}): `train` refuses them; rooms: "
        f"{name_some(found.leaked_rooms())}"
        for file, found in judged.items()
        if found.leaks
    ]


def _shared_rooms(rows: dict[Path, list[Row]]) -> list[str]:
    rooms = {file: {(row.dataset, row.room) for row in part} for file, part in rows.items()}
    names = list(rooms)
    return [
        f"{first} and {second} share {len(both)} rooms (e.g. {min(both)[1]})"
        for k, first in enumerate(names)
        for second in names[k + 1 :]
        if (both := rooms[first] & rooms[second])
    ]


def _media(rows: dict[Path, list[Row]], limit: int | None) -> tuple[int, int, tuple[int, int], list[str]]:
    """Return readable videos and images, frames of the shortest and longest video, and problems."""
    first = {
        place: row for file, part in reversed(rows.items()) for row in part for place in row.media_paths(file.parent)
    }
    problems = [f"{path}: no such {kind} (row {row.key})" for (kind, path), row in first.items() if not path.is_file()]
    there = [place for place in first if place[1].is_file()][:limit]
    frames, num_images = [], 0
    progress = Progress("videos and images", len(there))
    for kind, path in there:
        try:
            if kind == "image":
                image_size(path)
                num_images += 1
            else:
                frames.append(probe(path, backend="pyav").num_frames)
        except DataError as error:
            problems.append(error.message)
        progress.advance()
    return len(frames), num_images, (min(frames, default=0), max(frames, default=0)), problems


def _notes(judged: Sequence[Judgement]) -> list[str]:
    notes = []
    if val := sum(len(found.val) for found in judged):
        notes.append(f"{val} rows of ScanNet val scans: training on them needs data.allow_val_safe=true")
    unknown: Counter[str] = sum((found.unknown for found in judged), Counter())
    notes += [f"{number} rows of {name}: cannot be told from VSI-Bench's scenes" for name, number in unknown.items()]
    return notes
