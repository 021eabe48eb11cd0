"""The path of a hand-held camera: a `.traj` of ARKitScenes, its poses at any time, and quarter turns of its pictures.

Camera x right, y down, z forward; pixel centres are integers; N poses. Turns are clockwise, by a quarter each.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vsgrpo.scans.source import broken, read_text

Floats = NDArray[np.float64]
TURNS = {"Up": 0, "Left": 1, "Down": 2, "Right": 3}
"""Side of the stored picture on which the top of the room is -> turns that make it upright."""
_SAME_POSE_S = 0.005
"""Seconds to the nearest pose that count as none. Source: the loader in apple/ARKitScenes."""
_MAX_GAP_S = 0.25
"""Seconds between two poses (10 a second) across which a third is interpolated."""


@dataclass(frozen=True)
class Trajectory:
    """Poses over time: `times` (N,) seconds, ascending, `rotations` (N, 3, 3) camera -> world, `centers` (N, 3)."""

    times: Floats
    rotations: Floats
    centers: Floats

    @classmethod
    def read(cls, path: Path) -> Trajectory:
        """Read a `.traj`: per line time, axis-angle and translation of WORLD -> camera, which are inverted.

        Raises:
            DataError: missing, empty, or a line that is not 7 finite numbers.
        """
        rows = []
        for number, line in enumerate(read_text(path).splitlines(), start=1):
            if not line.strip():
                continue
            try:
                row = [float(word) for word in line.split()]
            except ValueError:
                row = []
            if len(row) != 7 or not np.isfinite(row).all():
                raise broken(path, f"line {number} is not 7 numbers: {line[:60]!r}")
            rows.append(row)
        if not rows:
            raise broken(path, "holds no poses", "use video.source=mesh or none: they need no recording")
        table = np.array(rows)
        table = table[np.unique(table[:, 0], return_index=True)[1]]
        rotations = rotation_matrices(table[:, 1:4]).transpose(0, 2, 1)
        return cls(table[:, 0], rotations, -np.einsum("nij,nj->ni", rotations, table[:, 4:]))

    def pose(self, time: float) -> Floats | None:
        """Return the (4, 4) pose camera -> world at a time, None where none is near.

        The pose within 0.005 s, else between its neighbours, at most 0.25 s apart: turned at constant speed about one
        axis, moved along a line.
        """
        after = int(np.searchsorted(self.times, time))
        around = [k for k in (after - 1, after) if 0 <= k < len(self.times)]
        nearest = min(around, key=lambda k: abs(self.times[k] - time))
        pose = np.eye(4)
        if abs(self.times[nearest] - time) <= _SAME_POSE_S:
            pose[:3, :3], pose[:3, 3] = self.rotations[nearest], self.centers[nearest]
            return pose
        if len(around) < 2 or np.diff(self.times[around])[0] > _MAX_GAP_S:
            return None
        low, high = around
        share = (time - self.times[low]) / (self.times[high] - self.times[low])
        between = rotation_vector(self.rotations[low].T @ self.rotations[high])
        pose[:3, :3] = self.rotations[low] @ rotation_matrices(share * between[None])[0]
        pose[:3, 3] = (1 - share) * self.centers[low] + share * self.centers[high]
        return pose

    def num_gaps(self) -> int:
        """Return how often two poses are too far apart in time for a third between them."""
        return int((np.diff(self.times) > _MAX_GAP_S).sum())

    def turns(self) -> int:
        """Return by how many quarter turns, clockwise, the pictures become upright: where their top is on average."""
        up = self.rotations[:, 2].mean(axis=0)  # world z in the axes of the camera
        return int(np.argmax([-up[1], -up[0], up[1], up[0]]))


def rotation_matrices(vectors: Floats) -> Floats:
    """Return (N, 3, 3) rotations by axis-angle vectors (N, 3) in radians (Rodrigues)."""
    angles = np.linalg.norm(vectors, axis=1)
    x, y, z = (vectors / np.maximum(angles, 1e-300)[:, None]).T
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=1).reshape(-1, 3, 3)
    sine, versine = np.sin(angles)[:, None, None], (1 - np.cos(angles))[:, None, None]
    return np.eye(3) + sine * cross + versine * (cross @ cross)


def rotation_vector(matrix: Floats) -> Floats:
    """Return the axis-angle vector (3,) of a rotation by less than half a turn."""
    sine = np.array([matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]]) / 2
    length = float(np.linalg.norm(sine))
    return sine if length < 1e-12 else sine * (np.arctan2(length, (np.trace(matrix) - 1) / 2) / length)


# --- quarter turns ---


def turned(picture: NDArray[Any], turns: int) -> NDArray[Any]:
    """Return a picture (H, W, ...) turned."""
    return np.ascontiguousarray(np.rot90(picture, -turns))


def turned_matrix(matrix: Floats, width: int, height: int, turns: int) -> Floats:
    """Return the (3, 3) pinhole matrix of a picture of `width` x `height` once it is turned.

    A quarter turn moves pixel (x, y) to (height - 1 - y, x).
    """
    for _ in range(turns % 4):
        (fx, cx), (fy, cy) = (matrix[0, 0], matrix[0, 2]), (matrix[1, 1], matrix[1, 2])
        matrix = np.array([[fy, 0, height - 1 - cy], [0, fx, cx], [0, 0, 1.0]])
        width, height = height, width
    return matrix


def turned_pose(pose: Floats, turns: int) -> Floats:
    """Return the (4, 4) pose camera -> world of the camera whose picture is turned: its axes turn with it."""
    quarter = np.array([[0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])  # new x = -y, new y = x; transposed
    return pose @ np.linalg.matrix_power(quarter, turns % 4)
