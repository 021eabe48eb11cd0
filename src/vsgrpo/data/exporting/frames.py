"""Frame lists: the pictures that are shown of a video, for formats that take them in its place."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from vsgrpo.data.exporting.record import LeftOut
from vsgrpo.data.row import Row
from vsgrpo.errors import DataError
from vsgrpo.paths import inside
from vsgrpo.spatial.moments import MOMENT
from vsgrpo.video.reader import read_uniform_frames

_AT_SECONDS = re.compile(r"\d s\b")
"""As `spatial.moments` words a moment of a recording: "at 4.2 s"."""
_QUALITY = 95
"""Of the JPEG files: what a recorded video's own frames have."""
_TIMEOUT_S = 60.0


class FrameLists:
    """Uniform frames of videos as JPEG files, each video decoded once.

    Args:
        out: the folder of the export.
        number: frames of each video (`video.budget.frame_indices`: those that our loader shows).

    Attributes:
        bad: one sentence for each video that cannot be read.
    """

    def __init__(self, out: Path, number: int) -> None:
        self.out, self.number = out, number
        self.bad: list[str] = []
        self._known: dict[Path, tuple[str, ...]] = {}

    def of(self, row: Row, video: Path) -> tuple[str, ...]:
        """Return the places of the frames of a row's video, in order; LeftOut where it cannot be read."""
        if video not in self._known:
            try:
                self._known[video] = self._write(row.media[0]["path"], video)
            except DataError as error:
                self._known[video] = ()
                self.bad.append(error.message)
        if not self._known[video]:
            raise LeftOut("its video cannot be read")
        return self._known[video]

    def _write(self, path: str, video: Path) -> tuple[str, ...]:
        from PIL import Image

        _, frames = read_uniform_frames(video, self.number, timeout_s=_TIMEOUT_S)
        below = PurePosixPath(path).with_suffix("")
        folder = PurePosixPath("frames", *below.parts[1 if below.parts[0] == "videos" else 0 :])
        places = tuple(f"{folder}/{number:05d}.jpg" for number in range(len(frames)))
        for place, pixels in zip(places, frames, strict=True):
            file = inside(self.out, place)
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file, quality=_QUALITY)
        return places


def speaks_of_seconds(row: Row) -> bool:
    """Return whether a row names a second of its video, or asks for one."""
    return row.unit == "s" or (MOMENT in row.extra and _AT_SECONDS.search(row.question) is not None)
