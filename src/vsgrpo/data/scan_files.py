"""The leak guard on the files of scans: names, links and hard links of everything in a scan's folders.

No file is read: folders are listed, links are resolved. So one frame that is a link to a held-out room, or another name
of one of its files, is found among thousands, whichever source reads them.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISDIR
from typing import Self

import numpy as np
from numpy.typing import NDArray

from vsgrpo.data.leak_guard import Denied, Links, denied_rooms_of
from vsgrpo.data.room_ids import Found, rooms_in

_BETWEEN = " | "
"""Between names that are searched as one text: no id goes across it."""
_ALIKE = (".json", ".txt", ".csv", ".traj", ".pincam")
"""Small texts: those of two rooms may have the same bytes, and one file then serves both on a disk without copies."""
_SPREAD, _MASK = 0x9E3779B97F4A7C15, (1 << 64) - 1
"""Make one 64-bit number of device and inode (2^64 over the golden ratio)."""


@dataclass
class ScanFiles:
    """What the folders of a scan hold, links followed.

    Attributes:
        dataset: of the scan.
        named, linked: rooms that names of files, and links, name; each with the text that does.
        identities: one number for each file (device and inode), small texts left out.
    """

    dataset: str
    named: dict[Found, str] = field(default_factory=dict)
    linked: dict[Found, str] = field(default_factory=dict)
    identities: array[int] = field(default_factory=lambda: array("Q"))

    def denied(self) -> list[Denied]:
        """Return the rooms of benchmarks that names and links name."""
        return denied_rooms_of({**self.named, **self.linked})

    def other_room(self, room: str) -> str | None:
        """Return a published room that links lead to and that is not the scan's own, None where there is none."""
        return next((item.label for item in self.linked if item.is_official and item.room != room), None)

    def look(self, root: Path, paths: Iterable[Path]) -> Self:
        """List files and folders of the scan, and all that is below them.

        What cannot be listed is passed over: no reader can open it either.

        Args:
            root: a folder above them; links on the way from it count, those that lead to it do not.
        """
        waiting = [Path(path) for path in paths]
        for path in waiting:
            is_below = path.is_relative_to(root)
            base, name = (root, str(path.relative_to(root))) if is_below else (path.parent, path.name)
            self._note(self.named, path.name)
            self._note(self.linked, *Links(base).of(name))
        seen = set[tuple[int, int]]()
        while waiting:
            path = waiting.pop()
            try:
                state = path.stat()
            except OSError:  # not there, a link to nowhere, a loop of links
                continue
            if not S_ISDIR(state.st_mode):
                self._identify(path.name, state.st_dev, state.st_ino)
            elif (state.st_dev, state.st_ino) not in seen:
                seen.add((state.st_dev, state.st_ino))
                waiting += self._entries(path, state.st_dev)
        return self

    def _entries(self, folder: Path, device: int) -> Iterator[Path]:
        """Note the entries of a folder; yield its folders and links."""
        names: list[str] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    names.append(entry.name)
                    if entry.is_symlink():
                        self._note(self.linked, os.readlink(entry.path), os.path.realpath(entry.path))
                        yield Path(entry.path)
                    elif entry.is_dir(follow_symlinks=False):
                        yield Path(entry.path)
                    else:
                        self._identify(entry.name, device, entry.inode())
        except OSError:
            return
        if rooms_in(_BETWEEN.join(names), dataset=self.dataset):  # one search for all: rarely does one name a room
            self._note(self.named, *names)

    def _identify(self, name: str, device: int, inode: int) -> None:
        if not name.lower().endswith(_ALIKE):
            self.identities.append((device * _SPREAD + inode) & _MASK)

    def _note(self, rooms: dict[Found, str], *texts: str) -> None:
        for text in texts:
            for item in rooms_in(text, dataset=self.dataset):
                rooms.setdefault(item, text)


def shares_files(files: ScanFiles, others: NDArray[np.uint64]) -> bool:
    """Return whether one of the files is among `others` (`identities_of`), under whatever name."""
    if not len(others) or not len(files.identities):
        return False
    own = np.frombuffer(files.identities, dtype=np.uint64)
    places = np.searchsorted(others, own).clip(max=len(others) - 1)
    return bool((others[places] == own).any())


def identities_of(scans: Iterable[ScanFiles]) -> NDArray[np.uint64]:
    """Return the identities of the files of some scans, sorted."""
    parts = [np.frombuffer(scan.identities, dtype=np.uint64) for scan in scans if len(scan.identities)]
    return np.unique(np.concatenate(parts)) if parts else np.empty(0, dtype=np.uint64)
