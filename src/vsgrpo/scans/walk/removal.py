"""A filmed walk without one of its objects: its faces are taken out of the mesh, the same cameras film again.

Frames that never show the object stay as they are, byte for byte, and so do all pixels that did not show it or the
shards around it. Behind an object a scan mostly has no surface: pixels that are left empty are filled from their rim.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vsgrpo.scans.walk.mesh_video import Walk
from vsgrpo.scans.walk.rasterizer import Surface

RINGS = 2
"""Vertices of no annotated instance so many faces away from the object go with it: shards of its own surface."""


@dataclass(frozen=True)
class EditedWalk:
    """A walk without one object.

    Attributes:
        frames: (T, H, W, 3) uint8.
        pixels: instance id -> pixels in each frame; of the object 0.
        edited: numbers of the frames that differ from the walk's: those that showed the object.
    """

    frames: NDArray[np.uint8]
    pixels: dict[int, tuple[int, ...]]
    edited: tuple[int, ...]


def remove_object(walk: Walk, annotated: NDArray[np.integer], instance_id: int) -> EditedWalk:
    """Return the walk as if the object had not been in the scan; 0.1 s for each frame that shows it.

    Args:
        annotated: (V,) instance of each vertex of the scan's mesh, structure such as walls included, -1 for none.
    """
    stage = walk.stage
    dropped = faces_of(stage.faces, np.asarray(annotated)[stage.used] == instance_id, annotated[stage.used] < 0)
    kept = np.flatnonzero(~dropped)
    surface = Surface(stage.surface.xyz.T, stage.surface.colors, stage.faces[kept])
    frames = walk.frames.copy()
    counts = {i: list(row) for i, row in walk.pixels.items()}
    shown = tuple(k for k, number in enumerate(walk.pixels[instance_id]) if number)
    for number in shown:
        camera = walk.cameras[number]
        before, after = stage.surface.draw(camera), surface.draw(camera)
        gone = (before.face >= 0) & dropped[before.face]
        picture = surface.shade(after, camera)
        stage.shell.fill(picture, after, camera)
        frames[number][gone] = picture[gone]
        fill_from_rim(frames[number], gone & (after.face < 0))
        owner = stage.object_of_face[kept[after.face[after.face >= 0]]]
        found = np.bincount(owner[owner >= 0], minlength=len(stage.ids))
        for place, item in enumerate(stage.ids.tolist()):
            counts[item][number] = int(found[place])
    counts[instance_id] = [0] * len(frames)
    return EditedWalk(frames, {i: tuple(row) for i, row in counts.items()}, shown)


def faces_of(faces: NDArray, owned: NDArray[np.bool_], free: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which faces (F, 3) go with an object: all that touch it, and those of vertices of nobody near it.

    Args:
        owned, free: (V,) which vertices are the object's, and which are of no annotated instance.
    """
    near = owned.copy()
    for _ in range(RINGS):
        touched = np.any(near[faces], axis=1)
        around = np.zeros(len(near), dtype=bool)
        around[faces[touched]] = True
        near |= around & free
    return np.any(owned[faces], axis=1) | np.all(near[faces], axis=1)


def fill_from_rim(image: NDArray[np.uint8], empty: NDArray[np.bool_]) -> None:
    """Fill the `empty` pixels of an image (H, W, 3), in place, with colours that spread from the pixels around them.

    Push-pull: means of known pixels over squares of growing size, the smallest that knows any counts.
    """
    if not empty.any() or empty.all():
        return
    known = ~empty
    levels = [(image * known[..., None].astype(np.float32), known.astype(np.float32))]
    while max(levels[-1][1].shape) > 1:
        levels.append((_halved(levels[-1][0]), _halved(levels[-1][1])))
    colour: NDArray[np.floating] = levels[-1][0] / np.maximum(levels[-1][1], 1e-6)[..., None]
    for total, weight in reversed(levels[:-1]):
        height, width = weight.shape
        coarse = _doubled(colour)[:height, :width]
        share = np.minimum(weight, 1.0)[..., None]
        own = total / np.maximum(weight, 1e-6)[..., None]
        colour = share * own + (1 - share) * coarse
    image[empty] = np.clip(colour[empty] + 0.5, 0, 255).astype(np.uint8)


def _halved(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the sums of 2 x 2 cells; an odd last row or column counts as a half-empty cell."""
    pads = [(0, values.shape[0] % 2), (0, values.shape[1] % 2), *[(0, 0)] * (values.ndim - 2)]
    padded = np.pad(values, pads)
    return padded[::2, ::2] + padded[1::2, ::2] + padded[::2, 1::2] + padded[1::2, 1::2]


def _doubled(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the cells twice as fine, bilinear: each pixel is 3/4 its own cell and 1/4 the one next to it, each way."""
    for axis in (0, 1):
        padded = np.concatenate([values.take([0], axis), values, values.take([-1], axis)], axis)
        size = values.shape[axis]
        before, after = padded.take(range(size), axis), padded.take(range(2, size + 2), axis)
        pair = np.stack([0.75 * values + 0.25 * before, 0.75 * values + 0.25 * after], axis=axis + 1)
        values = pair.reshape(*values.shape[:axis], 2 * size, *values.shape[axis + 1 :])
    return values
