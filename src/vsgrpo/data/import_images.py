"""import-data format=images: image questions and published cold-start rows to a dataset folder of ours.

- questions as Vision-R1-rl and geometry3k: {"problem" (or "question"), "answer", "images" (or "image")}; parquet with
  the bytes inside, or paths
- conversations as Vision-R1-cold: {"image" or "images", "conversations" (or "messages"): [{from|role, value|content}]},
  whose answer is <think>..</think><answer>..</answer>: the thought becomes row.reasoning

Rows are read and written one at a time. Source: EasyR1's geometry3k; the files of Osilly/Vision-R1-cold and -rl.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from vsgrpo.data.cot.filters import read_candidate
from vsgrpo.data.cot.inputs import Item, Source, image_item, records
from vsgrpo.data.import_folder import new_dataset
from vsgrpo.data.import_settings import ImportSettings
from vsgrpo.data.leakage import falls_into_dev
from vsgrpo.data.linking import link_or_copy
from vsgrpo.data.manifest import Manifest, file_record, write_manifest
from vsgrpo.data.rows import Row, row_to_dict
from vsgrpo.errors import DataError

_TURNS = ("conversations", "messages")


class _Refused(Exception):
    """A record that gives no row: the class of fault (counted), and this one."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class ImageImport:
    """What an import did: records read, rows per split, thoughts among them, records left out by reason with a first
    example each, images written or linked."""

    out: Path
    num_read: int
    counts: dict[str, int]
    num_thoughts: int
    num_images: int
    left_out: dict[str, int]
    examples: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the summary as JSON."""
        return {**asdict(self), "out": str(self.out)}

    def table(self) -> str:
        """Return counts, then what was left out and why."""
        kept = ", ".join(f"{number} {name}" for name, number in self.counts.items())
        lines = [f"rows: {self.num_read} read; {kept} -> {self.out}"]
        lines.append(f"with a thought (for SFT in think mode): {self.num_thoughts}; images: {self.num_images}")
        lines += [f"left out: {n}: {reason} (first: {self.examples[reason]})" for reason, n in self.left_out.items()]
        return "\n".join(lines)


def import_images(settings: ImportSettings, *, overwrite: bool = False) -> ImageImport:
    """Read image questions or conversations and write train.jsonl, dev.jsonl, images/ and manifest.json.

    Raises:
        DataError: a file cannot be read, no row is left, or the folder holds something else.
    """
    with new_dataset(settings, overwrite) as staged:
        summary = _import(staged)
    return replace(summary, out=settings.output)


def _import(settings: ImportSettings) -> ImageImport:
    out = settings.output
    out.mkdir(parents=True, exist_ok=True)
    left_out: Counter[str] = Counter()
    examples: dict[str, str] = {}
    counts: Counter[str] = Counter(train=0, dev=0)
    seen: set[str] = set()
    num_read = num_thoughts = num_images = 0
    targets = {name: out / f"{name}.jsonl" for name in ("train", "dev")}
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(path.with_name(f".{path.name}.tmp").open("w", encoding="utf-8"))
            for name, path in targets.items()
        }
        for file, where, data in _objects(settings):
            num_read += 1
            try:
                item = _item(data, where, Source(file, "images", settings.dataset, False))
                if item.row.id in seen:
                    raise _Refused("an id used before", item.row.id)
                row = replace(item.row, media=tuple(_place(item, k, settings) for k in range(len(item.row.media))))
            except _Refused as error:
                left_out[error.reason] += 1
                examples.setdefault(error.reason, f"{where}: {error.detail}" if error.detail else where)
                continue
            seen.add(row.id)
            split = "dev" if falls_into_dev(row.room, settings.dev_fraction) else "train"
            _line(files[split], replace(row, split=split))
            counts[split] += 1
            num_thoughts += row.reasoning is not None
            num_images += len(row.media)
    if not counts["train"]:
        reasons = "; ".join(f"{number}: {reason} ({examples[reason]})" for reason, number in left_out.items())
        raise DataError(
            f"{settings.files[0]}: no row can be taken ({reasons or 'no record'})", "see `import-data --help`"
        )
    for path in targets.values():
        os.replace(path.with_name(f".{path.name}.tmp"), path)
    summary = ImageImport(out, num_read, dict(counts), num_thoughts, num_images, dict(left_out.most_common()), examples)
    _write_manifest(settings, summary)
    return summary


def _objects(settings: ImportSettings) -> Iterator[tuple[Path, str, Any]]:
    for file in settings.files:
        if not file.is_file():
            raise DataError(f"{file}: no such file", "give .json, .jsonl or .parquet files")
        yield from ((file, where, data) for where, data in records(file))


def _item(data: Any, where: str, source: Source) -> Item:
    """Return the question of a record, with the thought of a conversation."""
    turns = (
        next((data[name] for name in _TURNS if isinstance(data.get(name), list)), None) if _is_object(data) else None
    )
    if turns is None:
        try:
            return image_item(data, where, source)
        except DataError as error:
            raise _Refused("not an image question", error.message.removeprefix(f"{where}: ")) from None
    texts = [turn.get("value", turn.get("content")) for turn in turns if _is_object(turn)]
    kinds = [turn.get("from", turn.get("role")) for turn in turns if _is_object(turn)]
    spoken = [text for text, kind in zip(texts, kinds, strict=True) if kind != "system"]
    if len(spoken) != 2 or not all(isinstance(text, str) for text in spoken):
        raise _Refused("not one question and one answer", str(kinds))
    plain = {name: value for name, value in data.items() if name not in _TURNS}
    item = _item({**plain, "problem": spoken[0], "answer": "x"}, where, source)
    found = read_candidate(item.row, spoken[1])
    if found.problem is not None:
        raise _Refused(f"an answer not in tags ({found.problem})", spoken[1][:60])
    row = replace(item.row, answer=found.answer, ground_truth=found.answer, reasoning=found.thought)
    return replace(item, row=row)


def _is_object(data: Any) -> bool:
    return isinstance(data, Mapping)


def _place(item: Item, index: int, settings: ImportSettings) -> dict[str, str]:
    """Write or link one image into the folder; return its media entry."""
    name = item.row.media[index]["path"]
    target = settings.output / (name if item.images is not None else f"images/{name.removeprefix('images/')}")
    if item.images is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(item.images[index])
    elif not target.is_file():
        folders = [settings.images] if settings.images is not None else [item.base, item.base / "images"]
        source = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if source is None:
            raise _Refused("no such image (images=DIR says where they lie)", name)
        link_or_copy(source, target)
    return {"kind": "image", "path": target.relative_to(settings.output).as_posix()}


def _line(stream: IO[str], row: Row) -> None:
    stream.write(json.dumps(row_to_dict(row), ensure_ascii=False, allow_nan=False) + "\n")


def _write_manifest(settings: ImportSettings, summary: ImageImport) -> None:
    out = settings.output
    write_manifest(
        out,
        Manifest(
            version=version("vsgrpo"),
            dataset=settings.dataset,
            config={"imported": {"files": [file.name for file in settings.files], "format": "images"}},
            seed=0,
            scans={},
            rooms={},
            counts={"rows": summary.counts, "left_out": summary.left_out, "read": summary.num_read},
            files={f"{name}.jsonl": file_record(out / f"{name}.jsonl") for name in summary.counts},
            notes=[],
        ),
    )
