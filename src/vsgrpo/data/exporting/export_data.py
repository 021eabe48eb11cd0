"""export-data: write rows of a dataset in the form that another project reads, with a manifest beside them.

One row is in memory at a time (of parquet: all of them). What a format cannot say is left out and counted by reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from vsgrpo.data.exporting.frames import FrameLists, speaks_of_seconds
from vsgrpo.data.exporting.record import VIDEO_TOKEN, Exported, LeftOut
from vsgrpo.data.exporting.row_files import SUFFIXES, RowFiles, write_json
from vsgrpo.data.exporting.settings import ExportSettings
from vsgrpo.data.frame_true import is_partly_true, is_true_at
from vsgrpo.data.kept_out import keeping_out, kept_json, kept_line
from vsgrpo.data.leak_guard import Judgement, Links
from vsgrpo.data.manifest import MANIFEST_NAME, Manifest, file_record, read_manifest, write_manifest
from vsgrpo.data.own_rows import dataset_folder
from vsgrpo.data.row import Row
from vsgrpo.data.rows import iter_rows
from vsgrpo.errors import DataError
from vsgrpo.files import link_or_copy, publish, recover
from vsgrpo.paths import LOCK_NAME, inside, locked, refuse_inputs_inside, remove
from vsgrpo.spatial.moments import FRAMES_SHOWN, MOMENT
from vsgrpo.terminal import counted

_NO_VIDEO = "its video is not there (media=none writes rows alone)"
_MOMENT = "true for one number of frames alone, which only frame lists fix (swift with frames=N)"
_SECONDS = "speaks of seconds, which a list of pictures does not tell"


@dataclass
class ExportSummary:
    """What an export wrote.

    Attributes:
        files: name -> rows, of the files of rows.
        types: question type -> rows written.
        left_out: reason -> rows.
        num_media: videos, or pictures of frame lists, that have a place in the export.
        verdict: of the leak guard.
    """

    out: Path
    format: str
    method: str | None
    num_read: int = 0
    files: dict[str, int] = field(default_factory=dict)
    types: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    num_media: int = 0
    verdict: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def num_written(self) -> int:
        """Rows in all files."""
        return sum(self.files.values())

    def to_json(self) -> dict[str, Any]:
        """Return the summary as JSON."""
        values = {**vars(self), "types": dict(self.types), "left_out": dict(self.left_out)}
        return {**values, "out": str(self.out), "written": self.num_written}

    def table(self) -> str:
        """Return files, rows by type, and what was left out and why."""
        width = max(map(len, [*self.files, *self.types]))
        lines = [
            f"{name:<{width}}  {number:>7} {'row' if number == 1 else 'rows'}" for name, number in self.files.items()
        ]
        lines += [f"{name:<{width}}  {number:>7}" for name, number in sorted(self.types.items())]
        what = self.format if self.method is None else f"{self.format} ({self.method})"
        lines.append(f"{what}: {counted(self.num_read, 'row')} read, {self.num_written} written -> {self.out}")
        lines.append(f"media: {counted(self.num_media, 'file')}; leak check: {self.verdict}")
        lines += [f"left out: {counted(number, 'row')}: {reason}" for reason, number in self.left_out.most_common()]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def export_data(settings: ExportSettings, *, overwrite: bool = False) -> ExportSummary:
    """Write the rows of one split of a dataset; the folder appears when it is complete.

    Raises:
        DataError: no such data, a benchmark room or one of `keep_out` among the rows, no row left, or the folder holds
            something else.
    """
    with keeping_out(settings.keep_out):
        folder = dataset_folder(settings.dataset, settings.split, key="", allow_val_safe=settings.allow_val_safe)
        file = folder / f"{settings.split}.jsonl"
        if not file.is_file():
            raise DataError(f"{file}: no such file", "data.split=train or dev: which row file of the folder")
        with _new_folder(settings, folder, overwrite) as staged:
            summary = _Export(settings, file, staged).write()
    publish(staged, settings.output)
    return summary


@contextmanager
def _new_folder(settings: ExportSettings, source: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a locked folder beside the output; it is removed again if the export fails."""
    out = settings.output
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise DataError(f"output={out}: exists and is no folder of an export", "choose another output=DIR")
    refuse_inputs_inside(out, "output", [("DATASET", source)])
    out = Path(out.absolute())
    staged = out.with_name(f".{out.name}.part")
    with locked(staged, "output", "writing"):
        recover(out)
        _check_output(settings.output, overwrite)
        _empty(staged)  # of an export that was killed
        try:
            yield staged
        except BaseException:
            _empty(staged)
            raise
    (staged / LOCK_NAME).unlink(missing_ok=True)


def _empty(staged: Path) -> None:
    for path in [path for path in staged.iterdir() if path.name != LOCK_NAME]:
        remove(path)


def _check_output(out: Path, overwrite: bool) -> None:
    """Refuse a folder that holds something; with `overwrite`, all but an export alone."""
    if not out.is_dir() or not any(out.iterdir()):
        return
    manifest = read_manifest(out) if (out / MANIFEST_NAME).is_file() else None
    if manifest is None or "exported" not in manifest.config:
        raise DataError(f"output={out}: exists and is no export", "choose another output=DIR")
    if not overwrite:
        raise DataError(f"output={out}: holds an export already", "add --overwrite, or choose another output=DIR")
    there = {str(path.relative_to(out)) for path in out.rglob("*") if not path.is_dir()}
    if others := sorted(there - {MANIFEST_NAME, *manifest.files}):
        what = f"output={out}: holds {counted(len(others), 'file')} that no export wrote, such as {others[0]}"
        raise DataError(what, "move them away, or choose another output=DIR")


