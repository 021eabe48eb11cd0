"""Read ScanNet v2 scans (v1 annotations too): folder -> Scan -> Scene.

A scan is `<root>/scans/<id>/` with `<id>_vh_clean_2.ply`, `<id>_vh_clean_2.0.010000.segs.json`,
`<id>.aggregation.json` and `<id>.txt`; the label tsv lies in `<root>`. Made-up rooms (`scans.demo`) come in this way
too.
Every defect survived is counted in `warnings`; what cannot be read is a DataError that names the file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vsgrpo.errors import DataError
from vsgrpo.rules import Name
from vsgrpo.scans import annotation
from vsgrpo.scans.annotation import AGGREGATION, SEGMENTS, Instance, read_labels
from vsgrpo.scans.ply import read_ply
from vsgrpo.scans.scene_maker import make_object, make_scene
from vsgrpo.scans.sens import SensReader
from vsgrpo.scans.source import (
    Mesh,
    Recording,
    Scan,
    ScanSource,
    SceneSettings,
    SourceOptions,
    VisibilitySettings,
    broken,
)
from vsgrpo.scans.visibility import MASKS, Masks, Projection, View, watch
from vsgrpo.spatial.scene import Footage, Scene
from vsgrpo.tables import LabelTable, categorize, names_of, split_of

_SCAN_FOLDERS = ("scans", "scans_test")
_SCAN_ID = re.compile(r"[A-Za-z]\w*_\d{2}")
labels_of = lru_cache(maxsize=4)(read_labels)
"""The label table of a root, read once in each worker process."""


@dataclass(frozen=True)
class ScannetOptions(SourceOptions):
    """Raw ScanNet v2: the folder that holds scans/."""

    root: Name


@dataclass
class ScannetScan(Scan):
    """One scan as read: geometry in the RAW frame, annotation, and the defects survived.

    Attributes:
        dataset: "scannet" or "demo".
        scan_id: folder name, e.g. "scene0000_00".
        room: the grouping key, e.g. "scene0000".
        labels: of the scan's root.
        mesh: in the RAW frame.
        alignment: (4, 4) float64 raw -> axis-aligned (z up, floor near 0).
        instances: annotated objects in file order, each vertex in at most one.
        info: the lines of the txt.
        warnings: defect counter name -> number.
        notes: see `Scan`.
    """

    dataset: str
    scan_id: str
    room: str
    folder: Path
    labels: LabelTable
    mesh: Mesh
    alignment: NDArray[np.float64]
    instances: list[Instance]
    info: dict[str, str]
    warnings: dict[str, int]
    notes: list[str] = field(default_factory=list)

    def aligned_vertices(self) -> NDArray[np.float64]:
        """Return (V, 3) float64 vertices in the axis-aligned frame."""
        return self.mesh.vertices @ self.alignment[:3, :3].T + self.alignment[:3, 3]

    def aligned_mesh(self) -> Mesh:
        """Return the mesh in the axis-aligned frame."""
        return Mesh(self.aligned_vertices().astype(np.float32), self.mesh.colors, self.mesh.faces)

    def instance_of_vertex(self) -> NDArray[np.int32]:
        """Return (V,) the instance id of each vertex, -1 where none."""
        ids = np.full(len(self.mesh.vertices), -1, dtype=np.int32)
        for instance in self.instances:
            ids[instance.vertex_indices] = instance.instance_id
        return ids

    def scene(self, settings: SceneSettings) -> Scene:
        """Return objects with boxes in the aligned frame, and the room's floor area.

        Instances are left out, counted by reason in `warnings` (`dropped_<reason>`) and by label in
        `extra["dropped"]`: structure, blacklist, not_in_benchmark, few_vertices (< `min_vertices`), degenerate_box
        (NaN, or longest edge < 0.05 m). Labels are mapped to categories before anything is counted.
        """
        vertices = self.aligned_vertices()
        candidates = [
            make_object(
                instance.instance_id,
                instance.label,
                categorize(instance.label, self.labels, settings.categories),
                vertices,
                instance.vertex_indices,
                settings,
            )
            for instance in self.instances
        ]
        names = set[str]().union(*(names_of(item.label, self.labels) for item in self.instances))
        identity = (self.dataset, self.scan_id, self.room)
        return make_scene(identity, candidates, names, vertices, settings, self.warnings)

    def recording(self) -> SensRecording:
        """Open the scan's `.sens`.

        Raises:
            DataError: it is not there, broken, or holds no frames.
        """
        path = self.folder / f"{self.scan_id}.sens"
        if not path.is_file():
            raise broken(path, "no such file", "use video.source=mesh: it needs no .sens")
        recording = SensRecording(self, SensReader(path))
        if recording.reader.num_frames == 0:
            recording.close()
            raise broken(path, "holds no frames", "copy this file again, or use video.source=mesh")
        return recording


@dataclass
class SensRecording(Recording):
    """The `.sens` of a scan."""

    scan: ScannetScan
    reader: SensReader

    def frames(self) -> Iterator[bytes]:
        """Yield the JPEGs."""
        return (frame.jpeg for frame in self.reader.frames())

    def warnings(self) -> dict[str, int]:
        """Count what is wrong with a `.sens` that can be read all the same.

        `frame_count_differs`: numColorFrames of the txt is not the number of frames there (nine scans; the `.sens` is
        right). `invalid_poses`: frames without a usable pose. `too_few_poses`: more than 20 % of them, so that nothing
        that depends on the camera (appearance order, visibility) may be asked.
        """
        warnings: Counter[str] = Counter()
        announced = self.scan.info.get("numColorFrames", "").strip()
        if announced and announced != str(self.reader.num_frames):
            warnings["frame_count_differs"] = 1
        warnings["invalid_poses"] = int((~self.reader.valid).sum())
        if 5 * warnings["invalid_poses"] > self.reader.num_frames:
            warnings["too_few_poses"] = 1
        return dict(+warnings)

    def watch(self, instance_ids: list[int], settings: VisibilitySettings) -> Footage | str:
        """Count the pixels of objects, see `visibility.watch`.

        The size of a frame is that of the masks (1296x968), else of the depth images (640x480).

        Raises:
            DataError: the archive of masks is broken, or its pictures are.
        """
        scan, reader = self.scan, self.reader
        has_depth = reader.header.depth_size[0] > 0 and reader.num_frames > 0 and bool(reader.frame(0).depth_bytes)
        masks = scan.folder / f"{scan.scan_id}{MASKS}"
        if masks.is_file():
            with Masks(masks, instance_ids) as counter:
                return watch(
                    reader.num_frames, counter, instance_ids, settings, self._pose, self._view if has_depth else None
                )
        if not len(scan.mesh.faces):
            return "the mesh has no faces: what the video shows was not counted"
        if not has_depth:
            return "the .sens has no depth: what the video shows was not counted"
        owner = scan.instance_of_vertex()
        projection = Projection(reader.view, scan.mesh, owner, instance_ids, settings.depth_tolerance)
        return watch(reader.num_frames, projection, instance_ids, settings, self._pose, self._view)

    def _pose(self, frame: int) -> NDArray[np.float64] | None:
        """Return the pose of a frame in the frame of the boxes."""
        reader = self.reader
        return self.scan.alignment @ reader.poses[frame].astype(np.float64) if reader.valid[frame] else None

    def _view(self, frame: int) -> View | None:
        """Return what the depth camera measured in a frame, its pose in the frame of the boxes."""
        view = self.reader.view(frame)
        return None if view is None else replace(view, pose=self.scan.alignment @ view.pose)

    def close(self) -> None:
        """Close the file."""
        self.reader.close()


def list_scans(root: Path) -> list[str]:
    """Return the ids of all scan folders under `root/scans` and `root/scans_test`, sorted.

    Raises:
        DataError: no such root, no scans folder in it, or nothing in that.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"source.root={root}: no such folder", hint="give the folder that holds scans/")
    folders = [root / name for name in _SCAN_FOLDERS if (root / name).is_dir()]
    if not folders:
        hint = "give the folder that holds scans/ with one folder per scan"
        if _scan_folders(root):
            hint = f"this looks like the scans folder itself: source.root={root.resolve().parent}"
        raise DataError(f"source.root={root}: holds no folder scans", hint=hint)
    ids = {scan_id for folder in folders for scan_id in _scan_folders(folder)}
    if not ids:
        raise broken(folders[0], "holds no scan folder", "scan folders are named like scene0000_00")
    return sorted(ids)


