"""Thin a fine mesh by merging the vertices of small cells, for walks and for what a video shows of the surface."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vsgrpo.scans.source import Mesh

_CELLS_PER_SQUARE = 1.5
"""Cells of edge c that a surface of c squared meets, on average over its directions: 1 along the axes, more between."""


def decimate(mesh: Mesh, owner: NDArray[np.int32], num_vertices: int = 300_000) -> tuple[Mesh, NDArray[np.int32]]:
    """Return a mesh of about `num_vertices` vertices and the owner of each; a mesh of no more comes back as it is.

    Vertices of one cubic cell and one owner become their mean, in place and colour, so that the outlines of objects
    stay where they are to within a cell. Faces within a cell go.

    Args:
        owner: (V,) the instance id of each vertex, -1 where none.
    """
    if len(mesh.vertices) <= num_vertices or not len(mesh.faces):
        return mesh, owner
    corners = [mesh.vertices[mesh.faces[:, k]].astype(np.float64) for k in range(3)]
    area = np.linalg.norm(np.cross(corners[1] - corners[0], corners[2] - corners[0]), axis=1).sum() / 2
    edge = max(float(np.sqrt(_CELLS_PER_SQUARE * area / num_vertices)), 1e-4)
    cells = np.floor((mesh.vertices - mesh.vertices.min(axis=0)) / edge).astype(np.int64)
    sides = cells.max(axis=0) + 1
    ids, number = np.unique(owner, return_inverse=True)
    key = ((cells[:, 0] * sides[1] + cells[:, 1]) * sides[2] + cells[:, 2]) * len(ids) + number
    kept, merged, counts = np.unique(key, return_inverse=True, return_counts=True)

    def mean(values: NDArray) -> NDArray[np.float64]:
        columns = [np.bincount(merged, weights=values[:, k], minlength=len(kept)) for k in range(values.shape[1])]
        return np.stack(columns, axis=1) / counts[:, None]

    faces = merged[mesh.faces].astype(np.int32)
    faces = faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)]
    colors = np.rint(mean(mesh.colors)).astype(np.uint8)
    thinned = Mesh(mean(mesh.vertices).astype(np.float32), colors, faces)
    return thinned, ids[kept % len(ids)].astype(np.int32)
