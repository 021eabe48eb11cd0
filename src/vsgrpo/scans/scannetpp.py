"""Read ScanNet++ (v1 and v2): the folder of its downloader -> Scan -> Scene.

A scan is `ROOT/data/<id>/` with scans/mesh_aligned_0.05.ply and scans/segments_anno.json (and segments.json), and for
the recorded video iphone/ (`scannetpp_video`). Metres, z up, floor near 0, as stored. The lists are `ROOT/splits/`.
Every defect survived is counted in `warnings`; what cannot be read is a DataError that names the file.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vsgrpo.errors import DataError
from vsgrpo.rules import Name
from vsgrpo.scans.decimate import decimate
from vsgrpo.scans.ply import read_ply
from vsgrpo.scans.scannetpp_annotation import ANNOTATION, Group, owner_of_vertex, read_groups
from vsgrpo.scans.scannetpp_video import PhoneRecording
from vsgrpo.scans.scene_maker import make_object, make_scene
from vsgrpo.scans.source import Mesh, Scan, ScanSource, SceneSettings, SourceOptions, broken, read_text
from vsgrpo.spatial.floor import surface_sample
from vsgrpo.spatial.scene import Scene
from vsgrpo.tables import categorize_scannetpp, scannetpp_names_of

MESH = "mesh_aligned_0.05.ply"
SPLITS = {"nvs_sem_train": "train", "nvs_sem_val": "val"}
"""Lists in ROOT/splits -> what they are to data.split. The other lists name scans without annotation."""
_SCAN_ID = re.compile(r"[0-9a-f]{10}")
_ROOT_HINT = "source.root is the folder that holds data/ and splits/, as ScanNet++'s downloader writes it"


@dataclass(frozen=True)
class ScannetppOptions(SourceOptions):
    """ScanNet++ as downloaded: the folder that holds data/ and splits/."""

    root: Name


@dataclass
class ScannetppScan(Scan):
    """One scan as read.

    Attributes:
        scan_id: ten hexadecimal digits; also the room.
        folder: of the scan.
        mesh: about a million vertices, in the frame of the boxes.
        groups: annotated objects in file order, structure included; a vertex may be in several.
        warnings: defect counter name -> number.
        notes: see `Scan`.
    """

    scan_id: str
    folder: Path
    mesh: Mesh
    groups: list[Group]
    warnings: dict[str, int]
    notes: list[str] = field(default_factory=list)

    @cached_property
    def owner(self) -> NDArray[np.int32]:
        """(V,) the instance id of each vertex of `mesh`, -1 where none; of several groups the smallest has it."""
        return owner_of_vertex(self.groups, len(self.mesh.vertices))

    @cached_property
    def _thinned(self) -> tuple[Mesh, NDArray[np.int32]]:
        return decimate(self.mesh, self.owner)

    def aligned_mesh(self) -> Mesh:
        """Return the mesh thinned to about 300,000 vertices."""
        return self._thinned[0]

    def instance_of_vertex(self) -> NDArray[np.int32]:
        """Return the instance id of each vertex of `aligned_mesh`, -1 where none."""
        return self._thinned[1].copy()

    def scene(self, settings: SceneSettings) -> Scene:
        """Return objects with the annotators' boxes, and the room's floor area.

        `settings.box` "aabb" gives the axis-aligned box of the vertices; the others the annotators' box, which may be
        tilted, and where there is none that of the vertices. Counts and boxes are of all groups. The floor's points are
        drawn evenly over the surface: vertices lie unevenly. For reasons of objects left out see `make_object`.
        """
        vertices = self.mesh.vertices.astype(np.float64)
        candidates = [
            make_object(
                group.instance_id,
                group.label,
                categorize_scannetpp(group.label, settings.categories),
                vertices,
                group.vertices,
                settings,
                None if settings.box == "aabb" else group.box,
            )
            for group in self.groups
        ]
        names = set[str]().union(*(scannetpp_names_of(group.label) for group in self.groups))
        is_drawn = settings.alpha_points == "random10k"  # one point per cell needs no even ones
        points = surface_sample(self.mesh.vertices, self.mesh.faces, self.scan_id) if is_drawn else None
        identity = (SCANNETPP.name, self.scan_id, self.scan_id)
        return make_scene(identity, candidates, names, vertices, settings, self.warnings, points)

    def recording(self) -> PhoneRecording:
        """Open the video of the phone; DataError where there is none, or it is broken."""
        return PhoneRecording(self.folder / "iphone", *self._thinned)


def list_scans(root: Path) -> list[str]:
    """Return the ids of all scans under `root/data`, sorted.

    Raises:
        DataError: no such root, no folder data or no list of train scans in it, or no scan.
    """
    if not root.is_dir():
        raise DataError(f"source.root={root}: no such folder", _ROOT_HINT)
    if not (root / "data").is_dir():
        hint = _ROOT_HINT
        if _scan_folders(root):
            hint = f"this looks like the data folder itself: source.root={root.resolve().parent}"
        raise DataError(f"source.root={root}: holds no folder data", hint)
    found = _scan_folders(root / "data")
    if not found:
        raise broken(root / "data", "holds no scan folder", "scan folders are named by ten hexadecimal digits")
    _split_lists(root)
    return sorted(found)


def split_of(root: Path, scan_id: str) -> str | None:
    """Return "train" or "val" by the user's lists, None for a scan that neither names."""
    return _split_lists(root).get(scan_id)