def find_scan(root: Path, scan_id: str) -> Path:
    """Return the folder of a scan; DataError where there is none."""
    places = [Path(root) / name / scan_id for name in _SCAN_FOLDERS]
    for place in places:
        if place.is_dir():
            return place
    raise broken(places[0], "no such scan folder", "source.root is the folder that holds scans/")


def read_scan(root: Path, scan_id: str, labels: LabelTable, dataset: str = "scannet") -> ScannetScan:
    """Read one scan's mesh and annotation.

    Warnings counted: those of `annotation.read_instances`, `missing_alignment`, and `labels_absent_from_tsv`
    (instances whose label the tsv lacks: the raw label is kept).

    Raises:
        DataError: a file is missing, empty, truncated, damaged or belongs to another mesh.
    """
    folder = find_scan(root, scan_id)
    mesh_path, segments_path, aggregation_path, info_path = _files_of(folder)
    warnings: Counter[str] = Counter()
    info = annotation.read_info(info_path)
    alignment = annotation.axis_alignment(info_path, info, warnings)
    mesh = read_ply(mesh_path)
    segments = annotation.read_segments(segments_path, len(mesh.vertices))
    instances = annotation.read_instances(aggregation_path, segments_path, segments, warnings)
    absent = Counter(instance.label for instance in instances if labels.get(instance.label) is None)
    notes = []
    if warnings["missing_alignment"]:
        notes.append("the txt has no axisAlignment: identity taken")
    if absent:
        warnings["labels_absent_from_tsv"] += absent.total()
        notes.append("labels absent from the tsv, kept as they are: " + ", ".join(sorted(absent)))
    room = scan_id.rsplit("_", 1)[0]
    return ScannetScan(dataset, scan_id, room, folder, labels, mesh, alignment, instances, info, dict(+warnings), notes)


