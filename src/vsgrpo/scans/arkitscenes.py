"""Read ARKitScenes: the layouts `3dod` and `raw` of its downloader -> Scan -> Scene.

A scan is a video id, `ROOT/{3dod,raw}/{Training,Validation}/<id>/` with `<id>_3dod_annotation.json` and
`<id>_3dod_mesh.ply`; where both layouts have it, each file is taken from the one that holds it. The annotation has
boxes alone: `boxed` tells which part of the mesh, and which pixel of a depth image, belongs to which. World metres, z
up; the floor is not at 0 (the origin is where the device was switched on). The recording is in `arkitscenes_video`.
Every defect survived is counted in `warnings`; what cannot be read is a DataError that names the file.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vsgrpo.errors import DataError
from vsgrpo.rules import Name
from vsgrpo.scans.arkitscenes_annotation import Annotated, read_annotation
from vsgrpo.scans.arkitscenes_video import ArkitRecording
from vsgrpo.scans.boxed import BoxedObjects
from vsgrpo.scans.ply import read_ply
from vsgrpo.scans.scene_maker import MIN_DIMENSION, Candidate, make_scene
from vsgrpo.scans.source import (
    Mesh,
    Scan,
    ScanSource,
    SceneSettings,
    SourceOptions,
    broken,
    read_text,
)
from vsgrpo.scans.walk.floor_map import floor_height
from vsgrpo.spatial.floor import surface_sample
from vsgrpo.spatial.scene import Box, Scene, SceneObject
from vsgrpo.tables import (
    arkitscenes_class,
    arkitscenes_classes,
    arkitscenes_folds,
    arkitscenes_visits,
    categorize_arkitscenes,
    category_aliases,
)

LAYOUTS, FOLDS = ("raw", "3dod"), ("Training", "Validation")
ANNOTATION, MESH = "_3dod_annotation.json", "_3dod_mesh.ply"
"""What follows the video id in the names of its files."""
_SPLITS = {"Training": "train", "Validation": "val"}
_VIDEO_ID = re.compile(r"\d{8}")
_ROOT_HINT = "source.root is the --download_dir of ARKitScenes' download_data.py: it holds 3dod/ or raw/"


@dataclass(frozen=True)
class ArkitScenesOptions(SourceOptions):
    """The folder that holds 3dod/, raw/ or both."""

    root: Name


@dataclass
class ArkitScan(Scan):
    """One scan as read.

    Attributes:
        scan_id: video id.
        room: visit id, that is the room; the video id where no visit is published.
        folders: where its files lie, the first that holds one has it.
        mesh: as stored, which is the frame of the boxes.
        annotated: entries of the annotation in file order.
        sky_direction: what metadata.csv says of the camera, "" where it does not.
        warnings: defect counter name -> number.
        notes: see `Scan`.
    """

    scan_id: str
    room: str
    folders: list[Path]
    mesh: Mesh
    annotated: list[Annotated]
    sky_direction: str
    warnings: dict[str, int]
    notes: list[str] = field(default_factory=list)

    @cached_property
    def floor(self) -> float:
        """Height of the floor in metres: `floor_height`, else the lowest percentile of the mesh, counted."""
        found = floor_height(self.mesh.vertices, self.mesh.faces) if len(self.mesh.faces) else None
        if found is None:
            self.warnings["floor_guessed"] = 1
            found = float(np.quantile(self.mesh.vertices[:, 2], 0.01))
        return found

    @cached_property
    def boxed(self) -> BoxedObjects:
        """Every annotated object, asked about or not: a sink in its cabinet is no part of the cabinet."""
        boxed = [(item.number, item.label, item.box) for item in self.annotated if item.box is not None]
        return BoxedObjects([SceneObject(number, label, box, box) for number, label, box in boxed], self.floor)

    def aligned_mesh(self) -> Mesh:
        """Return the mesh."""
        return self.mesh

    def instance_of_vertex(self) -> NDArray[np.int32]:
        """Return (V,) the instance id of each vertex, -1 where none; see `boxed`."""
        return self.boxed.vertex_owners(self.mesh)

    def scene(self, settings: SceneSettings) -> Scene:
        """Return objects with the annotators' boxes, and the room's floor area.

        `settings.box` "aabb" gives the axis-aligned hull of each box; the others keep the annotators' box, which may be
        tilted. Deviation: `min_vertices` does not apply, boxes need no vertices. Objects are left out as
        unknown_label (none of the 17 classes), not_in_benchmark, broken_box or degenerate_box (longest edge below
        0.05 m), see `make_scene`; the floor's area is that of points drawn evenly over the surface.
        """
        owned = np.bincount(self.instance_of_vertex() + 1, minlength=1 + len(self.annotated))[1:]
        candidates = [_object(item, settings, owned) for item in self.annotated]
        names = set[str]().union(*(_names_of(item.label) for item in self.annotated))
        identity = (ARKITSCENES.name, self.scan_id, self.room)
        points = surface_sample(self.mesh.vertices, self.mesh.faces, self.scan_id)
        vertices = self.mesh.vertices.astype(np.float64)
        scene = make_scene(identity, candidates, names, vertices, settings, self.warnings, points)
        scene.extra["floor_height"] = round(self.floor, 4)
        return scene

    def recording(self) -> ArkitRecording:
        """Open the `.mov`, else the best folder of pictures; see `ArkitRecording`."""
        return ArkitRecording(self.scan_id, self.folders, self.boxed, self.sky_direction)


def _object(item: Annotated, settings: SceneSettings, owned: NDArray[np.integer]) -> Candidate:
    """Return the object of an entry, or the reason it is left out; `owned` are vertices by entry."""
    category = categorize_arkitscenes(item.label, settings.categories)
    if category.name is None:
        return Candidate(item.label, None, category.reason)
    if item.box is None:
        return Candidate(item.label, None, "broken_box", category.name)
    if item.box.axes_lengths.max() < MIN_DIMENSION:
        return Candidate(item.label, None, "degenerate_box", category.name)
    box = _hull(item.box) if settings.box == "aabb" else item.box
    size_box = _hull(item.box) if settings.size_box == "aabb" else box
    number = int(owned[item.number]) if item.number < len(owned) else 0
    return Candidate(item.label, SceneObject(item.number, category.name, box, size_box, item.label, number))


def _hull(box: Box) -> Box:
    return Box((box.min + box.max) / 2, box.max - box.min, np.eye(3))


def _names_of(label: str) -> set[str]:
    """Return every name of a label: as annotated, as its class, in questions and in the benchmark."""
    raw = " ".join(label.casefold().split())
    names = {raw, arkitscenes_class(label).replace("_", " ")}
    names |= {found.name for mode in ("raw", "benchmark") if (found := categorize_arkitscenes(label, mode)).name}
    return names | {category_aliases().get(name, name) for name in names}


# --- folders and metadata.csv ---


def list_scans(root: Path) -> list[str]:
    """Return the ids of all videos in the layouts and folds of `root`, sorted.

    Raises:
        DataError: no such root, no layout in it, or no video.
    """
    if not root.is_dir():
        raise DataError(f"source.root={root}: no such folder", hint=_ROOT_HINT)
    places = [root / layout / fold for layout in LAYOUTS for fold in FOLDS]
    if not any(place.parent.is_dir() for place in places):
        hint = _ROOT_HINT
        if any((root / fold).is_dir() for fold in FOLDS):
            hint = f"this looks like the layout itself: source.root={root.resolve().parent}"
            if root.resolve().name not in LAYOUTS:
                hint = f"move its folders into {root}/3dod/ or {root}/raw/, as the downloader lays them out"
        raise DataError(f"source.root={root}: holds neither 3dod nor raw", hint=hint)
    found = [entry for place in places if place.is_dir() for entry in place.iterdir()]
    ids = {entry.name for entry in found if _VIDEO_ID.fullmatch(entry.name) and entry.is_dir()}
    if not ids:
        hint = "videos are folders of eight digits in 3dod/Training, raw/Validation, ..."
        raise DataError(f"source.root={root}: holds no video", hint=hint)
    return sorted(ids)


def find_scan(root: Path, scan_id: str) -> list[Path]:
    """Return the folders of a video, `raw` before `3dod`; DataError where there is none."""
    places = [root / layout / fold / scan_id for layout in LAYOUTS for fold in FOLDS]
    found = [place for place in places if place.is_dir()]
    if not found:
        raise broken(root / "3dod" / "Training" / scan_id, "no such video", _ROOT_HINT)
    return found


@lru_cache(maxsize=4)
def read_metadata(root: Path) -> dict[str, dict[str, str]]:
    """Return video -> its row of metadata.csv, of either layout; empty where the root has none.

    Raises:
        DataError: it has no column video_id.
    """
    rows: dict[str, dict[str, str]] = {}
    for layout in LAYOUTS:
        path = root / layout / "metadata.csv"
        if not path.is_file():
            continue
        reader = csv.DictReader(read_text(path).splitlines())
        if "video_id" not in (reader.fieldnames or ()):
            raise broken(path, "has no column video_id", "download metadata.csv again")
        for row in reader:
            rows.setdefault(
                (row["video_id"] or "").strip(), {key: (value or "").strip() for key, value in row.items() if key}
            )
    return rows


def split_of(root: Path, scan_id: str) -> str | None:
    """Return "train" or "val": by the publisher's list, else metadata.csv, else the folder that holds the video."""
    fold = arkitscenes_folds().get(scan_id) or read_metadata(root).get(scan_id, {}).get("fold")
    return _SPLITS.get(fold or find_scan(root, scan_id)[0].parent.name)


