"""The leak guard on rows: no room of a benchmark in training data.

The rooms are those of `tables.BENCHMARKS` (VSI-Bench's 288 in ScanNet, ARKitScenes and ScanNet++) and those that the
files of `data.keep_out` name (`data.kept_out`). Rooms are denied, never scans: other scans of a ScanNet room and other
videos of an ARKitScenes visit show the same room, whatever split or dataset name a row claims. `data.room_ids` finds
the rooms that a row names. Demo scenes have ids of their own (`demo000000_00`) and never meet the lists. Rows whose
scene is not known give the verdict "unknown".

Every path that reads rows calls `read_checked_rows` or `check_rows`; `data.manifest` records what a run trained on.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from vsgrpo.data.room_ids import Found, find_rooms, rooms_in, rooms_in_data, shown_rooms
from vsgrpo.data.row import Row
from vsgrpo.data.rows import read_rows
from vsgrpo.errors import DataError
from vsgrpo.tables import (
    BENCHMARKS,
    arkitscenes_folds,
    arkitscenes_visits,
    denied_rooms,
    scannet_room_splits,
    split_of,
)
from vsgrpo.terminal import counted

VERDICTS = ("clean", "unknown", "leak")
"""From best to worst."""
_DEMO_SCAN = re.compile(r"demo\d{6,}_\d{2}")
_ID_FORMS = {"scannet": "ScanNet", "scannetpp": "ScanNet++"}
"""Data sets whose scan ids are told by their form, and their names for messages."""
_NAMED = 5
"""Names that a message lists."""
_KNOWN_PATHS = 4096


@dataclass(frozen=True)
class Denied:
    """A room of a benchmark, and the text that names it."""

    room: str
    benchmark: str
    named_by: str

    @property
    def reason(self) -> str:
        """Why a row is left out, for counts."""
        return f"its room is in {self.benchmark}"


def denied_shown(row: Row) -> list[Denied]:
    """Return the rooms of benchmarks that scene name, id and media paths of a row name: one look per scene."""
    return denied_rooms_of(dict.fromkeys(shown_rooms(row), row.scene_name))


def denied_in_data(data: Any) -> list[Denied]:
    """Return the rooms of benchmarks that a JSON value, such as a row of another project, names anywhere."""
    return denied_rooms_of(rooms_in_data(data))


def denied_in_path(path: Path | str) -> list[Denied]:
    """Return the rooms of benchmarks that a path names, as given or once links are followed."""
    return denied_in_data([os.path.abspath(path), os.path.realpath(path)])


def denied_rooms_of(found: dict[Found, str]) -> list[Denied]:
    """Return the rooms of benchmarks among those found, each with the text that names it."""
    if not found:
        return []
    denied: dict[str, Denied] = {}
    for item, text in found.items():
        if (benchmark := denied_rooms().get((item.dataset, item.room))) is not None:
            denied.setdefault(item.label, Denied(item.label, benchmark, text))
    return list(denied.values())


class Links:
    """Targets of media paths that lead through a symbolic link, and the folder that they are in if it names a room.

    Args:
        base: the folder of the row file; None: links are not followed.
    """

    def __init__(self, base: Path | str | None) -> None:
        self._base = None if base is None else os.path.realpath(base)
        self._known: dict[str, list[str]] = {}
        folders = () if base is None else dict.fromkeys((os.path.abspath(base), os.path.realpath(base)))
        self._named = [folder for folder in folders if rooms_in(folder)]

    def __call__(self, row: Row) -> list[str]:
        """Return the targets of a row's media, [] where no link is on the way and the folder names no room."""
        targets = [self.of(str(item["path"])) for item in row.media]
        found = targets[0] if len(targets) == 1 else [text for found in targets for text in found]
        return [*found, *self._named] if self._named else found

    def of(self, path: str) -> list[str]:
        """Return where a path leads: the text of its link, and the file at the end."""
        if self._base is None or "\0" in path:
            return []
        if path not in self._known:
            if len(self._known) > _KNOWN_PATHS:  # rows of one video come one after the other
                self._known.clear()
            plain = os.path.normpath(os.path.join(self._base, path))
            real = os.path.realpath(plain)
            direct = [os.readlink(plain)] if os.path.islink(plain) else []
            self._known[path] = [] if real == plain else [*direct, real]
        return self._known[path]


