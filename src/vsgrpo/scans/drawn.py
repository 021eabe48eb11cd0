"""Pixels of objects in a recorded video, by drawing the annotated mesh from each frame's camera.

A pixel belongs to the object of the nearest face there, as a ray through it would say, if the depth image has the face
at about its place. `visibility.Projection` asks the vertices one by one, so it counts those behind the surface, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vsgrpo.scans.source import Mesh
from vsgrpo.scans.visibility import View
from vsgrpo.scans.walk.mesh_video import majority
from vsgrpo.scans.walk.rasterizer import Surface


@dataclass(frozen=True)
class PosedCamera:
    """A pinhole camera of any pose and matrix, for `Surface.draw`.

    Attributes:
        pose: (4, 4) camera (x right, y down, z forward) -> frame of the mesh.
        matrix: (3, 3) or (4, 4), in pixels whose centres are integers.
    """

    pose: NDArray[np.float64]
    matrix: NDArray[np.floating]
    width: int
    height: int
    focal: float = 1.0

    @property
    def eye(self) -> tuple[float, float, float]:
        """Place of the camera."""
        x, y, z = self.pose[:3, 3].tolist()
        return x, y, z

    def axes(self) -> NDArray[np.float64]:
        """Return three ROWS a, b, c: a point p from the eye is at pixel (a.p, b.p) / c.p from the picture's middle."""
        right, down, forward = self.pose[:3, :3].T
        (fx, cx), (fy, cy) = self.matrix[0, [0, 2]], self.matrix[1, [1, 2]]
        across, along = cx - (self.width / 2 - 0.5), cy - (self.height / 2 - 0.5)
        return np.array([fx * right + across * forward, fy * down + along * forward, forward])


class DrawnPixels:
    """A counter for `visibility.watch`.

    Args:
        view: pose and depth of a frame by its index, None where it has no usable ones.
        mesh: in the frame that the poses lead to.
        owner: (V,) the instance id of each vertex, -1 where none.
        tolerance: see `VisibilitySettings.depth_tolerance`.
    """

    def __init__(
        self,
        view: Callable[[int], View | None],
        mesh: Mesh,
        owner: NDArray[np.int32],
        instance_ids: Sequence[int],
        tolerance: float,
    ) -> None:
        self._view, self._ids, self._tolerance = view, np.asarray(instance_ids, dtype=np.int64), tolerance
        self._drawn = Surface(mesh.vertices, mesh.colors, mesh.faces)
        self._owner = majority(owner[mesh.faces])
        self.frame_pixels = 0

    def count(self, frame: int) -> NDArray | None:
        """Return the pixels of each object in a frame, (K,), None where it has no usable pose or depth."""
        view = self._view(frame)
        if view is None:
            return None
        self.frame_pixels = view.depth.size
        height, width = view.depth.shape
        raster = self._drawn.draw(PosedCamera(view.pose, view.matrix, width, height))
        near = (raster.face >= 0) & (view.depth > 0)
        near[near] = np.abs(view.depth[near] - raster.depth[near]) <= self._tolerance * view.depth[near]
        owners = self._owner[raster.face[near]]
        return np.bincount(owners[owners >= 0], minlength=int(self._ids.max(initial=0)) + 1)[self._ids]
