"""import-data: write rows of other projects to a dataset folder, filter leaks, count every row that is left out.

One row is in memory at a time: of a million rows only their ids, rooms and media names are kept.
"""

from __future__ import annotations

import os
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, NoReturn
from zlib import crc32

from vsgrpo.data.importing.answer_values import Refused
from vsgrpo.data.importing.dataset_folder import ImportSettings, MediaFinder, new_dataset, refuse_rooms
from vsgrpo.data.importing.import_summary import FileTally, ImportSummary, all_refused, first_examples
from vsgrpo.data.importing.map_file import MapFile
from vsgrpo.data.importing.own_records import (
    OwnRowFaults,
    completed_row,
    is_ours,
    note_fault,
    own_record,
    own_records,
    record_faults,
)
from vsgrpo.data.importing.record_to_row import ImportedRow, record_to_row
from vsgrpo.data.kept_out import kept_json, kept_line
from vsgrpo.data.leak_guard import Judgement, denied_in_data, denied_in_path, denied_shown, name_some, val_scans
from vsgrpo.data.manifest import MANIFEST_NAME, Manifest, file_record, write_manifest
from vsgrpo.data.room_ids import room_of
from vsgrpo.data.row import Row
from vsgrpo.data.row_scan import Fault, RowScan, scan_rows
from vsgrpo.data.rows import check_scorable, checked_line, falls_into_dev, iter_rows, row_id, split_dev
from vsgrpo.errors import DataError
from vsgrpo.records import read_records
from vsgrpo.spatial.question_types import QUESTION_TYPES
from vsgrpo.terminal import counted

_AGAIN = "asked before (same scene and question)"
_VAL = "a val scan (data.allow_val_safe=true takes those of rooms outside VSI-Bench)"


def import_data(settings: ImportSettings, *, overwrite: bool = False) -> ImportSummary:
    """Read records of other projects and write a dataset folder; an earlier one stays until the new one is complete.

    Raises:
        DataError: a file cannot be read, no row is left, the folder holds something else, or the file is VSI-Bench
            itself and format=vsibench was not given.
    """
    try:
        with new_dataset(settings, overwrite) as staged:
            work = _Import(staged, settings.output)
            work.read()
            return work.finish()
    except OSError as error:
        error.filename = error.filename or str(settings.output)  # a full disk names no file
        raise