def _scan_folders(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if _SCAN_ID.fullmatch(entry.name) and entry.is_dir()]


def _files_of(folder: Path) -> list[Path]:
    """Return the mesh, segs, aggregation and txt of a scan; DataError where one is missing, before any is read."""
    paths = [folder / f"{folder.name}{suffix}" for suffix in ("_vh_clean_2.ply", SEGMENTS, AGGREGATION, ".txt")]
    lacking = [path.name for path in paths if not path.is_file()]
    if not lacking:
        return paths
    hint = "download the scan again: vsgrpo needs _vh_clean_2.ply, .segs.json, .aggregation.json and .txt"
    if f"{folder.name}{AGGREGATION}" in lacking and folder.parent.name == "scans_test":
        hint = "ScanNet's test scans carry no annotation: build from the train split"
    elif f"{folder.name}{SEGMENTS}" in lacking and (folder / f"{folder.name}_vh_clean.segs.json").is_file():
        hint = "only the high-resolution segmentation is there; download the _vh_clean_2.0.010000 one"
    raise broken(folder, f"lacks {', '.join(lacking)}", hint)


def _list(options: ScannetOptions, root: Path) -> list[str]:
    found = list_scans(root)
    read_labels(root)  # a root without labels is refused before any scan is read
    return found


SCANNET = ScanSource(
    name="scannet",
    options=ScannetOptions,
    list_scans=_list,
    read=lambda options, root, scan_id: read_scan(root, scan_id, labels_of(root)),
    split_of=lambda root, scan_id: split_of(scan_id),
    files=lambda root, scan_id: [find_scan(root, scan_id)],
)
