"""Fill pixels where the scan has no surface with a plain room: floor, walls, ceiling.

Black holes read as dark windows or screens, so missing pixels get what a room would show there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from vsgrpo.scans.walk.floor_map import FloorMap
from vsgrpo.scans.walk.rasterizer import Camera, Raster

_TEXEL = 0.1
"""Metres, grain of the floor's colour map."""
_WALLS = ((205, 203, 197), (198, 196, 190))
"""Colours of the walls across x and across y: a slight difference makes corners visible."""
_CEILING = (225, 223, 218)


class RoomShell:
    """A box round the scan, floor coloured after the scan's own floor.

    Args:
        vertices: (V, 3) metres, axis-aligned frame.
        colors: (V, 3) uint8.
        floor_map: of the same scan.
    """

    def __init__(self, vertices: NDArray, colors: NDArray, floor_map: FloorMap) -> None:
        low, high = (np.quantile(vertices, q, axis=0) for q in (0.005, 0.995))
        stand = floor_map.centers(np.argwhere(floor_map.stand))
        # Cameras must be inside, also in front of a glass wall that left no points.
        self.low = np.append(np.minimum(low[:2], stand.min(0)) - 0.1, floor_map.floor)
        self.high = np.append(np.maximum(high[:2], stand.max(0)) + 0.1, max(high[2], floor_map.floor + 2.4))
        self.floor_colors = self._floor_colors(vertices, colors)

    def _floor_colors(self, vertices: NDArray, colors: NDArray) -> NDArray[np.float32]:
        """Return the floor's mean colour per texel (3, R, C), spread from known texels into unknown ones."""
        shape = np.ceil((self.high[:2] - self.low[:2]) / _TEXEL).astype(np.int64) + 1
        near = np.abs(vertices[:, 2] - self.low[2]) < 0.08
        near &= np.all((vertices[:, :2] >= self.low[:2]) & (vertices[:, :2] < self.high[:2]), axis=1)
        if not near.any():
            return np.full((3, *shape), 150, np.float32)
        texel = np.floor((vertices[near, :2] - self.low[:2]) / _TEXEL).astype(np.int64)
        flat = texel[:, 0] * shape[1] + texel[:, 1]
        total = [np.bincount(flat, weights=colors[near, k], minlength=shape.prod()) for k in range(3)]
        count = np.bincount(flat, minlength=shape.prod())
        sums = np.stack([*total, count]).reshape(4, *shape).astype(np.float64)
        # Normalised blur at growing widths: near holes take their rim's colour, far ones the floor's mean.
        spread = sums.copy()
        for sigma, weight in ((1, 1e-2), (3, 1e-4), (8, 1e-6)):
            spread += weight * np.stack([ndimage.gaussian_filter(plane, sigma) for plane in sums])
        spread += 1e-9 * sums.sum((1, 2), keepdims=True) / sums[3].sum()
        return (spread[:3] / spread[3]).astype(np.float32)

    def fill(self, image: NDArray[np.uint8], raster: Raster, camera: Camera) -> None:
        """Colour the pixels of `image` (H, W, 3) that `raster` left empty, in place."""
        pixel = np.flatnonzero(raster.face.reshape(-1) < 0)
        if not len(pixel):
            return
        rays = camera.rays(pixel)
        reach = []
        for axis in range(3):
            wall = np.where(rays[axis] > 0, self.high[axis], self.low[axis]) - camera.eye[axis]
            reach.append(wall / np.where(np.abs(rays[axis]) < 1e-6, np.float32(1e-6), rays[axis]))
        # A ray almost parallel to a wall reaches it at infinity, whatever the sign.
        reach = np.abs(np.stack(reach))
        exit_axis = reach.argmin(0)
        colors = np.array([*_WALLS, _CEILING], np.float32)[exit_axis]
        down = np.flatnonzero((exit_axis == 2) & (rays[2] < 0))
        hit = [camera.eye[k] + rays[k][down] * reach[2][down] for k in range(2)]
        texel = [(hit[k] - self.low[k]) / _TEXEL - 0.5 for k in range(2)]
        for k in range(3):
            colors[down, k] = ndimage.map_coordinates(self.floor_colors[k], texel, order=1, mode="nearest")
        image.reshape(-1, 3)[pixel] = np.clip(colors + 0.5, 0, 255).astype(np.uint8)
