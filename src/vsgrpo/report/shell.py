"""What every page is made of: one frame with one style sheet, and small pictures of videos and images.

A page is one file: no network, no scripts, light and dark. `templates/page.html` is the frame, each page has a template
that fills it. Text is escaped by jinja; SVG of our own (`svg`, `plan`) is escaped already and put in with `|safe`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np

from vsgrpo.data.row import LETTERS
from vsgrpo.errors import DataError, SetupError
from vsgrpo.files import write_atomic
from vsgrpo.spatial.question import UNITS
from vsgrpo.video.image import read_image
from vsgrpo.video.reader import DEFAULT_BACKEND, read_uniform_frames

TEMPLATES = files("vsgrpo.report") / "templates"
_QUALITY = 72
"""JPEG quality of the pictures."""


def render(template: Traversable | Path, **values: Any) -> str:
    """Return the page of a template that fills `page.html`; it also knows `version`, `letters` and `units`."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("vsgrpo.report"), autoescape=True, trim_blocks=True)
    page = environment.from_string(template.read_text(encoding="utf-8"))
    return page.render(version=version("vsgrpo"), letters=LETTERS, units=UNITS, **values)


def write_page(path: Path, text: str, key: str = "output") -> None:
    """Write a page, as `write_atomic`; what is there is replaced only where it is a page.

    Args:
        key: of the command line that names it.

    Raises:
        DataError: a file of another kind is there, or the page cannot be written.
    """
    try:
        if path.is_file():
            with path.open("rb") as stream:
                is_page = stream.read(256).lstrip().lower().startswith(b"<!doctype html")
            if not is_page:
                raise DataError(f"{key}={path}: exists and is no page", f"choose another {key}=FILE.html")
        write_atomic(path, text)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}", f"choose another {key}=FILE") from None


def pictures(
    media: Iterable[tuple[str, Path]], reader: Mapping[str, Any], num_frames: int = 3, width: int = 176
) -> tuple[list[str], list[str]]:
    """Return the images of a row and frames of its videos as data URLs, and why others are missing.

    Args:
        media: (kind, path) in the order in which they are shown.
        reader: `backend` and `timeout_s` as the run or the evaluation recorded them; what it lacks is the default.
        num_frames: of a video, uniform, first and last among them.
        width: largest width and height in pixels.
    """
    timeout = reader.get("timeout_s", 60.0)
    timeout = None if timeout is None or timeout <= 0 else timeout
    urls: list[str] = []
    problems: list[str] = []
    for kind, path in media:
        try:
            if kind == "image":
                found = [read_image(path)]
            else:
                found = _frames(path, num_frames, reader.get("backend") or DEFAULT_BACKEND, timeout)
            urls += [_data_url(pixels, width) for pixels in found]
        except DataError as error:
            problems.append(error.message)
    return urls, problems


def _frames(path: Path, num_frames: int, backend: str, timeout_s: float | None) -> Iterable[np.ndarray]:
    """Read uniform frames; by the default backend where the one asked for is not installed: what both read is equal."""
    try:
        return read_uniform_frames(path, num_frames, backend, timeout_s)[1]
    except SetupError:
        if backend == DEFAULT_BACKEND:
            raise
    return read_uniform_frames(path, num_frames, DEFAULT_BACKEND, timeout_s)[1]


def _data_url(pixels: np.ndarray, width: int) -> str:
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((width, width))
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode()
