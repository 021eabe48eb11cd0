"""Render a walk through a scan from its coloured mesh alone: frames, poses and exact pixels per object.

A second source of video beside the recorded one (ScanNet's .sens files are 1.3 TB, its meshes a few GB). It is not the
paper's data and looks different (no motion blur, colour at 5 cm grain), so a dataset made this way says `mesh` in its
manifest.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from vsgrpo.errors import DataError
from vsgrpo.scans.source import Mesh
from vsgrpo.scans.walk import camera_plan
from vsgrpo.scans.walk.camera_plan import film_order, num_key_views
from vsgrpo.scans.walk.floor_map import FloorMap, eye_height, map_floor, vertical_fov_degrees, walk_pitch_degrees
from vsgrpo.scans.walk.rasterizer import Camera, Raster, Surface
from vsgrpo.spatial.sight import reach_of
from vsgrpo.terminal import counted

_HFOV_DEGREES = 75.0
_EYE_HEIGHT = 1.5
"""Metres above the floor; lower in scans that end low."""
_PLANNING_CELL = 0.06
_VOXEL = 0.5
"""Metres: edge of the voxels that cut the surface into pieces to be seen."""

_TEXEL = 0.1
"""Metres, grain of the floor's colour map."""
_WALLS = ((205, 203, 197), (198, 196, 190))
"""Colours of the walls across x and across y: a slight difference makes corners visible."""
_CEILING = (225, 223, 218)


