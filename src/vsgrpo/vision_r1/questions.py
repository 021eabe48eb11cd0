"""The questions to think about, one at a time, and the media that a multimodal model is shown of each.

Questions are our rows, or image questions as Vision-R1-rl and geometry3k: {"problem" (or "question"), "answer",
"images" (or "image")}, parquet with the image bytes inside, or json lines with paths relative to the file. Both forms
become rows of schema v1, so that what is written later is one form. Every row passes the leak guard. Images and evenly
spaced video frames are shown as data URLs, under a pixel budget.

Source: EasyR1's geometry3k example; spec of the released Vision-R1-rl.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from PIL import Image

from vsgrpo.config.build import BuildCotConfig, CotSection
from vsgrpo.data.leak_guard import check_rows, name_some
from vsgrpo.data.row import Row, check_row
from vsgrpo.data.rows import row_from_dict
from vsgrpo.errors import DataError
from vsgrpo.evaluation.benchmark import question_row
from vsgrpo.evaluation.unpacking import image_suffix
from vsgrpo.files import file_sha256
from vsgrpo.paths import inside, path_fault, safe_name
from vsgrpo.records import read_records
from vsgrpo.video.budget import PIXELS_VERSION, smart_resize
from vsgrpo.video.container import file_stamp
from vsgrpo.video.image import read_image
from vsgrpo.video.reader import read_uniform_frames

_FIRST = 0
"""Number of the first row of a parquet file; these numbers are part of the ids of paid answers."""
_PLACEHOLDER = re.compile(r"\s*<image>\s*")


@dataclass(frozen=True)
class Item:
    """One question with what is shown.

    Attributes:
        row: its media paths are relative to `base`.
        base: folder of the row file.
        images: the bytes of the images, in the order of `row.media`, where the file carried them inside; else None.
    """

    row: Row
    base: Path
    images: tuple[bytes, ...] | None = None

    def media_bytes(self, index: int) -> bytes:
        """Return the bytes of one of the row's media; DataError names a file that cannot be read."""
        if self.images is not None:
            return self.images[index]
        path = inside(self.base, self.row.media[index]["path"])
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}", "put the media beside the row file") from None


@dataclass(frozen=True)
class Source:
    """A file of questions.

    Attributes:
        file: a .jsonl or .parquet file.
        form: rows | images.
        name: dataset name of image questions.
        allow_val_safe: take val scans of rooms outside the benchmark.
    """

    file: Path
    form: str
    name: str
    allow_val_safe: bool

    def items(self, limit: int | None = None) -> Iterator[Item]:
        """Yield the questions in file order; one is in memory at a time.

        Raises:
            DataError: a broken line, an id used twice, or a row of a benchmark room; names file and line.
        """
        seen: set[bytes] = set()
        for where, data in islice(read_records(self.file, first=_FIRST), limit):
            if self.form == "rows":
                item = Item(row_from_dict(data, where), self.file.parent)
            else:
                item = image_item(data, where, self)
            digest = hashlib.blake2b(item.row.key.encode(), digest_size=8).digest()
            if digest in seen:
                _fail(where, f"id={item.row.id}: used before in this file", "ids must be unique")
            seen.add(digest)
            check_rows([item.row], allow_val_safe=self.allow_val_safe, where=where, base=self.file.parent)
            yield item


def find_source(path: Path | str, split: str, form: str, name: str | None, allow_val_safe: bool) -> Source:
    """Return the source at `path`: a file, or the folder that holds SPLIT.jsonl or SPLIT*.parquet.

    With form=auto the first record decides: `schema_version` marks our rows.

    Raises:
        DataError: no such file, no question in it, or more than one file to choose from.
    """
    path = Path(path)
    file = path
    if path.is_dir():
        found = [path / f"{split}.jsonl"] if (path / f"{split}.jsonl").is_file() else sorted(path.rglob("*.parquet"))
        found = [file for file in found if file.name.startswith(split)]
        if len(found) != 1:
            named = name_some([str(file.relative_to(path)) for file in found]) or "none"
            hint = "set data.split, or give the file itself: data=FILE"
            raise DataError(f"data.path={path}: holds no single {split}.jsonl or {split}*.parquet ({named})", hint)
        file = found[0]
    if not file.is_file():
        raise DataError(f"data.path={path}: no such file or folder", "give rows.jsonl, rows.parquet or their folder")
    if file.suffix not in (".jsonl", ".parquet"):
        raise DataError(f"data.path={file}: not a .jsonl or .parquet file", "give rows.jsonl or rows.parquet")
    first = next(read_records(file, first=_FIRST), None)
    if first is None:
        raise DataError(f"{file}: no question in it", "build or download it again")
    if form == "auto":
        form = "rows" if isinstance(first[1], dict) and "schema_version" in first[1] else "images"
    return Source(file, form, name or file.parent.name or file.stem, allow_val_safe)


def source_of(config: BuildCotConfig) -> Source:
    """Return the source that `data.*` names.

    Raises:
        DataError: as `find_source`, or image questions with cot.bridge=annotation.
    """
    data = config.data
    source = find_source(data.path, data.split, data.form, data.name, data.allow_val_safe)
    if config.cot.bridge == "annotation" and source.form != "rows":
        problem = "cot.bridge=annotation: image questions have no annotated scene"
        raise DataError(f"{source.file}: {problem}", "use cot.bridge=caption")
    return source