class _Export:
    """The work of one export.

    Args:
        file: the rows.
        out: the folder to write to.
    """

    def __init__(self, settings: ExportSettings, file: Path, out: Path) -> None:
        self.settings, self.file, self.out = settings, file, out
        self.chosen, self.base = settings.chosen, file.parent
        self.summary = ExportSummary(settings.output, settings.format, settings.for_method)
        self._frames = FrameLists(out, settings.frames) if settings.frames else None
        self._scenes: dict[str, str] = {}
        self._places: dict[str, Path | None] = {}
        self._datasets: set[str] = set()
        self._num_partly_true = 0

    def write(self) -> ExportSummary:
        """Write all files, the manifest last.

        Raises:
            DataError: a row that cannot be read, a benchmark room, or no row is left.
        """
        summary, settings, judged, links = self.summary, self.settings, Judgement(), Links(self.base)
        with RowFiles(self.out) as files:
            for row in iter_rows(self.file):
                summary.num_read += 1
                judged.add(row, *links(row))
                try:
                    record = self.chosen.write(self._exported(row))
                except LeftOut as error:
                    summary.left_out[error.reason] += 1
                    continue
                files.add(self.chosen.file_of(row, settings.split), record)
                summary.types[row.question_type] += 1
                self._num_partly_true += is_partly_true(row)
                self._scenes[row.scene_name] = row.room
                self._datasets.add(row.dataset)
            summary.files = dict(sorted(files.counts.items()))
        where = str(self.file)
        summary.verdict = judged.checked(allow_val_safe=settings.allow_val_safe, allow_leak=False, where=where)
        if not summary.files:
            reasons = "; ".join(f"{counted(number, 'row')}: {text}" for text, number in summary.left_out.most_common())
            raise DataError(f"{self.file}: no row can be written as {settings.format} ({reasons or 'it is empty'})")
        for name, value in self.chosen.more_files(settings.recorded()).items():
            write_json(self.out / name, value)
        self._finish(judged)
        return summary

    def _exported(self, row: Row) -> Exported:
        """Return what the format is given of a row.

        Raises:
            LeftOut: it shows something else than one video, or the frames that the format fixes do not suit it.
        """
        settings, frames, video = self.settings, (), ""
        if [item["kind"] for item in row.media] != ["video"]:
            raise LeftOut("shows something else than one video")
        if any(token in row.question for token in (VIDEO_TOKEN, "<image>")):
            raise LeftOut("a media token in its question")
        if self._frames is not None:
            if is_true_at(row, self._frames.number) is False:
                raise LeftOut(f"not true for {counted(self._frames.number, 'frame')} (extra.true_at, frames_shown)")
            if speaks_of_seconds(row):
                raise LeftOut(_SECONDS)
            frames = self._frames.of(row, inside(self.base, row.media[0]["path"]))
        elif MOMENT in row.extra or FRAMES_SHOWN in row.extra:
            raise LeftOut(_MOMENT)
        if not frames and self.chosen.place_of is not None:
            video = self.chosen.place_of(row, settings.split)
            self._link(video, inside(self.base, row.media[0]["path"]))
        split, shown = settings.split, settings.show_options
        method = settings.for_method
        return Exported(row, split, method, settings.mode, shown, settings.seed, video, frames)

    def _link(self, place: str, source: Path) -> None:
        """Give a video its place; LeftOut where it is not there, or the place is that of a file that is written."""
        first = PurePosixPath(place).parts[0].lower()
        if first == LOCK_NAME or first.endswith(SUFFIXES):
            raise LeftOut("its video is called like a file of rows")  # a link: writing would change the source
        if self.settings.media == "none":
            return
        if place not in self._places:
            self._places[place] = source if source.is_file() else None
            if source.is_file():
                link_or_copy(source, inside(self.out, place))
        if self._places[place] is None:
            raise LeftOut(_NO_VIDEO)
        if self._places[place] != source:
            raise LeftOut("another video has the same name in this format")

    def _finish(self, judged: Judgement) -> None:
        """Write the manifest: settings, counts, rooms, and the hash of every file."""
        summary, settings = self.summary, self.settings
        names = sorted(
            str(path.relative_to(self.out)) for path in self.out.rglob("*") if path.is_file() and path.name != LOCK_NAME
        )
        rows = {*summary.files, *self.chosen.more_files(settings.recorded())}
        summary.num_media = len(names) - len(rows)
        summary.notes = [f"use: {self.chosen.use}", *kept_line(settings.keep_out)]
        if self._frames is not None and self._frames.bad:
            summary.notes.append(f"videos that cannot be read: {'; '.join(self._frames.bad[:3])}")
        if self._num_partly_true and self._frames is None:
            what = "rows are true for some numbers of frames only (column true_at): show as many frames as it says"
            summary.notes.append(f"{self._num_partly_true} {what}")
        if unknown := judged.unknown_text():
            summary.notes.append(f"leak verdict: unknown: {unknown}")
        write_manifest(
            self.out,
            Manifest(
                dataset=", ".join(sorted(self._datasets)),
                config={"exported": settings.recorded() | {"source": self.chosen.source, "rows": self.file.name}},
                seed=settings.seed,
                scans={scene: {"status": "done", "room": room} for scene, room in sorted(self._scenes.items())},
                rooms={settings.split: sorted({*self._scenes.values()})},
                counts={
                    "read": summary.num_read,
                    "written": summary.num_written,
                    "files": summary.files,
                    "questions": dict(sorted(summary.types.items())),
                    "left_out": dict(summary.left_out.most_common()),
                    **kept_json(settings.keep_out, whole_paths=False),
                },
                files={name: file_record(self.out / name) for name in names},
                notes=summary.notes,
            ),
        )