@dataclass(frozen=True)
class WalkSettings:
    """How a walk is filmed.

    Attributes:
        num_frames: odd is best: 31 = 16 key views at even indices and 15 half-way views, so that a loader that takes 16
            frames gets exactly the key views.
        width, height: pixels.
        min_pixels: an object counts as seen in a frame from here on; scaled with the frame's area against 448x336.
    """

    num_frames: int = 31
    width: int = 448
    height: int = 336
    min_pixels: int = 200

    def __post_init__(self) -> None:
        for name, least in (("num_frames", 1), ("width", 16), ("height", 16), ("min_pixels", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least {least}")

    @property
    def scaled_min_pixels(self) -> int:
        """`min_pixels` for the wanted frame size."""
        return max(round(self.min_pixels * self.width * self.height / (448 * 336)), 1)


@dataclass(frozen=True)
class Stage:
    """What a walk was filmed from, to film it again with changes.

    Attributes:
        surface, shell: what the cameras see.
        faces: (F, 3) of the surface.
        object_of_face: (F,) place in `ids`, -1 for none.
        ids: instance ids, sorted.
        used: vertices of the mesh that the surface's are.
    """

    surface: Surface
    shell: RoomShell
    faces: NDArray[np.integer]
    object_of_face: NDArray[np.integer]
    ids: NDArray[np.integer]
    used: NDArray[np.intp]


@dataclass(frozen=True)
class Walk:
    """A filmed walk of T frames.

    Attributes:
        frames: (T, H, W, 3) uint8.
        cameras: of each frame.
        pixels: instance id -> pixels of it in each frame; instances never seen are there too, with zeros; empty where
            the scan has no annotation.
        reach: how far each frame sees over the floor plan (`spatial.sight.reach_of`).
        notes: what was missing in the scan and how it was made up for.
        stage: what was filmed.
    """

    frames: NDArray[np.uint8]
    cameras: list[Camera]
    pixels: dict[int, tuple[int, ...]]
    reach: tuple[NDArray[np.float32], ...]
    notes: tuple[str, ...]
    stage: Stage


def render_walk(mesh: Mesh, instance_of_vertex: NDArray, settings: WalkSettings) -> Walk:
    """Plan and film a walk through a scan; deterministic.

    Args:
        mesh: in the axis-aligned frame, z up.
        instance_of_vertex: (V,) int instance ids, -1 for none and for structure (wall, floor, ceiling). All -1: the
            walk is planned on 0.5 m pieces of surface instead.

    Raises:
        DataError: no usable faces, or nowhere for a camera to stand.
    """
    mesh, used, notes = _checked(mesh, instance_of_vertex)
    instances = np.asarray(instance_of_vertex, np.int64)[used]
    floor_map = map_floor(mesh.vertices, mesh.faces)
    surface = Surface(mesh.vertices, mesh.colors, mesh.faces)
    ids = np.unique(instance_of_vertex[instance_of_vertex >= 0])
    numbers = np.where(instances >= 0, np.searchsorted(ids, instances), -1)
    object_of_face = majority(numbers[mesh.faces])
    cameras = plan_walk(mesh, numbers, len(ids), floor_map, settings)
    shell = RoomShell(mesh, floor_map)
    frames = np.empty((len(cameras), settings.height, settings.width, 3), np.uint8)
    counts = np.zeros((len(ids), len(cameras)), np.int64)
    reach = []
    for number, camera in enumerate(cameras):
        raster = surface.draw(camera)
        frames[number] = surface.shade(raster, camera)
        shell.fill(frames[number], raster, camera)
        shown = raster.face[raster.face >= 0]
        owner = object_of_face[shown]
        counts[:, number] = np.bincount(owner[owner >= 0], minlength=len(ids))
        reach.append(reach_of(np.where(raster.face < 0, 0, raster.depth), camera.matrix(), camera.pose()))
    pixels = {int(i): tuple(row) for i, row in zip(ids, counts.tolist(), strict=True)}
    stage = Stage(surface, shell, mesh.faces, object_of_face, ids, used)
    return Walk(frames, cameras, pixels, tuple(reach), (*notes, *floor_map.notes), stage)


def plan_walk(
    mesh: Mesh, object_of_vertex: NDArray, num_objects: int, floor_map: FloorMap, settings: WalkSettings
) -> list[Camera]:
    """Return the cameras of a walk in filming order.

    Args:
        object_of_vertex: (V,) int, 0..num_objects-1, -1 for none.
    """
    eye, top = eye_height(mesh.vertices, floor_map.floor, _EYE_HEIGHT)
    vfov = vertical_fov_degrees(_HFOV_DEGREES, settings.width, settings.height)
    pitch = walk_pitch_degrees(eye, top, vfov)
    camera = Camera((0.0, 0.0, floor_map.floor + eye), 0.0, pitch, settings.width, settings.height, _HFOV_DEGREES)
    coarse, kept = _coarsen(mesh.vertices, mesh.faces, object_of_vertex)
    faces = mesh.faces[kept]
    object_of_face = majority(object_of_vertex[faces])
    targets = camera_plan.make_targets(object_of_face, num_objects, _surface_pieces(mesh.vertices, faces))
    candidates = camera_plan.candidate_views(floor_map, camera)
    sightings = camera_plan.look(coarse, targets, candidates)
    number = num_key_views(settings.num_frames)
    chosen = camera_plan.choose_views(sightings, targets.weights, number, settings.scaled_min_pixels)
    cost_of = partial(camera_plan.view_cost, coarse, targets)
    return film_order([candidates[k] for k in chosen], floor_map, settings.num_frames, cost_of)


def _coarsen(vertices: NDArray, faces: NDArray, object_of_vertex: NDArray) -> tuple[Surface, NDArray[np.intp]]:
    """Merge the vertices of each object within 6 cm voxels; return the uncoloured rest and which faces it kept.

    Planning draws many small pictures: this saves a third of it on a scan of 150k faces, most of it on finer ones, and
    the pixel counts stay within a tenth.
    """
    voxel = _voxel_of(vertices, _PLANNING_CELL)
    _, merged = np.unique(voxel * (int(object_of_vertex.max()) + 2) + object_of_vertex + 1, return_inverse=True)
    count = np.bincount(merged)
    middle = np.stack([np.bincount(merged, weights=vertices[:, axis]) / count for axis in range(3)], axis=1)
    corners = merged[faces]
    kept = np.flatnonzero(np.all(corners != np.roll(corners, 1, axis=1), axis=1))
    if not len(kept):
        # A mesh finer than the voxels as a whole: nothing would be left to see.
        kept, middle, corners = np.arange(len(faces)), vertices, faces
    return Surface(middle, np.zeros((len(middle), 3), np.uint8), corners[kept]), kept


def _checked(mesh: Mesh, instance_of_vertex: NDArray) -> tuple[Mesh, NDArray[np.intp], list[str]]:
    """Refuse what cannot be drawn; return the mesh without broken faces and unused vertices, and which it kept."""
    vertices, colors, faces = mesh.vertices, mesh.colors, np.asarray(mesh.faces, np.int64)
    if not len(vertices) or not len(faces):
        raise DataError(
            f"mesh has {len(vertices)} vertices and {len(faces)} faces: nothing to draw",
            hint="use the scan's mesh with faces (*_vh_clean_2.ply), or video.source=recorded",
        )
    if len(colors) != len(vertices) or len(instance_of_vertex) != len(vertices):
        raise ValueError(
            f"{len(vertices)} vertices, {len(colors)} colors, {len(instance_of_vertex)} instances: must be equal"
        )
    notes = []
    good = np.all((faces >= 0) & (faces < len(vertices)), axis=1)
    finite = np.all(np.isfinite(vertices) & (np.abs(vertices) < 1e4), axis=1)
    good[good] = np.all(finite[faces[good]], axis=1)
    if not good.all():
        notes.append(f"{int((~good).sum())} of {counted(len(good), 'face')} dropped: vertex missing or not finite")
    if not good.any():
        raise DataError("mesh has no face with finite vertices: nothing to draw", hint="the mesh file is broken")
    faces = faces[good]
    used = np.zeros(len(vertices), bool)
    used[faces] = True
    faces = (np.cumsum(used) - 1)[faces]
    kept = np.flatnonzero(used)
    return Mesh(vertices[kept].astype(np.float32), colors[kept].astype(np.uint8), faces), kept, notes


def majority(ids: NDArray) -> NDArray:
    """Return per row (N, 3) the id that occurs twice or more, else the first."""
    return np.where(ids[:, 1] == ids[:, 2], ids[:, 1], ids[:, 0])


def _surface_pieces(vertices: NDArray, faces: NDArray) -> NDArray[np.int64]:
    """Return per face the number of the 0.5 m voxel that holds its middle."""
    middle = (vertices[faces[:, 0]] + vertices[faces[:, 1]] + vertices[faces[:, 2]]) / 3
    return np.unique(_voxel_of(middle, _VOXEL), return_inverse=True)[1]


def _voxel_of(points: NDArray, edge: float) -> NDArray[np.int64]:
    """Return per point (N, 3) the number of the voxel that holds it."""
    cell = np.floor((points - points.min(0)) / edge).astype(np.int64)
    size = cell.max(0) + 1
    return (cell[:, 0] * size[1] + cell[:, 1]) * size[2] + cell[:, 2]


# --- pixels where the scan has no surface ---


class RoomShell:
    """A plain room round the scan, its floor coloured after the scan's own floor: it fills the pixels that see nothing.

    Black holes read as dark windows or screens, so missing pixels get what a room would show there.

    Args:
        mesh: in the axis-aligned frame.
        floor_map: of the same scan.
    """

    def __init__(self, mesh: Mesh, floor_map: FloorMap) -> None:
        low, high = (np.quantile(mesh.vertices, q, axis=0) for q in (0.005, 0.995))
        stand = floor_map.centers(np.argwhere(floor_map.stand))
        # Cameras must be inside, also in front of a glass wall that left no points.
        self.low = np.append(np.minimum(low[:2], stand.min(0)) - 0.1, floor_map.floor)
        self.high = np.append(np.maximum(high[:2], stand.max(0)) + 0.1, max(high[2], floor_map.floor + 2.4))
        self.floor_colors = self._floor_colors(mesh.vertices, mesh.colors)

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
