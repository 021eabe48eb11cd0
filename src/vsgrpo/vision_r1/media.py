"""What is shown to a multimodal model: images and evenly spaced video frames as data URLs, under a pixel budget."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vsgrpo.errors import DataError
from vsgrpo.files import file_sha256
from vsgrpo.paths import inside
from vsgrpo.video.budget import PIXELS_VERSION, smart_resize
from vsgrpo.video.container import file_stamp
from vsgrpo.video.image import read_image
from vsgrpo.vision_r1.questions import Item

_MIN_PIXELS = 3136
_TIMEOUT_S = 60.0
_TYPES = {"png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "webp": "image/webp"}
PIXELS_PER_TOKEN = 28 * 28
"""Of the Qwen-VL family; used for estimates only."""


@dataclass(frozen=True)
class MediaBudget:
    """How much is shown.

    Attributes:
        num_frames: frames of a video, evenly spaced.
        max_pixels: of an image or frame; larger ones are scaled down.
        jpeg_quality: of frames and scaled images.
    """

    num_frames: int
    max_pixels: int
    jpeg_quality: int


def media_digests(item: Item, budget: MediaBudget) -> list[str]:
    """Return what identifies the shown media in a cache key: their content and the budget, without decoding."""
    settings = f"{PIXELS_VERSION} {budget.max_pixels} {budget.jpeg_quality}"
    digests = []
    for index, media in enumerate(item.row.media):
        if media["kind"] == "video":
            digests.append(f"{_file_digest(inside(item.base, media['path']))} {budget.num_frames} {settings}")
        else:
            digests.append(f"{hashlib.sha256(item.media_bytes(index)).hexdigest()} {settings}")
    return digests


def media_urls(item: Item, budget: MediaBudget) -> list[str]:
    """Return the data URLs to show, in order: one per image, `num_frames` per video.

    Raises:
        DataError: a file that is missing or does not decode.
    """
    urls: list[str] = []
    for index, media in enumerate(item.row.media):
        if media["kind"] == "video":
            urls += _frame_urls(inside(item.base, media["path"]), budget)
        else:
            where = media["path"] if item.images is not None else str(item.base / media["path"])
            urls.append(_image_url(item.media_bytes(index), where, budget))
    return urls


def estimated_tokens(item: Item, budget: MediaBudget) -> int:
    """Return an upper estimate of the tokens that the shown media cost, without opening them."""
    shown = sum(budget.num_frames if media["kind"] == "video" else 1 for media in item.row.media)
    return shown * (budget.max_pixels // PIXELS_PER_TOKEN)


def _file_digest(path: Path) -> str:
    try:
        return _digest_of(file_stamp(str(path)))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})", "check its rights") from None


@functools.lru_cache(maxsize=4096)  # a video has many questions
def _digest_of(stamp: tuple[str, int, int, int]) -> str:
    return file_sha256(Path(stamp[0]))


def _frame_urls(path: Path, budget: MediaBudget) -> list[str]:
    from vsgrpo.video.reader import read_uniform_frames  # here: rows of images need no decoder

    _, frames = read_uniform_frames(path, budget.num_frames, timeout_s=_TIMEOUT_S)
    return [_jpeg_url(frame, budget) for frame in frames]


def _image_url(content: bytes, where: str, budget: MediaBudget) -> str:
    """Return the image itself where it fits the budget and any viewer shows it alike, else a JPEG of its pixels."""
    from PIL import Image

    pixels = read_image(where, content=content)
    with Image.open(io.BytesIO(content)) as image:
        kind = _TYPES.get((image.format or "").lower())
        is_plain = image.mode in ("RGB", "L") and image.size == pixels.shape[1::-1] and not image.getexif()
    if kind is not None and is_plain and pixels.shape[0] * pixels.shape[1] <= budget.max_pixels:
        return _data_url(kind, content)
    return _jpeg_url(pixels, budget)


def _jpeg_url(pixels: np.ndarray, budget: MediaBudget) -> str:
    from PIL import Image

    height, width = pixels.shape[:2]
    if height * width > budget.max_pixels:
        height, width = smart_resize(height, width, min_pixels=_MIN_PIXELS, max_pixels=budget.max_pixels)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(stream, "JPEG", quality=budget.jpeg_quality)
    return _data_url("image/jpeg", stream.getvalue())


def _data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
