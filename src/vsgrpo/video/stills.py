"""Small pictures of a video or an image for pages: the frames that a run reads, as data URLs."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np

from vsgrpo.errors import DataError, SetupError
from vsgrpo.video.image import read_image
from vsgrpo.video.reader import DEFAULT_BACKEND, read_uniform_frames

_WIDTH = 176
_QUALITY = 72


def still_urls(
    path: Path,
    kind: str = "video",
    num_frames: int = 3,
    backend: str = DEFAULT_BACKEND,
    timeout_s: float | None = 60.0,
    width: int = _WIDTH,
) -> list[str]:
    """Return `num_frames` uniform frames of a video, or an image, at most `width` pixels wide and high.

    Args:
        path: the file.
        kind: video or image.
        num_frames: first and last frame are among them.
        backend, timeout_s: of the run that the page is about (`video.backend`, `video.timeout_s`).
        width: in pixels.

    Raises:
        DataError, SetupError: as `read_image` and `read_uniform_frames`.
    """
    if kind == "image":
        return [_data_url(read_image(path), width)]
    _, frames = read_uniform_frames(path, num_frames, backend, timeout_s)
    return [_data_url(frame, width) for frame in frames]


def stills_or_reason(
    path: Path, kind: str, num_frames: int, backend: str, timeout_s: float | None, width: int = _WIDTH
) -> tuple[list[str], str]:
    """Return what `still_urls` returns, and why there is nothing to show.

    Where the backend is not installed here, the default one reads the video: what both read is equal.
    """
    try:
        return still_urls(path, kind, num_frames, backend, timeout_s, width), ""
    except DataError as error:
        return [], error.message
    except SetupError:
        if backend == DEFAULT_BACKEND:
            raise
    return stills_or_reason(path, kind, num_frames, DEFAULT_BACKEND, timeout_s, width)


def _data_url(pixels: np.ndarray, width: int) -> str:
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((width, width))
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode()
