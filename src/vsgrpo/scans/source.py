"""What a source of scans is: which scans there are, how one is read, and what differs between sources.

Ours are a file each: `scannet.py` reads what is on disk, `demo/source.py` draws its rooms first. One of your own is a
module with such a record (docs/extending.md). Metres, z up everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray

from vsgrpo.errors import ConfigError, DataError
from vsgrpo.plugins import import_named
from vsgrpo.rules import Choice, Name, Section, one_of
from vsgrpo.spatial.scene import Footage, Scene

if TYPE_CHECKING:
    from vsgrpo.scans.ply import Mesh
    from vsgrpo.scans.visibility import VisibilitySettings

SOURCES = {
    "scannet": "vsgrpo.scans.scannet:SCANNET",
    "demo": "vsgrpo.scans.demo.source:DEMO",
}
"""Sources by the value of source.name; a module is imported when its source is used."""


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
        alpha_points: "random10k" or "voxel5cm", see `spatial.floor.room_area`.
        alpha, alpha_holes: see `spatial.floor.alpha_shape_area`.
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
        raise DataError(f"{self.scan_id}: its source has no mesh", "use video.source=sens, folder or none")

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


def files_below(root: Path, scan_id: str) -> list[Path]:
    """Return the folder ROOT/SCAN_ID and what is in it."""
    folder = root / scan_id
    return [folder, *folder.iterdir()] if folder.is_dir() else [folder]


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
        files: (root, scan id) -> the files of a scan. The leak guard follows links and reads their names.
    """

    name: str
    options: type[SourceOptions]
    list_scans: Callable[[Any, Path], list[str]]
    read: Callable[[Any, Path, str], Scan]
    split_of: Callable[[Path, str], str | None] | None = None
    files: Callable[[Path, str], Iterable[Path]] = files_below


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
