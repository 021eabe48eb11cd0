"""Read the questions to think about, one at a time: rows of ours, or image questions as Vision-R1-rl and geometry3k.

An image question is {"problem" (or "question"), "answer", "images" (or "image")}: parquet with the image bytes inside,
or json lines with paths relative to the file. Both forms become rows of schema v1, so that what is written later is
one form. Every row passes the leak guard.

Source: EasyR1's geometry3k example; spec of the released Vision-R1-rl.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from vsgrpo.data.leakage import check_rows, name_some
from vsgrpo.data.row import SCHEMA_VERSION, Row
from vsgrpo.data.row_rules import check_row
from vsgrpo.data.rows import row_from_dict
from vsgrpo.errors import DataError
from vsgrpo.paths import inside, path_fault, safe_name
from vsgrpo.records import read_records

IMAGE_QUESTION = "image_question"
"""The question type of rows that come from image questions."""
FORMS = ("auto", "rows", "images")

_PLACEHOLDER = re.compile(r"\s*<image>\s*")
MAGIC = ((b"\x89PNG", "png"), (b"\xff\xd8\xff", "jpg"), (b"RIFF", "webp"), (b"GIF8", "gif"), (b"BM", "bmp"))


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
    """Where questions come from.

    Attributes:
        file: a .jsonl or .parquet file.
        form: rows | images.
        name: dataset name of image questions.
        allow_val_safe: take ScanNet val scans of rooms outside the benchmark.
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
        for where, data in islice(records(self.file), limit):
            item = self._item(data, where)
            digest = hashlib.blake2b(item.row.key.encode(), digest_size=8).digest()
            if digest in seen:
                _fail(where, f"id={item.row.id}: used before in this file", "ids must be unique")
            seen.add(digest)
            check_rows([item.row], allow_val_safe=self.allow_val_safe, where=where, base=self.file.parent)
            yield item

    def _item(self, data: Any, where: str) -> Item:
        if self.form == "rows":
            return Item(row_from_dict(data, where), self.file.parent)
        return image_item(data, where, self)


def find_source(path: Path | str, split: str, form: str, name: str | None, allow_val_safe: bool) -> Source:
    """Return the source at `path`: a file, or the folder that holds SPLIT.jsonl or SPLIT*.parquet.

    With form=auto the first record tells: `schema_version` marks rows of ours.

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
    first = next(iter(records(file)), None)
    if first is None:
        raise DataError(f"{file}: no question in it", "build or download it again")
    if form == "auto":
        form = "rows" if isinstance(first[1], dict) and "schema_version" in first[1] else "images"
    return Source(file, form, name or file.parent.name or file.stem, allow_val_safe)


def records(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield (where, object) of each record; rows of parquet from 0: the numbers are part of ids of paid answers."""
    return read_records(file, first=0)


def image_item(data: Any, where: str, source: Source) -> Item:
    """Turn {"problem", "answer", "images"} into a row of answer kind `text`."""
    if not isinstance(data, dict):
        _fail(where, "an image question is an object")
    problem, answer = data.get("problem", data.get("question")), data.get("answer")
    for name, value in (("problem", problem), ("answer", answer)):
        if not isinstance(value, (str, int, float)) or not str(value).strip():
            _fail(where, f"{name}={value!r}: must be a non-empty string")
    images = data.get("images", data.get("image"))
    images = images if isinstance(images, list) else [images]
    media, contents = [], []
    identity = data.get("id", data.get("pid"))
    text = _PLACEHOLDER.sub(" ", str(problem)).strip()
    name = str(identity) if identity is not None else _content_id(where, text, str(answer))
    for index, image in enumerate(images):
        path, content = _image(image, where)
        if content is not None:
            path = f"images/{safe_name(name)}_{index}.{_suffix(content, where)}"
            contents.append(content)
        media.append({"kind": "image", "path": path})
    if contents and len(contents) != len(media):
        _fail(where, "images: some carry bytes, some do not")
    row = Row(
        schema_version=SCHEMA_VERSION,
        id=name,
        dataset=source.name,
        split="train",
        scene_name=name,
        room=name,
        question_type=IMAGE_QUESTION,
        question=text,
        options=None,
        ground_truth=str(answer).strip(),
        answer=str(answer).strip(),
        answer_kind="text",
        unit=None,
        media=tuple(media),
        rejected=None,
        reasoning=None,
        objects=(),
        generator={},
        extra={},
    )
    check_row(row, where)
    return Item(row, source.file.parent, tuple(contents) or None)


def _content_id(where: str, text: str, answer: str) -> str:
    place = where.rpartition(":")[2]
    return hashlib.blake2b(json.dumps([place, text, answer]).encode(), digest_size=8).hexdigest()


def _image(image: Any, where: str) -> tuple[str, bytes | None]:
    """Return (path, None) or ("", bytes) of one entry of `images`."""
    if isinstance(image, dict):
        if isinstance(image.get("bytes"), bytes):
            return "", image["bytes"]
        image = image.get("path")
    if isinstance(image, bytes):
        return "", image
    if not isinstance(image, str) or not image.strip():
        _fail(where, f"images={str(image)[:60]!r}: must be paths or carry bytes")
    if (fault := path_fault(image)) is not None:
        _fail(where, f"images={image[:60]!r}: {fault}; it must be relative to the file and below its folder")
    return image, None


def _suffix(content: bytes, where: str) -> str:
    suffix = next((suffix for magic, suffix in MAGIC if content.startswith(magic)), None)
    if suffix is None:
        _fail(where, "images: bytes that are no png, jpeg, webp, gif or bmp")
    return suffix


def _fail(where: str, problem: str, hint: str = "") -> NoReturn:
    raise DataError(f"{where}: {problem}", hint or 'image questions are {"problem", "answer", "images"}')
