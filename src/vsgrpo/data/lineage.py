"""training_manifest.json: all that a model and its ancestors were trained on.

A training run writes it beside its weights: rooms, hashes of row files and videos, the manifests of all models that it
started from. Every command that scores a model asks it for a verdict first. `leak_guard` judges the rows.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vsgrpo.data.leak_guard import VERDICTS, Judgement, Links, judge_row, worst
from vsgrpo.data.manifest import MANIFEST_NAME, file_record
from vsgrpo.data.room_ids import Found, dataset_of_path, find_rooms, room_label, rooms_in, shown_rooms
from vsgrpo.data.row import Row
from vsgrpo.errors import DataError
from vsgrpo.families import BUILT, FAMILIES, adapter_base
from vsgrpo.files import write_atomic
from vsgrpo.records import read_record
from vsgrpo.tables import denied_rooms

SCHEMA_VERSION = 1
TRAINING_MANIFEST_NAME = "training_manifest.json"


@dataclass(frozen=True)
class TrainingManifest:
    """The data that a model and its ancestors were trained on.

    Attributes:
        rooms: per dataset the sorted rooms of the rows used.
        hashes: per row file (name inside its dataset folder) its sha256.
        videos: per video (path in the rows) {"sha256", "size" bytes}: a copy under another name is the same video.
        num_rows: rows used.
        verdict_rows: the guard's verdict on those rows.
        base: "trained" (a run of ours), "fresh" (random weights), "published" (a known base), "unknown".
        name: the model this describes, for messages.
        parents: manifests of the models it started from.
    """

    rooms: dict[str, list[str]] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    num_rows: int = 0
    verdict_rows: str = "clean"
    base: str = "trained"
    name: str = ""
    parents: list[TrainingManifest] = field(default_factory=list)
    videos: dict[str, dict[str, Any]] = field(default_factory=dict)
    version: str = field(default_factory=lambda: version("vsgrpo"))
    schema_version: int = SCHEMA_VERSION

    def lineage(self) -> list[TrainingManifest]:
        """Return this manifest and all its ancestors."""
        return [self, *(ancestor for parent in self.parents for ancestor in parent.lineage())]

    def all_rooms(self) -> dict[str, set[str]]:
        """Return the rooms of the whole lineage, per dataset."""
        rooms: dict[str, set[str]] = {}
        for manifest in self.lineage():
            for dataset, names in manifest.rooms.items():
                rooms.setdefault(dataset, set()).update(names)
        return rooms

    def all_videos(self) -> dict[str, tuple[int, str]]:
        """Return sha256 -> (size in bytes, path in the rows) of the videos of the whole lineage."""
        return {
            record["sha256"]: (record["size"], name)
            for manifest in self.lineage()
            for name, record in manifest.videos.items()
        }

    def known_rooms(self) -> set[tuple[str, str]]:
        """Return the (dataset, room) pairs of the whole lineage, also those that recorded scene names belong to."""
        rooms: set[tuple[str, str]] = set()
        for dataset, names in self.all_rooms().items():
            rooms |= {(dataset, name) for name in names}
            known = dataset_of_path(dataset)
            rooms |= {(item.dataset, item.room) for name in names for item in rooms_in(name, dataset=known)}
        return rooms

    def leaked_rooms(self) -> list[str]:
        """Return the benchmark rooms in the lineage, under any dataset name."""
        return sorted(room_label(*room) for room in self.known_rooms() if room in denied_rooms())

    def reason(self) -> str:
        """Return the verdict in words."""
        verdict = self.verdict()
        if verdict == "leak":
            rooms = self.leaked_rooms()
            return (
                f"trained on {len(rooms)} benchmark room(s), such as {rooms[0]}" if rooms else "trained on a benchmark"
            )
        reasons = [
            f"{item.name} has no {TRAINING_MANIFEST_NAME}: what it was trained on cannot be told"
            for item in self.lineage()
            if item.base == "unknown"
        ]
        reasons += [
            f"some rows that {item.name or 'it'} was trained on name no room that can be told"
            for item in self.lineage()
            if item.verdict_rows == "unknown"
        ]
        return "; ".join(dict.fromkeys(reasons)) or "clean"

    def verdict(self) -> str:
        """Return clean, unknown (of an ancestor or of some rows) or leak."""
        if self.leaked_rooms():
            return "leak"
        own = [item.verdict_rows for item in self.lineage()]
        return worst([*own, *("unknown" for item in self.lineage() if item.base == "unknown")])


def training_manifest(
    rows: Sequence[Row],
    hashes: Mapping[str, str],
    parents: Sequence[TrainingManifest],
    *,
    name: str = "",
    allow_val_safe: bool = False,
    allow_leak: bool = False,
    base: Path | None = None,
    hash_videos: bool = True,
) -> TrainingManifest:
    """Build the manifest of a run that trains on `rows`, starting from models with the manifests `parents`.

    Args:
        base: the folder that media paths are relative to; None: links are not followed, videos not recorded.
        hash_videos: record the videos.
    """
    rooms: dict[str, set[str]] = {}
    judged, links = Judgement(), Links(base)
    for row in rows:
        targets = links(row)
        for dataset, room in _told_rooms(row, judge_row(row, judged, *targets), *targets):
            rooms.setdefault(dataset, set()).add(room)
    verdict = judged.checked(allow_val_safe=allow_val_safe, allow_leak=allow_leak, where=name or "rows")
    ordered = {dataset: sorted(names) for dataset, names in sorted(rooms.items())}
    videos = video_records(rows, base) if base is not None and hash_videos else {}
    return TrainingManifest(ordered, dict(hashes), len(rows), verdict, name=name, parents=list(parents), videos=videos)


def rooms_of(row: Row, *links: str) -> set[tuple[str, str]]:
    """Return the (dataset, room) pairs that a row is about, as the guard sees them.

    A scene named only in a path counts as its room. Rooms of a benchmark count wherever they are named. A row that
    names no scene of a known data set is of its own dataset and room.
    """
    return _told_rooms(row, find_rooms(row, *links), *links)


def _told_rooms(row: Row, named: Iterable[Found], *links: str) -> set[tuple[str, str]]:
    shown = {(item.dataset, item.room) for item in shown_rooms(row, *links)}
    denied = {(item.dataset, item.room) for item in named} & denied_rooms().keys()
    return shown | denied or {(row.dataset, row.room)}


def video_records(rows: Iterable[Row], base: Path) -> dict[str, dict[str, Any]]:
    """Return {"sha256", "size"} of each video of the rows that is there, keyed by its path in the rows.

    A hash that the manifest.json of the video's dataset folder holds is taken where size and time still agree.
    """
    paths = dict.fromkeys(item["path"] for row in rows for item in row.media if item["kind"] == "video")
    known: dict[Path, dict[str, Any]] = {}

    def record(name: str) -> dict[str, Any] | None:
        path = base / name
        if not path.is_file():
            return None
        folder = next((parent for parent in path.parents if (parent / MANIFEST_NAME).is_file()), None)
        if folder is not None and folder not in known:
            known[folder] = _recorded_files(folder)
        stored = known.get(folder, {}).get(os.path.relpath(path, folder)) if folder is not None else None
        stat = path.stat()
        if not _agrees(stored, stat):
            stored = file_record(path)
        assert stored is not None
        return {"sha256": stored["sha256"], "size": stat.st_size}

    with ThreadPoolExecutor() as pool:
        found = dict(zip(paths, pool.map(record, paths), strict=True))
    return {name: entry for name, entry in found.items() if entry is not None}


def _recorded_files(folder: Path) -> dict[str, Any]:
    """Return the file records of a dataset folder's manifest, nothing if it is broken: hashes are then made anew."""
    try:
        return read_record(folder / MANIFEST_NAME, {"files": dict}, "")["files"]
    except DataError:
        return {}


