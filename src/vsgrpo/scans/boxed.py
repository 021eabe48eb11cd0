"""Which object a point in space, or a vertex of a mesh, belongs to where the annotation has boxes alone.

A point belongs to a box if it is in the box grown by `GROWTH` and more than `ABOVE_FLOOR` above the floor; of several
boxes the smallest has it. Boxes are drawn round things by hand and reach down to the floor, which belongs to none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vsgrpo.scans.source import Mesh
from vsgrpo.spatial.scene import SceneObject

GROWTH = 0.02
"""Metres by which a box grows on each side."""
ABOVE_FLOOR = 0.03
"""Metres: what is lower is floor."""


class BoxedObjects:
    """Objects by their boxes.

    Args:
        objects: in any order.
        floor: height of the floor in metres.
    """

    def __init__(self, objects: Sequence[SceneObject], floor: float) -> None:
        self._least = floor + ABOVE_FLOOR
        # The largest first: each smaller one takes its points from those before.
        self._objects = sorted(objects, key=lambda item: (-float(np.prod(item.box.axes_lengths)), item.instance_id))

    def owners(self, points: NDArray[np.floating]) -> NDArray[np.int32]:
        """Return the instance id of each point (N, 3), -1 where no box holds it."""
        owner = np.full(len(points), -1, dtype=np.int32)
        for item, inside in self._members(points):
            owner[inside] = item.instance_id
        return owner

    def vertex_owners(self, mesh: Mesh) -> NDArray[np.int32]:
        """Return (V,) the instance id of each vertex that is a corner of a face inside a box, -1 for the others.

        A face is inside if its three corners are: a wall that a box touches keeps its large faces.
        """
        owner = np.full(len(mesh.vertices), -1, dtype=np.int32)
        for item, inside in self._members(mesh.vertices):
            flags = np.zeros(len(owner), dtype=bool)
            flags[inside] = True
            owner[mesh.faces[flags[mesh.faces].all(axis=1)]] = item.instance_id
        return owner

    def _members(self, points: NDArray[np.floating]) -> list[tuple[SceneObject, NDArray[np.intp]]]:
        """Return per object, the largest box first, the numbers of the points that its box holds."""
        low, high = points.min(axis=0, initial=np.inf), points.max(axis=0, initial=-np.inf)
        found = []
        for item in self._objects:
            box, near = item.box, np.arange(len(points))
            for axis in range(3):  # the box's hull first: most points are elsewhere
                least = max(box.min[axis] - 2 * GROWTH, self._least) if axis == 2 else box.min[axis] - 2 * GROWTH
                most = box.max[axis] + 2 * GROWTH
                if least > low[axis] or most < high[axis]:
                    column = points[near, axis]
                    near = near[(column > least) & (column <= most)]
            local = np.abs((points[near].astype(np.float64) - box.centroid) @ box.axes.T)
            found.append((item, near[(local <= box.axes_lengths / 2 + GROWTH).all(axis=1)]))
        return found
