"""What a source of scans is: which scans there are, how one is read, and what differs between sources.

Ours are a file each: `scannet.py` reads what is on disk, `demo/source.py` draws its rooms first. One of your own is a
module with such a record (docs/extending.md). Metres, z up everywhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray

from vsgrpo.errors import ConfigError, DataError
from vsgrpo.rules import Choice, Name, Section, import_named, one_of
from vsgrpo.spatial.scene import Footage, Scene

SOURCES = {
    "scannet": "vsgrpo.scans.scannet:SCANNET",
    "scannetpp": "vsgrpo.scans.scannetpp:SCANNETPP",
    "arkitscenes": "vsgrpo.scans.arkitscenes:ARKITSCENES",
    "demo": "vsgrpo.scans.demo.source:DEMO",
}
"""Sources by the value of source.name; a module is imported when its source is used."""
COMPLETE = ("bed", "sofa", "toilet", "bathtub", "refrigerator", "washing machine", "stove", "piano", "tv")
"""Categories of which annotators of real scans leave no instance out: too large and too plain to be missed."""
DOWNLOAD_AGAIN = "copy or download this file again"


@dataclass(frozen=True)
class SourceOptions(Section, key="source"):
    """The keys `source.*` that every source has; a source adds fields of its own, with their rules."""

    name: Annotated[str, Choice(tuple(SOURCES), takes_code=True)]
    root: Name | None


@dataclass(frozen=True)
class SceneSettings:
    """How a scan becomes a Scene.

    Attributes:
        box: "upright_min", "aabb" or "min_obb", see `spatial.geometry.fit_box`.
        size_box: "obb" (the size is the longest edge of `box`) or "aabb" (of the axis-aligned box).
        alpha_points: "random10k" or "voxel5cm", see `spatial.floor.room_floor`.
        alpha, alpha_holes: see `spatial.floor.alpha_shape`.
        categories: "raw" (VSI-100k: cleaned raw labels) or "benchmark" (VSI-Bench's list).
        min_vertices: an instance with fewer is left out.
    """

    box: str = "upright_min"
    size_box: str = "obb"
    alpha_points: str = "random10k"
    alpha: float = 5.0
    alpha_holes: str = "fill"
    categories: str = "raw"
    min_vertices: int = 50


@dataclass(frozen=True)
class VisibilitySettings:
    """Which frames are looked at, and when a point of the mesh is taken for seen.

    Attributes:
        num_frames: frames a loader gives to a model.
        fps: playback rate of the exported video, in which times are measured.
        stride_s: one frame every so many seconds is looked at besides; None for the loader's frames alone.
        depth_tolerance: a point is seen if its depth differs from the image's by at most this share of the latter.
            Source: VSI-Bench's older projection of labelled vertices (0.2).
        budgets: further numbers of frames that loaders may be asked for: the frames that these show are looked at, too.
    """

    num_frames: int = 16
    fps: float = 24.0
    stride_s: float | None = 0.25
    depth_tolerance: float = 0.2
    budgets: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.num_frames < 1 or self.fps <= 0 or not (self.stride_s is None or self.stride_s > 0):
            raise ValueError(f"{self}: frames, rate and stride must be above 0")


@dataclass
class Mesh:
    """A coloured triangle mesh.

    Attributes:
        vertices: (V, 3) float32 metres.
        colors: (V, 3) uint8 RGB.
        faces: (F, 3) int32 vertex indices.
    """

    vertices: NDArray[np.float32]
    colors: NDArray[np.uint8]
    faces: NDArray[np.int32]


class Scan:
    """One scan as its source read it. A source gives `scene`, and of the rest what its scans have.

    Attributes:
        scan_id: its name, the `scene_name` of its Scene.
        notes: one sentence per defect that needs more than a number; they are shown in report.html.
    """

    def __init__(self, scan_id: str) -> None:
        self.scan_id = scan_id
        self.notes: list[str] = []

    def scene(self, settings: SceneSettings) -> Scene:
        """Return objects with their boxes, and the room."""
        raise NotImplementedError(f"{type(self).__name__}: scene")

    def recording(self) -> Recording:
        """Open the recorded video; DataError where there is none."""
        raise DataError(f"{self.scan_id}: its source has no recorded video", "use video.source=mesh, folder or none")

    def aligned_mesh(self) -> Mesh:
        """Return the mesh, in the frame of the boxes, for walks and free floor; DataError where there is none."""
        raise DataError(f"{self.scan_id}: its source has no mesh", "use video.source=recorded, folder or none")

    def instance_of_vertex(self) -> NDArray[np.int32]:
        """Return (V,) the instance id of each vertex of the mesh, -1 where none."""
        raise NotImplementedError(f"{type(self).__name__}: instance_of_vertex")


class Recording:
    """A recorded video of a scan while it is open. A source gives `frames`, and `watch` where it knows the camera.

    Attributes:
        fps: frames per second at which it is to be played; None: as video.fps says.
    """

    fps: float | None = None

    def frames(self) -> Iterator[NDArray[np.uint8] | bytes]:
        """Yield the frames in order, upright and of one size: (H, W, 3) RGB, or the bytes of a JPEG."""
        raise NotImplementedError(f"{type(self).__name__}: frames")

    def warnings(self) -> dict[str, int]:
        """Count defects of a recording that can be used all the same."""
        return {}

    def watch(self, instance_ids: list[int], settings: VisibilitySettings) -> Footage | str:
        """Count the pixels of objects in its frames, or return why that cannot be done; `visibility.watch` helps."""
        return "the camera of the recording is not known: what the video shows was not counted"

    def close(self) -> None:
        """Close its file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@dataclass(frozen=True)
class ScanSource:
    """One source of scans: all that differs between sources.

    `root` is the folder of source.root; where that is null, OUT/scans_root for a source that makes its scans.

    Attributes:
        name: name of the data set in rows, folders and manifests.
        options: its keys `source.*`.
        list_scans: (options, root) -> the ids of all scans; DataError where there are none to be found.
        read: (options, root, scan id) -> the scan; DataError where it is broken. Called in the worker processes.
        split_of: (root, scan id) -> "train", "val" or None, by the data set's lists; without it every scan is train.
        room_of: (root, scan id) -> the room it shows, by the data set's files, as `Scene.room`: the leak guard refuses
            scans of a benchmark's rooms. Without it the room that the id itself tells (`data.room_ids.room_of`).
        files: (root, scan id) -> the files and folders of a scan: the leak guard looks at names and links of these and
            of all below; without it the folder ROOT/SCAN_ID.
        complete: categories of which its scans have every instance annotated, so that one that is not there may be
            asked about as a count of 0; None: all. `Scene.extra["names"]` must name all labels.
    """

    name: str
    options: type[SourceOptions]
    list_scans: Callable[[Any, Path], list[str]]
    read: Callable[[Any, Path, str], Scan]
    split_of: Callable[[Path, str], str | None] | None = None
    room_of: Callable[[Path, str], str] | None = None
    files: Callable[[Path, str], Iterable[Path]] | None = None
    complete: tuple[str, ...] | None = COMPLETE

    def files_of(self, root: Path, scan_id: str) -> Iterable[Path]:
        """Return the files and folders of a scan."""
        return [root / scan_id] if self.files is None else self.files(root, scan_id)


def find_source(name: str) -> ScanSource:
    """Return the source called `name`: one of `SOURCES`, or "package.module:NAME" of your own.

    Raises:
        ConfigError: no such name, module, or `ScanSource` in it, or one whose own name is no name for a folder.
    """
    if ":" not in name:
        one_of("source.name", name, tuple(SOURCES))
    needed = "NAME = ScanSource(...) is needed, see docs/extending.md"
    path = SOURCES.get(name, name)
    source = import_named("source.name", path, "ScanSource", needed, lambda value: isinstance(value, ScanSource))
    if not re.fullmatch(r"[a-z0-9_]+", source.name):
        what = f"source.name={name}: ScanSource({source.name!r}): the name of a folder is needed"
        raise ConfigError(what, hint="small letters, digits and _")
    return source


# --- whole files of a scan: what is wrong with one is a DataError with its name ---


def broken(path: Path, what: str, hint: str = DOWNLOAD_AGAIN) -> DataError:
    """Return the error of a file of a scan that cannot be used."""
    return DataError(f"{path}: {what}", hint=hint)


def read_bytes(path: Path) -> bytes:
    """Return the file's content.

    Raises:
        DataError: missing, unreadable, empty, or a web page instead of data (a failed download).
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise broken(path, "no such file", "check source.root and that the scan is complete") from None
    except OSError as error:
        raise broken(path, f"cannot be read: {error.strerror}", "check the path and its rights") from None
    if not content:
        raise broken(path, "is empty")
    start = content[:256].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise broken(path, "is a web page, not scan data")
    return content


def read_text(path: Path) -> str:
    """Return the file's content as UTF-8 text without a byte order mark (DataError as `read_bytes`)."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise broken(path, f"byte {error.start} is not UTF-8 text") from None


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in the file (DataError as `read_bytes`, and where it is no JSON object)."""
    text = read_text(path)
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise broken(path, f"broken or truncated JSON at {place}: {error.msg}") from None
    except (RecursionError, ValueError) as error:  # nested too deep; a number of thousands of digits
        raise broken(path, f"broken JSON: {error}") from None
    if not isinstance(document, dict):
        raise broken(path, f"holds a JSON {type(document).__name__}, not an object")
    return document