def _agrees(stored: Any, stat: os.stat_result) -> bool:
    return (
        isinstance(stored, dict)
        and isinstance(stored.get("sha256"), str)
        and (stored.get("size"), stored.get("mtime")) == (stat.st_size, stat.st_mtime)
    )


def same_videos(manifests: Sequence[TrainingManifest], paths: Iterable[Path]) -> dict[Path, str]:
    """Return which of the files have the very bytes of a video trained on -> that video's path in the rows.

    Only files of a size that occurs in the lineage are read.
    """
    trained: dict[str, tuple[int, str]] = {}
    for manifest in manifests:
        trained |= manifest.all_videos()
    sizes = {size for size, _ in trained.values()}
    alike = [path for path in dict.fromkeys(paths) if path.is_file() and path.stat().st_size in sizes]
    hashes = {path: file_record(path)["sha256"] for path in alike}
    return {path: trained[digest][1] for path, digest in hashes.items() if digest in trained}


def lineage_of(model: str) -> TrainingManifest:
    """Return the manifest of a model to start from or to score.

    A folder's own training_manifest.json; "fresh" for tiny models (random weights); "published" for a Qwen hub id (its
    pre-training is the publisher's matter, the verdict speaks of our lineage); otherwise "unknown". The base that an
    adapter names counts as one of its ancestors, whether the adapter's manifest names it or not.

    Raises:
        DataError: the folder's training_manifest.json is broken.
    """
    return _lineage_of(model, ())


