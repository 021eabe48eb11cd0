"""import-data: rows of other projects to a dataset folder of ours, leaks filtered, every row left out counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vsgrpo.data.answer_table import AnswerLine, answer_lines, answer_table
from vsgrpo.data.foreign_rows import Refused, row_from_foreign
from vsgrpo.data.import_folder import new_dataset
from vsgrpo.data.import_settings import ImportSettings
from vsgrpo.data.leakage import row_verdict, scannet_scans, split_dev
from vsgrpo.data.linking import link_or_copy
from vsgrpo.data.manifest import Manifest, file_record, write_manifest
from vsgrpo.data.rows import Row, read_jsonl, write_rows
from vsgrpo.errors import DataError
from vsgrpo.tables import split_of

_LISTS = ("data", "questions", "annotations", "rows")


@dataclass(frozen=True)
class ImportSummary:
    """What an import did: rows read, rows per split and type, rows left out by reason with a first example each."""

    out: Path
    num_read: int
    counts: dict[str, dict[str, int]]
    answers: dict[str, list[AnswerLine]]
    left_out: dict[str, int]
    examples: dict[str, str]
    num_videos: int
    num_missing: int
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return the summary as JSON."""
        return {**asdict(self), "out": str(self.out)}

    def moved(self, out: Path) -> ImportSummary:
        """Return the summary of the dataset under its final name."""
        return replace(self, out=out, notes=[note.replace(str(self.out), str(out)) for note in self.notes])

    def table(self) -> str:
        """Return counts per type, then what was left out and why."""
        first, *others = self.counts
        lines = answer_table(self.answers[first], [line for name in others for line in self.answers[name]], first)
        taken = sum(sum(part.values()) for part in self.counts.values())
        lines.append(f"rows: {self.num_read} read, {taken} taken -> {self.out}")
        lines.append(f"videos: {self.num_videos} of {self.num_videos + self.num_missing} found")
        for reason, number in self.left_out.items():
            lines.append(f"left out: {number} rows: {reason} (first: {self.examples[reason]})")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def import_data(settings: ImportSettings, *, overwrite: bool = False) -> ImportSummary:
    """Read foreign rows and write a dataset folder; an earlier one stays until the new one is complete.

    Raises:
        DataError: a file cannot be read, no row is left, the folder holds something else, or the file is VSI-Bench
            itself and format=vsibench was not given.
    """
    with new_dataset(settings, overwrite) as staged:
        summary = _import(staged)
    return summary.moved(settings.output)


def _import(settings: ImportSettings) -> ImportSummary:
    left_out: Counter[str] = Counter()
    examples: dict[str, str] = {}

    def refuse(reason: str, where: str) -> None:
        left_out[reason] += 1
        examples.setdefault(reason, where)

    is_benchmark = settings.format == "vsibench"
    rows: dict[str, Row] = {}
    origin: dict[str, Path] = {}
    num_read = num_scannet = 0
    for file, where, data in _objects(settings.files):
        num_read += 1
        try:
            row = row_from_foreign(data, settings.dataset, "test" if is_benchmark else "train")
        except Refused as error:
            refuse(error.reason, f"{where}: {error.detail}" if error.detail else where)
            continue
        num_scannet += row.dataset == "scannet"
        reason = None if is_benchmark else _leak(row, settings.allow_val_safe)
        if is_benchmark:
            row = replace(row, id=str(row.extra.get("source_id", row.id)))  # predictions are joined by the official id
        if reason is None and row.key in rows:
            reason = "asked before (same scene and question)"
        if reason is not None:
            refuse(reason, f"{where}: {row.scene_name}")
            continue
        rows[row.key] = row
        origin.setdefault(row.scene_name, file.parent)
    if not is_benchmark and num_scannet and left_out[_LEAK] == num_scannet:
        raise DataError(
            f"{settings.files[0]}: all {num_scannet} ScanNet rows show rooms of VSI-Bench",
            "if this is the benchmark itself: format=vsibench (for `vsgrpo eval` only)",
        )
    kept, num_videos, missing = _take_videos(list(rows.values()), origin, settings)
    for row in (row for row in rows.values() if row.key not in {item.key for item in kept}):
        refuse(f"no video in {settings.videos}", row.scene_name)
    if not kept:
        reasons = "; ".join(f"{number}: {reason}" for reason, number in left_out.items()) or "the file is empty"
        raise DataError(f"{settings.files[0]}: no row can be taken ({reasons})", "see `vsgrpo import-data --help`")
    return _write(settings, kept, num_read, left_out, examples, num_videos, missing)


_LEAK = "its room is in VSI-Bench"


def _leak(row: Row, allow_val_safe: bool) -> str | None:
    if row_verdict(row) == "leak" or _mentions_denied(row):
        return _LEAK
    if not allow_val_safe and any(split_of(scan) == "val" for scan in scannet_scans(row)):
        return "a ScanNet val scan (data.allow_val_safe=true takes those of rooms outside VSI-Bench)"
    return None


