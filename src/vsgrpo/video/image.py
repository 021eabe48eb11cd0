"""Read one image: its size from the header, its pixels as 8-bit RGB, upright.

A picture is shown as a person would see it: turned as its EXIF tag says, transparent parts on white, CMYK, palettes and
grey as RGB; of an animation its first frame. Values of more than 8 bits are scaled by the range that they use.
"""

from __future__ import annotations

import io
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
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
_FULL_RANGE = 1 << 14
_CONVERT = "convert it to 8 bits per channel with the range that you want to show"


def image_size(path: Path | str) -> tuple[int, int]:
    """Return (height, width) in pixels as the image is shown, from its header alone.

    Raises:
        DataError: the file is missing, no image, or larger than `MAX_PIXELS`.
    """
    with _open(path) as image:
        turned = _orientation(image) >= 5
        return (image.width, image.height) if turned else (image.height, image.width)


def read_image(path: Path | str, size: tuple[int, int] | None = None, content: bytes | None = None) -> np.ndarray:
    """Return the image as (H, W, 3) uint8 RGB, resized to `size` (height, width) where given.

    Bicubic, antialiased, as qwen-vl-utils 0.0.14 resizes images. Deviation: it ignores the EXIF orientation.

    Args:
        path: the file; only a name for messages where `content` is given.
        size: (height, width) to return.
        content: the bytes of the file, where they are at hand.

    Raises:
        DataError: the file is missing, broken, cut off, larger than `MAX_PIXELS`, or has no range of values that can be
            scaled to 8 bits.
    """
    with _open(path, content) as image:
        turn = _UPRIGHT.get(_orientation(image))  # before loading: a PNG may carry it after the pixels, unseen above
        try:
            shown = _to_rgb(path, image)
            shown = shown if turn is None else shown.transpose(turn)
        except (DataError, MemoryError):
            raise
        except Exception as error:  # Pillow raises whatever its format's reader meets: struct.error, KeyError, ...
            raise _unreadable(path, error) from error
    if size is not None and size != (shown.height, shown.width):
        shown = shown.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.array(shown)


def read_uint16(path: Path | str) -> np.ndarray:
    """Return a grey image of 16 bits as it is stored, (H, W) uint16: a depth image in millimetres, for instance.

    Raises:
        DataError: the file is missing, broken, cut off, or no such image.
    """
    with _open(path) as image:
        if image.mode not in ("I;16", "I;16L", "I;16B", "I;16N", "I"):
            raise DataError(f"{path}: mode {image.mode}, not grey of 16 bits", hint="write or download it again")
        try:
            values = np.array(image)
        except Exception as error:  # as in `read_image`
            raise _unreadable(path, error) from error
    if values.min(initial=0) < 0 or values.max(initial=0) > np.iinfo(np.uint16).max:
        raise DataError(f"{path}: values beyond 16 bits", hint="write or download it again")
    return values.astype(np.uint16)


def _to_rgb(path: Path | str, image: Any) -> Any:
    """Return an RGB image of 8 bits: transparent parts become white."""
    is_deep_colour = any(";16" in str(tile[3]) for tile in image.tile) and image.mode not in _DEEP
    image.load()
    if image.mode in _DEEP:
        image = Image.fromarray(_scaled(path, np.asarray(image)))
    elif is_deep_colour and max(high for _, high in image.convert("RGB").getextrema()) * 256 < _FULL_RANGE:
        # Pillow keeps the upper byte of 16-bit colour; there is next to nothing in it.
        raise DataError(f"{path}: 16-bit colour that uses less than 14 of its bits", hint=_CONVERT)
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image.convert("RGB")


def _scaled(path: Path | str, values: np.ndarray) -> np.ndarray:
    """Return grey values of 16 or 32 bits or floats as uint8, white being 255.

    White is 65535 where integers use more than 14 bits, 255 where they fit 8 bits, 1 where floats end between 0.25 and
    1; else the brightest value: sensors store 10, 12 or 14 bits in 16, depth maps store millimetres.
    """
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if not np.isfinite(low) or not np.isfinite(high) or low < 0:
        raise DataError(f"{path}: grey values from {low:g} to {high:g}, cannot be shown as 0 to 255", hint=_CONVERT)
    if values.dtype.kind == "f":
        white = 1.0 if 0.25 <= high <= 1 else high
    elif high <= 255:
        white = 255.0
    else:
        white = 65535.0 if _FULL_RANGE <= high <= 65535 else high
    return (values.astype(np.float32) * np.float32(255 / (white or 1.0)) + np.float32(0.5)).astype(np.uint8)


def _orientation(image: Any) -> int:
    """Return the EXIF orientation in the header, 1 (upright) where it is none of the eight."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # getexif() would decode the pixels to look behind them
    try:
        found = int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken tag is no reason to refuse the picture
        return 1
    return found if found in _UPRIGHT else 1


def _open(path: Path | str, content: bytes | None = None) -> Any:
    file = Path(path)
    if content is None and not file.is_file():
        raise DataError(f"{file}: no such file", hint="check the path; media paths are relative to the row file")
    if content == b"" or (content is None and file.stat().st_size == 0):
        raise DataError(f"{file}: is empty", hint="write or download it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is below
            image = Image.open(file if content is None else io.BytesIO(content))
    except Image.DecompressionBombError:
        raise _too_large(path, "") from None
    except Exception as error:
        raise _unreadable(path, error) from error
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise _too_large(path, f"{image.width}x{image.height}, ")
    return image


def _too_large(path: Path | str, size: str) -> DataError:
    return DataError(f"{path}: {size}more than the {MAX_PIXELS} pixels that are decoded", hint="scale it down")


def _unreadable(path: Path | str, error: Exception) -> DataError:
    reason = str(error).partition(" '")[0].partition(" <")[0].strip() or type(error).__name__
    return DataError(f"{path}: not readable as an image ({reason})", hint="write or download it again")