def _lineage_of(model: str, below: tuple[str, ...]) -> TrainingManifest:
    folder = Path(model)
    if model in BUILT:
        return TrainingManifest(base="fresh", name=model)
    if not folder.exists() and any(re.fullmatch(family.published, model) for family in FAMILIES.values()):
        return TrainingManifest(base="published", name=model)
    manifest = TrainingManifest(base="unknown", name=folder.name)
    if (folder / TRAINING_MANIFEST_NAME).is_file():
        manifest = read_training_manifest(model)
    base = adapter_base(folder)
    if base is not None and Path(base).is_dir() and base not in below:
        ancestor = _lineage_of(base, (*below, model))
        is_new = ancestor not in manifest.lineage() and ancestor.base in ("trained", "unknown")
        # An unknown base adds nothing to an adapter that has a record of its own.
        if is_new and (ancestor.leaked_rooms() or manifest.base == "unknown"):
            return replace(manifest, parents=[*manifest.parents, ancestor])
    return manifest


def write_training_manifest(folder: Path | str, manifest: TrainingManifest) -> Path:
    """Write training_manifest.json beside the weights, atomically."""
    path = Path(folder) / TRAINING_MANIFEST_NAME
    write_atomic(path, json.dumps(asdict(manifest), indent=1, ensure_ascii=False) + "\n")
    return path


def read_training_manifest(folder: Path | str) -> TrainingManifest:
    """Read training_manifest.json of a model folder; DataError where it is missing, broken or of another schema."""
    path = Path(folder) / TRAINING_MANIFEST_NAME
    hint = "the lineage of this model cannot be told; train it again, or delete the file to score it as unknown"
    return _manifest_from(read_record(path, {}, hint, schema_version=SCHEMA_VERSION), path)


def _manifest_from(data: dict[str, Any], path: Path) -> TrainingManifest:
    try:
        parents = [_manifest_from(parent, path) for parent in data["parents"]]
        manifest = TrainingManifest(**{**data, "parents": parents})
        manifest.leaked_rooms()
        manifest.all_videos()
    except (TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: not a training manifest ({error})", "the file was changed or cut off") from None
    if manifest.verdict_rows not in VERDICTS:
        raise DataError(f"{path}: verdict_rows={manifest.verdict_rows}: must be one of {', '.join(VERDICTS)}")
    return manifest
