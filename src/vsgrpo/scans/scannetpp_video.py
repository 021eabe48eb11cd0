"""The recorded video of a ScanNet++ scan: the iPhone's frames, poses, depth, and pixels per object.

`iphone/` holds a video of 60 frames a second (rgb.mkv, in some copies another name) or the frames that the toolkit
extracts from it (rgb/frame_000000.jpg), and pose_intrinsic_imu.json with one entry per frame. Every second frame is
exported. `aligned_pose` is camera -> mesh, camera x right, y down, z forward; `pose` is the phone's own frame.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vsgrpo.errors import DataError
from vsgrpo.scans.drawn import DrawnPixels
from vsgrpo.scans.phone_depth import NEEDS_LZ4, Depth, open_depth
from vsgrpo.scans.sens import is_valid_pose
from vsgrpo.scans.source import Mesh, Recording, VisibilitySettings, broken, read_json_object
from vsgrpo.scans.visibility import View, watch
from vsgrpo.spatial.scene import Footage
from vsgrpo.video.container import check_file, open_container
from vsgrpo.video.index import VideoIndex

POSES = "pose_intrinsic_imu.json"
_NATIVE_WIDTH = 1920
"""Pixels of the frames that `intrinsic` is for."""
_FPS = 60.0
"""Frames per second of the recording, where frames were extracted from it."""
_MAX_FPS = 30.0
_VIDEO_SUFFIXES = (".mkv", ".mp4", ".mov")
_FRAME = re.compile(r"frame_(\d{6})")
_OUTSIDE = 1.0
"""Metres outside the mesh's extent from which on a camera is not taken for being in the room."""
_MAX_LOST = 0.2
_USE_MESH = "use video.source=mesh or none for it"


class PhoneRecording(Recording):
    """The recording in `iphone/`.

    Args:
        folder: iphone/ of a scan.
        mesh: of the scan, as `Scan.aligned_mesh` gives it.
        owner: (V,) the instance id of each vertex, -1 where none.

    Attributes:
        numbers: of the frames of the recording that are exported.

    Raises:
        DataError: no video and no frames, or a broken video.
    """

    def __init__(self, folder: Path, mesh: Mesh, owner: NDArray[np.int32]) -> None:
        self._folder, self._mesh, self._owner = folder, mesh, owner
        self._film: VideoIndex | None = None
        self._open = ExitStack()
        self._files: dict[int, Path] = {}
        self._cameras: dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]] | None = None
        self._depth: Depth | str | None = None
        self._views: dict[int, View | None] = {}
        self._broken_depth = 0
        video = find_video(folder)
        rate = _FPS
        if video is not None:
            self._film = self._open_film(video)
            rate, found = self._film.header.fps or _FPS, list(range(self._film.header.num_frames))
        else:
            self._files = _extracted(folder / "rgb")
            found = sorted(self._files)
            if not found:
                raise broken(folder, "has neither a video nor frames in rgb/", _USE_MESH)
            rate /= int(np.diff(found).min(initial=1000)) if len(found) > 1 else 1
        step = max(1, round(rate / _MAX_FPS))
        self.numbers = found[::step]
        self.fps = rate / step

    def _open_film(self, path: Path) -> VideoIndex:
        check_file(str(path))
        try:
            container = self._open.enter_context(open_container(str(path)))
            return VideoIndex(str(path), container)
        except DataError:
            self.close()
            raise
        except Exception as error:  # whatever a decoder raises on a file is that file's fault
            self.close()
            raise broken(path, f"cannot be decoded ({error})", _USE_MESH) from error

    def frames(self) -> Iterator[NDArray[np.uint8] | bytes]:
        """Yield the exported frames."""
        if self._film is None:
            return (self._files[number].read_bytes() for number in self.numbers)
        return self._decoded(self._film)

    def _decoded(self, film: VideoIndex) -> Iterator[NDArray[np.uint8]]:
        step = self.numbers[1] if len(self.numbers) > 1 else 1
        try:
            for frame in film.stored_frames(step):
                yield np.ascontiguousarray(film.orientation.apply(frame))
        except DataError:
            raise
        except Exception as error:
            raise broken(Path(film.path), f"cannot be decoded ({error})", _USE_MESH) from error

    def warnings(self) -> dict[str, int]:
        """Count what is wrong with a recording that can be used all the same.

        `frame_count_differs`: the video and pose_intrinsic_imu.json have other numbers of frames. `poses_missing`: no
        such file. `invalid_poses`: exported frames without a rigid aligned_pose and an intrinsic. `poses_outside`:
        with a camera more than 1 m outside the mesh. `too_few_poses`: more than 20 % of the frames are one of these.
        `depth_needs_lz4`, and `depth_broken`: images that could not be unpacked, of those looked at.
        """
        found: Counter[str] = Counter()
        if not (self._folder / POSES).is_file():
            found["poses_missing"] = 1
        else:
            cameras = self._known_cameras()
            entries = len(cameras)
            if self._film is not None and entries != self._film.header.num_frames:
                found["frame_count_differs"] = 1
            poses = [cameras[number][0] for number in self.numbers if number in cameras]
            valid = [pose for pose in poses if is_valid_pose(pose)]
            found["invalid_poses"] = len(self.numbers) - len(valid)
            found["poses_outside"] = sum(not self._is_inside(pose) for pose in valid)
            if found["invalid_poses"] + found["poses_outside"] > _MAX_LOST * len(self.numbers):
                found["too_few_poses"] = 1
        if self._depth == NEEDS_LZ4:
            found["depth_needs_lz4"] = 1
        found["depth_broken"] = self._broken_depth
        return dict(+found)

    def watch(self, instance_ids: list[int], settings: VisibilitySettings) -> Footage | str:
        """Count the pixels of objects by the depth images, see `visibility.watch`; they have 192 x 256 pixels.

        Raises:
            DataError: pose_intrinsic_imu.json is broken.
        """
        nothing = ": what the video shows was not counted"
        if not len(self._mesh.faces):
            return "the mesh has no faces" + nothing
        if not (self._folder / POSES).is_file():
            return f"the recording has no {POSES}{nothing}"
        self._depth = open_depth(self._folder)
        if isinstance(self._depth, str):
            return self._depth + nothing
        self._open.callback(self._depth.close)
        counter = DrawnPixels(self.view, self._mesh, self._owner, instance_ids, settings.depth_tolerance)
        return watch(len(self.numbers), counter, instance_ids, settings, self.pose, self.view)

    def pose(self, place: int) -> NDArray[np.float64] | None:
        """Return camera -> mesh (4, 4) of an exported frame, None where it is not to be used."""
        camera = self._known_cameras().get(self.numbers[place])
        usable = camera is not None and is_valid_pose(camera[0]) and self._is_inside(camera[0])
        return camera[0] if camera is not None and usable else None

    def view(self, place: int) -> View | None:
        """Return pose and depth of an exported frame, None where it has no usable ones."""
        if place not in self._views:
            self._views[place] = self._view(place)
        return self._views[place]

    def _view(self, place: int) -> View | None:
        pose, number = self.pose(place), self.numbers[place]
        if pose is None or self._depth is None or isinstance(self._depth, str):
            return None
        try:
            depth = self._depth.read(number)
        except DataError:
            self._broken_depth += 1
            return None
        if depth is None:
            return None
        scale = depth.shape[1] / _NATIVE_WIDTH
        return View(pose, depth, np.diag([scale, scale, 1.0]) @ self._known_cameras()[number][1])

    def _is_inside(self, pose: NDArray[np.float64]) -> bool:
        low, high = self._mesh.vertices.min(axis=0) - _OUTSIDE, self._mesh.vertices.max(axis=0) + _OUTSIDE
        return bool((pose[:3, 3] >= low).all() and (pose[:3, 3] <= high).all())

    def _known_cameras(self) -> dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        if self._cameras is None:
            self._cameras = read_cameras(self._folder / POSES)
        return self._cameras

    def close(self) -> None:
        """Close the files."""
        self._open.close()


