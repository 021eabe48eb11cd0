"""The pictures of an ARKitScenes recording with their times: a folder of PNGs, or the `.mov`.

They come as stored: which side is up is a question of the poses (`trajectory`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vsgrpo.scans.source import broken
from vsgrpo.scans.trajectory import Floats, turned
from vsgrpo.video.container import check_file, open_container
from vsgrpo.video.image import read_image
from vsgrpo.video.index import VideoIndex

_MAX_FPS = 30
"""Pictures a second that are exported: of 60 every second one."""
_MAX_LONGER_S = 0.5
"""Seconds by which a .mov may be longer or shorter than the pictures: then both start at the same time."""
_COMPARED = 5
"""Frames of a .mov that are compared with pictures to see how it is turned."""
_TIMED = re.compile(r"(\d+)_(\d+(?:\.\d+)?)")


class Timed:
    """The files `<video>_<seconds>` of a folder; none where it is missing.

    Args:
        video: id of the video that they belong to.

    Attributes:
        paths: in order of time.
        times: (K,) seconds.

    Raises:
        DataError: one is named by another video.
    """

    def __init__(self, folder: Path | None, suffix: str, video: str = "") -> None:
        files = [] if folder is None else [path for path in folder.iterdir() if path.suffix == suffix]
        matched = [(match, path) for path in files if (match := _TIMED.fullmatch(path.stem))]
        for match, path in matched:
            if match[1] != video:
                raise broken(path, f"is of another video than {video}", "copy the folder of this video again")
        named = sorted((float(match[2]), path) for match, path in matched)
        self.paths = [path for _, path in named]
        self.times: Floats = np.array([time for time, _ in named])

    def nearest(self, time: float, apart: float) -> int | None:
        """Return the place of the file nearest to a time, None where that is more than `apart` seconds away."""
        after = int(np.searchsorted(self.times, time))
        around = [k for k in (after - 1, after) if 0 <= k < len(self.times)]
        best = min(around, key=lambda k: abs(self.times[k] - time), default=None)
        return best if best is not None and abs(self.times[best] - time) <= apart else None


class FolderPictures:
    """Pictures of a folder, at most about 30 a second.

    Attributes:
        times: (K,) seconds.
        number: K.
        fps: at which they are played, None for a single one.
        turns: quarter turns from the pictures as stored to those that the poses are about.
        is_checked: `turns` is known.
    """

    is_checked = True

    def __init__(self, files: Timed) -> None:
        steps = np.diff(files.times)
        usual = steps[steps <= 1.5 * np.median(steps)] if len(steps) else steps  # the others are gaps
        rate = 1 / float(usual.mean()) if len(usual) and usual.mean() > 0 else None
        step = 1 if rate is None else max(1, round(rate / _MAX_FPS))
        self._paths = files.paths[::step]
        self.times, self.number = files.times[::step], len(self._paths)
        self.fps = None if rate is None else max(1.0, float(round(rate / step)))
        self.turns = 0

    def stored(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the pictures."""
        return map(read_image, self._paths)

    def close(self) -> None:
        """Nothing is open."""


class MovPictures:
    """Frames of a `.mov`, at most about 30 a second.

    The file has no time of its own: it starts with the first picture of `beside`, if it is as long as these; else
    `times` is None. How it is turned against them is found by comparing some. Without any, stored frames that lie are
    taken for unturned, and those that stand for upright: `turns` is None. Further attributes: see `FolderPictures`.

    Raises:
        DataError: the file is broken.
    """

    def __init__(self, path: Path, beside: Timed) -> None:
        check_file(str(path))
        with ExitStack() as stack:
            container = stack.enter_context(open_container(str(path)))
            self._film = VideoIndex(str(path), container)
            self._open = stack.pop_all()
        pts = np.array([float(stamp * self._film.time_base) for stamp in self._film.pts])
        rate = self._film.header.fps
        self._step = max(1, round(rate / _MAX_FPS))
        self.fps = rate / self._step if rate > 0 else None
        seconds = (pts - pts[0])[:: self._step]
        self.number, self.times = len(seconds), None
        if len(beside.times):
            length = float(beside.times[-1] - beside.times[0])
            is_as_long = abs(length - float(pts[-1] - pts[0])) <= _MAX_LONGER_S and not self._film.is_counted
            self.times = beside.times[0] + seconds if is_as_long else None
        height, width = self._film.stored_size
        self.is_checked = bool(beside.paths)
        self.turns: int | None = self._compare(beside, pts) if self.is_checked else (0 if width >= height else None)

    def _compare(self, beside: Timed, pts: Floats) -> int:
        """Return the turns from stored frames to the pictures: of the four those under which they are most alike."""
        chosen = np.unique(np.linspace(0, len(pts) - 1, _COMPARED).round().astype(int)).tolist()
        shown = self._film.frames(chosen)
        alike = np.zeros(4)
        for frame, number in zip(self._film.orientation.undo(shown), chosen, strict=True):
            picture = beside.nearest(beside.times[0] + float(pts[number] - pts[0]), np.inf)
            assert picture is not None
            target = _thumbnail(read_image(beside.paths[picture]))
            alike += [float((_thumbnail(turned(frame, turns)) * target).sum()) for turns in range(4)]
        return int(alike.argmax())

    def stored(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the frames."""
        return self._film.stored_frames(self._step)

    def close(self) -> None:
        """Close the file."""
        self._open.close()


def _thumbnail(picture: NDArray[np.uint8], edge: int = 24) -> Floats:
    """Return a grey picture of `edge` x `edge` cells, its mean 0 and its length 1."""
    grey = picture.mean(axis=2)
    for axis in range(2):
        cuts = np.linspace(0, grey.shape[axis], edge + 1).astype(int)
        sums = np.add.reduceat(grey, np.minimum(cuts[:-1], grey.shape[axis] - 1), axis=axis)
        grey = sums / np.maximum(np.diff(cuts), 1).reshape((-1, 1) if axis == 0 else (1, -1))
    grey = grey - grey.mean()
    return grey / max(float(np.linalg.norm(grey)), 1e-12)
