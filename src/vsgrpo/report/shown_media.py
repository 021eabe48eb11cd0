"""Small pictures of the videos and images of a row, as pages show them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vsgrpo.errors import DataError, SetupError
from vsgrpo.video.budget import frame_indices
from vsgrpo.video.image import read_image
from vsgrpo.video.place import FrameList, Place
from vsgrpo.video.reader import DEFAULT_BACKEND, read_uniform_frames

MOST_MEDIA = 12
"""Images and videos of a row that a page shows; harnesses show up to 300 frames as pictures."""
_JPEG_QUALITY = 72


def spread_media(media: Sequence[Place]) -> Sequence[Place]:
    """Return at most `MOST_MEDIA` of the images and videos of a row, first and last among them."""
    if len(media) <= MOST_MEDIA:
        return media
    return [media[round(k * (len(media) - 1) / (MOST_MEDIA - 1))] for k in range(MOST_MEDIA)]


def pictures(
    media: Sequence[Place], reader: Mapping[str, Any], num_frames: int = 3, width: int = 176, only: Any = ()
) -> tuple[list[str], list[str]]:
    """Return the images of a row and frames of its videos as data URLs, and why others are missing.

    Args:
        media: in the order in which they are shown.
        reader: `backend` and `timeout_s` as the run or the evaluation recorded them; what it lacks is the default.
        num_frames: of a video, uniform, first and last among them.
        width: largest width and height in pixels.
        only: numbers of the frames among these, from 1, that are wanted; none: all.
    """
    timeout = max(0.0, reader.get("timeout_s", 60.0) or 0.0) or None
    urls: list[str] = []
    problems: list[str] = []
    if len(media) > MOST_MEDIA:
        problems.append(f"{MOST_MEDIA} of the {len(media)} images and videos of this row are here, evenly spread")
    for place in spread_media(media):
        try:
            found = frames_of(place, num_frames, reader.get("backend") or DEFAULT_BACKEND, timeout)
            found = [found[number - 1] for number in only] if only and place[0] == "video" else found
            urls += [data_url(pixels, width) for pixels in found]
        except DataError as error:
            problems.append(error.message)
    return urls, problems


def frames_of(
    place: Place, num_frames: int, backend: str = DEFAULT_BACKEND, timeout_s: float | None = None
) -> list[np.ndarray]:
    """Return an image, or uniform frames of a video, each (H, W, 3) uint8.

    The default backend takes the place of one that is not installed: both read the same.

    Raises:
        DataError: a file is missing or broken.
    """
    kind, path, *clip = place
    if isinstance(path, FrameList):
        return [read_image(path.files[index]) for index in frame_indices(len(path.files), num_frames)]
    if kind == "image":
        return [read_image(path)]
    try:
        return list(read_uniform_frames(path, num_frames, backend, timeout_s, clip)[1])
    except SetupError:
        if backend == DEFAULT_BACKEND:
            raise
    return list(read_uniform_frames(path, num_frames, DEFAULT_BACKEND, timeout_s, clip)[1])


def data_url(pixels: np.ndarray, width: int) -> str:
    """Return a picture (H, W, 3) as a data URL, at most `width` pixels wide and high."""
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((width, width))
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode()