def room_of(root: Path, scan_id: str) -> str:
    """Return the visit of a video: by the publisher's list, else metadata.csv, else the video is its own room."""
    visit = arkitscenes_visits().get(scan_id) or read_metadata(root).get(scan_id, {}).get("visit_id", "")
    return visit if visit not in ("", "NA") else scan_id


def read_scan(root: Path, scan_id: str) -> ArkitScan:
    """Read one scan's mesh and annotation; DataError where one is missing or broken."""
    folders = find_scan(root, scan_id)
    paths = [
        next((path for folder in folders if (path := folder / f"{scan_id}{suffix}").is_file()), None)
        for suffix in (ANNOTATION, MESH)
    ]
    if None in paths:
        lacking = [scan_id + suffix for suffix, path in zip((ANNOTATION, MESH), paths, strict=True) if path is None]
        hint = "download it again with 3dod; 24 videos of raw have neither mesh, annotation nor poses"
        raise broken(folders[0], f"lacks {' and '.join(lacking)}", hint)
    warnings, notes = Counter[str](), list[str]()
    annotation, mesh = (path for path in paths if path is not None)
    annotated = read_annotation(annotation, warnings, notes)
    sky = read_metadata(root).get(scan_id, {}).get("sky_direction", "")
    return ArkitScan(scan_id, room_of(root, scan_id), folders, read_ply(mesh), annotated, sky, dict(warnings), notes)


ARKITSCENES = ScanSource(
    name="arkitscenes",
    options=ArkitScenesOptions,
    list_scans=lambda options, root: list_scans(root),
    read=lambda options, root, scan_id: read_scan(root, scan_id),
    split_of=split_of,
    room_of=room_of,
    files=find_scan,
    complete=tuple(sorted({name for name, _ in arkitscenes_classes().values()})),
)
