"""import-data format=images: image questions and published cold-start rows to a dataset folder.

- questions as Vision-R1-rl and geometry3k: {"problem" (or "question"), "answer", "images" (or "image")}; parquet with
  the bytes inside, or paths
- conversations as Vision-R1-cold: {"image" or "images", "conversations" (or "messages"): [{from|role, value|content}]},
  whose answer is <think>..</think><answer>..</answer>: the thought becomes row.reasoning

Rows are read and written one at a time. Source: EasyR1's geometry3k; the files of Osilly/Vision-R1-cold and -rl.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vsgrpo.data.importing.answer_values import Refused
from vsgrpo.data.importing.dataset_folder import ImportSettings, MediaFinder, new_dataset, refuse_rooms
from vsgrpo.data.importing.import_summary import FileTally, OfFiles
from vsgrpo.data.importing.record_names import NAMES, first, parsed
from vsgrpo.data.importing.record_to_row import image_place
from vsgrpo.data.importing.record_turns import Talk, read_talk
from vsgrpo.data.kept_out import kept_json
from vsgrpo.data.leak_guard import denied_in_data, denied_in_path, name_some
from vsgrpo.data.manifest import Manifest, file_record, write_manifest
from vsgrpo.data.rows import falls_into_dev, iter_rows, row_line
from vsgrpo.errors import DataError
from vsgrpo.paths import inside
from vsgrpo.records import read_records
from vsgrpo.vision_r1.filters import read_candidate
from vsgrpo.vision_r1.questions import Item, Source, image_item


@dataclass
class ImageImport(OfFiles):
    """Result of an import: what was taken and refused of each file, rows per split, thoughts among them, and images
    written or linked."""

    out: Path
    files: list[FileTally] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=lambda: Counter(train=0, dev=0))
    num_thoughts: int = 0
    num_images: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the summary as JSON."""
        files = [tally.to_json() for tally in self.files]
        sums = {"num_read": self.num_read, "left_out": self.left_out, "examples": self.examples}
        return {**vars(self), "out": str(self.out), "files": files, **sums}

    def table(self) -> str:
        """Return counts, then of each file what was taken, what was refused and why."""
        kept = ", ".join(f"{number} {name}" for name, number in self.counts.items())
        lines = [f"rows: {self.num_read} read; {kept} -> {self.out}"]
        lines.append(f"with a thought (for SFT in think mode): {self.num_thoughts}; images: {self.num_images}")
        return "\n".join([*lines, *(line for tally in self.files for line in tally.lines())])


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
    summary, seen, denied = ImageImport(out), set[str](), set[str]()
    targets = {name: out / f"{name}.jsonl" for name in summary.counts}
    finder = MediaFinder(settings.images, "images", keeps_missing=False)
    with ExitStack() as stack:
        streams = {
            name: stack.enter_context(path.open("w", encoding="utf-8", newline="\n")) for name, path in targets.items()
        }
        for file in settings.files:
            tally = FileTally(file)
            summary.files.append(tally)
            for where, data in read_records(file, nan="null"):
                tally.read += 1
                try:
                    refuse_rooms([*denied_in_path(file), *denied_in_data(data)])
                    item = _item(data, where, Source(file, "images", settings.dataset, False), finder)
                    if item.row.id in seen:
                        raise Refused("an id used before", item.row.id)
                    split = "dev" if falls_into_dev(item.row.room, settings.dev_fraction) else "train"
                    line = row_line(replace(item.row, split=split), where)
                except Refused as error:
                    tally.refuse(error.reason, where, error.detail)
                    denied.update(error.rooms)
                    continue
                _write_images(item, out)
                streams[split].write(line)
                seen.add(item.row.id)
                tally.taken += 1
                summary.counts[split] += 1
                summary.num_thoughts += item.row.reasoning is not None
                summary.num_images += len(item.row.media)
    finder.link(out)
    if not summary.counts["train"]:
        examples = summary.examples
        reasons = "; ".join(f"{n}: {reason} ({examples[reason]})" for reason, n in summary.left_out.items())
        problem = f"{settings.files[0]}: no row can be taken ({reasons or 'no record'})"
        raise DataError(problem, "see `import-data --help`")
    for path in targets.values():
        for _ in iter_rows(path):  # once, as training reads them
            pass
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
    manifest = Manifest(
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
            **kept_json(settings.keep_out),
        },
        files={f"{name}.jsonl": file_record(out / f"{name}.jsonl") for name in summary.counts},
        notes=[f"rooms of a benchmark, left out: {name_some(denied)}"] if denied else [],
    )
    write_manifest(out, manifest)