class _Import:
    """The work of one import: what has been read, taken and left out so far.

    Args:
        settings: with the folder to write to as output.
        out: the name that this folder will have.
    """

    def __init__(self, settings: ImportSettings, out: Path) -> None:
        self.settings, self.out = settings, out
        self.is_benchmark = settings.format == "vsibench"
        names = ("test",) if self.is_benchmark else ("train", "dev")
        self.parts = {name: settings.output / f"{name}.jsonl" for name in names}
        self.tallies = {file: FileTally(file) for file in settings.files}
        self.scenes: dict[str, str] = {}
        self.denied: set[str] = set()
        self._of_file = {file: denied_in_path(file) for file in settings.files}
        self._maps = None if settings.maps is None else MapFile(settings.maps)
        self._asked: dict[int, int] = {}
        keeps, guards = not settings.is_own, not self.is_benchmark
        self._videos = MediaFinder(settings.videos, "videos", keeps, guards)
        self._images = MediaFinder(settings.images, "images", keeps, guards)
        self.faults: dict[Path, dict[str, Fault]] = {file: {} for file in settings.files}

    def read(self) -> None:
        """Read all files and write the rows that can be taken.

        Raises:
            DataError: a file cannot be read, or no row can be taken.
        """
        with ExitStack() as stack:
            streams = {name: stack.enter_context(_writer(path)) for name, path in self.parts.items()}
            for file in self.settings.files:
                for where, data in own_records(file) if self.settings.is_own else read_records(file, nan="null"):
                    tally = self.tallies[file]
                    tally.read += 1
                    errors = self._refusals(file, data, streams)
                    tally.taken += not errors
                    for error in errors:
                        self.denied.update(error.rooms)
                        tally.refuse(error.reason, where, error.detail)
                        note_fault(self.faults[file], error, where)
        self._asked.clear()
        tallies = self.tallies.values()
        if self.settings.is_own and any(tally.refused for tally in tallies):
            raise OwnRowFaults(sum(tally.read for tally in tallies), self.faults, sorted(self.denied))
        if not self.scenes:
            self._refuse_all()

    def _refusals(self, file: Path, data: Any, streams: dict[str, IO[str]]) -> list[Refused]:
        """Take a row and return nothing, or all that keeps it from being taken: of the user's own, each fault."""
        if self.settings.is_own and (faults := record_faults(data, self._split(file))):
            return faults
        try:
            self._take(file, data, streams)
        except Refused as error:
            return [error]
        except DataError as error:
            return [Refused("breaks the row schema", error.message)]
        return []

    def _split(self, file: Path) -> str:
        """Return the split that rows of a file begin with."""
        splits = self.settings.splits
        return "test" if self.is_benchmark else splits[self.settings.files.index(file)] if splits else "train"

    def _refuse_all(self) -> NoReturn:
        """Raise DataError: no row can be taken, for these reasons."""
        what, hint = f"{self.settings.files[0]}: no row can be taken", "see `vsgrpo import-data --help`"
        tallies = list(self.tallies.values())
        refused, examples, num_read = all_refused(tallies), first_examples(tallies), sum(t.read for t in tallies)
        if not self.denied:
            reasons = "; ".join(f"{number}: {reason}, first {examples[reason]}" for reason, number in refused.items())
            raise DataError(f"{what} ({reasons or 'the file is empty'})", hint)
        rooms = sorted(self.denied)
        reasons = "; ".join(f"{number} of {counted(num_read, 'row')}: {text}" for text, number in refused.items())
        hint = "if this is the benchmark itself: format=vsibench (for `vsgrpo eval` only)"
        raise DataError(f"{what} ({reasons}); {counted(len(rooms), 'room')}: {name_some(rooms)}", hint)

    def _take(self, file: Path, data: Any, streams: dict[str, IO[str]]) -> None:
        if not self.is_benchmark:  # before parsing drops the column that names the room
            refuse_rooms(denied_in_data(data))
            refuse_rooms(self._of_file[file])
        imported = self._read(file, data)
        row = imported.row
        if not self.is_benchmark:
            refuse_rooms(denied_shown(row))  # scene and data set together may name what no column names alone
            if not self.settings.allow_val_safe and val_scans(row):
                raise Refused(_VAL, row.scene_name)
        row = self._with_media(file, imported)
        if self.is_benchmark:
            row = replace(row, id=imported.id or row.id)  # predictions are joined by the official id
        elif not self.settings.splits and falls_into_dev(row.room, self.settings.dev_fraction):
            row = replace(row, split="dev")
        key, said = hash(row.key), crc32(row.ground_truth.encode(errors="replace"))
        if key in self._asked:
            same = self._asked[key] == said
            raise Refused(_AGAIN if same else f"{_AGAIN}, with another answer", row.scene_name)
        if self.is_benchmark:
            check_scorable(row, "row")
        streams[row.split].write(checked_line(row))
        self._asked[key] = said
        self.scenes[row.scene_name] = row.room

    def _read(self, file: Path, data: Any) -> ImportedRow:
        """Return the row of a record; one of the user's own that is of our schema stays as it is."""
        split = self._split(file)
        if not (self.settings.is_own and is_ours(data)):
            imported = record_to_row(data, self.settings.dataset, split)
            return imported if self._maps is None else self._maps.join(imported)
        row = completed_row(data, split)
        return ImportedRow(row, None, tuple(item["path"] for item in row.media), True)

    def _with_media(self, file: Path, imported: ImportedRow) -> Row:
        """Return the row with the places of its media in the dataset folder."""
        row, beside = imported.row, file.parent
        if self.settings.is_own and imported.id is None and imported.sources == tuple(i["path"] for i in row.media):
            finders = {"video": self._videos, "image": self._images}
            found = [(item, finders[item["kind"]], item["path"]) for item in row.media]
            media = tuple({**item, "path": f.place(path, path, beside, f"{beside}\0{path}")} for item, f, path in found)
            return replace(row, media=media)
        if row.media[0]["kind"] == "image":
            base = beside if self.settings.images is None else ""
            media = tuple(
                {**item, "path": self._images.place(item["path"], source, beside, f"{base}\0{source}")}
                for item, source in zip(row.media, imported.sources, strict=True)
            )
            return replace(row, media=media)
        (item,), (source,) = row.media, imported.sources
        suffix = f".{item['path'].rpartition('.')[2]}"
        names = (f"{row.scene_name}{suffix}", f"{row.dataset}/{row.scene_name}{suffix}")
        parts = (source or names[0]).replace("\\", "/").split("/")
        if imported.is_named:
            identity = f"{row.dataset}\0{row.scene_name}\0{parts[-1].removesuffix(suffix)}"
        else:
            base = beside if self.settings.videos is None else ""
            identity = f"{row.dataset}\0{base}\0{'/'.join(part for part in parts if part not in ('', '.', '..'))}"
        place = self._videos.place(item["path"], source, beside, identity, names)
        if place == item["path"]:
            return row
        # Another video of that name came first: this one has a name of its own, and its scene too if it has no other.
        scene = row.scene_name if imported.is_named else PurePosixPath(place).stem
        name = row_id(row.dataset, scene, row.question_type, f"{row.question}\x1f{place}")
        return replace(row, id=name, scene_name=scene, room=room_of(scene), media=({**item, "path": place},))

    def finish(self) -> ImportSummary:
        """Read the rows once as train, score and eval do, link the media, write the manifest.

        Raises:
            DataError: a row that cannot be read again.
        """
        settings, out = self.settings, self.settings.output
        notes = [] if self.is_benchmark or settings.splits else self._split_again()
        scans = {name: self._scan(path) for name, path in self.parts.items()}
        notes += self._notes(scans) + kept_line(settings.keep_out)
        finders = (self._videos, self._images)
        for finder in finders:
            finder.link(out)
        summary = ImportSummary(
            out=self.out,
            files=list(self.tallies.values()),
            counts={name: scan.tally.counts() for name, scan in scans.items()},
            answers={name: scan.tally.lines() for name, scan in scans.items()},
            num_videos=len(self._videos.found),
            num_missing=self._videos.num_missing,
            num_images=(len(self._images.found), len(self._images.found) + self._images.num_missing),
            notes=notes,
        )
        names = [f"{name}.jsonl" for name in self.parts]
        names += sorted(place for finder in finders for place in finder.found)
        write_manifest(
            out,
            Manifest(
                dataset=settings.dataset,
                config={"imported": {"files": [file.name for file in settings.files], "format": settings.format}}
                | ({"own_rows": own_record(settings.files)} if settings.is_own else {}),
                seed=0,
                scans={scene: {"status": "done", "room": room} for scene, room in sorted(self.scenes.items())},
                rooms={name: sorted({room for _, room in scan.rooms}) for name, scan in scans.items()},
                counts={
                    "questions": summary.counts,
                    "left_out": summary.left_out,
                    "denied_rooms": sorted(self.denied),
                    "read": summary.num_read,
                    **kept_json(settings.keep_out),
                    "files": {tally.file.name: {"read": tally.read, "taken": tally.taken} for tally in summary.files},
                },
                files={name: file_record(out / name) for name in names},
                notes=notes,
            ),
        )
        return summary

    def _scan(self, path: Path) -> RowScan:
        """Read the rows of a part as train, score, eval and check-data do.

        Raises:
            DataError: a row that cannot be read again, or that may not be trained on.
        """
        check = partial(check_scorable, where="row") if self.is_benchmark else None
        scan = scan_rows(path, check, judge=not self.is_benchmark)
        for fault in scan.faults.values():
            raise DataError(fault.text(path), fault.hint)
        found = scan.judged
        if found.first_leak is not None:
            rooms = f"{name_some(sorted(found.leaked_scenes))}; rooms: {name_some(sorted(found.leaked_rooms))}"
            benchmark = found.first_leak[1].benchmark
            raise DataError(
                f"{path}: {counted(found.num_leaks, 'row shows', 'rows show')} rooms of {benchmark} ({rooms})",
                "remove them",
            )
        if found.num_val and not self.settings.allow_val_safe:
            raise DataError(f"{path}: {counted(found.num_val, 'row')} of val scans, such as {found.first_val}")
        return scan

    def _split_again(self) -> list[str]:
        """Move rows to train where each room's own hash left train empty or was asked of fewer than two rooms."""
        split = split_dev(self.scenes.values(), self.settings.dev_fraction)
        by_hash = {room for room in self.scenes.values() if falls_into_dev(room, self.settings.dev_fraction)}
        if by_hash != split.dev_rooms:
            dev = self.parts["dev"].with_suffix(".old")
            os.replace(self.parts["dev"], dev)
            with _writer(self.parts["dev"]) as stays, self.parts["train"].open("a", encoding="utf-8") as train:
                for row in iter_rows(dev):
                    is_dev = row.room in split.dev_rooms
                    (stays if is_dev else train).write(checked_line(row if is_dev else replace(row, split="train")))
            dev.unlink()
        return [split.note] if split.note else []

    def _notes(self, scans: dict[str, RowScan]) -> list[str]:
        notes = [] if self._maps is None else [self._maps.note()]
        if not self.is_benchmark:
            judged = Judgement()
            for scan in scans.values():
                judged.join(scan.judged)
            if unknown := judged.unknown_text():
                notes.append(f"leak verdict: unknown: {unknown}")
            if self.denied:
                rooms = name_some(sorted(self.denied))
                notes.append(f"rooms of a benchmark, left out: {rooms} (all are in {MANIFEST_NAME})")
            counts = sum((Counter(scan.tally.counts()) for scan in scans.values()), Counter[str]())
            if own := sorted(counts.keys() - QUESTION_TYPES.keys()):
                what = (
                    f"{counted(sum(counts[name] for name in own), 'row is of a type', 'rows are of types')} "
                    f"VSI-Bench has not ({name_some(own)})"
                )
                notes.append(f"{what}: eval them as benchmark=folder")
        missing = self._videos.first_missing or self._images.first_missing
        if missing is not None and (self.settings.videos is None or self.settings.images is None):
            notes.append(f"put the missing files where the rows expect them, e.g. {self.out / missing}")
        return notes


def _writer(path: Path) -> IO[str]:
    return path.open("w", encoding="utf-8", newline="\n")
