"""The rows of a benchmark and what each shows: files beside the row file, in zips there, or pictures inside it."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from vsgrpo.data.leak_guard import name_some
from vsgrpo.data.row import Row
from vsgrpo.errors import DataError
from vsgrpo.evaluation.predictions import Media
from vsgrpo.evaluation.unpacking import PACKED, find_in_zips, picture_folders, unpack, unpack_pictures
from vsgrpo.terminal import counted
from vsgrpo.video.place import files_of

UNPACKED = "videos"
"""Folder of RUN_DIR for what came out of zips whose own folder cannot be written: videos or images."""


@dataclass(frozen=True)
class ShownRows:
    """Rows of a file with the media they show.

    Attributes:
        name: as `benchmark.name` has it.
        file: the row file.
        sha256: of the row file.
        rows: after the filters, in file order; ids are unique.
        num_rows: rows in the file, before any filter.
        run_dir: where media that lie packed in files of the benchmark are written; None: they are not unpacked.
        pictures: row id -> its pictures, of those that lie inside the row file.
        unpacked: where a file of a row is expected -> where it is, of those that came out of a zip and lie elsewhere.
    """

    name: str
    file: Path
    sha256: str
    rows: tuple[Row, ...]
    num_rows: int
    run_dir: Path | None = None
    pictures: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    unpacked: Mapping[Path, Path] = field(default_factory=dict)

    @classmethod
    def packed_pictures(cls, file: Path, ids: Collection[str]) -> Iterator[tuple[str, Sequence[Any]]]:
        """Yield (row id, its pictures) of rows whose pictures lie inside the row file: bytes, {"bytes"}, base64 text.

        Rows whose media are `PACKED` must have some. Called once the model is known to be there, and not where all were
        unpacked before. `ids`: the rows to be asked; others may be left out.
        """
        return iter(())

    @property
    def folder(self) -> Path:
        """The folder that media paths of rows are relative to."""
        return self.file.parent

    def media(self, row: Row) -> Media:
        """Return what a row shows, in order."""
        if row.id in self.pictures:
            return tuple(("image", path) for path in self.pictures[row.id])
        return tuple((kind, self._place(path), *clip) for kind, path, *clip in row.media_paths(self.folder))

    def _place(self, path: Path) -> Path:
        """Return where a file is: as the row has it, or where an evaluation has unpacked it."""
        if path in self.unpacked:
            return self.unpacked[path]
        if self.run_dir is not None and not os.path.isfile(path) and path.is_relative_to(self.folder):
            there = self.run_dir / UNPACKED / path.relative_to(self.folder)
            return there if there.is_file() else path
        return path

    def with_media(self, skip_missing: bool) -> Self:
        """Return the benchmark without rows that show a missing file; media that lie packed are unpacked.

        They go beside the row file, or below RUN_DIR where that folder cannot be written.

        Raises:
            DataError: files are missing and may not be skipped, no row is left, or a packed file is broken.
            RunError: no room for what is unpacked.
        """
        read = self._with_pictures()._with_zips(skip_missing)
        return read._without_lost(read._lost(), skip_missing)

    def _lost(self) -> dict[str, str]:
        """Return name -> kind of the files of rows that are not there; a name is relative to `folder`."""
        shown = sorted({file for row in self.rows for file in files_of(self.media(row))})
        lost = {path: kind for kind, path in shown if not path.is_file()}
        below = {path: path.is_relative_to(self.folder) for path in lost}
        return {str(path.relative_to(self.folder) if below[path] else path): kind for path, kind in lost.items()}

    def _without_lost(self, lost: Mapping[str, str], skip: bool) -> Self:
        kinds = sorted(set(lost.values()))
        return self.without_missing(
            sorted(lost), skip, self.folder, kinds, "put them there, or the zips that hold them"
        )

    def _with_zips(self, skip_missing: bool) -> Self:
        """Return the benchmark with files unpacked that zips hold; refused first where one is in none of them."""
        lost = self._lost() if self.run_dir is not None else {}
        zipped = find_in_zips(self.folder, lost)
        if not zipped or self.run_dir is None:
            return self
        if len(zipped) < len(lost) and not skip_missing:
            return self._without_lost({name: kind for name, kind in lost.items() if name not in zipped}, False)
        found = unpack(zipped, self.folder, self.run_dir / UNPACKED)
        return replace(self, unpacked={self.folder / name: path for name, path in found.items()})

    def _with_pictures(self) -> Self:
        """Return the benchmark with the pictures of its rows unpacked."""
        if self.run_dir is None:
            return self
        ids = {row.id: any(item["path"] == PACKED for item in row.media) for row in self.rows}
        folders = picture_folders(self.file, self.sha256, self.run_dir)
        found = unpack_pictures(lambda: self.packed_pictures(self.file, ids), ids, folders, str(self.file))
        return replace(self, pictures=found)

    def without_missing(
        self, missing: Sequence[str], skip: bool, where: Path, kinds: Sequence[str], way_out: str
    ) -> Self:
        """Return the benchmark without rows that show a missing file, or refuse them; the rest is for the message."""
        if not missing:
            return self
        if not skip:
            one, many = (" or ".join(kind + end for kind in kinds) for end in ("", "s"))
            problem = f"{counted(len(missing), one, many)} missing: {name_some(missing)}"
            raise DataError(f"{where}: {problem}", f"{way_out}, or score the rest with --skip-missing")
        rows = tuple(row for row in self.rows if all(path.is_file() for _, path in files_of(self.media(row))))
        if not rows:
            raise DataError(f"{where}: every {' or '.join(kinds)} is missing: {name_some(missing)}", way_out)
        return replace(self, rows=rows)