def _mentions_denied(row: Row) -> bool:
    """Say whether the original path shows a benchmark room under another scene name."""
    source = row.extra.get("source_video")
    if not isinstance(source, str):
        return False
    return row_verdict(replace(row, media=({"kind": "video", "path": source.lstrip("/") or "x"},))) == "leak"


def _write(
    settings: ImportSettings,
    rows: list[Row],
    num_read: int,
    left_out: Counter[str],
    examples: dict[str, str],
    num_videos: int,
    missing: list[str],
) -> ImportSummary:
    out, notes = settings.output, []
    if settings.format == "vsibench":
        parts = {"test": rows}
    else:
        split = split_dev({row.room for row in rows}, settings.dev_fraction)
        notes += [split.note] if split.note and settings.dev_fraction else []
        parts = {
            "train": [row for row in rows if row.room not in split.dev_rooms],
            "dev": [replace(row, split="dev") for row in rows if row.room in split.dev_rooms],
        }
        if any(row_verdict(row) == "unknown" for row in rows):
            notes.append("some scenes cannot be told from VSI-Bench's (leak verdict: unknown)")
    if missing:
        notes.append(f"put the missing videos where the rows expect them, e.g. {out / missing[0]}")
    for name, part in parts.items():
        write_rows(out / f"{name}.jsonl", part)
    summary = ImportSummary(
        out=out,
        num_read=num_read,
        counts={name: dict(sorted(Counter(row.question_type for row in part).items())) for name, part in parts.items()},
        answers={name: answer_lines(part) for name, part in parts.items()},
        left_out=dict(left_out.most_common()),
        examples=examples,
        num_videos=num_videos,
        num_missing=len(missing),
        notes=notes,
    )
    names = [f"{name}.jsonl" for name in parts]
    names += sorted({path for row in rows if (out / (path := row.media[0]["path"])).is_file()})
    scans = {row.scene_name: {"status": "done", "room": row.room} for row in rows}
    write_manifest(
        out,
        Manifest(
            version=version("vsgrpo"),
            dataset=settings.dataset,
            config={"imported": {"files": [file.name for file in settings.files], "format": settings.format}},
            seed=0,
            scans=dict(sorted(scans.items())),
            rooms={name: sorted({row.room for row in part}) for name, part in parts.items()},
            counts={"questions": summary.counts, "left_out": summary.left_out, "read": num_read},
            files={name: file_record(out / name) for name in names},
            notes=notes,
        ),
    )
    return summary


def _take_videos(
    rows: list[Row], origin: dict[str, Path], settings: ImportSettings
) -> tuple[list[Row], int, list[str]]:
    """Link each scene's video into the folder; return rows to keep, videos found and the paths of missing ones."""
    found: set[str] = set()
    missing: dict[str, None] = {}
    for row in rows:
        path = row.media[0]["path"]
        if path in found or path in missing:
            continue
        source = str(row.extra.get("source_video") or f"{row.scene_name}.mp4").lstrip("/")
        folders = [settings.videos] if settings.videos else [origin[row.scene_name], origin[row.scene_name] / "videos"]
        names = (source, f"{row.scene_name}.mp4", f"{row.dataset}/{row.scene_name}.mp4", Path(source).name)
        places = [folder / name for folder in folders for name in names]
        existing = next((place for place in places if place.is_file()), None)
        if existing is None:
            missing[path] = None
        else:
            link_or_copy(existing, settings.output / path)
            found.add(path)
    kept = [row for row in rows if settings.videos is None or row.media[0]["path"] in found]
    return kept, len(found), list(missing)


def _objects(files: Sequence[Path]) -> Iterator[tuple[Path, str, Any]]:
    """Yield (file, where, object) of all rows of all files."""
    for file in files:
        if not file.is_file():
            raise DataError(f"{file}: no such file", "give .json, .jsonl or .parquet files")
        yield from ((file, where, data) for where, data in _rows_of(file))


def _rows_of(file: Path) -> Iterable[tuple[str, Any]]:
    if file.suffix == ".jsonl":
        return ((f"{file}:{number}", data) for number, data in read_jsonl(file))
    if file.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        try:
            table = pyarrow.parquet.read_table(file)
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise DataError(f"{file}: not a parquet file ({str(error).splitlines()[0]})", "download it again") from None
        return ((f"{file}:row {number}", data) for number, data in enumerate(table.to_pylist(), start=1))
    if file.suffix != ".json":
        raise DataError(f"{file}: neither .json, .jsonl nor .parquet", "rename it if it is one of these")
    try:
        data = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as error:
        raise DataError(f"{file}: not JSON ({error})", "one object a line makes it .jsonl") from None
    if isinstance(data, dict):
        data = next((data[name] for name in _LISTS if isinstance(data.get(name), list)), data)
    if not isinstance(data, list):
        raise DataError(f"{file}: not a list of rows", "one object a line makes it .jsonl")
    return ((f"{file}:row {number}", item) for number, item in enumerate(data, start=1))