def val_scans(row: Row, *links: str) -> list[str]:
    """Return the val scans (ScanNet, ARKitScenes), or rooms of such, that scene name, id and paths of a row name."""
    return _val_scans(shown_rooms(row, *links))


def _val_scans(shown: Sequence[Found]) -> list[str]:
    return [item.scene for item in shown if _is_val(item)]


def _is_val(item: Found) -> bool:
    if item.dataset == "arkitscenes":
        return item.scene in _arkitscenes_val()
    return item.dataset == "scannet" and (split_of(item.scene) or scannet_room_splits().get(item.scene)) == "val"


@cache
def _arkitscenes_val() -> frozenset[str]:
    """Return the Validation videos of ARKitScenes, and their visits."""
    videos = [video for video, fold in arkitscenes_folds().items() if fold == "Validation"]
    return frozenset((*videos, *(arkitscenes_visits().get(video, video) for video in videos)))


@dataclass
class Judgement:
    """Findings of the guard in the rows of a file.

    Attributes:
        num_rows: rows looked at.
        num_leaks: rows of benchmark rooms.
        first_leak: the first of these, and its first room of a benchmark.
        leaked_rooms, leaked_scenes: benchmark rooms and scene names of these.
        num_val: rows of val scans of other rooms.
        first_val: scene name of the first of these.
        unknown: dataset -> rows whose scene is unknown.
        first_unknown: scene name of the first of these.
    """

    num_rows: int = 0
    num_leaks: int = 0
    first_leak: tuple[Row, Denied] | None = None
    leaked_rooms: set[str] = field(default_factory=set)
    leaked_scenes: set[str] = field(default_factory=set)
    num_val: int = 0
    first_val: str = ""
    unknown: Counter[str] = field(default_factory=Counter)
    first_unknown: str = ""

    @property
    def verdict(self) -> str:
        """The worst verdict of the rows."""
        return "leak" if self.num_leaks else "unknown" if self.unknown else "clean"

    def add(self, row: Row, *links: str) -> dict[Found, str]:
        """Look at one row more and return the rooms that it names; `links` are what its media lead to (`Links`)."""
        self.num_rows += 1
        named = find_rooms(row, *links)
        if denied := denied_rooms_of(named):
            self.num_leaks += 1
            self.first_leak = self.first_leak or (row, denied[0])
            self.leaked_rooms.update(item.room for item in denied)
            self.leaked_scenes.add(row.scene_name)
            return named
        shown = shown_rooms(row, *links)
        if _val_scans(shown):
            self.num_val += 1
            self.first_val = self.first_val or row.scene_name
        is_demo = row.dataset == "demo" and _DEMO_SCAN.fullmatch(row.scene_name)
        if not (all(item.is_official for item in shown) if shown else is_demo):
            self.unknown[row.dataset] += 1
            self.first_unknown = self.first_unknown or row.scene_name
        return named

    def join(self, later: Judgement) -> None:
        """Add the rows that follow these."""
        self.num_rows += later.num_rows
        self.num_leaks += later.num_leaks
        self.first_leak = self.first_leak or later.first_leak
        self.leaked_rooms |= later.leaked_rooms
        self.leaked_scenes |= later.leaked_scenes
        self.num_val += later.num_val
        self.first_val = self.first_val or later.first_val
        self.unknown += later.unknown
        self.first_unknown = self.first_unknown or later.first_unknown

    def checked(self, *, allow_val_safe: bool, allow_leak: bool, where: str) -> str:
        """Return the worst verdict, or refuse the rows; see `check_rows`."""
        if self.first_leak is not None and not allow_leak:
            (row, first), rooms = self.first_leak, sorted(self.leaked_rooms)
            more = f"; {len(rooms)} rooms: {name_some(rooms)}" if len(rooms) > 1 else ""
            by = "" if first.named_by in (row.scene_name, row.room) else f", named by {first.named_by[:120]!r}"
            named = f"scene_name={row.scene_name}: room {first.room} is in {first.benchmark}"
            raise DataError(
                f"{where}: {named} ({self.num_leaks} of {counted(self.num_rows, 'row')}{more}){by}",
                "remove these rows; a model trained on them cannot be scored on the benchmark",
            )
        if self.num_val and not allow_val_safe:
            raise DataError(
                f"{where}: scene_name={self.first_val}: a val scan ({self.num_val} of {counted(self.num_rows, 'row')})",
                "train on the train split, or allow room-safe val scans: data.allow_val_safe=true",
            )
        return self.verdict

    def unknown_text(self) -> str | None:
        """Return a sentence about the rows whose rooms are unknown, None if there are none."""
        if not self.unknown:
            return None
        named = ", ".join(f"{number} of dataset {name}" for name, number in self.unknown.most_common(_NAMED))
        return (
            f"{self.unknown.total()} of {counted(self.num_rows, 'row names', 'rows name')} no scene that "
            "can be told from the rooms of "
            f"{' and '.join(BENCHMARKS)} ({named}; the first: scene_name={self.first_unknown}): make sure that they "
            "show none of them"
        )


