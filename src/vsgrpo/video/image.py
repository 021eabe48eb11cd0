"""Read one image file: its size from the header, its pixels as 8-bit RGB, upright.

A picture is shown as a person would see it: turned as its EXIF tag says, transparent parts on white, CMYK, palettes,
grey and 16-bit grey as RGB; of an animation its first frame.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vsgrpo.errors import DataError

MAX_PIXELS = 8192 * 8192
"""Pixels of an image or of a frame that are decoded at most: 200 MB as RGB. A file of 0.5 MB may state any number."""
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what turns the image upright; from 5 on width and height change places."""
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, IndexError, Image.DecompressionBombError)
"""What Pillow raises on broken files, by format."""


def image_size(path: Path | str) -> tuple[int, int]:
    """Return (height, width) in pixels as the image is shown, from its header alone.

    Raises:
        DataError: the file is missing or no image.
    """
    with _open(path) as image:
        turned = _orientation(image) >= 5
        return (image.width, image.height) if turned else (image.height, image.width)


def read_image(path: Path | str, size: tuple[int, int] | None = None) -> np.ndarray:
    """Return the image as (H, W, 3) uint8 RGB, resized to `size` (height, width) where given.

    Bicubic, antialiased, as qwen-vl-utils 0.0.14 resizes images. Deviation: it ignores the EXIF orientation.

    Raises:
        DataError: the file is missing, broken or cut off.
    """
    with _open(path) as image:
        turn = _UPRIGHT.get(_orientation(image))  # before loading: a PNG may carry it after the pixels, unseen above
        try:
            image.load()
            shown = to_rgb(image if turn is None else image.transpose(turn))
        except _BROKEN as error:
            raise _unreadable(path, error) from None
    if size is not None and size != (shown.height, shown.width):
        shown = shown.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.array(shown)


def to_rgb(image: Any) -> Any:
    """Return an RGB image: transparent parts become white, 16-bit grey keeps its upper 8 bits."""
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I"):
        values = np.asarray(image).astype(np.int64)
        depth = 257 if values.max(initial=0) > 255 else 1
        image = Image.fromarray((values.clip(0, 65535) // depth).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _orientation(image: Any) -> int:
    """Return the EXIF orientation that the header tells, 1 (upright) where it tells none."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # getexif() would decode the pixels to look behind them
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except (*_BROKEN, TypeError, KeyError):
        return 1


def _open(path: Path | str) -> Any:
    file = Path(path)
    if not file.is_file():
        raise DataError(f"{file}: no such file", hint="check the path; media paths are relative to the row file")
    if file.stat().st_size == 0:
        raise DataError(f"{file}: is empty", hint="write or download it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large is fine, it is scaled down
            return Image.open(file)
    except _BROKEN as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path | str, error: Exception) -> DataError:
    reason = str(error).partition(" '")[0].partition(" <")[0].strip() or type(error).__name__
    return DataError(f"{path}: not readable as an image ({reason})", hint="write or download it again")
