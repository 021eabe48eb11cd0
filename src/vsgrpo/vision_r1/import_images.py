"""import-data format=images: image questions and published cold-start rows to a dataset folder.

- questions as Vision-R1-rl and geometry3k: {"problem" (or "question"), "answer", "images" (or "image")}; parquet with
  the bytes inside, or paths
- conversations as Vision-R1-cold: {"image" or "images", "conversations" (or "messages"): [{from|role, value|content}]},
  whose answer is <think>..</think><answer>..</answer>: the thought becomes row.reasoning

Rows are read and written one at a time. Source: EasyR1's geometry3k; the files of Osilly/Vision-R1-cold and -rl.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vsgrpo.data.importing.answer_values import Refused
from vsgrpo.data.importing.dataset_folder import ImportSettings, MediaFinder, new_dataset, refuse_rooms
from vsgrpo.data.importing.record_forms import NAMES, Talk, first, parsed, read_talk
from vsgrpo.data.importing.record_to_row import image_place
from vsgrpo.data.leak_guard import denied_in_data, name_some
from vsgrpo.data.manifest import Manifest, file_record, write_manifest
from vsgrpo.data.rows import falls_into_dev, iter_rows, row_line
from vsgrpo.errors import DataError
from vsgrpo.paths import inside
from vsgrpo.records import read_records
from vsgrpo.vision_r1.filters import read_candidate
from vsgrpo.vision_r1.questions import Item, Source, image_item


@dataclass(frozen=True)
class ImageImport:
    """Result of an import: records read, rows per split, thoughts among them, records left out by reason with a first
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
    denied: set[str] = set()
    num_read = num_thoughts = num_images = 0
    targets = {name: out / f"{name}.jsonl" for name in ("train", "dev")}
    finder = MediaFinder(settings.images, "images", keeps_missing=False, denies=denied_in_data)
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(path.with_name(f".{path.name}.tmp").open("w", encoding="utf-8", newline="\n"))
            for name, path in targets.items()
        }
        for file in settings.files:
            for where, data in read_records(file, nan="null"):
                num_read += 1
                try:
                    refuse_rooms(denied_in_data(data))
                    item = _item(data, where, Source(file, "images", settings.dataset, False), finder)
                    if item.row.id in seen:
                        raise Refused("an id used before", item.row.id)
                    split = "dev" if falls_into_dev(item.row.room, settings.dev_fraction) else "train"
                    line = row_line(replace(item.row, split=split), where)
                except Refused as error:
                    left_out[error.reason] += 1
                    denied.update(error.rooms)
                    examples.setdefault(error.reason, f"{where}: {error.detail}" if error.detail else where)
                    continue
                _write_images(item, out)
                seen.add(item.row.id)
                files[split].write(line)
                counts[split] += 1
                num_thoughts += item.row.reasoning is not None
                num_images += len(item.row.media)
    finder.link(out)
    if not counts["train"]:
        reasons = "; ".join(f"{number}: {reason} ({examples[reason]})" for reason, number in left_out.items())
        raise DataError(
            f"{settings.files[0]}: no row can be taken ({reasons or 'no record'})", "see `import-data --help`"
        )
    for path in targets.values():
        for _ in iter_rows(path.with_name(f".{path.name}.tmp")):  # once, as training reads them
            pass
    for path in targets.values():
        os.replace(path.with_name(f".{path.name}.tmp"), path)
    summary = ImageImport(out, num_read, dict(counts), num_thoughts, num_images, dict(left_out.most_common()), examples)
    _write_manifest(settings, summary, sorted(denied))
    return summary


def _item(data: Any, where: str, source: Source, finder: MediaFinder) -> Item:
    """Return the question of a record, its images where they will be in the dataset folder, with its thought."""
    if not isinstance(data, Mapping):
        raise Refused("not an image question", "a record is an object")
    is_talk = first(data, NAMES["turns"]) is not None
    talk = read_talk(data) if is_talk else Talk()
    if is_talk and not (isinstance(talk.question, str) and isinstance(talk.answer, str)):
        raise Refused("not one question and one answer")
    plain = {name: value for name, value in data.items() if name not in ("image", *NAMES["turns"])}
    plain["images"] = [_place(image, finder, source.file.parent) for image in _images(data, talk)]
    try:
        item = image_item(plain | ({"problem": talk.question, "answer": "x"} if is_talk else {}), where, source)
    except DataError as error:
        raise Refused("not an image question", error.message.removeprefix(f"{where}: ")) from None
    if not is_talk:
        return item
    found = read_candidate(item.row, talk.answer)
    if found.problem is not None:
        raise Refused(f"an answer not in tags ({found.problem})", talk.answer[:60])
    extra = {"system": talk.system} if talk.system else {}
    row = replace(item.row, answer=found.answer, ground_truth=found.answer, reasoning=found.thought, extra=extra)
    return replace(item, row=row)


def _images(data: Mapping[str, Any], talk: Talk) -> list[Any]:
    """Return the images of the column (one, a list, or the list as a JSON string), else of the parts of the turns."""
    listed = parsed(first(data, ("images", "image")))
    listed = list(listed) if isinstance(listed, list | tuple) else [listed]
    if not talk.media:
        return listed
    if any(kind != "image" for kind, _ in talk.media):
        raise Refused("a video in an image question")
    inner = [path for _, path in talk.media]
    if listed == [None]:
        return inner
    named = [path if isinstance(path := _path(image), str) else None for image in listed]  # None: the picture inside
    if len(named) != len(inner) or any(one not in (None, two) for one, two in zip(named, inner, strict=True)):
        raise Refused("images in the turns that are not those of the column", ", ".join(inner)[:120])
    return listed


def _path(image: Any) -> Any:
    """Return the path of an image; pictures inside as they are."""
    return image.get("path") if isinstance(image, Mapping) and not image.get("bytes") else image


def _place(image: Any, finder: MediaFinder, beside: Path) -> Any:
    """Return the path that an image will have in the dataset folder; pictures inside stay."""
    path = _path(image)
    if not isinstance(path, str) or not path.strip():
        return path
    return finder.place(image_place(path), path, beside, path if finder.root is not None else f"{beside}\0{path}")


def _write_images(item: Item, out: Path) -> None:
    """Write the pictures that a record carries inside."""
    for media, content in zip(item.row.media, item.images or (), strict=False):
        path = inside(out, media["path"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _write_manifest(settings: ImportSettings, summary: ImageImport, denied: list[str]) -> None:
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
            counts={
                "rows": summary.counts,
                "left_out": summary.left_out,
                "denied_rooms": denied,
                "read": summary.num_read,
            },
            files={f"{name}.jsonl": file_record(out / f"{name}.jsonl") for name in summary.counts},
            notes=[f"rooms of a benchmark, left out: {name_some(denied)}"] if denied else [],
        ),
    )