def judge_rows(rows: Iterable[Row], base: Path | None = None) -> Judgement:
    """Look at rows meant for training, each once.

    Args:
        base: the folder of the row file; given, links that media paths lead through are followed.
    """
    judged, links = Judgement(), Links(base)
    for row in rows:
        judged.add(row, *links(row))
    return judged


def check_rows(
    rows: Iterable[Row],
    *,
    allow_val_safe: bool = False,
    allow_leak: bool = False,
    where: str = "rows",
    base: Path | None = None,
) -> str:
    """Return the worst verdict of rows meant for training, or refuse them.

    Args:
        allow_val_safe: take val scans of rooms that the benchmark does not use (held-out data by default).
        allow_leak: take benchmark rooms too; the verdict then is "leak".
        where: the file the rows came from, for the message.
        base: its folder; given, links that media paths lead through are followed.

    Raises:
        DataError: a benchmark room, or a val scan without `allow_val_safe`; names the first scene and how many rows.
    """
    return judge_rows(rows, base).checked(allow_val_safe=allow_val_safe, allow_leak=allow_leak, where=where)


def name_some(names: Sequence[str]) -> str:
    """Return the first five names of a list, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def worst(verdicts: Iterable[str]) -> str:
    """Return the worst of some verdicts, "clean" of none."""
    return max(verdicts, key=VERDICTS.index, default="clean")


def read_checked_rows(
    path: Path | str, *, allow_val_safe: bool = False, allow_leak: bool = False
) -> tuple[list[Row], str]:
    """Read a row file through the guard; return (rows, verdict)."""
    rows, base = read_rows(path), Path(path).parent
    return rows, check_rows(rows, allow_val_safe=allow_val_safe, allow_leak=allow_leak, where=str(path), base=base)


def denied_scan(scan_id: str, dataset: str, room: str = "") -> list[Denied]:
    """Return the rooms of benchmarks that id and room of a scan name; see `check_scan`."""
    found = (*rooms_in(scan_id, dataset=dataset), *rooms_in(room, dataset=dataset))
    return denied_rooms_of(dict.fromkeys(found, scan_id))


def check_scan(scan_id: str, dataset: str, *, room: str = "", allow_val_safe: bool = False) -> str | None:
    """Return why a scan may not be built into training data, or None where it may.

    The id and the room decide, not the folder it is in nor what the source is called; official splits are ScanNet's.

    Args:
        room: as the source knows it.
    """
    found = rooms_in(scan_id, dataset=dataset)
    if denied := denied_scan(scan_id, dataset, room):
        return f"room {denied[0].room} is in {denied[0].benchmark}"
    scans = [item.scene for item in found if item.dataset == "scannet"]
    if dataset in _ID_FORMS and [item.scene for item in found if item.dataset == dataset] != [scan_id.lower()]:
        return f"{scan_id} is no {_ID_FORMS[dataset]} scan id"
    if any(split_of(scan) == "val" for scan in scans) and not allow_val_safe:
        return "a val scan (room-safe, but held out by default)"
    return None