def _split_lists(root: Path) -> dict[str, str]:
    """Return scan -> split; DataError where the list of train scans is missing."""
    found: dict[str, str] = {}
    for name, split in SPLITS.items():
        path = root / "splits" / f"{name}.txt"
        if split == "train" and not path.is_file():
            raise broken(path, "no such file", "copy splits/ of ScanNet++: only scans of nvs_sem_train.txt are taken")
        if path.is_file():
            found |= {line.strip(): split for line in read_text(path).splitlines() if line.strip()}
    return found


def _scan_folders(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if _SCAN_ID.fullmatch(entry.name) and entry.is_dir()]


def read_scan(root: Path, scan_id: str) -> ScannetppScan:
    """Read one scan's mesh and annotation; for warnings see `read_groups`.

    Raises:
        DataError: a file is missing, empty, truncated, damaged or belongs to another mesh.
    """
    folder = root / "data" / scan_id
    scans = folder / "scans"
    lacking = [name for name in (MESH, ANNOTATION) if not (scans / name).is_file()]
    if lacking:
        hint = "download the scan again with the assets mesh_aligned_0.05.ply, segments.json and segments_anno.json"
        raise broken(scans, f"lacks {' and '.join(lacking)}", hint)
    mesh, warnings, notes = read_ply(scans / MESH), Counter[str](), []
    groups = read_groups(scans, mesh.vertices, warnings)
    if warnings["segments_missing"]:
        notes.append("no segments.json: each segment was taken for a vertex")
    fitted = {name: warnings[name] for name in ("boxes_missing", "boxes_broken", "boxes_elsewhere")}
    if any(fitted.values()):
        what = ", ".join(f"{number} {name.removeprefix('boxes_')}" for name, number in fitted.items() if number)
        notes.append(f"boxes fitted to the vertices, the annotation's are: {what}")
    return ScannetppScan(scan_id, folder, mesh, groups, dict(+warnings), notes)


SCANNETPP = ScanSource(
    name="scannetpp",
    options=ScannetppOptions,
    list_scans=lambda options, root: list_scans(root),
    read=lambda options, root, scan_id: read_scan(root, scan_id),
    split_of=split_of,
    room_of=lambda root, scan_id: scan_id,
    files=lambda root, scan_id: [root / "data" / scan_id],
)
