"""Where a video or image of a question is: a file, a part of one, or pictures that are the frames of a video."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, order=True)
class FrameList:
    """A video whose frames are picture files. All of them are shown, whatever `video.num_frames` says.

    Where they do not fill the last temporal patch, the last frame repeats.
    Source: qwen-vl-utils 0.0.14 fetch_video, of a list of pictures. Deviation: sides are multiples of a token, as those
    of every video, where version 0.0.14 takes multiples of two tokens.

    Attributes:
        files: the pictures in order, at least one.
        fps: frames per second that time stamps in a prompt are counted by (Qwen3-VL).
        position_fps: frames per second that positions are counted by (Qwen2.5-VL).
    """

    files: tuple[Path, ...]
    fps: float
    position_fps: float

    def num_shown(self, temporal_patch: int) -> int:
        """Return the number of frames that the model gets: whole temporal patches."""
        return -(-len(self.files) // temporal_patch) * temporal_patch


FilePlace = tuple[str, Path, *tuple[float, ...]]
"""Kind and path of a video or image; of a clip of a video also its start and end in seconds of the file."""
Place = FilePlace | tuple[str, FrameList]
"""What a question shows at one place: a file or clip, or ("video", pictures)."""


def place_name(place: Place) -> str:
    """Return the path of a video or image for people: of a clip with its seconds, of pictures the first and last."""
    path, clip = place[1], place[2:]
    if isinstance(path, FrameList):
        files = path.files
        return str(files[0]) if len(files) == 1 else f"{files[0]} to {files[-1].name} ({len(files)} frames)"
    return f"{path} ({clip[0]:g} to {clip[1]:g} s)" if clip else str(path)


def files_of(media: Iterable[Place]) -> Iterator[tuple[str, Path]]:
    """Yield (kind, path) of every file that media are read from; the frames of a list are images."""
    for kind, path, *_ in media:
        if isinstance(path, FrameList):
            yield from (("image", file) for file in path.files)
        else:
            yield kind, path
