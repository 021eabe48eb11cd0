"""The leak guard: no room of VSI-Bench in training data, and a record of every room that a model was trained on.

VSI-Bench's ScanNet scenes are 88 scans of 88 rooms, all of the val split; 119 more val scans show the same rooms, so
rooms are denied, never scans, whatever split or dataset name a row claims. Demo scenes have ids of their own
(`demo000000_00`) and never meet the lists. Rows whose scene cannot be told give the verdict "unknown".

Every path that reads rows calls `read_checked_rows` or `check_rows`. A training run writes `training_manifest.json`
beside its weights (rooms, file hashes, the manifests of all models it started from); `eval` asks it for a verdict.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vsgrpo.config.families import TINY
from vsgrpo.data.manifest import Manifest as Manifest
from vsgrpo.data.manifest import read_json_object
from vsgrpo.data.rows import Row, read_rows
from vsgrpo.errors import DataError
from vsgrpo.files import write_atomic
from vsgrpo.tables import deny_rooms, split_of

SCHEMA_VERSION = 1
TRAINING_MANIFEST_NAME = "training_manifest.json"
VERDICTS = ("clean", "unknown", "leak")
"""From best to worst."""
_SCANNET_SCAN = re.compile(r"scene(\d{4})_(\d{2})(?!\d)", re.IGNORECASE)
_SCANNET_ROOM = re.compile(r"scene(\d{4})(?!\d)", re.IGNORECASE)
_DEMO_SCAN = re.compile(r"demo\d{6,}_\d{2}")
# A plain base model from these repositories has no training of ours in it; a local folder may hold anybody's.
_PUBLISHED_BASES = re.compile(r"Qwen/(Qwen2-VL-(2B|7B|72B)(-Instruct)?|Qwen2\.5-VL-(3B|7B|32B|72B)-Instruct)")


def room_of(scene_name: str) -> str:
    """Return the room a scan shows: "scene0000" of "scene0000_00"; names without a scan number are their own room."""
    head, _, tail = scene_name.rpartition("_")
    return head if head and tail.isdigit() and len(tail) == 2 else scene_name


def scannet_scans(row: Row) -> tuple[str, ...]:
    """Return the ScanNet scan ids that any naming field of the row mentions, paths included."""
    texts = [row.scene_name, row.id, *(str(item["path"]) for item in row.media)]
    found = {f"scene{room}_{scan}" for text in texts for room, scan in _SCANNET_SCAN.findall(text)}
    return tuple(sorted(found))


def scannet_rooms(row: Row) -> tuple[str, ...]:
    """Return the ScanNet rooms that any naming field of the row mentions."""
    texts = [row.scene_name, row.room, row.id, *(str(item["path"]) for item in row.media)]
    return tuple(sorted({f"scene{room}" for text in texts for room in _SCANNET_ROOM.findall(text)}))


def row_verdict(row: Row) -> str:
    """Return clean, unknown or leak for one row; splits are `check_rows`' matter."""
    rooms = scannet_rooms(row)
    if any(room in deny_rooms() for room in rooms):
        return "leak"
    if row.dataset == "demo" and _DEMO_SCAN.fullmatch(row.scene_name) and not rooms:
        return "clean"
    scans = scannet_scans(row)
    return "clean" if scans and all(split_of(scan) is not None for scan in scans) else "unknown"


def check_rows(
    rows: Iterable[Row], *, allow_val_safe: bool = False, allow_leak: bool = False, where: str = "rows"
) -> str:
    """Return the worst verdict of rows meant for training, or refuse them.

    Args:
        allow_val_safe: take ScanNet val scans of rooms that the benchmark does not use (held-out data by default).
        allow_leak: take benchmark rooms too; the verdict then is "leak".
        where: the file the rows came from, for the message.

    Raises:
        DataError: a benchmark room, or a val scan without `allow_val_safe`; names the first scene and how many rows.
    """
    rows = list(rows)
    verdicts = [row_verdict(row) for row in rows]
    leaks = [row for row, verdict in zip(rows, verdicts, strict=True) if verdict == "leak"]
    if leaks and not allow_leak:
        raise DataError(
            f"{where}: scene_name={leaks[0].scene_name}: room {_denied_room(leaks[0])} is in VSI-Bench "
            f"({len(leaks)} of {len(rows)} rows)",
            "remove these rows; a model trained on them cannot be scored on the benchmark",
        )
    val = [row for row in rows if any(split_of(scan) == "val" for scan in scannet_scans(row))]
    val = [row for row in val if row_verdict(row) != "leak"]
    if val and not allow_val_safe:
        raise DataError(
            f"{where}: scene_name={val[0].scene_name}: a ScanNet val scan ({len(val)} of {len(rows)} rows)",
            "train on the train split, or allow room-safe val scans: data.allow_val_safe=true",
        )
    return worst(verdicts)


def worst(verdicts: Iterable[str]) -> str:
    """Return the worst of some verdicts, "clean" of none."""
    return max(verdicts, key=VERDICTS.index, default="clean")


def read_checked_rows(
    path: Path | str, *, allow_val_safe: bool = False, allow_leak: bool = False
) -> tuple[list[Row], str]:
    """Read a row file through the guard; return (rows, verdict)."""
    rows = read_rows(path)
    return rows, check_rows(rows, allow_val_safe=allow_val_safe, allow_leak=allow_leak, where=str(path))