def image_item(data: Any, where: str, source: Source) -> Item:
    """Turn {"problem", "answer", "images"} into a row of answer kind `text`."""
    if not isinstance(data, dict):
        _fail(where, "an image question is an object")
    problem, answer = data.get("problem", data.get("question")), data.get("answer")
    for name, value in (("problem", problem), ("answer", answer)):
        if not isinstance(value, (str, int, float)) or not str(value).strip():
            _fail(where, f"{name}={value!r}: must be a non-empty string")
    images = data.get("images", data.get("image"))
    identity = data.get("id", data.get("pid"))
    text = _PLACEHOLDER.sub(" ", str(problem)).strip()
    name = str(identity) if identity is not None else _content_id(where, text, str(answer))
    paths, contents = [], []
    for index, image in enumerate(images if isinstance(images, list) else [images]):
        found = _image(image, where)
        if isinstance(found, bytes):
            if (suffix := image_suffix(found)) is None:
                _fail(where, "images: bytes that are no png, jpeg, webp, gif or bmp")
            contents.append(found)
            found = f"images/{safe_name(name)}_{index}.{suffix}"
        paths.append(found)
    if contents and len(contents) != len(paths):
        _fail(where, "images: some carry bytes, some do not")
    gold, media = str(answer).strip(), [("image", path) for path in paths]
    row = question_row(name, text, gold, media, dataset=source.name, question_type="image_question", split="train")
    check_row(row, where)
    return Item(row, source.file.parent, tuple(contents) or None)


def _content_id(where: str, text: str, answer: str) -> str:
    place = where.rpartition(":")[2]
    return hashlib.blake2b(json.dumps([place, text, answer]).encode(), digest_size=8).hexdigest()


def _image(image: Any, where: str) -> str | bytes:
    """Return the path or the bytes of one entry of `images`."""
    if isinstance(image, dict):
        image = image["bytes"] if isinstance(image.get("bytes"), bytes) else image.get("path")
    if isinstance(image, bytes):
        return image
    if not isinstance(image, str) or not image.strip():
        _fail(where, f"images={str(image)[:60]!r}: must be paths or carry bytes")
    if (fault := path_fault(image)) is not None:
        _fail(where, f"images={image[:60]!r}: {fault}; it must be relative to the file and below its folder")
    return image


def _fail(where: str, problem: str, hint: str = "") -> NoReturn:
    raise DataError(f"{where}: {problem}", hint or 'image questions are {"problem", "answer", "images"}')


_MIN_PIXELS = 3136
_TIMEOUT_S = 60.0
_SENT_AS_THEY_ARE = ("PNG", "JPEG", "WEBP")
"""Image formats that every multimodal endpoint reads."""
PIXELS_PER_TOKEN = 28 * 28
"""A token of the Qwen-VL family is 28 x 28 pixels; for estimates only."""


def media_digests(item: Item, budget: CotSection) -> list[str]:
    """Return what identifies the shown media in a cache key: their content and the budget, without decoding."""
    settings = f"{PIXELS_VERSION} {budget.max_pixels} {budget.jpeg_quality}"
    digests = []
    for index, media in enumerate(item.row.media):
        if media["kind"] == "video":
            digests.append(f"{_file_digest(inside(item.base, media['path']))} {budget.num_frames} {settings}")
        else:
            digests.append(f"{hashlib.sha256(item.media_bytes(index)).hexdigest()} {settings}")
    return digests


def media_urls(item: Item, budget: CotSection) -> list[str]:
    """Return the data URLs to show, in order: one per image, `num_frames` per video.

    Raises:
        DataError: a file that is missing or does not decode.
    """
    urls: list[str] = []
    for index, media in enumerate(item.row.media):
        if media["kind"] == "video":
            path = inside(item.base, media["path"])
            _, frames = read_uniform_frames(path, budget.num_frames, timeout_s=_TIMEOUT_S)
            urls += [_jpeg_url(frame, budget) for frame in frames]
        else:
            where = media["path"] if item.images is not None else str(item.base / media["path"])
            urls.append(_image_url(item.media_bytes(index), where, budget))
    return urls


def estimated_tokens(item: Item, budget: CotSection) -> int:
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


def _image_url(content: bytes, where: str, budget: CotSection) -> str:
    """Return the image itself where it fits the budget and any viewer shows it alike, else a JPEG of its pixels."""
    pixels = read_image(where, content=content)
    with Image.open(io.BytesIO(content)) as image:
        kind = image.get_format_mimetype() if image.format in _SENT_AS_THEY_ARE else None
        is_plain = image.mode in ("RGB", "L") and image.size == pixels.shape[1::-1] and not image.getexif()
    if kind is not None and is_plain and pixels.shape[0] * pixels.shape[1] <= budget.max_pixels:
        return _data_url(kind, content)
    return _jpeg_url(pixels, budget)


def _jpeg_url(pixels: np.ndarray, budget: CotSection) -> str:
    height, width = pixels.shape[:2]
    if height * width > budget.max_pixels:
        height, width = smart_resize(height, width, min_pixels=_MIN_PIXELS, max_pixels=budget.max_pixels)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(stream, "JPEG", quality=budget.jpeg_quality)
    return _data_url("image/jpeg", stream.getvalue())


def _data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