def find_video(folder: Path) -> Path | None:
    """Return the video of iphone/: rgb.* before others, masks never; None where there is none.

    Raises:
        DataError: several, none of them called rgb.
    """
    places = folder.iterdir() if folder.is_dir() else ()
    videos = sorted(path for path in places if path.suffix.lower() in _VIDEO_SUFFIXES and "mask" not in path.stem)
    named = [path for path in videos if path.stem == "rgb"] or videos
    if len(named) > 1:
        raise broken(folder, f"holds {', '.join(path.name for path in named)}", "keep one of them in it: rgb.mkv")
    return named[0] if named else None


def _extracted(folder: Path) -> dict[int, Path]:
    """Return number -> file of the frames in rgb/."""
    found = (path for path in folder.glob("frame_*") if path.suffix.lower() in (".jpg", ".jpeg"))
    return {int(match[1]): path for path in found if (match := _FRAME.fullmatch(path.stem))}


def read_cameras(path: Path) -> dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Read pose_intrinsic_imu.json: number of the frame -> (aligned_pose (4, 4), intrinsic (3, 3)).

    Either is all NaN where an entry lacks it or holds something else.

    Raises:
        DataError: broken JSON, or no entry called frame_000000 and so on.
    """
    found = {}
    for key, entry in read_json_object(path).items():
        if match := _FRAME.fullmatch(key):
            fields = entry if isinstance(entry, Mapping) else {}
            pose, matrix = _matrix(fields.get("aligned_pose"), 4), _matrix(fields.get("intrinsic"), 3)
            found[int(match[1])] = (pose if np.isfinite(matrix).all() else np.full((4, 4), np.nan), matrix)
    if not found:
        raise broken(path, "has no entry frame_000000")
    return found


def _matrix(values: Any, size: int) -> NDArray[np.float64]:
    try:
        matrix = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):  # the last: a whole number of hundreds of digits
        matrix = np.empty(0)
    return matrix if matrix.shape == (size, size) else np.full((size, size), np.nan)
