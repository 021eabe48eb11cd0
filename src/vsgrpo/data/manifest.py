"""What a dataset folder and a model are made of: manifest.json and training_manifest.json.

manifest.json holds everything needed to repeat a build or to trust a copy of it: config and seed, one status per scan
(with the reason where it was skipped), the room ids of each split, counts, and sha256, size and time of row files and
videos. A training run writes training_manifest.json beside its weights: rooms, hashes of row files and videos, and the
manifests of all models that it started from. Every command that scores a model asks it for a verdict first.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vsgrpo.data.leak_guard import VERDICTS, Judgement, Links, worst
from vsgrpo.data.room_ids import Found, dataset_of_path, find_rooms, room_label, rooms_in, shown_rooms
from vsgrpo.data.row import Row
from vsgrpo.errors import DataError
from vsgrpo.files import file_sha256, write_atomic
from vsgrpo.paths import inside
from vsgrpo.records import read_record
from vsgrpo.tables import denied_rooms
from vsgrpo.terminal import counted

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
TRAINING_MANIFEST_NAME = "training_manifest.json"
SCAN_STATUSES = ("done", "skipped")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of manifest.json.

    Attributes:
        version: the vsgrpo that built the folder.
        dataset: "scannet", "demo", ...
        config: the resolved configuration of the build.
        scans: per scan id {"status": done | skipped, "room", "reason" (of a skip), ...}.
        rooms: per split ("train", "dev") the sorted room ids.
        counts: anything countable, by name (questions per split and type, frames, dropped questions).
        files: per path relative to the folder {"sha256", "size" bytes, "mtime" seconds} (`file_record`).
        notes: sentences a reader of the data should know (an empty dev split and why, ...).
    """

    version: str = field(default_factory=lambda: version("vsgrpo"))
    dataset: str
    config: dict[str, Any]
    seed: int
    scans: dict[str, dict[str, Any]]
    rooms: dict[str, list[str]]
    counts: dict[str, Any]
    files: dict[str, dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    schema_version: int = SCHEMA_VERSION


def file_record(path: Path) -> dict[str, Any]:
    """Return {"sha256", "size", "mtime"} of a file."""
    stat = path.stat()
    return {"sha256": file_sha256(path), "size": stat.st_size, "mtime": stat.st_mtime}


def write_manifest(folder: Path | str, manifest: Manifest) -> Path:
    """Write manifest.json atomically, keys sorted, and return its path.

    Raises:
        DataError: a scan has no room or an unknown status, or was skipped without a reason.
    """
    path = Path(folder) / MANIFEST_NAME
    _check_scans(path, manifest.scans)
    write_atomic(path, json.dumps(vars(manifest), indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    return path


def read_manifest(folder: Path | str) -> Manifest:
    """Read manifest.json of a dataset folder; DataError where it is missing, broken or of another schema."""
    path = Path(folder) / MANIFEST_NAME
    data = read_record(path, {}, "build the dataset again with this version", schema_version=SCHEMA_VERSION)
    names = {item.name for item in fields(Manifest)}
    for name in sorted(names - set(data)):
        raise DataError(f"{path}: {name} is missing", "build the dataset again")
    for name in sorted(set(data) - names):
        raise DataError(f"{path}: {name}: unknown field", "the file was written by another version of vsgrpo")
    for name in ("config", "scans", "rooms", "counts", "files"):
        if not isinstance(data[name], dict):
            raise DataError(f"{path}: {name}={str(data[name])[:60]!r}: must be an object", "build the dataset again")
    _check_scans(path, data["scans"])
    return Manifest(**data)


def changed_files(folder: Path | str, manifest: Manifest, names: Iterable[str] | None = None) -> list[str]:
    """Return the recorded files (or those of `names`) that are gone or differ from their record.

    Raises:
        DataError: a name in the manifest that leaves the folder.
    """
    changed = []
    for name in sorted(manifest.files if names is None else names):
        record, path = manifest.files.get(name, {}), inside(folder, name)
        is_same = path.is_file() and path.stat().st_size == record.get("size")
        if not is_same or _sha256(path, record) != record["sha256"]:
            changed.append(name)
    return changed


def _sha256(path: Path, record: Any) -> str:
    """Return the sha256 of a file, that of its record where size and time agree: a copied folder has new times."""
    stat = path.stat()
    known = record if isinstance(record, dict) and isinstance(record.get("sha256"), str) else {}
    is_current = (known.get("size"), known.get("mtime")) == (stat.st_size, stat.st_mtime)
    return known["sha256"] if is_current else file_sha256(path)


def _check_scans(path: Path, scans: dict[str, dict[str, Any]]) -> None:
    for scan_id, entry in scans.items():
        if not isinstance(entry, dict) or entry.get("status") not in SCAN_STATUSES or not entry.get("room"):
            raise DataError(f"{path}: scans.{scan_id}={entry!r}: needs a room and a status of {SCAN_STATUSES}")
        if entry["status"] == "skipped" and not entry.get("reason"):
            raise DataError(f"{path}: scans.{scan_id}: skipped without a reason")


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
        keep_out: what `data.keep_out` named: its files with sha256, and how many rooms.
    """

    rooms: dict[str, list[str]] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    num_rows: int = 0
    verdict_rows: str = "clean"
    base: str = "trained"
    name: str = ""
    parents: list[TrainingManifest] = field(default_factory=list)
    videos: dict[str, dict[str, Any]] = field(default_factory=dict)
    keep_out: dict[str, Any] = field(default_factory=dict)
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
            found = [item for name in names for item in rooms_in(name, dataset=dataset_of_path(dataset))]
            rooms |= {(dataset, name) for name in names} | {(item.dataset, item.room) for item in found}
        return rooms

    def leaked_rooms(self) -> list[str]:
        """Return the benchmark rooms in the lineage, under any dataset name."""
        return sorted(room_label(*room) for room in self.known_rooms() if room in denied_rooms())

    def reason(self) -> str:
        """Return the verdict in words."""
        if rooms := self.leaked_rooms():
            return f"trained on {counted(len(rooms), 'benchmark room')}, such as {rooms[0]}"
        if self.verdict() == "leak":
            return "trained on a benchmark"
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
        for dataset, room in rooms_of(row, *targets, named=judged.add(row, *targets)):
            rooms.setdefault(dataset, set()).add(room)
    verdict = judged.checked(allow_val_safe=allow_val_safe, allow_leak=allow_leak, where=name or "rows")
    ordered = {dataset: sorted(names) for dataset, names in sorted(rooms.items())}
    videos = video_records(rows, base) if base is not None and hash_videos else {}
    return TrainingManifest(ordered, dict(hashes), len(rows), verdict, name=name, parents=list(parents), videos=videos)


def rooms_of(row: Row, *links: str, named: Iterable[Found] | None = None) -> set[tuple[str, str]]:
    """Return the (dataset, room) pairs that a row is about, as the guard sees them.

    A scene named only in a path counts as its room. Rooms of a benchmark count wherever they are named. A row that
    names no scene of a known data set is of its own dataset and room. `named` is what `find_rooms` found, if known.
    """
    shown = {(item.dataset, item.room) for item in shown_rooms(row, *links)}
    named = find_rooms(row, *links) if named is None else named
    denied = {(item.dataset, item.room) for item in named} & denied_rooms().keys()
    return shown | denied or {(row.dataset, row.room)}


def video_records(rows: Iterable[Row], base: Path) -> dict[str, dict[str, Any]]:
    """Return {"sha256", "size"} of each video of the rows that is there, keyed by its path in the rows.

    A hash that the manifest.json of the video's dataset folder holds is taken where size and time still agree.
    """
    paths = dict.fromkeys(item["path"] for row in rows for item in row.media if item["kind"] == "video")
    recorded = cache(_recorded_files)

    def record(name: str) -> dict[str, Any] | None:
        path = base / name
        if not path.is_file():
            return None
        folder = next((parent for parent in path.parents if (parent / MANIFEST_NAME).is_file()), None)
        stored = recorded(folder).get(os.path.relpath(path, folder)) if folder is not None else None
        return {"sha256": _sha256(path, stored), "size": path.stat().st_size}

    with ThreadPoolExecutor() as pool:
        found = dict(zip(paths, pool.map(record, paths), strict=True))
    return {name: entry for name, entry in found.items() if entry is not None}


def _recorded_files(folder: Path) -> dict[str, Any]:
    """Return the file records of a dataset folder's manifest, nothing if it is broken: hashes are then made anew."""
    try:
        return read_record(folder / MANIFEST_NAME, {"files": dict}, "")["files"]
    except DataError:
        return {}


def same_videos(manifests: Sequence[TrainingManifest], paths: Iterable[Path]) -> dict[Path, str]:
    """Return which of the files have the very bytes of a video trained on -> that video's path in the rows.

    Only files of a size that occurs in the lineage are read.
    """
    trained = {digest: video for manifest in manifests for digest, video in manifest.all_videos().items()}
    sizes = {size for size, _ in trained.values()}
    alike = [path for path in dict.fromkeys(paths) if path.is_file() and path.stat().st_size in sizes]
    hashes = {path: file_sha256(path) for path in alike}
    return {path: trained[digest][1] for path, digest in hashes.items() if digest in trained}


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
        if not all(isinstance(names, list) for names in manifest.rooms.values()):
            raise TypeError("rooms must be lists")
        manifest.leaked_rooms()
        manifest.all_videos()
    except (TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: not a training manifest ({error})", "the file was changed or cut off") from None
    if manifest.verdict_rows not in VERDICTS:
        raise DataError(f"{path}: verdict_rows={manifest.verdict_rows}: must be one of {', '.join(VERDICTS)}")
    return manifest
