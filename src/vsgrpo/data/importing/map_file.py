"""Maps of rooms in a file beside the rows, as SpaceR-151k has them: {video_id, cognitive_map, object_list}.

A map belongs to the rows whose video has its name, and goes into `extra` of each. One map a video is in memory.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from vsgrpo.data.importing.record_to_row import ImportedRow
from vsgrpo.errors import DataError
from vsgrpo.records import read_records
from vsgrpo.terminal import counted

_COLUMNS = ("cognitive_map", "object_list")
_HINT = 'maps=FILE has one object a line: {"video_id", "cognitive_map", "object_list"}'


class MapFile:
    """The maps of a file, and how many videos and rows they were joined to.

    Raises:
        DataError: a record without a video, without a map, or of a video that has one already.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_rows = 0
        self._maps: dict[str, dict[str, Any]] = {}
        self._joined: set[str] = set()
        for where, data in read_records(path, nan="null"):
            video = data.get("video_id") if isinstance(data, dict) else None
            if not isinstance(video, str) or not isinstance(data.get(_COLUMNS[0]), dict):
                raise DataError(f"{where}: no map of a video", _HINT)
            if (name := _name(video)) in self._maps:
                raise DataError(f"{where}: video_id={video}: has a map already", "keep one map a video")
            self._maps[name] = {column: data[column] for column in _COLUMNS if column in data}

    def join(self, imported: ImportedRow) -> ImportedRow:
        """Return the row with the map of its video in `extra`, as it is where there is none."""
        names = (imported.row.scene_name, *(_name(source) for source in imported.sources if source))
        found = next((name for name in names if name in self._maps), None)
        if found is None:
            return imported
        self._joined.add(found)
        self.num_rows += 1
        return replace(imported, row=replace(imported.row, extra={**imported.row.extra, **self._maps[found]}))

    def note(self) -> str:
        """Return a sentence about what was joined."""
        return (
            f"maps: {len(self._joined)} of {len(self._maps)} in {self.path} joined to {counted(self.num_rows, 'row')}"
        )


def _name(video: str) -> str:
    return PurePosixPath(video.replace("\\", "/")).stem if "." in video else video.replace("\\", "/").rpartition("/")[2]