def check_scan(scan_id: str, dataset: str, *, allow_val_safe: bool = False) -> str | None:
    """Return why a scan may not be built into training data, or None where it may.

    Allow and deny lists apply to ScanNet; the id decides, not the folder it lies in.
    """
    match = _SCANNET_SCAN.fullmatch(scan_id)
    if match is None:
        return f"{scan_id} is no ScanNet scan id" if dataset == "scannet" else None
    room = f"scene{match.group(1)}"
    if room in deny_rooms():
        return f"room {room} is in VSI-Bench"
    if split_of(scan_id.lower()) == "val" and not allow_val_safe:
        return "a val scan (room-safe, but held out by default)"
    return None


def _denied_room(row: Row) -> str:
    return next(room for room in scannet_rooms(row) if room in deny_rooms())


@dataclass(frozen=True)
class DevSplit:
    """Rooms held out of train, and the sentence to print where that did not go as asked."""

    dev_rooms: frozenset[str]
    note: str | None


def split_dev(rooms: Iterable[str], fraction: float) -> DevSplit:
    """Hold out about `fraction` of the rooms, each by its own hash: a room keeps its side when others come and go.

    Train is never emptied: where every room hashes into dev, the one furthest from it stays in train. With fewer than
    two rooms dev is empty.

    Raises:
        ValueError: a fraction outside [0, 1).
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"data.dev_fraction={fraction}: must be in [0, 1)")
    names = sorted(set(rooms))
    if len(names) < 2:
        return DevSplit(frozenset(), f"dev is empty: {len(names)} room(s), a dev split needs at least 2")
    dev = {name for name in names if falls_into_dev(name, fraction)}
    if len(dev) == len(names):
        dev.remove(max(names, key=_place))
    note = (
        f"dev is empty: none of {len(names)} rooms fell into dev_fraction={fraction}" if fraction and not dev else None
    )
    return DevSplit(frozenset(dev), note)


def falls_into_dev(room: str, fraction: float) -> bool:
    """Tell by a room's own hash whether it is held out."""
    return _place(room) < fraction


def _place(room: str) -> float:
    return int.from_bytes(blake2b(room.encode(), digest_size=8).digest(), "big") / 2**64


@dataclass(frozen=True)
class TrainingManifest:
    """What a model was trained on, with its ancestors.

    Attributes:
        rooms: per dataset the sorted rooms of the rows used.
        hashes: per row file (name inside its dataset folder) its sha256.
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

    def leaked_rooms(self) -> list[str]:
        """Return the benchmark rooms in the lineage; any dataset name counts, see the module docstring."""
        return sorted({room for rooms in self.all_rooms().values() for room in rooms if room in deny_rooms()})

    def verdict(self) -> str:
        """Return clean, unknown (an ancestor or some rows cannot be told) or leak."""
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
) -> TrainingManifest:
    """Build the manifest of a run that trains on `rows`, starting from models with the manifests `parents`.

    Rooms are those the guard sees: a ScanNet scene named only in a path is recorded as its room.
    """
    verdict = check_rows(rows, allow_val_safe=allow_val_safe, allow_leak=allow_leak, where=name or "rows")
    rooms: dict[str, set[str]] = {}
    for row in rows:
        rooms.setdefault(row.dataset, set()).update(scannet_rooms(row) or (row.room,))
    ordered = {dataset: sorted(names) for dataset, names in sorted(rooms.items())}
    return TrainingManifest(ordered, dict(hashes), len(rows), verdict, name=name, parents=list(parents))


def lineage_of(model: str) -> TrainingManifest:
    """Return the manifest of a model to start from or to score.

    A folder's own training_manifest.json; "fresh" for tiny models (random weights); "published" for a Qwen hub id (its
    pre-training is the publisher's matter, the verdict speaks of our lineage); otherwise "unknown".

    Raises:
        DataError: the folder's training_manifest.json is broken.
    """
    if model in TINY:
        return TrainingManifest(base="fresh", name=model)
    if (Path(model) / TRAINING_MANIFEST_NAME).is_file():
        return read_training_manifest(model)
    if not Path(model).exists() and _PUBLISHED_BASES.fullmatch(model):
        return TrainingManifest(base="published", name=model)
    return TrainingManifest(base="unknown", name=Path(model).name)


def write_training_manifest(folder: Path | str, manifest: TrainingManifest) -> Path:
    """Write training_manifest.json beside the weights, atomically."""
    path = Path(folder) / TRAINING_MANIFEST_NAME
    write_atomic(path, json.dumps(asdict(manifest), indent=1, ensure_ascii=False) + "\n")
    return path


def read_training_manifest(folder: Path | str) -> TrainingManifest:
    """Read training_manifest.json of a model folder; DataError where it is missing, broken or of another schema."""
    path = Path(folder) / TRAINING_MANIFEST_NAME
    hint = "the lineage of this model cannot be told; train it again, or delete the file to score it as unknown"
    return _manifest_from(read_json_object(path, SCHEMA_VERSION, hint), path)


def _manifest_from(data: dict[str, Any], path: Path) -> TrainingManifest:
    try:
        parents = [_manifest_from(parent, path) for parent in data["parents"]]
        manifest = TrainingManifest(**{**data, "parents": parents})
        manifest.leaked_rooms()
    except (TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: not a training manifest ({error})", "the file was changed or cut off") from None
    if manifest.verdict_rows not in VERDICTS:
        raise DataError(f"{path}: verdict_rows={manifest.verdict_rows}: must be one of {', '.join(VERDICTS)}")
    return manifest
