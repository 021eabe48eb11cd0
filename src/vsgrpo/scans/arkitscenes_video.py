"""The recorded video of an ARKitScenes scan: pictures turned upright, poses, depth, and pixels per object.

The pictures are those of the `.mov`, else of the folder `vga_wide` (30 a second), `wide` (10) or `lowres_wide` (60; 10
in the layout 3dod). The device was often held turned: all pictures of a video are turned as the mean of its poses says,
and matrices and poses with them. Times are the seconds in the files' names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vsgrpo.scans.arkitscenes_pictures import FolderPictures, MovPictures, Timed
from vsgrpo.scans.boxed import BoxedObjects
from vsgrpo.scans.source import Recording, VisibilitySettings, broken, read_text
from vsgrpo.scans.trajectory import TURNS, Floats, Trajectory, turned, turned_matrix, turned_pose
from vsgrpo.scans.visibility import View, watch
from vsgrpo.spatial.scene import Footage
from vsgrpo.video.image import read_uint16

FOLDERS = ("vga_wide", "wide", "lowres_wide")
"""Folders of pictures; the first that holds some is the video."""
_SAME_MOMENT_S = 0.0015
"""Seconds between the names of one moment: they are rounded to 0.001 s, up or down."""
_MAX_APART_S = 0.05
"""Seconds from a picture to the nearest depth image: 60 a second, in 3dod 10 with pictures of the same moments."""
_MAX_LOST = 0.2
"""Share of pictures without a pose from which nothing is said about what the video shows."""
_USE_MESH = "use video.source=mesh or none for it"


@dataclass
class DepthCamera:
    """The depth camera during a video: a `View` for each picture.

    Attributes:
        times: (K,) seconds of the pictures.
        turns: of all pictures.
        images: of depth.
        matrices: `.pincam` files of the small pictures, which come with the depth images, and of the video's pictures.
    """

    times: Floats
    trajectory: Trajectory
    turns: int
    images: Timed
    matrices: tuple[Timed, ...]

    def pose(self, number: int) -> Floats | None:
        """Return the (4, 4) pose of a picture, upright, None where it has none."""
        pose = self.trajectory.pose(self.times[number])
        return None if pose is None else turned_pose(pose, self.turns)

    def depth_at(self, number: int) -> int | None:
        """Return the place of the depth image of a picture, None where none is near."""
        return self.images.nearest(self.times[number], _MAX_APART_S)

    def pincam_of(self, number: int, place: int) -> Path | None:
        """Return the `.pincam` of a depth image's moment, else of its picture's, None where there is neither."""
        moments = (self.images.times[place], self.times[number])
        found = ((files, files.nearest(time, _SAME_MOMENT_S)) for files in self.matrices for time in moments)
        return next((files.paths[at] for files, at in found if at is not None), None)

    def view(self, number: int) -> View | None:
        """Return the view of a picture, turned upright, None where pose, depth or matrix are lacking.

        Raises:
            DataError: a depth image or a matrix is broken.
        """
        place = self.depth_at(number)
        if place is None:
            return None
        pose, pincam = self.trajectory.pose(self.images.times[place]), self.pincam_of(number, place)
        if pose is None or pincam is None:
            return None
        depth = read_uint16(self.images.paths[place]) / np.float32(1000)
        height, width = depth.shape
        matrix = turned_matrix(read_pincam(pincam, width, height), width, height, self.turns)
        return View(turned_pose(pose, self.turns), turned(depth, self.turns), matrix)

    def lacking(self) -> dict[str, int]:
        """Count pictures without a pose, a depth image or a `.pincam` of its moment."""
        found: Counter[str] = Counter()
        for number in range(len(self.times)):
            found["invalid_poses"] += self.pose(number) is None
            place = self.depth_at(number) if self.images.paths else None
            if place is not None:
                found["frames_without_intrinsics"] += self.pincam_of(number, place) is None
            elif self.images.paths:
                found["frames_without_depth"] += 1
        if found["invalid_poses"] > _MAX_LOST * len(self.times):
            found["too_few_poses"] = 1
        return dict(+found)


def read_pincam(path: Path, width: int, height: int) -> Floats:
    """Read a `.pincam`, `width height fx fy cx cy`; return the (3, 3) matrix for pictures of `width` x `height`.

    Raises:
        DataError: not six finite numbers, or none that a camera has.
    """
    try:
        numbers = [float(word) for word in read_text(path).split()]
    except ValueError:
        numbers = []
    if len(numbers) != 6 or not np.isfinite(numbers).all() or min(numbers[:4]) <= 0:
        raise broken(path, "is not `width height fx fy cx cy`")
    own_width, own_height, fx, fy, cx, cy = numbers
    x, y = width / own_width, height / own_height
    return np.array([[x * fx, 0, x * cx], [0, y * fy, y * cy], [0, 0, 1.0]])


class BoxPixels:
    """Pixels of depth images by the box that holds what they show: a counter for `visibility.watch`."""

    def __init__(self, camera: DepthCamera, boxed: BoxedObjects, instance_ids: Sequence[int]) -> None:
        self._camera, self._boxed, self._ids = camera, boxed, np.asarray(instance_ids, dtype=np.int64)
        self.frame_pixels = 0

    def count(self, frame: int) -> NDArray | None:
        """Return the pixels of each object in a picture, (K,), None where its view is not known."""
        view = self._camera.view(frame)
        if view is None:
            return None
        self.frame_pixels = view.depth.size
        owners = self._boxed.owners(world_points(view))
        return np.bincount(owners + 1, minlength=int(self._ids.max(initial=0)) + 2)[self._ids + 1]


def world_points(view: View) -> Floats:
    """Return where in the world the measured pixels of a view are, (N, 3), row by row."""
    y, x = np.nonzero(view.depth)
    depth = view.depth[y, x].astype(np.float64)
    matrix = view.matrix
    camera = np.stack([(x - matrix[0, 2]) / matrix[0, 0], (y - matrix[1, 2]) / matrix[1, 1], np.ones(len(x))], axis=1)
    return (camera * depth[:, None]) @ view.pose[:3, :3].T + view.pose[:3, 3]


class ArkitRecording(Recording):
    """The video of a scan.

    Args:
        scan_id: video id.
        folders: where its files lie, the first that holds one has it.
        boxed: of the scan.
        sky_direction: what metadata.csv says of the pictures, "" where it does not.

    Raises:
        DataError: no pictures, no poses, or a broken file of either.
    """

    def __init__(self, scan_id: str, folders: Sequence[Path], boxed: BoxedObjects, sky_direction: str) -> None:
        places = [place for folder in folders for place in (folder, folder / f"{scan_id}_frames")]
        self._boxed, self._sky = boxed, sky_direction
        traj = _first(places, "lowres_wide.traj")
        if traj is None:
            raise broken(folders[0], "lacks lowres_wide.traj: which side of the pictures is up is not known", _USE_MESH)
        self.trajectory = Trajectory.read(traj)
        self.turns = self.trajectory.turns()
        kinds = {kind: files for kind in FOLDERS if (files := _timed(places, kind, ".png", scan_id)).paths}
        mov = _first(places, f"{scan_id}.mov")
        if mov is None and not kinds:
            what = f"has no video: neither {scan_id}.mov nor pictures in {', '.join(FOLDERS)}"
            raise broken(folders[0], what, _USE_MESH)
        kind = next(iter(kinds), "lowres_wide")
        small = kinds.get("lowres_wide", kinds.get(kind))  # to compare the .mov with: small ones are read faster
        self._pictures = FolderPictures(kinds[kind]) if mov is None else MovPictures(mov, small or Timed(None, ".png"))
        self.fps = self._pictures.fps
        self._depth = _timed(places, "lowres_depth", ".png", scan_id)
        named = dict.fromkeys(("lowres_wide", kind))
        self._matrices = tuple(_timed(places, f"{name}_intrinsics", ".pincam", scan_id) for name in named)

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the pictures, upright."""
        own = self._pictures.turns
        turns = 0 if own is None else own + self.turns
        return (turned(picture, turns) for picture in self._pictures.stored())

    def camera(self) -> DepthCamera | None:
        """Return the depth camera, None where the times of the pictures are not known."""
        times = self._pictures.times
        return None if times is None else DepthCamera(times, self.trajectory, self.turns, self._depth, self._matrices)

    def warnings(self) -> dict[str, int]:
        """Count what is wrong with a recording that can be used all the same.

        `pose_gaps`: more than 0.25 s between two poses. `sky_direction_differs`: metadata.csv names another side than
        the poses, which win. `mov_turn_unchecked`: a .mov without pictures to compare it with. `invalid_poses`,
        `frames_without_depth`, `frames_without_intrinsics`: pictures that lack one; `too_few_poses`: more than 20 % of
        them have no pose.
        """
        camera = self.camera()
        found = Counter(
            pose_gaps=self.trajectory.num_gaps(),
            sky_direction_differs=int(TURNS.get(self._sky.capitalize(), self.turns) != self.turns),
            mov_turn_unchecked=int(not self._pictures.is_checked),
        )
        return {**+found, **({} if camera is None else camera.lacking())}

    def watch(self, instance_ids: list[int], settings: VisibilitySettings) -> Footage | str:
        """Count the pixels of objects by the depth images, see `visibility.watch` and `BoxPixels`.

        Raises:
            DataError: a depth image or a `.pincam` is broken.
        """
        camera = self.camera()
        if camera is None:
            return "the .mov has another length than the pictures beside it: what the video shows was not counted"
        if not self._depth.paths:
            return "the recording has no lowres_depth: what the video shows was not counted"
        counter = BoxPixels(camera, self._boxed, instance_ids)
        return watch(len(camera.times), counter, instance_ids, settings, camera.pose, camera.view)

    def close(self) -> None:
        """Close the .mov."""
        self._pictures.close()


def _first(places: Sequence[Path], name: str) -> Path | None:
    return next((place / name for place in places if (place / name).is_file()), None)


def _timed(places: Sequence[Path], name: str, suffix: str, video: str) -> Timed:
    """Return the files of the first folder of a name that holds some."""
    found = (Timed(place / name, suffix, video) for place in places if (place / name).is_dir())
    return next((files for files in found if files.paths), Timed(None, suffix))
