"""manifest.json of a dataset folder: what was built, from which scans, with which files.

Everything needed to repeat the build or to trust a copy of it: config and seed, one status per scan (with the reason
where it was skipped), the room ids of each split, counts, and sha256, size and time of row files and videos.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from vsgrpo.errors import DataError
from vsgrpo.files import file_sha256, write_atomic
from vsgrpo.paths import inside
from vsgrpo.records import read_record

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
SCAN_STATUSES = ("done", "skipped")


@dataclass(frozen=True)
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

    version: str
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
    hint = "build the dataset again with this version"
    data = read_record(path, {}, hint, schema_version=SCHEMA_VERSION)
    names = {item.name for item in fields(Manifest)}
    for name in sorted(names - set(data)):
        raise DataError(f"{path}: {name} is missing", "build the dataset again")
    for name in sorted(set(data) - names):
        raise DataError(f"{path}: {name}: unknown field", "the file was written by another version of vsgrpo")
    manifest = Manifest(**data)
    for name in ("config", "scans", "rooms", "counts", "files"):
        if not isinstance(data[name], dict):
            raise DataError(f"{path}: {name}={str(data[name])[:60]!r}: must be an object", "build the dataset again")
    _check_scans(path, manifest.scans)
    return manifest


def changed_files(folder: Path | str, manifest: Manifest, names: Iterable[str] | None = None) -> list[str]:
    """Return the recorded files (or those of `names`) that are gone or differ from their record.

    Size and time are trusted where both agree; otherwise the content is hashed, so a copied folder (new times) passes.

    Raises:
        DataError: a name in the manifest that leaves the folder.
    """
    changed = []
    for name in sorted(manifest.files if names is None else names):
        record = manifest.files.get(name)
        path = inside(folder, name)
        if record is None or not path.is_file():
            changed.append(name)
            continue
        stat = path.stat()
        same = stat.st_size == record["size"]
        if same and stat.st_mtime != record["mtime"]:
            same = file_record(path)["sha256"] == record["sha256"]
        if not same:
            changed.append(name)
    return changed


def _check_scans(path: Path, scans: dict[str, dict[str, Any]]) -> None:
    for scan_id, entry in scans.items():
        if not isinstance(entry, dict) or entry.get("status") not in SCAN_STATUSES or not entry.get("room"):
            raise DataError(f"{path}: scans.{scan_id}={entry!r}: needs a room and a status of {SCAN_STATUSES}")
        if entry["status"] == "skipped" and not entry.get("reason"):
            raise DataError(f"{path}: scans.{scan_id}: skipped without a reason")
